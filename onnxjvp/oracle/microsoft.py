"""NumPy implementations of the operators of the domain com.microsoft, after onnxruntime's words.

Each function is named for its operator. They follow the documentation that onnxruntime's schemas
carry, and know nothing of the bodies through which these operators are differentiated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxjvp.oracle import sampling
from onnxjvp.oracle.convolution import Conv, ConvTranspose
from onnxjvp.oracle.registry import Array, operator
from onnxjvp.oracle.special import erf

#: classes for `ReferenceEvaluator(new_ops=...)`
MICROSOFT: list[type[OpRun]] = []


def microsoft(function: Callable[..., Any]) -> Callable[..., Any]:
    MICROSOFT.append(operator(function, "com.microsoft"))
    return function


# -- activations -------------------------------------------------------------------------------


def _gauss(x: Array) -> Array:
    return np.asarray(x * (1 + erf(x / math.sqrt(2))) / 2)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@microsoft
def Gelu(X: Array) -> Array:
    return _gauss(X)


@microsoft
def BiasGelu(A: Array, B: Array) -> Array:
    return _gauss(A + B)


@microsoft
def FastGelu(X: Array, bias: Array | None = None) -> Array:
    x = X if bias is None else X + bias
    inner = 0.7978845608028654 * x + 0.035677408136300125 * x**3
    return np.asarray(0.5 * x * (1 + np.tanh(inner)))


@microsoft
def QuickGelu(X: Array, *, alpha: float = 1.702) -> Array:
    return X * _sigmoid(np.float32(alpha) * X)


@microsoft
def BiasSplitGelu(X: Array, bias: Array) -> Array:
    left, right = np.array_split(X + bias, 2, axis=-1)
    return left * _gauss(right)


@microsoft
def BiasAdd(X: Array, bias: Array, skip: Array) -> Array:
    return X + bias + skip


@microsoft
def BiasSoftmax(data: Array, bias: Array, *, axis: int = 1, is_inner_broadcast: int) -> Array:
    assert axis in (-1, data.ndim - 1)
    return _softmax(data + bias)


@microsoft
def BiasDropout(
    data: Array,
    bias: Array,
    residual: Array | None = None,
    ratio: Array | None = None,
    training_mode: Array | None = None,
    *,
    outputs: int = 1,
) -> tuple[Array, ...]:
    assert training_mode is None or not training_mode.any()
    y = data + bias if residual is None else data + bias + residual
    return (y, np.ones(y.shape, bool))[:outputs]


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


_FUSED: dict[str, Callable[..., Array]] = {
    "": lambda x: x,
    "Relu": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
    "LeakyRelu": lambda x, alpha=0.01: np.where(x < 0, alpha * x, x),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "Clip": np.clip,
}


# -- products ----------------------------------------------------------------------------------


@microsoft
def FusedMatMul(
    A: Array,
    B: Array,
    *,
    alpha: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    transBatchA: int = 0,
    transBatchB: int = 0,
) -> Array:
    """alpha · A B; transBatch: the first axis becomes the last but one."""
    if transBatchA:
        A = np.moveaxis(A, 0, -2)
    if transBatchB:
        B = np.moveaxis(B, 0, -2)
    if transA and A.ndim > 1:
        A = np.swapaxes(A, -1, -2)
    if transB and B.ndim > 1:
        B = np.swapaxes(B, -1, -2)
    return np.asarray(np.float32(alpha) * np.matmul(A, B))


@microsoft
def TransposeMatMul(
    A: Array, B: Array, *, alpha: float = 1.0, transA: int = 0, transB: int = 0
) -> Array:
    return np.asarray(FusedMatMul(A, B, alpha=alpha, transA=transA, transB=transB))


@microsoft
def FusedGemm(
    A: Array,
    B: Array,
    C: Array | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
    activation: str = "",
    activation_alpha: float | None = None,
    activation_beta: float | None = None,
) -> Array:
    y = alpha * np.dot(A.T if transA else A, B.T if transB else B)
    y = y if C is None else y + beta * C
    params = [float(p) for p in (activation_alpha, activation_beta) if p is not None]
    return _FUSED[activation](y, *params)


@microsoft
def FusedConv(
    X: Array,
    W: Array,
    B: Array | None = None,
    Z: Array | None = None,
    *,
    activation: str = "",
    activation_params: Any = (),
    auto_pad: str = "NOTSET",
    dilations: Any = None,
    group: int = 1,
    kernel_shape: Any = None,
    pads: Any = None,
    strides: Any = None,
) -> Array:
    y = Conv(
        X,
        W,
        B,
        auto_pad=auto_pad,
        dilations=dilations,
        group=group,
        kernel_shape=kernel_shape,
        pads=pads,
        strides=strides,
    )
    return _FUSED[activation](y if Z is None else y + Z, *activation_params)


@microsoft
def NhwcConv(X: Array, W: Array, B: Array | None = None, **attributes: Any) -> Array:
    return np.moveaxis(FusedConv(np.moveaxis(X, -1, 1), W, B, **attributes), 1, -1)


@microsoft
def NhwcFusedConv(
    X: Array, W: Array, B: Array | None = None, Z: Array | None = None, **attributes: Any
) -> Array:
    Z = None if Z is None else np.moveaxis(Z, -1, 1)
    return np.moveaxis(FusedConv(np.moveaxis(X, -1, 1), W, B, Z, **attributes), 1, -1)


@microsoft
def ConvTransposeWithDynamicPads(
    X: Array, W: Array, Pads: Array | None = None, B: Array | None = None, **attributes: Any
) -> Array:
    if Pads is not None:
        attributes["pads"] = Pads.tolist()
    return np.asarray(ConvTranspose(X, W, B, **attributes))


@microsoft
def MatMulNBits(
    A: Array,
    B: Array,
    scales: Array,
    zero_points: Array | None = None,
    g_idx: Array | None = None,
    bias: Array | None = None,
    *,
    K: int,
    N: int,
    bits: int = 4,
    block_size: int,
) -> Array:
    """Weights one by one: (code − zero) · scale, of the block that they are in."""
    per_byte, mask = 8 // bits, 2**bits - 1
    weight = np.zeros((N, K))
    for n in range(N):
        for k in range(K):
            block, place = divmod(k, block_size)
            code = int(B[n, block, place // per_byte]) >> bits * (place % per_byte) & mask
            zero = 2.0 ** (bits - 1)
            if zero_points is not None and zero_points.dtype == np.uint8:
                row = zero_points.reshape(N, -1)[n]
                zero = int(row[block // per_byte]) >> bits * (block % per_byte) & mask
            elif zero_points is not None:
                zero = zero_points.reshape(N, -1)[n, block]
            weight[n, k] = (code - zero) * scales.reshape(N, -1)[n, block]
    y: Array = A @ weight.T
    return y if bias is None else y + bias


# -- normalisations ----------------------------------------------------------------------------


def _standardised(x: Array, epsilon: float) -> tuple[Array, Array, Array]:
    mean = x.mean(axis=-1, keepdims=True)
    inverse = (x.var(axis=-1, keepdims=True) + np.float32(epsilon)) ** -0.5
    return (x - mean) * inverse, mean, inverse


@microsoft
def SimplifiedLayerNormalization(
    X: Array, scale: Array, *, axis: int = -1, epsilon: float = 1e-5, outputs: int = 1
) -> tuple[Array, ...]:
    axes = tuple(range(axis % X.ndim, X.ndim))
    inverse = (np.square(X).mean(axis=axes, keepdims=True) + np.float32(epsilon)) ** -0.5
    return (X * inverse * scale, inverse)[:outputs]


MICROSOFT.append(operator(SimplifiedLayerNormalization))  # the runtime keeps it in this domain


@microsoft
def SkipLayerNormalization(
    x: Array,
    skip: Array,
    gamma: Array,
    beta: Array | None = None,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> tuple[Array, ...]:
    total = x + skip if bias is None else x + skip + bias
    y, mean, inverse = _standardised(total, epsilon)
    y = gamma * y if beta is None else gamma * y + beta
    return (y, mean, inverse, total)[:outputs]


@microsoft
def SkipSimplifiedLayerNormalization(
    x: Array,
    skip: Array,
    gamma: Array,
    bias: Array | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> tuple[Array, ...]:
    total = x + skip if bias is None else x + skip + bias
    inverse = (np.square(total).mean(axis=-1, keepdims=True) + np.float32(epsilon)) ** -0.5
    return (total * inverse * gamma, np.zeros(0), inverse, total)[:outputs]


@microsoft
def EmbedLayerNormalization(
    input_ids: Array,
    segment_ids: Array | None,
    word_embedding: Array,
    position_embedding: Array,
    segment_embedding: Array | None,
    gamma: Array,
    beta: Array,
    mask: Array | None = None,
    position_ids: Array | None = None,
    *,
    epsilon: float = 1e-12,
    outputs: int = 1,
) -> tuple[Array, ...]:
    batch, length = input_ids.shape
    places = np.arange(length)[None] if position_ids is None else position_ids
    total = word_embedding[input_ids] + position_embedding[places]
    if segment_ids is not None and segment_embedding is not None:
        total = total + segment_embedding[segment_ids]
    count = np.zeros(batch, np.int32) if mask is None else mask.sum(axis=1, dtype=np.int32)
    return (gamma * _standardised(total, epsilon)[0] + beta, count, total)[:outputs]


@microsoft
def GroupNorm(
    X: Array,
    gamma: Array,
    beta: Array,
    *,
    activation: int,
    groups: int,
    channels_last: int = 1,
    epsilon: float = 1e-5,
) -> Array:
    x = np.moveaxis(X, -1, 1) if channels_last else X
    rows = x.reshape(len(x), groups, -1) if x.size else x.reshape(len(x), groups, 1)
    normal = _standardised(rows, epsilon)[0].reshape(x.shape)
    around = (-1, *(1,) * (x.ndim - 2))
    y = normal * gamma.reshape(around) + beta.reshape(around)
    y = y * _sigmoid(y) if activation else y
    return np.moveaxis(y, 1, -1) if channels_last else y


@microsoft
def SkipGroupNorm(
    X: Array,
    gamma: Array,
    beta: Array,
    skip: Array,
    bias: Array | None = None,
    *,
    outputs: int = 1,
    **attributes: Any,
) -> tuple[Array, ...]:
    total = X + (skip[:, None, None] if skip.ndim == 2 else skip)
    total = total if bias is None else total + bias
    return (GroupNorm(total, gamma, beta, **attributes), total)[:outputs]


# -- others ------------------------------------------------------------------------------------


@microsoft
def SampleOp(X: Array) -> Array:
    return X


@microsoft
def Trilu(X: Array, k: Array | None = None, *, upper: int = 1) -> Array:
    return (np.triu if upper else np.tril)(X, 0 if k is None else int(k))


@microsoft
def GatherND(data: Array, indices: Array) -> Array:
    rows = [data[tuple(index)] for index in indices.reshape(-1, indices.shape[-1])]
    return np.reshape(rows, (*indices.shape[:-1], *data.shape[indices.shape[-1] :]))


@microsoft
def Pad(data: Array, pads: Array, value: Array | None = None, *, mode: str = "constant") -> Array:
    widths = pads.reshape(2, -1).T.tolist()
    if mode != "constant":
        return np.asarray(np.pad(data, widths, mode=mode))  # type: ignore[call-overload]
    fill = 0.0 if value is None else value.item()
    return np.asarray(np.pad(data, widths, constant_values=fill))


@microsoft
def ExpandDims(X: Array, axis: Array) -> Array:
    return np.expand_dims(X, int(axis))


@microsoft
def UnfoldTensor(x: Array, *, dim: int = -1, size: int, step: int = 1) -> Array:
    windows = np.lib.stride_tricks.sliding_window_view(x, size, axis=dim)
    return np.asarray(np.take(windows, range(0, windows.shape[dim % x.ndim], step), dim % x.ndim))


@microsoft
def Unique(x: Array) -> tuple[Array, ...]:
    found = list(dict.fromkeys(x.tolist()))
    places = [found.index(number) for number in x.tolist()]
    counts = [places.count(i) for i in range(len(found))]
    return np.array(found), np.array(places, np.int64), np.array(counts, np.int64)


@microsoft
def CDist(A: Array, B: Array, *, metric: str = "sqeuclidean") -> Array:
    squares = np.array([[np.sum((a - b) ** 2) for b in B] for a in A]).reshape(len(A), len(B))
    return squares if metric == "sqeuclidean" else np.sqrt(squares)


@microsoft
def Inverse(X: Array) -> Array:
    return np.asarray(np.linalg.inv(X))


@microsoft
def GatedAdd(X: Array, Y: Array, gate: Array) -> Array:
    return np.asarray(X + Y * gate)


@microsoft
def ScaledSiLU(X: Array, scale: Array | None = None, *, alpha: float = 1.0) -> Array:
    z = (np.float32(alpha) if scale is None else scale.reshape(())) * X
    return np.asarray(z * _sigmoid(z))


@microsoft
def GatedRMSNorm(
    X: Array, scale: Array, gate: Array, *, activation: str = "silu", epsilon: float = 1e-5
) -> Array:
    opened = _sigmoid(gate) if activation == "sigmoid" else gate * _sigmoid(gate)
    y = np.zeros_like(X)
    for start in range(0, X.shape[-1], len(scale)):
        part = X[..., start : start + len(scale)]
        power = np.square(part).mean(axis=-1, keepdims=True)
        y[..., start : start + len(scale)] = part * (power + np.float32(epsilon)) ** -0.5 * scale
    return np.asarray(y * opened)


@microsoft
def GridSample(X: Array, grid: Array, *, mode: str = "bilinear", **attributes: Any) -> Array:
    names = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
    return np.asarray(sampling.GridSample(X, grid, mode=names[mode], **attributes))
