"""Operators that choose or place elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import rank
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.leading.table import axis_of, given, leading, only


@leading("Compress")
def compress(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data = lanes.op, only(operands)
    if data is None:
        return None
    if "axis" not in node.attributes:  # of all elements in a row
        whole = lanes.unfold(data)
        if rank(data.like) > 1:
            total = dims.product(dims.of(data.like))
            if isinstance(total, int):
                tail = op.ints([total])
            else:
                tail = op.ReduceProd(lanes.shape_of(whole, 1))
            whole = op.Reshape(whole, op.Concat(lanes.size, tail, axis=0), allowzero=1)
        return lanes.on_unfolded(node, [whole, *operands[1:]], axis=1)
    axis = axis_of(node, 0, rank(data.like))
    if axis > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axis=1)


@leading("TensorScatter")
def tensor_scatter(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    """Axis 0 is the batch, by definition: each lane has its rows, and the same places."""
    stacks: list[Operand] = [
        lanes.repeat(v) if isinstance(v, ir.Value) else v for v in operands[:2]
    ]
    places = given(operands, 2)
    if isinstance(places, ir.Value):
        places = lanes.op.Tile(places, lanes.size)
    return lanes.on_folded(node, [*stacks, places])
