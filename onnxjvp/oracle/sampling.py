"""Operators that read images between their pixels, in NumPy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from onnxjvp.oracle.registry import Array, kernel


def _keys(s: Array) -> Array:
    """The cubic convolution kernel at signed distances (Keys 1981, a = -0.75)."""
    a, s = -0.75, np.abs(s)
    near = ((a + 2) * s - (a + 3)) * s * s + 1
    far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
    return np.asarray(np.where(s <= 1, near, np.where(s < 2, far, 0.0)))


def _tent(s: Array) -> Array:
    return np.asarray(np.maximum(1 - np.abs(s), 0))


@kernel
def GridSample(
    X: Array,
    grid: Array,
    *,
    mode: str = "linear",
    padding_mode: str = "zeros",
    align_corners: int = 0,
) -> Array:
    """Per sample, the pixels around it by the distance to each; padding decides what a pixel is.

    onnx.reference moves the place itself into the image first, which for cubic samples beyond the
    border is something else than PyTorch's and onnxruntime's.
    """
    sizes = X.shape[2:]
    d = len(sizes)
    choices = []
    for axis, size in enumerate(sizes):
        given = grid[..., d - 1 - axis]
        at = (given + 1) / 2 * (size - 1) if align_corners else ((given + 1) * size - 1) / 2
        choices.append(_pixels(at, size, mode, padding_mode, bool(align_corners)))
    Y = np.zeros((X.shape[0], X.shape[1], *grid.shape[1:-1]), X.dtype)
    for combination in itertools.product(*choices):
        weight = np.ones(grid.shape[:-1])
        for _, share in combination:
            weight = weight * share
        for n in range(X.shape[0]):
            chosen: tuple[Any, ...] = (slice(None), *(index[n] for index, _ in combination))
            Y[n] += weight[n] * X[n][chosen]
    return Y


def _pixels(
    at: Array, size: int, mode: str, padding: str, aligned: bool
) -> list[tuple[Array, Array]]:
    """The pixels that count along an axis, each with its weight."""
    if mode == "nearest":
        found = [(np.rint(at), np.ones_like(at))]
    else:
        reach, kernel_of = (2, _keys) if mode in ("cubic", "bicubic") else (1, _tent)
        floor = np.floor(at)
        around = [floor + k for k in range(1 - reach, reach + 1)]
        found = [(pixel, kernel_of(at - pixel)) for pixel in around]
    lines = np.arange(size)
    mirror = np.concatenate([lines, lines[-2:0:-1] if aligned else lines[::-1]])
    out = []
    for pixel, weight in found:
        index = pixel.astype(np.int64)
        inside = (index >= 0) & (index < size)
        share = np.where(inside, weight, 0.0) if padding == "zeros" else weight
        if padding == "reflection":
            index = mirror[index % len(mirror)]
        out.append((np.clip(index, 0, size - 1), share))
    return out


@kernel
def AffineGrid(theta: Array, size: Array, *, align_corners: int = 0) -> Array:
    """onnx.reference rounds to float32."""
    sizes = [int(n) for n in size[2:]]
    axes = []
    for n in sizes:
        centres = np.linspace(-1, 1, n) if align_corners else (2 * np.arange(n) + 1) / n - 1
        axes.append(centres)
    places = np.stack([*np.meshgrid(*axes, indexing="ij")[::-1], np.ones(sizes)], axis=-1)
    return np.asarray(np.einsum("...k,njk->n...j", places, theta))


@kernel
def Col2Im(
    X: Array,
    image_shape: Array,
    block_shape: Array,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Every element of every block, added up where it lies in the image."""
    image, block = image_shape.tolist(), block_shape.tolist()
    n = len(image)
    gaps, steps = dilations or (1,) * n, strides or (1,) * n
    begin, end = (pads or (0,) * 2 * n)[:n], (pads or (0,) * 2 * n)[n:]
    full = [size + b + e for size, b, e in zip(image, begin, end, strict=True)]
    counts = [
        (size - (k - 1) * gap - 1) // step + 1
        for size, k, gap, step in zip(full, block, gaps, steps, strict=True)
    ]
    parts = X.reshape(X.shape[0], -1, math.prod(block), *counts)
    canvas = np.zeros((*parts.shape[:2], *full), X.dtype)
    for k, offset in enumerate(itertools.product(*map(range, block))):
        places = [
            slice(o * gap, o * gap + (count - 1) * step + 1, step)
            for o, gap, count, step in zip(offset, gaps, counts, steps, strict=True)
        ]
        at: tuple[Any, ...] = (..., *places)
        canvas[at] += parts[:, :, k]
    kept: tuple[Any, ...] = (
        ...,
        *(slice(b, b + size) for b, size in zip(begin, image, strict=True)),
    )
    return np.asarray(canvas[kept])


