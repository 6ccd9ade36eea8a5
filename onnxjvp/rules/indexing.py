"""Operators that choose, place or count elements by index."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Linear, Tangents
from onnxjvp.rules.registry import holds, linear, linear_push, pushed, register, selection
from onnxjvp.rules.transposes.table import add_at

linear("Compress", source="ONNX Compress-11; linear in X")


@selection("TopK", source="ONNX TopK-11; the elements that its indices name")
def top_k_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    return [op.GatherElements(tangents[0], region.outputs[1], axis=region.attr_int("axis", -1))]


@selection("Unique", source="ONNX Unique-11; of equal elements the first")
def unique_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, y, flat = tangents[0], region.outputs[0], "axis" not in region.attributes
    assert t is not None
    if flat:
        t = op.Reshape(t, op.volume(dims.of(region.operand(0))))
    if len(region.outputs) > 1 and region.outputs[1].name:
        first = region.outputs[1]
    else:
        first = _first_places(op, region)
    taken = op.Gather(t, first, axis=region.attr_int("axis", 0))
    taken.shape = y.shape
    return [taken]


def _first_places(op: Ops, region: Region) -> ir.Value:
    """Where each element comes first, by a Unique that no runtime takes for the model's own.

    onnxruntime merges nodes that are equal but for which outputs they have, and mixes these up.
    """
    x, attributes = region.operand(0), dict(region.attributes)
    if "axis" in attributes:
        axis = region.attr_int("axis", 0) % rank(x)
        x, attributes["axis"] = op.unsqueeze(x, 0), ir.AttrInt64("axis", axis + 1)
    else:
        x = op.Reshape(x, op.volume(dims.of(x)))
        attributes["axis"] = ir.AttrInt64("axis", 0)
    return op.emit("Unique", [x], attributes, outputs=2)[1]


@linear_push("OneHot", terms=((2,),), source="ONNX OneHot-11; linear in its two values")
def one_hot_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, values = tangents[2], region.operand(2)
    assert t is not None
    marks = op.const([0, 1], like=values)
    hot = op.like(region.node, [*region.inputs[:2], marks])[0]
    off, on = (op.Gather(t, op.const(k, INT64), axis=0) for k in (0, 1))
    return [op.Where(op.Equal(hot, op.const(1, like=hot)), on, off)]


@holds("OneHot")
def one_hot_holds(region: Region) -> set[int]:
    """Where the ones stand, and how many places there are, are whole numbers in any dtype."""
    return {0, 1}


def range_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    start_t, _, delta_t = tangents
    y = region.outputs[0]
    parts = []
    if delta_t is not None:
        assert y.dtype is not None
        count = op.Squeeze(op.shape_of(y), op.ints([0]))
        steps = op.Range(op.const(0, INT64), count, op.const(1, INT64))
        steps.shape = y.shape
        parts.append(op.Mul(op.Cast(steps, to=int(y.dtype)), delta_t))
    if start_t is not None:
        parts.append(start_t)
    return [op.expand_to(op.add_all(parts), y)]


# the limit lends no more than a length
register("Range", Linear(range_push, (), (0, 2), "ONNX Range-11; start˙ + i delta˙", ignores=(1,)))


@linear_push(
    "TensorScatter",
    terms=((0,), (1,)),
    source="ONNX TensorScatter-24; linear in the cache and what is written into it",
)
def tensor_scatter_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    past, update = (
        op.zeros_like(region.operand(i)) if t is None else t for i, t in enumerate(tangents[:2])
    )
    return op.like(region.node, [past, update, *region.inputs[2:]])


# -- scattering with a reduction ---------------------------------------------------------------


class _Places:
    """A scattering as one of vectors: places in the flattened data, one for each update."""

    def __init__(self, op: Ops, region: Region) -> None:
        self.op = op
        data, indices = region.operand(0), region.operand(1)
        self.data, self.updates = data, region.operand(2)
        self.size = op.volume(dims.of(data))
        self.count = op.volume(dims.of(self.updates))
        own = op.Reshape(self.counting(self.size), op.shape_of(data), allowzero=1)
        if region.node.op_type == "ScatterND":
            found = op.GatherND(own, indices)
        else:
            found = op.GatherElements(own, indices, axis=region.attr_int("axis", 0))
        self.of_updates = op.Reshape(found, op.ints([-1]))

    def counting(self, size: ir.Value) -> ir.Value:
        zero, one = self.op.const(0, INT64), self.op.const(1, INT64)
        return self.op.Range(zero, self.op.Squeeze(size, self.op.ints([0])), one)

    def flat(self, value: ir.Value) -> ir.Value:
        return self.op.Reshape(value, self.op.ints([-1]))

    def read(self, value: ir.Value) -> ir.Value:
        return self.op.Gather(value, self.of_updates, axis=0)

    def scatter(self, into: ir.Value, values: ir.Value, reduction: str) -> ir.Value:
        return self.op.ScatterElements(into, self.of_updates, values, axis=0, reduction=reduction)

    def add_up(self, values: ir.Value) -> ir.Value:
        return add_at(self.op, self.size, self.of_updates, values)

    def back(self, value: ir.Value) -> ir.Value:
        out = self.op.Reshape(value, self.op.shape_of(self.data), allowzero=1)
        out.shape = self.data.shape
        return out


@selection(
    "ScatterExtreme",
    args=(0, 2),
    source="ONNX ScatterND-18, ScatterElements-18 with max or min; the data, else the first update",
)
def scatter_extreme_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    data_t, _, updates_t = tangents
    at = _Places(op, region)
    x, u, y = (at.flat(v) for v in (at.data, at.updates, region.outputs[0]))
    zero, stays = op.const(0, like=x), op.Equal(x, y)
    parts = [] if data_t is None else [op.Where(stays, at.flat(data_t), zero)]
    if updates_t is not None:
        reached = op.And(op.Equal(u, at.read(y)), op.Not(at.read(stays)))
        order = at.counting(at.count)
        none = op.Expand(at.count, at.size)
        first = at.scatter(none, op.Where(reached, order, at.count), "min")
        chosen = op.And(reached, op.Equal(order, at.read(first)))
        parts.append(at.add_up(op.Where(chosen, at.flat(updates_t), zero)))
    return [at.back(op.add_all(parts))]


@pushed(
    "ScatterProduct",
    args=(0, 2),
    source="ONNX ScatterND-18, ScatterElements-18 with mul; x Σ u̇ Π of the other u, and ẋ Π u",
)
def scatter_product_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    """Without a division. Cost: the square of the number of updates, which may share a place."""
    data_t, _, updates_t = tangents
    at = _Places(op, region)
    x, u = at.flat(at.data), at.flat(at.updates)
    one = op.const([1], like=x)
    parts = []
    if data_t is not None:
        factors = at.scatter(op.Expand(one, at.size), u, "mul")
        parts.append(op.Mul(at.flat(data_t), factors))
    if updates_t is not None:
        order = at.counting(at.count)
        beside, itself = (op.Equal(op.unsqueeze(v, 1), v) for v in (at.of_updates, order))
        others = op.Where(op.And(beside, op.Not(itself)), u, one)
        slopes = op.ReduceProd(others, op.ints([1]), keepdims=0)
        parts.append(op.Mul(x, at.add_up(op.Mul(slopes, at.flat(updates_t)))))
    return [at.back(op.add_all(parts))]
