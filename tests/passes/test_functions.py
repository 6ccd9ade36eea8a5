"""Operators that are functions of others: which are expanded, and what stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cases_attending
import cases_functions
import cases_newest
import cases_sampling
import cases_training
import numpy as np
import onnx
import onnxruntime
import pytest
from helpers import Array, Values, assert_close, build, op_types, ort, weights
from onnx import helper, numpy_helper, parser
from op_case import OpCase, rewritten, seeded

import onnxjvp
from onnxjvp.graph.functions import BODIES
from onnxjvp.oracle import Evaluator
from onnxjvp.rules.registry import RULES

MODELS = Path(__file__).parents[2] / "models"
#: below
ELSEWHERE = ("SimplifiedLayerNormalization",)
LEVELS = onnxruntime.GraphOptimizationLevel
_EXPERTS = [case for case in cases_functions.CASES if case.name.startswith("MoE")]


def optimised(model: onnx.ModelProto | Path, level: str, folder: Path) -> Path:
    """The file that onnxruntime's own optimiser writes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(LEVELS, f"ORT_ENABLE_{level}")
    path = folder / f"{level}.onnx"
    options.optimized_model_filepath = str(path)
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return path


def forms(model: onnx.ModelProto | Path, x: Values) -> dict[str, Array]:
    """f(x), J u, Jᵀ v and f_x(u) in both layouts, of a model with one output."""
    rng = np.random.default_rng(0)
    u = {name: rng.standard_normal(a.shape).astype(np.float32) for name, a in x.items()}
    found: dict[str, Array] = {}

    def run(what: str, result: onnxjvp.Rewritten, fed: Mapping[str, Array], form: str) -> None:
        named = {result.names["seeds"].get(k, k): v for k, v in fed.items()}
        values = ort(result.proto(), {**x, **named})
        for name, forms_of in result.names["results"].items():
            found[f"{what} {name}"] = values[forms_of[form]]
        for name in result.names["results"]:
            if name in values:
                found[f"f {name}"] = values[name]

    run("J u", onnxjvp.jvp(model), u, "jvp")
    y = next(v for k, v in found.items() if k.startswith("f "))
    pulled = onnxjvp.vjp(model)
    (ct,) = pulled.names["cotangents"].values()
    run("Jᵀ v", pulled, {ct: np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape)}, "vjp")
    for layout in ("split", "stacked"):
        run(layout, onnxjvp.clone(model, layout=layout), u, "u")
    return found


