"""The float64 kernels of RNN, GRU, LSTM and Scan against onnxruntime's in float32."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_close, build, ort, weights

from onnxjvp.oracle import Evaluator

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": 1, "GRU": 2, "LSTM": 3}
#: of each operator, what its attributes and operands can be
FORMS = {
    "RNN": ["", "clip=0.5"],
    "GRU": ["", "clip=0.5", "linear_before_reset=1", "clip=0.5, linear_before_reset=1"],
    "LSTM": ["", "clip=0.5", "input_forget=1"],
}
ACTIVATIONS = {
    "Affine": "activation_alpha=[{0}0.5], activation_beta=[{1}0.25]",
    "LeakyRelu": "activation_alpha=[{0}0.125]",
    "ThresholdedRelu": "activation_alpha=[{0}0.25]",
    "ScaledTanh": "activation_alpha=[{0}0.75], activation_beta=[{1}0.5]",
    "HardSigmoid": "",
    "Elu": "",
    "Relu": "",
    "Softsign": "",
    "Softplus": "",
}


def _check(op: str, attributes: str, directions: int, lens: bool, peepholes: bool = False) -> None:
    gates, hidden = GATES[op], 4
    params = {
        "w": 0.5 * weights(directions, gates * hidden, 3),
        "r": 0.25 * weights(directions, gates * hidden, hidden),
        "b": weights(directions, 2 * gates * hidden),
    }
    operands = ["x", "w", "r", "b", "lens" if lens else "", "h"]
    outputs = ["y", "yh"]
    inputs = {"x": (5, 2, 3), "h": (directions, 2, hidden)}
    if lens:
        params["lens"] = np.array([5, 3], np.int32)
    if op == "LSTM":
        inputs["c"] = inputs["h"]
        operands.append("c")
        outputs.append("yc")
    if peepholes:
        params["p"] = weights(directions, 3 * hidden)
        operands.append("p")
    body = f"{', '.join(outputs)} = {op}<hidden_size=4, {attributes}>({', '.join(operands)})"
    model = build(body, inputs, params, outputs, dtype="float32")
    rng = np.random.default_rng(0)
    feeds = {k: rng.standard_normal(shape).astype("float32") for k, shape in inputs.items()}
    found, wanted = Evaluator(model).run(feeds), ort(model, feeds)
    for name, value in wanted.items():
        assert_close(found[name].astype("float32"), value, 1e-5, name)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_directions_and_attributes(op: str, direction: str) -> None:
    count = 2 if direction == "bidirectional" else 1
    for form in FORMS[op]:
        attributes = ", ".join([f'direction="{direction}"', *([form] if form else [])])
        for lens in (False, True):
            _check(op, attributes, count, lens)
            if op == "LSTM":
                _check(op, attributes, count, lens, peepholes=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("op", GATES)
def test_activations(op: str, name: str) -> None:
    """The last function is the one; those before it take no alpha of its own."""
    before = ["Sigmoid", "Tanh"][: FUNCTIONS[op] - 1]
    listed = ", ".join(f'"{f}"' for f in [*before, name])
    numbers = ACTIVATIONS[name].format("", "")
    _check(op, f"activations=[{listed}]" + (f", {numbers}" if numbers else ""), 1, lens=False)


def test_alphas_are_taken_in_order_by_those_that_have_one() -> None:
    attributes = (
        'activations=["HardSigmoid", "Tanh", "LeakyRelu"], activation_alpha=[0.5, 0.125], '
        "activation_beta=[0.25]"
    )
    _check("LSTM", attributes, 1, lens=False)


@pytest.mark.parametrize(
    "attributes",
    [
        "",
        ", scan_input_directions=[1]",
        ", scan_input_axes=[1], scan_output_axes=[1]",
        ", scan_input_axes=[-2], scan_output_axes=[-1], scan_output_directions=[1]",
    ],
)
def test_axes_and_directions_of_a_scan(attributes: str) -> None:
    step = "{m = Mul(a, r) next = Tanh(m) out = Add(next, w)}"
    body = f"h, y = Scan<num_scan_inputs=1{attributes}, body=b (a, r) => (next, out) {step}>(h0, x)"
    params = {"w": weights(3, 3)}
    model = build(body, {"h0": (3, 3), "x": (3, 3, 3)}, params, ("h", "y"), dtype="float32")
    rng = np.random.default_rng(0)
    feeds = {"h0": rng.standard_normal((3, 3)), "x": rng.standard_normal((3, 3, 3))}
    feeds = {k: v.astype("float32") for k, v in feeds.items()}
    found, wanted = Evaluator(model).run(feeds), ort(model, feeds)
    for name, value in wanted.items():
        assert_close(found[name].astype("float32"), value, 1e-6, name)


def test_turns_of_a_loop() -> None:
    """Until the state is large; what is put together has an axis of its own."""
    step = (
        "{m = Mul(a, r) n = Add(m, m) l = ReduceMax<keepdims=0>(n) kn = Less(l, most) "
        "o = Add(n, i1)}"
    )
    head = "(int64 i, bool k, a) => (kn, n, o)"
    body = f"i1 = Identity(one)\nh, y = Loop<body=b {head} {step}>(, , h0)"
    params = {"r": np.full((2, 3), 0.75), "most": np.array(20.0), "one": np.ones((2, 3))}
    model = build(body, {"h0": (2, 3)}, params, ("h", "y"), dtype="float32")
    feeds = {"h0": np.linspace(0.5, 1.5, 6).reshape(2, 3).astype("float32")}
    found, wanted = Evaluator(model).run(feeds), ort(model, feeds)
    assert wanted["y"].shape[0] > 3
    for name, value in wanted.items():
        assert_close(found[name].astype("float32"), value, 1e-6, name)
