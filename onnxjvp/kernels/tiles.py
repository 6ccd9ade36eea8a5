"""What output pixels of a convolution see; and its correlations with fewer products, over tiles.

Of a tile of m rows of a cotangent, and r taps of θ, take polynomials g(s) and θ(s) that have them
for coefficients. Those of g(s)·θ(s) meet the m + r - 1 rows of the image that the tile sees. The
product is known from its values at m + r - 1 points, one of them infinity: so many products of
values in place of m · r, once the rows of both images have been taken to these points. At the end
the taps are read off the values of θ.

Source: Toom 1963, Cook 1966; for convolutions Winograd 1980, Lavin & Gray 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import Ops
from onnxjvp.kernels.labelled import Labelled
from onnxjvp.kernels.structures import (
    ROW,
    SAMPLE,
    Structure,
    Tiles,
    UnstructuredError,
    Use,
    reshaped,
    static,
)
from onnxjvp.rules.windows import Window

#: beside infinity; more of them would cost digits
POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)
COUNT = len(POINTS) + 1
#: channels from which on a pixel's are copied as one
LINE = 16
#: pixels of a line that is cut by products
SHORT = 64
#: how many operations of a large product take the time of one that makes tiles, and of one that
#: reads taps off, which does little with much memory
MAKING, READING = 2, 24

#: values at the points: of m rows [COUNT, m], of r taps [COUNT, r], and how the rows that are
#: seen meet the product of both [COUNT, m + r - 1]
Values = tuple[np.ndarray, np.ndarray, np.ndarray]


def windows(op: Ops, x: ir.Value, moves: Window, inner: Sequence[int]) -> list[ir.Value]:
    """What output pixels see at every offset of the kernel; `inner` are the axes of pixels."""
    if moves.pads is None or not dims.is_static(moves.kernel):
        raise UnstructuredError("a padding that is known at run time only")
    kernel = [int(k) for k in moves.kernel if isinstance(k, int)]
    if any(p for pair in moves.pads for p in pair):
        around = [before for before, _ in moves.pads] + [behind for _, behind in moves.pads]
        x = op.Pad(x, op.ints(around), None, op.ints(inner))
    found = []
    for offset in np.ndindex(*kernel):
        begin = [o * d for o, d in zip(offset, moves.dilations, strict=True)]
        pairs = zip(begin, moves.outer, moves.strides, strict=True)
        end = [b + (int(o) - 1) * s + 1 for b, o, s in pairs if isinstance(o, int)]
        sizes = tuple(dims.of(x)[axis] for axis in inner)
        whole = tuple(end) == sizes and not any(begin) and set(moves.strides) == {1}
        steps = op.ints(moves.strides)
        part = x if whole else op.Slice(x, op.ints(begin), op.ints(end), op.ints(inner), steps)
        found.append(part)
    return found


def seen_last(op: Ops, x: ir.Value, moves: Window) -> ir.Value:
    """[N, pixels, offsets · channels]: what each output pixel sees, channels last.

    As a factor of products over pixels it need not be turned then.
    """
    batch, channels, *_ = dims.of(x)
    pixels = dims.product(moves.outer)
    inner = list(range(1, 1 + len(moves.kernel)))
    last = op.Transpose(x, perm=[0, *(axis + 1 for axis in inner), 1])
    if isinstance(channels, int) and channels >= LINE and moves.is_static:
        return _gathered(op, last, moves)
    cut = windows(op, last, moves, inner)
    parts = [reshaped(op, part, (batch, pixels, channels)) for part in cut]
    return parts[0] if len(parts) == 1 else op.Concat(*parts, axis=2)


def _gathered(op: Ops, last: ir.Value, moves: Window) -> ir.Value:
    """In one pass: the channels of a pixel are a line, and lines are copied by their numbers."""
    batch, *image, channels = dims.of(last)
    if moves.pads is None:
        raise UnstructuredError("a padding that is known at run time only")
    count = math.prod(static(tuple(image)))
    lines = reshaped(op, last, (batch, count, channels))
    numbers = _numbers(moves, count)
    if np.array_equal(numbers, np.arange(count)):
        return lines
    if (numbers == count).any():  # a line of zeros behind the others
        lines = op.Pad(lines, op.ints([0, 1]), None, op.ints([1]))
    found = op.Gather(lines, op.const(numbers, ir.DataType.INT64), axis=1)
    offsets = numbers.size // math.prod(static(moves.outer))
    shape = (batch, dims.product(moves.outer), dims.product((offsets, channels)))
    return reshaped(op, found, shape)


def _numbers(moves: Window, outside: int) -> np.ndarray:
    """For every output pixel and offset the number of the pixel that is seen there."""
    assert moves.pads is not None
    outer, kernel, inner = (static(d) for d in (moves.outer, moves.kernel, moves.inner))
    count = len(outer)
    total = np.zeros((*outer, *kernel), np.int64)
    within = np.ones(total.shape, bool)
    for axis, size in enumerate(inner):
        stride, dilation = moves.strides[axis], moves.dilations[axis]
        starts = np.arange(outer[axis]) * stride - moves.pads[axis][0]
        seen = starts[:, None] + np.arange(kernel[axis]) * dilation
        own = [1] * (2 * count)
        own[axis], own[count + axis] = seen.shape
        total = total * size + seen.reshape(own)
        within &= ((seen >= 0) & (seen < size)).reshape(own)
    return np.where(within, total, outside).reshape(-1)


def tiles(use: Use, x: ir.Value, moves: Window, plain: Structure) -> Tiles | None:
    """The same structure over tiles of rows; None where it has no such form.

    Args:
      plain: of a convolution without groups; the taps of its first axis are the axis k0 of θ.
    """
    if len(moves.kernel) < 2 or moves.pads is None or not dims.is_static(moves.inner):
        return None
    taps, rows, height = static((moves.kernel[0], moves.outer[0], moves.inner[0]))
    steady = (moves.strides[0], moves.dilations[0]) == (1, 1)
    one = use.axis is not None or use.out[0] == 1
    if not 2 <= taps < COUNT or not steady or not one:
        return None
    size = COUNT + 1 - taps
    count = -(-rows // size)
    g, theta, meeting = values(size, taps)
    before = moves.pads[0][0]
    of_g, of_z = on_rows(g, count, rows, size, 0), on_rows(meeting, count, height, size, before)
    across = _across(moves)
    moved = math.prod(static((*across.kernel, *across.outer))) if _by_products(across) else 0
    lines = dims.product((2 * COUNT * count, *moves.inner[1:], dims.of(x)[1]))
    return Tiles(
        tiled=_Tiled(use, x, moves, plain, count, (of_g, of_z, theta)),
        each=dims.product((2 * COUNT * count, rows, *moves.outer[1:], use.out[1])),
        once=dims.product((lines, height + moved)),
        last=2 * COUNT * math.prod(plain.shape),
        share=COUNT * count / (taps * rows),
    )


@dataclass(frozen=True)
class _Tiled:
    """Makes the structure of a use over tiles, and takes a cotangent to it."""

    use: Use
    x: ir.Value
    moves: Window
    plain: Structure
    count: int
    #: on the rows of G and of z, and on the taps of θ
    matrices: Values

    def __call__(self, op: Ops, cotangent: ir.Value) -> tuple[Structure, Labelled]:
        of_g, of_z, theta = self.matrices
        structure = replace(
            self.plain,
            out=(SAMPLE, "f", "t", "q", "g", "m"),
            z=self._seen(op, cotangent, of_z),
            taps=Labelled(op.const(theta, like=cotangent), ("f", "k0")),
            sizes={
                **{SAMPLE: self.use.out[0], "f": COUNT, "t": self.count},
                "q": dims.product(self.moves.outer[1:]),
            },
            groups=(),
            tiles=None,
        )
        made = _on_tiles(op, cotangent, of_g, self.count)
        return structure, Labelled(made, (ROW, *structure.out))

    def _seen(self, op: Ops, like: ir.Value, matrix: np.ndarray) -> Labelled:
        """z in the dtype of the cotangent, which is in single precision at least."""
        x, across = self.x, self.moves.kernel[1:]
        if x.dtype != like.dtype:
            x = op.Cast(x, to=int(_known(like)))
        whole = _seen(op, x, self.moves, matrix, self.count)
        images, channels, *_ = dims.of(x)
        pixels = dims.product(self.moves.outer[1:])
        labels = ("f", *(f"k{i}" for i, _ in enumerate(across, 1)), "c", "t", "q")
        shape = (COUNT, *across, channels, self.count, pixels)
        if self.use.axis is None:
            return Labelled(reshaped(op, whole, shape), labels)
        return Labelled(reshaped(op, whole, (images, *shape)), (SAMPLE, *labels))


def _known(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype


def _on_tiles(op: Ops, cotangent: ir.Value, matrix: np.ndarray, count: int) -> ir.Value:
    """[K, N, C, rows, …] → [K, N, points, tiles, other pixels, 1, C]."""
    rows, batch, channels, height, *rest = dims.of(cotangent)
    inner = range(3, 4 + len(rest))
    last = op.Transpose(cotangent, perm=[0, 1, *inner, 2])
    flat = reshaped(op, last, (rows, batch, height, dims.product((*rest, channels))))
    made = op.MatMul(op.const(matrix, like=cotangent), flat)
    shape = (rows, batch, COUNT, count, dims.product(rest), 1, channels)
    return reshaped(op, made, shape)


def _seen(op: Ops, x: ir.Value, moves: Window, matrix: np.ndarray, count: int) -> ir.Value:
    """[N, points, offsets across rows, C, tiles · other pixels]."""
    batch, channels, height, *rest = dims.of(x)
    flat = reshaped(op, x, (batch, channels, height, dims.product(rest)))
    made = op.MatMul(op.const(matrix, like=x), flat)
    across = _across(moves)
    pixels: Dim = dims.product((count, *across.outer))
    if _by_products(across):
        lines = reshaped(op, made, (batch, 1, dims.product((channels, COUNT * count)), *rest))
        stacked = op.MatMul(lines, op.const(_shifts(across), like=x))
        offsets = across.kernel[0]
        return op.Transpose(
            reshaped(op, stacked, (batch, offsets, channels, COUNT, pixels)), perm=[0, 3, 1, 2, 4]
        )
    whole = reshaped(op, made, (batch, channels, COUNT * count, *rest))
    parts = windows(op, whole, across, range(3, 3 + len(rest)))
    lined = [reshaped(op, part, (batch, 1, channels, COUNT, pixels)) for part in parts]
    stacked = lined[0] if len(lined) == 1 else op.Concat(*lined, axis=1)
    return op.Transpose(stacked, perm=[0, 3, 1, 2, 4])


def _across(moves: Window) -> Window:
    """Along all axes but the first."""
    assert moves.pads is not None
    return Window(
        kernel=moves.kernel[1:],
        strides=moves.strides[1:],
        dilations=moves.dilations[1:],
        inner=moves.inner[1:],
        outer=moves.outer[1:],
        pads=moves.pads[1:],
    )


def _by_products(across: Window) -> bool:
    """Whether lines are cut by matrices of zeros and ones: copies of short ones take longer."""
    return len(across.inner) == 1 and math.prod(static(across.inner)) <= SHORT


def _shifts(across: Window) -> np.ndarray:
    """[offsets, pixels of a line, pixels that come out]: 1 where one is seen."""
    assert across.pads is not None
    (taps,), (size,), (made,) = map(static, (across.kernel, across.inner, across.outer))
    seen = np.arange(made) * across.strides[0] - across.pads[0][0]
    each = [seen + tap * across.dilations[0] for tap in range(taps)]
    return np.stack([np.arange(size)[:, None] == at for at in each]).astype(float)


# -- numbers -----------------------------------------------------------------------------------


def values(size: int, taps: int) -> Values:
    """For tiles of so many rows, with size + taps - 1 = COUNT."""
    powers = np.vander(POINTS, COUNT, increasing=True)
    whole = np.vstack([powers, np.eye(COUNT)[-1]])  # at infinity, the last coefficient
    g, theta = (np.vstack([powers[:, :n], np.eye(n)[-1]]) for n in (size, taps))
    # of each point's values the largest coefficient is 1: sums then lose the fewest digits
    scales = np.abs(g).max(axis=1) * np.abs(theta).max(axis=1)
    g, theta = (each / np.abs(each).max(axis=1)[:, None] for each in (g, theta))
    return g, theta, np.linalg.inv(whole).T * scales[:, None]


def on_rows(each: np.ndarray, count: int, rows: int, size: int, before: int) -> np.ndarray:
    """[points · tiles, rows]: what [points, rows of a tile] is on all rows of an image.

    Args:
      before: how many rows of padding stand in front of the first.
    """
    points, reach = each.shape
    whole = np.zeros((points, count, before + max(rows, count * size + reach)))
    for tile in range(count):
        whole[:, tile, tile * size : tile * size + reach] = each
    return whole[:, :, before : before + rows].reshape(points * count, rows)
