"""Nodes made into others in place: what reads them, and what they are called, stays."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir


def become(node: ir.Node, other: ir.Node) -> None:
    """Compute what another node does, which is not needed any more."""
    change(node, other.op_type, other.inputs)
    node.attributes.update(other.attributes)
    other.resize_inputs(0)


def change(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None]) -> None:
    """Compute another operator, without attributes, of other values."""
    operands = list(inputs)
    for name in list(node.attributes):
        del node.attributes[name]
    node.op_type = op_type
    node.resize_inputs(len(operands))
    for i, value in enumerate(operands):
        node.replace_input_with(i, value)
