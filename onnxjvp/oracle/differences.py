"""Directional derivatives from central differences in float64, with kinks recognised."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Values = dict[str, Array]

#: step lengths relative to x, in the order in which they are tried: a middling pair first, smaller
#: ones against kinks nearby, larger ones against rounding where |f(x)| dwarfs |J u|
STEPS = (1e-7, 1e-6, 1e-8, 1e-9, 1e-5, 1e-4)
#: f is taken to carry rounding errors of this size at least, relative to its largest element;
#: where they are larger, they show in the gaps
_ROUNDING = 4 * float(np.finfo(np.float64).eps)
#: no element's spread is taken to be less than this many times the median's: see `_even`
_TYPICAL = 6.0
#: no further steps are tried once this share of every output's elements is settled
_ENOUGH = 0.99


@dataclass(frozen=True)
class Derivative:
    """J u for each output, as far as differences can tell."""

    #: f(x)
    primal: Values
    #: the estimate of J u
    value: Values
    #: a bound on the error of each element of `value`
    error: Values
    #: elements that are not settled: f has a kink at x or within every step, or is not finite, or
    #: J u is below the rounding of f
    kinks: Values
    #: relative steps that were evaluated
    steps: tuple[float, ...]

    def within(self, name: str, share: float) -> Array:
        """Elements whose error is bounded by a share of the output's largest slope."""
        return ~_Estimate(self.value[name], self.error[name]).exceeds(share)


@dataclass(frozen=True)
class _Difference:
    """Differences of one output at one step."""

    slope: Array
    #: |right-hand − left-hand slope|: of the order of the step where f is smooth
    gap: Array
    rounding: float


@dataclass(frozen=True)
class _Estimate:
    value: Array
    error: Array

    def exceeds(self, share: float) -> Array:
        """Elements whose error is not bounded by a share of the largest slope; NaN never is."""
        return ~(self.error <= share * _size(self.value))


def directional_derivative(
    run: Callable[[Values], Values],
    x: Mapping[str, Array],
    u: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    steps: Sequence[float] = STEPS,
    target: float = 1e-7,
    primal: Values | None = None,
) -> Derivative:
    """The derivative of f at x along u, by central differences at two steps or more.

    The one-sided slopes must be equal, or approach each other as the step shrinks; how far apart
    they are, or two steps are, and the rounding of f bound the error. A deep piecewise affine
    network has a kink within almost any step, so steps are small, and further ones are tried
    while elements are not settled.

    Args:
      run: f in float64, from all of its inputs to its outputs.
      x: the point, float64; inputs that `u` lacks stay as they are.
      u: the direction, float64.
      outputs: names of the outputs wanted.
      steps: step lengths relative to |x|/|u|, in the order in which to try them.
      target: settled means an error bound below this times the output's largest slope.
      primal: f(x), where it is known already.
    Cost: one evaluation, and two per step: five in all, unless kinks are near.
    """
    unit = _unit(x, u)
    primal = run(dict(x)) if primal is None else primal
    found: dict[float, dict[str, _Difference]] = {}
    best: dict[str, _Estimate] = {}
    for step in steps:
        ahead, behind = (
            run({**x, **{name: x[name] + sign * step * unit * u[name] for name in u}})
            for sign in (1.0, -1.0)
        )
        found[step] = {
            name: _difference(primal[name], ahead[name], behind[name], step * unit)
            for name in outputs
        }
        ascending = [found[each] for each in sorted(found)]
        best = {name: _best([one[name] for one in ascending], target) for name in outputs}
        unsettled = [best[name].exceeds(target) for name in outputs if best[name].value.size]
        if len(found) > 1 and all(mask.mean() <= 1 - _ENOUGH for mask in unsettled):
            break
    return Derivative(
        primal=primal,
        value={name: best[name].value for name in outputs},
        error={name: best[name].error for name in outputs},
        kinks={name: best[name].exceeds(target) for name in outputs},
        steps=tuple(found),
    )


def _unit(x: Mapping[str, Array], u: Mapping[str, Array]) -> float:
    """The multiple of u that is as long as x, for the input that allows least."""
    ratios = [
        (_root_mean_square(x[name]) or 1.0) / _root_mean_square(u[name])
        for name in u
        if np.any(u[name])
    ]
    return min(ratios, default=1.0)


def _root_mean_square(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(np.square(finite)))) if finite.size else 0.0


def _difference(here: Array, ahead: Array, behind: Array, length: float) -> _Difference:
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, which no bound accepts
        slope = (ahead - behind) / (2 * length)
        gap = np.abs(ahead - 2 * here + behind) / length
    return _Difference(slope, gap, _ROUNDING * _size(here) / length)


def _best(ascending: Sequence[_Difference], target: float) -> _Estimate:
    """The estimate that settles most elements of the output, and of equals the most accurate.

    One step serves the whole output: choosing for each element on its own would pick those
    where the effects of several kinks happen to cancel.
    """
    estimates = [
        _from_one(each, [*ascending[max(i - 1, 0) : i], *ascending[i + 1 : i + 2]])
        for i, each in enumerate(ascending)
    ]
    estimates += [_from_two(fine, coarse) for fine, coarse in itertools.pairwise(ascending)]
    return min(estimates, key=lambda e: (int(e.exceeds(target).sum()), _median(e.error)))


def _from_one(difference: _Difference, neighbours: Sequence[_Difference]) -> _Estimate:
    """A kink within the step parts the one-sided slopes by at least twice its effect.

    But not where both sides are alike: an odd function has equal one-sided slopes at any step, be
    it a jump, or of infinite slope. Then no two steps agree.
    """
    spread = _even(difference.gap)
    if neighbours:
        apart = [_unexplained(difference, other) for other in neighbours]
        spread = np.maximum(spread, np.fmin.reduce(apart))
    return _Estimate(difference.slope, spread + difference.rounding)


def _unexplained(one: _Difference, other: _Difference) -> Array:
    """How far the slopes of two steps are apart, beyond what kinks and rounding make of them."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(one.slope - other.slope)
    known = _even(one.gap) + _even(other.gap) + one.rounding + other.rounding
    return np.asarray(np.maximum(apart - known, 0.0))


def _from_two(fine: _Difference, coarse: _Difference) -> _Estimate:
    """Where f is smooth, the longer step is less rounded, and the shorter one bounds its error.

    At a kink at x itself both steps agree, on the mean of two slopes, and so do their gaps;
    where f is smooth the gap shrinks with the step.
    """
    with np.errstate(invalid="ignore"):
        apart = np.abs(fine.slope - coarse.slope)
    kinked = fine.gap > 0.5 * coarse.gap + fine.rounding
    spread = apart + np.where(kinked, fine.gap, 0.0)
    return _Estimate(coarse.slope, _even(spread) + coarse.rounding)


def _even(spread: Array) -> Array:
    """Where half of the elements are affected by kinks, the rest look better by chance only."""
    return np.maximum(spread, _TYPICAL * _median(spread))


def _median(error: Array) -> float:
    """The lower of two."""
    if not error.size:
        return 0.0
    middle = (error.size - 1) // 2
    numbers = np.where(np.isnan(error), np.inf, error).ravel()
    return float(np.partition(numbers, middle)[middle])


def _size(values: Array) -> float:
    """Largest finite magnitude."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
