"""K values of one shape as one tensor, and the two ways to hold them.

Folded: [K·d₀, d₁, …], the K values one after the other along axis 0. Unfolded: [K, d₀, d₁, …].
The two are views of the same memory, so either is a Reshape of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import Ops, rank


@dataclass(eq=False)
class Stacked:
    """K values, each of the shape of `like`. At least one of the two forms is present."""

    like: ir.Value
    folded: ir.Value | None = None
    unfolded: ir.Value | None = None


Operand = Stacked | ir.Value | None


class Lanes:
    """Makes, views and takes apart stacks of `count` values."""

    def __init__(self, op: Ops, count: int) -> None:
        self.op = op
        self.count = count

    # -- the two views -------------------------------------------------------------------------

    def folded_dims(self, like: ir.Value) -> Dims:
        shape = dims.of(like)
        return (dims.simplest(shape[0] * self.count), *shape[1:]) if shape else (self.count,)

    def unfolded_dims(self, like: ir.Value) -> Dims:
        return (self.count, *dims.of(like))

    def fold(self, stack: Stacked) -> ir.Value:
        if stack.folded is None:
            assert stack.unfolded is not None
            stack.folded = stack.unfolded
            if rank(stack.like) > 0:
                stack.folded = self._view(stack.unfolded, self.folded_dims(stack.like))
        return stack.folded

    def unfold(self, stack: Stacked) -> ir.Value:
        if stack.unfolded is None:
            assert stack.folded is not None
            stack.unfolded = stack.folded
            if rank(stack.like) > 0:
                stack.unfolded = self._view(stack.folded, self.unfolded_dims(stack.like))
        return stack.unfolded

    def _view(self, value: ir.Value, shape: Dims) -> ir.Value:
        """Reshape between the two forms; with several symbols the sizes are read at run time."""
        op = self.op
        out = op.reshape_to(value, shape)
        if out is not None:
            return out
        if rank(value) > len(shape):
            factor = op.ints([self.count] + [1] * (len(shape) - 1))
            target = op.Mul(op.Shape(value, start=1), factor)
        else:
            factor = op.ints([self.count] + [1] * (rank(value) - 1))
            target = op.Concat(op.ints([self.count]), op.Div(op.Shape(value), factor), axis=0)
        out = op.Reshape(value, target, allowzero=1)
        out.shape = ir.Shape(shape)
        return out

    # -- in and out ----------------------------------------------------------------------------

    def stack(self, values: Sequence[ir.Value], like: ir.Value) -> Stacked:
        assert len(values) == self.count
        if rank(like) == 0:
            values = [self.op.unsqueeze(v, 0) for v in values]
        out = self.op.Concat(*values, axis=0)
        out.shape = ir.Shape(self.folded_dims(like))
        return Stacked(like, folded=out)

    def repeat(self, value: ir.Value) -> Stacked:
        """The same value in every lane."""
        return self.stack([value] * self.count, value)

    def lane(self, stack: Stacked, index: int) -> ir.Value:
        at = self.op.const(np.int64(index), ir.DataType.INT64)
        out = self.op.Gather(self.unfold(stack), at, axis=0)
        out.shape = stack.like.shape
        return out

    # -- nodes over stacks ---------------------------------------------------------------------

    def on_folded(
        self, node: ir.Node, operands: Sequence[Operand], **changed: object
    ) -> list[Stacked]:
        """The node once over folded operands (others as they are)."""
        values = [self.fold(v) if isinstance(v, Stacked) else v for v in operands]
        outputs = self.op.like(node, values, **changed)
        stacks = [Stacked(y, folded=out) for y, out in zip(node.outputs, outputs, strict=True)]
        for stack, out in zip(stacks, outputs, strict=True):
            out.shape = ir.Shape(self.folded_dims(stack.like))
        return stacks

    def on_unfolded(
        self, node: ir.Node, operands: Sequence[Operand], **changed: object
    ) -> list[Stacked]:
        """The node once over unfolded operands (others as they are)."""
        values = [self.unfold(v) if isinstance(v, Stacked) else v for v in operands]
        outputs = self.op.like(node, values, **changed)
        stacks = [Stacked(y, unfolded=out) for y, out in zip(node.outputs, outputs, strict=True)]
        for stack, out in zip(stacks, outputs, strict=True):
            out.shape = ir.Shape(self.unfolded_dims(stack.like))
        return stacks

    def lane_by_lane(self, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
        """The node once per lane: always right."""
        runs = [
            self.op.like(node, [self.lane(v, i) if isinstance(v, Stacked) else v for v in operands])
            for i in range(self.count)
        ]
        return [
            self.stack(outputs, like)
            for like, outputs in zip(node.outputs, zip(*runs, strict=True), strict=True)
        ]
