"""What operators compare that choose an element among several: maxima, windows, orders."""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.comparisons import Along, Comparisons, Sides, at, behind, compares, gap
from onnxjvp.rules.kinds import RefusedError
from onnxjvp.rules.reductions import Flat
from onnxjvp.rules.windows import Window, around, last_end, to_the_end, window


def _lead(op: Ops, least: bool, best: ir.Value, others: ir.Value) -> ir.Value:
    """By how much the best one is ahead of others."""
    return gap(op, others, best) if least else gap(op, best, others)


def _rate(op: Ops, least: bool, best: ir.Value, others: ir.Value) -> ir.Value:
    return op.Sub(others, best) if least else op.Sub(best, others)


def _but_itself(op: Ops, lead: ir.Value, itself: ir.Value) -> ir.Value:
    """What is chosen cannot lose to itself."""
    return op.Where(itself, at(op, np.inf, lead), lead)


def _numbers(op: Ops, value: ir.Value, axis: int) -> ir.Value:
    """0, 1, … along an axis, to be compared with indices of the rank of the value."""
    count = op.Squeeze(op.sizes(value, [axis]), op.ints([0]))
    found = op.Range(op.const(0, INT64), count, op.const(1, INT64))
    return op.unsqueeze(found, *range(1, rank(value) - axis))


# -- operands ----------------------------------------------------------------------------------


@compares("Max Min")
def extreme_operand(op: Ops, region: Region) -> Comparisons | None:
    """The index of the first operand that is the largest."""
    y, least = region.outputs[0], region.op_type == "Min"
    values = [op.expand_to(region.operand(i), y) for i in range(len(region.inputs))]
    if len(values) < 2:
        return None
    code = op.const(len(values) - 1, INT64)
    for i in reversed(range(len(values) - 1)):
        code = op.Where(op.Equal(values[i], y), op.const(i, INT64), code)

    def sides(to: Along) -> Sides:
        ends = [op.expand_to(to.operand(op, region, i), y) for i in range(len(values))]
        lead = _lead(op, least, y, op.stack(values))
        places = op.const(np.arange(len(values)).reshape(-1, *[1] * rank(y)), INT64)
        lead = _but_itself(op, lead, op.Equal(places, code))
        return lead, _rate(op, least, to.output(op, region), op.stack(ends))

    return Comparisons(code, sides, "before")


# -- along axes --------------------------------------------------------------------------------


@compares("ReduceMax ReduceMin")
def extreme_element(op: Ops, region: Region) -> Comparisons | None:
    """The index, in row-major order over the axes that are reduced, of the first one."""
    flat, least = Flat(op, region), region.op_type == "ReduceMin"
    if not flat.axes:
        return None
    x = flat(region.operand(0))
    last = rank(x) - 1

    def filled(value: ir.Value, fill: float | None) -> ir.Value:
        """With one element more, where there may be none."""
        if isinstance(dim(x, last), int) and dim(x, last) != 0:
            return value
        number = None if fill is None else at(op, fill, value)
        return op.Pad(value, op.ints([0, 1]), number, op.ints([last]))

    x_filled = filled(x, np.inf if least else -np.inf)
    where = op.emit("ArgMin" if least else "ArgMax", (x_filled,), {"axis": last, "keepdims": 1})[0]

    def sides(to: Along) -> Sides:
        t = filled(flat(op.expand_to(to.operand(op, region, 0), region.operand(0))), None)
        best, rate = (op.GatherElements(v, where, axis=last) for v in (x_filled, t))
        itself = op.Equal(_numbers(op, x_filled, last), where)
        lead = _but_itself(op, _lead(op, least, best, x_filled), itself)
        return lead, _rate(op, least, rate, t)

    return Comparisons(flat.back(where), sides, "behind")


def _along_axis(op: Ops, region: Region, axis: int, *, least: bool, last: bool) -> Comparisons:
    """The index of the largest along one axis, whose size is 1 in the code."""
    x = region.operand(0)
    axis %= rank(x)
    options = {"axis": axis, "keepdims": 1, "select_last_index": 1 if last else None}
    where = op.emit("ArgMin" if least else "ArgMax", (x,), options)[0]

    def sides(to: Along) -> Sides:
        t = op.expand_to(to.operand(op, region, 0), x)
        best, rate = (op.GatherElements(v, where, axis=axis) for v in (x, t))
        itself = op.Equal(_numbers(op, x, axis), where)
        lead = _but_itself(op, _lead(op, least, best, x), itself)
        return behind(op, lead, axis), behind(op, _rate(op, least, rate, t), axis)

    return Comparisons(op.Squeeze(where, op.ints([axis])), sides, "behind")


@compares("ArgMax ArgMin")
def extreme_index(op: Ops, region: Region) -> Comparisons:
    least = region.op_type == "ArgMin"
    last = region.attr_int("select_last_index", 0) != 0
    return _along_axis(op, region, region.attr_int("axis", 0), least=least, last=last)


