"""Reductions, and cumulative products."""

from __future__ import annotations

import numpy as np
from helpers import Array, Draw, Input, ints, normal, positive
from op_case import OpCase

_CUBE: dict[str, Input] = {"x": ("N", 3, 4)}
_REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
    "ReduceLogSum",
    "ReduceProd",
)
_DRAWS: dict[str, Draw] = {"ReduceLogSum": positive, "ReduceProd": positive}
_NEGATIVE = "onnxruntime mistakes negative axes of an empty tensor"
CASES: list[OpCase] = []
for _op in _REDUCTIONS:
    _draw = _DRAWS.get(_op, normal)
    for _axes in ([1], [-1], [0, 2], [2, 0], [-3], [0, 1, 2]):
        for _keep in (0, 1):
            CASES.append(
                OpCase(
                    f"{_op}, axes {_axes}, keepdims {_keep}",
                    f"y = {_op}<keepdims={_keep}>(x, axes)",
                    _CUBE,
                    {"axes": ints(*_axes)},
                    draw=_draw,
                    not_empty=_NEGATIVE if min(_axes) < 0 else "",
                )
            )
    CASES += [
        OpCase(f"{_op} of all", f"y = {_op}(x)", draw=_draw),
        OpCase(f"{_op} of all to a scalar", f"y = {_op}<keepdims=0>(x)", draw=_draw),
        OpCase(f"{_op} of a vector", f"y = {_op}<keepdims=0>(x)", {"x": (4,)}, draw=_draw),
        OpCase(
            f"{_op} of nothing (noop)",
            f"y = {_op}<noop_with_empty_axes=1>(x, axes)",
            params={"axes": ints()},
            draw=_draw,
        ),
        OpCase(
            f"{_op} with an empty list of axes",
            f"y = {_op}(x, axes)",
            params={"axes": ints()},
            draw=_draw,
        ),
        OpCase(
            f"{_op} of an axis of one",
            f"y = {_op}<keepdims=0>(x, axes)",
            {"x": ("N", 1, 3)},
            {"axes": ints(1)},
            draw=_draw,
        ),
        OpCase(
            f"{_op}-11, axes an attribute",
            f"y = {_op}<axes=[1], keepdims=0>(x)",
            _CUBE,
            opset=11,
            draw=_draw,
        ),
        OpCase(f"{_op}-11 of all", f"y = {_op}(x)", opset=11, draw=_draw),
    ]
_GRID: dict[str, Input] = {"x": ("D", "H", "W")}
for _op in _REDUCTIONS:
    for _axes, _more in (((-1, 0), ""), ((1,), ""), ((), ""), ((), ", noop_with_empty_axes=1")):
        CASES.append(
            OpCase(
                f"{_op} over fed axes {list(_axes)}{_more}",
                f"s = {_op}<keepdims=1{_more}>(x, axes)\nn = Shape(x)\ny = Expand(s, n)",
                {**_GRID, "axes": ints(*_axes)},
                sizes={"D": 2, "H": 3, "W": 4},
                draw=_DRAWS.get(_op, normal),
            )
        )
CASES += [
    OpCase(
        "ReduceMax over many symbols",
        "y = ReduceMax<keepdims=0>(x, axes)",
        {"x": ("N", "H", 3, "W")},
        {"axes": ints(1, 3)},
        sizes={"N": 2, "H": 2, "W": 3},
    ),
    OpCase(
        "ReduceMean over symbols",
        "y = ReduceMean<keepdims=0>(x, axes)",
        {"x": ("N", 3, "H", "W")},
        {"axes": ints(2, 3)},
        sizes={"N": 2, "H": 2, "W": 3},
    ),
    OpCase(
        "ReduceSum-13, axes an input",
        "y = ReduceSum<keepdims=0>(x, axes)",
        _CUBE,
        {"axes": ints(1)},
        opset=13,
    ),
]

# -- products ----------------------------------------------------------------------------------


def _with_zeros(*at: int) -> Draw:
    """Zeros at some places, counted through the last axis."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        numbers = rng.standard_normal(shape)
        numbers[..., list(at)] = 0
        return numbers

    return draw


CASES += [
    OpCase(
        f"ReduceProd of {n} with zeros at {list(at)}",
        "y = ReduceProd(x, axes)",
        {"x": ("N", n)},
        {"axes": ints(1)},
        draw=_with_zeros(*at),
        flat=len(at) > 1,
    )
    for n, at in ((2, (0,)), (5, (3,)), (5, (1, 4)), (7, (0, 6)), (1, (0,)))
]
CASES += [
    OpCase(
        f"ReduceProd of a symbol, zeros at {list(at)}",
        "y = ReduceProd<keepdims=0>(x, axes)",
        {"x": ("N", "W")},
        {"axes": ints(1)},
        sizes={"N": 2, "W": 4},
        draw=_with_zeros(*at),
        flat=len(at) > 1,
    )
    for at in ((), (2,), (0, 3))
]
CASES += [
    OpCase(
        f"CumProd along an axis that is fed, {axis}, {_how}",
        f"y = CumProd<{_how}>(x, a)",
        {"x": ("N", 3, "W"), "a": np.array(axis)},
        sizes={"N": 2, "W": 4},
        opset=26,
    )
    for axis, _how in ((-3, "exclusive=1"), (1, "reverse=1"), (2, "exclusive=1, reverse=1"))
]
for _exclusive in (0, 1):
    for _reverse in (0, 1):
        _how = f"exclusive={_exclusive}, reverse={_reverse}"
        CASES += [
            OpCase(
                f"CumProd {what}, {_how}",
                f"y = CumProd<{_how}>(x, a)",
                {"x": x},
                {"a": np.array(axis)},
                sizes={"N": 2, "W": 3},
                draw=draw,
                opset=26,
            )
            for what, x, axis, draw in (
                ("of five", ("N", 5), 1, normal),
                ("with a zero", ("N", 5), 1, _with_zeros(2)),
                ("with two zeros", (4,), -1, _with_zeros(1, 2)),
                ("in the middle", ("N", 3, 2), -2, normal),
                ("of a symbol", ("N", "W", 2), 1, normal),
                ("of the batch", ("N", 3), 0, normal),
                ("of a symbol, with a zero", ("N", "W"), 1, _with_zeros(1)),
            )
        ]
