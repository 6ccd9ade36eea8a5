"""Convolutions.

With y = X · W, a convolution's cotangent in X is the transposed convolution with the same weights,
and in W the convolution of X by the cotangent, with batch and channels exchanged and strides and
dilations exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims, UnknownTypeError
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.rules.transposes.table import operand, transposed

#: where a slice with the step -1 ends, to hold the first element too
FIRST = -(1 << 62)


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the axes behind batch and channels, from `inner` to `outer`."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    inner: Dims
    outer: Dims
    #: (before, behind) along each axis; None where that depends on a size known at run time
    pads: tuple[tuple[int, int], ...] | None
    #: whether what is left over of an automatic padding goes behind
    upper: bool = True

    @property
    def reach(self) -> tuple[int, ...]:
        """The span of a dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def along(self) -> Sequence[tuple[int, int, tuple[int, int]]]:
        """(stride, reach, pads) of every axis."""
        assert self.pads is not None
        return list(zip(self.strides, self.reach, self.pads, strict=True))


def window(node: ir.Node, kernel: tuple[int, ...], inner: Dims, outer: Dims) -> Window:
    """The window of a Conv or a pool."""
    n = len(kernel)
    strides = tuple(node.attributes.get_ints("strides") or (1,) * n)
    dilations = tuple(node.attributes.get_ints("dilations") or (1,) * n)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    free = Window(kernel, strides, dilations, inner, outer, None, auto != "SAME_LOWER")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        given = node.attributes.get_ints("pads") if auto == "NOTSET" else None
        return replace(free, pads=_pairs(given or (0,) * 2 * n))
    totals = []
    for i, o, s, r in zip(inner, outer, strides, free.reach, strict=True):
        if isinstance(i, int) and isinstance(o, int):
            totals.append(max((o - 1) * s + r - i, 0))
        elif s == 1:
            totals.append(r - 1)
        else:
            return free
    return replace(free, pads=tuple(_shared(total, free.upper) for total in totals))


def _pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    n = len(flat) // 2
    return tuple(zip(flat[:n], flat[n:], strict=True))


def _shared(total: int, upper: bool) -> tuple[int, int]:
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


def _kernel(weights: ir.Value) -> tuple[int, ...]:
    return _static(dims.of(weights)[2:], "the size of its kernel")


def _static(sizes: Dims, what: str) -> tuple[int, ...]:
    if not dims.is_static(sizes):
        raise UnknownTypeError(f"{what} cannot be inferred")
    return tuple(int(d) for d in sizes if isinstance(d, int))


# -- the two maps of a convolution -------------------------------------------------------------


def spread(op: Ops, ct: ir.Value, w: ir.Value, group: int, moves: Window) -> ir.Value:
    """The cotangent of X, from `outer` to `inner`; w is [M, C/group, *kernel]."""
    pads = moves.pads
    if pads is not None and all(s == 1 and min(p) >= 0 and max(p) < r for s, r, p in moves.along()):
        # a plain convolution by the turned kernel: faster than ConvTranspose
        behind = [[r - 1 - p[side] for _, r, p in moves.along()] for side in (0, 1)]
        return op.Conv(
            ct,
            turned(op, w, group),
            group=group,
            dilations=moves.dilations,
            pads=[*behind[0], *behind[1]],
        )
    if pads is not None and dims.is_static((*moves.inner, *moves.outer)):
        sizes = zip(moves.inner, moves.outer, moves.along(), strict=True)
        left = [known_int(i) + sum(p) - r - (known_int(o) - 1) * s for i, o, (s, r, p) in sizes]
        return op.ConvTranspose(
            ct,
            w,
            group=group,
            strides=moves.strides,
            dilations=moves.dilations,
            pads=[*(p[0] for p in pads), *(p[1] for p in pads)],
            output_padding=left if any(left) else None,
        )
    whole = op.ConvTranspose(ct, w, group=group, strides=moves.strides, dilations=moves.dilations)
    begin = begins(op, moves)
    steps, reach = op.ints(moves.strides), op.ints(moves.reach)
    last = op.Mul(op.Sub(op.as_tensor(moves.outer), op.ints([1])), steps)
    behind_it = op.Sub(op.Add(op.as_tensor(moves.inner), begin), op.Add(last, reach))
    axes = op.ints(range(2, 2 + len(moves.kernel)))
    return op.Pad(whole, op.Concat(op.Neg(begin), behind_it, axis=0), None, axes)


def known_int(dim: dims.Dim) -> int:
    assert isinstance(dim, int)
    return dim


def begins(op: Ops, moves: Window) -> ir.Value:
    """The padding before each axis."""
    if moves.pads is not None:
        return op.ints([before for before, _ in moves.pads])
    total = _total(op, moves)
    half = op.Div(total, op.ints([2]))
    return half if moves.upper else op.Sub(total, half)


def _total(op: Ops, moves: Window) -> ir.Value:
    last = op.Mul(op.Sub(op.as_tensor(moves.outer), op.ints([1])), op.ints(moves.strides))
    short = op.Sub(op.Add(last, op.ints(moves.reach)), op.as_tensor(moves.inner))
    return op.Max(short, op.ints([0]))


