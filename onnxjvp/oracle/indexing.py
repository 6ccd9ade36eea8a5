"""NumPy implementations of operators that choose or place by index."""

from __future__ import annotations

import numpy as np

from onnxjvp.oracle.registry import Array, kernel


@kernel
def CumSum(x: Array, axis: Array, *, exclusive: int = 0, reverse: int = 0) -> Array:
    """`axis` may have one element in place of rank 0: torch's exporter and runtimes allow that."""
    at = int(axis.reshape(()))
    turned = np.flip(x, at) if reverse else x
    total = np.cumsum(turned, axis=at, dtype=x.dtype)
    total = total - turned if exclusive else total
    return np.asarray(np.flip(total, at) if reverse else total)


@kernel
def OneHot(indices: Array, depth: Array, values: Array, *, axis: int = -1) -> Array:
    """`values` is [off, on]; indices outside [-depth, depth) are on nowhere."""
    count = int(depth.reshape(()))
    at = np.where(indices < 0, indices + count, indices)
    hot = np.expand_dims(at, axis) == np.arange(count).reshape(
        [-1 if k == axis % (indices.ndim + 1) else 1 for k in range(indices.ndim + 1)]
    )
    return np.asarray(np.where(hot, values[1], values[0]))


@kernel
def Unique(
    X: Array,
    *,
    axis: int | None = None,
    sorted: int = 1,  # noqa: A002  (its name in ONNX)
    outputs: int = 1,
) -> tuple[Array, ...]:
    """Unsorted: in the order in which they come first."""
    _, first, inverse, counts = np.unique(X, True, True, True, axis=axis)
    order = np.arange(first.size) if sorted else np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    source = X.reshape(-1) if axis is None else X
    found = np.take(source, first[order], axis=0 if axis is None else axis)
    return (found, first[order], place[inverse.reshape(-1)], counts[order])[:outputs]
