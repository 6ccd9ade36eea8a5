"""What becomes of the number of samples: sizes, other counts, and slices that are all equal."""

from __future__ import annotations

import onnx_ir as ir
import sympy

from onnxjvp.graph.dims import expression
from onnxjvp.serving.row_state import Context, Plain, Rows, State

#: operators that give sizes out of sizes: they move, add, multiply or compare them
SIZES = frozenset(
    (
        *("Add", "Cast", "Concat", "Equal", "Gather", "Identity", "Mul", "ReduceProd", "Reshape"),
        *("Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
    )
)


def are_known(context: Context, node: ir.Node) -> bool:
    """Whether inference can be trusted with all that a node reads, whatever the batch."""
    return all(context.state(value) in (Plain.SHARED, Plain.SIZE) for value in node.inputs)


def of_counts(context: Context, node: ir.Node, label: str) -> list[State]:
    """The states of the outputs of a node that reads counts and no rows."""
    known = are_known(context, node)
    if label in SIZES and known and _in_range(context, node):
        return [Plain.SIZE] * len(node.outputs)
    filled = label == "ConstantOfShape" or context.state(node.inputs[0]) is Plain.SHARED
    if label in ("ConstantOfShape", "Expand", "Tile") and known and filled:
        return [_equal_slices(context, node, label)]
    return [Plain.COUNT] * len(node.outputs)


def _equal_slices(context: Context, node: ir.Node, label: str) -> State:
    """Of something shared that is repeated along the one axis that grows."""
    sizes = context.certain(node.outputs[0])
    growing = [axis for axis, size in enumerate(sizes) if context.grows(size)]
    if not growing:
        return Plain.SHARED
    axis, *others = growing
    value = node.inputs[0]
    assert value is not None
    repeats = label == "ConstantOfShape" or context.size_at(value, axis - len(sizes)) == 1
    return Rows(axis, None, sympy.Integer(1)) if repeats and not others else Plain.COUNT


def _in_range(context: Context, node: ir.Node) -> bool:
    """Whether an operator on sizes is right where numbers wrap around.

    Sums and products in int64 are right modulo 2⁶⁴, and so is all that is made of them here. An
    int32 holds the number of samples, but not each multiple of it.
    """
    made = node.outputs[0].dtype
    if node.op_type in ("Add", "Sub", "Mul", "ReduceProd"):
        return made == ir.DataType.INT64
    if node.op_type == "Cast" and made != ir.DataType.INT64:
        elements = context.source.shapes.content(node.inputs[0])
        return made == ir.DataType.INT32 and elements is not None and all(map(_is_small, elements))
    return True


def _is_small(element: int | ir.SymbolicDim) -> bool:
    size = expression(element)
    return bool(size.is_Symbol or (size.is_Integer and abs(size) < 1 << 31))