def test_every_body_has_a_case() -> None:
    reached: set[str] = set()
    tables = (cases_functions, cases_attending, cases_newest, cases_sampling, cases_training)
    for case in (case for table in tables for case in table.CASES):
        for node in case.model("float32").graph.node:
            reached.add(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
    in_rows = set(BODIES) - set(RULES) - {f"com.microsoft::{name}" for name in ELSEWHERE}
    assert in_rows <= reached


def test_a_live_node_is_expanded_and_stays() -> None:
    model = build("y = com.microsoft.FastGelu(x)", {"x": ("N", 3)}, dtype="float32")
    result = onnxjvp.jvp(model)
    assert result.report["expanded"] == ["y (com.microsoft::FastGelu)"]
    assert op_types(result).count("FastGelu") == 1
    (row,) = onnxjvp.inspect(model).operators
    assert (row.op_type, row.kind) == ("com.microsoft::FastGelu", "function")


def test_a_dead_node_stays_as_it_is() -> None:
    body = "z = com.microsoft.FastGelu(c)\ny = Mul(x, z)"
    model = build(body, {"x": ("N", 3)}, {"c": weights(3)}, dtype="float32")
    result = onnxjvp.jvp(model)
    assert result.report["expanded"] == []
    assert op_types(result) == ["FastGelu", "Mul", "Mul"]


def test_what_the_node_gives_is_not_computed_again() -> None:
    """The mask of a fused activation is read off the fused node's output."""
    body = 'y = com.microsoft.FusedConv<activation="Relu">(x, w)'
    model = build(body, {"x": (1, 2, 4, 4)}, {"w": weights(3, 2, 3, 3)}, dtype="float32")
    assert op_types(onnxjvp.jvp(model)).count("Conv") == 1


def test_shapes_of_foreign_operators_are_known_behind_them() -> None:
    body = (
        "a = com.microsoft.FusedMatMul<transB=1>(x, w)\n"
        "b = com.microsoft.QuickGelu(a)\n"
        "y = ReduceSum<keepdims=0>(b, axes)"
    )
    params = {"w": weights(5, 3), "axes": np.array([1])}
    model = build(body, {"x": ("N", 3)}, params, dtype="float32")
    assert onnxjvp.jvp(model).report["cuts"] == []


@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_one_value_as_two_operands(layout: str) -> None:
    body = "y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, x)"
    model = build(body, {"x": (3, 2)}, declared={"y": (3, 3)}, dtype="float32")
    x, u = (weights(3, 2, seed=k).astype(np.float32) for k in (1, 2))
    result = onnxjvp.clone(model, layout=layout)
    values = ort(result.proto(), {"x": x, "x_u": u})
    tangent = 0.5 * (u @ x.T + x @ u.T)
    assert_close(values["y_jvp"], tangent, 1e-5, "J u")
    assert_close(values["y_u"], 0.5 * x @ x.T + tangent - x @ x.T, 1e-5, "f_x(u)")


def test_inside_a_branch() -> None:
    body = """y = If(c) <
        then_branch = a () => (float[N, 3] p) { p = com.microsoft.QuickGelu(x) },
        else_branch = b () => (float[N, 3] q) { q = Neg(x) }
    >"""
    text = f"""<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]>
    g (float[N, 3] x, bool c) => (float[N, 3] y) {{ {body} }}"""
    model = parser.parse_model(text)
    result = onnxjvp.jvp(model)
    x, u = (weights(2, 3, seed=k).astype(np.float32) for k in (1, 2))
    values = ort(result.proto(), {"x": x, "x_u": u, "c": np.array(True)})
    alone = onnxjvp.jvp(build("y = com.microsoft.QuickGelu(x)", {"x": ("N", 3)}, dtype="float32"))
    assert_close(values["y_jvp"], ort(alone.proto(), {"x": x, "x_u": u})["y_jvp"], 1e-6, "J u")


@pytest.mark.parametrize("case", _EXPERTS, ids=str)
def test_experts_are_what_the_runtime_makes_of_them(case: OpCase) -> None:
    """In float32; the op tables hold the float64 kernel against differences."""
    x, u = case.point(), case.direction()
    wanted = Evaluator(case.model()).run(x)
    narrow = {name: value.astype(np.float32) for name, value in x.items()}
    assert_close(ort(case.model("float32"), narrow)["y"], wanted["y"], 1e-6, "f(x)")
    tangent = seeded(rewritten(case, "jvp")[0], x, u)
    exact = Evaluator(rewritten(case, "jvp")[1]).run(tangent)
    narrow = {name: value.astype(np.float32) for name, value in tangent.items()}
    values = ort(rewritten(case, "jvp", "float32")[1], narrow)
    assert_close(values["y_jvp"], exact["y_jvp"], 1e-5, "J u")


# -- files of onnxruntime's optimisers ---------------------------------------------------------


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("name", ["digits_cnn", "digits_transformer"])
def test_an_optimised_file_has_the_same_derivatives(name: str, level: str, tmp_path: Path) -> None:
    plain = MODELS / f"{name}.onnx"
    (image,) = onnx.load(plain).graph.input
    shape = [d.dim_value or 2 for d in image.type.tensor_type.shape.dim]
    x = {image.name: np.random.default_rng(1).random(shape, np.float32)}
    fused = optimised(plain, level, tmp_path)
    want, got = forms(plain, x), forms(fused, x)
    assert want.keys() == got.keys()
    for key, value in want.items():
        assert_close(got[key], value, 2e-5, key)
    expanded = onnxjvp.jvp(fused).report["expanded"]
    assert bool(expanded) == (level == "EXTENDED")


def test_a_file_by_the_optimiser_of_transformers(tmp_path: Path) -> None:
    optimizer = pytest.importorskip("onnxruntime.transformers.optimizer")
    plain = MODELS / "digits_transformer.onnx"
    fused = tmp_path / "fused.onnx"
    found = optimizer.optimize_model(str(plain), model_type="bert", opt_level=0)
    found.save_model_to_file(str(fused))
    assert any(n.domain == "com.microsoft" for n in onnx.load(fused).graph.node)
    (image,) = onnx.load(plain).graph.input
    shape = [d.dim_value or 2 for d in image.type.tensor_type.shape.dim]
    x = {image.name: np.random.default_rng(1).random(shape, np.float32)}
    want, got = forms(plain, x), forms(fused, x)
    for key, value in want.items():
        assert_close(got[key], value, 2e-5, key)


_LAYER_NORM = """m = ReduceMean<axes=[-1]>(x)
c = Sub(x, m)
p = Pow(c, two)
v = ReduceMean<axes=[-1]>(p)
e = Add(v, eps)
s = Sqrt(e)
d = Div(c, s)
g = Mul(d, w)
y = Add(g, b)"""
_RMS_NORM = """p = Pow(x, two)
v = ReduceMean<axes=[-1]>(p)
e = Add(v, eps)
s = Sqrt(e)
d = Div(x, s)
y = Mul(w, d)"""


@pytest.mark.parametrize(
    ("body", "name"),
    [(_LAYER_NORM, "LayerNormalization"), (_RMS_NORM, "SimplifiedLayerNormalization")],
)
def test_what_the_runtime_keeps_among_the_standard_operators(
    body: str, name: str, tmp_path: Path
) -> None:
    """At opset 14 the optimiser writes operators that ONNX has later, or never."""
    numbers = {"two": 2.0, "eps": 1e-5, "w": weights(4), "b": weights(4, seed=1)}
    graph = helper.make_graph(
        [parser.parse_node(line) for line in body.splitlines()],
        "g",
        [helper.make_tensor_value_info("x", 1, ("N", 4))],
        [helper.make_tensor_value_info("y", 1, ("N", 4))],
        [numpy_helper.from_array(np.float32(v), k) for k, v in numbers.items() if k in body],
    )
    opsets = [helper.make_opsetid("", 14)]
    plain = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    fused = optimised(plain, "EXTENDED", tmp_path)
    (node,) = onnx.load(fused).graph.node
    assert (node.op_type, node.domain) == (name, "")
    x = {"x": weights(2, 4).astype(np.float32)}
    want, got = forms(plain, x), forms(fused, x)
    for key, value in want.items():
        assert_close(got[key], value, 2e-5, key)
    kept = [n for n in onnxjvp.jvp(fused).proto().graph.node if n.op_type == name]
    assert kept
    assert {n.domain for n in kept} == {""}
    again = onnxjvp.jvp(onnxjvp.jvp(fused))
    assert "x_u_u" in again.names["seeds"].values()
    assert_close(Evaluator(str(fused)).run(x)["y"], got["f y"], 2e-6, "in float64")


# -- what is refused ---------------------------------------------------------------------------


def refusal(model: onnx.ModelProto | Path) -> str:
    with pytest.raises(onnxjvp.UnsupportedOpError) as caught:
        onnxjvp.jvp(model)
    return str(caught.value)


def test_the_runtime_s_own_layout_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = optimised(MODELS / "digits_cnn.onnx", "ALL", tmp_path)
    domains = {n.domain for n in onnx.load(file).graph.node}
    if "com.microsoft.nchwc" not in domains:
        pytest.skip("this machine's kernels have no layout of their own")
    said = refusal(file)
    assert "com.microsoft.nchwc::Conv" in said
    assert "at level basic or extended" in said


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('y = com.microsoft.FusedGemm<activation="Sine">(x, w)', "'Sine' is not known"),
        ("z, y = com.microsoft.SkipLayerNormalization(x, x, g)", "output 1 is not defined"),
        ('y = com.microsoft.CDist<metric="cosine">(x, w)', "'cosine' is not covered"),
        ("y = com.microsoft.MatMulNBits<K=3, N=3, bits=3, block_size=16>(x, w, g)", "packed"),
        ("y = com.microsoft.ExpandDims(x, a)", "at run time only"),
        ("y = com.microsoft.MatMulBnb4<K=3, N=3, block_size=16, transB=0>(x, w, g)", "transB"),
        ("y = com.microsoft.MoE<use_sparse_mixer=1>(x, x, w, , w)", "sparse mixer"),
        ("y = com.microsoft.Rfft<signal_ndim=2>(x)", "several axes"),
        ("y = com.microsoft.PackedAttention<num_heads=1>(x, w, g)", "packed without their padding"),
    ],
)
def test_what_a_body_does_not_cover_is_refused_by_name(body: str, reason: str) -> None:
    given = {"x": (3, 3), **({"a": np.array(1, np.int32)} if "a)" in body else {})}
    params = {k: v for k, v in {"w": weights(3, 3), "g": weights(3)}.items() if f" {k}" in body}
    said = refusal(build(body, given, params, dtype="float32"))
    assert "com.microsoft::" in said
    assert reason in said
