"""Which nodes a runtime cannot run, as the tables have it: each kind of reason, and where."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import build, ort, weights
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from onnxjvp.cli.main import main
from onnxjvp.errors import TargetError
from onnxjvp.graph.load import load
from onnxjvp.inspection import Fitness, inspect
from onnxjvp.rewrite import jvp, vjp
from onnxjvp.targets import TARGETS, older, unfit
from onnxjvp.targets.limits import LIMITS
from onnxjvp.targets.lint import ADDED, MODEL
from onnxjvp.targets.runtimes import TABLES, runtime

POOLED = "c = Conv(x, w)\np = MaxPool<kernel_shape=[2, 2], strides=[1, 1]>(c)\ny = Relu(p)"


def _pooled(dtype: str = "float32") -> onnx.ModelProto:
    return build(POOLED, {"x": ("N", 3, 6, 6)}, {"w": weights(4, 3, 3, 3)}, dtype=dtype)


def _model(body: str, dtype: str = "float32", opset: int = 18) -> onnx.ModelProto:
    return build(body, {"x": ("N", 4)}, dtype=dtype, opset=opset)


def _found(model: onnx.ModelProto | ir.Model, target: str) -> list[tuple[str, str]]:
    source = load(model)
    opset = source.model.opset_imports[""]
    return [(f.operator, f.kind) for f in unfit(target, source.graph, opset)]


@pytest.mark.parametrize("name", TABLES)
def test_tables_can_be_read(name: str) -> None:
    table = runtime(name)
    assert table.title and re.fullmatch(r"[\d.]+", table.version) and table.source
    low, high = table.opsets
    assert low <= 15 <= high
    assert {"Conv", "MatMul", "Relu"} <= set(table.operators)
    for label, kernels in table.operators.items():
        for kernel in kernels:
            assert kernel.versions and all(a <= b for a, b in kernel.versions), label
            assert all(limit in LIMITS for limit, _ in kernel.limits), label


def test_every_target_but_the_portable_one_has_a_table() -> None:
    without = {name for name, target in TARGETS.items() if target.runtime is None}
    assert without == {"portable"}
    assert {t for t, target in TARGETS.items() if target.refuses} == {
        *("web", "mobile", "openvino", "tensorrt")
    }


@pytest.mark.parametrize(
    ("body", "dtype", "target", "operator", "kind"),
    [
        ('y = Einsum<equation="ij->ji">(x)', "float32", "mobile", "Einsum", "operator"),
        ("y = Abs(x)", "float64", "tensorrt", "Abs", "dtype"),
        ("y = Abs(x)", "float64", "openvino", "Abs", "dtype"),
        ("y = Tanh(x)", "bfloat16", "cpu", "Tanh", "dtype"),
        ('y = Pad<mode="wrap">(x, p)', "float32", "openvino", "Pad", "limit"),
    ],
)
def test_reasons(body: str, dtype: str, target: str, operator: str, kind: str) -> None:
    params = {"p": np.array([0, 1, 0, 1])} if "p)" in body else {}
    opset = 19 if "wrap" in body else 18
    model = build(body, {"x": ("N", 4)}, params, dtype=dtype, opset=opset)
    assert (operator, kind) in _found(model, target)


def test_an_operator_that_is_newer_than_the_runtime() -> None:
    body = 'y = ScatterElements<reduction="max">(x, i, x)'
    model = build(body, {"x": (2, 4)}, {"i": np.zeros((2, 4), np.int64)}, dtype="float32")
    assert _found(model, "tensorrt") == [("ScatterElements", "limit")]
    resized = build(
        'y = Resize<antialias=1, mode="linear">(x, , s)',
        {"x": (1, 1, 4, 4)},
        {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
        dtype="float32",
    )
    assert _found(resized, "mobile") == [("Resize", "opset")]


ELEMENTS = {"x": ("N", 3), "one": np.ones((1, 1, 1), np.float32)}
SCAN = "c, y = Scan<num_scan_inputs=1, body=b ({}) => (next, out) {{{}}}>(c0, x)"
TYPED = "a, float[3] r"


@pytest.mark.parametrize(
    ("body", "inputs", "operators"),
    [
        ('y = Einsum<equation="ii">(x)', {"x": (3, 3)}, ["Einsum"]),
        ('y = Einsum<equation="ij,jj">(x, x)', {"x": (3, 3)}, []),
        ('y = Einsum<equation="ii->">(x)', {"x": (3, 3)}, []),
        ("y = com.microsoft.FusedMatMul<transBatchA=1>(x, x)", {"x": (2, 2, 2)}, ["FusedMatMul"]),
        ("y = com.microsoft.FusedMatMul<transBatchA=1>(x, x)", {"x": (2, 2)}, []),
        ("y = Resize<axes=[-1]>(x, , s)", {"x": (1, 4)}, ["Resize"]),
        ("y = Resize<axes=[1]>(x, , s)", {"x": (1, 4)}, []),
        ("a = Exp(x)\nb = Add(a, one)\ny = Log(b)", {"x": ("N", 3)}, ["Add"]),
        ("o = Neg(one)\na = Exp(x)\nb = Add(a, o)\ny = Log(b)", {"x": ("N", 3)}, ["Add"]),
        ("a = Exp(x)\nb = Add(a, one)\ny = Log(b)", ELEMENTS, []),
        ("y = Add(x, one)", {"x": ("N", 3)}, []),
        ("r = Exp(x)\ny = Mul(r, c0)", {"x": ("N", 1)}, ["Mul"]),
        ("r = Relu(x)\ny = Mul(r, c0)", {"x": ("N", 3)}, []),
        ("b = Mul(x, f)\nt = Sigmoid(b)\ny = Mul(x, t)", {"x": ("N", 3), "f": (1,)}, ["Mul"]),
        ("b = Mul(x, f)\nt = Sigmoid(b)\ny = Mul(x, t)", {"x": ("N", 3), "f": ()}, []),
        (SCAN.format("a, r", "next = Neg(a) out = Mul(r, a)"), {"x": (4, 3)}, ["Scan"]),
        (SCAN.format(TYPED, "next = Neg(a) out = Mul(r, a)"), {"x": (4, 3)}, []),
        (SCAN.format(TYPED, "next = Neg(a) out = Abs(a)"), {"x": (4, 3)}, ["Scan"]),
    ],
)
def test_what_openvino_gets_wrong(
    body: str, inputs: dict[str, tuple[int | str, ...]], operators: list[str]
) -> None:
    params = {"one": np.ones((1, 1, 1)), "s": np.array([2], np.float32), "c0": weights(3)}
    params = {k: v for k, v in params.items() if k in re.findall(r"\w+", body) and k not in inputs}
    model = build(body, inputs, params, dtype="float32")
    found = [name.rpartition("::")[2] for name, kind in _found(model, "openvino")]
    assert found == operators


def test_a_slice_for_a_result_that_nothing_reads_counts_no_step() -> None:
    body = SCAN.format(TYPED, "next = Neg(a) out = Mul(r, a)")
    model = build(body, {"x": (4, 3)}, {"c0": weights(3)}, ("c",), dtype="float32")
    assert _found(model, "openvino") == [("Scan", "limit")]


TURNS = "y = Loop<body=b ({}) => (d, next) {{d = Identity(c) next = Mul(a, a)}}>(n, t, x)"


@pytest.mark.parametrize(
    ("body", "inputs", "used"),
    [
        (SCAN, ("a, r", "float[3] a, r"), {"c0": weights(3)}),
        (
            TURNS,
            ("i, c, a", "i, bool c, float[3] a", "int64[] i, c, a"),
            {"n": np.array(2), "t": np.array(True)},
        ),
    ],
)
def test_types_that_a_file_leaves_out(
    body: str, inputs: tuple[str, ...], used: dict[str, np.ndarray]
) -> None:
    for given in inputs:
        text = body.format(given, "next = Neg(a) out = Mul(r, a)")
        for opset in (13, 18):  # an adapter between opsets declares types
            model = build(text, {"x": (4, 3)}, used, dtype="float32", opset=opset)
            (found,) = _found(model, "openvino")
            assert found in (("Scan", "limit"), ("Loop", "limit"))
            written = jvp(model, target="openvino")
            assert _found(written.proto(), "openvino") == []
            assert _found(written.model, "openvino") == []


NORM = "m = ReduceMean<keepdims=1>(x, i)\nc = Sub(x, m)\nq = Mul(c, c)\n" + (
    "v = ReduceMean<keepdims=1>(q, i)\na = Add(v, e)\nr = Sqrt(a)\nn = Div(c, r)\n"
)


@pytest.mark.parametrize(
    ("body", "size", "found"),
    [
        ("y = Mul(n, w)", 1, [("Mul", "limit")]),
        ("g = Mul(one, n)\ny = Add(w, g)", 1, [("Add", "limit")]),
        ("y = Mul(n, w)", 5, []),
        ("g = Mul(n, w)\ny = Add(g, r)", 1, []),
    ],
)
def test_norms_that_onnxruntime_fuses(body: str, size: int, found: list[tuple[str, str]]) -> None:
    params = {"i": np.array([-1]), "e": np.array(0.01), "w": weights(5), "one": np.ones(1)}
    model = build(NORM + body, {"x": ("N", 4, size)}, params, dtype="float32")
    for target in ("cpu", "web", "mobile"):
        assert _found(model, target) == found
    jvp(model, target="web")  # which reads what would be fused


def test_a_file_of_an_opset_that_is_not_read() -> None:
    model = _model("y = Abs(x)", opset=21)
    assert _found(model, "mobile") == [("opset 21", "opset")]
    assert _found(_model("y = Abs(x)", opset=20), "mobile") == []
    assert _found(model, "web") == _found(model, "openvino") == []
    fitness = inspect(model, target="mobile").fitness
    assert fitness is not None
    assert str(fitness.model[0]).startswith("opset 21: ONNX Runtime Mobile")
    assert fitness.written == {"jvp": (), "vjp": ()}


def test_half_precision_is_cast_where_the_runtime_casts() -> None:
    assert _found(_model("y = Acosh(x)", "float16"), "web") == []


def test_what_onnx_defines_by_others_runs_where_definitions_are_inlined() -> None:
    model = _model("y = Mish(x)")
    assert _found(model, "web") == []
    assert _found(model, "mobile") == [("Mish", "operator")]


def test_bodies_are_looked_into() -> None:
    inner = [make_node("Det", ["m"], ["d"])]
    shape = [make_tensor_value_info("d", 1, [])]
    other = [make_node("ReduceSum", ["m"], ["d"], keepdims=0)]
    branches = {
        "then_branch": make_graph(inner, "a", [], shape),
        "else_branch": make_graph(other, "b", [], shape),
    }
    graph = make_graph(
        [make_node("If", ["c"], ["y"], **branches)],
        "g",
        [make_tensor_value_info("c", 9, []), make_tensor_value_info("m", 1, [2, 2])],
        [make_tensor_value_info("y", 1, [])],
    )
    model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=9)
    assert _found(model, "openvino") == [("Det", "operator")]


def test_what_is_refused_is_told_apart() -> None:
    body = "d = CumProd(x, a)\ny = Mul(d, d)"
    model = build(body, {"x": ("N", 4)}, {"a": np.array(1)}, dtype="float32", opset=26)
    with pytest.raises(TargetError, match="of the model itself") as caught:
        jvp(model, target="openvino")
    places = {(f.operator, f.place) for f in caught.value.findings}
    assert ("CumProd", MODEL) in places
    assert caught.value.exit_code == 3


def test_inspect_tells_before_and_after() -> None:
    fitness = inspect(_pooled(), target="tensorrt").fitness
    assert fitness == Fitness("tensorrt", "TensorRT 10.15", (), {"jvp": (), "vjp": ()})
    fitness = inspect(_pooled("float64"), target="cpu").fitness
    assert fitness is not None
    assert [f.operator for f in fitness.model] == ["Conv"]
    written = fitness.written["jvp"]
    assert written is not None
    assert {(f.operator, f.place) for f in written} == {("Conv", MODEL), ("Conv", ADDED)}
    assert inspect(_pooled(), target="portable").fitness == Fitness("portable", None)
    assert inspect(_pooled()).fitness is None


def test_nothing_is_written_where_the_model_cannot_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model('d = Gelu(x)\ny = Einsum<equation="ij->ji">(d)', opset=20)
    path, out = tmp_path / "model.onnx", tmp_path / "out.onnx"
    onnx.save(model, path)
    arguments = ["rewrite", str(path), "--emit", "jvp", "-o", str(out)]
    assert main([*arguments, "--target", "mobile"]) == 3
    error = capsys.readouterr().err
    assert "Einsum" in error and "ONNX Runtime Mobile" in error and "Gelu" not in error
    assert not out.exists()
    assert main([*arguments, "--target", "web"]) == 0
    assert main(["inspect", str(path), "--target", "mobile"]) == 0
    said = capsys.readouterr().out
    assert "the model as it is: 2 nodes cannot run" in said
    assert "--emit jvp, what it adds: 1 node cannot run" in said


def test_mobile_files_are_of_an_opset_that_the_package_has() -> None:
    for made in (jvp(_pooled(), target="mobile"), vjp(_pooled(), target="mobile")):
        proto = made.proto()
        onnx.checker.check_model(proto, full_check=True)
        assert [entry.version for entry in proto.opset_import if not entry.domain] == [15]
        assert made.report["opset"] == 15


def test_nodes_at_an_older_opset() -> None:
    body = """
a = ReduceMean<keepdims=1>(x, axes)
b, c = Split<axis=1>(x, parts)
d = ReduceMax<keepdims=0>(b)
e = Concat<axis=1>(c, b)
y = Mul(e, a)
z = Mul(d, d)
"""
    params = {"axes": np.array([1]), "parts": np.array([3, 2])}
    model = build(body, {"x": (3, 5)}, params, ("y", "z"), dtype="float32")
    source = load(model).model
    for node in source.graph:
        assert older.obstacle(node, 18, 15) is None, node
    older.write_at(source, 18, 15)
    written = ir.to_proto(source)
    onnx.checker.check_model(written, full_check=True)
    x = {"x": np.arange(15, dtype=np.float32).reshape(3, 5)}
    wanted, found = ort(model, x), ort(written, x)
    assert all(np.array_equal(wanted[k], found[k]) for k in wanted)
