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
STEPS = (1e-6, 1e-7, 1e-8, 1e-5, 1e-4)
#: f is taken to carry rounding errors of this many units, relative to its largest element
_ROUNDING = 16 * float(np.finfo(np.float64).eps)
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
    #: elements that differences cannot settle: f has a kink at x, or within the smallest step
    kinks: Values
    #: relative steps that were evaluated
    steps: tuple[float, ...]


@dataclass(frozen=True)
class _Difference:
    """Differences of one output at one step."""

    slope: Array
    #: |right-hand − left-hand slope|: shrinks with the step where f is smooth
    gap: Array
    rounding: float


def directional_derivative(
    run: Callable[[Values], Values],
    x: Mapping[str, Array],
    u: Mapping[str, Array],
    outputs: Sequence[str],
    *,
    steps: Sequence[float] = STEPS,
    target: float = 1e-7,
) -> Derivative:
    """The derivative of f at x along u, by central differences at two steps or more.

    Two neighbouring steps must agree, and the one-sided slopes must approach each other: their
    disagreement and the rounding of f bound the error. Piecewise affine networks have many kinks,
    so steps are small, and further ones are tried while elements are not settled.

    Args:
      run: f in float64, from all of its inputs to its outputs.
      x: the point, float64; inputs that `u` lacks stay as they are.
      u: the direction, float64.
      outputs: names of the outputs wanted.
      steps: step lengths relative to |x|/|u|, in the order in which to try them.
      target: settled means an error bound below this times the output's largest slope.
    Cost: one evaluation, and two per step: five in all unless kinks are near.
    """
    unit = _unit(x, u)
    primal = run(dict(x))
    found: dict[float, dict[str, _Difference]] = {}
    best: dict[str, tuple[Array, Array]] = {}
    kinks: Values = {}
    for step in steps:
        ahead, behind = (
            run({**x, **{name: x[name] + sign * step * unit * u[name] for name in u}})
            for sign in (1.0, -1.0)
        )
        found[step] = {
            name: _difference(primal[name], ahead[name], behind[name], step * unit)
            for name in outputs
        }
        if len(found) < 2:
            continue
        best = {name: _best([found[s][name] for s in sorted(found)]) for name in outputs}
        kinks = {name: ~(error <= target * _size(value)) for name, (value, error) in best.items()}
        if all(mask.mean() <= 1 - _ENOUGH for mask in kinks.values() if mask.size):
            break
    return Derivative(
        primal=primal,
        value={name: value for name, (value, _) in best.items()},
        error={name: error for name, (_, error) in best.items()},
        kinks=kinks,
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
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else 0.0


def _difference(here: Array, ahead: Array, behind: Array, length: float) -> _Difference:
    with np.errstate(invalid="ignore"):  # inf − inf is NaN, which no bound accepts
        slope = (ahead - behind) / (2 * length)
        gap = np.abs(ahead - 2 * here + behind) / length
    return _Difference(slope, gap, _ROUNDING * _size(here) / length)


def _best(differences: Sequence[_Difference]) -> tuple[Array, Array]:
    """Element by element, the slope of the neighbouring steps that agree best, and its error.

    Args:
      differences: by ascending step.
    """
    pairs = [_pair(fine, coarse) for fine, coarse in itertools.pairwise(differences)]
    errors = np.stack([error for _, error in pairs])
    choice = np.argmin(np.where(np.isnan(errors), np.inf, errors), axis=0)[None]
    value = np.take_along_axis(np.stack([value for value, _ in pairs]), choice, axis=0)[0]
    return value, np.take_along_axis(errors, choice, axis=0)[0]


def _pair(fine: _Difference, coarse: _Difference) -> tuple[Array, Array]:
    """The slope that two steps suggest, and a bound on its error.

    At a kink at x itself both steps agree on the mean of two slopes, and so do their gaps; where
    f is smooth the gap shrinks with the step.
    """
    with np.errstate(invalid="ignore"):
        apart = np.abs(fine.slope - coarse.slope)
        kinked = fine.gap > 0.5 * coarse.gap
        rounding = fine.rounding + coarse.rounding
        # where the two agree to rounding the longer step is the more accurate
        value = np.where(apart <= rounding, coarse.slope, fine.slope)
        error = apart + np.where(kinked, fine.gap, 0.0) + coarse.rounding
    return value, error


def _size(values: Array) -> float:
    """Largest finite magnitude."""
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
