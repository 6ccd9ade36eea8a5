"""What is known of a value's dependence on the samples of a batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

import onnx_ir as ir
import sympy

from onnxjvp.graph import dims
from onnxjvp.graph.load import Source


class Dependent(Exception):  # noqa: N818 - control flow within the proof, never seen outside
    """A node mixes samples, or no rule says that it doesn't."""


class Plain(Enum):
    """A value without rows."""

    #: the same whatever the batch holds
    SHARED = auto()
    #: a function of the number of samples
    COUNT = auto()
    #: a count, and what inference says of its elements, if it does, holds for every number
    SIZE = auto()


@dataclass(frozen=True)
class Rows:
    """Element (o · B + b) · inner + i of `axis` depends on sample b alone, in the same way for all.

    With `outer` None all slices along the axis are equal, so that any (outer, inner) is right.
    `refers`: the elements are indices into a flat tensor of that (outer, inner), each of sample b
    into elements of sample b (Indices of MaxPool).
    """

    axis: int
    outer: sympy.Expr | None
    inner: sympy.Expr
    refers: tuple[sympy.Expr, sympy.Expr] | None = None


@dataclass(frozen=True)
class Unknown:
    """Nothing is known, and why."""

    reason: str


State = Rows | Plain | Unknown


@dataclass(frozen=True)
class Context:
    """The model, B, and the state of every value so far."""

    source: Source
    batch: sympy.Expr
    states: dict[ir.Value, State]
    #: the symbols of the inputs' sizes: what sizes inside are made of, as far as they are known
    symbols: frozenset[sympy.Symbol]

    def state(self, value: ir.Value | None) -> State:
        return Plain.SHARED if value is None else self.states.get(value, Plain.SHARED)

    def rows(self, value: ir.Value | None) -> Rows | None:
        state = self.state(value)
        return state if isinstance(state, Rows) else None

    def dims(self, value: ir.Value) -> tuple[sympy.Expr, ...]:
        """Raises Dependent if the shape is not known."""
        if value.shape is None:
            raise Dependent(f"the shape of {value.name!r} is not known")
        return tuple(map(dims.expression, dims.of(value)))

    def certain(self, value: ir.Value) -> tuple[sympy.Expr, ...]:
        """The same, of sizes of which it is known whether the number of samples is in them."""
        sizes = self.dims(value)
        if any(size.free_symbols - self.symbols for size in sizes):
            raise Dependent(f"the sizes of {value.name!r} are not known")
        return sizes

    def size_at(self, value: ir.Value, from_end: int) -> sympy.Expr:
        """The size at a place that counts from the end; 1 beyond the first axis."""
        sizes = self.dims(value)
        return sizes[from_end] if -from_end <= len(sizes) else sympy.Integer(1)

    def live(self, node: ir.Node) -> Iterator[tuple[int, Rows]]:
        for index, value in enumerate(node.inputs):
            if (rows := self.rows(value)) is not None:
                yield index, rows

    def grows(self, size: sympy.Expr) -> bool:
        return bool(size.free_symbols & self.batch.free_symbols)

    def settled(self, value: ir.Value, state: State) -> State:
        """What all rules have to hold to: as many rows as the layout has; no count without B.

        Raises:
          Dependent: a rule's result has another number of rows, or one that is not known.
        """
        if isinstance(state, Rows) and state.outer is not None:
            size, rows = self.dims(value)[state.axis], state.outer * self.batch * state.inner
            if size != rows and sympy.expand(size - rows) != 0:
                raise Dependent("how many rows it has is not known")
        if state is Plain.SIZE and (content := self.source.shapes.content(value)) is not None:
            symbols = {s for size in content for s in dims.expression(size).free_symbols}
            if symbols <= self.symbols - self.batch.free_symbols:
                return Plain.SHARED
        return state
