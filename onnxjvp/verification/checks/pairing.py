"""Inner products: two ways to the same number, ⟨ct, J u⟩ from differences and ⟨Jᵀ ct, u⟩.

A product with a transposed Jacobian cannot be had by moving x once, but its inner product with any
direction can. Arrays here have an axis of cotangents first.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxjvp.oracle import Derivative
from onnxjvp.verification.point import Values, as_long_as
from onnxjvp.verification.report import Array, Row, Where, compare, not_applicable
from onnxjvp.verification.truth import Truth

#: directions in all where there are few variables; each tells the whole of an inner product
PROBES = 3
#: variables are moved in at most so many groups, so that a small bias is not drowned by weights
GROUPS = 4
#: a large variable moves at least this share of its own length, or its steps would be rounded away
_SHORTEST = 1 / 32


@dataclass(frozen=True)
class Probe:
    """A direction in some of the variables, and J u as differences say."""

    u: Values
    slope: Derivative


@dataclass(frozen=True)
class Group:
    """Variables that move together, along each of the probes."""

    names: tuple[str, ...]
    probes: tuple[Probe, ...]

    def label(self, tensors: Mapping[str, str]) -> str:
        """The results that a row about this group is on."""
        own = [tensors[name] for name in self.names if name in tensors]
        return f"{own[0]} and {len(own) - 1} more" if len(own) > 1 else own[0]


@dataclass(frozen=True)
class Paired:
    """Inner products, one per cotangent."""

    total: Array
    #: the sums of the magnitudes of their terms
    magnitude: Array
    #: bounds on the error of `total` that differences cause
    error: Array


def groups(
    truth: Truth,
    variables: Sequence[str],
    outputs: Sequence[str],
    seed: int,
    *,
    tensors: Mapping[str, str],
) -> list[Group]:
    """Groups of variables, each moved along directions of its own.

    Args:
      tensors: results by variable; a variable without one, on which nothing should depend, moves
        with the last group.
    Cost: in float64, about 5 evaluations per direction, 3 to 4 directions in all.
    """
    own = [name for name in variables if name in tensors]
    parts = np.array_split(np.arange(len(own)), min(GROUPS, len(own)))
    names = [[own[i] for i in part] for part in parts]
    names[-1] += [name for name in variables if name not in tensors]
    found = []
    for each in names:
        us = [_direction(truth, each, seed, n) for n in range(max(PROBES // len(names), 1))]
        probes = tuple(Probe(u, truth.along(u, outputs)) for u in us)
        found.append(Group(tuple(each), probes))
    return found


def _direction(truth: Truth, names: Sequence[str], seed: int, number: int) -> Values:
    """Random, shorter for larger variables: the terms of a bias count beside those of weights."""
    drawn = {}
    smallest = min(max(truth.at[name].size, 1) for name in names)
    for name in names:
        at = truth.at[name]
        rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
        u = as_long_as(at, np.asarray(rng.standard_normal(at.shape)))
        share = max(float(np.sqrt(smallest / max(at.size, 1))), _SHORTEST)
        drawn[name] = np.where(np.isfinite(at), share * u, 0.0)
    return drawn


def along(cts: Mapping[str, Array], slope: Derivative, used: Mapping[str, Array]) -> Paired:
    """⟨ct, J u⟩ over the elements that are used."""
    parts = []
    for name, ct in cts.items():
        value = np.where(used[name], slope.value[name], 0.0)
        error = np.where(used[name], slope.error[name], 0.0)
        part = paired(ct, value)
        parts.append(Paired(part.total, part.magnitude, paired(ct, error).magnitude))
    return total(parts)


def across(products: Mapping[str, Array], us: Mapping[str, Array]) -> Paired:
    """Σ ⟨product, u⟩ over variables; where u is 0 a product may be anything."""
    return total([paired(np.where(us[n] != 0, products[n], 0.0), us[n]) for n in products])


def paired(rows: Array, by: Array) -> Paired:
    """⟨row, by⟩ for every row, where `by` has rows too or not."""
    rows = rows.astype(np.float64)
    terms = (rows * by).reshape(len(rows), -1)
    return Paired(terms.sum(axis=1), np.abs(terms).sum(axis=1), np.zeros(len(rows)))


def total(parts: Sequence[Paired]) -> Paired:
    totals, magnitudes, errors = zip(*((p.total, p.magnitude, p.error) for p in parts), strict=True)
    return Paired(sum(totals), sum(magnitudes), sum(errors))


def compare_pairs(
    check: str,
    tensor: str,
    where: Where,
    found: Sequence[Paired],
    expected: Sequence[Paired],
    tolerance: float,
    note: str = "",
    *,
    usable: float | None = None,
) -> Row:
    """The row that compares inner products, relative to the largest sum of magnitudes.

    Args:
      usable: the share of it that the errors may be, for the row to tell anything.
    """
    scales = tuple(np.stack([p.magnitude for p in side]) for side in (found, expected))
    if not any(scale.any() for scale in scales):
        reason = "both sides are zero: nothing that is differentiated moves here"
        return not_applicable(check, tensor, where, reason)
    ours, wanted = (np.stack([p.total for p in side]) for side in (found, expected))
    slack = np.stack([f.error + e.error for f, e in zip(found, expected, strict=True)])
    # by what is expected alone: a mistake must not make its own error look small
    loose = usable is not None and not np.max(slack) <= usable * np.max(scales[1])
    if loose and not np.any(np.abs(ours - wanted) > slack):
        reason = "differences tell too little: kinks, or slopes below the rounding of f(x)"
        return not_applicable(check, tensor, where, reason)
    return compare(
        check,
        tensor,
        where,
        ours,
        wanted,
        tolerance,
        terms=scales,
        slack=slack,
        note=note,
    )
