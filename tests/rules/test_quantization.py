"""Quantised models: refused as they are, and differentiated straight-through when asked."""

from __future__ import annotations

from functools import cache

import ml_dtypes
import numpy as np
import onnx
import pytest
from cases_quantization import (
    CASES,
    IMAGE,
    IN,
    OUT,
    SCALE,
    Case,
    between,
    codes,
    i8,
    microsoft,
    number,
)
from helpers import TOLERANCES, Values, assert_close, build, checked, ort, weights
from onnx import helper
from onnx.parser import parse_node
from straight_through import Frozen

import onnxjvp
from onnxjvp import Rewritten, UnsupportedOpError, UsageError, clone, jvp, linearize, vjp
from onnxjvp.graph.load import load
from onnxjvp.graph.quantized import QUANTISED, is_code
from onnxjvp.oracle import directional_derivative
from onnxjvp.passes.linearize import analyse, live_inputs
from onnxjvp.rules.kinds import StraightThrough
from onnxjvp.rules.registry import RULES

ST = "straight-through"
CLOSE = TOLERANCES["float32"]
FLOAT = onnx.TensorProto.FLOAT


every_case = pytest.mark.parametrize("case", CASES, ids=str)


@cache
def rewritten(case: Case) -> tuple[Rewritten, onnx.ModelProto]:
    result = jvp(case.model(), quantized=ST)
    return result, checked(result)


def feeds(result: Rewritten, x: Values, u: Values) -> Values:
    return {**x, **{result.names["seeds"][name]: value for name, value in u.items()}}


@every_case
def test_straight_through_is_the_derivative_of_the_surrogate(case: Case) -> None:
    x, u = case.point(), case.direction()
    model = case.model()
    surrogate = Frozen(model)
    here = surrogate.run(x)["y"]
    wide = {n: v.astype(np.float64) for n, v in x.items()}
    along = {n: v.astype(np.float64) for n, v in u.items()}
    found = directional_derivative(surrogate.run, wide, along, ["y"])
    wanted, settled = found.value["y"], ~found.kinks["y"]
    result, proto = rewritten(case)
    values = ort(proto, feeds(result, x, u))
    original = ort(model, x)["y"]
    assert values["y"].tobytes() == original.tobytes()
    assert_close(original, here, case.primal, "the surrogate's value")
    assert np.any(wanted)
    assert settled.mean() > 0.9  # codes tie, and hit the bounds of a Clip
    tangent = np.where(settled, values["y_jvp"], wanted)
    assert_close(tangent, wanted, TOLERANCES[case.dtype], "J u")


@every_case
def test_products_agree(case: Case) -> None:
    """Transposed, over two directions at once, as a clone, and linearised."""
    if case.dtype != "float32":
        return
    x, u, w = case.point(), case.direction(), case.direction(2)
    result, proto = rewritten(case)
    first, second = (ort(proto, feeds(result, x, d))["y_jvp"] for d in (u, w))
    model = case.model()
    v = np.random.default_rng(3).standard_normal(first.shape).astype(np.float32)
    back = vjp(model, quantized=ST)
    pulled = ort(checked(back), {**x, "y_ct": v})
    paired = sum(float((u[n] * pulled[f"{n}_vjp"]).sum()) for n in u)
    size = float(np.abs(v * first).sum())
    assert abs(paired - float((v * first).sum())) <= CLOSE * size
    stacked = {n: np.stack([u[n], w[n]]) for n in u}
    for count in (2, "K"):
        several = jvp(model, directions=count, quantized=ST)
        values = ort(checked(several), feeds(several, x, stacked))["y_jvp"]
        assert_close(values, np.stack([first, second]), CLOSE, f"{count} directions")
    frozen = clone(model, quantized=ST)
    values = ort(checked(frozen), feeds(frozen, x, u))
    assert_close(values["y_u"] - values["y_0"], first, 1e-3, "f_x(u) − f_x(0)")
    parts = linearize(model, quantized=ST)
    held = ort(parts.primal.proto(), x)
    fed = {**x, **held, **{parts.jvp.names["seeds"][n]: d for n, d in u.items()}}
    inputs = {i.name for i in parts.jvp.proto().graph.input}
    applied = ort(parts.jvp.proto(), {n: a for n, a in fed.items() if n in inputs})
    assert_close(applied["y_jvp"], first, CLOSE, "linearised")


