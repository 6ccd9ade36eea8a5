"""Bodies of If that say what they read: how nodes with bodies are recorded, changed and emitted.

ONNX lets a body read the graphs around it by name. A recorded If is *closed* instead: it has an
operand per value that its bodies read, and each body an input for it. So an If is a node like any
other: what is substituted for an operand, or is linear in it, needs no look inside. `open_all` in
passes/bodies.py turns it into the operator that ONNX has. Constants of the main graph are read as
they are. A Scan is recorded so too: see graph/scans.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp.graph import dims
from onnxjvp.graph.branches import BRANCHES, bodies
from onnxjvp.graph.dims import Dim, UnknownTypeError
from onnxjvp.graph.ops import Ops, Sizes
from onnxjvp.graph.regions import captured
from onnxjvp.graph.shapes import constant

Outs = Sequence[ir.Value]


class Operands:
    """The operands of an If in the making, which its two bodies share."""

    def __init__(self) -> None:
        self.values: list[ir.Value] = []
        self._read: dict[ir.Value, int] = {}

    def add(self, value: ir.Value) -> int:
        """An operand of its own, whatever others hold the same value."""
        self.values.append(value)
        return len(self.values) - 1

    def reading(self, value: ir.Value) -> int:
        if value not in self._read:
            self._read[value] = self.add(value)
        return self._read[value]


class Body(Ops):
    """A builder inside a body. Constants are those of the builder around it."""

    def __init__(self, outer: Ops, operands: Operands) -> None:
        super().__init__(outer.shapes)
        self.outer = outer
        self.operands = operands
        self.numbers = outer.numbers
        self.sizes_at_run_time = _Sizes(self)
        #: index of an operand → what it is called in here
        self.inputs: dict[int, ir.Value] = {}

    def const(self, array: ArrayLike, like: ir.Value | ir.DataType) -> ir.Value:
        return self.outer.const(array, like)

    def read(self, value: ir.Value) -> ir.Value:
        """A value of the graph around, as it is called in here."""
        return value if constant(value) is not None else self.input(self.operands.reading(value))

    def input(self, index: int) -> ir.Value:
        if index not in self.inputs:
            value = self.operands.values[index]
            name = f"{value.name}/{next(self.numbers)}"
            found = ir.Value(name=name, shape=value.shape, type=value.type)
            self.shapes.put(found, None, content=self.shapes.content(value))
            if value in self.outer.linear:
                self.linear.add(found)
            self.inputs[index] = found
        return self.inputs[index]

    def copy(self, body: ir.Graph, values: dict[ir.Value, ir.Value]) -> list[ir.Value]:
        """Record the nodes of a body on other values, and return its outputs.

        Args:
          values: what stands for each of `inside`; is filled with what stands for the others.
        """
        for value in body.initializers.values():
            values[value] = self._constant(value)
        for node in body:
            self.copy_node(node, values)
        return [values.get(v, v) for v in body.outputs]

    def _constant(self, value: ir.Value) -> ir.Value:
        array = constant(value)
        assert array is not None and value.dtype is not None
        return self.const(array, like=value.dtype)

    def copy_node(self, node: ir.Node, values: dict[ir.Value, ir.Value]) -> None:
        if node.op_type == "Constant" and constant(node.outputs[0]) is not None:
            values[node.outputs[0]] = self._constant(node.outputs[0])
            return
        read = [v if v is None else values.get(v, v) for v in reads(node)]
        for old, new in zip(node.outputs, rebuilt(self, node, read), strict=True):
            new.shape, new.type = old.shape, old.type
            if not old.name:
                new.name = ""  # an optional output that was left out
            values[old] = new

    def sources(self, outs: Outs) -> Outs:
        """Primal values with sizes that linear ones have, and that nothing else tells.

        A transpose asks for the sizes of linear values. Those of values inside are known inside
        only, so what has them stays in the body until it is emitted.
        """
        linear = [n for n in leading_to(self.nodes, outs) if self.linear & {*n.outputs}]
        given = {d for v in self.inputs.values() if v not in self.linear for d in _symbolic(v)}
        asked = {d for n in linear for v in (*n.inputs, *n.outputs) for d in _symbolic(v)}
        asked = {d for d in asked if not _follows(d, given)}
        found: dict[Dim, ir.Value] = {}
        for value in (v for n in self.nodes for v in n.outputs if v not in self.linear):
            for d in asked.intersection(_symbolic(value)):
                found.setdefault(d, value)
        return list(dict.fromkeys(found.values()))

    def graph(self, outs: Outs, sources: Outs, kept: Sequence[int]) -> ir.Graph:
        """What was recorded and leads to some values, as the body of an If that has `kept`."""
        ends: list[ir.Value] = []
        for out in outs:
            own = out.producer() is not None and constant(out) is None
            ends.append(out if own and out not in ends else self._copied(out))
        nodes = leading_to(self.nodes, [*ends, *sources])
        return ir.Graph([self.input(i) for i in kept], ends, nodes=nodes, name="branch")

    def _copied(self, value: ir.Value) -> ir.Value:
        out = self.Identity(value)
        out.shape = value.shape
        return out


class _Sizes(Sizes):
    """Sizes are read outside where they can be: nothing is computed in here for its shape alone."""

    def __init__(self, body: Body) -> None:
        super().__init__(body, None)
        self._body = body

    def _size(self, dim: Dim) -> ir.Value:
        if dim not in self._read:
            try:
                self._read[dim] = self._body.read(self._body.outer.as_tensor((dim,)))
            except UnknownTypeError:
                return super()._size(dim)
        return self._read[dim]

    def _index(self) -> None:
        # slices of what is around have sizes that nothing around need have
        self._learn(v for v in self._body.inputs.values() if v not in self._body.linear)
        super()._index()


def reads(node: ir.Node) -> tuple[ir.Value | None, ...]:
    """What a node reads: its operands, and then what its bodies read of the graphs around them."""
    return (*node.inputs, *captured(node))


def inside(node: ir.Node, body: ir.Graph) -> list[ir.Value]:
    """What a body of an If calls the values that follow the condition in `reads`."""
    return [*body.inputs, *captured(node)]


def rebuilt(op: Ops, node: ir.Node, read: Sequence[ir.Value | None]) -> Outs:
    """The node on other values, those that its bodies read among them."""
    count = len(node.inputs)
    if list(read[count:]) == captured(node):
        return op.like(node, read[:count])
    assert node.op_type in REBUILT, "a body that cannot be rebuilt is refused before"
    return REBUILT[node.op_type](op, node, read)


def _rebuilt(op: Ops, node: ir.Node, read: Sequence[ir.Value | None]) -> Outs:
    operands, arms = Operands(), []
    for body in bodies(node):
        arm = Body(op, operands)
        values = {v: arm.read(there(r)) for v, r in zip(inside(node, body), read[1:], strict=True)}
        arms.append((arm, arm.copy(body, values)))
    return record(op, read[0], arms)


#: operator → the same with its bodies reading other values
REBUILT: dict[str, Callable[[Ops, ir.Node, Sequence[ir.Value | None]], Outs]] = {"If": _rebuilt}


def record(op: Ops, condition: ir.Value | None, arms: Sequence[tuple[Body, Outs]]) -> Outs:
    """A closed If, with the operands that its bodies need."""
    operands = arms[0][0].operands
    sources = [arm.sources(outs) for arm, outs in arms]
    kept: set[int] = set()
    for (arm, outs), more in zip(arms, sources, strict=True):
        read = {v for node in leading_to(arm.nodes, [*outs, *more]) for v in reads(node)}
        kept.update(i for i, v in arm.inputs.items() if v in read or v in outs)
    order = sorted(kept)
    attributes = {
        name: ir.AttrGraph(name, arm.graph(outs, more, order))
        for name, (arm, outs), more in zip(BRANCHES, arms, sources, strict=True)
    }
    inputs = [condition, *(operands.values[i] for i in order)]
    return op.emit("If", inputs, attributes, outputs=len(arms[0][1]))


def _symbolic(value: ir.Value | None) -> list[Dim]:
    shape = () if value is None or value.shape is None else value.shape.dims
    return [d for d in shape if not isinstance(d, int)]


def _follows(dim: Dim, given: Set[Dim]) -> bool:
    """Whether a size is one of those given, or made of such by sums and products."""
    expression = dims.expression(dim)
    parts = map(dims.from_expression, expression.free_symbols)
    return dim in given or (expression.is_polynomial() and all(d in given for d in parts))


def leading_to(nodes: Sequence[ir.Node], outs: Outs) -> list[ir.Node]:
    needed, kept = set(outs), []
    for node in reversed(nodes):
        if any(v in needed for v in node.outputs):
            needed.update(v for v in reads(node) if v is not None)
            kept.append(node)
    return kept[::-1]


def there(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value
