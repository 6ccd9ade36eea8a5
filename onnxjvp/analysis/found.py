"""What solvers share: what they find, when they stop, and what they say of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxjvp.analysis.products import Products, rounding
from onnxjvp.runtime import Array

#: residuals that count as converged, relative to the largest value, where nobody says another
TOLERANCE = 1e-5
#: the worst rounding, relative to the largest value, that is passed over unasked
COARSEST = 1e-2
#: vectors beyond those asked for, which carry what is cut off: half a pair, one of several equals
GUARD = 3
#: products per value before a solver gives up
PATIENCE = 200


#: told the products so far, and the worst residual over the largest value
Progress = Callable[[int, float], Any]
#: A, orthonormal columns V, and A V
Image = tuple[Products, Array, Array]


@dataclass(frozen=True)
class Step:
    """A point of a convergence history: products so far, and the worst residual of those wanted."""

    products: int
    residual: float


@dataclass
class Found:
    """Values with their vectors as columns, largest first; residuals in the units of J.

    `conditions`, of eigenvalues: how many times a residual an error may be.
    """

    values: Array
    right: Array
    left: Array | None
    residuals: Array
    history: list[Step] = field(default_factory=list)
    rounding: float = 0.0
    tolerance: float = 0.0
    reason: str = ""
    conditions: Array | None = None

    @property
    def converged(self) -> bool:
        return not self.reason

    @property
    def settled(self) -> bool:
        """Whether residuals are as small as was asked for, or as rounding leaves them."""
        return bool(self.residuals.max(initial=0.0) <= max(self.tolerance, self.rounding))


class Judge:
    """Decides when the wanted values are good enough, and keeps the history.

    Args:
      tolerance: residuals allowed, relative to the largest value; None means `TOLERANCE`, or what
        rounding permits.
      rng: of the vectors that rounding is measured with.
      progress: told every step.
    """

    def __init__(
        self,
        A: Products,
        tolerance: float | None,
        rng: np.random.Generator,
        progress: Progress | None = None,
    ) -> None:
        self._A = A
        self._wanted = tolerance
        self._rng = rng
        self._progress = progress
        self._floor: float | None = None
        self.history: list[Step] = []
        self.tolerance = 0.0
        self.reason = ""

    @property
    def asked(self) -> float:
        """The tolerance, relative to the largest value, rounding aside."""
        return TOLERANCE if self._wanted is None else self._wanted

    @property
    def floor(self) -> float:
        """What rounding leaves of a residual; 0 until it is measured."""
        return self._floor or 0.0

    def goal(self, largest: float) -> float:
        """Residuals that may be enough: those below need to be known."""
        return 2 * max(self.asked * largest, self.floor)

    def measure(self, largest: float, images: Sequence[Image]) -> None:
        """How exact products are."""
        measured = sum(rounding(A, V, C, self._rng) for A, V, C in images)
        self._floor = max(measured, self._A.eps * largest)

    def over(
        self,
        largest: float,
        residuals: Array,
        images: Callable[[], Sequence[Image]],
        *,
        last: bool = False,
    ) -> bool:
        """Whether to stop: converged, or not and `reason` says why.

        Args:
          largest: the largest value found.
          residuals: of the wanted ones, absolute.
          images: gives orthonormal vectors near those wanted, with their products.
          last: whether the method has nowhere to go.
        """
        worst = float(residuals.max(initial=0.0))
        self.history.append(Step(self._A.used, worst))
        asked = self.asked * largest
        if self._floor is None and (
            worst <= asked or len(self.history) > 1 or self._A.spent or last
        ):
            self.measure(largest, images())
        floor = self.floor
        self.tolerance = asked
        if self._wanted is None:
            self.tolerance = max(asked, min(floor, COARSEST * largest))
        if self._progress is not None:
            self._progress(self._A.used, worst / largest if largest else 0.0)
        if worst <= max(self.tolerance, floor):
            if floor > self.tolerance:
                self.reason = (
                    f"products are exact to {floor:.1e}, and residuals of {self.tolerance:.1e} "
                    "are asked for; ask for less"
                )
            return True
        if self._A.spent:
            self.reason = (
                f"residuals are up to {worst:.1e} after {self._A.used} products, and "
                f"{self.tolerance:.1e} is asked for; allow more products"
            )
            return True
        if last:
            self.reason = (
                f"residuals cannot be made smaller; products are exact to {self.floor:.1e}, and "
                f"{self.tolerance:.1e} is asked for"
            )
        return last

    def missed(self, residuals: Array) -> str:
        """Why what another solver took for converged is not."""
        return (
            f"residuals are up to {residuals.max():.1e} where {self.tolerance:.1e} is asked for; "
            f"products are exact to {self.floor:.1e}"
        )

    def finished(
        self,
        values: Array,
        right: Array,
        left: Array | None,
        residuals: Array,
        reason: str = "",
        conditions: Array | None = None,
    ) -> Found:
        """The result; residuals are never said to be less than rounding leaves them."""
        return Found(
            values,
            right,
            left,
            np.maximum(residuals, self.floor),
            self.history,
            self.floor,
            self.tolerance,
            self.reason or reason,
            conditions,
        )
