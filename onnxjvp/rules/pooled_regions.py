"""Pools over regions of an image: RoiAlign, MaxRoiPool.

RoiAlign is in the image the operator itself; in the regions, written out as two products.

A region averages samples between pixels, which lie on a grid: with a matrix A of what each of its
rows takes of the rows of the image, and B for columns, y = A x Bᵀ. Where samples lie moves with the
region, so the slopes of A and B are all there is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import INT64, Ops, dim
from onnxjvp.graph.regions import Region
from onnxjvp.rules.grids import number
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import linear_push, selection


def _why_not(region: Region) -> str | None:
    if region.attr_string("mode", "avg") == "avg":
        return None
    return "of mode 'max' runtimes have different definitions, none of which is linear"


@linear_push(
    "RoiAlign",
    terms=((0,),),
    args=(0, 1),
    refuse=_why_not,
    source="ONNX RoiAlign-22; linear in X, in the regions by the slopes of interpolation",
)
def roi_align_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t, moved), y, parts = tangents[:2], region.outputs[0], []
    if t is not None:
        parts.append(op.like(region.node, [t, *region.inputs[1:]])[0])
    if moved is not None:
        (a, along_a), (b, along_b) = (_averages(op, region, moved, axis) for axis in (0, 1))
        for rows, columns in ((along_a, b), (a, along_b)):
            parts.append(_both(op, region, rows, columns))
    out = op.add_all(parts)
    out.shape = y.shape
    return [out]


def _averages(op: Ops, region: Region, moved: ir.Value, axis: int) -> tuple[ir.Value, ir.Value]:
    """[R, out, size]: what every row (or column) of a region takes of those of the image; and that
    along the tangents of the regions."""
    count = region.attr_int("sampling_ratio", 0)
    if count <= 0:
        raise RefusedError(
            "without a sampling_ratio how many samples a region takes depends on its size, so y "
            "jumps where that changes: give a sampling_ratio, or hold the regions fixed"
        )
    out = region.attr_int(("output_height", "output_width")[axis], 1)
    size = dim(region.operand(0), 2 + axis)
    where, along = _places(op, region, moved, axis, out * count)
    pixels = _pixels(op, size, where)
    last = op.Sub(number(op, size, where), op.const(1.0, like=where))
    none, one = (op.const(v, like=where) for v in (0.0, 1.0))
    near = op.unsqueeze(op.Min(op.Max(where, none), last), 2)
    # beyond a pixel around the image there is nothing
    inside = op.And(
        op.GreaterOrEqual(where, op.const(-1.0, like=where)),
        op.LessOrEqual(where, op.Add(last, one)),
    )
    shares = op.Relu(op.Sub(one, op.Abs(op.Sub(near, pixels))))
    shares = op.Where(op.unsqueeze(inside, 2), shares, none)
    before = op.Floor(near)
    ahead = op.Equal(pixels, op.Add(before, one))
    slope = op.Where(
        ahead, one, op.Where(op.Equal(pixels, before), op.const(-1.0, like=where), none)
    )
    between = op.And(op.Greater(where, none), op.Less(where, last))
    slope = op.Where(op.unsqueeze(between, 2), slope, none)
    return _mean(op, shares, out, count), _mean(
        op, op.Mul(slope, op.unsqueeze(along, 2)), out, count
    )


def _places(
    op: Ops, region: Region, moved: ir.Value, axis: int, count: int
) -> tuple[ir.Value, ir.Value]:
    """[R, count], in pixels: where the samples lie along an axis, and how they move."""
    rois = region.operand(1)
    scale = op.const(region.node.attributes.get_float("spatial_scale", 1.0), like=rois)
    half = region.attr_string("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    found = []
    for value in (rois, moved):
        ends = [op.Mul(op.Gather(value, op.ints([k]), axis=1), scale) for k in (1 - axis, 3 - axis)]
        found.append((ends[0], op.Sub(ends[1], ends[0])))
    (start, extent), (along_start, along_extent) = found
    if half:
        start = op.Sub(start, op.const(0.5, like=rois))
    else:
        one = op.const(1.0, like=rois)
        along_extent = op.Where(op.Greater(extent, one), along_extent, op.const(0.0, like=rois))
        extent = op.Max(extent, one)
    limits.check_constant(count, "the places of a region")
    steps = op.const((np.arange(count)[None] + 0.5) / count, like=rois)
    return (
        op.Add(start, op.Mul(extent, steps)),
        op.Add(along_start, op.Mul(along_extent, steps)),
    )


def _pixels(op: Ops, size: Dim, like: ir.Value) -> ir.Value:
    """0, 1, … in the dtype of `like`."""
    if isinstance(size, int):
        limits.check_constant(size, "the places of an axis")
        return op.const(np.arange(size), like=like)
    assert like.dtype is not None
    return op.Cast(_numbers(op, size), to=int(like.dtype))


def _numbers(op: Ops, size: Dim) -> ir.Value:
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    return op.Range(zero, op.Squeeze(op.as_tensor((size,)), op.ints([0])), one)


def _mean(op: Ops, samples: ir.Value, out: int, count: int) -> ir.Value:
    """[R, out · count, size] → [R, out, size]."""
    rows, _, size = dims.of(samples)
    apart = op.Reshape(samples, op.as_tensor((rows, out, count, size)), allowzero=1)
    mean = op.ReduceMean(apart, op.ints([2]), keepdims=0)
    mean.shape = ir.Shape((rows, out, size))
    return mean


def _both(op: Ops, region: Region, rows: ir.Value, columns: ir.Value) -> ir.Value:
    """[R, C, h, w]: A x Bᵀ of every region and channel, with the image that the region names."""
    x, image = region.operand(0), region.operand(2)
    n, channels, height, width = dims.of(x)
    count, h, _ = dims.of(rows)
    of_image = op.Equal(op.unsqueeze(image, 1), _numbers(op, n))  # [R, N]
    none = op.const(0.0, like=rows)
    left = op.Where(op.unsqueeze(of_image, 1, 3), op.unsqueeze(rows, 2), none)  # [R, h, N, H]
    left = op.Reshape(
        left, op.Concat(op.volume((count, h)), op.volume((n, height)), axis=0), allowzero=1
    )
    right = op.Reshape(
        op.Transpose(x, perm=[0, 2, 1, 3]),
        op.Concat(op.volume((n, height)), op.volume((channels, width)), axis=0),
        allowzero=1,
    )
    taken = op.Reshape(
        op.MatMul(left, right),
        op.Concat(op.as_tensor((count,)), op.volume((h, channels)), op.as_tensor((width,)), axis=0),
        allowzero=1,
    )
    out = op.MatMul(taken, op.Transpose(columns, perm=[0, 2, 1]))
    shape = op.as_tensor((count, h, channels, dim(columns, 1)))
    return op.Transpose(op.Reshape(out, shape, allowzero=1), perm=[0, 2, 1, 3])


@selection("MaxRoiPool", source="ONNX MaxRoiPool-22; the first largest element of each part")
def max_roi_pool_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    """The operator tells no index. Of ranks in a plane, its result is the rank of the element."""
    (t, *_), x, y = tangents, region.operand(0), region.outputs[0]
    assert t is not None
    n, channels, *image = dims.of(x)
    planes, size = op.volume((n, channels)), op.volume(image)
    rows = op.Concat(planes, size, axis=0)
    # from the largest on, of equals the first one first
    _, order = op.emit("TopK", (op.Reshape(x, rows, allowzero=1), size), outputs=2)
    order = op.Reshape(order, rows, allowzero=1)
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    numbers = op.Expand(op.Range(zero, op.Squeeze(size, op.ints([0])), one), rows)
    places = op.ScatterElements(numbers, order, numbers, axis=1)
    # planes of single precision numbers tell 2²⁴ elements apart
    ranks = op.Cast(op.Sub(size, places), to=int(ir.DataType.FLOAT))
    pooled = op.Reshape(ranks, op.shape_of(x), allowzero=1)
    rois = region.operand(1)
    if rois.dtype != ir.DataType.FLOAT:
        rois = op.Cast(rois, to=int(ir.DataType.FLOAT))
    (best,) = op.like(region.node, [pooled, rois])
    place = op.Sub(size, op.Cast(best, to=int(INT64)))  # `size` of a part that is empty
    first = _planes(op, region.operand(1), channels)
    at = op.Add(op.Mul(first, size), op.Min(place, op.Sub(size, op.ints([1]))))
    element = op.Add(op.Mul(first, size), op.Gather(op.Reshape(order, op.ints([-1])), at))
    taken = op.Gather(op.Reshape(t, op.ints([-1])), element)
    out = op.Where(op.Less(place, size), taken, op.const(0.0, like=t))
    out.shape = y.shape
    return [out]


def _planes(op: Ops, rois: ir.Value, channels: Dim) -> ir.Value:
    """[R, C, 1, 1]: the number of the plane that a region and a channel read."""
    image = op.Cast(op.Gather(rois, op.const(np.int64(0), INT64), axis=1), to=int(INT64))
    rows = op.Mul(op.unsqueeze(image, 1), op.as_tensor((channels,)))
    return op.unsqueeze(op.Add(rows, _numbers(op, channels)), 2, 3)
