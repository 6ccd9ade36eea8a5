"""The table of rules, and the decorators that fill it."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set

import onnx_ir as ir

from onnxjvp.graph.functions import has_body
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import (
    Elementwise,
    Function,
    Linear,
    Push,
    Pushed,
    Rule,
    Selection,
    Slope,
    StraightThrough,
    Tangents,
    Zero,
)

RULES: dict[str, Rule] = {}

#: which operands a node is piecewise constant in, or does not read, with these attributes
Held = Callable[[Region], Set[int]]
#: operator → of operands that its rule covers, those that a node of it holds; a path is cut there
HELD: dict[str, Held] = {}


#: what applies to operators that have no rule, and a body
BY_BODY = Function("the rules of the operators in its body: onnxjvp/graph/functions")


def rule_for(region: Region) -> Rule | None:
    return RULES.get(region.label) or (BY_BODY if has_body(region) else None)


def register(names: str, rule: Rule) -> None:
    """Register one rule for operators named "Relu", or "domain::Name", separated by spaces."""
    for name in names.split():
        assert name not in RULES, f"{name} has two rules"
        RULES[name] = rule


def held_operands(region: Region) -> Set[int]:
    found = HELD.get(region.label)
    return found(region) if found is not None else frozenset()


def holds(names: str) -> Callable[[Held], Held]:
    """Register what nodes of some operators are piecewise constant in by their attributes."""

    def decorate(function: Held) -> Held:
        for name in names.split():
            assert name not in HELD, name
            HELD[name] = function
        return function

    return decorate


#: operator → output → the operands that enter it, of outputs that not every operand enters
ENTERS: dict[str, dict[int, Set[int]]] = {}


def enters(name: str, outputs: dict[int, Set[int]]) -> None:
    """Register which operands some outputs of an operator depend on; others depend on all."""
    assert name not in ENTERS, name
    ENTERS[name] = outputs


def entered(region: Region, operands: Set[int]) -> list[ir.Value]:
    """The outputs that depend on one of these operands."""
    some = ENTERS.get(region.label, {})
    return [v for i, v in enumerate(region.outputs) if operands & some.get(i, operands)]


def zero(names: str, *, source: str) -> None:
    register(names, Zero(source))


def linear(
    names: str,
    *,
    terms: tuple[tuple[int, ...], ...] = ((0,),),
    ignores: tuple[int, ...] = (),
    source: str,
) -> None:
    """Operators whose tangent is the node itself on one operand's tangent at a time."""
    args = tuple(sorted({i for term in terms for i in term}))
    register(names, Linear(_by_same_node(terms), terms, args, source, ignores))


def linear_push(
    names: str,
    *,
    terms: tuple[tuple[int, ...], ...] | None,
    args: tuple[int, ...] | None = None,
    refuse: Callable[[Region], str | None] | None = None,
    source: str,
) -> Callable[[Push], Push]:
    """Operators that are sums of multilinear terms, with a tangent map written by hand."""

    def decorate(push: Push) -> Push:
        covered = args
        if covered is None and terms is not None:
            covered = tuple(sorted({i for term in terms for i in term}))
        register(names, Linear(push, terms, covered, source, refuse=refuse))
        return push

    return decorate


def elementwise(
    names: str,
    *more: Slope,
    source: str,
    homogeneous: bool = False,
    mask: bool = False,
) -> Callable[[Slope], Slope]:
    """Slope functions of an elementwise operator; `more` are those of operands 1, 2, …"""

    def decorate(slope: Slope) -> Slope:
        register(names, Elementwise((slope, *more), homogeneous, mask, source))
        return slope

    return decorate


def selection(
    names: str,
    *,
    args: tuple[int, ...] | None = (0,),
    chosen: tuple[int, ...] | None = None,
    source: str,
) -> Callable[[Push], Push]:
    def decorate(push: Push) -> Push:
        register(names, Selection(push, args, source, args if chosen is None else chosen))
        return push

    return decorate


def pushed(
    names: str, *, args: tuple[int, ...] | None = (0,), source: str
) -> Callable[[Push], Push]:
    def decorate(push: Push) -> Push:
        register(names, Pushed(push, args, source))
        return push

    return decorate


def straight_through(
    names: str, *, args: tuple[int, ...] | None = (0,), source: str
) -> Callable[[Push], Push]:
    """Operators that round, or compute on integers that stand for reals."""

    def decorate(push: Push) -> Push:
        register(names, StraightThrough(push, args, source))
        return push

    return decorate


def tangents_of(
    op: Ops, rule: Rule, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    """What a rule makes of tangents: a tangent per output, those at the end left out if zero."""
    match rule:
        case Zero():
            return []
        case Elementwise(slopes=slopes, mask=mask):
            parts = [
                _scale(op, slope(op, region), tangent, mask)
                for slope, tangent in zip(slopes, tangents, strict=False)
                if tangent is not None
            ]
            return [op.add_all(parts)]
        case Linear(push=by) | Selection(push=by) | Pushed(push=by) | StraightThrough(push=by):
            return by(op, region, tangents)
        case Function():
            raise AssertionError("passes/linearize.py opens bodies")


def _scale(op: Ops, slope: ir.Value, tangent: ir.Value, mask: bool) -> ir.Value:
    if mask:
        return op.Where(slope, tangent, op.const(0, like=tangent))
    return op.Mul(slope, tangent)


def _by_same_node(terms: tuple[tuple[int, ...], ...]) -> Push:
    def push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
        return multilinear(op, region, tangents, terms)

    return push


def multilinear(
    op: Ops, region: Region, tangents: Tangents, terms: tuple[tuple[int, ...], ...]
) -> Sequence[ir.Value | None]:
    """Σ over live operands of the node on that operand's tangent, other terms left out."""
    in_terms = {i for term in terms for i in term}
    parts = []
    for term in terms:
        for i in term:
            if i >= len(tangents) or tangents[i] is None:
                continue
            operands = [
                v if j in term or j not in in_terms else None for j, v in enumerate(region.inputs)
            ]
            operands[i] = tangents[i]
            parts.append(op.like(region.node, operands))
    return [op.add_all(same_output) for same_output in zip(*parts, strict=True)]
