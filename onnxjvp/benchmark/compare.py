"""Whether forms compute what they should: one that does not is never timed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from onnxjvp.runtime import Array

Values = Mapping[str, Array]

#: the quantities
PRIMAL, FORWARDS, BACKWARDS = "f(x)", "J u", "J^T v"

#: relative differences that are rounding in any case, by the dtype of what is compared
ROUNDING = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-6}


@dataclass(frozen=True)
class Found:
    """A quantity as one form gives it, by tensor of the original."""

    at: Values
    #: with x rounded otherwise
    nudged: Values
    #: what has been subtracted from it, by tensor
    offsets: Values = field(default_factory=dict)

    def noise(self) -> float:
        """How far it moves when x is rounded otherwise.

        In a deep network with random weights that can be per cents: activations within rounding
        of their kinks change sides.
        """
        return difference(self.nudged, self.at)


def difference(got: Values, want: Values, offsets: Values | None = None) -> float:
    """The largest relative difference of a tensor in both, in the Euclidean norm.

    Infinite where one is a number and the other is not.
    """
    return max(
        (
            _relative(got[name], want[name], (offsets or {}).get(name))
            for name in want
            if name in got
        ),
        default=0.0,
    )


def _relative(got: Array, want: Array, offset: Array | None) -> float:
    numbers = np.isfinite(want)
    if got.shape != want.shape or not np.array_equal(numbers, np.isfinite(got)):
        return float("inf")
    a, b = got[numbers].astype(np.float64), want[numbers].astype(np.float64)
    scale = np.linalg.norm(b) + (0.0 if offset is None else _norm(offset))
    distance = np.linalg.norm(a - b)
    return float(distance / scale) if scale > 0 else (0.0 if distance == 0 else float("inf"))


def _norm(array: Array) -> float:
    return float(np.linalg.norm(array[np.isfinite(array)].astype(np.float64)))


class Judge:
    """Compares each form's f(x), J u and Jᵀ v with those of the first one that gave them."""

    def __init__(self) -> None:
        #: quantity → the form that gave it first, and what it gave
        self._first: dict[str, tuple[str, Found]] = {}
        self._vectors: dict[str, Array] = {}

    def problem(self, form: str, vectors: Values, found: Mapping[str, Found]) -> str | None:
        """Why a form is wrong, or None.

        Args:
          vectors: variable → u, output → v.
          found: by quantity, as far as the form gives them.
        """
        self._vectors.update(vectors)
        for what, values in found.items():
            if what in self._first:
                name, want = self._first[what]
                off = difference(values.at, want.at, values.offsets)
                allowed = _allowed(want)
                if not off <= allowed:
                    return (
                        f"its {what} is not that of {name}: relative difference {off:.1e}, and "
                        f"rounding explains {allowed:.1e}"
                    )
        if (broken := self._adjoint(found)) is not None:
            return broken
        for what, values in found.items():
            self._first.setdefault(what, (form, values))
        return None

    def _adjoint(self, found: Mapping[str, Found]) -> str | None:
        """Whether <v, J u> = <J^T v, u>."""
        if BACKWARDS not in found or FORWARDS not in self._first:
            return None
        forwards, backwards = self._first[FORWARDS][1], found[BACKWARDS]
        pairs = [self._products(values.at) for values in (forwards, backwards)]
        scale = sum(size for _, size in pairs)
        allowed = max(_allowed(forwards), _allowed(backwards))
        if not np.isfinite(scale) or abs(pairs[0][0] - pairs[1][0]) <= allowed * scale:
            return None
        return f"its <J^T v, u> is {pairs[1][0]:.6g}, and <v, J u> is {pairs[0][0]:.6g}"

    def _products(self, values: Values) -> tuple[float, float]:
        """The product with the vectors, and the largest that it could be."""
        product = size = 0.0
        for name, array in values.items():
            vector = self._vectors[name].astype(np.float64)
            product += float(np.vdot(vector, array.astype(np.float64)))
            size += float(np.linalg.norm(vector) * np.linalg.norm(array.astype(np.float64)))
        return product, size


def _allowed(found: Found) -> float:
    dtypes = {str(array.dtype) for array in found.at.values()}
    rounding = max((ROUNDING.get(dtype, 1e-4) for dtype in dtypes), default=0.0)
    return max(rounding, 5 * found.noise())
