"""Trigonometric and hyperbolic functions, and their inverses."""

from __future__ import annotations

import numpy as np
from helpers import Array, Draw, normal, wide
from op_case import OpCase


def _inside(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(-0.9, 0.9, shape)


def _above_one(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(1.1, 4.0, shape)


_DRAWS: dict[str, Draw] = {
    "Sin": wide,
    "Cos": wide,
    "Tan": _inside,
    "Asin": _inside,
    "Acos": _inside,
    "Atan": wide,
    "Sinh": normal,
    "Cosh": normal,
    "Asinh": wide,
    "Acosh": _above_one,
    "Atanh": _inside,
}
#: the first opset of each that onnxruntime runs
_OLDEST = {"Sinh": 9, "Cosh": 9, "Asinh": 9, "Acosh": 9, "Atanh": 9}
CASES = [OpCase(op, f"y = {op}(x)", draw=draw) for op, draw in _DRAWS.items()]
CASES += [
    OpCase(f"{op} of a scalar", f"y = {op}(x)", {"x": ()}, draw=draw) for op, draw in _DRAWS.items()
]
CASES += [
    OpCase(f"{op} at opset {opset}", f"y = {op}(x)", draw=draw, opset=opset)
    for op, draw in _DRAWS.items()
    for opset in (_OLDEST.get(op, 7), 22)
]
