"""Operators that read images between their pixels, or along windows of their own."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.shape_functions.operands import integer, ints, operand, unknown
from onnxjvp.graph.shapes import Shapes, shape_function


@shape_function("GridSample")
def grid_sample(s: Shapes, node: ir.Node) -> None:
    x, grid = dims.of(operand(node)), dims.of(operand(node, 1))
    rows = dims.broadcast(x[0], grid[0])
    s.put(node.outputs[0], (rows, x[1], *grid[1:-1]), operand(node).dtype)


@shape_function("AffineGrid")
def affine_grid(s: Shapes, node: ir.Node) -> None:
    theta, size = operand(node), s.content(operand(node, 1))
    count = dims.of(operand(node, 1))[0]
    inner = size[2:] if size is not None else unknown(count - 2) if isinstance(count, int) else None
    shape = None if inner is None else (dims.of(theta)[0], *inner, len(inner))
    s.put(node.outputs[0], shape, theta.dtype)


@shape_function("Col2Im")
def col_to_im(s: Shapes, node: ir.Node) -> None:
    x, image, block = (
        dims.of(operand(node)),
        s.content(operand(node, 1)),
        s.content(operand(node, 2)),
    )
    count = dims.of(operand(node, 1))[0]
    if image is None:
        image = unknown(count) if isinstance(count, int) else None
    channels = dims.fresh() if block is None else dims.quotient(x[1], dims.product(block))
    shape = None if image is None else (x[0], channels, *image)
    s.put(node.outputs[0], shape, operand(node).dtype)


@shape_function("CenterCropPad")
def center_crop_pad(s: Shapes, node: ir.Node) -> None:
    x, sizes = list(dims.of(operand(node))), s.content(operand(node, 1))
    axes = [axis % len(x) for axis in ints(node, "axes") or range(len(x))]
    for axis, size in zip(axes, sizes or unknown(len(axes)), strict=True):
        x[axis] = size
    s.put(node.outputs[0], x, operand(node).dtype)


@shape_function("RoiAlign")
def roi_align(s: Shapes, node: ir.Node) -> None:
    height, width = integer(node, "output_height", 1), integer(node, "output_width", 1)
    rows = dims.of(operand(node, 1))[0]
    s.put(node.outputs[0], (rows, dims.of(operand(node))[1], height, width), operand(node).dtype)


@shape_function("DeformConv")
def deform_conv(s: Shapes, node: ir.Node) -> None:
    x, w, offset = (dims.of(operand(node, k)) for k in range(3))
    s.put(node.outputs[0], (x[0], w[0], *offset[2:]), operand(node).dtype)


@shape_function("MaxRoiPool")
def max_roi_pool(s: Shapes, node: ir.Node) -> None:
    pooled = ints(node, "pooled_shape") or ()
    rows, channels = dims.of(operand(node, 1))[0], dims.of(operand(node))[1]
    s.put(node.outputs[0], (rows, channels, *pooled), operand(node).dtype)