@every_case
def test_derivatives_compose(case: Case) -> None:
    """The derivative of the tangent, roundings held, against differences of it."""
    if case.dtype != "float32":
        return
    x, u, w = case.point(), case.direction(), case.direction(2)
    once, model = rewritten(case)
    twice = jvp(once, list(x), ["y_jvp"], quantized=ST) if _curved(once, x) else None
    if twice is None:
        return
    surrogate = Frozen(model)
    at = {n: v.astype(np.float64) for n, v in feeds(once, x, u).items()}
    along = {n: v.astype(np.float64) for n, v in w.items()}
    wanted = directional_derivative(surrogate.run, at, along, ["y_jvp"]).value["y_jvp"]
    values = ort(checked(twice), {**feeds(once, x, u), **feeds(twice, {}, w)})
    name = twice.names["results"]["y_jvp"]["jvp"]
    size = float(np.abs(values["y_jvp"]).max())
    size /= 0.05 if case.scales else 1.0  # there it is 0, by terms that cancel
    assert_close(values[name], wanted, CLOSE, "the second derivative", size)


def _curved(once: Rewritten, x: Values) -> bool:
    try:
        jvp(once, list(x), ["y_jvp"], quantized=ST)
    except UnsupportedOpError as error:
        assert not error.nodes  # piecewise affine: no second derivative
        return False
    return True


@every_case
def test_what_rounds_is_refused_unless_asked_for(case: Case) -> None:
    with pytest.raises(UnsupportedOpError) as error:
        jvp(case.model())
    assert "the derivative is zero almost everywhere through node" in str(error.value)
    assert "--quantized straight-through" in str(error.value)
    first = error.value.nodes[0]
    assert isinstance(RULES[first[1]], StraightThrough)
    assert first[0] in first[2]


def test_every_rule_has_a_case() -> None:
    live: dict[str, set[int]] = {}
    for case in CASES:
        source = load(case.model())
        onnxjvp.graph.quantized.pass_straight_through(source.graph)
        floats = [v for v in source.inputs if not is_code(v)]
        liveness = analyse(source, floats, list(source.graph.outputs))
        assert not liveness.refused
        for region in liveness.regions:
            live.setdefault(region.label, set()).update(live_inputs(region, liveness.live))
    rules = {n: r for n, r in RULES.items() if isinstance(r, StraightThrough)}
    assert set(QUANTISED) <= set(rules)
    reached = {name for name, operands in live.items() if operands}
    assert set(rules) - reached == set()
    for name, rule in rules.items():
        assert rule.args is None or set(rule.args) <= live[name] or "::" in name, name
    assert live["DequantizeLinear"] >= {0, 1}


# -- weights -----------------------------------------------------------------------------------


