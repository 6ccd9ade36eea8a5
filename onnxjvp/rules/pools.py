"""Pools that are no convolution of their input: p-norms over windows, and MaxPool undone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import linear, pushed
from onnxjvp.rules.windows import Window, around, flat, to_the_end, window

linear("MaxUnpool", source="ONNX MaxUnpool-22; elements of X, moved")

#: the p of which the slope of |x|^p is linear in x
_SQUARES = 2


@pushed("LpPool", source="ONNX LpPool-22; Σ x |x|^(p-2) t over a window, by y^(p-1)")
def lp_pool_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x, y = tangents, region.operand(0), region.outputs[0]
    assert t is not None
    kernel = tuple(region.node.attributes.get_ints("kernel_shape") or ())
    moves = window(region.node, kernel, dims.of(x)[2:], dims.of(y)[2:])
    p = region.attr_int("p", 2)
    total = _summed(op, region.node, op.Mul(_power(op, x, p), t), y, moves)
    return [_normed(op, total, y, p)]


@pushed("GlobalLpPool", source="ONNX GlobalLpPool-22; Σ x |x|^(p-2) t over the image, by y^(p-1)")
def global_lp_pool_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x, y = tangents, region.operand(0), region.outputs[0]
    assert t is not None
    p = region.attr_int("p", 2)
    products = op.Mul(_power(op, x, p), t)
    total = op.ReduceSum(products, op.ints(range(2, rank(x))), keepdims=1)
    return [_normed(op, total, y, p)]


def _power(op: Ops, x: ir.Value, p: int) -> ir.Value:
    """x |x|^(p-2), the slope of |x|^p by p: of p = 1 the sign, which is 0 at 0."""
    if p == 1:
        return op.Sign(x)
    return op.Mul(x, _raised(op, op.Abs(x), p - 2)) if p > _SQUARES else x


def _normed(op: Ops, total: ir.Value, y: ir.Value, p: int) -> ir.Value:
    """By y^(p-1); where y is 0 the norm has a kink, and its slope here is 0."""
    if p == 1:
        return total
    none = op.const(0.0, like=y)
    is_zero = op.Equal(y, none)
    safe = op.Where(is_zero, op.const(1.0, like=y), y)
    return op.Where(is_zero, none, op.Div(total, _raised(op, safe, p - 1)))


def _raised(op: Ops, base: ir.Value, p: int) -> ir.Value:
    return base if p == 1 else op.Pow(base, op.const(float(p), like=base))


def _summed(op: Ops, node: ir.Node, x: ir.Value, y: ir.Value, moves: Window) -> ir.Value:
    """Σ over every window, in the shape of y: every channel of every sample an image of its own."""
    moves = to_the_end(node, moves)
    ceil = node.attributes.get_int("ceil_mode", 0) == 1
    pads: list[int] | None = None
    if moves.pads is not None and (moves.is_static or not ceil):
        pads = flat(moves.pads)
    planes = op.Concat(
        op.volume(dims.of(x)[:2]), op.ints([1]), op.as_tensor(dims.of(x)[2:]), axis=0
    )
    images = op.Reshape(x, planes, allowzero=1)
    if pads is None:
        images = op.Pad(images, around(op, moves), None, op.ints(range(2, rank(x))))
    sums = op.Conv(
        images,
        op.const(np.ones((1, 1, *moves.kernel)), like=x),
        strides=moves.strides,
        dilations=moves.dilations,
        pads=pads,
    )
    out = op.Reshape(sums, op.shape_of(y), allowzero=1)
    out.shape = y.shape
    return out
