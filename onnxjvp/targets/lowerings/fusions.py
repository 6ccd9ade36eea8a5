"""What runtimes fuse, written so that the fused node has the shape that it should have."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import rank
from onnxjvp.targets.fusion_limits import copies, missing_axes, single_factor
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand


@lowering("Add Sub Mul Div Pow Sum")
def as_wide(low: Lowering, node: ir.Node) -> Made:
    """The same, of operands that have the axes and copies before that a constant gives them; the
    factor of a Swish without axes.
    """
    op, operands = low.op, [operand(node, i) for i in range(len(node.inputs))]
    if (most := missing_axes(node)) is not None:
        axes = [range(most - rank(v)) for v in operands]
        return op.like(node, [op.unsqueeze(v, *new) for v, new in zip(operands, axes, strict=True)])
    if (found := copies(node)) is not None:
        i, repeats = found
        operands[i] = op.Tile(operands[i], op.ints(repeats))
        return op.like(node, operands)
    factor = single_factor(node) if node.op_type == "Mul" else None
    if factor is None or rank(operands[factor]) > rank(operands[1 - factor]):
        return None
    operands[factor] = op.Reshape(operands[factor], op.ints([]))
    return op.like(node, operands)
