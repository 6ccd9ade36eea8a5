"""Means of random draws, with bands that hold: probes, standard errors, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

PROBES = ("normal", "rademacher", "sphere")
#: what a band is drawn for, to hold with 95 % although it is the first of several to be narrow
CONFIDENCE = 0.96
#: draws in one block; two of them before the first look
BLOCK = 64
LEAST = 2 * BLOCK
#: looks are at so many times more draws: each look is a chance to stop at a lucky moment
GROWTH = 1.25


def probes(kind: str, rng: np.random.Generator, size: int, count: int) -> Array:
    """Random columns [size, count] with E u uᵀ = I.

    "sphere" is uniform on the sphere of radius √size: on the unit sphere E ‖A u‖² is ‖A‖_F² / size,
    not ‖A‖_F², as Balestriero & Baraniuk 2021 print below their eq. 13.
    """
    if kind == "rademacher":
        bits = rng.integers(0, 2, (count, size), np.int8)
        return np.asarray(2.0 * bits.T - 1)
    found = np.asarray(rng.standard_normal((count, size))).T
    if kind == "sphere":
        found *= math.sqrt(size) / np.linalg.norm(found, axis=0)
    elif kind != "normal":
        raise UsageError(f"unknown probe {kind!r}; choose {', '.join(PROBES)}")
    return np.asarray(found)


@dataclass(frozen=True)
class Rule:
    """When to stop.

    Args:
      rtol: the half width of the band over the estimate, or None to stop at `most`.
      most: so many draws at the most.
    """

    rtol: float | None
    most: int

    def next(self, count: int) -> int:
        """How many draws to have at the next look."""
        if self.rtol is None:
            return self.most
        blocks = max(LEAST, math.ceil(count * GROWTH / BLOCK) * BLOCK)
        return min(self.most, blocks)


@dataclass(frozen=True)
class Mean:
    """What draws say of their mean: the estimate, its standard error, and a band of 95 %."""

    value: float
    error: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        return max(self.high - self.value, self.value - self.low)


def mean_of(draws: Array) -> Mean:
    """The mean of independent draws, with a band that is corrected for their skewness.

    ‖A u‖² of a matrix of rank one is a χ² of one degree of freedom: means and deviations of such
    draws are small together, and a plain Student band holds the truth too rarely.

    Source: Student's t, transformed as in Hall 1992, On the removal of skewness by transformation.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - scipy is optional

    count = len(draws)
    value = float(draws.mean())
    deviation = float(draws.std(ddof=1)) if count > 1 else 0.0
    if deviation <= 1e-14 * abs(value):
        return Mean(value, 0.0, value, value)
    error = deviation / math.sqrt(count)
    quantile = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2))
    skew = float(np.mean(((draws - value) / deviation) ** 3)) / math.sqrt(count)
    return Mean(
        value,
        error,
        value - error * _untransformed(quantile, skew),
        value - error * _untransformed(-quantile, skew),
    )


def _untransformed(z: float, skew: float) -> float:
    """t of which t + s t²/3 + s² t³/27 + s/6 is z."""
    if abs(skew) < 1e-6:
        return z
    return (math.copysign(abs(root := 1 + skew * (z - skew / 6)) ** (1 / 3), root) - 1) * 3 / skew


def running(draws: Array) -> tuple[Array, Array, Array, Array]:
    """Counts, means, and bands of Student's over the first draws: what a trajectory shows."""
    counts = np.arange(2, len(draws) + 1)
    sums, squares = np.cumsum(draws)[1:], np.cumsum(draws**2)[1:]
    means = sums / counts
    deviations = np.sqrt(np.maximum(squares - counts * means**2, 0) / (counts - 1))
    half = 1.96 * deviations / np.sqrt(counts)
    return counts, means, means - half, means + half


def sample(
    draw: Callable[[int], Array],
    enough: Callable[[Mean], float],
    rule: Rule,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[Array, Mean, bool]:
    """Draw until the band is narrow enough.

    Args:
      draw: makes so many independent draws.
      enough: the half width of the band of what is asked for, over its estimate.
    Returns: the draws, their mean, and whether `rtol` was reached (or was not asked for).
    """
    draws: Array = np.zeros(0)
    while True:
        stop = rule.next(len(draws))
        while len(draws) < stop:
            draws = np.concatenate([draws, draw(min(BLOCK, stop - len(draws)))])
            if progress is not None:
                progress(len(draws), rule.most)
        mean = mean_of(draws)
        if rule.rtol is None or enough(mean) <= rule.rtol:
            return draws, mean, True
        if len(draws) >= rule.most:
            return draws, mean, False
