"""NumPy implementations of operators that onnx.reference gets wrong, or slow, in float64.

Each function is named for its operator; inputs are positional, attributes keyword-only.
`outputs` is not an attribute: it is the number of outputs that the node asks for.
"""

from __future__ import annotations

import math

import numpy as np

from onnxjvp.oracle import (  # noqa: F401  (fill the table too)
    attention,
    convolution,
    indexing,
    loops,
    normalization,
    recurrent,
    resizing,
    rotary,
    sampling,
    training,
)
from onnxjvp.oracle.registry import KERNELS, Array, kernel, per_channel
from onnxjvp.oracle.special import erf

__all__ = ["KERNELS"]


@kernel
def LRN(
    X: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Array:
    """y = x / (bias + alpha/size · Σ x²)^beta, the sum over `size` channels around each."""
    before = (size - 1) // 2
    squares = np.pad(X * X, [(0, 0), (before, size - 1 - before), *[(0, 0)] * (X.ndim - 2)])
    total = np.zeros_like(X)
    for shift in range(size):
        total += squares[:, shift : shift + X.shape[1]]
    return X / (bias + alpha / size * total) ** beta


@kernel
def BatchNormalization(
    X: Array,
    scale: Array,
    B: Array,
    mean: Array,
    var: Array,
    *,
    outputs: int = 1,
    epsilon: float = 1e-5,
    momentum: float = 0.9,
    training_mode: int = 0,
) -> tuple[Array, ...]:
    """With training_mode, the batch's own statistics; running_var is of the population."""
    used_mean, used_var = mean, var
    if training_mode:
        axes = (0, *range(2, X.ndim))
        used_mean, used_var = X.mean(axis=axes), X.var(axis=axes)
    factor = scale / np.sqrt(used_var + epsilon)
    Y = (X - per_channel(used_mean, X)) * per_channel(factor, X) + per_channel(B, X)
    running_mean = mean * momentum + used_mean * (1 - momentum)
    running_var = var * momentum + used_var * (1 - momentum)
    return (Y, running_mean, running_var)[:outputs]


@kernel
def LayerNormalization(
    X: Array,
    scale: Array,
    B: Array | None = None,
    *,
    axis: int = -1,
    epsilon: float = 1e-5,
) -> tuple[Array, ...]:
    """All in float64: stash_type, the precision of the statistics, is meant for float16."""
    axes = tuple(range(axis % X.ndim, X.ndim))
    mean = X.mean(axis=axes, keepdims=True)
    inverse = 1 / np.sqrt(X.var(axis=axes, keepdims=True) + epsilon)
    Y = (X - mean) * inverse * scale
    return (Y if B is None else Y + B), mean, inverse


@kernel
def GroupNormalization(
    X: Array, scale: Array, bias: Array, *, num_groups: int, epsilon: float = 1e-5
) -> Array:
    grouped = X.reshape(X.shape[0], num_groups, -1)
    centred = grouped - grouped.mean(axis=2, keepdims=True)
    normal = centred / np.sqrt(grouped.var(axis=2, keepdims=True) + epsilon)
    return np.asarray(normal.reshape(X.shape) * per_channel(scale, X) + per_channel(bias, X))


@kernel
def Celu(X: Array, *, alpha: float = 1.0) -> Array:
    return np.asarray(np.maximum(X, 0) + np.minimum(alpha * np.expm1(X / alpha), 0))


@kernel
def Erf(X: Array) -> Array:
    return erf(X)


@kernel
def Gelu(X: Array, *, approximate: str = "none") -> Array:
    if approximate == "tanh":
        inner = np.tanh(math.sqrt(2 / math.pi) * (X + 0.044715 * X**3))
    else:
        inner = erf(X * math.sqrt(0.5))
    return np.asarray(0.5 * X * (1 + inner))


@kernel
def GatherElements(data: Array, indices: Array, *, axis: int = 0) -> Array:
    crop = tuple(
        slice(None) if i == axis % data.ndim else slice(n) for i, n in enumerate(indices.shape)
    )
    return np.asarray(np.take_along_axis(data[crop], indices, axis))


_UFUNCS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}


@kernel
def ScatterElements(
    data: Array, indices: Array, updates: Array, *, axis: int = 0, reduction: str = "none"
) -> Array:
    where = list(np.ogrid[tuple(slice(n) for n in indices.shape)])
    where[axis] = indices
    return _scatter(data, tuple(where), updates, reduction)


@kernel
def ScatterND(data: Array, indices: Array, updates: Array, *, reduction: str = "none") -> Array:
    return _scatter(data, tuple(np.moveaxis(indices, -1, 0)), updates, reduction)


def _scatter(data: Array, where: tuple[Array, ...], updates: Array, reduction: str) -> Array:
    result: Array = data.copy()
    if reduction == "none":
        result[where] = updates
    else:
        _UFUNCS[reduction].at(result, where, updates)
    return result


@kernel
def Mean(*operands: Array) -> Array:
    total = operands[0]
    for operand in operands[1:]:
        total = np.asarray(total + operand)
    return np.asarray(total / len(operands))


@kernel
def Softsign(X: Array) -> Array:
    return np.asarray(X / (1 + np.abs(X)))


@kernel
def Pad(
    data: Array,
    pads: Array,
    constant_value: Array | None = None,
    axes: Array | None = None,
    *,
    mode: str = "constant",
) -> Array:
    """Negative padding crops, before anything is added."""
    chosen = range(data.ndim) if axes is None else [int(axis) % data.ndim for axis in axes]
    widths = np.zeros((data.ndim, 2), np.int64)
    widths[list(chosen)] = pads.reshape(2, -1).T
    crop = tuple(
        slice(max(-before, 0), size - max(-after, 0))
        for size, (before, after) in zip(data.shape, widths.tolist(), strict=True)
    )
    added = np.maximum(widths, 0)
    if mode == "constant":
        fill = 0 if constant_value is None else constant_value.item()
        return np.pad(data[crop], added, constant_values=fill)
    return np.pad(data[crop], added, mode=mode)  # type: ignore[call-overload,no-any-return]


@kernel
def GlobalMaxPool(X: Array) -> Array:
    return np.asarray(X.max(axis=tuple(range(2, X.ndim)), keepdims=True))