@kernel
def DeformConv(
    X: Array,
    W: Array,
    offset: Array,
    B: Array | None = None,
    mask: Array | None = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Array:
    """Bilinear samples with zeros around the image, one per tap and channel, and a product."""
    steps, gaps, before = strides or (1, 1), dilations or (1, 1), pads or (0, 0)
    (n, channels, height, width), (_, _, rows, columns) = X.shape, offset.shape
    taps = list(itertools.product(*map(range, W.shape[2:])))
    moved = offset.reshape(n, offset_group, len(taps), 2, rows, columns)
    shares = np.ones((n, offset_group, len(taps), rows, columns)) if mask is None else mask
    shares = shares.reshape(n, offset_group, len(taps), rows, columns)
    samples = np.zeros((n, channels, len(taps), rows, columns), X.dtype)
    down, along = np.ogrid[:rows, :columns]
    for sample, channel, (k, tap) in itertools.product(range(n), range(channels), enumerate(taps)):
        part = channel // (channels // offset_group)
        y = down * steps[0] - before[0] + tap[0] * gaps[0] + moved[sample, part, k, 0]
        x = along * steps[1] - before[1] + tap[1] * gaps[1] + moved[sample, part, k, 1]
        for i, j in itertools.product(range(height), range(width)):
            samples[sample, channel, k] += _tent(y - i) * _tent(x - j) * X[sample, channel, i, j]
        samples[sample, channel, k] *= shares[sample, part, k]
    parts = samples.reshape(n, group, -1, rows, columns)
    kernels = W.reshape(group, W.shape[0] // group, -1)
    Y = np.einsum("ngkij,gmk->ngmij", parts, kernels).reshape(n, -1, rows, columns)
    return np.asarray(Y if B is None else Y + B.reshape(-1, 1, 1))


@kernel
def MaxRoiPool(
    X: Array, rois: Array, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0
) -> Array:
    """Of regions in whole pixels, the largest in each of their parts; of none, zero."""
    rows, columns = pooled_shape
    Y = np.zeros((len(rois), X.shape[1], rows, columns), X.dtype)
    for r, (image, *corners) in enumerate(rois):
        left, top, right, bottom = (_away_from_zero(c * spatial_scale) for c in corners)
        down = _parts(top, bottom, rows, X.shape[2])
        across = _parts(left, right, columns, X.shape[3])
        for (i, ys), (j, xs) in itertools.product(enumerate(down), enumerate(across)):
            part = X[int(image), :, ys, xs]
            if part.size:
                Y[r, :, i, j] = part.max(axis=(1, 2))
    return Y


def _away_from_zero(value: float) -> int:
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _parts(start: int, end: int, count: int, size: int) -> list[slice]:
    """What the parts of a region hold along one axis."""
    step = max(end - start + 1, 1) / count
    ends = [(start + math.floor(k * step), start + math.ceil((k + 1) * step)) for k in range(count)]
    return [slice(min(max(a, 0), size), min(max(b, 0), size)) for a, b in ends]
