"""Operators that move elements: linear in their data, whatever else they take."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import holds, linear, linear_push, zero

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


@linear_push("Pad", terms=((0,), (2,)), source="ONNX Pad-18; elements of X, and the fill around")
def pad_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    along_x, along_fill = (tangents[i] if i < len(tangents) else None for i in (0, 2))
    pads, axes, parts = region.input(1), region.input(3), list[ir.Value]()
    if along_x is not None:
        parts += op.like(region.node, [along_x, pads, None, axes])
    if along_fill is not None:
        x, fill = region.operand(0), op.const(1, like=along_fill)
        (around,) = op.like(region.node, [op.zeros_like(x), pads, fill, axes])
        is_fill = op.Cast(around, to=int(ir.DataType.BOOL))
        number = op.Reshape(along_fill, op.ints([]))
        parts.append(op.Where(is_fill, number, op.const(0, like=number)))
    return [op.add_all(parts)]


@holds("Pad")
def pad_holds(region: Region) -> set[int]:
    return set() if region.attr_string("mode", "constant") == "constant" else {2}


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
