"""Operators that read images between their pixels, or put them together: axis 0 is a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, dim, rank
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.leading.table import given, known_axes, leading, only, shifted
from onnxjvp.rules.spectra import AXIS_IS_OPERAND


@leading("GridSample")
def grid_sample(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    """Images of several lanes at the same places are one image of more channels."""
    if only(operands):
        return _in_channels(lanes, node, operands)
    rows = [lanes.repeat(v) if isinstance(v, ir.Value) else v for v in operands]
    return lanes.on_folded(node, rows)


@leading("RoiAlign")
def roi_align(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    return _in_channels(lanes, node, operands) if only(operands) else None


def _in_channels(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    """[K, N, C, …] → [N, K·C, …], the node, and [M, K·C, …] → [K, M, C, …]."""
    op, data, y = lanes.op, only(operands), node.outputs[0]
    assert data is not None
    channels, tail = dim(data.like, 1), dims.of(data.like)[2:]
    rank_in, rank_out = rank(data.like), rank(y)
    apart = lanes.unfold(data)
    moved = op.Transpose(apart, perm=[1, 0, *range(2, rank_in + 1)])
    sizes = [lanes.shape_of(apart, k, k + 1) for k in range(1, 3)]
    wide = op.Mul(lanes.size, sizes[1])
    whole = op.Concat(sizes[0], wide, lanes.shape_of(apart, 3), axis=0)
    images = op.Reshape(moved, whole, allowzero=1)
    many = dims.simplest(lanes.count * channels)
    images.shape = ir.Shape((dim(data.like, 0), many, *tail))
    (out,) = op.like(node, [images, *operands[1:]])  # type: ignore[list-item]
    out.shape = ir.Shape((dim(y, 0), many, *dims.of(y)[2:]))
    parts = [lanes.shape_of(out, 0, 1), lanes.size, sizes[1], lanes.shape_of(out, 2)]
    out = op.Reshape(out, op.Concat(*parts, axis=0), allowzero=1)
    return [lanes.unfolded(y, op.Transpose(out, perm=[1, 0, *range(2, rank_out + 1)]))]


@leading("MaxUnpool")
def max_unpool(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """Indices count through all samples: those of a lane go on where the lane before ends."""
    data, where = only(operands), operands[1]
    if data is None or not isinstance(where, ir.Value) or len(operands) > 2:
        return None
    op = lanes.op
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    lane = op.Range(zero, op.Squeeze(lanes.size, op.ints([0])), one)
    first = op.Mul(lane, _unpooled(lanes, node, lanes.unfold(data)))
    shifted = op.Add(op.unsqueeze(first, *range(1, 1 + rank(where))), where)
    return lanes.on_folded(node, [data, lanes.unfolded(where, shifted)])


def _unpooled(lanes: Lanes, node: ir.Node, apart: ir.Value) -> ir.Value:
    """How many elements a MaxUnpool makes of one of [K, N, C, *image]."""
    op, n = lanes.op, rank(apart) - 3
    kernel = node.attributes.get_ints("kernel_shape") or ()
    strides = node.attributes.get_ints("strides") or (1,) * n
    pads = node.attributes.get_ints("pads") or (0,) * 2 * n
    more = [k - pads[i] - pads[n + i] for i, k in enumerate(kernel)]
    steps = op.Mul(op.Sub(lanes.shape_of(apart, 3), op.ints([1])), op.ints(strides))
    image = op.Add(steps, op.ints(more))
    return op.ReduceProd(op.Concat(lanes.shape_of(apart, 1, 3), image, axis=0), keepdims=1)


@leading("Col2Im")
def col_to_im(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    return lanes.on_folded(node, operands) if only(operands) else None


@leading("CenterCropPad")
def center_crop_pad(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    data = only(operands)
    if data is None:
        return None
    n = rank(data.like)
    axes = [axis % n for axis in node.attributes.get_ints("axes") or range(n)]
    if 0 not in axes:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axes=[axis + 1 for axis in axes])


@leading("AffineGrid")
def affine_grid(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """theta: [K·N, d, d + 1], and K·N images to make."""
    if only(operands) is None:
        return None
    op, size = lanes.op, operands[1]
    assert isinstance(size, ir.Value)
    n = rank(node.outputs[0]) - 2
    grown = op.Mul(size, op.Concat(lanes.size, op.ints([1] * (n + 1)), axis=0))
    return lanes.on_folded(node, [operands[0], grown])


@leading("STFT")
def stft(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    return lanes.on_folded(node, operands) if only(operands) else None


@leading("DFT")
def dft(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """Folded along another axis than the first, unfolded otherwise."""
    data, length, axis = only(operands), given(operands, 1), given(operands, 2)
    if data is None:
        return None
    n = rank(data.like)
    if lanes.op.shapes.opset_imports.get("", AXIS_IS_OPERAND) < AXIS_IS_OPERAND:
        named = node.attributes.get_int("axis", 1) % n
        if named:
            return lanes.on_folded(node, operands)
        return lanes.on_unfolded(node, operands, axis=named + 1)
    if not isinstance(axis, ir.Value):  # the last but one
        return (lanes.on_folded if n > 2 else lanes.on_unfolded)(node, operands)
    known = known_axes(axis, n)
    if known is not None and known[0] > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, [data, length, shifted(lanes, axis, n)])
