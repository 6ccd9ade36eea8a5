"""onnxruntime on CPU, in float32: stay in the blocked layout that its convolutions run in.

Same-shape Mul and Add, Sigmoid, HardSigmoid, Concat and pools work on blocked values; Where, Sub
and comparisons do not, and cost a reordering on the way in and another on the way out.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, dim, rank, same_shape
from onnxjvp.graph.shapes import constant

#: a slope so steep that HardSigmoid is 0 or 1 for every normal float32
STEEP = float(np.finfo(np.float32).max)
#: channels of a block
BLOCK = 16


def lower(op: Ops) -> None:
    """Masks as factors, 1 − σ as a HardSigmoid. A factor 0 does not stop an infinite tangent."""
    steps: dict[ir.Value, ir.Value] = {}
    moved: dict[ir.Value, ir.Value] = {}
    nodes = list(op.nodes)
    op.nodes.clear()
    for node in nodes:
        for i, value in enumerate(node.inputs):
            if value is not None and value in moved:
                node.replace_input_with(i, moved[value])
        if node.op_type == "Where":
            _factor(op, node, steps)
        elif node.op_type == "Sub":
            _complement(node)
        op.nodes.append(node)
        if node.op_type == "ConvTranspose" and _is_image(node.outputs[0]):
            moved[node.outputs[0]] = _blocked(op, node.outputs[0])


def _factor(op: Ops, node: ir.Node, steps: dict[ir.Value, ir.Value]) -> None:
    """Where(y > 0, t, 0) → step(y) · t."""
    mask, tangent, other = node.inputs
    made = None if mask is None else mask.producer()
    if made is None or made.op_type != "Greater" or tangent is None:
        return
    y, bound = made.inputs
    if y is None or y.dtype != ir.DataType.FLOAT or not (_is(bound, 0) and _is(other, 0)):
        return
    if not same_shape(y, tangent):
        if not _is_image(y) or rank(tangent) != rank(y):
            return
        tangent = _blocked(op, _expanded(op, tangent, y))
    if y not in steps:
        steps[y] = op.HardSigmoid(y, alpha=STEEP, beta=0.0)
    node.op_type = "Mul"
    node.resize_inputs(2)
    node.replace_input_with(0, steps[y])
    node.replace_input_with(1, tangent)


def _is_image(y: ir.Value) -> bool:
    channels = dim(y, 1) if rank(y) == 4 and y.dtype == ir.DataType.FLOAT else None
    return isinstance(channels, int) and channels % BLOCK == 0


def _expanded(op: Ops, value: ir.Value, like: ir.Value) -> ir.Value:
    out = op.Expand(value, op.as_tensor(dims.of(like)))
    out.shape = like.shape
    return out


def _blocked(op: Ops, value: ir.Value) -> ir.Value:
    """The same value, from an operator that makes it in the blocked layout.

    What follows then stays there. Where a skip connection never meets a convolution, one value
    outside the layout would keep all sums behind it outside as well.
    """
    out = op.AveragePool(value, kernel_shape=[1, 1])
    out.shape = value.shape
    return out


def _complement(node: ir.Node) -> None:
    """1 − σ(x) → HardSigmoid(σ, −1, 1), which is the same on [0, 1]."""
    one, gate = node.inputs
    made = None if gate is None else gate.producer()
    if made is None or made.op_type != "Sigmoid" or not _is(one, 1):
        return
    if gate is None or gate.dtype != ir.DataType.FLOAT:
        return
    node.op_type = "HardSigmoid"
    node.resize_inputs(1)
    node.replace_input_with(0, gate)
    node.attributes["alpha"] = ir.AttrFloat32("alpha", -1.0)
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)


def _is(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == number
