"""Model repositories: what Triton and MLServer read, written whole or not at all."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest
from helpers import MODELS
from onnx import TensorProto, helper, parser

import onnxjvp
from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.runtime import Session
from onnxjvp.serving import triton
from onnxjvp.serving.limits import Limits
from onnxjvp.serving.repository import package

CNN = MODELS / "digits_cnn.onnx"


def parsed(text: str) -> Any:
    """The message that Triton's own schema reads; None where tritonclient is not installed."""
    try:
        schema = importlib.import_module("tritonclient.grpc.model_config_pb2")
    except ImportError:
        return None
    text_format = importlib.import_module("google.protobuf.text_format")
    return text_format.Parse(text, schema.ModelConfig())


def written(tmp_path: Path, model: onnx.ModelProto, **options: Any) -> str:
    """The config.pbtxt of a model."""
    onnx.save(model, tmp_path / "m.onnx")
    package(tmp_path / "m.onnx", triton_repository=tmp_path / "t", **options)
    return (tmp_path / "t" / "m" / "config.pbtxt").read_text(encoding="utf-8")


def ends(text: str, role: str) -> list[tuple[str, str, list[int]]]:
    """(name, type, dims) of each input or output; nothing else may be in it but a reshape."""
    blocks = re.findall(rf"^{role} \{{\n(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
    found = []
    for block in blocks:
        match = re.fullmatch(
            r'  name: "(.*)"\n  data_type: (TYPE_\w+)\n  dims: \[ (.*) \]\n'
            r"(?:  reshape \{ shape: \[ \] \}\n)?",
            block,
        )
        assert match is not None, block
        found.append((match[1], match[2], [int(n) for n in match[3].split(",")]))
    return found


def test_a_product_in_inputs_is_batched(tmp_path: Path) -> None:
    made = onnxjvp.vjp(CNN).save(tmp_path / "vjp.onnx")
    report = package(made, triton_repository=tmp_path / "t", name="digits", version=3)
    assert report.max_batch == 32
    folder = tmp_path / "t" / "digits"
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {
        "config.pbtxt",
        "3/model.onnx",
    }
    assert (folder / "3" / "model.onnx").read_bytes() == made.read_bytes()
    text = (folder / "config.pbtxt").read_text()
    assert ends(text, "input") == [
        ("image", "TYPE_FP32", [1, 8, 8]),
        ("logits_ct", "TYPE_FP32", [10]),
    ]
    assert ends(text, "output") == [
        ("logits", "TYPE_FP32", [10]),
        ("image_vjp", "TYPE_FP32", [1, 8, 8]),
    ]
    for line in ("max_batch_size: 32", "dynamic_batching {", "versions: [ 3 ]", "REJECT"):
        assert line in text
    assert list(tmp_path.glob("t/.*")) == []  # nothing temporary is left
    config = parsed(text)
    if config is not None:
        assert (config.name, config.max_batch_size, len(config.input)) == ("digits", 32, 2)
        assert config.HasField("dynamic_batching")


UNBATCHED = {
    "a direction in a weight": lambda: onnxjvp.jvp(CNN, ["head.5.bias"]),
    "K directions": lambda: onnxjvp.jvp(CNN, directions="K"),
    "gradients of weights": lambda: onnxjvp.vjp(CNN, ["params"]),
    "a loss": lambda: onnxjvp.grad(CNN, loss="squared_norm"),
}


@pytest.mark.parametrize("form", UNBATCHED)
def test_what_adds_up_over_the_batch_is_never_batched(form: str, tmp_path: Path) -> None:
    made = UNBATCHED[form]()
    text = written(tmp_path, made.proto())
    assert "max_batch_size: 0\n" in text
    assert "dynamic_batching" not in text
    assert "requests are not joined: " in text
    found = {name: dims for name, _, dims in (*ends(text, "input"), *ends(text, "output"))}
    for value in (*made.model.graph.inputs, *made.model.graph.outputs):
        sizes = [d if isinstance(d, int) else -1 for d in value.shape or ()]
        assert found[value.name or ""] == (sizes or [1])
    config = parsed(text)
    if config is not None:
        assert config.max_batch_size == 0
        assert not config.HasField("dynamic_batching")
        scalars = [o for o in config.output if o.HasField("reshape")]
        assert [o.name for o in scalars] == (["loss"] if form == "a loss" else [])


def test_batching_can_be_declined(tmp_path: Path) -> None:
    options = triton.Options(max_batch=0, instances=2, threads=4, gpu=True)
    text = written(tmp_path, onnx.load(CNN), options=options)
    assert "max_batch_size: 0\n" in text
    assert "instance_group { count: 2 kind: KIND_GPU }" in text
    assert 'key: "intra_op_thread_count" value { string_value: "4" }' in text
    parsed(text)


#: every element type of ONNX that the schema of Triton's onnxruntime backend has
TYPES = {
    **{"BOOL": "BOOL", "FLOAT16": "FP16", "FLOAT": "FP32", "DOUBLE": "FP64", "STRING": "STRING"},
    **{f"{u}INT{n}": f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)},
}


