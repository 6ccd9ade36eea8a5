"""The kinds of derivative rule. A rule knows its operator and nothing else.

It never mentions layout, direction, lane, batching, transposition or target: passes do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region

#: A tangent per input; None means zero.
Tangents = Sequence[ir.Value | None]
#: A tangent per output; None means zero.
Push = Callable[[Ops, Region, Tangents], Sequence[ir.Value | None]]
Slope = Callable[[Ops, Region], ir.Value]


class RefusedError(Exception):
    """This node, with these attributes or operands, has no derivative here. The text says why."""


@dataclass(frozen=True)
class Zero:
    """Piecewise constant: the derivative is zero almost everywhere."""

    source: str


@dataclass(frozen=True)
class Linear:
    """A sum of terms, each linear in every one of its operands.

    `terms` holds the operand indices of each term: Conv is X·W + B, so ((0, 1), (2,)). The node is
    affine in its live operands when no term has two of them and every one is in a term. An operand
    in `args` but in no term (a divisor) has a tangent all the same.
    """

    push: Push
    terms: tuple[tuple[int, ...], ...] | None  # None: every operand is a term of its own
    args: tuple[int, ...] | None
    source: str
    #: operands that lend no more than their dtype or shape
    ignores: tuple[int, ...] = ()
    #: why a node with these attributes is not linear after all, or None
    refuse: Callable[[Region], str | None] | None = None

    def is_affine(self, live: set[int]) -> bool:
        if self.terms is None:
            return True
        linear = {i for term in self.terms for i in term}
        return live <= linear and all(len(live & set(term)) < 2 for term in self.terms)


@dataclass(frozen=True)
class Elementwise:
    """y = σ(x₀, …): one slope per differentiable operand, in the shape of y.

    A `mask` slope is boolean and selects (−inf · 0 would be NaN). A homogeneous function satisfies
    σ(x₀) = slope · x₀, so its frozen form needs no correction term.
    """

    slopes: tuple[Slope, ...]
    homogeneous: bool
    mask: bool
    source: str

    @property
    def args(self) -> tuple[int, ...]:
        return tuple(range(len(self.slopes)))


@dataclass(frozen=True)
class Selection:
    """Every output element is one input element, chosen by the primal: `push` takes the same ones.

    Homogeneous as long as all operands that can be chosen are live, and no other is.
    """

    push: Push
    args: tuple[int, ...] | None
    source: str
    #: operands that elements are chosen from; None: every one
    chosen: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Pushed:
    """Anything else: tangents of every output, written by hand, linear in the tangents."""

    push: Push
    args: tuple[int, ...] | None
    source: str


@dataclass(frozen=True)
class Function:
    """No rule of its own: a function of other operators, whose rules apply in its body."""

    source: str
    args: tuple[int, ...] | None = None


@dataclass(frozen=True)
class StraightThrough:
    """Rounds, or computes on what was rounded: the derivative is zero almost everywhere.

    `push` gives that of the straight-through estimator, for those who ask for it. The tangent of an
    integer is a float32, in units of the integer.
    """

    push: Push
    args: tuple[int, ...] | None
    source: str


Rule = Zero | Linear | Elementwise | Selection | Pushed | Function | StraightThrough

#: What a user reads for each kind.
KIND_NAMES: dict[type, str] = {
    Zero: "zero",
    Linear: "linear",
    Elementwise: "elementwise",
    Selection: "selection",
    Pushed: "push",
    Function: "function",
    StraightThrough: "straight-through",
}


def uncovered(rule: Rule, live: set[int]) -> set[int]:
    """Live operands for which the rule gives no derivative."""
    if isinstance(rule, Zero) or rule.args is None:
        return set()
    return live - set(rule.args)


def is_homogeneous(rule: Rule, region: Region, live: set[int]) -> bool:
    """Whether the frozen node is its tangent map with no correction term."""
    if isinstance(rule, Elementwise):
        return rule.homogeneous and live == {0}
    if isinstance(rule, Selection):
        chosen = rule.chosen if rule.chosen is not None else range(len(region.inputs))
        return live == {i for i in chosen if region.input(i) is not None}
    return False
