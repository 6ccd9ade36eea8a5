"""Sequences and optionals whose elements are known at load become ordinary operators.

SequenceAt of a constant position is the element itself, ConcatFromSequence a Concat, and
SplitToSequence a Split where the number of pieces is known. What depends on the point (a position
that is computed, a sequence that a loop fills) stays, and is refused by name on a live path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import limits
from onnxjvp.graph.branches import bodies_of
from onnxjvp.graph.shapes import MISFITS, constant, misfit

#: what a node is marked with that could not be resolved: why
WHY = "onnxjvp.sequence"
_PIECES = "onnxjvp.pieces"

OPERATORS = frozenset(
    (
        *("SequenceEmpty", "SequenceConstruct", "SplitToSequence", "SequenceAt", "SequenceInsert"),
        *("SequenceErase", "SequenceLength", "ConcatFromSequence"),
        *("Optional", "OptionalGetElement", "OptionalHasElement"),
    )
)

#: a tensor, a sequence of such, or an optional that holds neither
Held = ir.Value | list[ir.Value] | None


class _UnresolvedError(Exception):
    """The text says what of a sequence is not known at load."""


def resolve(model: ir.Model) -> bool:
    """Replace what is known of sequences and optionals, in bodies as well; whether any was.

    Values are the same to the last bit. Needs the shapes of what is split.
    Cost: linear in nodes.
    """
    nodes = list(model.graph.all_nodes())
    if not any(n.op_type in OPERATORS and not n.domain for n in nodes):
        return False
    resolution = _Resolution({v.name for n in nodes for v in n.outputs})
    changed = resolution.settle(model.graph)
    for node in reversed(nodes):
        ends = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        known = any(v in resolution.held for v in node.outputs)
        if known and not ends and node.graph is not None:
            node.graph.remove(node, safe=True)
    return changed


class _Resolution:
    def __init__(self, taken: set[str | None]) -> None:
        self.held: dict[ir.Value, Held] = {}
        self.taken = taken

    def settle(self, graph: ir.Graph) -> bool:
        changed = False
        for node in list(graph):
            for body in bodies_of(node):
                changed |= self.settle(body)
            if node.domain or node.op_type not in OPERATORS:
                if node.op_type == "Identity" and (v := node.inputs[0]) in self.held and v:
                    self.held[node.outputs[0]] = self.held[v]
                continue
            try:
                changed |= self._resolve(graph, node)
            except _UnresolvedError as error:
                node.meta[WHY] = str(error)
            except MISFITS as error:
                node.meta[WHY] = misfit(error)
        return changed

    def _resolve(self, graph: ir.Graph, node: ir.Node) -> bool:
        out = node.outputs[0]
        if node.op_type in _MADE:
            before = len(graph)
            self.held[out] = _MADE[node.op_type](self, graph, node)
            return len(graph) != before
        held = self.of(node.inputs[0] if node.inputs else None)
        made = _TAKEN[node.op_type](self, graph, node, held)
        if isinstance(made, list):  # an optional that holds a sequence
            self.held[out] = made
            return False
        last = ir.node("Identity", [made])
        last.outputs[0].name, last.outputs[0].type = out.name, out.type
        last.name = node.name
        ir.convenience.replace_nodes_and_values(graph, node, [node], [last], [out], last.outputs)
        return True

    # -- what rules of operators need ----------------------------------------------------------

    def of(self, value: ir.Value | None) -> Held:
        """What a sequence or an optional holds; a tensor is an optional that holds itself."""
        if value is None or value in self.held:
            return None if value is None else self.held[value]
        if not isinstance(value.type, ir.TensorType):
            maker = value.producer()
            where = "it is an input" if maker is None else f"{maker.op_type} makes it"
            raise _UnresolvedError(f"what {value.name!r} holds is not known at load: {where}")
        return value

    def elements(self, value: ir.Value | None) -> list[ir.Value]:
        found = self.of(value)
        if not isinstance(found, list):
            raise _UnresolvedError("its operand is no sequence")
        return found

    def before(
        self, graph: ir.Graph, node: ir.Node, op_type: str, inputs: Sequence[ir.Value], **more: int
    ) -> Sequence[ir.Value]:
        """A node in front of another; `outputs` says how many it has."""
        count = more.pop("outputs", 1)
        new = ir.node(op_type, list(inputs), more, num_outputs=count)
        for value in new.outputs:
            value.name = self._fresh(f"{node.outputs[0].name}/{op_type}")
        graph.insert_before(node, new)
        return new.outputs

    def ints(self, graph: ir.Graph, node: ir.Node, values: Sequence[int]) -> ir.Value:
        return self.constant(graph, node, np.array(values, np.int64))

    def constant(self, graph: ir.Graph, node: ir.Node, array: np.ndarray) -> ir.Value:
        new = ir.node("Constant", [], {"value": ir.tensor(array)})
        new.outputs[0].name = self._fresh(f"{node.outputs[0].name}/constant")
        graph.insert_before(node, new)
        return new.outputs[0]

    def _fresh(self, name: str) -> str:
        count = 0
        while f"{name}_{count}" in self.taken:
            count += 1
        self.taken.add(f"{name}_{count}")
        return f"{name}_{count}"


def _position(node: ir.Node, index: int, count: int, default: int, *, ends: int = 0) -> int:
    """A constant position, from the front; `ends` 1 allows that behind the last element."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if value is not None and (array is None or array.size != 1):
        raise _UnresolvedError(f"the position {value.name!r} is not a constant")
    found = default if array is None else int(array.reshape(-1)[0])
    place = found + count if found < 0 else found
    if not 0 <= place < count + ends:
        raise _UnresolvedError(f"the position {found} is outside a sequence of {count}")
    return place


