"""Scan: what its attributes say, its shapes, and how one is recorded.

A recorded Scan is *closed*: beside its states and what it takes slices of, it has an operand for
every other value that its body reads, the invariants. It is an operator like any other; `open_all`
in passes/bodies.py makes it ONNX's, whose body reads invariants by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.bodies import REBUILT, Body, Operands, Outs, leading_to, reads, there
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.ops import MADE, Ops, rank
from onnxjvp.graph.shapes import Shapes, constant, shape_function

#: how many of the operands of a closed Scan, the last ones, are read whole by every step
INVARIANTS = "invariants"


def is_scan(node: ir.Node) -> bool:
    return node.op_type == "Scan" and not node.domain


@dataclass(frozen=True)
class Track:
    """Along which axis slices are taken or put together, and whether from the end."""

    axis: int = 0
    backwards: bool = False


@dataclass(frozen=True)
class Steps:
    """A Scan: its body, how many operands of each sort it has, and its tracks."""

    body: ir.Graph
    states: int
    #: of what slices are taken, and of what is put together from the body's outputs
    taken: tuple[Track, ...]
    given: tuple[Track, ...]
    invariants: int

    @classmethod
    def of(cls, node: ir.Node) -> Steps:
        body = node.attributes["body"].as_graph()
        count = node.attributes.get_int("num_scan_inputs", 0)
        invariants = node.attributes.get_int(INVARIANTS, 0)
        states = len(node.inputs) - count - invariants
        outs = body.outputs[states:]
        ranks = [
            [0 if v is None or v.shape is None else len(v.shape) for v in node.inputs[states:]],
            [0 if v.shape is None else len(v.shape) + 1 for v in outs],
        ]
        taken = _tracks(node, "input", count, ranks[0])
        return cls(body, states, taken, _tracks(node, "output", len(outs), ranks[1]), invariants)


def _tracks(node: ir.Node, side: str, count: int, ranks: Sequence[int]) -> tuple[Track, ...]:
    axes = node.attributes.get_ints(f"scan_{side}_axes", [0] * count)
    backwards = node.attributes.get_ints(f"scan_{side}_directions", [0] * count)
    assert axes is not None and backwards is not None
    rows = zip(axes, backwards, ranks[:count], strict=True)
    return tuple(Track(axis + n if axis < 0 else axis, bool(back)) for axis, back, n in rows)


@shape_function("Scan")
def _scan(shapes: Shapes, node: ir.Node) -> None:
    steps = Steps.of(node)
    for output, start in zip(node.outputs, node.inputs[: steps.states], strict=False):
        shapes.put(output, dims.of(there(start)), there(start).dtype)
    length = length_of(node)
    ends = zip(node.outputs, steps.body.outputs, strict=True)
    for (output, end), track in zip(list(ends)[steps.states :], steps.given, strict=True):
        if end.dtype is not None:
            output.dtype = end.dtype
        if end.shape is not None:
            shape = list(end.shape.dims)
            shape.insert(track.axis, length)
            shapes.put(output, shape)


def slices(node: ir.Node) -> list[tuple[Dims, ir.DataType]] | None:
    """The shapes and dtypes of what the body of a Scan is fed, where all of them are known."""
    steps = Steps.of(node)
    found: list[tuple[Dims, ir.DataType]] = []
    for i, value in enumerate(node.inputs[: len(node.inputs) - steps.invariants]):
        if value is None or value.shape is None or value.dtype is None:
            return None
        shape = list(value.shape.dims)
        if i >= steps.states:
            del shape[steps.taken[i - steps.states].axis]
        found.append((tuple(shape), value.dtype))
    return found


def length_of(node: ir.Node) -> Dim:
    """How many steps it takes."""
    steps = Steps.of(node)
    sizes = [
        dims.of(there(v))[track.axis]
        for v, track in zip(node.inputs[steps.states :], steps.taken, strict=False)
    ]
    return next((d for d in sizes if isinstance(d, int)), sizes[0])


class Step(Body):
    """A builder of the body of a Scan.

    What depends on invariants alone is recorded around it, so that no step repeats it.
    """

    def __init__(self, outer: Ops) -> None:
        super().__init__(outer, Operands())
        self._states: list[int] = []
        self._slices: dict[int, Track] = {}
        self._hoists = True
        #: invariants that what depends on them stays beside: its tangents are taken in here
        self.local: set[ir.Value] = set()

    def state(
        self, start: ir.Value, inner: ir.Value | None = None, *, linear: bool = False
    ) -> ir.Value:
        """What a step finds of a value that each step replaces.

        Args:
          start: its value before the first step.
          inner: what it is called in here, where it has a name already.
          linear: it is so after a step, also where it starts as zeros.
        """
        index = self.operands.add(start)
        self._states.append(index)
        found = self._named(index, dims.of(start), inner)
        if linear:
            self.linear.add(found)
        return found

    def slice(
        self, whole: ir.Value, track: Track | None = None, inner: ir.Value | None = None
    ) -> ir.Value:
        """What a step finds of a value that has a slice for each step."""
        index = self.operands.add(whole)
        self._slices[index] = track = track or Track()
        shape = list(dims.of(whole))
        del shape[track.axis]
        return self._named(index, shape, inner)

    def invariant(self, value: ir.Value, inner: ir.Value) -> ir.Value:
        """A value that every step reads whole, under a name that it has in here already."""
        return self._named(self.operands.add(value), dims.of(value), inner)

    def _named(self, index: int, shape: Sequence[Dim], inner: ir.Value | None) -> ir.Value:
        outside = self.operands.values[index]
        if inner is None:
            name = f"{MADE}{next(self.numbers)}"
            inner = ir.Value(name=name, shape=ir.Shape(shape), type=outside.type)
        if outside in self.outer.linear:
            self.linear.add(inner)
        self.inputs[index] = inner
        return inner

    def finish(self, following: Outs, given: Sequence[tuple[ir.Value, Track]] = ()) -> Outs:
        """The Scan: its states after the last step, and then what its steps give, put together.

        Args:
          following: what each state is for the next step.
        """
        # onnxruntime puts slices together along axis 0; along others it divides by sizes of 0
        tracks = [Track(0, track.backwards) for _, track in given]
        outs = [*following, *(v for v, _ in given)]
        order, body = self._body(outs)
        slices = [i for i in order if i in self._slices]
        taken = [self._slices[i] for i in slices]
        attributes = {
            "body": ir.AttrGraph("body", body),
            "num_scan_inputs": len(slices),
            **_written("input", taken),
            **_written("output", tracks),
            INVARIANTS: len(order) - len(self._states) - len(slices),
        }
        operands = [self.operands.values[i] for i in order]
        made = self.outer.emit("Scan", operands, attributes, outputs=len(outs))
        ends = zip(made[len(following) :], given, strict=True)
        return [*made[: len(following)], *(self._moved(v, t.axis) for v, (_, t) in ends)]

    def _body(self, outs: Outs) -> tuple[list[int], ir.Graph]:
        """What leads to some values as a graph, and the operands that it is fed, by index."""
        more = self.sources(outs)
        nodes = leading_to(self.nodes, [*outs, *more])
        read = {v for node in nodes for v in reads(node)}.union(outs)
        used = [i for i, v in self.inputs.items() if v in read and i not in self._states]
        slices = [i for i in used if i in self._slices] or list(self._slices)[:1]
        invariants = [i for i in used if i not in self._slices]
        self._hoists = False  # an output that is no more than a copy is made in here
        order = [*self._states, *slices, *invariants]
        return order, self.graph(outs, more, order)

    def _moved(self, whole: ir.Value, axis: int) -> ir.Value:
        """Slices put together along axis 0, along another axis."""
        n = rank(whole)
        order = [*range(1, axis + 1), 0, *range(axis + 1, n)]
        return self.outer.Transpose(whole, perm=order) if axis else whole

    def _record(self, node: ir.Node) -> Sequence[ir.Value]:
        if self._hoists and (outside := self._outside(node)) is not None:
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)  # it would still count as a user
            attributes = dict(node.attributes)
            count = len(node.outputs)
            made = self.outer.emit(node.op_type, outside, attributes, count, node.domain)
            return [self.read(v) for v in made]
        return super()._record(node)

    def _outside(self, node: ir.Node) -> list[ir.Value | None] | None:
        """What a node's operands are called around, if all of them are invariants."""
        local = (*self._states, *self._slices)
        names = {v: self.operands.values[i] for i, v in self.inputs.items() if i not in local}
        found: list[ir.Value | None] = []
        for value in node.inputs:
            if value in self.local:
                return None
            if value is None or constant(value) is not None:
                found.append(value)
            elif value in names:
                found.append(names[value])
            else:
                return None
        return found


