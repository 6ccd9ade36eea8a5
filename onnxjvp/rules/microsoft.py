"""Operators of onnxruntime's own domain that are no functions of standard ones.

The others are differentiated through their bodies: onnxjvp/graph/functions.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import Shapes, shape_function
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import pushed


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
