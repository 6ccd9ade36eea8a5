"""Products with a matrix that is not there: counted, checked, in blocks; and orthonormal blocks."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: what is left of a unit vector that lies in a space, by rounding; and in that of its neighbours
_NOTHING, _DEPENDENT = 1e-9, 1e-6
#: how far products of vectors may be from 0 and 1 for one more factor to make them orthonormal
_NEARLY = 1e-2
#: residuals over the largest value that squares know to 1 %
_KNOWN = 1e-6
#: powers of two between which the largest element of a first product is: all squares are numbers
_SMALLEST, _LARGEST = 2.0**-460, 2.0**460
#: directions that an estimate of rounding takes
_PROBES = 2


class Operator(Protocol):
    """What solvers need of a matrix: SciPy's operators and NumPy's wrapped in them have it."""

    shape: tuple[int, int]

    def matmat(self, X: Array) -> Array: ...
    def rmatmat(self, X: Array) -> Array: ...


class Products:
    """J V and Jᵀ U over columns, counted.

    Args:
      operator: such as a `JacobianOperator`; its attribute `eps` says how exact products are,
        float64's epsilon where it has none, and `overhead` what a call costs beside its
        directions, in directions: infinitely much where it has none.
      limit: how many products solvers may ask for.

    Attributes:
      shape: (rows, columns) of J.
      forward, backward: columns so far.
    """

    def __init__(self, operator: Operator, limit: int | None = None) -> None:
        self._operator = operator
        self.shape = (int(operator.shape[0]), int(operator.shape[1]))
        self.eps = float(getattr(operator, "eps", np.finfo(np.float64).eps))
        self.overhead = float(getattr(operator, "overhead", np.inf))
        self.limit = limit
        self.forward = 0
        self.backward = 0

    @property
    def used(self) -> int:
        """All products so far."""
        return self.forward + self.backward

    @property
    def spent(self) -> bool:
        """Whether the limit is reached."""
        return self.limit is not None and self.used >= self.limit

    def push(self, V: Array) -> Array:
        """J V [rows, K] of V [columns, K].

        Raises: UsageError where a product is not finite, or the first ones have no squares.
        """
        if not V.shape[1]:
            return np.zeros((self.shape[0], 0))
        found = _finite(self._operator.matmat(V))
        if not self.used:
            _squarable(found)
        self.forward += V.shape[1]
        return found

    def pull(self, U: Array) -> Array:
        """Jᵀ U [columns, K] of U [rows, K]; raises as `push`."""
        self.backward += U.shape[1]
        return _finite(self._operator.rmatmat(U)) if U.shape[1] else np.zeros((self.shape[1], 0))

    def transposed(self) -> Transposed:
        return Transposed(self)


class Transposed(Products):
    """Jᵀ, which counts with J."""

    def __init__(self, of: Products) -> None:
        self._of = of
        self.shape = (of.shape[1], of.shape[0])
        self.eps = of.eps
        self.overhead = of.overhead
        self.limit = of.limit

    @property
    def used(self) -> int:
        return self._of.used

    def push(self, V: Array) -> Array:
        return self._of.pull(V)

    def pull(self, U: Array) -> Array:
        return self._of.push(U)


def _finite(columns: Any) -> Array:
    found = np.asarray(columns)
    if not np.isfinite(found).all():
        raise UsageError(
            "the Jacobian has products that are not finite at this point (a slope is infinite or "
            "undefined, or overflows); choose another point"
        )
    return found


def _squarable(columns: Array) -> None:
    size = float(np.abs(columns).max(initial=0))
    if size and not _SMALLEST < size < _LARGEST:
        raise UsageError(
            f"products with the Jacobian are about {size:.0e}, whose squares float64 cannot hold; "
            "scale the outputs"
        )


def normal(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """Standard normal numbers [rows, columns]."""
    return np.asarray(rng.standard_normal((columns, rows)).T)


def orthonormal(block: Array, squares: Array | None = None) -> Array:
    """Orthonormal columns that span those of a block of full rank.

    By Cholesky factors of Bᵀ B, twice: large products of matrices, where a QR decomposition takes
    several times as long; which is taken where columns are too nearly dependent.

    Args: squares: Bᵀ B, where it is known.
    """
    found = block
    squared = block.T @ block if squares is None else squares
    for again in (True, False):
        factor = cholesky(squared)
        if factor is None:
            return np.asarray(np.linalg.qr(block)[0])
        found = found @ np.linalg.inv(factor).T
        if again:
            squared = found.T @ found
    # what was nearly orthonormal before the second time is so afterwards
    off = np.abs(squared - np.eye(len(squared))).max(initial=0)
    return np.asarray(found if off <= _NEARLY else np.linalg.qr(block)[0])


def cholesky(squares: Array) -> Array | None:
    """The factor; None of what is not positive definite."""
    try:
        return np.asarray(np.linalg.cholesky(squares))
    except np.linalg.LinAlgError:
        return None


def extension(basis: Array, block: Array) -> Array:
    """Orthonormal columns that, behind those of the basis, span the block as well.

    What depends on the others is left out, so there may be fewer than the block has. Orthogonalised
    twice: once leaves what rounding makes of a column that lies nearly in the basis.
    """
    found = _scaled_to_one(block, 0)
    found = _scaled_to_one(found - basis @ (basis.T @ found), _NOTHING)
    squares = found.T @ found
    factor = cholesky(squares)
    if factor is not None and np.diag(factor).min(initial=1) > _DEPENDENT:
        found = found @ np.linalg.inv(factor).T
    else:
        sizes, vectors = np.linalg.eigh(squares)
        kept = sizes > _DEPENDENT**2
        found = found @ (vectors[:, kept] / np.sqrt(sizes[kept]))
    return orthonormal(found - basis @ (basis.T @ found))


def _scaled_to_one(block: Array, least: float) -> Array:
    """The columns longer than that, as unit vectors."""
    sizes = np.linalg.norm(block, axis=0)
    return np.asarray(block[:, sizes > least] / sizes[sizes > least])


def filled(basis: Array, block: Array, columns: int, rng: np.random.Generator) -> Array:
    """An extension by just so many columns: random ones where the block has not enough."""
    found = extension(basis, block)
    while found.shape[1] < columns:
        both = np.hstack([basis, found])
        more = normal(rng, len(basis), columns - found.shape[1])
        found = np.hstack([found, extension(both, more)])
    return found


def outside(squares: Array, H: Array, Y: Array, largest: float) -> Array | None:
    """‖(C − V H) y‖ of columns y, from the small matrices Cᵀ C and H = Vᵀ C, V orthonormal.

    Returns: None where one is too small to be known so, beside the largest singular value of C.
    """
    squared = np.sum(Y.conj() * ((squares - H.T @ H) @ Y), axis=0).real
    if squared.min(initial=np.inf) <= (_KNOWN * largest) ** 2:
        return None
    return np.asarray(np.sqrt(squared))


def rounding(A: Products, V: Array, C: Array, rng: np.random.Generator) -> float:
    """How far products are from linear: the largest ‖A (V q) − C q‖ over a few unit vectors q.

    Products in float32 are off by the rounding of every layer, which no formula knows beforehand.

    Args: V: orthonormal columns. C: A V.
    """
    mixed = normal(rng, V.shape[1], _PROBES)
    mixed /= np.linalg.norm(mixed, axis=0)
    off = A.push(V @ mixed) - C @ mixed
    return float(np.linalg.norm(off, axis=0).max(initial=0))