def _written(side: str, tracks: Sequence[Track]) -> dict[str, list[int] | None]:
    axes = [t.axis for t in tracks]
    backwards = [int(t.backwards) for t in tracks]
    return {
        f"scan_{side}_axes": axes if any(axes) else None,
        f"scan_{side}_directions": backwards if any(backwards) else None,
    }


def _rebuilt(op: Ops, node: ir.Node, read: Sequence[ir.Value | None]) -> Outs:
    """The Scan on other values, those that its body reads by name among them."""
    steps, step = Steps.of(node), Step(op)
    names = [*steps.body.inputs, *reads(node)[len(node.inputs) :]]
    values: dict[ir.Value, ir.Value] = {}
    for i, (name, actual) in enumerate(zip(names, read, strict=True)):
        assert name is not None
        values[name] = enter(step, steps, i, there(actual))
    outs = step.copy(steps.body, values)
    ends = list(zip(outs[steps.states :], steps.given, strict=True))
    return step.finish(outs[: steps.states], ends)


REBUILT["Scan"] = _rebuilt


def enter(
    step: Step, steps: Steps, index: int, actual: ir.Value, inner: ir.Value | None = None
) -> ir.Value:
    """What a step finds of an operand of a Scan, by the operand's index."""
    if index < steps.states:
        return step.state(actual, inner)
    if index < steps.states + len(steps.taken):
        found = step.slice(actual, steps.taken[index - steps.states], inner)
        return found if inner is not None else sized_like(found, steps.body.inputs[index])
    return step.read(actual) if inner is None else step.invariant(actual, inner)


def sized_like(inner: ir.Value, name: ir.Value) -> ir.Value:
    """A slice in the symbols that the body it is copied from has for its sizes."""
    if name.shape is not None:
        inner.shape = name.shape
    return inner
