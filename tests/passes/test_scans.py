"""Scan and Loop beyond the tables: conditions, sizes that change, nesting, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import TOLERANCES, assert_close, build, checked, double, nodes_of, ort, weights
from onnx import ModelProto

from onnxjvp import UnsupportedOpError
from onnxjvp.rewrite import clone, jvp, vjp

EXACT = TOLERANCES["float64"]
TURN = "(int64 i, bool k, a) => (k2, next)"


def _while(limit: float) -> ModelProto:
    """Squares until an element reaches a limit."""
    step = "{l = ReduceMax<keepdims=0>(a) s = Mul(a, a) next = Add(s, z) k2 = Less(l, most)}"
    body = f"h, = Loop<body=b {TURN} {step}>(, , x)"
    return build(body, {"x": (3,), "z": (3,)}, {"most": np.array(limit)}, ("h",))


@pytest.mark.parametrize("limit", [0.5, 2.5, 100.0])
def test_as_many_turns_as_the_loop_took(limit: float) -> None:
    x, z = np.array([0.5, 1.0, -0.25]), np.array([0.25, 0.75, -0.5])
    u, w = weights(3, seed=1), weights(3, seed=2)
    value, slope, moved = x, np.ones(3), np.zeros(3)
    going = True
    while going:
        going = value.max() < limit
        slope, moved = 2 * value * slope, 2 * value * moved + 1
        value = value * value + z
    model = _while(limit)
    got = ort(checked(jvp(model)), {"x": x, "z": z, "x_u": u, "z_u": w})
    assert_close(got["h"], value, EXACT, "h")
    assert_close(got["h_jvp"], slope * u + moved * w, EXACT, "J u")
    back = ort(checked(vjp(model)), {"x": x, "z": z, "h_ct": w})
    assert_close(back["x_vjp"], slope * w, EXACT, "Jᵀ v, x")
    assert_close(back["z_vjp"], moved * w, EXACT, "Jᵀ v, z")
    many = np.stack([u, w, u + w])
    wide = ort(checked(jvp(model, ["x"], directions="K")), {"x": x, "z": z, "x_u": many})
    assert_close(wide["h_jvp"], slope * many, EXACT, "K directions")


def test_a_state_that_grows_off_the_path_is_left_alone() -> None:
    step = "{next = Concat<axis=0>(a, one) k2 = Identity(k)}"
    total = "t = ReduceSum<keepdims=0>(n)\ny = Mul(x, t)"
    body = f"n, = Loop<body=b {TURN} {step}>(three, , start)\n{total}"
    params = {"three": np.array(3), "one": np.array([2.0]), "start": np.array([1.0])}
    model = build(body, {"x": ("N", 3)}, params)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for form in (jvp, clone):
        values = double(checked(form(model)))({"x": x, "x_u": u})
        assert_close(values["y_jvp"], 7 * u, EXACT, "J u")


def test_a_scan_inside_a_scan() -> None:
    inner = "{p = Mul(g, q) m = Add(p, a) t = Tanh(m)}"
    step = (
        f"{{e, = Scan<num_scan_inputs=1, body=c (g, q) => (t) {inner}>(a, r) "
        "next = Mul(e, w) out = Identity(e)}"
    )
    head = "(a, r) => (next, out)"
    body = f"h, y = Scan<num_scan_inputs=1, body=b {head} {step}>(h0, x)"
    model = build(body, {"h0": (3,), "x": (4, 2, 3), "w": (3,)}, outputs=("h", "y"))
    rng = np.random.default_rng(0)
    point = {k: rng.standard_normal(s) for k, s in {"h0": 3, "x": (4, 2, 3), "w": 3}.items()}
    u = {k: rng.standard_normal(v.shape) for k, v in point.items()}

    def f(h0: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows, a = [], h0
        for r in x:
            e = a
            for q in r:
                e = np.tanh(e * q + a)
            a = e * w
            rows.append(e)
        return a, np.stack(rows)

    step_size = 1e-5
    ahead, behind = (f(**{k: v + s * step_size * u[k] for k, v in point.items()}) for s in (1, -1))
    got = ort(checked(jvp(model)), {**point, **{f"{k}_u": v for k, v in u.items()}})
    ct = {k: rng.standard_normal(got[k].shape) for k in ("h", "y")}
    back = ort(checked(vjp(model)), {**point, **{f"{k}_ct": v for k, v in ct.items()}})
    for name, one, other in zip(("h", "y"), ahead, behind, strict=True):
        assert_close(got[f"{name}_jvp"], (one - other) / (2 * step_size), 1e-8, name)
    left = sum((ct[k] * got[f"{k}_jvp"]).sum() for k in ct)
    right = sum((back[f"{k}_vjp"] * u[k]).sum() for k in u)
    assert abs(left - right) < EXACT * (abs(left) + 1)


def test_the_tape_is_made_of_what_a_scan_gives_out() -> None:
    """Where the states are among its results they are not computed again."""
    step = "{m = Mul(a, r) next = Tanh(m) out = Identity(next)}"
    body = f"h, y = Scan<num_scan_inputs=1, body=b (a, r) => (next, out) {step}>(h0, x)"
    model = build(body, {"h0": (3,), "x": (4, 3)}, outputs=("h", "y"))
    made = [n.op_type for n in jvp(model).proto().graph.node]
    assert made.count("Scan") == 2  # the original, and that of the tangents


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            "{s = Constant<value_float=0.1>() q = QuantizeLinear(a, s) "
            "m = DequantizeLinear(q, s) next = Mul(m, r)}",
            "in its body: QuantizeLinear .*rounds",
        ),
        ("{m = RandomNormalLike(a) next = Mul(m, r)}", "RandomNormalLike.*draws random numbers"),
    ],
)
def test_what_is_refused_inside(step: str, message: str) -> None:
    body = f"h, = Scan<num_scan_inputs=1, body=b (a, r) => (next) {step}>(h0, x)"
    model = build(body, {"h0": (2, 3), "x": (4, 2, 3)}, outputs=("h",), dtype="float32")
    with pytest.raises(UnsupportedOpError, match=f"Scan .*{message}"):
        jvp(model)


def test_names_inside_are_those_of_the_file() -> None:
    """Nothing is called what the builder calls it, and bodies repeat no name from around them."""
    step = "{m = MatMul(a, w) next = Tanh(m) out = Mul(next, r)}"
    body = f"h, y = Scan<num_scan_inputs=1, body=b (a, r) => (next, out) {step}>(h0, x)"
    inputs = {"h0": ("B", 3), "x": ("T", "B", 3), "w": (3, 3)}
    model = build(body, inputs, outputs=("h", "y"))
    twice = checked(jvp(vjp(model)))
    names = [name for node in nodes_of(twice) for name in node.output if name]
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("?")]
