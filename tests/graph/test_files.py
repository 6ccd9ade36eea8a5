"""Loading and saving: what is refused, what is shared, and that nothing is left half-written."""

import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxjvp.graph.save as saving
from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.graph.load import load
from onnxjvp.graph.opset import FLOOR, opset_of
from onnxjvp.runtime import Session

MODELS = Path(__file__).parents[2] / "models"


def mlp(width: int = 64) -> onnx.ModelProto:
    weight = np.random.default_rng(0).standard_normal((width, width)).astype(np.float32)
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["": 18]> g (float[N,{width}] x) => (float[N,{width}] y) '
        "{ h = MatMul(x, w) y = Relu(h) }"
    )
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return model


@pytest.fixture
def external(tmp_path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    path = folder / "mlp.onnx"
    onnx.save(mlp(), path, save_as_external_data=True, location="mlp.data", size_threshold=0)
    return path


def outputs_of(path) -> np.ndarray:
    return Session(path).run({"x": np.ones((2, 64), np.float32)})["y"]


def test_old_opsets_are_raised_and_the_weights_are_the_same_objects():
    original = ir.load(MODELS / "digits_cnn.onnx")
    before = {n: v.const_value for n, v in original.graph.initializers.items()}
    source = load(original)
    assert opset_of(original) == 13
    assert (opset_of(source.model), source.raised_from) == (FLOOR, 13)
    large = [n for n, t in before.items() if t.nbytes > 1024]
    assert large
    assert all(source.graph.initializers[n].const_value is before[n] for n in large)


def test_opsets_that_cannot_be_written():
    with pytest.raises(UsageError, match="at least 18"):
        load(mlp(), opset=17)
    with pytest.raises(UsageError, match="knows opsets up"):
        load(mlp(), opset=999)
    assert opset_of(load(mlp(), opset=20).model) == 20


def test_external_data_is_not_read(external):
    tensor = load(external).graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor._array is None


def test_external_data_of_the_same_folder_is_referred_to(external):
    source = load(external)
    out = saving.save(source.model, external.parent / "copy.onnx")
    assert out.stat().st_size < 2000
    names = sorted(p.name for p in external.parent.iterdir())
    assert names == ["copy.onnx", "mlp.data", "mlp.onnx"]
    np.testing.assert_array_equal(outputs_of(out), outputs_of(external))


def test_external_data_of_another_folder_is_copied(external, tmp_path):
    out = saving.save(load(external).model, tmp_path / "copy.onnx")
    np.testing.assert_array_equal(outputs_of(out), outputs_of(external))
    names = {p.name for p in tmp_path.iterdir() if p.is_file()}
    assert names == {"copy.onnx", "copy.onnx.data"}


def test_weights_beyond_the_limit_of_a_file_go_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "INLINE_LIMIT", 1000)
    model = load(mlp()).model
    out = saving.save(model, tmp_path / "big.onnx")
    assert (tmp_path / "big.onnx.data").stat().st_size >= 64 * 64 * 4
    assert out.stat().st_size < 2000
    assert not isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "out.onnx"
    target.write_bytes(b"old")

    def fail(model, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving, "stream", fail)
    with pytest.raises(UsageError, match="No space left"):
        saving.save(load(mlp()).model, target)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("location", ["../mlp.data", "/etc/hostname", "a/../../mlp.data"])
def test_external_data_outside_the_folder_is_refused(external, location):
    model = onnx.load(external, load_external_data=False)
    entry = next(e for e in model.graph.initializer[0].external_data if e.key == "location")
    entry.value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(InvalidModelError, match="outside the model's folder"):
        load(external)


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_links_are_followed_only_into_the_folder_that_is_named(external, tmp_path, link):
    expected = outputs_of(external)
    cache = tmp_path / "cache"
    cache.mkdir()
    data = external.parent / "mlp.data"
    data.rename(cache / "blob")
    link(cache / "blob", data)
    with pytest.raises(InvalidModelError, match="is a link"):
        load(external)
    with pytest.raises(InvalidModelError, match="is a link"):
        load(external, links=tmp_path / "elsewhere")
    # a hard link lies where it stands, a symbolic one where it leads
    root = cache if link is os.symlink else external.parent
    out = saving.save(load(external, links=root).model, tmp_path / "out.onnx")
    np.testing.assert_array_equal(outputs_of(out), expected)


def test_damaged_tensors_are_refused(external):
    model = mlp()
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-4]
    with pytest.raises(InvalidModelError, match="'w' is damaged"):
        load(model)
    data = external.parent / "mlp.data"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(InvalidModelError, match="truncated or belongs to another model"):
        load(external)


def test_what_the_caller_gave_is_not_changed():
    proto = onnx.load(MODELS / "digits_cnn.onnx")
    before = proto.SerializeToString(deterministic=True)
    load(proto)
    assert proto.SerializeToString(deterministic=True) == before
    model = ir.from_proto(proto)
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    load(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_a_streamed_file_is_what_the_library_would_write(tmp_path):
    model = load(MODELS / "digits_unet.onnx").model
    large = np.arange(5000, dtype=np.float64)
    model.graph.register_initializer(
        ir.Value(
            name="renamed",
            shape=ir.Shape(large.shape),
            type=ir.TensorType(ir.DataType.DOUBLE),
            const_value=ir.Tensor(large, name="another name"),
        )
    )
    path = saving.save(model, tmp_path / "m.onnx")
    written, expected = onnx.load(path), ir.to_proto(model)
    for proto in (written, expected):
        proto.graph.initializer.sort(key=lambda t: t.name)
    assert len(written.graph.initializer) == len(expected.graph.initializer)
    for found, wanted in zip(written.graph.initializer, expected.graph.initializer, strict=True):
        assert found.name == wanted.name
        np.testing.assert_array_equal(
            onnx.numpy_helper.to_array(found), onnx.numpy_helper.to_array(wanted)
        )
    for proto in (written, expected):
        del proto.graph.initializer[:], proto.graph.value_info[:]
    assert written == expected


def test_external_data_of_a_model_without_a_folder_is_refused(external):
    proto = onnx.load(external, load_external_data=False)
    for model in (proto, external.read_bytes()):
        with pytest.raises(InvalidModelError, match="do not say in which folder"):
            load(model)
