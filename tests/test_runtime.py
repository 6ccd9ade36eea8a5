"""Sessions: every kind of model, providers, checks of what is fed, random inputs."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import parser

from onnxjvp.errors import InputError, InvalidModelError, MissingDependencyError, UsageError
from onnxjvp.runtime import Session, TensorSpec, check_feeds, random_feeds, session

ADD = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 18]>'
    "g (float[N, 3] x, float[N, 3] z) => (float[N, 3] y, float[N, 3] d)"
    "<float[3] w = {1.0, 2.0, 3.0}>"
    "{s = Add(x, z)  y = Add(s, w)  d = Sub(x, z)}"
)
X, Z = np.ones((2, 3), np.float32), np.full((2, 3), 2, np.float32)
FEEDS = {"x": X, "z": Z}


def _as_path(tmp_path: Any) -> str:
    onnx.save(ADD, tmp_path / "m.onnx")
    return str(tmp_path / "m.onnx")


def _with_external_data(tmp_path: Any) -> Any:
    path = tmp_path / "e.onnx"
    ir.save(ir.from_proto(ADD), path, external_data="e.data", size_threshold_bytes=0)
    return path


def _as_external_ir(tmp_path: Any) -> ir.Model:
    model = ir.load(_with_external_data(tmp_path))
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    return model


FORMS = {
    "path": _as_path,
    "path with external data": _with_external_data,
    "bytes": lambda _: ADD.SerializeToString(),
    "ModelProto": lambda _: ADD,
    "ir.Model": lambda _: ir.from_proto(ADD),
    "ir.Model with external data": _as_external_ir,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_model_runs(form: str, tmp_path: Any) -> None:
    session = Session(FORMS[form](tmp_path))
    values = session.run(FEEDS)
    assert list(values) == ["y", "d"]
    np.testing.assert_array_equal(values["y"], X + Z + [1, 2, 3])
    np.testing.assert_array_equal(session.run(FEEDS, ["d"])["d"], X - Z)


@pytest.mark.parametrize("form", ["ModelProto", "ir.Model"])
def test_what_does_not_fit_in_a_message_goes_through_a_file(
    form: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_IN_MEMORY_LIMIT", 1)
    saved = []
    save = ir.save
    monkeypatch.setattr(ir, "save", lambda *a, **k: (saved.append(a), save(*a, **k)))
    np.testing.assert_array_equal(Session(FORMS[form](tmp_path)).run(FEEDS)["d"], X - Z)
    assert len(saved) == 1


def test_specs_and_options() -> None:
    session = Session(ADD, providers=["cpu"], optimize=False, threads=1)
    assert session.inputs[0] == TensorSpec("x", np.dtype(np.float32), ("N", 3))
    assert [spec.name for spec in session.outputs] == ["y", "d"]
    assert session.providers == ("CPUExecutionProvider",)
    assert str(session.inputs[1]) == "z: float32[N, 3]"


BAD_FEEDS = {
    "missing": ({"x": X}, ["z: float32[N, 3] is missing"]),
    "unknown": ({**FEEDS, "xx": X}, ["no input 'xx'", "did you mean x?"]),
    "dtype": ({"x": X.astype(np.float64), "z": Z}, ["x is float64", "takes float32"]),
    "rank": ({"x": X[0], "z": Z}, ["x has shape (3,)", "x: float32[N, 3]"]),
    "static": ({"x": X[:, :2], "z": Z}, ["x has size 2 on axis 1", "takes 3"]),
    "symbol": ({"x": X, "z": Z[:1]}, ["z has size 1 on axis 0", "N is 2 in x"]),
    "list": ({"x": [[1.0]], "z": Z}, ["x is a list"]),
    "all": ({"x": X[:, :2], "q": X}, ["no input 'q'", "axis 1", "z: float32[N, 3] is missing"]),
}


@pytest.mark.parametrize("case", BAD_FEEDS)
def test_all_problems_of_the_feeds_are_named(case: str) -> None:
    feeds, messages = BAD_FEEDS[case]
    with pytest.raises(InputError) as caught:
        Session(ADD).run(feeds)
    for message in messages:
        assert message in str(caught.value)


def test_unknown_output() -> None:
    with pytest.raises(UsageError, match="no output 'yy'; did you mean y"):
        Session(ADD).run(FEEDS, ["yy"])


@pytest.mark.parametrize("providers", [["cuba"], ["cpu", "cuba"], []])
def test_unavailable_provider(providers: list[str]) -> None:
    with pytest.raises(UsageError, match="cpu"):
        Session(ADD, providers=providers)


def test_provider_that_fell_back(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = session._onnxruntime()
    real = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(ort, "get_available_providers", lambda: real)

    class Fallen:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def get_providers(self) -> list[str]:
            return ["CPUExecutionProvider"]

    monkeypatch.setattr(ort, "InferenceSession", Fallen)
    with pytest.raises(UsageError, match="could not start CUDAExecutionProvider, and fell back"):
        Session(ADD, providers=["cuda"])


def _parsed(ir_version: int = 8, opset: int = 18, body: str = "y = Relu(x)") -> onnx.ModelProto:
    return parser.parse_model(
        f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
        f"g (float[N] x) => (float[N] y) {{{body}}}"
    )


BAD_MODELS = {
    "IR version": (_parsed(ir_version=99), "Unsupported model IR version.*install a newer onnx"),
    "opset": (_parsed(opset=99), "[Oo]pset 99.*older opset"),
    "operator": (_parsed(body="y = Foo(x)"), "No Op registered for Foo"),
    "not ONNX": (b"not a model", "cannot load.*protobuf"),
}


@pytest.mark.parametrize("case", BAD_MODELS)
def test_models_that_do_not_load(case: str) -> None:
    model, message = BAD_MODELS[case]
    with pytest.raises(InvalidModelError, match=message) as caught:
        Session(model)
    assert "/onnxruntime_src/" not in str(caught.value)


def test_no_such_file(tmp_path: Any) -> None:
    with pytest.raises(UsageError, match="does not exist; give the path"):
        Session(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="is a folder; give the path"):
        Session(tmp_path)


def test_bfloat16_is_refused_clearly() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        "g (bfloat16[N] x) => (float[N] y) {y = Cast<to = 1>(x)}"
    )
    with pytest.raises(InvalidModelError, match=r"input 'x' is tensor.bfloat16.*Add a Cast"):
        Session(model)


def test_failure_while_running() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        "g (float[N] x, float[M] z) => (float[N] y) {y = Add(x, z)}"
    )
    feeds = {"x": np.ones(3, np.float32), "z": np.ones(4, np.float32)}
    with pytest.raises(InvalidModelError, match=r"failed while running.*sizes of the dynamic"):
        Session(model).run(feeds)


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxruntime")
    importer = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return importer(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingDependencyError, match=r'"onnxjvp\[cpu\]".*"onnxjvp\[gpu\]"'):
        Session(ADD)


SPECS = [
    TensorSpec("x", np.dtype(np.float32), ("N", "T", None)),
    TensorSpec("ids", np.dtype(np.int64), ("N", 4)),
    TensorSpec("mask", np.dtype(np.bool_), (None, "T")),
    TensorSpec("h", np.dtype(np.float16), ()),
]


def test_random_feeds_are_reproducible_and_fit() -> None:
    first, again, other = (random_feeds(SPECS, seed) for seed in (0, 0, 1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
    assert not np.array_equal(first["x"], other["x"])
    assert {name: (a.shape, a.dtype.name) for name, a in first.items()} == {
        "x": ((2, 8, 8), "float32"),
        "ids": ((2, 4), "int64"),
        "mask": ((2, 8), "bool"),
        "h": ((), "float16"),
    }
    assert set(np.unique(first["ids"])) == {0, 1}
    check_feeds(SPECS, first)


def test_an_input_is_drawn_alike_beside_other_inputs() -> None:
    alone = random_feeds(SPECS[:1], 0)
    np.testing.assert_array_equal(alone["x"], random_feeds(SPECS[::-1], 0, {"T": 8})["x"])


def test_random_feeds_take_sizes() -> None:
    drawn = random_feeds(SPECS, 0, {"N": 3}, default=5)
    assert drawn["x"].shape == (3, 5, 5)
    with pytest.raises(UsageError, match="no dimension 'M'"):
        random_feeds(SPECS, 0, {"M": 3})
    text = [TensorSpec("s", np.dtype(object), (1,))]
    with pytest.raises(UsageError, match="cannot be drawn"):
        random_feeds(text, 0)
