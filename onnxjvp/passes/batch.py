"""Many directions at once: a linear program over K seeds, and K results.

Nodes run *folded*, once over all directions, or *unrolled*, once per direction. All share the
residuals, which depend on the primal alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.dims import Dim, UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.passes.linearize import Program, program_of
from onnxjvp.rules.kinds import RefusedError
from onnxjvp.rules.leading import apply


def batch(
    op: Ops, program: Program, count: Dim, how: str = "auto", *, size: ir.Value | None = None
) -> Program:
    """The program over `count` directions: seeds and outs are [K, *shape], outs of None stay None.

    Args:
      count: K, at least 1, or a symbol: then K is read off the first seed at run time.
      how: "fold", "unroll", or "auto": unroll one direction, fold more.
      size: K at run time as an int64 tensor of one element, where that is known already.
    Returns:
      A program of its own, which shares the residuals of `program`. No value of it is the tangent
      of a value of the model, so its `tangent_of` is empty.
    Raises:
      UnsupportedOpError: nodes run on one direction at a time only, and K is a symbol; all of them
        are listed.
      UsageError: K is no positive number, or a symbol and to be unrolled.
    Cost: fold: linear in nodes; unroll: K times the nodes.
    """
    assert how in ("auto", "fold", "unroll"), how
    if isinstance(count, int) and count < 1:
        raise UsageError(f"the number of directions has to be at least 1, not {count}")
    if how == "auto":
        how = "unroll" if count == 1 else "fold"
    if how == "unroll" and not isinstance(count, int):
        raise UsageError(
            f"{count} directions cannot be unrolled: their number is known only at run time"
        )
    seeds = [op.seed(seed, (count,)) for seed in program.seeds]
    directions = _Directions(Lanes(op, count, size or _size(op, count, seeds)), how)
    return program_of(op, seeds, directions.of(program, seeds))


class _Directions:
    """Runs a program over K directions. A value is stacked, or apart: one value per direction."""

    def __init__(self, lanes: Lanes, how: str) -> None:
        self.lanes = lanes
        self.op = lanes.op
        self.how = how
        self.stacks: dict[ir.Value, Stacked] = {}
        self.apart: dict[ir.Value, list[ir.Value]] = {}

    def of(self, program: Program, seeds: Sequence[ir.Value]) -> list[ir.Value | None]:
        refused: list[tuple[str, str, str]] = []
        for like, seed in zip(program.seeds, seeds, strict=True):
            self.stacks[like] = Stacked(like, unfolded=seed)
        for i, node in enumerate(program.nodes):
            if not any(v in self.stacks or v in self.apart for v in node.inputs):
                continue  # it leads to no output
            if self.how == "unroll":
                self._unroll(node)
                continue
            try:
                self._fold(node)
            except (RefusedError, UnknownTypeError) as error:
                refused.append((_made_for(program, i), node.op_type, str(error)))
                stand_ins = _stand_ins(self.op, node, self.lanes.count)
                self.stacks.update(zip(node.outputs, stand_ins, strict=False))
        _refuse(refused, self.lanes.count)
        return [
            None if out is None else self.lanes.unfold(self._stacked(out)) for out in program.outs
        ]

    def _fold(self, node: ir.Node) -> None:
        operands: list[Operand] = [
            self._stacked(v) if v in self.stacks or v in self.apart else v for v in node.inputs
        ]
        outputs = apply(self.lanes, node, operands)
        self.stacks.update(zip(node.outputs, outputs, strict=False))

    def _unroll(self, node: ir.Node) -> None:
        assert isinstance(self.lanes.count, int)
        operands = [self._lanes_of(v) for v in node.inputs]
        runs = [self.op.like(node, [v[k] for v in operands]) for k in range(self.lanes.count)]
        for i, old in enumerate(node.outputs):
            self.apart[old] = [run[i] for run in runs]
            for new in self.apart[old]:
                new.shape = old.shape

    def _stacked(self, value: ir.Value) -> Stacked:
        if value not in self.stacks:
            rows = [self.op.unsqueeze(v, 0) for v in self.apart[value]]
            whole = rows[0] if len(rows) == 1 else self.op.Concat(*rows, axis=0)
            whole.shape = ir.Shape(self.lanes.unfolded_dims(value))
            self.stacks[value] = Stacked(value, unfolded=whole)
        return self.stacks[value]

    def _lanes_of(self, value: ir.Value | None) -> Sequence[ir.Value | None]:
        count = self.lanes.count
        assert isinstance(count, int)
        if value is not None and value in self.stacks and value not in self.apart:
            stack = self.stacks[value]
            self.apart[value] = [self.lanes.lane(stack, k) for k in range(count)]
        if value is not None and value in self.apart:
            return self.apart[value]
        return [value] * count


def _size(op: Ops, count: Dim, seeds: Sequence[ir.Value]) -> ir.Value | None:
    """K at run time, where it is a symbol: the leading size of a seed."""
    if isinstance(count, int):
        return None
    size = op.Shape(seeds[0], start=0, end=1)
    op.linear.discard(size)  # it depends on how many directions there are, not on what they hold
    return size


def _made_for(program: Program, index: int) -> str:
    """The name of the node of the model that a node of the program belongs to, if it can be told.

    The nodes of one rule stand together, and the last one gives the tangent of a value.
    """
    for node in program.nodes[index:]:
        for value in node.outputs:
            primal = program.tangent_of.get(value)
            producer = None if primal is None else primal.producer()
            if producer is not None:
                return producer.name or producer.outputs[0].name or "?"
    return "?"


def _stand_ins(op: Ops, node: ir.Node, count: Dim) -> list[Stacked]:
    """Behind a refused node: any stacks of the right shapes, so that the search goes on."""
    ranked = [v for v in node.outputs if v.shape is not None and v.dtype is not None]
    return [Stacked(v, unfolded=op.seed(v, (count,))) for v in ranked]


def _refuse(refused: Sequence[tuple[str, str, str]], count: Dim) -> None:
    if not refused:
        return
    lines = "\n".join(f"  {op} (node {name!r}): {reason}" for name, op, reason in refused)
    raise UnsupportedOpError(
        f"{len(refused)} node(s) cannot run on {count} directions, a number known only at run "
        f"time:\n{lines}\nGive a number of directions instead",
        tuple(refused),
    )