@compares("Hardmax")
def hardmax(op: Ops, region: Region) -> Comparisons:
    return _along_axis(op, region, region.attr_int("axis", -1), least=False, last=False)


@compares("TopK")
def top_k(op: Ops, region: Region) -> Comparisons:
    """The order of the k largest, and the last of them against all that are left out."""
    if region.attr_int("sorted", 1) == 0:
        raise RefusedError(
            "with sorted=0 nothing says in what order it gives its elements; set sorted=1"
        )
    x, code = region.operand(0), region.outputs[1]
    axis, largest = region.attr_int("axis", -1) % rank(x), region.attr_int("largest", 1)

    def sides(to: Along) -> Sides:
        options = {"axis": axis, "largest": largest, "sorted": 1}
        count = op.sizes(x, [axis])
        values, order = op.emit("TopK", (x, count), options, outputs=2)
        t = op.GatherElements(op.expand_to(to.operand(op, region, 0), x), order, axis=axis)
        one, none = op.const(1, INT64), op.const(0, INT64)
        steps = op.Sub(op.Squeeze(count, op.ints([0])), one)
        place = op.Range(none, steps, one)
        # each of the k is compared with the next, and the last of them with all that follow
        k = op.Squeeze(region.operand(1), op.ints([0]))
        ahead, after = op.Max(op.Min(place, op.Sub(k, one)), none), op.Add(place, one)

        def pair(value: ir.Value) -> tuple[ir.Value, ir.Value]:
            first, second = (op.Gather(value, i, axis=axis) for i in (ahead, after))
            return first, second

        lead = _lead(op, largest == 0, *pair(values))
        some = op.Greater(k, none)
        never = at(op, 0, x)
        rate = op.Where(some, _rate(op, largest == 0, *pair(t)), never)
        return lead, rate

    return Comparisons(code, sides, "apart")


# -- windows -----------------------------------------------------------------------------------


@compares("GlobalMaxPool")
def global_max_pool(op: Ops, region: Region) -> Comparisons:
    """The index of the first largest pixel of each channel."""
    x = region.operand(0)
    flat = op.Concat(op.sizes(x, [0, 1]), op.count(x, range(2, rank(x))), axis=0)
    where = op.ArgMax(op.Reshape(x, flat, allowzero=1), axis=2, keepdims=0)

    def sides(to: Along) -> Sides:
        t = op.expand_to(to.operand(op, region, 0), x)
        other, t_other = (op.Reshape(v, flat, allowzero=1) for v in (x, t))
        itself = op.Equal(_numbers(op, other, 2), op.unsqueeze(where, 2))
        best, t_best = (
            op.GatherElements(v, op.unsqueeze(where, 2), axis=2) for v in (other, t_other)
        )
        return _but_itself(op, gap(op, best, other), itself), op.Sub(t_best, t_other)

    return Comparisons(where, sides, "behind")


@compares("MaxPool")
def max_pool(op: Ops, region: Region) -> Comparisons:
    """The index, in its channel's image, of the first largest element of each window."""
    x, y = region.operand(0), region.outputs[0]
    attributes = {**region.attributes, "storage_order": None}
    _, indices = op.emit("MaxPool", region.inputs, attributes, outputs=2)

    def sides(to: Along) -> Sides:
        kernel = tuple(region.node.attributes.get_ints("kernel_shape") or ())
        moves = window(region.node, kernel, dims.of(x)[2:], dims.of(y)[2:])
        moves = to_the_end(region.node, moves)
        t = op.expand_to(to.operand(op, region, 0), x)
        numbers = op.Range(op.const(0, INT64), op.Size(x), op.const(1, INT64))
        numbers = op.Reshape(numbers, op.shape_of(x), allowzero=1)
        numbers.shape = x.shape
        values, rates, places = (
            op.stack(_taps(op, v, y, moves, fill))
            for v, fill in ((x, -np.inf), (t, 0.0), (numbers, -1))
        )
        lead = _but_itself(op, gap(op, y, values), op.Equal(places, indices))
        return lead, op.Sub(to.output(op, region), rates)

    # indices count through the whole tensor; a sample is to have one code in every batch
    return Comparisons(op.Mod(indices, op.count(x, range(2, rank(x)))), sides, "before")


def _taps(op: Ops, x: ir.Value, y: ir.Value, moves: Window, fill: float) -> list[ir.Value]:
    """For every element of the kernel what it meets in each window: a value of the shape of y."""
    axes = op.ints(range(2, rank(x)))
    padded = op.Pad(x, around(op, moves), at(op, fill, x), axes)
    # where the last window begins, and one further
    stops = op.Sub(last_end(op, moves), op.Sub(op.as_tensor(moves.reach), op.ints([1])))
    strides = op.ints(moves.strides)
    found = []
    for place in itertools.product(*(range(int(str(k))) for k in moves.kernel)):
        starts = [i * d for i, d in zip(place, moves.dilations, strict=True)]
        ends = op.Add(stops, op.ints(starts))
        tap = op.Slice(padded, op.ints(starts), ends, axes, strides)
        tap.shape = y.shape
        found.append(tap)
    return found