WEIGHTS = {
    "per axis": (
        "w = DequantizeLinear<axis=1>(k, s, z)\ny = MatMul(x, w)",
        {"k": codes(4, 3), "s": np.array([0.1, 0.2, 0.05]), "z": i8(1, -2, 3)},
        18,
    ),
    "transposed": (
        "w = DequantizeLinear(k, s)\nt = Transpose<perm=[1, 0]>(w)\ny = MatMul(x, t)",
        {"k": codes(3, 4), "s": number(0.1)},
        18,
    ),
    "blocked, 4 bits": (
        "w = DequantizeLinear<axis=0, block_size=2>(k, s, z)\ny = MatMul(x, w)",
        {
            "k": codes(4, 3, low=-8, high=7).astype(ml_dtypes.int4),
            "s": np.abs(weights(2, 3)),
            "z": codes(2, 3, low=-3, high=3).astype(ml_dtypes.int4),
        },
        21,
    ),
    "8-bit floats": (
        "w = DequantizeLinear(k, s)\ny = MatMul(x, w)",
        {"k": weights(4, 3).astype(ml_dtypes.float8_e4m3fn), "s": number(0.1)},
        19,
    ),
    "cast from half": (
        "w = Cast<to=1>(k)\ny = MatMul(x, w)",
        {"k": weights(4, 3).astype(np.float16)},
        18,
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_a_quantised_weight_is_a_constant(kind: str) -> None:
    """It needs no estimator: f(x) = x W, so J u = u W to the last bit."""
    body, params, opset = WEIGHTS[kind]
    case = Case("weight", body, params, opset=opset)
    x, u = case.point(), case.direction()
    model = case.model()
    result = jvp(model)
    values = ort(checked(result), feeds(result, x, u))
    assert values["y_jvp"].tobytes() == ort(model, {"x": u["x"]})["y"].tobytes()
    back = vjp(model)
    v = weights(*values["y"].shape).astype(np.float32)
    pulled = ort(checked(back), {**x, "y_ct": v})["x_vjp"]
    assert_close(np.sum(pulled * u["x"]), np.sum(v * values["y_jvp"]), CLOSE, "adjoint")
    stacked = clone(model, layout="stacked")
    values = ort(checked(stacked), feeds(stacked, x, u))
    assert_close(values["y_u"], ort(model, {"x": u["x"]})["y"], CLOSE, "clone")


def test_the_scale_of_a_weight_is_a_variable_and_so_is_the_weight_itself() -> None:
    body = "w = DequantizeLinear<axis=1>(k, s, z)\ny = MatMul(x, w)"
    params = {"k": codes(4, 3), "s": np.array([0.1, 0.2, 0.05]), "z": i8(1, -2, 3)}
    case = Case("scale", body, params)
    x, u = case.point(), np.array([1.0, -2.0, 0.5], np.float32)
    model = case.model()
    for layout in ("split", "stacked"):
        result = clone(model, ["s"], layout=layout)
        values = ort(checked(result), {**x, "s_u": u})
        moved = x["x"] @ ((params["k"].astype(np.float32) - params["z"]) * u)
        assert_close(values["y_jvp"], moved, CLOSE, layout)
    back = ort(checked(vjp(model, ["s"])), {**x, "y_ct": np.ones_like(values["y"])})
    assert_close(np.sum(back["s_vjp"] * u), moved.sum(), CLOSE, "adjoint")
    inner = jvp(model, ["w"])
    direction = weights(4, 3).astype(np.float32)
    values = ort(checked(inner), {**x, "w_u": direction})
    assert_close(values["y_jvp"], x["x"] @ direction, CLOSE, "the weight")


def test_training_weights_behind_rounding() -> None:
    """As quantisation-aware training exports them: floats, rounded on their way to a product."""
    body = """q = QuantizeLinear(w, s, z)
        d = DequantizeLinear(q, s, z)
        m = MatMul(x, d)
        y = Tanh(m)"""
    w, scale = weights(4, 3), 0.01
    case = Case("trained", body, {"w": w, "s": number(scale), "z": np.int8(0)})
    model, x = case.model(), case.point()
    with pytest.raises(UnsupportedOpError, match="zero almost everywhere"):
        onnxjvp.grad(model, ["params"], loss="squared_norm")
    result = onnxjvp.grad(model, ["params"], loss="squared_norm", quantized=ST)
    assert result.report["wrt"] == ["w"]
    values = ort(checked(result), x)
    level = np.rint(w.astype(np.float32) / np.float32(scale))
    y = np.tanh(x["x"] @ (np.clip(level, -128, 127) * scale))
    wanted = np.where(np.abs(level) <= 127, x["x"].T @ (y * (1 - y**2)), 0)
    assert 0 < np.mean(wanted == 0) < 1
    assert_close(values["w_grad"], wanted, CLOSE, "the gradient")


# -- what it does not do -----------------------------------------------------------------------


def test_stacks_and_unknown_treatments_are_refused() -> None:
    model = CASES[0].model()
    for settings in ({"layout": "stacked"}, {"method": "substitute"}):
        with pytest.raises(UsageError, match="split"):
            clone(model, quantized=ST, **settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'round'.*'straight-through'"):
        jvp(model, quantized="round")


def test_codes_that_leave_the_model_have_no_derivative() -> None:
    model = CASES[0].model()
    model.graph.output.append(helper.make_tensor_value_info("q", onnx.TensorProto.UINT8, None))
    result = jvp(model, quantized=ST)
    assert list(result.names["results"]) == ["y"]
    assert "uint8" in result.report["excluded"]["q"]
    assert result.report["quantized"] == ST


REFUSED = {
    "channels last": (
        microsoft(
            "channels last",
            "QLinearGlobalAveragePool<channels_last=1>(q, s, z, os, oz)",
            inputs=IMAGE,
        ),
        "channels_last = 1",
    ),
    "an operator that is not known": (
        between("unknown", 'p = BitShift<direction="LEFT">(q, z)'),
        "no derivative rule.*quantised",
    ),
    "a scale that is computed": (
        Case(
            "scale",
            f"""{IN}
            o = ReduceMax<keepdims=0>(x)
            p = com.microsoft.QLinearSigmoid(q, s, z, o, z)
            {OUT}""",
            SCALE,
        ),
        "parameter 'o'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_estimator_is_refused(what: str) -> None:
    case, reason = REFUSED[what]
    with pytest.raises(UnsupportedOpError, match=reason):
        jvp(case.model(), quantized=ST)


def test_what_depends_on_codes_piecewise_constantly_is_cut() -> None:
    body = f"{IN}\ni = ArgMax<axis=1>(q)\nc = Greater(q, z)\nf = Cast<to=1>(c)\n"
    case = Case("cut", body + "d = DequantizeLinear(q, s, z)\ny = Mul(d, f)", SCALE)
    result = jvp(case.model(), quantized=ST)
    assert [cut for cut in result.report["cuts"] if "Greater" in cut]


def test_inside_a_branch() -> None:
    arm = "h = QuantizeLinear(x, s, z)\nd = DequantizeLinear(h, s, z)\nt = Tanh(d)"
    nodes = [parse_node(line) for line in arm.splitlines()]
    info = helper.make_tensor_value_info
    then = helper.make_graph(nodes, "then", [], [info("t", FLOAT, None)])
    other = helper.make_graph([parse_node("e = Exp(x)")], "else", [], [info("e", FLOAT, None)])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    graph = helper.make_graph(
        [node],
        "branches",
        [info("x", FLOAT, ["N", 4]), info("c", onnx.TensorProto.BOOL, [])],
        [info("y", FLOAT, ["N", 4])],
        [
            onnx.numpy_helper.from_array(np.float32(0.02).reshape(()), "s"),
            onnx.numpy_helper.from_array(np.array(120, np.uint8), "z"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    with pytest.raises(UnsupportedOpError, match="zero almost everywhere"):
        jvp(model)
    x, u = CASES[0].point()["x"], CASES[0].direction()["x"]
    result = jvp(model, ["x"], quantized=ST)
    values = ort(checked(result), {"x": x, "x_u": u, "c": np.array(True)})
    level = np.rint(x / np.float32(0.02)) + 120
    wanted = np.where((level >= 0) & (level <= 255), u * (1 - values["y"] ** 2), 0)
    assert_close(values["y_jvp"], wanted, CLOSE, "the branch taken")


# -- scales that do not round ------------------------------------------------------------------

DYNAMIC = "q, s, z = DynamicQuantizeLinear(x)"


def _dynamic(*outputs: str, more: str = "") -> onnx.ModelProto:
    x: dict[str, tuple[int | str, ...]] = {"x": ("N", 3)}
    return build(DYNAMIC + more, x, outputs=outputs, dtype="float32")


@pytest.mark.parametrize("shift", [0.0, 2.0, -2.0])
def test_the_scale_of_dynamic_quantisation_has_a_derivative(shift: float) -> None:
    """(max(x, 0) − min(x, 0))/255; the codes are left out where nobody chose them."""
    point = np.array([[0.3, -0.2, 0.1], [-0.9, 0.8, 0.4]], np.float32) + np.float32(shift)
    u, ct = weights(2, 3).astype(np.float32), np.float32(0.7)
    highest, lowest = (u.flat[f(point)] for f in (np.argmax, np.argmin))
    wanted = np.where(shift >= 0, highest, 0) - np.where(shift <= 0, lowest, 0)
    model = _dynamic("q", "s", "z")
    for form in (jvp, clone, lambda m: clone(m, layout="stacked")):
        result = form(model)
        assert set(result.report["excluded"]) == {"q", "z"}
        values = ort(checked(result), {"x": point, "x_u": u})
        assert_close(values["s_jvp"], np.float32(wanted / 255), CLOSE, "J u", scale=0.01)
    pulled = ort(checked(vjp(model)), {"x": point, "s_ct": np.array(ct)})["x_vjp"]
    assert abs(float((pulled * u).sum()) - float(ct) * wanted / 255) < 1e-8


def test_codes_that_are_needed_are_refused_beside_a_scale() -> None:
    with pytest.raises(UnsupportedOpError, match="zero almost everywhere"):
        jvp(_dynamic("q", "s"), outputs=["q", "s"])
    read = "\nc = Cast<to=1>(q)\ny = Mul(c, s)"
    with pytest.raises(UnsupportedOpError, match="zero almost everywhere"):
        jvp(_dynamic("y", more=read))
