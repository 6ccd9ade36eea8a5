"""The regions that a segment passes through, and where it goes from one into the next."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from onnxjvp.analysis.affine_regions import Regions
from onnxjvp.analysis.comparing import Boundary, crossing, digest
from onnxjvp.analysis.points import Point
from onnxjvp.errors import NotConvergedError, UnsupportedOpError, UsageError
from onnxjvp.runtime import Array

#: regions that take less of a segment are not told apart: rounding in float64 moves boundaries by
#: some of that
RESOLUTION = 2.0**-36

Progress = Callable[[int, float], object]


@dataclass(frozen=True)
class Walk:
    """A segment x + t (z − x), 0 ≤ t ≤ 1, region by region.

    Attributes:
      breakpoints: float64, increasing: where one region ends and the next begins.
      crossings: of each the comparison that changes there, seen from before it.
      digests: of the regions, one more than breakpoints.
      error: the largest disagreement between the two sides of a breakpoint on where it is.
      evaluations: of the network, in float64.
    """

    breakpoints: Array
    crossings: tuple[Boundary, ...]
    digests: tuple[str, ...]
    error: float
    evaluations: int

    @property
    def regions(self) -> int:
        return len(self.digests)


@dataclass(frozen=True)
class _Piece:
    low: float
    high: float
    digest: str
    ahead: Boundary


def walk(
    regions: Regions,
    x: Point,
    z: Point,
    *,
    most: int = 10_000,
    resolution: float = RESOLUTION,
    progress: Progress | None = None,
) -> Walk:
    """All regions that the segment from x to z passes through, in float64.

    A point of the segment tells the whole piece of it that lies in its region, in both directions.
    So what is left is halved and looked at until nothing is left: no step is guessed, and no region
    wider than the resolution is missed. (Of a segment that runs inside a boundary, rounding decides
    from point to point on which side it is.)

    Args:
      regions: of the model.
      x, z: arrays per input, the same but for variables.
      most: how many evaluations are allowed.
      resolution: the share of the segment below which regions are not told apart.
      progress: called with the evaluations and the share of the segment that is settled.
    Raises:
      NotConvergedError: there are more regions than `most` evaluations find.
      UnsupportedOpError: boundaries are estimates (`first_order`).
      UsageError: inputs that are no variables differ, or a variable is no input. InputError: the
        points have different shapes.
    Cost: about an evaluation a region, each of 2 forward passes in NumPy.
    """
    if not regions.exact:
        raise UnsupportedOpError(
            "a walk needs boundaries that are where they are said to be, and comparisons of this "
            f"network are behind {', '.join(regions.smooth[:8])}. Choose other outputs"
        )
    if missing := [name for name in regions.variables if name not in x or name not in z]:
        raise UsageError(f"a walk moves inputs, and {', '.join(missing)} is none; leave it out")
    regions.check_other(x, z)
    segment = _Segment(regions.double(), x, z)
    pieces, gaps, left = list[_Piece](), [(0.0, 1.0)], 1.0
    while gaps:
        if segment.evaluations >= most:
            raise NotConvergedError(
                f"{len(pieces)} regions were found on {1 - left:.2%} of the segment by {most} "
                "evaluations; allow more, or take a shorter segment"
            )
        low, high = gaps.pop()
        piece = segment.piece(low, high)
        pieces.append(piece)
        left -= piece.high - piece.low
        ends = ((low, piece.low), (piece.high, high))
        gaps += [(a, b) for a, b in ends if b - a > resolution]
        if progress is not None:
            progress(segment.evaluations, 1 - left)
    return _joined(sorted(pieces, key=lambda p: (p.low, p.high)), segment.evaluations)


class _Segment:
    """The line through two points."""

    def __init__(self, regions: Regions, x: Point, z: Point) -> None:
        self._regions = regions
        self._start = {n: np.asarray(x[n], np.float64) for n in regions.variables}
        self._along = {n: np.asarray(z[n], np.float64) - a for n, a in self._start.items()}
        self._rest = {n: a for n, a in x.items() if n not in self._start}
        self.evaluations = 0

    def piece(self, low: float, high: float) -> _Piece:
        """What of a gap lies in the region of its middle."""
        middle = low + (high - low) / 2
        point = {n: a + middle * self._along[n] for n, a in self._start.items()}
        compared = self._regions.compared({**self._rest, **point}, self._along)
        self.evaluations += 1
        ahead, behind = (crossing(compared, sign, 0, math.nan) for sign in (1, -1))
        first = max(low, middle - behind.distance)
        last = min(high, middle + ahead.distance)
        return _Piece(first, last, digest(compared), ahead)


def _joined(pieces: list[_Piece], evaluations: int) -> Walk:
    """Pieces in order, those of one region as one."""
    points, crossings, digests, error = [], [], [pieces[0].digest], 0.0
    for one, after in itertools.pairwise(pieces):
        if after.digest == one.digest:
            continue
        points.append((one.high + after.low) / 2)
        error = max(error, abs(after.low - one.high))
        crossings.append(one.ahead)
        digests.append(after.digest)
    return Walk(np.array(points), tuple(crossings), tuple(digests), error, evaluations)
