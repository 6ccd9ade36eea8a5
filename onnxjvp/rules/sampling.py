"""Operators that read images between their pixels, and that put images together."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules import grids
from onnxjvp.rules.grids import Sampling
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import holds, linear, linear_push

linear("AffineGrid", source="ONNX AffineGrid-20; places times theta, linear in theta")
linear("Col2Im", source="ONNX Col2Im-18; elements of blocks, added up where they overlap")
linear("CenterCropPad", source="ONNX CenterCropPad-18; elements of X, and zeros")


@linear_push(
    "GridSample",
    terms=((0,),),
    args=(0, 1),
    source="ONNX GridSample-22; linear in X, in the grid by the slopes of the weights, "
    "which the nearest pixel has not",
)
def grid_sample_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, grid = region.operand(0), region.operand(1)
    return [sampled_tangent(op, region.node, (x, grid), (tangents[0], tangents[1]))]


@holds("GridSample")
def grid_sample_holds(region: Region) -> set[int]:
    return {1} if grids.sampling(region.node).mode == "nearest" else set()


def sampled_tangent(
    op: Ops,
    node: ir.Node,
    at: tuple[ir.Value, ir.Value],
    tangents: tuple[ir.Value | None, ir.Value | None],
) -> ir.Value | None:
    """The tangent of a GridSample like `node` of an image and a grid, from theirs."""
    (x, grid), (along_x, along_grid) = at, tangents
    parts, how = [], grids.sampling(node)
    if along_x is not None:
        parts.append(op.like(node, [along_x, grid])[0])
    if along_grid is not None and how.mode != "nearest":
        for axis in range(rank(grid) - 2):
            slope = _slope(op, node, (x, grids.precise(op, grid)), axis, how)
            moved = op.unsqueeze(grids.coordinate(op, along_grid, axis), 1)
            if moved.dtype != slope.dtype:
                moved = op.CastLike(moved, slope)
            parts.append(op.Mul(slope, moved))
    return op.add_all(parts) if parts else None


def _slope(
    op: Ops, node: ir.Node, at: tuple[ir.Value, ir.Value], axis: int, how: Sampling
) -> ir.Value:
    """∂y/∂grid along one axis, the shape of y: samples at whole pixels of that axis."""
    x, grid = at
    size, last = dim(x, 2 + axis), rank(grid) - 1
    before, behind = last - 2 - axis, last - 1 - axis
    where = grids.place(op, grids.coordinate(op, grid, axis), size, how)
    start = grids.before(op, where, how)
    slopes = grids.weights(op, op.Sub(where, start), how, slope=True)
    factor = grids.scale(op, size, how, where)
    total = []
    for k, slope in enumerate(slopes):
        pixel = op.Add(start, op.const(float(how.first + k), like=start))
        parts = [op.unsqueeze(grids.named(op, pixel, size, how), last)]
        if before:
            parts.insert(0, op.Slice(grid, op.ints([0]), op.ints([before]), op.ints([last])))
        if behind < last - 1:
            parts.append(op.Slice(grid, op.ints([behind]), op.ints([last - 1]), op.ints([last])))
        (sample,) = op.like(node, [x, op.Concat(*parts, axis=last)])
        weight = op.Mul(slope, factor)
        weight = op.unsqueeze(weight, 1) if rank(weight) else weight
        if weight.dtype != sample.dtype:
            weight = op.CastLike(weight, sample)
        total.append(op.Mul(sample, weight))
    return op.add_all(total)
