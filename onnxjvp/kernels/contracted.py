"""Two blocks of known sizes contracted: the sum over all terms, recorded."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops
from onnxjvp.kernels.labelled import Labelled, Labels, Memo, Sizes, arranged
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.plan import KERNEL, OTHER_ROW, OTHER_SAMPLE, Mirror, Side, Term, product
from onnxjvp.kernels.structures import ROW, SAMPLE

#: from so many rows of J on, a block with itself is computed in parts, each pair of them once
HALVED = 256
PARTS = 2
#: numbers side by side from which on runtimes multiply fast
RUN = 256
_TURNED = {ROW: OTHER_ROW, OTHER_ROW: ROW, SAMPLE: OTHER_SAMPLE, OTHER_SAMPLE: SAMPLE}

#: what is kept of a block: per term, its uses
Sides = Sequence[Sequence[Side]]


def contracted(
    op: Ops,
    problem: Problem,
    terms: Sequence[Term],
    groups: Sequence[int],
    blocks: tuple[Sides, Sides],
    sizes: tuple[Sizes, Sizes],
    memo: Memo | None = None,
) -> ir.Value:
    """The kernel of two blocks, [groups, *axes of the form], recorded.

    Args:
      groups: per term, the group of its parameters.
      blocks: what is kept of each; twice the same where a block meets itself.
      sizes: of the axes of each block; they may differ in samples and, in the full form, in rows.
    """
    rows, others = (size.number(ROW) for size in sizes)
    n1, n2 = (size.number(SAMPLE) for size in sizes)
    if blocks[0] is blocks[1] and n1 * rows >= HALVED and sizes[0].number(_cut(problem)[0]) > 1:
        return _symmetric(op, problem, terms, groups, blocks[0], sizes[0])
    sums = [_Sum(op, problem) for _ in problem.groups]
    memo = {} if memo is None else memo
    # those of the last layers first, which cotangents reach first: their factors can go then
    for term, group, ours, theirs in reversed(list(zip(terms, groups, *blocks, strict=True))):
        mirror = Mirror(term.weight, problem.form)
        axes = mirror.sizes(sizes[0], others, n2)
        for one in ours:
            for other in theirs:
                sums[group].add(*product(op, one, other, mirror, axes, memo))
    axes = Sizes({ROW: rows, SAMPLE: n1, OTHER_ROW: others, OTHER_SAMPLE: n2})
    totals = [each.total(axes) for each in sums]
    return op.stack(totals) if len(totals) > 1 else op.unsqueeze(totals[0], 0)


def _symmetric(
    op: Ops,
    problem: Problem,
    terms: Sequence[Term],
    groups: Sequence[int],
    block: Sides,
    sizes: Sizes,
) -> ir.Value:
    """The kernel of a block with itself: of its halves, three of four pairs are computed."""
    label, other_label = _cut(problem)
    whole = sizes.number(label)
    starts = [whole * i // PARTS for i in range(PARTS + 1)]
    spans = [(a, b) for a, b in itertools.pairwise(starts) if a < b]
    parts = [(part_of(op, block, label, a, b - a), sizes.having(label, b - a)) for a, b in spans]
    form = KERNEL[problem.form]
    first, second = 1 + form.index(label), 1 + form.index(other_label)
    # the one axis of rows of other forms than the full one stays where it is
    swapped = [x if x == ROW and problem.form != "full" else _TURNED[x] for x in form]
    turned = [0, *(1 + form.index(label) for label in swapped)]
    made: dict[tuple[int, int], ir.Value] = {}
    memo: Memo = {}  # halves of the rows have all products of z in common
    for (i, (ours, size)), (j, (theirs, other)) in itertools.combinations_with_replacement(
        enumerate(parts), 2
    ):
        pair = (ours, list(theirs))  # not one and the same: a part is not cut again
        made[i, j] = contracted(op, problem, terms, groups, pair, (size, other), memo)
        if i != j:
            made[j, i] = op.Transpose(made[i, j], perm=turned)
    count = range(len(parts))
    return op.Concat(
        *(op.Concat(*(made[i, j] for j in count), axis=second) for i in count), axis=first
    )


def _cut(problem: Problem) -> tuple[str, str]:
    """The axes that a block is cut along: those of rows, where all pairs of them are computed."""
    return (ROW, OTHER_ROW) if problem.form == "full" else (SAMPLE, OTHER_SAMPLE)


def part_of(op: Ops, block: Sides, label: str, start: int, count: int) -> Sides:
    """What is kept of some of the samples, or rows, recorded."""
    made: dict[ir.Value, ir.Value] = {}

    def part(x: Labelled) -> Labelled:
        if label not in x.labels:
            return x
        if x.value not in made:
            ends = (op.ints([i]) for i in (start, start + count))
            made[x.value] = op.Slice(x.value, *ends, op.ints([x.labels.index(label)]))
        return replace(x, value=made[x.value])

    return [[side.on(part) for side in sides] for sides in block]


class _Sum:
    """What the terms of a group contribute, added up."""

    def __init__(self, op: Ops, problem: Problem) -> None:
        self._op = op
        self._form = KERNEL[problem.form]
        self._dtype = ir.DataType.from_numpy(np.dtype(problem.accumulate))
        #: products of cotangents, each with the factors that it is multiplied with elementwise
        self._wholes: dict[ir.Value, tuple[Labelled, list[Labelled | float]]] = {}

    def add(self, whole: Labelled, factor: Labelled | None, scale: float) -> None:
        _, factors = self._wholes.setdefault(whole.value, (whole, []))
        factors.append(_scaled(self._op, factor, scale))

    def total(self, sizes: Sizes) -> ir.Value:
        """In the axes of the form and the problem's dtype; zeros if there is nothing."""
        op, form = self._op, self._form
        laid_out: dict[Labels, list[ir.Value]] = {}
        for whole, factors in self._wholes.values():
            weight = _weight(op, factors, whole, sizes)
            value = whole.value if weight is None else op.Mul(whole.value, weight)
            laid_out.setdefault(whole.labels, []).append(value)
        parts = []
        for labels, values in laid_out.items():  # sums first: what is laid out anew is their total
            wide = [
                v if v.dtype == self._dtype else op.Cast(v, to=int(self._dtype)) for v in values
            ]
            parts.append(arranged(op, Labelled(op.add_all(wide), labels), form).value)
        if parts:
            return op.add_all(parts)
        return op.zeros(self._dtype, op.ints([sizes.number(label) for label in form]))


