"""Steps of the optimisers of ai.onnx.preview.training."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Input, positive
from op_case import OpCase

_NO_KERNEL = "onnxruntime's releases for inference leave its training out"


def step(name: str, call: str, outputs: str, count: int, inputs: dict[str, Input]) -> OpCase:
    """A step that is the `count`-th, at the rate r."""
    given: dict[str, Any] = {"r": (), **inputs, "t": np.array(count)}
    names = ", ".join(inputs)
    return OpCase(
        name,
        f"{outputs} = ai.onnx.preview.training.{call}(r, t, {names})",
        given,
        outputs=tuple(outputs.split(", ")),
        draws={"r": positive, "h": positive, "j": positive},
        no_runtime=_NO_KERNEL,
        evaluated=_NO_KERNEL,
    )


_X: dict[str, Input] = {"x": ("N", 3), "g": ("N", 3)}
_TWO: dict[str, Input] = {
    **{"x": ("N", 3), "z": (2,), "g": ("N", 3), "f": (2,)},
    **{"h": ("N", 3), "j": (2,)},
}
_ADAM: dict[str, Input] = {**_X, "v": ("N", 3), "h": ("N", 3)}

CASES = [
    step("Adagrad", "Adagrad", "y, k", 0, {**_X, "h": ("N", 3)}),
    step(
        "Adagrad, two tensors that are regularised",
        "Adagrad<norm_coefficient=0.1, decay_factor=0.2, epsilon=0.01>",
        "y, a, k, b",
        2,
        _TWO,
    ),
    step("Adam in its first step", "Adam", "y, w, k", 0, _ADAM),
    step(
        "Adam, regularised twice",
        "Adam<norm_coefficient=0.1, norm_coefficient_post=0.2, alpha=0.8, beta=0.9, epsilon=0.01>",
        "y, w, k",
        3,
        _ADAM,
    ),
    step(
        "Momentum in its first step",
        'Momentum<norm_coefficient=0.0, alpha=0.8, beta=0.3, mode="standard">',
        "y, w",
        0,
        {**_X, "v": ("N", 3)},
    ),
    step(
        "Momentum of Nesterov, two tensors",
        'Momentum<norm_coefficient=0.1, alpha=0.8, beta=0.3, mode="nesterov">',
        "y, a, k, b",
        2,
        _TWO,
    ),
]
