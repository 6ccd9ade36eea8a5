"""What an operator compares at the point: where a piecewise affine network changes its piece.

A *unit* is one comparison of numbers, or one choice among several; its *code* is what it came to: a
mask, a step, an index. As long as no code changes, every rule of the table of derivatives freezes
the same thing. Each comparison that holds has a *margin*, at least 0, that it may lose before it no
longer holds, and a *rate* at which the margin moves along a direction: it is met at margin / −rate
where the rate is negative, and never elsewhere. A comparison that holds with no margin left is met
at once, or never.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region


@dataclass(frozen=True)
class Along:
    """Tangents of a region's operands and outputs; None means zero."""

    operands: Sequence[ir.Value | None]
    outputs: Sequence[ir.Value | None]

    def operand(self, op: Ops, region: Region, index: int) -> ir.Value:
        found = self.operands[index] if index < len(self.operands) else None
        return op.const(0, like=region.operand(index)) if found is None else found

    def output(self, op: Ops, region: Region) -> ir.Value:
        found = self.outputs[0]
        return op.const(0, like=region.outputs[0]) if found is None else found


#: margins and rates
Sides = tuple[ir.Value, ir.Value]


@dataclass(frozen=True)
class Comparisons:
    """What a region compares.

    `code` has an element per unit. `sides` records margins and their rates: of the shape of `code`,
    or with all that a unit is compared with along axes of their own, before or behind it.
    """

    code: ir.Value
    sides: Callable[[Along], Sides]
    rivals: Literal["none", "before", "behind", "apart"] = "none"


Compare = Callable[[Ops, Region], Comparisons | None]


@dataclass(frozen=True)
class Entry:
    """How an operator compares, and whether it is affine where no comparison changes."""

    compare: Compare
    #: whether it is affine between, with these operands live
    affine: Callable[[Region, set[int]], bool]


#: operator → what it compares
COMPARISONS: dict[str, Entry] = {}


def compares(
    names: str, *, affine: bool | Callable[[Region, set[int]], bool] = True
) -> Callable[[Compare], Compare]:
    """Register what operators compare; `affine`: what they are in between."""

    def decorate(compare: Compare) -> Compare:
        between = affine if callable(affine) else lambda region, live: bool(affine)
        for name in names.split():
            assert name not in COMPARISONS, name
            COMPARISONS[name] = Entry(compare, between)
        return compare

    return decorate


# -- what comparisons are made of --------------------------------------------------------------


def above(op: Ops, holds: ir.Value, p: ir.Value, rate: ir.Value) -> Sides:
    """p > 0, or p ≥ 0, which holds or does not: the margin on either side."""
    return op.Where(holds, p, op.Neg(p)), op.Where(holds, rate, op.Neg(rate))


def both_ways(op: Ops, p: ir.Value, rate: ir.Value) -> Sides:
    """The sign of p, which is 0 at 0: there it is lost whichever way p goes. Rivals before."""
    zero, turned = op.const(0, like=p), op.Neg(rate)
    up = (op.GreaterOrEqual(p, zero), op.Greater(p, zero))
    rates = [op.Where(mask, rate, turned) for mask in up]
    return op.unsqueeze(op.Abs(p), 0), op.stack(rates)


def between(op: Ops, x: ir.Value, rate: ir.Value, low: ir.Value, high: ir.Value) -> Sides:
    """low ≤ x ≤ high, where x is now. Rivals before."""
    return (
        op.stack([op.Sub(x, low), op.Sub(high, x)]),
        op.stack([rate, op.Neg(rate)]),
    )


def pattern(op: Ops, bits: Sequence[ir.Value]) -> ir.Value:
    """Several comparisons of one unit as one number, the first as its lowest bit."""
    int8 = int(ir.DataType.INT8)
    parts = [op.Cast(bit, to=int(ir.DataType.FLOAT)) for bit in bits]
    total = parts[0]
    for i, part in enumerate(parts[1:], start=1):
        total = op.Add(total, op.Mul(part, op.const(1 << i, like=part)))
    return op.Cast(total, to=int8)


def several(op: Ops, bits: Sequence[ir.Value], sides: Sequence[Sides]) -> Sides:
    """Comparisons of one unit, each with its bit. Rivals before."""
    found = [above(op, bit, p, rate) for bit, (p, rate) in zip(bits, sides, strict=True)]
    return op.stack([m for m, _ in found]), op.stack([r for _, r in found])


def gap(op: Ops, a: ir.Value, b: ir.Value) -> ir.Value:
    """a − b, and 0 between equal infinities."""
    return op.Where(op.Equal(a, b), op.const(0, like=a), op.Sub(a, b))


