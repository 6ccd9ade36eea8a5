"""Elementwise operators: piecewise affine, smooth, powers, and Dropout."""

from __future__ import annotations

import numpy as np
from helpers import Draw, normal, positive, weights, wide
from op_case import OpCase

_UNARY: dict[str, Draw] = {
    "Relu": normal,
    "LeakyRelu": normal,
    "LeakyRelu<alpha=0.3>": normal,
    "LeakyRelu<alpha=-0.5>": normal,
    "Abs": normal,
    "HardSigmoid": wide,
    "HardSigmoid<alpha=0.4, beta=0.1>": wide,
    "HardSwish": wide,
    "ThresholdedRelu": wide,
    "ThresholdedRelu<alpha=-0.5>": normal,
    "Sigmoid": wide,
    "Tanh": normal,
    "Exp": normal,
    "Log": positive,
    "Sqrt": positive,
    "Reciprocal": positive,
    "Erf": normal,
    "Sin": wide,
    "Cos": wide,
    "Softplus": wide,
    "Softsign": wide,
    "Elu": normal,
    "Elu<alpha=0.4>": normal,
    "Selu": normal,
    "Selu<alpha=1.2, gamma=0.7>": normal,
}


def _call(operator: str, argument: str) -> str:
    return f"y = {operator}({argument})"


CASES = [OpCase(op, _call(op, "x"), draw=draw) for op, draw in _UNARY.items()]
CASES += [
    OpCase(f"{op} of a scalar", _call(op, "x"), {"x": ()}, draw=_UNARY[op])
    for op in ("Relu", "LeakyRelu", "Tanh", "Sqrt", "HardSwish", "Softsign")
]
CASES += [
    OpCase(f"{op} of a fixed shape", _call(op, "x"), {"x": (2, 1, 3)}, draw=_UNARY[op])
    for op in ("Relu", "LeakyRelu", "Sigmoid", "Elu")
]
CASES += [
    OpCase(f"{op} at opset {opset}", _call(op, "x"), opset=opset, draw=wide)
    for op, opset in (("Relu", 7), ("LeakyRelu", 7), ("Elu", 7), ("Tanh", 9), ("Sigmoid", 11))
]

# -- Gelu --------------------------------------------------------------------------------------

CASES += [
    OpCase("Gelu", "y = Gelu(x)", opset=20, draw=wide),
    OpCase("Gelu tanh", 'y = Gelu<approximate="tanh">(x)', opset=20, draw=wide),
]

# -- Clip --------------------------------------------------------------------------------------

_LOW, _HIGH = np.array(-0.6), np.array(0.8)
CASES += [
    OpCase("Clip", "y = Clip(x, low, high)", params={"low": _LOW, "high": _HIGH}),
    OpCase("Clip below", "y = Clip(x, low)", params={"low": _LOW}),
    OpCase("Clip above", "y = Clip(x, , high)", params={"high": _HIGH}),
    OpCase("Clip without bounds", "y = Clip(x)"),
    OpCase(
        "Clip with bounds that the model computes",
        "low = Neg(high)\ny = Clip(x, low, high)",
        params={"high": _HIGH},
    ),
    OpCase("Clip-6", "y = Clip<min=-0.6, max=0.8>(x)", opset=6 + 1),
    OpCase("Clip-6 below", "y = Clip<min=-0.6>(x)", opset=10),
    OpCase("Clip-11", "y = Clip(x, low, high)", params={"low": _LOW, "high": _HIGH}, opset=11),
]

# -- PRelu -------------------------------------------------------------------------------------

_IMAGES = ("N", 3, 2, 2)
CASES += [
    OpCase("PRelu, a slope per element", "y = PRelu(x, a)", params={"a": weights(3)}),
    OpCase("PRelu, one slope", "y = PRelu(x, a)", params={"a": weights(1)}),
    OpCase(
        "PRelu, a slope per channel", "y = PRelu(x, a)", {"x": _IMAGES}, {"a": weights(3, 1, 1)}
    ),
    OpCase("PRelu, live slope", "y = PRelu(x, a)", {"x": _IMAGES, "a": (3, 1, 1)}),
    OpCase("PRelu, only the slope live", "y = PRelu(w, a)", {"a": (3,)}, {"w": weights(2, 3)}),
    OpCase("PRelu, x and slope the same", "y = PRelu(x, x)"),
    OpCase("PRelu-7", "y = PRelu(x, a)", {"x": _IMAGES}, {"a": weights(3, 1, 1)}, opset=7),
]

