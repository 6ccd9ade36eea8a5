"""Convolutions, pools, resizing, and normalisation per channel: axis 0 is a batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import dim, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.leading.table import given, leading, only


@leading("AveragePool GlobalAveragePool MaxPool DepthToSpace SpaceToDepth")
def batched(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """Axis 0 of the first operand is a batch by the operator's definition."""
    return lanes.on_folded(node, operands) if only(operands) else None


# -- convolutions ------------------------------------------------------------------------------


@leading("Conv ConvTranspose")
def convolution(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    if only(operands):
        return lanes.on_folded(node, operands)
    x, weight = operands[0], only(operands, 1)
    if weight is None or not isinstance(x, ir.Value) or given(operands, 2) is not None:
        return None
    groups = node.attributes.get_int("group", 1)
    by_group = node.op_type == "ConvTranspose"  # its weight names the channels of one group
    channels = dim(weight.like, 1 if by_group else 0)
    if not isinstance(channels, int):
        return None
    channels = channels if by_group else channels // groups
    wide = _as_channels(lanes, weight, by_group, groups, channels)
    (together,) = lanes.op.like(node, [x, wide])
    return [_apart(lanes, node.outputs[0], together, groups, channels)]


def _as_channels(
    lanes: Lanes, weight: Stacked, by_group: bool, groups: int, channels: int
) -> ir.Value:
    """The lanes as more output channels of every group, each of which has `channels` of them."""
    op, n, shape = lanes.op, rank(weight.like), dims.of(weight.like)
    count = dims.simplest(lanes.count * channels)
    many = op.Mul(lanes.size, op.ints([channels]))
    wide = lanes.unfold(weight)
    if by_group:  # [K, C, M/g, …] → [C, K·M/g, …]
        ends = lanes.shape_of(wide, 1, 2), lanes.shape_of(wide, 3)
        moved = op.Transpose(wide, perm=[1, 0, *range(2, n + 1)])
        return _reshaped(lanes, moved, (shape[0], count, *shape[2:]), [ends[0], many, ends[1]])
    if groups == 1:
        return lanes.fold(weight)
    # [K, g, M/g, C/g, …] → [g, K, M/g, C/g, …] → [g·K·M/g, C/g, …]
    tail = lanes.shape_of(wide, 2)
    split = (lanes.count, groups, channels, *shape[1:])
    parts = [lanes.size, op.ints([groups, channels]), tail]
    moved = op.Transpose(_reshaped(lanes, wide, split, parts), perm=[1, 0, *range(2, len(split))])
    whole = (dims.simplest(count * groups), *shape[1:])
    return _reshaped(lanes, moved, whole, [op.Mul(many, op.ints([groups])), tail])


def _apart(lanes: Lanes, y: ir.Value, together: ir.Value, groups: int, channels: int) -> Stacked:
    """[N, g·K·M/g, …] → [N, g, K, M/g, …] → [K, N, g, M/g, …] → [K, N, M, …]."""
    op, (rows, _, *spatial) = lanes.op, dims.of(y)
    together.shape = ir.Shape((rows, dims.simplest(lanes.count * groups * channels), *spatial))
    ends = lanes.shape_of(together, 0, 1), lanes.shape_of(together, 2)
    split = (rows, groups, lanes.count, channels, *spatial)
    parts = [ends[0], op.ints([groups]), lanes.size, op.ints([channels]), ends[1]]
    out = _reshaped(lanes, together, split, parts)
    out = op.Transpose(out, perm=[2, 0, 1, *range(3, len(split))])
    parts = [lanes.size, ends[0], op.ints([groups * channels]), ends[1]]
    return Stacked(y, unfolded=_reshaped(lanes, out, lanes.unfolded_dims(y), parts))


def _reshaped(lanes: Lanes, value: ir.Value, shape: Dims, parts: Sequence[ir.Value]) -> ir.Value:
    """Reshape to dimensions; `parts` is the same as tensors, for sizes known only at run time."""
    out = lanes.op.reshape_to(value, shape)
    if out is None:
        out = lanes.op.Reshape(value, lanes.op.Concat(*parts, axis=0), allowzero=1)
        out.shape = ir.Shape(shape)
    return out


# -- per channel -------------------------------------------------------------------------------


@leading("BatchNormalization")
def batch_normalization(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    """Lanes in the scale or the shift: what is normalised, once, times a scale per lane."""
    if only(operands):
        return lanes.on_folded(node, operands)
    op, (x, scale, shift, mean, variance) = lanes.op, operands
    shared = isinstance(x, ir.Value) and isinstance(mean, ir.Value)
    if not shared or not isinstance(variance, ir.Value) or len(node.outputs) > 1:
        return None
    assert isinstance(x, ir.Value) and isinstance(mean, ir.Value)
    like = scale.like if isinstance(scale, Stacked) else scale
    assert like is not None
    one, none = op.Expand(op.const(1, like=like), op.shape_of(mean)), op.zeros_like(mean)
    (normal,) = op.like(node, [x, one, none, mean, variance])
    per_channel = [_per_channel(lanes, v, x) for v in (scale, shift)]
    out = op.Add(op.Mul(per_channel[0], normal), per_channel[1])
    return [lanes.unfolded(node.outputs[0], out)]


def _per_channel(lanes: Lanes, operand: Operand, x: ir.Value) -> ir.Value:
    """[C] → [1, C, 1, …], behind the lanes' axis if there is one, in the dtype of x."""
    op, stacked = lanes.op, isinstance(operand, Stacked)
    value = lanes.unfold(operand) if isinstance(operand, Stacked) else operand
    assert value is not None and x.dtype is not None
    if value.dtype != x.dtype:
        value = op.Cast(value, to=int(x.dtype))
    return op.unsqueeze(value, *(a + stacked for a in (0, *range(2, rank(x)))))


# -- resizing ----------------------------------------------------------------------------------


@leading("Resize")
def resize(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """Folded where the rows are not resized: runtimes have kernels for few ranks."""
    data = only(operands)
    if data is None:
        return None
    n, listed = rank(data.like), node.attributes.get_ints("axes")
    axes = list(range(n)) if listed is None else [a % n for a in listed]
    if 0 not in axes:
        return lanes.on_folded(node, operands)
    by_row = _resized_by_row(lanes, node, operands, data, axes)
    if by_row is not None:
        return by_row
    if node.attributes.get_string("mode", "nearest") == "cubic":
        return None  # runtimes have none that reads five axes
    return lanes.on_unfolded(node, operands, axes=[a + 1 for a in axes])


def _takes_all(operands: Sequence[Operand], at: int) -> bool:
    """Whether a crop takes all of an axis, as far as is known."""
    region = given(operands, 1)
    ends = constant(region) if isinstance(region, ir.Value) else None
    if ends is None:
        return False
    starts, stops = np.split(ends, 2)
    return bool(starts[at] == 0 and stops[at] == 1)


def _resized_by_row(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand], data: Stacked, axes: Sequence[int]
) -> list[Stacked] | None:
    crops = node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize"
    scales, sizes, at = given(operands, 2), given(operands, 3), axes.index(0)
    if dim(data.like, 0) != dim(node.outputs[0], 0) or (crops and not _takes_all(operands, at)):
        return None
    if isinstance(sizes, ir.Value):
        ones = [lanes.op.ints([1] * k) for k in (at, len(axes) - at - 1) if k]
        ones.insert(min(at, 1), lanes.size)
        grown = lanes.op.Mul(sizes, lanes.op.Concat(*ones, axis=0))
        return lanes.on_folded(node, [*operands[:3], grown])
    scale = constant(scales) if isinstance(scales, ir.Value) else None
    if scale is None or float(scale[at]) != 1:
        return None
    return lanes.on_folded(node, operands)
