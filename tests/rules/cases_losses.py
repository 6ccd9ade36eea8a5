"""Losses of classes, which are functions of other operators."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Draw, Input, ints, normal, positive
from op_case import OpCase


def _log_probabilities(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return -rng.uniform(0.1, 2.0, shape)


_SHAPES: dict[str, tuple[tuple[int | str, ...], np.ndarray[Any, Any]]] = {
    "rows": ((3, 4), ints(1, 3, 0)),
    "sequences": ((2, 4, 3), np.array([[1, 0, 3], [2, 2, 1]])),
    "images": ((2, 3, 2, 2), np.array([[[1, 0], [2, 1]], [[0, 0], [1, 2]]])),
}
_WEIGHTS = np.array([0.5, 1.5, 2.0, 0.25])
_OF_MANY_AXES = {
    ("mean", ", one class ignored, weighted"),
    ("sum", ", one class ignored"),
    ("none", ", weighted"),
}
_LOSSES: tuple[tuple[str, Draw], ...] = (
    ("SoftmaxCrossEntropyLoss", normal),
    ("NegativeLogLikelihoodLoss", _log_probabilities),
)

CASES: list[OpCase] = []
for _op, _draw in _LOSSES:
    for _reduction in ("mean", "sum", "none"):
        _how = f'reduction="{_reduction}"'
        for _what, (_x, _target) in _SHAPES.items():
            _w = {"w": _WEIGHTS[: int(_x[1])]}
            CASES += [
                OpCase(
                    f"{_op} of {_what}, {_reduction}{name}",
                    f"y = {_op}<{_how}{attribute}>(x, t{', w' if weights else ''})",
                    {"x": _x},
                    {"t": _target, **weights},
                    draw=_draw,
                )
                for name, attribute, weights in (
                    ("", "", {}),
                    (", weighted", "", _w),
                    (", one class ignored", ", ignore_index=0", {}),
                    (", one class ignored, weighted", ", ignore_index=0", _w),
                )
                # of many axes, one of each
                if _what == "rows" or (_reduction, name) in _OF_MANY_AXES
            ]
    CASES += [
        OpCase(
            f"{_op}, targets fed, everything dynamic",
            f"y = {_op}(x, t)",
            {"x": ("N", "C", "W"), "t": _SHAPES["sequences"][1]},
            sizes={"N": 2, "C": 4, "W": 3},
            draw=_draw,
            not_empty="the targets are of two samples",
        ),
        OpCase(
            f"{_op}, targets that are no class are ignored",
            f"y = {_op}<ignore_index=-100>(x, t)",
            {"x": (3, 4)},
            {"t": ints(1, -100, 2)},
            draw=_draw,
        ),
        OpCase(
            f"{_op}-12",
            f"y = {_op}(x, t)",
            {"x": (3, 4)},
            {"t": ints(1, 3, 0)},
            draw=_draw,
            opset=12,
        ),
    ]

_SCORES: dict[str, Input] = {"x": (2, 4, 3)}
_TARGET = {"t": _SHAPES["sequences"][1]}
CASES += [
    OpCase(
        "SoftmaxCrossEntropyLoss with its log probabilities",
        "y, p = SoftmaxCrossEntropyLoss<ignore_index=2>(x, t)",
        _SCORES,
        _TARGET,
        outputs=("y", "p"),
    ),
    OpCase(
        "SoftmaxCrossEntropyLoss, its log probabilities alone",
        "y, p = SoftmaxCrossEntropyLoss(x, t)",
        _SCORES,
        _TARGET,
        outputs=("p",),
    ),
    OpCase(
        "SoftmaxCrossEntropyLoss, weights live",
        "y = SoftmaxCrossEntropyLoss(x, t, w)",
        {**_SCORES, "w": (4,)},
        _TARGET,
        draws={"w": positive},
    ),
    OpCase(
        "NegativeLogLikelihoodLoss, weights live",
        'y = NegativeLogLikelihoodLoss<reduction="sum">(x, t, w)',
        {**_SCORES, "w": (4,)},
        _TARGET,
    ),
    OpCase(
        "NegativeLogLikelihoodLoss-22",
        "y = NegativeLogLikelihoodLoss(x, t)",
        _SCORES,
        _TARGET,
        opset=22,
    ),
]
