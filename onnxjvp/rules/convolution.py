"""Convolutions and the pools that are convolutions with a constant kernel."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import linear, linear_push, selection

linear("AveragePool GlobalAveragePool", source="ONNX AveragePool-19, linear in X")


@linear_push(
    "Conv ConvTranspose",
    terms=((0, 1), (2,)),
    source="ONNX Conv-11, ConvTranspose-11; X · W + B, bilinear and a bias",
)
def conv_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    y, parts = region.outputs[0], []
    x, w = region.inputs[:2]
    for operands in ((tangents[0], w), (x, tangents[1])):
        if operands[0] is not None and operands[1] is not None:
            parts.append(op.like(region.node, operands)[0])
    if len(tangents) > 2 and (bias := tangents[2]) is not None:
        parts.append(op.unsqueeze(bias, 0, *range(2, rank(y))))
    return [op.expand_to(op.add_all(parts), y)]


@selection("MaxPool", source="ONNX MaxPool-12; the first largest element of each window")
def max_pool_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,) = tangents
    assert t is not None
    _, indices = op.emit(
        "MaxPool",
        region.inputs,
        {**region.attributes, "storage_order": None},
        outputs=2,
    )
    # indices count through the whole tensor, batch and channels included
    return [op.Gather(op.Reshape(t, op.ints([-1])), indices)]


@selection("GlobalMaxPool", source="ONNX GlobalMaxPool-1; the first largest element")
def global_max_pool_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x, y = tangents, region.operand(0), region.outputs[0]
    assert t is not None
    flat = op.Concat(op.sizes(x, [0, 1]), op.count(x, range(2, rank(x))), axis=0)
    where = op.ArgMax(op.Reshape(x, flat, allowzero=1), axis=2, keepdims=1)
    taken = op.GatherElements(op.Reshape(t, flat, allowzero=1), where, axis=2)
    return [op.unsqueeze(taken, *range(3, rank(y)))]