# -- operators that make sequences and optionals -----------------------------------------------


def _empty(_: _Resolution, __: ir.Graph, ___: ir.Node) -> Held:
    return []


def _construct(_: _Resolution, __: ir.Graph, node: ir.Node) -> Held:
    return [v for v in node.inputs if v is not None]


def _insert(r: _Resolution, _: ir.Graph, node: ir.Node) -> Held:
    found, tensor = list(r.elements(node.inputs[0])), node.inputs[1]
    assert tensor is not None
    found.insert(_position(node, 2, len(found), len(found), ends=1), tensor)
    return found


def _erase(r: _Resolution, _: ir.Graph, node: ir.Node) -> Held:
    found = list(r.elements(node.inputs[0]))
    del found[_position(node, 1, len(found), -1)]
    return found


def _split(r: _Resolution, graph: ir.Graph, node: ir.Node) -> Held:
    x, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    sizes = node.inputs[1] if len(node.inputs) > 1 else None
    assert x is not None
    array = constant(sizes)
    if sizes is not None and array is None:
        raise _UnresolvedError(f"the sizes {sizes.name!r} of its pieces are not a constant")
    if array is not None and array.ndim == 1:
        pieces = [int(n) for n in array[: limits.current().pieces + 1]]
    elif array is not None and array.size != 1:
        raise _UnresolvedError("the size of its pieces is not one number")
    else:
        pieces = _pieces(x, axis, 1 if array is None else int(array.reshape(-1)[0]))
    if len(pieces) > limits.current().pieces:
        raise limits.beyond("pieces", len(pieces), f"pieces that {node.name!r} cuts its operand to")
    if _PIECES in node.meta:  # of an earlier round: something unresolved reads the sequence too
        return list(node.meta[_PIECES])
    made = r.before(
        graph, node, "Split", [x, r.ints(graph, node, pieces)], axis=axis, outputs=len(pieces)
    )
    if sizes is None and node.attributes.get_int("keepdims", 1) == 0:
        along = r.ints(graph, node, [axis])
        made = [r.before(graph, node, "Squeeze", [v, along])[0] for v in made]
    node.meta[_PIECES] = tuple(made)
    return list(made)


def _pieces(x: ir.Value, axis: int, each: int) -> list[int]:
    """The sizes of pieces of one size, the last of which may be smaller."""
    if x.shape is None:
        raise _UnresolvedError(f"the rank of {x.name!r} is not known")
    size = x.shape.dims[axis]
    if not isinstance(size, int) or each < 1:
        raise _UnresolvedError(
            f"how many pieces there are depends on the size of axis {axis} of {x.name!r}"
        )
    if size // each > limits.current().pieces:
        raise limits.beyond("pieces", size // each, f"pieces of axis {axis} of {x.name!r}")
    return [each] * (size // each) + [size % each] * (size % each > 0)


def _optional(r: _Resolution, _: ir.Graph, node: ir.Node) -> Held:
    value = node.inputs[0] if node.inputs else None
    return None if value is None else r.of(value)


_MADE: dict[str, Callable[[_Resolution, ir.Graph, ir.Node], Held]] = {
    "SequenceEmpty": _empty,
    "SequenceConstruct": _construct,
    "SequenceInsert": _insert,
    "SequenceErase": _erase,
    "SplitToSequence": _split,
    "Optional": _optional,
}


# -- operators that take them apart ------------------------------------------------------------


def _at(r: _Resolution, _: ir.Graph, node: ir.Node, held: Held) -> ir.Value:
    found = r.elements(node.inputs[0])
    return found[_position(node, 1, len(found), 0)]


def _length(r: _Resolution, graph: ir.Graph, node: ir.Node, held: Held) -> ir.Value:
    return r.constant(graph, node, np.array(len(r.elements(node.inputs[0])), np.int64))


def _concat(r: _Resolution, graph: ir.Graph, node: ir.Node, held: Held) -> ir.Value:
    found = r.elements(node.inputs[0])
    axis = node.attributes.get_int("axis", 0)
    if not found:
        raise _UnresolvedError("its sequence is empty")
    if node.attributes.get_int("new_axis", 0):
        along = r.ints(graph, node, [axis])
        found = [r.before(graph, node, "Unsqueeze", [v, along])[0] for v in found]
    return r.before(graph, node, "Concat", found, axis=axis)[0]


def _get(_: _Resolution, __: ir.Graph, node: ir.Node, held: Held) -> ir.Value | list[ir.Value]:
    if held is None:
        raise _UnresolvedError("its optional is empty")
    return held


def _has(r: _Resolution, graph: ir.Graph, node: ir.Node, held: Held) -> ir.Value:
    return r.constant(graph, node, np.array(held is not None))


_TAKEN: dict[
    str,
    Callable[[_Resolution, ir.Graph, ir.Node, Held], ir.Value | list[ir.Value]],
] = {
    "SequenceAt": _at,
    "SequenceLength": _length,
    "ConcatFromSequence": _concat,
    "OptionalGetElement": _get,
    "OptionalHasElement": _has,
}
