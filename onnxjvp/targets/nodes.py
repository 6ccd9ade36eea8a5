"""Nodes made into others in place: what reads them, and what they are called, stays."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops


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


def apart(op: Ops, node: ir.Node) -> list[ir.Node]:
    """A node for each of a node's outputs, in its place, still to be made what it is to compute."""
    more = node.outputs[1:]
    users = [(value, user, i) for value in more for user, i in value.uses()]
    for _, user, i in users:
        user.replace_input_with(i, None)
    node.resize_outputs(1)
    made = [ir.Node("", node.op_type, [], outputs=[value]) for value in more]
    if node.graph is None:
        op.nodes.extend(made)
    else:
        node.graph.insert_after(node, made)
    for value, user, i in users:
        user.replace_input_with(i, value)
    return [node, *made]