# -- Pow ---------------------------------------------------------------------------------------

CASES += [
    OpCase(f"Pow {exponent}", "y = Pow(x, e)", params={"e": np.array(exponent)}, draw=draw)
    for exponent, draw in (
        (2.0, normal),
        (3.0, normal),
        (0.5, positive),
        (1.0, normal),
        (-1.0, positive),
        (-2.5, positive),
    )
]
CASES += [
    OpCase("Pow 0", "p = Pow(x, e)\ny = Add(p, x)", params={"e": np.array(0.0)}),
    OpCase(
        "Pow by a vector", "y = Pow(x, e)", params={"e": np.array([0.0, 1.0, 2.5])}, draw=positive
    ),
    OpCase("Pow by a vector of one", "y = Pow(x, e)", params={"e": np.array([2.0])}),
    OpCase(
        "Pow that broadcasts x", "y = Pow(x, e)", {"x": ("N", 1)}, {"e": weights(3)}, draw=positive
    ),
    OpCase("Pow that widens a scalar", "y = Pow(x, e)", {"x": ()}, {"e": np.full((2, 1), 2.0)}),
    OpCase("Pow by an integer", "y = Pow(x, e)", params={"e": np.array(3, np.int64)}),
    OpCase("Pow by integers", "y = Pow(x, e)", params={"e": np.array([1, 2, 3], np.int64)}),
    OpCase(
        "Pow, live exponent", "y = Pow(w, e)", {"e": ("N", 3)}, {"w": np.array([0.5, 1.5, 2.0])}
    ),
    OpCase("Pow, both live", "y = Pow(x, e)", {"x": ("N", 3), "e": (3,)}, draws={"x": positive}),
    OpCase("Pow, both the same", "y = Pow(x, x)", draw=positive),
    OpCase("Pow-7", "y = Pow(x, e)", params={"e": np.array(2.0)}, opset=7),
]

# -- Dropout -----------------------------------------------------------------------------------

# onnxruntime keeps 1 / (1 − ratio) in float32 always: with this ratio that is exact
_RATIO = {"ratio": np.array(0.75)}
CASES += [
    OpCase("Dropout", "y = Dropout(x, ratio)", params=_RATIO),
    OpCase("Dropout without a ratio", "y = Dropout(x)"),
    OpCase(
        "Dropout at inference, said so",
        "y = Dropout(x, ratio, mode)",
        params={**_RATIO, "mode": np.array(False)},
    ),
    OpCase(
        "Dropout in training",
        "y = Dropout<seed=7>(x, ratio, mode)",
        {"x": ("N", 12)},
        {**_RATIO, "mode": np.array(True)},
        random=True,
    ),
    OpCase(
        "Dropout in training, mask given out",
        "y, mask = Dropout<seed=7>(x, ratio, mode)",
        {"x": ("N", 12)},
        {**_RATIO, "mode": np.array(True)},
        outputs=("y", "mask"),
        excluded=("mask",),
        random=True,
    ),
    OpCase(
        "Dropout in training without a ratio",
        "y = Dropout<seed=7>(x, , mode)",
        {"x": ("N", 12)},
        {"mode": np.array(True)},
        random=True,
    ),
    OpCase(
        "Dropout in training, ratio 0",
        "y = Dropout<seed=7>(x, ratio, mode)",
        params={"ratio": np.array(0.0), "mode": np.array(True)},
        random=True,
    ),
    OpCase("Dropout-7", "y = Dropout<ratio=0.4>(x)", opset=7),
    OpCase("Dropout-10", "y = Dropout<ratio=0.4>(x)", opset=10),
    OpCase("Dropout-12", "y = Dropout(x, ratio)", params=_RATIO, opset=12),
]

# -- piecewise constant ------------------------------------------------------------------------

CASES += [
    OpCase(f"{op} beside x", f"c = {op}(x)\ny = Mul(x, c)", draw=wide)
    for op in ("Floor", "Ceil", "Round", "Sign")
]