def behind(op: Ops, value: ir.Value, axis: int) -> ir.Value:
    """With one axis as the last."""
    axes = [i for i in range(rank(value)) if i != axis]
    return op.Transpose(value, perm=[*axes, axis]) if axis != rank(value) - 1 else value


def at(op: Ops, value: float, like: ir.Value) -> ir.Value:
    return op.const(value, like=like)


# -- masks -------------------------------------------------------------------------------------


def _past(edge: Callable[[Region], float]) -> Compare:
    """x > edge."""

    def compare(op: Ops, region: Region) -> Comparisons:
        x = region.operand(0)
        here = at(op, edge(region), x)
        mask = op.Greater(x, here)
        return Comparisons(
            mask, lambda to: above(op, mask, op.Sub(x, here), to.operand(op, region, 0))
        )

    return compare


compares("LeakyRelu")(_past(lambda region: 0.0))
compares("PRelu", affine=lambda region, live: len(live) == 1)(_past(lambda region: 0.0))
compares("Elu Selu Celu", affine=False)(_past(lambda region: 0.0))
compares("ThresholdedRelu")(_past(lambda region: region.attr_float("alpha", 1.0)))
compares("ai.onnx.ml::Binarizer")(_past(lambda region: region.attr_float("threshold", 0.0)))


@compares("Relu")
def relu(op: Ops, region: Region) -> Comparisons:
    x, y = region.operand(0), region.outputs[0]
    mask = op.Greater(y, at(op, 0, y))  # as its rule reads it
    return Comparisons(mask, lambda to: above(op, mask, x, to.operand(op, region, 0)))


def _within(op: Ops, region: Region, low: ir.Value, high: ir.Value) -> Comparisons:
    """x > low and x < high, two bits."""
    x = region.operand(0)
    bits = [op.Greater(x, low), op.Less(x, high)]

    def sides(to: Along) -> Sides:
        t = to.operand(op, region, 0)
        return several(op, bits, [(op.Sub(x, low), t), (op.Sub(high, x), op.Neg(t))])

    return Comparisons(pattern(op, bits), sides, "before")


@compares("HardSwish", affine=False)
def hard_swish(op: Ops, region: Region) -> Comparisons:
    x = region.operand(0)
    return _within(op, region, at(op, -3, x), at(op, 3, x))


@compares("Shrink")
def shrink(op: Ops, region: Region) -> Comparisons:
    x, edge = region.operand(0), region.attr_float("lambd", 0.5)
    bits = [op.Greater(x, at(op, edge, x)), op.Less(x, at(op, -edge, x))]

    def sides(to: Along) -> Sides:
        t, far = to.operand(op, region, 0), at(op, edge, x)
        pairs = [(op.Sub(x, far), t), (op.Neg(op.Add(x, far)), op.Neg(t))]
        return several(op, bits, pairs)

    return Comparisons(pattern(op, bits), sides, "before")


@compares("HardSigmoid")
def hard_sigmoid(op: Ops, region: Region) -> Comparisons:
    x = region.operand(0)
    slope, shift = region.attr_float("alpha", 0.2), region.attr_float("beta", 0.5)
    one = at(op, 1, x)
    z = op.Add(op.Mul(x, at(op, slope, x)), at(op, shift, x))
    bits = [op.Greater(z, at(op, 0, x)), op.Less(z, one)]

    def sides(to: Along) -> Sides:
        t = op.Mul(to.operand(op, region, 0), at(op, slope, x))
        return several(op, bits, [(z, t), (op.Sub(one, z), op.Neg(t))])

    return Comparisons(pattern(op, bits), sides, "before")


@compares("Clip")
def clip(op: Ops, region: Region) -> Comparisons | None:
    """Bits: x > min, x < max, and min < max where both are given."""
    x, y = region.operand(0), region.outputs[0]
    bounds = [i for i in (1, 2) if region.input(i) is not None]
    pairs = [(0, 1) if i == 1 else (2, 0) for i in bounds]  # which exceeds which
    if len(bounds) == 2:
        pairs.append((2, 1))
    if not pairs:
        return None
    values = {i: op.expand_to(region.operand(i), y) for i in bounds} | {0: x}
    bits = [op.Greater(values[a], values[b]) for a, b in pairs]

    def sides(to: Along) -> Sides:
        t = {i: op.expand_to(to.operand(op, region, i), y) for i in (0, *bounds)}
        return several(
            op, bits, [(op.Sub(values[a], values[b]), op.Sub(t[a], t[b])) for a, b in pairs]
        )

    return Comparisons(pattern(op, bits), sides, "before")


