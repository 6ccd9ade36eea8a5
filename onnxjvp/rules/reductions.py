"""Reductions, and products along an axis: sums, extremes, norms, products."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import constant
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import linear, pushed, selection

linear("ReduceSum ReduceMean", source="ONNX ReduceSum-13, ReduceMean-18; linear in X")

# -- one axis instead of several ---------------------------------------------------------------


class Flat:
    """Values of the shape of a reduction's operand with all reduced axes as the last, [kept…, n].

    Where the axes are known at run time only, every axis becomes two first, one of which is 1:
    (size, 1) is kept and (1, size) is reduced.
    """

    def __init__(self, op: Ops, region: Region) -> None:
        self.op = op
        self.y = region.outputs[0]
        x, named = region.operand(0), region.input(1)
        axes = constant(named) if named is not None else np.array([], np.int64)
        noop = bool(region.attr_int("noop_with_empty_axes", 0))
        self._pairs: ir.Value | None = None
        if axes is None and named is not None:
            self._pairs = _axes_in_pairs(op, x, named, noop)
            self._apart = ir.Shape([dims.fresh() for _ in range(2 * rank(x))])
            self.axes = list(range(1, 2 * rank(x), 2))
            x = self._in_pairs(x)
        else:
            assert axes is not None
            n = rank(x)
            listed = {int(a) % n for a in axes.reshape(-1)}
            self.axes = sorted(listed) if axes.size or noop else list(range(n))
        self.kept = [i for i in range(rank(x)) if i not in self.axes]
        if self.axes:
            tail = op.count(x, self.axes)
            self._target = op.Concat(op.sizes(x, self.kept), tail, axis=0) if self.kept else tail

    def _in_pairs(self, value: ir.Value) -> ir.Value:
        if self._pairs is None:
            return value
        out = self.op.Reshape(value, self._pairs, allowzero=1)
        out.shape = self._apart
        return out

    def __call__(self, value: ir.Value) -> ir.Value:
        op, perm = self.op, [*self.kept, *self.axes]
        value = self._in_pairs(value)
        moved = op.Transpose(value, perm=perm) if perm != list(range(len(perm))) else value
        if len(self.axes) == 1 and self.kept:
            return moved
        return op.Reshape(moved, self._target, allowzero=1)

    def back(self, value: ir.Value) -> ir.Value:
        """[kept…, 1] in the shape of the reduction's result."""
        out = self.op.Reshape(value, self.op.shape_of(self.y), allowzero=1)
        out.shape = self.y.shape
        return out


def _axes_in_pairs(op: Ops, x: ir.Value, axes: ir.Value, noop: bool) -> ir.Value:
    """For every axis of x its size and 1, in this order if it is kept, as one tensor."""
    n = rank(x)
    ones = op.Expand(op.ints([1]), op.Shape(axes))
    marks = op.ScatterElements(op.ints([0] * n), axes, ones, axis=0)
    if not noop:  # no axes mean all
        marks = op.Where(op.Equal(op.Size(axes), op.const(0, INT64)), op.ints([1] * n), marks)
    reduced = op.Equal(marks, op.ints([1]))
    sizes, one = op.shape_of(x), op.ints([1])
    columns = (op.Where(reduced, one, sizes), op.Where(reduced, sizes, one))
    pairs = op.Concat(*(op.unsqueeze(c, 1) for c in columns), axis=1)
    return op.Reshape(pairs, op.ints([2 * n]))


# -- extremes ----------------------------------------------------------------------------------


@selection("ReduceMax ReduceMin", source="ONNX ReduceMax-18; the first extreme element")
def reduce_extreme_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, flat = tangents[0], Flat(op, region)
    assert t is not None
    if not flat.axes:
        return [t]
    largest = region.op_type == "ReduceMax"
    x, t = flat(region.operand(0)), flat(t)
    last = rank(x) - 1
    count = dim(x, last)
    if not isinstance(count, int) or count == 0:
        # of no elements the extreme is -inf or inf, which does not move: one more such element
        end = [op.ints([0, 1]), op.const(-np.inf if largest else np.inf, like=x), op.ints([last])]
        x, t = op.Pad(x, *end), op.Pad(t, end[0], None, end[2])
    where = op.emit("ArgMax" if largest else "ArgMin", (x,), {"axis": last, "keepdims": 1})[0]
    return [flat.back(op.GatherElements(t, where, axis=last))]


