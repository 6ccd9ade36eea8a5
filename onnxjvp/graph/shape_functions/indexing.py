"""Operators that choose, place or count elements by index."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.shape_functions.arithmetic import same_as_first
from onnxjvp.graph.shape_functions.operands import INT64, integer, operand
from onnxjvp.graph.shapes import Shapes, constant, shape_function

shape_function("CumProd TensorScatter")(same_as_first)


@shape_function("TopK")
def top_k(s: Shapes, node: ir.Node) -> None:
    x = list(dims.of(operand(node)))
    count = s.content(operand(node, 1))
    x[integer(node, "axis", -1)] = count[0] if count else dims.fresh()
    for output, dtype in zip(node.outputs, (operand(node).dtype, INT64), strict=True):
        s.put(output, x, dtype)


@shape_function("Compress")
def compress(s: Shapes, node: ir.Node) -> None:
    x, condition = dims.of(operand(node)), constant(operand(node, 1))
    count: Dim = dims.fresh() if condition is None else int(condition.sum())
    if "axis" not in node.attributes:
        s.put(node.outputs[0], (count,), operand(node).dtype)
        return
    axis = integer(node, "axis", 0) % len(x)
    s.put(node.outputs[0], (*x[:axis], count, *x[axis + 1 :]), operand(node).dtype)


@shape_function("OneHot")
def one_hot(s: Shapes, node: ir.Node) -> None:
    out = list(dims.of(operand(node)))
    depth, values = s.content(operand(node, 1)), operand(node, 2)
    axis = integer(node, "axis", -1) % (len(out) + 1)
    out.insert(axis, depth[0] if depth else dims.fresh())
    s.put(node.outputs[0], out, values.dtype)


@shape_function("Unique")
def unique(s: Shapes, node: ir.Node) -> None:
    x, count = dims.of(operand(node)), dims.fresh()
    out: list[Dim] = [count]
    inverse = dims.product(x)
    if "axis" in node.attributes:
        axis = integer(node, "axis", 0) % len(x)
        out, inverse = [*x[:axis], count, *x[axis + 1 :]], x[axis]
    s.put(node.outputs[0], out, operand(node).dtype)
    for output, size in zip(node.outputs[1:], (count, inverse, count), strict=False):
        s.put(output, (size,), INT64)
