"""What shape functions read of a node."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.dims import Dims

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64


def operand(node: ir.Node, index: int = 0) -> ir.Value:
    """An input that the operator requires."""
    value = node.inputs[index]
    assert value is not None, f"input {index} is missing"
    return value


def optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def unknown(rank: int) -> Dims:
    if rank > limits.current().rank:
        raise ValueError(f"a tensor of {rank} axes")
    return tuple(dims.fresh() for _ in range(rank))


def integer(node: ir.Node, name: str, default: int) -> int:
    return node.attributes.get_int(name, default)


def ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    found = node.attributes.get_ints(name)
    return None if found is None else tuple(found)