# -- products ----------------------------------------------------------------------------------


@pushed("ReduceProd", source="ONNX ReduceProd-18; Σᵢ tᵢ Πⱼ xⱼ over j ≠ i, without a division")
def reduce_prod_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, flat = tangents[0], Flat(op, region)
    assert t is not None
    if not flat.axes:
        return [t]
    x, t = flat(region.operand(0)), flat(t)
    halved = isinstance(dim(x, -1), int)
    return [flat.back((_product_by_halves if halved else _product_of_others)(op, x, t))]


def _product_by_halves(op: Ops, x: ir.Value, t: ir.Value) -> ir.Value:
    """Pairs (x, t) along the last axis, multiplied two by two: n products in log n steps."""
    axis = rank(x) - 1
    n = dim(x, axis)
    assert isinstance(n, int)
    while n > 1:
        half, odd = divmod(n, 2)
        sizes = op.ints([half, half, *[1] * odd])
        x1, x2, *x3 = op.emit("Split", (x, sizes), {"axis": axis}, outputs=2 + odd)
        t1, t2, *t3 = op.emit("Split", (t, sizes), {"axis": axis}, outputs=2 + odd)
        x, t = op.Mul(x1, x2), op.Add(op.Mul(t1, x2), op.Mul(x1, t2))
        if odd:
            x, t = op.Concat(x, *x3, axis=axis), op.Concat(t, *t3, axis=axis)
        n = half + odd
    return t if n else op.ReduceSum(t, op.ints([axis]), keepdims=1)


def _product_of_others(op: Ops, x: ir.Value, t: ir.Value) -> ir.Value:
    """The same along an axis of unknown length: a row of the others for each element."""
    axis = rank(x) - 1
    at = _counting(op, x, axis)
    itself = op.Equal(op.unsqueeze(at, 1), at)
    others = op.Where(itself, op.const(1, like=x), op.unsqueeze(x, axis))
    slopes = op.ReduceProd(others, op.ints([axis + 1]), keepdims=0)
    return op.ReduceSum(op.Mul(slopes, t), op.ints([axis]), keepdims=1)


def _counting(op: Ops, x: ir.Value, axis: int) -> ir.Value:
    """0, 1, … along an axis."""
    zero, one = op.const(0, INT64), op.const(1, INT64)
    return op.Range(zero, op.Squeeze(op.sizes(x, [axis]), op.ints([0])), one)


@pushed("CumProd", source="ONNX CumProd-26; Σₖ tₖ Πⱼ xⱼ over j ≠ k, without a division")
def cum_prod_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, t, given = region.operand(0), tangents[0], constant(region.operand(1))
    assert t is not None
    if given is None:
        return [_along_fed_axis(op, region, x, t)]
    axis = int(given.reshape(())) % rank(x)
    if isinstance(dim(x, axis), int):
        return [_running_product(op, region, x, t, axis)]
    return [_running_product_of_others(op, region, x, t, axis)]


def _along_fed_axis(op: Ops, region: Region, x: ir.Value, t: ir.Value) -> ir.Value:
    """Along an axis that is known at run time: the middle one of [before, axis, behind]."""
    n, shape = rank(x), op.shape_of(x)
    axis = op.Reshape(op.Cast(region.operand(1), to=int(INT64)), op.ints([1]))
    axis = op.Where(op.Less(axis, op.ints([0])), op.Add(axis, op.ints([n])), axis)
    every, one = op.ints(range(n)), op.ints([1])
    before, behind = (
        op.ReduceProd(op.Where(op.emit(name, (every, axis))[0], shape, one), keepdims=1)
        for name in ("Less", "Greater")
    )
    target = op.Concat(before, op.Gather(shape, axis), behind, axis=0)
    flat_x, flat_t = (op.Reshape(v, target, allowzero=1) for v in (x, t))
    flat_t.shape = flat_x.shape
    out = _running_product_of_others(op, region, flat_x, flat_t, 1)
    out = op.Reshape(out, shape, allowzero=1)
    out.shape = x.shape
    return out


