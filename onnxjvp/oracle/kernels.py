"""NumPy implementations of operators that onnx.reference gets wrong, or far too slow, in float64.

Each function is named for its operator; inputs are positional, attributes keyword-only.
`outputs` is not an attribute: it is the number of outputs that the node asks for.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxjvp.oracle.special import erf
from onnxjvp.oracle.windows import Array, Window, split_same

#: classes for `ReferenceEvaluator(new_ops=...)`
KERNELS: list[type[OpRun]] = []

#: numbers in one block of the unrolled input of Conv: few enough for the cache
_BLOCK = 1 << 19


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function as the implementation of the operator that it is named for."""
    parameters = inspect.signature(function).parameters.values()
    wanted = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    def _run(self: OpRun, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        attributes["outputs"] = len(self.onnx_node.output)
        given = {name: attributes[name] for name in wanted if name in attributes}
        result = function(*inputs, **given)
        return result if isinstance(result, tuple) else (result,)

    KERNELS.append(type(function.__name__, (OpRun,), {"op_domain": "", "_run": _run}))
    return function


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
    return Y if B is None else np.add(Y, _per_channel(B, Y), out=Y)


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
    products = (weight @ X.reshape(batch, group, channels // group, -1)).reshape(
        batch, -1, *extent, *size
    )
    Y = np.zeros((batch, products.shape[1], *canvas), products.dtype)
    for offset, view in window.taps(Y):
        at: tuple[Any, ...] = (..., *offset, *(slice(None),) * rank)
        np.add(view, products[at], out=view)
    crop: tuple[Any, ...] = (..., *(slice(b, b + o) for b, o in zip(begin, out, strict=True)))
    Y = np.ascontiguousarray(Y[crop])
    return Y if B is None else np.add(Y, _per_channel(B, Y), out=Y)


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
    Y = (X - _per_channel(used_mean, X)) * _per_channel(factor, X) + _per_channel(B, X)
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
    return np.asarray(normal.reshape(X.shape) * _per_channel(scale, X) + _per_channel(bias, X))


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


def _per_channel(values: Array, like: Array) -> Array:
    shape = (-1, *(1,) * (like.ndim - 2))
    return values.reshape(shape)
