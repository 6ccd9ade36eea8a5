"""Convolution and pooling in NumPy: fast enough for image models in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxjvp.oracle.registry import Array, kernel, per_channel
from onnxjvp.oracle.windows import Window, split_same

#: numbers in one block of the unrolled input of Conv: few enough for the cache
_BLOCK = 1 << 19


@kernel
def Conv(
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    auto_pad: str = "NOTSET",
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> Array:
    """One matrix product per group and block of output rows, over the unrolled input."""
    window = Window.fit(
        X.shape[2:], W.shape[2:], strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad
    )
    patches = _patches(window.padded(X, 0.0), window)
    weight = W.reshape(group, W.shape[0] // group, -1)
    Y = np.empty((X.shape[0], W.shape[0], *window.out), np.result_type(X, W))
    for sample in range(X.shape[0]):
        for rows in _row_blocks(window, X.shape[1]):
            at: tuple[Any, ...] = (sample, *(slice(None),) * (X.ndim - 1), rows)
            columns = patches[at].reshape(group, weight.shape[2], -1)
            target = Y[sample, :, rows]
            target[...] = (weight @ columns).reshape(target.shape)
    return Y if B is None else np.add(Y, per_channel(B, Y), out=Y)


def _patches(padded: Array, window: Window) -> Array:
    """A view [batch, channel, *kernel, *out] of the padded input."""
    spatial = range(2, padded.ndim)
    strides = [padded.strides[axis] for axis in spatial]
    inner = [s * gap for s, gap in zip(strides, window.dilations, strict=True)]
    outer = [s * step for s, step in zip(strides, window.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(
        padded,
        (*padded.shape[:2], *window.kernel, *window.out),
        (*padded.strides[:2], *inner, *outer),
        writeable=False,
    )


def _row_blocks(window: Window, channels: int) -> Iterator[slice]:
    """Slices of the first output axis, each small enough to unroll."""
    rows = window.out[0]
    row = channels * math.prod(window.kernel) * math.prod(window.out[1:])
    step = max(1, _BLOCK // max(row, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


@kernel
def ConvTranspose(
    X: Array,
    W: Array,
    B: Array | None = None,
    *,
    group: int = 1,
    auto_pad: str = "NOTSET",
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
) -> Array:
    """One matrix product, then each kernel element's products are added where they belong."""
    size, extent = X.shape[2:], W.shape[2:]
    rank = len(size)
    steps = tuple(strides or (1,) * rank)
    gaps = tuple(dilations or (1,) * rank)
    extra = tuple(output_padding or (0,) * rank)
    full = [
        (n - 1) * step + (k - 1) * gap + 1 + more
        for n, step, k, gap, more in zip(size, steps, extent, gaps, extra, strict=True)
    ]
    if output_shape is None and auto_pad.startswith("SAME"):
        output_shape = [n * step for n, step in zip(size, steps, strict=True)]
    if output_shape is not None:
        out = tuple(output_shape)[-rank:]
        totals = [max(n - o, 0) for n, o in zip(full, out, strict=True)]
        begin, _ = split_same(totals, auto_pad)
    else:
        flat = tuple(pads or ()) if auto_pad == "NOTSET" else ()
        begin, end = (flat[:rank], flat[rank:]) if flat else ((0,) * rank, (0,) * rank)
        out = tuple(n - b - e for n, b, e in zip(full, begin, end, strict=True))
    canvas = [max(n, b + o) for n, b, o in zip(full, begin, out, strict=True)]
    window = Window(tuple(canvas), extent, steps, gaps, (0,) * rank, (0,) * rank, size)

    batch, channels = X.shape[:2]
    weight = W.reshape(group, channels // group, -1).swapaxes(1, 2)
    columns = X.reshape(batch, group, channels // group, math.prod(size))
    products = (weight @ columns).reshape(batch, group * W.shape[1], *extent, *size)
    Y = np.zeros((batch, group * W.shape[1], *canvas), products.dtype)
    for offset, view in window.taps(Y):
        at: tuple[Any, ...] = (..., *offset, *(slice(None),) * rank)
        np.add(view, products[at], out=view)
    crop: tuple[Any, ...] = (..., *(slice(b, b + o) for b, o in zip(begin, out, strict=True)))
    Y = np.ascontiguousarray(Y[crop])
    return Y if B is None else np.add(Y, per_channel(B, Y), out=Y)


@kernel
def MaxPool(
    X: Array,
    *,
    kernel_shape: Sequence[int],
    outputs: int = 1,
    storage_order: int = 0,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> tuple[Array, ...]:
    """Running maximum over the kernel's elements; of equal ones the first wins."""
    window = Window.fit(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    lowest = -np.inf if X.dtype.kind == "f" else np.iinfo(X.dtype).min
    padded = window.padded(X, lowest)
    best = np.full((*X.shape[:2], *window.out), lowest, X.dtype)
    if outputs == 1:
        for _, view in window.taps(padded):
            np.maximum(best, view, out=best)
        return (best,)
    where = np.zeros(best.shape, np.int64)
    for offset, view in window.taps(padded):
        better = view > best
        best = np.where(better, view, best)
        where = np.where(better, _flat(window, offset, storage_order), where)
    planes = np.arange(math.prod(X.shape[:2])) * math.prod(X.shape[2:])
    return best, where + planes.reshape(*X.shape[:2], *(1,) * len(window.out))


def _flat(window: Window, offset: tuple[int, ...], storage_order: int) -> Array:
    """Index, within a channel, of the input element that a kernel element meets."""
    axes = range(len(window.size))
    faster = [window.size[:i] if storage_order else window.size[i + 1 :] for i in axes]
    terms = zip(window.positions(offset), faster, strict=True)
    total: Array = np.zeros((), np.int64)
    for position, sizes in terms:
        total = total + position * math.prod(sizes)
    return total


@kernel
def AveragePool(
    X: Array,
    *,
    kernel_shape: Sequence[int],
    count_include_pad: int = 0,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> Array:
    """Sum over the kernel's elements, divided by how many of them count."""
    window = Window.fit(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    counts = np.ones(window.size)
    if count_include_pad:
        counts = np.pad(counts, list(zip(window.begin, window.end, strict=True)), "edge")
        # the padding of ceil_mode, beyond the explicit one, never counts
        reach = window.padded(np.zeros(window.size), 0.0).shape
        counts = np.pad(counts, [(0, r - n) for r, n in zip(reach, counts.shape, strict=True)])
    else:
        counts = window.padded(counts, 0.0)
    return _sum(window, window.padded(X, 0.0)) / _sum(window, counts)


def _sum(window: Window, padded: Array) -> Array:
    total = np.zeros((*padded.shape[: -len(window.out)], *window.out), padded.dtype)
    for _, view in window.taps(padded):
        total += view
    return total


@kernel
def GlobalAveragePool(X: Array) -> Array:
    return np.asarray(X.mean(axis=tuple(range(2, X.ndim)), keepdims=True))


@kernel
def LpPool(
    X: Array,
    *,
    kernel_shape: Sequence[int],
    p: int = 2,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
) -> Array:
    """Of windows that reach beyond the image, what lies in it: onnx.reference scales those up."""
    window = Window.fit(
        X.shape[2:],
        kernel_shape,
        strides=strides,
        dilations=dilations,
        pads=pads,
        auto_pad=auto_pad,
        ceil_mode=ceil_mode,
    )
    return np.asarray(_sum(window, window.padded(np.abs(X) ** p, 0.0)) ** (1 / p))


@kernel
def GlobalLpPool(X: Array, *, p: int = 2) -> Array:
    total = (np.abs(X) ** p).sum(axis=tuple(range(2, X.ndim)), keepdims=True)
    return np.asarray(total ** (1 / p))


@kernel
def CausalConvWithState(
    input: Array,  # noqa: A002  (the operator's own name)
    weight: Array,
    bias: Array | None = None,
    past_state: Array | None = None,
    *,
    activation: str = "none",
) -> tuple[Array, Array]:
    """Each channel's steps with those before them, behind zeros or what came before."""
    (batch, channels, length), taps = input.shape, weight.shape[2]
    past = np.zeros((batch, channels, taps - 1), input.dtype) if past_state is None else past_state
    whole = np.concatenate([past, input], axis=2)
    y = sum(weight[:, 0, j, None] * whole[:, :, j : j + length] for j in range(taps))
    y = y + (0 if bias is None else bias[:, None])
    if activation in ("silu", "swish"):
        y = y / (1 + np.exp(-y))
    return np.asarray(y), whole[:, :, length:]
