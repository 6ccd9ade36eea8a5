"""Operators that move elements: linear in their data, whatever else they take."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import linear, linear_push, zero

linear(
    """Reshape Flatten Transpose Squeeze Unsqueeze Expand Tile Slice Split Gather GatherElements
    GatherND DepthToSpace SpaceToDepth Trilu ReverseSequence CumSum""",
    source="linear in the data operand",
)

zero(
    """Shape Size ConstantOfShape EyeLike Bernoulli RandomNormalLike RandomUniformLike ArgMax ArgMin
    NonZero""",
    source="does not depend on the values of its input, or only piecewise constantly",
)


@linear_push("Concat", terms=None, source="ONNX Concat-13; linear in all operands jointly")
def concat_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    parts = [
        op.zeros_like(x) if t is None else t
        for x, t in zip(region.inputs, tangents, strict=True)
        if x is not None
    ]
    return op.like(region.node, parts)


@linear_push("Pad", terms=((0,),), source="ONNX Pad-18; linear in X, a constant fill becomes 0")
def pad_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    pads, axes = region.input(1), region.input(3)
    return op.like(region.node, [tangents[0], pads, None, axes])


@linear_push("Resize", terms=((0,),), source="ONNX Resize-18; every mode is linear in X")
def resize_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    return op.like(region.node, [tangents[0], *region.inputs[1:]], extrapolation_value=None)


@linear_push(
    "ScatterElements ScatterND",
    terms=((0,), (2,)),
    source="ONNX ScatterND-18; linear in both, where the reduction is none or adds",
)
def scatter_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    data, indices, updates = region.inputs
    assert data is not None and updates is not None
    into = op.zeros_like(data) if tangents[0] is None else tangents[0]
    what = op.zeros_like(updates) if tangents[2] is None else tangents[2]
    return op.like(region.node, [into, indices, what])