def identity(kind: str, name: str = "x") -> onnx.ModelProto:
    x, y = (
        helper.make_tensor_value_info(n, getattr(TensorProto, kind), ["N"]) for n in (name, "y")
    )
    node = helper.make_node("Identity", [name], ["y"])
    graph = helper.make_graph([node], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_all_types_and_a_number_per_sample(tmp_path: Path) -> None:
    for kind, name in TYPES.items():
        text = written(tmp_path, identity(kind), force=True)
        # a number per sample: dims must not be empty
        assert ends(text, "input") == [("x", f"TYPE_{name}", [1])]
        assert text.count("reshape { shape: [ ] }") == 2
        config = parsed(text)
        if config is not None:
            assert list(config.input[0].reshape.shape) == []


@pytest.mark.parametrize("kind", ["BFLOAT16", "FLOAT8E4M3FN", "COMPLEX64"])
def test_types_that_servers_lack_are_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match=r"input 'x'.*output 'y'.*Cast|input 'x'"):
        written(tmp_path, identity(kind))
    assert not (tmp_path / "t").exists()


def test_names_are_escaped(tmp_path: Path) -> None:
    name = 'a "b\\ü'
    text = written(tmp_path, identity("FLOAT", name))
    assert r'name: "a \"b\\\303\274"' in text
    config = parsed(text)
    if config is not None:
        assert config.input[0].name == name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a b", "ü", "a\n", "x" * 129])
def test_names_of_models_that_are_no_folders(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a served model"):
        package(CNN, triton_repository=tmp_path / "t", name=name)
    assert not (tmp_path / "t").exists()


def test_an_unprintable_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="rename it"):
        written(tmp_path, identity("FLOAT", "a\nb"))


def test_a_size_of_0_is_refused(tmp_path: Path) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 0] x) => (float[N, 0] y) '
        "{ y = Identity(x) }"
    )
    with pytest.raises(InvalidModelError, match="size of 0"):
        written(tmp_path, model)


def test_external_data_goes_along(tmp_path: Path) -> None:
    model = ir.load(CNN)
    (tmp_path / "from").mkdir()
    ir.save(model, tmp_path / "from" / "m.onnx", external_data="w.data", size_threshold_bytes=0)
    roots = {"triton_repository": tmp_path / "t", "mlserver_repository": tmp_path / "s"}
    package(tmp_path / "from" / "m.onnx", **roots)
    for folder in (tmp_path / "t" / "m" / "1", tmp_path / "s" / "m"):
        original = (tmp_path / "from" / "w.data").read_bytes()
        assert (folder / "w.data").read_bytes() == original
        assert Session(folder / "model.onnx").inputs[0].name == "image"


def test_mlserver_is_told_ends_and_limits(tmp_path: Path) -> None:
    limits = Limits(output_bytes=1000, dims={"batch": 8}, seconds=2.5)
    package(CNN, mlserver_repository=tmp_path, limits=limits, version=2)
    found = json.loads((tmp_path / "digits_cnn" / "model-settings.json").read_text())
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert found["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}]
    assert found["implementation"] == "onnxjvp.serving.mlserver.OnnxModel"
    assert found["parameters"]["version"] == "2"
    assert Limits.read(found["parameters"]["extra"]) == limits
    server = json.loads((tmp_path / "settings.json").read_text())
    assert (server["host"], server["parallel_workers"]) == ("127.0.0.1", 0)


def test_settings_of_the_repository_stay(tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text('{"http_port": 9}')
    package(CNN, mlserver_repository=tmp_path)
    assert (tmp_path / "settings.json").read_text() == '{"http_port": 9}'


def test_a_limit_of_no_dimension(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'K'.*'batch'"):
        package(CNN, mlserver_repository=tmp_path / "s", limits=Limits(dims={"K": 8}))
    assert not (tmp_path / "s").exists()


def test_existing_folders_are_replaced_whole_or_not(tmp_path: Path) -> None:
    folder = tmp_path / "t" / "digits_cnn"
    package(CNN, triton_repository=tmp_path / "t")
    (folder / "note").write_text("mine")
    with pytest.raises(UsageError, match="exists; pass --force"):
        package(CNN, triton_repository=tmp_path / "t")
    assert (folder / "note").exists()
    package(CNN, triton_repository=tmp_path / "t", force=True)
    assert sorted(p.name for p in folder.iterdir()) == ["1", "config.pbtxt"]


def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two folders cannot be put in its place: the first is as before."""
    roots = {"triton_repository": tmp_path / "t", "mlserver_repository": tmp_path / "new" / "s"}
    package(CNN, triton_repository=tmp_path / "t")
    (tmp_path / "t" / "digits_cnn" / "note").write_text("mine")
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new" and "s" in self.parts:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(UsageError, match="cannot be written: No space left"):
        package(CNN, **roots, force=True)
    assert (tmp_path / "t" / "digits_cnn" / "note").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t"]
    assert [p.name for p in (tmp_path / "t").iterdir()] == ["digits_cnn"]


def test_the_schema_of_triton_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc", reason='needs pip install "tritonclient[grpc]"')
    config = parsed(written(tmp_path, onnx.load(CNN)))
    assert (config.platform, config.backend) == ("onnxruntime_onnx", "onnxruntime")
    assert config.parameters["intra_op_thread_count"].string_value == "0"
    policy = config.dynamic_batching.default_queue_policy
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (256, 5_000_000)
    assert list(config.version_policy.specific.versions) == [1]


def test_two_servers_need_two_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same folder"):
        package(CNN, triton_repository=tmp_path, mlserver_repository=tmp_path)
    with pytest.raises(UsageError, match="nothing is written"):
        package(CNN)
