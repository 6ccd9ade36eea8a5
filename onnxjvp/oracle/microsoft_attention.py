"""The operators of onnxruntime that attend, in NumPy, one row and head at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from onnxjvp.oracle.attention import LinearAttention
from onnxjvp.oracle.microsoft import microsoft
from onnxjvp.oracle.registry import Array
from onnxjvp.oracle.rotary import turned


def _softmax(row: Array, more: float | None = None) -> Array:
    """Of one row; `more` is a logit of which the share goes nowhere."""
    top = max(row.max(), -np.inf if more is None else more)
    powers = np.exp(row - top)
    total = powers.sum() + (0.0 if more is None else math.exp(more - top))
    return np.asarray(powers / total)


def _split(x: Array, heads: int) -> Array:
    """[B, S, H·D] → [B, H, S, D]."""
    return np.stack(np.split(x, heads, axis=2), axis=1)


def _join(x: Array) -> Array:
    return np.concatenate(list(np.moveaxis(x, 1, 0)), axis=-1)


def _masked(
    shape: tuple[int, ...], mask: Array | None, value: float, causal: int, past: int
) -> Array:
    """What is added to scores [B, H, S, T], and −inf where a query must not look ahead."""
    batch, _, rows, columns = shape
    added = np.zeros((batch, 1, rows, columns))
    for b in range(batch):
        for t in range(columns):
            for s in range(rows):
                if mask is None:
                    shown = True
                elif mask.ndim == 3:
                    shown = mask[b, s, t] > 0
                elif mask.ndim == 2:
                    shown = mask[b, t] > 0
                else:
                    start = mask[batch + b] if len(mask) == 2 * batch else 0
                    shown = start <= t < mask[b]
                added[b, 0, s, t] = 0 if shown else np.float32(value)
                if causal and t > past + s:
                    added[b, 0, s, t] = -np.inf
    return added


def _attend(q: Array, k: Array, v: Array, scale: float, added: Array) -> Array:
    scale = scale or 1 / math.sqrt(q.shape[-1])
    scores = scale * np.einsum("bhsd,bhtd->bhst", q, k) + added
    chances = scores.copy()
    for index in np.ndindex(scores.shape[:3]):
        chances[index] = _softmax(scores[index])
    return np.asarray(np.einsum("bhst,bhtd->bhsd", chances, v))


@microsoft
def Attention(
    x: Array,
    weights: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    past: Array | None = None,
    attention_bias: Array | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    qkv_hidden_sizes: Any = None,
    scale: float = 0.0,
    unidirectional: int = 0,
    outputs: int = 1,
) -> tuple[Array, ...]:
    projected = x @ weights + (0 if bias is None else bias)
    sizes = qkv_hidden_sizes or [projected.shape[-1] // 3] * 3
    q, k, v = (
        _split(part, num_heads) for part in np.split(projected, np.cumsum(sizes)[:2], axis=-1)
    )
    length = 0
    if past is not None:
        length = past.shape[3]
        k, v = np.concatenate([past[0], k], axis=2), np.concatenate([past[1], v], axis=2)
    shape = (*q.shape[:3], k.shape[2])
    added = _masked(shape, mask, mask_filter_value, unidirectional, length)
    added = added if attention_bias is None else added + attention_bias
    y = _join(_attend(q, k, v, scale, added))
    return (y,) if outputs == 1 else (y, np.stack([k, v]))


@microsoft
def MultiHeadAttention(
    query: Array,
    key: Array | None = None,
    value: Array | None = None,
    bias: Array | None = None,
    mask: Array | None = None,
    attention_bias: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    *,
    num_heads: int,
    mask_filter_value: float = -10000.0,
    scale: float = 0.0,
    unidirectional: int = 0,
    outputs: int = 1,
) -> tuple[Array, ...]:
    if key is None:
        q, k, v = (np.moveaxis(query[:, :, :, i], 2, 1) for i in range(3))
    elif value is None:
        q = _split(query, num_heads)
        k, v = (np.moveaxis(key[:, :, :, i], 2, 1) for i in range(2))
    else:
        q, k, v = (x if x.ndim == 4 else _split(x, num_heads) for x in (query, key, value))
    if bias is not None:
        ends = np.cumsum([num_heads * x.shape[-1] for x in (q, k, v)])
        for_q, for_k, for_v = np.split(bias, ends[:2])
        q = q + for_q.reshape(1, num_heads, 1, -1)
        if key is None or key.ndim != 4:
            k = k + for_k.reshape(1, num_heads, 1, -1)
            v = v + for_v.reshape(1, num_heads, 1, -1)
    length = 0
    if past_key is not None and past_value is not None:
        length = past_key.shape[2]
        k, v = np.concatenate([past_key, k], axis=2), np.concatenate([past_value, v], axis=2)
    added = _masked((*q.shape[:3], k.shape[2]), mask, mask_filter_value, unidirectional, length)
    added = added if attention_bias is None else added + attention_bias
    return (_join(_attend(q, k, v, scale, added)), k, v)[:outputs]


@microsoft
def RotaryEmbedding(
    x: Array,
    position_ids: Array,
    cos_cache: Array,
    sin_cache: Array,
    *,
    interleaved: int = 0,
    num_heads: int = 0,
    rotary_embedding_dim: int = 0,
    scale: float = 1.0,
) -> Array:
    size = rotary_embedding_dim or 2 * cos_cache.shape[1]
    heads = _split(x, num_heads or x.shape[-1] // size) if x.ndim == 3 else x
    at = position_ids
    if at.ndim == 1:
        at = at[0] + np.arange(heads.shape[2])[None]
    cos, sin = cos_cache[at][:, None], sin_cache[at][:, None]
    y = np.float32(scale) * turned(heads, cos, sin, interleaved, rotary_embedding_dim)
    return _join(y) if x.ndim == 3 else y


@microsoft
def GroupQueryAttention(
    query: Array,
    key: Array | None,
    value: Array | None,
    past_key: Array | None,
    past_value: Array | None,
    seqlens_k: Array,
    total_sequence_length: Array,
    cos_cache: Array | None = None,
    sin_cache: Array | None = None,
    position_ids: Array | None = None,
    attention_bias: Array | None = None,
    head_sink: Array | None = None,
    *,
    num_heads: int,
    kv_num_heads: int,
    do_rotary: int = 0,
    rotary_interleaved: int = 0,
    local_window_size: int = -1,
    scale: float = 0.0,
    smooth_softmax: int = -1,
    softcap: float = 0.0,
    outputs: int = 1,
) -> tuple[Array, ...]:
    if key is None or value is None:
        size = query.shape[-1] // (num_heads + 2 * kv_num_heads)
        ends = [num_heads * size, (num_heads + kv_num_heads) * size]
        query, key, value = np.split(query, ends, axis=-1)
    q, k, v = _split(query, num_heads), _split(key, kv_num_heads), _split(value, kv_num_heads)
    batch, _, rows, size = q.shape
    kept = 0 if past_key is None else past_key.shape[2]
    total = int(np.max(total_sequence_length))
    length = max(kept, total)
    present = [np.zeros((batch, kv_num_heads, length, size)) for _ in range(2)]
    y = np.zeros_like(q)
    for b in range(batch):
        before = 0 if rows == total else int(seqlens_k[b]) + 1 - rows
        at = before + np.arange(rows)
        own_q, own_k = q[b], k[b]
        if do_rotary and cos_cache is not None and sin_cache is not None:
            turn = (cos_cache[at], sin_cache[at], rotary_interleaved, 2 * cos_cache.shape[1])
            own_q, own_k = turned(own_q, *turn), turned(own_k, *turn)
        for cache, past, own in zip(present, (past_key, past_value), (own_k, v[b]), strict=True):
            if before and past is not None:
                cache[b, :, :before] = past[b, :, :before]
            cache[b, :, before : before + rows] = own
        for h in range(num_heads):
            group = h // (num_heads // kv_num_heads)
            for s in range(rows):
                last = before + s + 1
                first = max(0, last - local_window_size) if local_window_size > 0 else 0
                seen = slice(first, last)
                scores = present[0][b, group, seen] @ own_q[h, s]
                scores = scores * (scale or 1 / math.sqrt(size))
                scores = softcap * np.tanh(scores / softcap) if softcap else scores
                if attention_bias is not None:
                    bias = np.broadcast_to(attention_bias, (batch, num_heads, rows, length))
                    scores = scores + bias[b, h, s, seen]
                more = 0.0 if smooth_softmax == 1 else None
                more = more if head_sink is None else float(head_sink[h])
                y[b, h, s] = _softmax(scores, more) @ present[1][b, group, seen]
    return (_join(y), *present)[:outputs]


microsoft(LinearAttention)
