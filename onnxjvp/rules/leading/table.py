"""The table, and what its entries share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.shapes import constant
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.kinds import RefusedError

Leading = Callable[[Lanes, ir.Node, Sequence[Operand]], "list[Stacked] | None"]
LEADING: dict[str, Leading] = {}


def leading(names: str) -> Callable[[Leading], Leading]:
    def register(function: Leading) -> Leading:
        for name in names.split():
            assert name not in LEADING, name
            LEADING[name] = function
        return function

    return register


def apply(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    """The node over stacks of values, in as few nodes as its operator allows.

    Raises:
      RefusedError: the operator has to run once per lane, and their number is a symbol.
    """
    function = None if node.domain else LEADING.get(node.op_type)
    stacks = None if function is None else function(lanes, node, operands)
    if stacks is not None:
        return stacks
    if not isinstance(lanes.count, int):
        raise RefusedError("with these operands or attributes it runs on one direction at a time")
    return lanes.lane_by_lane(node, operands)


def only(operands: Sequence[Operand], index: int = 0) -> Stacked | None:
    """The operand at an index, if it is the only stack."""
    stacks = [i for i, v in enumerate(operands) if isinstance(v, Stacked)]
    operand = operands[index] if stacks == [index] else None
    return operand if isinstance(operand, Stacked) else None


def given(operands: Sequence[Operand], index: int) -> Operand:
    return operands[index] if index < len(operands) else None


def axis_of(node: ir.Node, default: int, n: int) -> int:
    return node.attributes.get_int("axis", default) % n if n else 0


def known_axes(value: ir.Value, n: int) -> tuple[int, ...] | None:
    """Axes of a tensor of rank n given as an operand, if it is a constant."""
    array = constant(value)
    return None if array is None else tuple(int(a) % max(n, 1) for a in array.reshape(-1))


def shifted(lanes: Lanes, axes: ir.Value, n: int) -> ir.Value:
    """Axes of a tensor of rank n, behind a leading axis: those that count from the end stay."""
    array = constant(axes)
    if array is not None:
        return lanes.op.const(np.asarray(array) % n + 1, like=axes)
    op = lanes.op
    zero, one = op.const(0, like=axes), op.const(1, like=axes)
    return op.Where(op.Less(axes, zero), axes, op.Add(axes, one))
