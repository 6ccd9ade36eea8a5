"""Operators of onnxruntime's own domain that are no functions of standard ones.

The others are differentiated through their bodies: onnxjvp/graph/functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region, of_node
from onnxjvp.graph.shapes import Shapes, shape_function
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import RULES, pushed, selection, tangents_of


@shape_function("com.microsoft::Inverse")
def _inverse_shape(shapes: Shapes, node: ir.Node) -> None:
    (x,) = node.inputs
    assert x is not None and x.shape is not None
    shapes.put(node.outputs[0], x.shape.dims, x.dtype)


@pushed("com.microsoft::Inverse", source="onnxruntime Inverse-1; −Y ẋ Y, Y the inverse")
def _inverse(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (y,), (t,) = region.outputs, tangents
    assert t is not None
    return [op.Neg(op.MatMul(op.MatMul(y, t), y))]


@selection("com.microsoft::NhwcMaxPool", source="ONNX MaxPool-22, with channels last; of codes")
def _channels_last_max_pool(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    """Of integers only, so of derivatives straight-through; its body gives the shape."""
    (t,), n = tangents, rank(region.operand(0))
    assert t is not None
    first, last = [0, n - 1, *range(1, n - 1)], [0, *range(2, n), 1]
    x = op.Transpose(region.operand(0), perm=first)
    made = op.MaxPool(x, **dict(region.attributes)).producer()
    assert made is not None
    (y_t,) = tangents_of(op, RULES["MaxPool"], of_node(made), [op.Transpose(t, perm=first)])
    assert y_t is not None
    return [op.Transpose(y_t, perm=last)]
