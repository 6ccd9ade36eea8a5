"""Which operators take bfloat16. Many do so in newer opsets only, while a model has one opset."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import onnx
import onnx_ir as ir

_NAME = "tensor(bfloat16)"


def foreign(op_type: str, operands: Sequence[ir.Value | None], version: int) -> list[int]:
    """The operands in bfloat16 that a standard operator does not take at that opset."""
    halves = [
        i for i, v in enumerate(operands) if v is not None and v.dtype == ir.DataType.BFLOAT16
    ]
    if not halves:
        return []
    taken = _taken(op_type, version)
    return [i for i in halves if taken and not taken[min(i, len(taken) - 1)]]


@functools.cache
def _taken(op_type: str, version: int) -> tuple[bool, ...]:
    """Whether each operand may be bfloat16; the last one stands for those that follow."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return ()
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return tuple(_NAME in allowed.get(f.type_str, [f.type_str]) for f in schema.inputs)
