"""K values of one shape as one tensor, and the two ways to hold them.

Folded: [K·d₀, d₁, …], the K values one after the other along axis 0. Unfolded: [K, d₀, d₁, …].
The two are views of the same memory, so either is a Reshape of the other. K may be a symbol.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims, UnknownTypeError
from onnxjvp.graph.ops import Ops, rank


@dataclass(eq=False)
class Stacked:
    """K values, each of the shape of `like`. At least one of the two forms is present."""

    like: ir.Value
    folded: ir.Value | None = None
    unfolded: ir.Value | None = None


Operand = Stacked | ir.Value | None


class Lanes:
    """Makes, views and takes apart stacks of `count` values.

    Args:
      size: `count` as an int64 tensor of one element; needed where it is a symbol.
    """

    def __init__(self, op: Ops, count: Dim, size: ir.Value | None = None) -> None:
        self.op = op
        self.count = count
        self.size = _checked(op.ints([count]) if isinstance(count, int) else size)
        #: (folded, dims of one value) → the shape of the stack
        self._targets: dict[tuple[bool, Dims], ir.Value | None] = {}

    # -- sizes ---------------------------------------------------------------------------------

    def folded_dims(self, like: ir.Value) -> Dims:
        shape = dims.of(like)
        return (dims.product((shape[0], self.count)), *shape[1:]) if shape else (self.count,)

    def unfolded_dims(self, like: ir.Value) -> Dims:
        return (self.count, *dims.of(like))

    def shape_of(self, value: ir.Value, start: int = 0, end: int | None = None) -> ir.Value:
        """The shape of a stack as a tensor, read at run time: no linear map, so no linear value."""
        tail = dims.of(value)[start:end]
        if dims.is_static(tail):
            return self.op.ints([d for d in tail if isinstance(d, int)])
        out = self.op.Shape(value, start=start, end=end)
        self.op.linear.discard(out)
        return out

    def _target(self, like: ir.Value, folded: bool) -> ir.Value | None:
        """The shape of a stack as a tensor, if the sizes of `like` are those of the model's inputs.

        Sizes that belong to inner values are read off the stack itself, so that no primal value is
        computed for its shape alone.
        """
        shape = dims.of(like)
        key = (folded, shape)
        if key not in self._targets:
            self._targets[key] = None
            if all(map(dims.is_named, shape)):
                with contextlib.suppress(UnknownTypeError):
                    self._targets[key] = self._whole(shape, folded)
        return self._targets[key]

    def _whole(self, shape: Dims, folded: bool) -> ir.Value:
        op = self.op
        if not folded:
            return op.Concat(self.size, op.as_tensor(shape), axis=0)
        rows = op.Mul(self.size, op.as_tensor(shape[:1]))
        return op.Concat(rows, op.as_tensor(shape[1:]), axis=0) if shape[1:] else rows

    # -- the two views -------------------------------------------------------------------------

    def fold(self, stack: Stacked) -> ir.Value:
        if stack.folded is None:
            assert stack.unfolded is not None
            stack.folded = stack.unfolded
            if rank(stack.like) > 0:
                stack.folded = self.reshape(stack.unfolded, stack.like, folded=True)
        return stack.folded

    def unfold(self, stack: Stacked) -> ir.Value:
        if stack.unfolded is None:
            assert stack.folded is not None
            stack.unfolded = stack.folded
            if rank(stack.like) > 0:
                stack.unfolded = self.reshape(stack.folded, stack.like, folded=False)
        return stack.unfolded

    def reshape(self, value: ir.Value, like: ir.Value, folded: bool) -> ir.Value:
        """One form of a stack as the other; with several symbols the sizes are read at run time."""
        shape = self.folded_dims(like) if folded else self.unfolded_dims(like)
        out = self.op.reshape_to(value, shape)
        if out is not None:
            return out
        target = self._target(like, folded)
        if target is None:
            target = self._from_other(value, like, folded)
        out = self.op.Reshape(value, target, allowzero=1)
        out.shape = ir.Shape(shape)
        return out

    def _from_other(self, value: ir.Value, like: ir.Value, folded: bool) -> ir.Value:
        """The shape of one form of a stack, read off the other form."""
        op = self.op
        if folded:
            parts = [op.Mul(self.size, self.shape_of(value, 1, 2)), self.shape_of(value, 2)]
        else:
            parts = [self.size, self._rows(value, like), self.shape_of(value, 1)]
        return op.Concat(*(parts if rank(like) > 1 else parts[:-1]), axis=0)

    def _rows(self, folded: ir.Value, like: ir.Value) -> ir.Value:
        op, total = self.op, self.shape_of(folded, 0, 1)
        if isinstance(self.count, int):
            return op.Div(total, self.size)
        with contextlib.suppress(UnknownTypeError):
            return op.as_tensor(dims.of(like)[:1])
        # with no lanes the rows of one are unknown, and 0 stands for them
        return op.Div(total, op.Max(self.size, op.ints([1])))

    def viewed(self, data: Stacked, out: ir.Value) -> Stacked | None:
        """The stack as one of the shape of `out`; None where its sizes are not known at all."""
        folded = self.folded_dims(out)
        whole = self.op.reshape_to(self.fold(data), folded)
        if whole is not None:
            return Stacked(out, folded=whole)
        if rank(out) == 0 or self._target(out, folded=False) is None:
            return None
        value = data.folded if data.unfolded is None else data.unfolded
        assert value is not None
        return Stacked(out, unfolded=self.reshape(value, out, folded=False))

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
        ones = [1] * rank(value)
        if isinstance(self.count, int):
            target = self.op.ints([self.count, *ones])
        else:
            target = self.op.Concat(self.size, self.op.ints(ones), axis=0) if ones else self.size
        out = self.op.Expand(value, target)
        out.shape = ir.Shape(self.unfolded_dims(value))
        return Stacked(value, unfolded=out)

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
        return [self.unfolded(y, out) for y, out in zip(node.outputs, outputs, strict=True)]

    def unfolded(self, like: ir.Value, value: ir.Value) -> Stacked:
        """A value that holds the lanes on an axis of their own."""
        value.shape = ir.Shape(self.unfolded_dims(like))
        return Stacked(like, unfolded=value)

    def lane_by_lane(self, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
        """The node once per lane: always right, where their number is known."""
        assert isinstance(self.count, int)
        runs = [
            self.op.like(node, [self.lane(v, i) if isinstance(v, Stacked) else v for v in operands])
            for i in range(self.count)
        ]
        return [
            self.stack(outputs, like)
            for like, outputs in zip(node.outputs, zip(*runs, strict=True), strict=True)
        ]


def _checked(size: ir.Value | None) -> ir.Value:
    assert size is not None, "a symbolic count has to be readable at run time"
    return size
