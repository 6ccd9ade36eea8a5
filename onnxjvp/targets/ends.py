"""Which values lead to outputs, and which sequences nothing reads but the end of."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import rank
from onnxjvp.graph.regions import captured
from onnxjvp.graph.shapes import constant


def needed(values: Iterable[ir.Value | None], without: Collection[ir.Node] = ()) -> set[ir.Value]:
    """Some values, and all that they are made of; not what some nodes are made of."""
    found: set[ir.Value] = set()
    waiting = [v for v in values if v is not None]
    while waiting:
        value = waiting.pop()
        if value in found:
            continue
        found.add(value)
        made = value.producer()
        if made is not None and made not in without:
            waiting.extend(v for v in (*made.inputs, *captured(made)) if v is not None)
    return found


class Sequences:
    """Values [T, …] of which, as it may be, nothing is read but the end.

    Args:
      outputs: what is read of all nodes.
      without: nodes that are going, and read nothing any more.
    """

    def __init__(
        self, graph: ir.Graph, outputs: Collection[ir.Value], without: Collection[ir.Node]
    ) -> None:
        self._graph = graph
        self._outputs = frozenset(outputs)
        self._needed = needed(outputs, without)

    def shorten(self, values: Iterable[ir.Value], end: int) -> bool:
        """Whether nothing is read of the values but index `end` (0 or -1) of axis 0.

        Then a sequence of one step, the last, can stand for each: it and all views of it have
        their shapes changed to that.
        """
        found: dict[ir.Value, int] = {}
        if not all(self._views(value, end, found) for value in values):
            return False
        for view, axis in found.items():
            sizes = list(dims.of(view))
            sizes[axis] = 1
            view.shape = ir.Shape(sizes)
        return True

    def _views(self, value: ir.Value, end: int, found: dict[ir.Value, int]) -> bool:
        """Adds every form in which a value is read, and where its sequence runs in it."""
        found[value] = 0
        waiting = [value]
        while waiting:
            view = waiting.pop()
            if view in self._outputs or view.is_graph_output() or view.shape is None:
                return False
            for user, i in view.uses():
                if user.graph is not None and user.graph is not self._graph:  # in a body
                    return False
                if self._needed.isdisjoint(user.outputs) or _takes(user, i, found[view], end):
                    continue
                axis = _moved(user, found[view])
                if axis is None:
                    return False
                found[user.outputs[0]] = axis
                waiting.append(user.outputs[0])
        return True


def _takes(node: ir.Node, index: int, axis: int, end: int) -> bool:
    """Whether a node takes the end of an axis of its first operand."""
    if node.op_type != "Gather" or node.domain or index != 0 or node.inputs[0] is None:
        return False
    places = constant(node.inputs[1])
    along = node.attributes.get_int("axis", 0) or 0
    if along % rank(node.inputs[0]) != axis or places is None:
        return False
    return bool(np.all(places == end))


def _moved(node: ir.Node, axis: int) -> int | None:
    """Where an axis of a node's operand is in its result; None if the node is no view."""
    if node.domain or node.inputs[0] is None or node.outputs[0].shape is None:
        return None
    before, behind = rank(node.inputs[0]), rank(node.outputs[0])
    if node.op_type == "Identity":
        return axis
    if node.op_type == "Transpose":
        perm = list(node.attributes.get_ints("perm") or range(before)[::-1])
        return perm.index(axis)
    places = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op_type == "Squeeze" and places is not None:
        gone = {int(place) % before for place in places.reshape(-1)}
        return None if axis in gone else axis - sum(place < axis for place in gone)
    if node.op_type == "Unsqueeze" and places is not None:
        new = {int(place) % behind for place in places.reshape(-1)}
        return [place for place in range(behind) if place not in new][axis]
    return None
