"""Masked cotangents that are wanted with channels last, made so when they leave the blocked layout.

onnxruntime's convolutions give blocked values to either layout in one pass, and take them from
either. A product with a mask in between, that is turned afterwards, costs a pass of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.blocked import is_image
from onnxjvp.targets.nodes import change

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


def lower(op: Ops, outputs: Collection[ir.Value]) -> None:
    """Transpose(mask · conv) → Transpose(mask) · Transpose(conv), of images, for all that read it.

    Convolutions that read the product take it turned back; sums over pixels take it as it is.

    Args:
      outputs: all that is read of what was recorded; the rest is dead, and hinders nothing.
    """
    turns = [node for node in op.nodes if node.op_type == "Transpose"]
    live = _live(op, outputs) if turns else frozenset[ir.Node]()
    for node in turns:
        if node in live and node.inputs[0] is not None:
            _turn(op, node, node.inputs[0], _Reading(live, outputs))


def _live(op: Ops, outputs: Collection[ir.Value]) -> frozenset[ir.Node]:
    found = set[ir.Node]()
    needed = set(outputs)
    for node in reversed(op.nodes):
        if any(v in needed for v in node.outputs):
            found.add(node)
            needed.update(v for v in node.inputs if v is not None)
    return frozenset(found)


@dataclass(frozen=True)
class _Reading:
    """Who reads a value."""

    live: frozenset[ir.Node]
    outputs: Collection[ir.Value]

    def __call__(self, value: ir.Value) -> list[tuple[ir.Node, int]] | None:
        """Nodes and the positions of their operands; None where others read it, too."""
        uses = value.uses()
        if value in self.outputs or any(node.graph is not None for node, _ in uses):
            return None
        return [(node, i) for node, i in uses if node in self.live]


def _turn(op: Ops, node: ir.Node, masked: ir.Value, reading: _Reading) -> None:
    made, readers = masked.producer(), reading(masked)
    lead = rank(masked) - 3
    perm = (*range(lead), lead + 1, lead + 2, lead)
    if made is None or made.op_type != "Mul":
        return
    if tuple(node.attributes.get_ints("perm") or ()) != perm:
        return
    found = next((x for i in (0, 1) if (x := _convolved(made, i, reading)) is not None), None)
    if found is None or readers is None:
        return
    mask, image = found
    others = [user for user, _ in readers if user is not node]
    if not all(_can_turn(user, lead, reading) for user in others):
        return
    whole = op.reshape_to(op.Transpose(image, perm=LAST), dims.of(node.outputs[0]))
    if whole is None:
        return
    turned = node.outputs[0]
    folded = (dims.of(image)[0], *dims.of(turned)[lead:])
    change(node, "Mul", [op.Transpose(mask, perm=LAST), whole])
    for user in others:
        if user.op_type == "ReduceSum":
            change(user, "ReduceSum", [turned, op.ints([lead, lead + 1])])
            user.attributes["keepdims"] = ir.AttrInt64("keepdims", 0)
            continue
        change(user, "Transpose", [op.reshape_to(turned, folded)])
        user.attributes["perm"] = ir.AttrInt64s("perm", FIRST)


def _convolved(made: ir.Node, i: int, reading: _Reading) -> tuple[ir.Value, ir.Value] | None:
    """A mask, and what a convolution gives, of which operand `i` is the only view."""
    view, mask = made.inputs[i], made.inputs[1 - i]
    reshape = None if view is None else view.producer()
    image = None if reshape is None or reshape.op_type != "Reshape" else reshape.inputs[0]
    conv = None if image is None else image.producer()
    if conv is None or conv.op_type != "Conv" or image is None or view is None or mask is None:
        return None
    alone = all(len(reading(value) or ()) == 1 for value in (image, view))
    if not alone or not is_image(image) or not is_image(mask):
        return None
    shape = dims.of(view)
    fits = shape[-4:] == dims.of(mask) and shape[-3:] == dims.of(image)[1:]
    return (mask, image) if fits else None


def _can_turn(user: ir.Node, lead: int, reading: _Reading) -> bool:
    """Whether it reads a product as images of a convolution, or sums it over pixels."""
    if user.op_type == "ReduceSum":
        axes = constant(user.inputs[1]) if len(user.inputs) > 1 else None
        summed = None if axes is None else sorted(int(axis) for axis in axes)
        return summed == [lead + 1, lead + 2] and user.attributes.get_int("keepdims", 1) == 0
    images, readers = user.outputs[0], reading(user.outputs[0])
    if user.op_type != "Reshape" or not is_image(images) or readers is None:
        return False
    return all(reader.op_type == "Conv" and i == 0 for reader, i in readers)
