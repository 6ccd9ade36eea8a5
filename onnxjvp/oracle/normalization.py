"""NumPy implementations of normalisations in float64, as ONNX defines them."""

from __future__ import annotations

import numpy as np

from onnxjvp.oracle.registry import Array, kernel, per_channel


@kernel
def RMSNormalization(X: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5) -> Array:
    """All in float64, whatever stash_type says."""
    axes = tuple(range(axis % X.ndim, X.ndim))
    return np.asarray(X / np.sqrt((X * X).mean(axis=axes, keepdims=True) + epsilon) * scale)


@kernel
def InstanceNormalization(X: Array, scale: Array, B: Array, *, epsilon: float = 1e-5) -> Array:
    axes = tuple(range(2, X.ndim))
    centred = X - X.mean(axis=axes, keepdims=True)
    normal = centred / np.sqrt(X.var(axis=axes, keepdims=True) + epsilon)
    return np.asarray(per_channel(scale, X) * normal + per_channel(B, X))


@kernel
def MeanVarianceNormalization(X: Array, *, axes: tuple[int, ...] = (0, 2, 3)) -> Array:
    deviation = X.std(axis=tuple(axes), keepdims=True)
    return np.asarray((X - X.mean(axis=tuple(axes), keepdims=True)) / (deviation + 1e-9))


@kernel
def LpNormalization(X: Array, *, axis: int = -1, p: int = 2) -> Array:
    """0 where the norm is."""
    norm = np.linalg.norm(X, ord=p, axis=axis, keepdims=True)
    return np.asarray(np.where(norm == 0, 0.0, X / np.where(norm == 0, 1.0, norm)))