def _scaled(op: Ops, factor: Labelled | None, scale: float) -> Labelled | float:
    if factor is None or scale == 1.0:
        return scale if factor is None else factor
    return replace(factor, value=op.Mul(factor.value, op.const(scale, factor.value)))


def _weight(
    op: Ops, factors: Sequence[Labelled | float], whole: Labelled, sizes: Sizes
) -> ir.Value | None:
    """Σ of factors, on the axes of what they multiply; None for 1."""
    number = sum(f for f in factors if isinstance(f, float))
    parts = []
    for factor in factors:
        if isinstance(factor, Labelled):
            own = tuple(label for label in whole.labels if label in factor.labels)
            lone = [axis for axis, label in enumerate(whole.labels) if label not in own]
            parts.append(op.unsqueeze(arranged(op, factor, own).value, *lone))
    if not parts:
        return None if number == 1.0 else op.const(number, whole.value)
    total = op.add_all(parts)
    if number:
        total = op.Add(total, op.const(number, total))
    return _in_runs(op, total, [sizes.number(label) for label in whole.labels])


def _in_runs(op: Ops, value: ir.Value, whole: Sequence[int]) -> ir.Value:
    """Repeated along its last axes, as far as what broadcasts against `whole` has short runs.

    Runtimes go from run to run of numbers that stand side by side in both: in steps of one where
    the last axis repeats. The first axis costs nothing to repeat along.
    """
    shape = [dim if isinstance(dim, int) else whole[i] for i, dim in enumerate(dims.of(value))]
    axis, run = len(whole), 1
    while axis > 1 and run < RUN:
        axis -= 1
        run *= whole[axis]
    expanded = [*shape[:axis], *whole[axis:]]
    return value if expanded == shape else op.Expand(value, op.ints(expanded))
