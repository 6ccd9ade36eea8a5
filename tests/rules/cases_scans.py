"""Scan and Loop: states, slices, what bodies read around them, axes and directions, conditions."""

from __future__ import annotations

import numpy as np
from helpers import positive, weights
from op_case import OpCase

_W = weights(3, 3, seed=70)
_STEP = "{m = MatMul(a, w) n = Add(m, r) next = Tanh(n) out = Mul(next, r)}"
#: onnx's inference does not tell the rank of what a Loop puts together
_FLAT = np.array([-1, 6])


def _scan(
    step: str, inputs: str, attributes: str = "", results: str = "h, y", head: str = ""
) -> str:
    """A Scan in text form."""
    return f"{results} = Scan<num_scan_inputs=1{attributes}, body=b {head}{step}>({inputs})"


CASES = [
    OpCase(
        "Scan",
        _scan(_STEP, "h0, x", head="(a, r) => (next, out) "),
        {"h0": ("B", 3), "x": (4, "B", 3)},
        {"w": _W},
        outputs=("h", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan, what it reads live",
        _scan(_STEP, "h0, x", head="(a, r) => (next, out) "),
        {"h0": ("B", 3), "x": (4, "B", 3), "w": (3, 3)},
        outputs=("h", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan, its number of steps known at run time",
        _scan(_STEP, "h0, x", head="(a, r) => (next, out) "),
        {"h0": ("B", 3), "x": ("T", "B", 3), "w": (3, 3)},
        outputs=("h", "y"),
        sizes={"B": 2, "T": 5},
    ),
    OpCase(
        "Scan from the end, along other axes",
        _scan(
            _STEP,
            "h0, x",
            ", scan_input_axes=[1], scan_input_directions=[1], scan_output_axes=[-1], "
            "scan_output_directions=[1]",
            head="(a, r) => (next, out) ",
        ),
        {"h0": ("B", 3), "x": ("B", 4, 3), "w": (3, 3)},
        outputs=("h", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan from the end, its states given out",
        _scan(
            "{m = MatMul(a, w) n = Mul(m, r) next = Sigmoid(n) out = Identity(next)}",
            "h0, x",
            ", scan_input_directions=[1], scan_output_directions=[1]",
            head="(a, r) => (next, out) ",
        ),
        {"h0": ("B", 3), "x": (4, "B", 3), "w": (3, 3)},
        outputs=("h", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan of two states, one live behind the other",
        "h, c, y = Scan<num_scan_inputs=2, scan_output_directions=[1], body=b (a, d, r, s) => "
        "(next, more, out) {m = Mul(a, r) next = Sin(m) k = Mul(d, s) more = Add(k, a) "
        "out = Mul(more, next)}>(h0, c0, x, z)",
        {"h0": ("B", 3), "x": (4, "B", 3)},
        {"c0": weights(2, 3, seed=71), "z": weights(4, 2, 3, seed=72)},
        outputs=("h", "c", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan without a live state",
        "c, y = Scan<num_scan_inputs=1, body=b (a, r) => (next, out) "
        "{next = Mul(a, a) k = Mul(r, r) out = Mul(k, a)}>(c0, x)",
        {"x": (4, "B", 3)},
        {"c0": weights(3, seed=73)},
        outputs=("y",),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan of no state",
        "y = Scan<num_scan_inputs=1, body=b (r) => (out) {k = Mul(r, r) out = MatMul(k, w)}>(x)",
        {"x": (4, "B", 3), "w": (3, 3)},
        sizes={"B": 2},
    ),
    OpCase(
        "Scan, the last state alone",
        _scan("{m = Mul(a, r) next = Sin(m)}", "h0, x", results="h", head="(a, r) => (next) "),
        {"h0": ("B", 3), "x": (4, "B", 3)},
        outputs=("h",),
        sizes={"B": 2},
    ),
    OpCase(
        "Scan over a batch, as of opset 8",
        "h, y = Scan<num_scan_inputs=2, directions=[0, 1], body=b (a, r, q) => (next, out) "
        "{m = MatMul(a, w) n = Add(m, r) next = Tanh(n) out = Mul(next, q)}>(, h0, x, z)",
        {"h0": ("B", 3), "x": ("B", 4, 3), "z": ("B", 4, 3), "w": (3, 3)},
        outputs=("h", "y"),
        sizes={"B": 2},
        opset=8,
    ),
    OpCase(
        "Loop, a number of turns",
        "h, s = Loop<body=b (int64 i, bool k, a) => (k2, next, out) "
        "{k2 = Identity(k) m = MatMul(a, w) next = Tanh(m) out = Mul(next, z)}>(three, , h0)\n"
        "y = Reshape(s, flat)",
        {"h0": ("B", 3), "z": ("B", 3), "w": (3, 3)},
        {"three": np.array(3), "flat": _FLAT},
        outputs=("h", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Loop, while a condition holds",
        "h, = Loop<body=b (int64 i, bool k, a) => (k2, next) {m = Mul(a, a) next = Add(m, z) "
        "l = ReduceMax<keepdims=0>(next) k2 = Less(l, most)}>(, yes, h0)",
        {"h0": ("B", 3), "z": ("B", 3)},
        {"yes": np.array(True), "most": np.array(30.0)},
        outputs=("h",),
        sizes={"B": 2},
        draw=positive,
    ),
    OpCase(
        "Loop over elements, weights passed on",
        "n, h, u, t = Loop<body=b (int64 i, bool k, count, a, w) => (k2, more, next, same, out) "
        "{more = Add(count, one) r = Gather(x, count) m = MatMul(a, w) s = Add(m, r) "
        "next = Sigmoid(s) same = Identity(w) out = Identity(next) k2 = Less(more, four)}>"
        "(, yes, zero, h0, w0)\n"
        "y = Reshape(t, flat)\nv = Reshape(u, square)",
        {"h0": ("B", 3), "x": (4, "B", 3), "w0": (3, 3)},
        {
            "yes": np.array(True),
            "zero": np.array(0),
            "one": np.array(1),
            "four": np.array(4),
            "flat": _FLAT,
            "square": np.array([3, 3]),
        },
        outputs=("h", "v", "y"),
        sizes={"B": 2},
    ),
    OpCase(
        "Loop without a live state",
        "n, s = Loop<body=b (int64 i, bool k, c) => (k2, more, out) {k2 = Identity(k) "
        "more = Mul(c, c) f = Cast<to=FLOAT>(i) m = Mul(x, f) out = Mul(m, c)}>(three, , c0)\n"
        "y = Reshape(s, flat)",
        {"x": ("B", 3)},
        {"three": np.array(3), "c0": weights(3, seed=74), "flat": _FLAT},
        outputs=("y",),
        sizes={"B": 2},
    ),
]
