"""Steps of optimisers in NumPy; onnx.reference gives those of several tensors in float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from onnxjvp.oracle.registry import KERNELS, Array, operator


def _training(function: Callable[..., Any]) -> Callable[..., Any]:
    KERNELS.append(operator(function, "ai.onnx.preview.training"))
    return function


def _for_each(tensors: tuple[Array, ...], each: int, step: Callable[..., Any]) -> Any:
    """What a step makes of every tensor and its states, as the operators order it."""
    count = len(tensors) // each
    made = [step(*(tensors[k * count + i] for k in range(each))) for i in range(count)]
    return tuple(np.asarray(row[k]) for k in range(each - 1) for row in made)


@_training
def Adagrad(
    R: Array,
    T: Array,
    *tensors: Array,
    decay_factor: float = 0.0,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
) -> Any:
    def step(x: Array, g: Array, h: Array) -> tuple[Array, ...]:
        slope = norm_coefficient * x + g
        total = h + slope**2
        return x - R / (1 + T * decay_factor) * slope / (np.sqrt(total) + epsilon), total

    return _for_each(tensors, 3, step)


@_training
def Adam(
    R: Array,
    T: Array,
    *tensors: Array,
    alpha: float = 0.9,
    beta: float = 0.999,
    epsilon: float = 1e-6,
    norm_coefficient: float = 0.0,
    norm_coefficient_post: float = 0.0,
) -> Any:
    rate = R * np.sqrt(1 - beta**T) / (1 - alpha**T) if T > 0 else R

    def step(x: Array, g: Array, v: Array, h: Array) -> tuple[Array, ...]:
        slope = norm_coefficient * x + g
        first = alpha * v + (1 - alpha) * slope
        second = beta * h + (1 - beta) * slope**2
        moved = x - rate * first / (np.sqrt(second) + epsilon)
        return (1 - norm_coefficient_post) * moved, first, second

    return _for_each(tensors, 4, step)


@_training
def Momentum(
    R: Array,
    T: Array,
    *tensors: Array,
    alpha: float,
    beta: float,
    mode: str,
    norm_coefficient: float,
) -> Any:
    def step(x: Array, g: Array, v: Array) -> tuple[Array, ...]:
        slope = norm_coefficient * x + g
        kept = alpha * v + (beta if T > 0 else 1.0) * slope
        return x - R * (slope + alpha * kept if mode == "nesterov" else kept), kept

    return _for_each(tensors, 3, step)
