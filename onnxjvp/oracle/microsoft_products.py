"""NumPy implementations of onnxruntime's products: experts, weights of 4 bits, fused ones.

Like microsoft.py; where the runtime has a kernel for a CPU, tests hold these against it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxjvp.oracle.microsoft import FastGelu, FusedMatMul, microsoft
from onnxjvp.oracle.registry import Array

_FUSED: dict[str, Callable[[Array], Array]] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@microsoft
def FusedMatMulActivation(
    A: Array, B: Array, *, activation: str, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Array:
    return _FUSED[activation](FusedMatMul(A, B, alpha=alpha, transA=transA, transB=transB))


@microsoft
def GemmFastGelu(X: Array, W: Array, bias: Array | None = None) -> Array:
    return np.asarray(FastGelu(X @ W, bias))


@microsoft
def Rfft(X: Array, *, signal_ndim: int, onesided: int = 1, normalized: int = 0) -> Array:
    assert (signal_ndim, onesided, normalized) == (1, 1, 0)
    found = np.fft.rfft(X)
    return np.stack([found.real, found.imag], axis=-1)


@microsoft
def Irfft(X: Array, *, signal_ndim: int, onesided: int = 1, normalized: int = 0) -> Array:
    assert (signal_ndim, onesided, normalized) == (1, 1, 0)
    return np.asarray(np.fft.irfft(X[..., 0] + 1j * X[..., 1]))


#: a sign, two bits of exponent and one of mantissa, as bitsandbytes reads them
_FP4 = [0, 1 / 192, 8 / 12, 12 / 12, 4 / 12, 6 / 12, 2 / 12, 3 / 12]
#: quantiles of a normal distribution
_NF4 = (
    "-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 "
    "-0.18477343022823334 -0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 "
    "0.24611230194568634 0.33791524171829224 0.44070982933044434 0.5626170039176941 "
    "0.7229568362236023 1.0"
)


@microsoft
def MatMulBnb4(
    A: Array,
    B: Array,
    absmax: Array,
    *,
    K: int,
    N: int,
    block_size: int,
    quant_type: int,
    transB: int = 1,
    training_mode: int = 0,
) -> Array:
    """Weights one by one: two codes to a byte, the higher half first."""
    assert transB == 1
    table = [float(v) for v in _NF4.split()] if quant_type else [*_FP4, *(-v for v in _FP4)]
    weight = np.zeros(N * K)
    for i in range(N * K):
        code = int(B[i // 2]) >> 4 if i % 2 == 0 else int(B[i // 2]) & 15
        weight[i] = table[code] * absmax[i // block_size]
    return np.asarray(A @ weight.reshape(N, K).T)


@microsoft
def MoE(
    x: Array,
    router_probs: Array,
    W1: Array,
    b1: Array | None,
    W2: Array,
    b2: Array | None = None,
    *,
    k: int = 1,
    normalize_routing_weights: int = 0,
    activation_type: str = "relu",
    activation_alpha: float = 1.0,
    activation_beta: float = 0.0,
    swiglu_fusion: int = 0,
    swiglu_limit: float = math.inf,
) -> Array:
    """Row by row, each by its k likeliest experts."""

    def activated(z: Array) -> Array:
        if activation_type == "swiglu":
            assert swiglu_fusion == 1
            gate = np.minimum(z[0::2], np.float32(swiglu_limit))
            level = np.clip(z[1::2], -np.float32(swiglu_limit), np.float32(swiglu_limit))
            opened = gate / (1 + np.exp(-np.float32(activation_alpha) * gate))
            return np.asarray(opened * (level + np.float32(activation_beta)))
        if activation_type == "gelu":
            return np.asarray(FastGelu(z))
        return np.asarray(z / (1 + np.exp(-z)) if activation_type == "silu" else np.maximum(z, 0))

    rows = x.reshape(-1, x.shape[-1])
    y = np.zeros_like(rows)
    for i, (row, scores) in enumerate(zip(rows, router_probs, strict=True)):
        powers = np.exp(scores - scores.max())
        likely = powers / powers.sum()
        chosen = np.argsort(-likely, kind="stable")[:k]
        whole = likely[chosen].sum() if normalize_routing_weights else 1.0
        for e in chosen:
            inner = activated(W1[e] @ row + (0.0 if b1 is None else b1[e]))
            y[i] += likely[e] / whole * (W2[e] @ inner + (0.0 if b2 is None else b2[e]))
    return np.asarray(y.reshape(x.shape))
