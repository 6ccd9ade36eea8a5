"""Sums of products over named axes, and determinants."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims, equations
from onnxjvp.graph.shape_functions.operands import operand
from onnxjvp.graph.shapes import Shapes, shape_function


@shape_function("Einsum")
def einsum(s: Shapes, node: ir.Node) -> None:
    shapes = [dims.of(operand(node, k)) for k in range(len(node.inputs))]
    text = node.attributes.get_string("equation", "")
    equation = equations.read(text, [len(shape) for shape in shapes])
    sizes = equation.sizes(shapes)
    s.put(node.outputs[0], [sizes[letter] for letter in equation.result], operand(node).dtype)


@shape_function("Det")
def det(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node))[:-2], operand(node).dtype)
