"""Where GridSample reads an image along one axis: which pixels, and with which weights.

A sample is a sum over a few pixels along each axis. Their weights are polynomials in how far it
lies behind the pixel before it, so their slopes are too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import INT64, Ops, rank


def cubic(a: float) -> np.ndarray:
    """Of the cubic convolution kernel (Keys 1981), as `LINEAR`; its pixels begin one before."""
    return np.array(
        [
            [0.0, a, -2 * a, a],
            [1.0, 0.0, -(a + 3), a + 2],
            [0.0, -a, 2 * a + 3, -(a + 2)],
            [0.0, 0.0, a, -a],
        ]
    )


#: per pixel read, the coefficients of its weight, of t⁰ first
LINEAR = np.array([[1.0, -1.0], [0.0, 1.0]])
#: by mode, as ONNX GridSample-22 and PyTorch have it
_WEIGHTS: dict[str, np.ndarray] = {
    "nearest": np.array([[1.0]]),
    "linear": LINEAR,
    "cubic": cubic(-0.75),
}
_NAMES = {"bilinear": "linear", "bicubic": "cubic"}  # in GridSample-16


@dataclass(frozen=True)
class Sampling:
    """How a GridSample interpolates and pads."""

    mode: str
    padding: str
    aligned: bool

    @property
    def count(self) -> int:
        """Pixels read along an axis."""
        return len(_WEIGHTS[self.mode])

    @property
    def first(self) -> int:
        """The first of them, from the pixel before the place."""
        return -1 if self.mode == "cubic" else 0


def sampling(node: ir.Node) -> Sampling:
    mode = node.attributes.get_string("mode", "linear")
    padding = node.attributes.get_string("padding_mode", "zeros")
    aligned = node.attributes.get_int("align_corners", 0) == 1
    return Sampling(_NAMES.get(mode, mode), padding, aligned)


# -- places ------------------------------------------------------------------------------------


def precise(op: Ops, grid: ir.Value) -> ir.Value:
    """In single precision at least: half has no digits to tell the pixels of a large image."""
    half = grid.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return op.Cast(grid, to=int(ir.DataType.FLOAT)) if half else grid


def number(op: Ops, size: Dim, like: ir.Value) -> ir.Value:
    """A size as a scalar in the dtype of `like`."""
    if isinstance(size, int):
        return op.const(float(size), like=like)
    assert like.dtype is not None
    return op.Cast(op.Squeeze(op.as_tensor((size,)), op.ints([0])), to=int(like.dtype))


def coordinate(op: Ops, grid: ir.Value, axis: int) -> ir.Value:
    """[N, *out, d] → [N, *out]: what names the place along a spatial axis, the last one first."""
    d = rank(grid) - 2
    return op.Gather(grid, op.const(np.int64(d - 1 - axis), INT64), axis=rank(grid) - 1)


def scale(op: Ops, size: Dim, how: Sampling, like: ir.Value) -> ir.Value:
    """Pixels per unit of the grid."""
    whole = number(op, size, like)
    span = op.Sub(whole, op.const(1.0, like=like)) if how.aligned else whole
    return op.Mul(span, op.const(0.5, like=like))


def place(op: Ops, given: ir.Value, size: Dim, how: Sampling) -> ir.Value:
    """−1 … 1 in pixels: from the centre of the first to that of the last, or from edge to edge."""
    one = op.const(1.0, like=given)
    whole = op.Mul(op.Add(given, one), scale(op, size, how, given))
    return whole if how.aligned else op.Sub(whole, op.const(0.5, like=given))


def named(op: Ops, pixel: ir.Value, size: Dim, how: Sampling) -> ir.Value:
    """What names a place: the inverse of `place`. An image of one pixel has one place, whatever."""
    one, half = (op.const(v, like=pixel) for v in (1.0, 0.5))
    if not how.aligned:
        pixel = op.Add(pixel, half)
    span = scale(op, size, how, pixel)
    if how.aligned and (size == 1 or not isinstance(size, int)):
        span = op.Max(span, half)
    return op.Sub(op.Div(pixel, span), one)


# -- weights -----------------------------------------------------------------------------------


def before(op: Ops, where: ir.Value, how: Sampling) -> ir.Value:
    """The pixel before a place, or the nearest, as a whole number of the same dtype."""
    return op.Round(where) if how.mode == "nearest" else op.Floor(where)


def weights(op: Ops, t: ir.Value, how: Sampling, *, slope: bool = False) -> list[ir.Value]:
    """Of every pixel read, its weight (or the slope of that) at a distance t behind the first."""
    return (slopes if slope else polynomials)(op, _WEIGHTS[how.mode], t)


def polynomials(op: Ops, table: np.ndarray, t: ir.Value) -> list[ir.Value]:
    """One for each row of coefficients; a constant one is a scalar."""
    return [_polynomial(op, row, t) for row in table]


def slopes(op: Ops, table: np.ndarray, t: ir.Value) -> list[ir.Value]:
    return polynomials(op, table[:, 1:] * np.arange(1, table.shape[1]), t)


def _polynomial(op: Ops, coefficients: np.ndarray, t: ir.Value) -> ir.Value:
    kept = np.trim_zeros(coefficients, "b")
    total = op.const(kept[-1], like=t)
    for c in kept[-2::-1]:
        total = op.Mul(total, t)
        if c:
            total = op.Add(total, op.const(c, like=t))
    return total


def pixels(
    op: Ops, start: ir.Value, size: Dim, how: Sampling
) -> tuple[list[ir.Value], list[ir.Value | None]]:
    """The pixels read from `start` on: their indices, and where padding is of zeros, a mask."""
    first = op.Cast(start, to=int(INT64))
    whole = op.as_tensor((size,))
    zero, one = op.ints([0]), op.ints([1])
    last = op.Sub(whole, one)
    found: list[ir.Value] = []
    inside: list[ir.Value | None] = []
    for k in range(how.first, how.first + how.count):
        index = op.Add(first, op.ints([k])) if k else first
        mask = None
        if how.padding == "reflection":
            index = _reflected(op, index, whole, last, how)
        elif how.padding == "zeros":
            mask = op.And(op.GreaterOrEqual(index, zero), op.Less(index, whole))
        found.append(op.Min(op.Max(index, zero), last))
        inside.append(mask)
    return found, inside


def _reflected(
    op: Ops, index: ir.Value, whole: ir.Value, last: ir.Value, how: Sampling
) -> ir.Value:
    """At the centre of the last pixel, or behind it; any number of times."""
    two = op.ints([2])
    if how.aligned:
        period = op.Max(op.Mul(last, two), op.ints([1]))
        turn = op.Mod(index, period)
        return op.Min(turn, op.Sub(period, turn))
    period = op.Mul(whole, two)
    turn = op.Mod(index, period)
    return op.Min(turn, op.Sub(op.Sub(period, op.ints([1])), turn))
