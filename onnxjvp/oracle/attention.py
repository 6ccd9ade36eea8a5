"""ONNX's Attention in NumPy; onnx.reference gives capped scores where they were not asked for."""

from __future__ import annotations

import math

import numpy as np

from onnxjvp.oracle.registry import Array, kernel


@kernel
def Attention(
    Q: Array,
    K: Array,
    V: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    is_causal: int = 0,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    outputs: int = 1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
) -> tuple[Array, ...]:
    """A row of scores at a time; one that may see no key gives zeros."""
    flat = Q.ndim == 3
    q, k, v = (
        np.stack(np.split(x, heads, axis=2), axis=1) if flat else x
        for x, heads in ((Q, q_num_heads), (K, kv_num_heads), (V, kv_num_heads))
    )
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
    (batch, heads, rows, size), length = q.shape, k.shape[2]
    factor = scale or 1 / math.sqrt(size)
    allowed = np.ones((batch, heads, rows, length), bool)
    bias = np.zeros((batch, heads, rows, length))
    if attn_mask is not None:
        given = attn_mask if attn_mask.dtype != bool else np.where(attn_mask, 0.0, -np.inf)
        missing = length - given.shape[-1]
        given = np.pad(given, [*[(0, 0)] * (given.ndim - 1), (0, missing)], constant_values=-np.inf)
        bias = bias + given
        allowed &= bias > -np.inf
    y = np.zeros((batch, heads, rows, v.shape[3]))
    stages = np.zeros((4, batch, heads, rows, length))
    for b, h, s in np.ndindex(batch, heads, rows):
        group = h // (heads // k.shape[1])
        filled = length if nonpad_kv_seqlen is None else int(nonpad_kv_seqlen[b])
        at = s + (past if nonpad_kv_seqlen is None else filled - rows)
        for t in range(length):
            seen = t < filled
            seen &= not is_causal or t <= at
            seen &= left_window_size < 0 or t >= at - left_window_size
            seen &= right_window_size < 0 or t <= at + right_window_size
            allowed[b, h, s, t] &= seen
        scores = factor * (k[b, group] @ q[b, h, s])
        capped = softcap * np.tanh(scores / softcap) if softcap else scores
        masked = np.where(allowed[b, h, s], capped + bias[b, h, s], -np.inf)
        chances = np.zeros(length)
        if allowed[b, h, s].any():
            powers = np.exp(masked - masked.max())
            chances = powers / powers.sum()
        stages[:, b, h, s] = scores, capped, masked, chances
        y[b, h, s] = chances @ v[b, group]
    joined = np.concatenate(list(np.moveaxis(y, 1, 0)), axis=-1) if flat else y
    return (joined, k, v, stages[qk_matmul_output_mode])[:outputs]