def _running_product(op: Ops, region: Region, x: ir.Value, t: ir.Value, axis: int) -> ir.Value:
    """Every pair (x, t) times the one `step` before it, for steps 1, 2, 4, …"""
    backwards = region.attr_int("reverse", 0)
    one, along, n = op.const(1, like=x), op.ints([axis]), dim(x, axis)
    assert isinstance(n, int)

    def before(step: int) -> tuple[ir.Value, ir.Value]:
        by = op.ints([-step, step] if backwards else [step, -step])
        return op.Pad(x, by, one, along), op.Pad(t, by, None, along)

    if region.attr_int("exclusive", 0):
        x, t = before(1)
    step = 1
    while step < n:
        x_before, t_before = before(step)
        t = op.Add(op.Mul(t, x_before), op.Mul(x, t_before))
        x = op.Mul(x, x_before)
        step *= 2
    return t


def _running_product_of_others(
    op: Ops, region: Region, x: ir.Value, t: ir.Value, axis: int
) -> ir.Value:
    """Σₖ tₖ · (product before k) · (product from behind k on): a row for each k."""
    n, backwards = rank(x), region.attr_int("reverse", 0)
    exclusive = region.attr_int("exclusive", 0)
    at = _counting(op, x, axis)
    tail = range(1, n - axis)
    row, column = op.unsqueeze(at, *(k + 1 for k in range(n - axis))), op.unsqueeze(at, *tail)
    behind = op.emit("Less" if not backwards else "Greater", (row, column))[0]
    one, zero = op.const(1, like=x), op.const(0, like=x)
    further = op.Where(behind, op.unsqueeze(x, axis), one)  # […, k, j, …]
    products = op.CumProd(
        further, op.const(axis + 1, INT64), exclusive=exclusive, reverse=backwards
    )
    reached = behind if exclusive else op.Or(behind, op.Equal(row, column))
    products = op.Where(reached, products, zero)
    first = op.CumProd(x, op.const(axis, INT64), exclusive=1, reverse=backwards)
    weighted = op.Mul(op.unsqueeze(op.Mul(first, t), axis + 1), products)
    total = op.ReduceSum(weighted, op.ints([axis]), keepdims=0)
    total.shape = x.shape
    return total


# -- norms and logarithms of sums --------------------------------------------------------------


@pushed("ReduceLogSum", source="ONNX ReduceLogSum-18; Σ t / Σ x")
def reduce_log_sum_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    attributes = dict(region.attributes)
    t_sum, x_sum = (
        op.emit("ReduceSum", (v, *region.inputs[1:]), attributes)[0]
        for v in (tangents[0], region.operand(0))
    )
    for value in (t_sum, x_sum):
        value.shape = region.outputs[0].shape
    return [op.Div(t_sum, x_sum)]


@pushed("ReduceL2", source="ONNX ReduceL2-18; Σ x t / y, 0 where y = 0")
def reduce_l2_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y, t = region.operand(0), region.outputs[0], tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    zero = op.const(0, like=y)
    safe = op.Where(op.Equal(y, zero), op.const(1, like=y), y)
    dot = op.emit("ReduceSum", (op.Mul(x, t), *region.inputs[1:]), attributes)[0]
    dot.shape = y.shape
    return [op.Div(dot, safe)]


@pushed("ReduceSumSquare", source="ONNX ReduceSumSquare-18; 2 Σ x t")
def reduce_sum_square_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    product = op.Mul(op.Mul(x, op.const(2, like=x)), t)
    return [op.emit("ReduceSum", (product, *region.inputs[1:]), attributes)[0]]


@pushed("ReduceL1", source="ONNX ReduceL1-18; Σ sign(x) t")
def reduce_l1_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    return [op.emit("ReduceSum", (op.Mul(op.Sign(x), t), *region.inputs[1:]), attributes)[0]]


@pushed("ReduceLogSumExp", source="ONNX ReduceLogSumExp-18; Σ exp(x − y) t")
def reduce_log_sum_exp_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    kept = op.ReduceLogSumExp(*region.inputs, **{**region.attributes, "keepdims": 1})
    weights = op.Exp(op.Sub(x, kept))
    weights.shape = x.shape  # which axes are 1 in `kept` may be known at run time only
    attributes = dict(region.attributes)
    return [op.emit("ReduceSum", (op.Mul(weights, t), *region.inputs[1:]), attributes)[0]]
