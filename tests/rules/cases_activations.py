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
    "Shrink": normal,
    "Shrink<lambd=0.3, bias=0.2>": normal,
    "Shrink<lambd=-0.3, bias=0.2>": normal,
    "Mish": wide,
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

CASES += [
    *(
        OpCase(op, _call(op, "x"), single=True, no_half="Celu is of float32 only")
        for op in ("Celu", "Celu<alpha=0.4>", "Celu<alpha=-0.7>")
    ),
    OpCase("Mish-22", "y = Mish(x)", opset=22, draw=wide),
    OpCase("Swish", "y = Swish(x)", opset=24, draw=wide),
    OpCase("Swish, alpha 1.7", "y = Swish<alpha=1.7>(x)", opset=24),
    OpCase("Swish, alpha -0.6, of a scalar", "y = Swish<alpha=-0.6>(x)", {"x": ()}, opset=24),
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
    OpCase(
        "Clip with live bounds",
        "y = Clip(x, low, high)",
        {"x": ("N", 7), "low": (), "high": ()},
        draws={"low": lambda rng, shape: rng.uniform(-0.7, -0.3, shape), "high": positive},
    ),
    OpCase("Clip with a live lower bound", "y = Clip(c, low)", {"low": ()}, {"c": weights(2, 7)}),
    OpCase(
        "Clip with a live upper bound", "y = Clip(c, , high)", {"high": ()}, {"c": weights(2, 7)}
    ),
    OpCase(
        "Clip with live bounds that cross",
        "y = Clip(x, low, high)",
        {"x": (5,), "low": (), "high": ()},
        draws={"low": positive, "high": lambda rng, shape: -positive(rng, shape)},
    ),
    OpCase("Clip, all the same", "y = Clip(x, x, x)", {"x": ()}),
    OpCase("Clip-6", "y = Clip<min=-0.6, max=0.8>(x)", opset=6 + 1),
    OpCase("Clip-6 below", "y = Clip<min=-0.6>(x)", opset=10),
    OpCase("Clip-12", "y = Clip(x, low, high)", params={"low": _LOW, "high": _HIGH}, opset=12),
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
    *(
        OpCase(
            f"Dropout, everything fed, training {mode}, ratio {quarters}/4",
            "f = Cast<to=FLOAT>(i)\nratio = Mul(f, q)\ny = Dropout<seed=7>(x, ratio, mode)",
            {"x": ("N", 12), "i": np.array(quarters), "mode": np.array(mode)},
            {"q": np.array(0.25)},
            random=True,
        )
        for mode, quarters in ((True, 3), (False, 3), (True, 0))
    ),
    OpCase(
        "Dropout with a ratio that is fed",
        "y = Dropout(x, ratio)",
        {"x": ("N", 3), "ratio": ()},
        draws={"ratio": lambda rng, shape: np.array(0.75)},
    ),
    OpCase(  # in training: tests/rules/test_conventions.py
        "Dropout that may train, with a ratio that is fed",
        "r = Sigmoid(z)\ny = Dropout<seed=7>(x, r, mode)",
        {"x": ("N", 3), "z": (), "mode": np.array(False)},
        random=True,
    ),
    OpCase("Dropout-7", "y = Dropout<ratio=0.4>(x)", opset=7),
    OpCase("Dropout-10", "y = Dropout<ratio=0.4>(x)", opset=10),
    OpCase("Dropout-12", "y = Dropout(x, ratio)", params=_RATIO, opset=12),
]

# -- piecewise constant ------------------------------------------------------------------------

CASES += [
    OpCase(f"{op} beside x", f"c = {op}(x)\ny = Mul(x, c)", draw=wide)
    for op in ("Floor", "Ceil", "Round", "Sign", "Hardmax")
]
CASES += [
    OpCase(
        f"Hardmax at opset {opset}{axis}, shape {list(x)}",
        f"c = Hardmax{axis}(x)\ny = Mul(x, c)",
        {"x": x},
        opset=opset,
        sizes={"N": 2, "C": 3, "W": 2},
    )
    for opset, axis, x in (
        (7, "", ("N", 3, 4)),
        (10, "<axis=0>", (2, 3)),
        (11, "<axis=1>", ("N", 3, 4)),
        (11, "<axis=-1>", ("N", 3, 4)),
        (12, "<axis=-2>", (2, 3, 4)),
        (12, "", ("N", "C", "W")),
        (13, "<axis=1>", ("N", 3, 4)),
    )
]
