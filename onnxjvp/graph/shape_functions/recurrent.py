"""RNN, GRU, LSTM: steps and batch are those of X, also where onnx's inference lost them."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.shape_functions.operands import integer, operand
from onnxjvp.graph.shapes import Shapes, shape_function


@shape_function("RNN GRU LSTM")
def recurrent(s: Shapes, node: ir.Node) -> None:
    first, second, _ = dims.of(operand(node))
    count, _, hidden = dims.of(operand(node, 2))
    size = integer(node, "hidden_size", 0) or hidden
    if integer(node, "layout", 0):
        every, last = (first, second, count, size), (first, count, size)
    else:
        every, last = (first, count, second, size), (count, second, size)
    for output, shape in zip(node.outputs, (every, last, last), strict=False):
        s.put(output, shape, operand(node).dtype)
