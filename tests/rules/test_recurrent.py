"""RNN, GRU and LSTM beyond the tables: what steps repeat, layers, branches, refusals."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import (
    DIFFERENCES,
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    checked,
    ort,
    weights,
)
from onnx import ModelProto

from onnxjvp import UnsupportedOpError
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.rewrite import Rewritten, clone, grad, hvp, jvp, vjp

PARAMS = {
    "w": weights(1, 4, 3, seed=1),
    "r": weights(1, 4, 4, seed=2),
    "b": weights(1, 8, seed=3),
    "lw": weights(2, 12, 4, seed=4),
    "lr": weights(2, 12, 3, seed=5),
    "v": weights(6, 2, seed=6),
}
#: a layer forwards, then one in both directions
LAYERS = """
a, = RNN<hidden_size=4, activations=["Tanh"]>(x, w, r, b)
c = Squeeze(a, one)
d, = LSTM<hidden_size=3, direction="bidirectional">(c, lw, lr)
e = Transpose<perm=[0, 2, 1, 3]>(d)
f = Reshape(e, to)
y = MatMul(f, v)
"""


def _layers(dtype: str = "float64") -> ModelProto:
    shapes = {"one": np.array([1]), "to": np.array([0, 0, -1])}
    params = {**PARAMS, **shapes, "lw": PARAMS["lw"], "lr": PARAMS["lr"]}
    return build(LAYERS, {"x": ("T", "B", 3)}, params, dtype=dtype)


def _drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def _bodies(result: Rewritten) -> list[onnx.GraphProto]:
    scans = (n for n in result.proto().graph.node if n.op_type == "Scan")
    return [a.g for n in scans for a in n.attribute if a.name == "body"]


@pytest.mark.parametrize("form", [jvp, vjp])
def test_a_step_of_a_relu_rnn_is_a_product_a_sum_and_a_mask(form: object) -> None:
    body = 'y, = RNN<hidden_size=4, activations=["Relu"]>(x, w, r, b)'
    model = build(body, {"x": (5, 2, 3)}, {k: PARAMS[k] for k in "wrb"}, dtype="float32")
    result = (jvp if form is jvp else vjp)(model, wrt=["x"])
    (inside,) = _bodies(result)
    copies = ["Identity"] if form is jvp else []  # one value cannot be a state and given out
    assert sorted(n.op_type for n in inside.node) == ["Add", *copies, "MatMul", "Mul"]


def test_weights_are_turned_around_outside_the_steps() -> None:
    for result in (jvp(_layers()), vjp(_layers()), vjp(_layers(), wrt=["params"])):
        found = _bodies(result)
        assert len(found) >= 4
        assert not {n.op_type for body in found for n in body.node} & {"Transpose", "Squeeze"}


@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_the_original_keeps_its_values(op: str) -> None:
    """Where the last state alone is asked for, the node is made to give all of them."""
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[op]
    params = {"w": weights(1, 4 * gates, 3), "r": weights(1, 4 * gates, 4)}
    model = build(f", y = {op}<hidden_size=4>(x, w, r)", {"x": (5, 2, 3)}, params, dtype="float32")
    x = {"x": _drawn(5, 2, 3).astype("float32")}
    result = jvp(model)
    made = ort(result.proto(), {**x, "x_u": x["x"]})
    assert made["y"].tobytes() == ort(model, x)["y"].tobytes()
    assert [o.name for o in checked(result).graph.output] == ["y", "y_jvp"]


@pytest.mark.parametrize("wrt", [["x"], ["params"]], ids=str)
def test_second_derivatives_through_layers(wrt: list[str]) -> None:
    model = _layers()
    gradient = grad(model, wrt, loss="squared_error")
    result = hvp(model, wrt, loss="squared_error")
    x, target = _drawn(4, 2, 3, seed=1), _drawn(4, 2, 2, seed=2)
    feeds: Values = {"x": x}
    extra = {i.name for i in gradient.proto().graph.input} - {"x"}
    feeds |= dict.fromkeys(extra, target)
    run = Evaluator(gradient.proto()).run
    names = {v: form["grad"] for v, form in gradient.names["results"].items()}
    if wrt == ["x"]:
        u = {"x": _drawn(4, 2, 3, seed=3)}
    else:
        u = {v: _drawn(*PARAMS[v].shape, seed=3) for v in names}
        feeds |= {v: PARAMS[v] for v in names}
    wanted = directional_derivative(run, feeds, u, list(names.values()))
    seeds = {result.names["seeds"][v]: array for v, array in u.items()}
    values = Evaluator(checked(result)).run({**feeds, **seeds})
    for v, name in names.items():
        got = values[result.names["results"][v]["hvp"]]
        assert_close(got, wanted.value[name], DIFFERENCES, f"H u of {v}")


def test_in_a_branch() -> None:
    model = build(
        "p = Greater(s, zero)\n"
        "y = If<then_branch=t () => (a) {a, = GRU<hidden_size=4>(x, w, r)}, "
        "else_branch=e () => (c) {c = Mul(z, z)}>(p)",
        {"x": (5, 2, 3), "z": (5, 1, 2, 4), "s": ()},
        {
            "w": weights(1, 12, 3),
            "r": weights(1, 12, 4),
            "zero": np.array(0.0),
        },
    )
    point = {"x": _drawn(5, 2, 3), "z": _drawn(5, 1, 2, 4, seed=1), "s": np.array(1.0)}
    u = {"x": _drawn(5, 2, 3, seed=2), "z": _drawn(5, 1, 2, 4, seed=3)}
    wanted = directional_derivative(Evaluator(model).run, point, u, ["y"])
    result = jvp(model, wrt=["x", "z"])
    values = Evaluator(checked(result)).run({**point, "x_u": u["x"], "z_u": u["z"]})
    assert_close(values["y_jvp"], wanted.value["y"], DIFFERENCES, "J u")
    pulled = vjp(model, wrt=["x", "z"])
    v = _drawn(5, 1, 2, 4, seed=4)
    back = Evaluator(checked(pulled)).run({**point, "y_ct": v})
    left, right = (v * values["y_jvp"]).sum(), (back["x_vjp"] * u["x"]).sum()
    assert abs(left - right) < TOLERANCES["float64"] * np.abs(v * values["y_jvp"]).sum()


def test_a_clone_of_layers_in_float32() -> None:
    model = _layers("float32")
    x, u = (_drawn(4, 2, 3, seed=s).astype("float32") for s in (1, 2))
    wide = ({"x": v.astype(float)} for v in (x, u))
    wanted = directional_derivative(Evaluator(model).run, *wide, ["y"]).value["y"]
    for layout in ("split", "stacked"):
        values = ort(clone(model, layout=layout).proto(), {"x": x, "x_u": u}, optimize=True)
        assert_close(values["y_jvp"], wanted, TOLERANCES["float32"], layout)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ('activations=["Affine"]', "without activation_alpha"),
        ('activations=["ScaledTanh"], activation_alpha=[1.0]', "without activation_beta"),
        ('activations=["ThresholdedRelu"]', "without activation_alpha"),
        ('activations=["LeakyRelu"], activation_alpha=[-0.5]', "alpha = -0.5 is unknown"),
        ('activations=["Wavelet"]', "'Wavelet' has no derivative rule"),
    ],
)
def test_functions_without_a_rule_are_refused(activation: str, message: str) -> None:
    body = f"y, = RNN<hidden_size=4, {activation}>(x, w, r)"
    model = build(body, {"x": (5, 2, 3)}, {k: PARAMS[k] for k in "wr"}, dtype="float32")
    with pytest.raises(UnsupportedOpError, match=message):
        jvp(model)
