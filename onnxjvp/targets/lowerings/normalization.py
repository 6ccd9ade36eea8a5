"""Normalisations at inference, by sums and factors."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import rank
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand


@lowering("BatchNormalization")
def batch_normalization(low: Lowering, node: ir.Node) -> Made:
    """A factor and a sum per channel."""
    op = low.op
    if node.attributes.get_int("training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return None
    x, scale, shift, mean, variance = (operand(node, i) for i in range(5))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    assert epsilon is not None
    width = op.Sqrt(op.Add(variance, op.const(epsilon, like=variance)))
    places = op.ints([-1, *[1] * (rank(x) - 2)])
    factor, center, more = (op.Reshape(v, places) for v in (op.Div(scale, width), mean, shift))
    out = op.Add(op.Mul(op.Sub(x, center), factor), more)
    return [out, *[None] * (len(node.outputs) - 1)]


@lowering("LayerNormalization")
def layer_normalization(low: Lowering, node: ir.Node) -> Made:
    """Means, a centred operand, its root mean square."""
    op, x = low.op, operand(node, 0)
    if x.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return None  # which are summed up in single precision
    n, axis = rank(x), node.attributes.get_int("axis", -1) or 0
    axes = op.ints(range(axis % n, n))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    assert epsilon is not None
    mean = op.ReduceMean(x, axes, keepdims=1)
    centred = op.Sub(x, mean)
    variance = op.ReduceMean(op.Mul(centred, centred), axes, keepdims=1)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, op.const(epsilon, like=x))))
    out = op.Mul(op.Mul(centred, inverse), operand(node, 1))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        out = op.Add(out, node.inputs[2])
    return [out, mean, inverse][: len(node.outputs)]
