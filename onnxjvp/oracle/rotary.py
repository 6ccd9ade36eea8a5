"""Rotary position embeddings in NumPy, of ONNX and of onnxruntime."""

from __future__ import annotations

import numpy as np

from onnxjvp.oracle.registry import Array, kernel


@kernel
def RotaryEmbedding(
    X: Array,
    cos_cache: Array,
    sin_cache: Array,
    position_ids: Array | None = None,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
) -> Array:
    """Pairs of the first numbers of every head turned by the angles of their position."""
    heads = X if X.ndim == 4 else np.swapaxes(X.reshape(*X.shape[:2], num_heads, -1), 1, 2)
    cos, sin = cos_cache, sin_cache
    if position_ids is not None:
        cos, sin = cos[position_ids], sin[position_ids]
    y = turned(heads, cos[:, None], sin[:, None], interleaved, rotary_embedding_dim)
    return y if X.ndim == 4 else np.swapaxes(y, 1, 2).reshape(X.shape)


def turned(x: Array, cos: Array, sin: Array, interleaved: int, width: int) -> Array:
    """(a + ib) (cos + i sin) for the pairs a, b of the first `width` numbers of the last axis."""
    width = width or x.shape[-1]
    pairs = x[..., :width]
    if interleaved:
        first, second = pairs[..., ::2], pairs[..., 1::2]
    else:
        first, second = pairs[..., : width // 2], pairs[..., width // 2 :]
    cos, sin = cos[..., : width // 2], sin[..., : width // 2]
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    y: Array = x.copy()
    if interleaved:
        y[..., :width:2], y[..., 1:width:2] = real, imaginary
    else:
        y[..., : width // 2], y[..., width // 2 : width] = real, imaginary
    return y
