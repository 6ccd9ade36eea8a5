"""Dimensions: ints, or integer expressions over the model's symbols.

Every unknown dimension is a symbol of its own (its name starts with `?`), so that two unknowns
never compare equal by accident, and arithmetic on them still cancels.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Callable, Iterable
from typing import Any, cast

import onnx_ir as ir
import sympy

from onnxjvp.graph import limits
from onnxjvp.graph.files import is_placeholder

Dim = int | ir.SymbolicDim
Dims = tuple[Dim, ...]


class UnknownTypeError(Exception):
    """A value whose dtype or rank inference cannot tell, where it has to be known."""


_counter = itertools.count()
# What an exporter writes as an expression over named symbols. Powers are left out: they are never
# written by exporters, and can be made arbitrarily slow to evaluate.
_EXPRESSION = re.compile(r"[\w.\s+\-*/()]{1,60}")


def fresh() -> ir.SymbolicDim:
    """A dimension about which nothing is known, equal only to itself."""
    return ir.SymbolicDim(sympy.Symbol(f"?{next(_counter)}", integer=True, positive=True))


def number() -> ir.SymbolicDim:
    """A number that is no size: nothing is known about it, not even its sign."""
    return ir.SymbolicDim(sympy.Symbol(f"?{next(_counter)}", integer=True))


def symbol(name: str | None) -> Dim:
    """The dimension that a model calls `name`: an expression where it reads as one."""
    return fresh() if is_placeholder(name) else _named(name or "")


@functools.lru_cache(maxsize=4096)
def _named(name: str) -> Dim:
    if _EXPRESSION.fullmatch(name) and "**" not in name:
        try:
            return simplest(ir.SymbolicDim(name) + 0)
        except (ValueError, ZeroDivisionError, TypeError):
            pass  # a name that only looks like an expression
    return ir.SymbolicDim(sympy.Symbol(name, integer=True, positive=True))


def simplest(dim: Dim) -> Dim:
    """The int, where an expression has become one."""
    if isinstance(dim, int):
        return dim
    if _symbols(dim):
        return bounded(dim)
    value = dim.evaluate({})
    return value if isinstance(value, int) else fresh()


def bounded(dim: Dim) -> Dim:
    """The dimension, but an unknown one where its expression is longer than any exporter's.

    Products of sums, each of the one before, would be twice as long with every node.
    """
    if isinstance(dim, int) or dim.value is None or len(dim.value) <= limits.current().size:
        return dim
    return fresh()


# Expressions are made anew and spelt out by every operation, which takes longer than all else that
# is done with a dimension; the same few meet again and again.
@functools.lru_cache(maxsize=4096)
def _symbols(dim: ir.SymbolicDim) -> frozenset[str]:
    return dim.free_symbols()


@functools.lru_cache(maxsize=4096)
def computed(function: Callable[[Any, Any], Any], first: Dim, second: Dim) -> Dim:
    """An operation of `operator` on two dimensions."""
    return bounded(cast(Dim, function(first, second)))


def expression(dim: Dim) -> sympy.Expr:
    """The dimension as a sympy expression over integer symbols."""
    if isinstance(dim, int):
        return sympy.Integer(dim)
    return sympy.sympify((dim + 0)._expr)


def from_expression(value: sympy.Expr) -> Dim:
    return int(value) if value.is_Integer else ir.SymbolicDim(value)


@functools.lru_cache(maxsize=4096)
def is_positive(dim: Dim) -> bool:
    """Whether it is above 0 whatever the symbols are; those of sizes count from 1."""
    return bool(expression(dim).is_positive)


def is_count(dim: Dim) -> bool:
    """Whether it is no less than 0 whatever the symbols are: what a size has to be."""
    return dim == 0 or is_positive(computed(operator.add, dim, 1))


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for dim in dims:
        if dim == 0:
            return 0
        total = computed(operator.mul, total, dim)
    return simplest(total)


def quotient(total: Dim, part: Dim) -> Dim:
    """total / part where the division is known to be exact."""
    if isinstance(total, int) and isinstance(part, int):
        return total // part if part else fresh()
    if total == part:
        return 1
    return (
        simplest(computed(operator.truediv, total, part)) if not isinstance(total, int) else fresh()
    )


def broadcast(first: Dim, second: Dim) -> Dim:
    """The dimension that two broadcast to (numpy's rule)."""
    for dim, other in ((first, second), (second, first)):
        if isinstance(dim, int):  # the other is 1 or equal to it, or the model is invalid
            return other if dim == 1 else dim
    if first == second:
        return first
    return _larger(_met.get(first, frozenset((first,))) | _met.get(second, frozenset((second,))))


#: what came out where several sizes were broadcast, and the sizes
_met: dict[Dim, frozenset[Dim]] = {}


def met(dim: Dim) -> frozenset[Dim]:
    """The sizes whose broadcast a symbol stands for; none if it is no such symbol."""
    return _met.get(dim, frozenset())


@functools.cache
def _larger(sizes: frozenset[Dim]) -> Dim:
    """Whichever of several sizes is not 1: one symbol, whenever and however these meet."""
    symbol = fresh()
    _met[symbol] = sizes
    return symbol


def broadcast_all(*shapes: Dims) -> Dims:
    rank = max(map(len, shapes))
    out: Dims = (1,) * rank
    for shape in shapes:
        padded = (1,) * (rank - len(shape)) + shape
        out = tuple(map(broadcast, out, padded))
    return out


def is_static(dims: Iterable[Dim]) -> bool:
    return all(isinstance(dim, int) for dim in dims)


def is_named(dim: Dim) -> bool:
    """Whether the dimension can be written in a file: an int, or free of unknowns."""
    return isinstance(dim, int) or not any(s.startswith("?") for s in _symbols(dim))


def of(value: ir.Value) -> Dims:
    """The dimensions of a value; its rank must be known."""
    if value.shape is None:
        raise UnknownTypeError("the rank of a value that it needs cannot be inferred")
    return value.shape.dims


def static(value: ir.Value) -> tuple[int, ...] | None:
    """The shape as ints, or None."""
    if value.shape is None or not is_static(value.shape.dims):
        return None
    return tuple(int(dim) for dim in value.shape.dims if isinstance(dim, int))