def turned(op: Ops, w: ir.Value, group: int) -> ir.Value:
    """[M, C/g, *k] → [C, M/g, *k] with every kernel turned about its centre."""
    m, c, *kernel = dims.of(w)
    inner = list(range(2, rank(w)))
    if group == 1:
        w = op.Transpose(w, perm=[1, 0, *inner])
    elif (dims.quotient(m, group), c) != (1, 1):
        deep = dims.quotient(m, group)
        apart = op.Reshape(w, op.as_tensor((group, deep, c, *kernel)), allowzero=1)
        swapped = op.Transpose(apart, perm=[0, 2, 1, *(axis + 1 for axis in inner)])
        wide = dims.product((group, c))
        w = op.Reshape(swapped, op.as_tensor((wide, deep, *kernel)), allowzero=1)
    axes = [axis for axis, k in zip(inner, kernel, strict=True) if k != 1]
    if not axes:
        return w
    back, first = op.ints([-1] * len(axes)), op.ints([FIRST] * len(axes))
    out = op.Slice(w, back, first, op.ints(axes), back)
    out.shape = w.shape
    return out


def correlate(
    op: Ops, x: ir.Value, ct: ir.Value, group: int, moves: Window, w: ir.Value
) -> ir.Value:
    """The cotangent of the weights [M, C/group, *kernel], from X and the cotangent of X · W."""
    inner = list(range(2, rank(x)))
    pads = moves.pads
    if pads is None:
        begin = begins(op, moves)
        ends = op.Sub(_total(op, moves), begin)
        x = op.Pad(x, op.Concat(begin, ends, axis=0), None, op.ints(inner))
        pads = ((0, 0),) * len(inner)
    if not isinstance(dim(x, 0), int):
        # the batch becomes channels, and of none onnxruntime makes anything: one sample of zeros
        one_more = op.ints([0, 1]), None, op.ints([0])
        x, ct = op.Pad(x, *one_more), op.Pad(ct, *one_more)
    if group == 1:
        data = op.Transpose(x, perm=[1, 0, *inner])
    else:
        deep = dims.quotient(dim(x, 1), group)
        apart = op.Reshape(x, _split_channels(op, x, group), allowzero=1)
        moved = op.Transpose(apart, perm=[2, 1, 0, *(axis + 1 for axis in inner)])
        batch = dims.product((group, dim(x, 0)))
        shape = op.Concat(op.as_tensor((deep, batch)), op.sizes(x, inner), axis=0)
        data = op.Reshape(moved, shape, allowzero=1)
    kernels = op.Transpose(ct, perm=[1, 0, *inner])
    found = op.Conv(
        data,
        kernels,
        group=group,
        strides=moves.dilations,
        dilations=moves.strides,
        pads=[*(p[0] for p in pads), *(p[1] for p in pads)],
    )
    # rows of X that no window reached
    axes, none = op.ints(inner), op.ints([0] * len(inner))
    found = op.Slice(found, none, op.ints(moves.kernel), axes)
    out = op.Transpose(found, perm=[1, 0, *inner])
    out.shape = w.shape
    return out


def _split_channels(op: Ops, x: ir.Value, group: int) -> ir.Value:
    deep = dims.quotient(dim(x, 1), group)
    return op.Concat(
        op.sizes(x, [0]), op.as_tensor((group, deep)), op.sizes(x, range(2, rank(x))), axis=0
    )


# -- entries -----------------------------------------------------------------------------------


@transposed("Conv")
def conv(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    x, w = operand(node, 0), operand(node, 1)
    group = node.attributes.get_int("group", 1)
    moves = window(node, _kernel(w), dims.of(x)[2:], dims.of(node.outputs[0])[2:])
    if i == 1:
        return correlate(op, x, ct, group, moves, w)
    out = spread(op, ct, w, group, moves)
    out.shape = x.shape
    return out


@transposed("ConvTranspose")
def conv_transpose(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """The Conv that it is the transpose of."""
    x, w = operand(node, 0), operand(node, 1)
    group = node.attributes.get_int("group", 1)
    moves = _of_transpose(node, _kernel(w), dims.of(x)[2:], dims.of(node.outputs[0])[2:])
    assert moves.pads is not None
    if i == 1:
        return correlate(op, ct, x, group, moves, w)
    out = op.Conv(
        ct,
        w,
        group=group,
        strides=moves.strides,
        dilations=moves.dilations,
        pads=[*(p[0] for p in moves.pads), *(p[1] for p in moves.pads)],
    )
    inner = range(2, rank(x))
    if any(p >= s for p, s in zip(_output_padding(node, rank(x) - 2), moves.strides, strict=True)):
        out = op.Slice(out, op.ints([0] * len(inner)), op.as_tensor(moves.outer), op.ints(inner))
    out.shape = x.shape
    return out


def _output_padding(node: ir.Node, n: int) -> tuple[int, ...]:
    return tuple(node.attributes.get_ints("output_padding") or (0,) * n)


def _of_transpose(node: ir.Node, kernel: tuple[int, ...], x: Dims, y: Dims) -> Window:
    """The window of the Conv from y to x."""
    n = len(kernel)
    strides = tuple(node.attributes.get_ints("strides") or (1,) * n)
    dilations = tuple(node.attributes.get_ints("dilations") or (1,) * n)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    free = Window(kernel, strides, dilations, y, x, None, auto == "SAME_UPPER")
    extra = _output_padding(node, n)
    if auto in ("SAME_UPPER", "SAME_LOWER") and "output_shape" not in node.attributes:
        totals = [e + r - s for e, r, s in zip(extra, free.reach, strides, strict=True)]
    elif "output_shape" in node.attributes:
        sizes = zip(
            _static(x, "the size of its input"),
            _static(y, "the size of its output"),
            strides,
            free.reach,
            extra,
            strict=True,
        )
        totals = [(i - 1) * s + e + r - o for i, o, s, r, e in sizes]
    else:
        given = node.attributes.get_ints("pads") if auto == "NOTSET" else None
        return replace(free, pads=_pairs(given or (0,) * 2 * n))
    if min(totals) < 0:
        raise UnknownTypeError("its output is larger than its kernel reaches")
    return replace(free, pads=tuple(_shared(total, free.upper) for total in totals))