@compares("Abs Sign ReduceL1 NonZero")
def signs(op: Ops, region: Region) -> Comparisons:
    """The sign: at 0 it is of neither side."""
    x = region.operand(0)
    code = op.Cast(op.Sign(x), to=int(ir.DataType.INT8))
    return Comparisons(code, lambda to: both_ways(op, x, to.operand(op, region, 0)), "before")


# -- comparisons of numbers --------------------------------------------------------------------


@compares("Greater GreaterOrEqual Less LessOrEqual")
def ordered(op: Ops, region: Region) -> Comparisons:
    (a, b), y = region.inputs[:2], region.outputs[0]
    less = region.op_type.startswith("Less")

    def sides(to: Along) -> Sides:
        t_a, t_b = (to.operand(op, region, i) for i in (0, 1))
        p, rate = (op.Sub(b, a), op.Sub(t_b, t_a)) if less else (op.Sub(a, b), op.Sub(t_a, t_b))
        return above(op, y, p, rate)

    return Comparisons(y, sides)


@compares("Equal")
def equal(op: Ops, region: Region) -> Comparisons:
    a, b = region.operand(0), region.operand(1)
    code = op.Cast(op.Sign(gap(op, a, b)), to=int(ir.DataType.INT8))

    def sides(to: Along) -> Sides:
        p = gap(op, a, b)
        rate = op.Sub(to.operand(op, region, 0), to.operand(op, region, 1))
        return both_ways(op, p, op.expand_to(rate, p))

    return Comparisons(code, sides, "before")


@compares("IsNaN IsInf Shape Size ConstantOfShape EyeLike")
def nothing(op: Ops, region: Region) -> None:
    """Numbers do not become infinite, or lose their shapes, inside a region or at its edge."""


# -- steps -------------------------------------------------------------------------------------


def _steps(low: float, high: float) -> Compare:
    """An integer y, taken where y + low ≤ x ≤ y + high."""

    def compare(op: Ops, region: Region) -> Comparisons:
        x, y = region.operand(0), region.outputs[0]

        def sides(to: Along) -> Sides:
            ends = (op.Add(y, at(op, edge, y)) for edge in (low, high))
            return between(op, x, to.operand(op, region, 0), *ends)

        return Comparisons(y, sides, "before")

    return compare


compares("Floor")(_steps(0, 1))
compares("Ceil")(_steps(-1, 0))
compares("Round")(_steps(-0.5, 0.5))


def _towards_zero(op: Ops, x: ir.Value, whole: ir.Value, rate: ir.Value) -> Sides:
    """An integer, taken of all numbers between it and the next one away from zero."""
    zero, one = at(op, 0, x), at(op, 1, x)
    low = op.Where(op.Greater(whole, zero), whole, op.Sub(whole, one))
    high = op.Where(op.Less(whole, zero), whole, op.Add(whole, one))
    return between(op, x, rate, low, high)


@compares("Cast CastLike")
def cast(op: Ops, region: Region) -> Comparisons | None:
    """To an integer: what is behind the point is dropped. To a boolean: whether it is 0."""
    x, y = region.operand(0), region.outputs[0]
    if y.dtype is None or y.dtype.is_floating_point():
        return None
    if y.dtype == ir.DataType.BOOL:
        return signs(op, region)
    whole = op.Cast(y, to=int(x.dtype or ir.DataType.FLOAT))
    return Comparisons(
        y, lambda to: _towards_zero(op, x, whole, to.operand(op, region, 0)), "before"
    )


@compares("Mod")
def mod(op: Ops, region: Region) -> Comparisons:
    """The quotient q: rounded down, or towards zero with fmod. y = a − q b is between 0 and b."""
    a, b, y = region.operand(0), region.operand(1), region.outputs[0]
    quotient = op.Round(op.Div(op.Sub(a, y), b))
    zero, one, turned = (at(op, v, y) for v in (0, 1, -1))
    sign_b = op.Where(op.Less(b, zero), turned, one)
    if region.attr_int("fmod", 0):
        sign = op.Where(op.Less(a, zero), turned, one)  # that of y, where it is not 0
        around = op.Equal(quotient, zero)  # of which 0 is the middle, and not an end
    else:
        sign, around = sign_b, None

    def ends(rest: ir.Value, divisor: ir.Value) -> ir.Value:
        inside = op.Mul(sign, rest)
        size = op.expand_to(op.Mul(sign_b, divisor), y)
        low = inside if around is None else op.Where(around, op.Add(size, inside), inside)
        return op.stack([low, op.Sub(size, inside)])

    def sides(to: Along) -> Sides:
        along = op.expand_to(to.output(op, region), y)
        return ends(y, b), ends(along, to.operand(op, region, 1))

    return Comparisons(quotient, sides, "before")
