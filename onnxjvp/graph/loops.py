"""Loop: its shapes, and how one is recorded: closed, as a Scan is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.bodies import REBUILT, Outs, reads, there
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import INT64, Ops
from onnxjvp.graph.scans import INVARIANTS, Step, Track, sized_like
from onnxjvp.graph.shapes import Shapes, shape_function


def is_loop(node: ir.Node) -> bool:
    return node.op_type == "Loop" and not node.domain


@dataclass(frozen=True)
class Turns:
    """A Loop: its body, and how many states it has.

    Operands are the number of turns, a condition, states, and if it is closed the invariants. The
    body calls them the number of the turn, the condition, and so on; it gives a condition, the
    states after the turn, and a slice of everything that is put together.
    """

    body: ir.Graph
    states: int

    @classmethod
    def of(cls, node: ir.Node) -> Turns:
        body = node.attributes["body"].as_graph()
        return cls(body, len(body.inputs) - 2 - node.attributes.get_int(INVARIANTS, 0))

    def is_kept(self, index: int) -> bool:
        """Whether every turn gives a state as it found it."""
        value: ir.Value | None = self.body.outputs[1 + index]
        while value is not None and (made := value.producer()) is not None:
            if made.op_type != "Identity":
                return False
            value = made.inputs[0]
        return value is self.body.inputs[2 + index]


#: the shape and the dtype of each input of a body; None: not even the rank is known
Fed = Sequence[tuple[Dims | None, ir.DataType]]


def fed(node: ir.Node) -> Fed | None:
    """The shapes and dtypes of what the body is fed in the first turn, if all of them are known."""
    found: list[tuple[Dims | None, ir.DataType]] = [((), INT64), ((), ir.DataType.BOOL)]
    for value in node.inputs[2:]:
        if value is None or value.shape is None or value.dtype is None:
            return None
        found.append((dims.of(value), value.dtype))
    return found


def changes(node: ir.Node, first: Fed) -> set[tuple[int, int]]:
    """The sizes that a turn changes, as (operand, axis); axis −1 is the rank."""
    turns, found = Turns.of(node), set[tuple[int, int]]()
    ends = turns.body.outputs[1 : 1 + turns.states]
    for i, ((before, _), end) in enumerate(zip(first[2:], ends, strict=False), start=2):
        if before is None:
            continue
        if end.shape is None or len(end.shape) != len(before):
            found.add((i, -1))
        else:
            pairs = enumerate(zip(before, end.shape.dims, strict=True))
            found.update((i, axis) for axis, (a, b) in pairs if a != b)
    return found


def forgotten(first: Fed, sizes: set[tuple[int, int]]) -> Fed:
    """Without some sizes, named as in `changes`."""
    found: list[tuple[Dims | None, ir.DataType]] = []
    for i, (shape, dtype) in enumerate(first):
        known = shape
        if shape is not None:
            kept = tuple(dims.fresh() if (i, k) in sizes else d for k, d in enumerate(shape))
            known = None if (i, -1) in sizes else kept
        found.append((known, dtype))
    return found


@shape_function("Loop")
def _loop(shapes: Shapes, node: ir.Node) -> None:
    turns = Turns.of(node)
    starts = zip(node.outputs, node.inputs[2:], turns.body.outputs[1:], strict=False)
    for output, start, end in list(starts)[: turns.states]:
        first = there(start)
        shapes.put(output, None, first.dtype)
        if end.shape is not None and len(end.shape) == len(dims.of(first)):
            pairs = zip(dims.of(first), end.shape.dims, strict=True)
            shapes.put(output, [a if a == b else dims.fresh() for a, b in pairs])
    count, ends = dims.fresh(), turns.body.outputs[1 + turns.states :]
    for output, end in zip(node.outputs[turns.states :], ends, strict=True):
        if end.dtype is not None:
            output.dtype = end.dtype
        if end.shape is not None:
            shapes.put(output, (count, *end.shape.dims))


class Turn(Step):
    """A builder of the body of a Loop."""

    def __init__(self, outer: Ops, count: ir.Value | None, condition: ir.Value | None) -> None:
        super().__init__(outer)
        self._hoists = False
        forever = outer.const(np.int64(np.iinfo(np.int64).max), INT64)
        always = outer.const(np.array(True), ir.DataType.BOOL)
        self.number = self._scalar(forever if count is None else count)
        self.condition = self._scalar(always if condition is None else condition)

    def _scalar(self, value: ir.Value) -> ir.Value:
        found = self.state(value)
        found.shape = ir.Shape(())
        return found

    def finish(self, following: Outs, given: Sequence[tuple[ir.Value, Track]] = ()) -> Outs:
        """The Loop: its states after the last turn, and then what its turns give, put together.

        Args:
          following: the condition for another turn, and what each state is in it.
        """
        outs = [*following, *(v for v, _ in given)]
        order, body = self._body(outs)
        count = len(order) - len(self._states)
        attributes = {"body": ir.AttrGraph("body", body), INVARIANTS: count}
        operands = [self.operands.values[i] for i in order]
        return self.outer.emit("Loop", operands, attributes, outputs=len(outs) - 1)


def enter(turn: Turn, turns: Turns, index: int, actual: ir.Value) -> ir.Value:
    """What a turn finds of an operand of a Loop, by the operand's index from 2 on."""
    if index < 2 + turns.states:
        return sized_like(turn.state(actual), turns.body.inputs[index])
    return turn.read(actual)


def _rebuilt(op: Ops, node: ir.Node, read: Sequence[ir.Value | None]) -> Outs:
    """The Loop on other values, those that its body reads by name among them."""
    turns, turn = Turns.of(node), Turn(op, *read[:2])
    names = [*turns.body.inputs, *reads(node)[len(node.inputs) :]]
    values = {there(names[0]): turn.number, there(names[1]): turn.condition}
    for i, (name, actual) in enumerate(zip(names, read, strict=True)):
        if i >= 2:
            values[there(name)] = enter(turn, turns, i, there(actual))
    outs = turn.copy(turns.body, values)
    cut = 1 + turns.states
    return turn.finish(outs[:cut], [(v, Track()) for v in outs[cut:]])


REBUILT["Loop"] = _rebuilt
