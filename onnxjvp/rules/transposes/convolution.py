"""Convolutions.

With y = X · W, a convolution's cotangent in X is the transposed convolution with the same weights,
and in W the convolution of X by the cotangent, with batch and channels exchanged and strides and
dilations exchanged.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.rules.transposes.table import operand, transposed
from onnxjvp.rules.windows import (
    Window,
    all_padding,
    begins,
    flat,
    known_int,
    last_end,
    window,
    window_of_transpose,
)

__all__ = ["Window", "conv", "conv_transpose", "correlate", "spread", "turned", "window"]

#: where a slice with the step -1 ends, to hold the first element too
FIRST = -(1 << 62)


# -- the two maps of a convolution -------------------------------------------------------------


def spread(op: Ops, ct: ir.Value, w: ir.Value, group: int, moves: Window) -> ir.Value:
    """The cotangent of X, from `outer` to `inner`; w is [M, C/group, *kernel]."""
    pads = moves.pads if dims.is_static(moves.kernel) else None
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
    if pads is not None and moves.is_static:
        sizes = zip(moves.inner, moves.outer, moves.along(), strict=True)
        left = [known_int(i) + sum(p) - r - (known_int(o) - 1) * s for i, o, (s, r, p) in sizes]
        return op.ConvTranspose(
            ct,
            w,
            group=group,
            strides=moves.strides,
            dilations=moves.dilations,
            pads=flat(pads),
            output_padding=left if any(left) else None,
        )
    whole = op.ConvTranspose(ct, w, group=group, strides=moves.strides, dilations=moves.dilations)
    begin = begins(op, moves)
    behind_it = op.Sub(op.Add(op.as_tensor(moves.inner), begin), last_end(op, moves))
    axes = op.ints(range(2, 2 + len(moves.kernel)))
    return op.Pad(whole, op.Concat(op.Neg(begin), behind_it, axis=0), None, axes)


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
    bare, pads = x, moves.pads
    if pads is None:
        begin = begins(op, moves)
        ends = op.Sub(all_padding(op, moves), begin)
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
        image = op.sizes(bare, inner)
        if moves.pads is None:
            image = op.Add(image, all_padding(op, moves))
        split = op.Concat(op.sizes(x, [0]), op.as_tensor((group, deep)), image, axis=0)
        apart = op.Reshape(x, split, allowzero=1)
        moved = op.Transpose(apart, perm=[2, 1, 0, *(axis + 1 for axis in inner)])
        batch = dims.product((group, dim(x, 0)))
        shape = op.Concat(op.as_tensor((deep, batch)), image, axis=0)
        data = op.Reshape(moved, shape, allowzero=1)
    kernels = op.Transpose(ct, perm=[1, 0, *inner])
    found = op.Conv(
        data,
        kernels,
        group=group,
        strides=moves.dilations,
        dilations=moves.strides,
        pads=flat(pads),
    )
    # rows of X that no window reached
    axes, none = op.ints(inner), op.ints([0] * len(inner))
    found = op.Slice(found, none, op.as_tensor(moves.kernel), axes)
    out = op.Transpose(found, perm=[1, 0, *inner])
    out.shape = w.shape
    return out


# -- entries -----------------------------------------------------------------------------------


@transposed("Conv")
def conv(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    x, w = operand(node, 0), operand(node, 1)
    group = node.attributes.get_int("group", 1)
    moves = window(node, dims.of(w)[2:], dims.of(x)[2:], dims.of(node.outputs[0])[2:])
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
    moves = window_of_transpose(node, dims.of(w)[2:], dims.of(x)[2:], dims.of(node.outputs[0])[2:])
    if i == 1:
        return correlate(op, ct, x, group, moves, w)
    inner = op.ints(range(2, rank(x)))
    pads = moves.pads
    if pads is None:
        begin = begins(op, moves)
        ends = op.Sub(all_padding(op, moves), begin)
        ct = op.Pad(ct, op.Concat(begin, ends, axis=0), None, inner)
    out = op.Conv(
        ct,
        w,
        group=group,
        strides=moves.strides,
        dilations=moves.dilations,
        pads=None if pads is None else flat(pads),
    )
    if pads is None or _has_more(node, moves):
        none = op.ints([0] * len(moves.kernel))
        out = op.Slice(out, none, op.as_tensor(moves.outer), inner)
    out.shape = x.shape
    return out


def _has_more(node: ir.Node, moves: Window) -> bool:
    """Whether y has rows for a window more than x has."""
    shaped = "output_shape" in node.attributes
    return shaped or any(e >= s for e, s in zip(moves.extra, moves.strides, strict=True))
