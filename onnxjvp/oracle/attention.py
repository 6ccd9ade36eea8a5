"""ONNX's operators that attend, in NumPy.

onnx.reference gives capped scores where they were not asked for, has states in float32, and lets
the graphs inside FlexAttention read nothing around them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxjvp.oracle.registry import KERNELS, Array, kernel


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


@kernel
def LinearAttention(
    query: Array,
    key: Array,
    value: Array,
    past_state: Array | None = None,
    decay: Array | None = None,
    beta: Array | None = None,
    *,
    kv_num_heads: int,
    q_num_heads: int,
    scale: float = 0.0,
    update_rule: str = "gated_delta",
) -> tuple[Array, Array]:
    """A batch, a head and a step at a time, in the words of the definition."""
    (batch, steps, _), heads = query.shape, kv_num_heads
    q = query.reshape(batch, steps, q_num_heads, -1)
    k, v = (x.reshape(batch, steps, heads, -1) for x in (key, value))
    factor = scale or 1 / math.sqrt(q.shape[3])
    state = np.zeros((batch, heads, k.shape[3], v.shape[3]))
    state += 0.0 if past_state is None else past_state
    y = np.zeros((batch, steps, q_num_heads, v.shape[3]))
    for b, h in np.ndindex(batch, heads):
        for t in range(steps):
            s, written = state[b, h], v[b, t, h]
            if "gated" in update_rule:
                assert decay is not None
                s = np.exp(decay.reshape(batch, steps, heads, -1)[b, t, h])[:, None] * s
            if "delta" in update_rule:
                assert beta is not None
                written = beta[b, t, h % beta.shape[2]] * (written - s.T @ k[b, t, h])
            state[b, h] = s + np.outer(k[b, t, h], written)
            for i in range(h * q_num_heads // heads, (h + 1) * q_num_heads // heads):
                y[b, t, i] = factor * (q[b, t, i] @ state[b, h])
    return y.reshape(batch, steps, -1), state


class FlexAttention(OpRun):
    """Its graphs are run on all scores at once."""

    op_domain = "ai.onnx.preview"

    def need_context(self) -> bool:
        return True

    def _run(
        self,
        Q: Array,
        K: Array,
        V: Array,
        context: Any = None,
        scale: float | None = None,
        score_mod: Any = None,
        prob_mod: Any = None,
        **_: Any,
    ) -> tuple[Array]:
        group = Q.shape[1] // K.shape[1]
        owner = [h // group for h in range(Q.shape[1])]
        factor = 1 / math.sqrt(Q.shape[3]) if scale is None else scale
        scores = factor * np.einsum("bhsd,bhtd->bhst", Q, K[:, owner])
        scores = _changed(score_mod, scores, context)
        powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
        chances = _changed(prob_mod, powers / powers.sum(axis=-1, keepdims=True), context)
        return (np.einsum("bhst,bhtd->bhsd", chances, V[:, owner]),)


def _changed(graph: Any, values: Array, context: Any) -> Array:
    if graph is None:
        return values
    (found,) = graph.run(None, {**(context or {}), graph.input_names[0]: values})
    return np.asarray(found)


KERNELS.append(FlexAttention)
