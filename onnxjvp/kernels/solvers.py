"""Eigenvalues, condition and linear systems of a kernel, by products with it. Needs scipy.

A kernel's products carry the rounding of the model's arithmetic, float32 as a rule. What lies below
that is noise, and is said to be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from onnxjvp.errors import NotConvergedError, UsageError
from onnxjvp.runtime import Array

#: kernels up to this size are written out: that takes as many products, and leaves nothing open
_SMALL = 64
#: a step of Lanczos' whose vector is shorter, relative to the largest eigenvalue, is its last one
_NOTHING = 1e-14


class Kernel(Protocol):
    """What solvers need of an operator."""

    shape: tuple[int, int]
    eps: float

    def matvec(self, x: Array) -> Array: ...
    def matmat(self, X: Array) -> Array: ...


# -- the largest eigenvalues -------------------------------------------------------------------


@dataclass(frozen=True)
class Eigenpairs:
    """The largest eigenvalues of a kernel.

    Attributes:
      values: float64 [k], the largest first.
      vectors: [N·K, k], orthonormal columns.
      residuals: ‖Θ v − λ v‖ of each, measured: an eigenvalue lies within that distance.
      reason: why they are not as exact as was asked for; empty where they are.
    """

    values: Array
    vectors: Array
    residuals: Array
    reason: str = ""

    @property
    def converged(self) -> bool:
        return not self.reason

    def require(self) -> Eigenpairs:
        """Itself. Raises: NotConvergedError where it has not converged."""
        if self.reason:
            raise NotConvergedError(f"the eigenvalues did not converge: {self.reason}")
        return self


def top(kernel: Kernel, k: int, tol: float) -> Eigenpairs:
    """See `NTKOperator.top`."""
    size = kernel.shape[0]
    if not 1 <= k <= size:
        raise UsageError(f"{k} eigenvalues of a kernel of {size} x {size}; give 1 to {size}")
    if size <= max(_SMALL, 2 * k):
        _, vectors = np.linalg.eigh(_whole(kernel))
        basis = vectors[:, -k:]
    else:
        start = np.random.default_rng(0).standard_normal(size)
        try:
            _, basis = eigsh(kernel, k, which="LA", tol=tol, v0=start)
        except ArpackNoConvergence as error:
            basis = error.eigenvectors
            if not basis.shape[1]:
                nothing = np.zeros((size, 0))
                return Eigenpairs(np.zeros(0), nothing, np.zeros(0), f"ARPACK: {error}")
    return _refined(kernel, basis, k, tol)


def _refined(kernel: Kernel, basis: Array, k: int, tol: float) -> Eigenpairs:
    """Values and residuals of the best vectors in a space."""
    Q = np.linalg.qr(basis)[0]
    C = kernel.matmat(Q)
    core = Q.T @ C
    values, turn = np.linalg.eigh((core + core.T) / 2)
    values, turn = values[::-1], turn[:, ::-1]
    vectors = Q @ turn
    residuals = np.linalg.norm(C @ turn - vectors * values, axis=0)
    allowed = max(tol, _GRACE * kernel.eps) * values[0]
    reason = ""
    if len(values) < k:
        reason = f"ARPACK found {len(values)} of {k}"
    elif residuals.max() > allowed:
        reason = f"residuals are up to {residuals.max():.1e}, and {allowed:.1e} is allowed"
    return Eigenpairs(values, vectors, residuals, reason)


#: residuals that rounding leaves, in units of the rounding of one operation
_GRACE = 32.0


def _whole(kernel: Kernel) -> Array:
    matrix = kernel.matmat(np.eye(kernel.shape[0]))
    return np.asarray((matrix + matrix.T) / 2)


# -- the condition number ----------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """The condition number of a kernel, and how far it can be trusted.

    Attributes:
      number: the largest eigenvalue over the smallest; a lower bound where `reason` is not empty;
        infinite where Θ is known to be singular.
      largest, smallest: the eigenvalues found; `smallest` is an upper bound of the smallest one.
      errors: how far each of the two is at most from an eigenvalue, rounding aside.
      noise: what rounding in the model's arithmetic may add to an eigenvalue, as measured: smaller
        ones cannot be told from zero.
      products: how many were used.
      reason: why the number is only a bound; empty where it is not.
    """

    number: float
    largest: float
    smallest: float
    errors: tuple[float, float]
    noise: float
    products: int
    reason: str = ""

    @property
    def converged(self) -> bool:
        return not self.reason


def condition(kernel: Kernel, steps: int, freedom: int) -> Condition:
    """See `NTKOperator.condition`.

    Args:
      freedom: how many parameters there are: the rank is no larger.
    """
    size = kernel.shape[0]
    rng = np.random.default_rng(0)
    noise, probes = _noise(kernel, rng)
    found = _lanczos(kernel, min(steps, size), noise, rng)
    largest, smallest = found.values[-1], found.values[0]
    known = Condition(
        number=math.inf,
        largest=float(largest),
        smallest=float(smallest),
        errors=(float(found.errors[-1]), float(found.errors[0])),
        noise=noise,
        products=found.products + probes,
    )
    if largest <= 0:
        return replace(known, reason="the kernel is zero")
    if freedom < size:
        return replace(
            known,
            reason=f"Θ is singular: it is {size} x {size}, and there are {freedom} parameters",
        )
    if smallest <= noise:
        return replace(
            known,
            number=float(largest / noise),
            reason=f"the smallest eigenvalue found, {smallest:.1e}, is below what rounding of the "
            f"model's arithmetic leaves ({noise:.1e}): Θ may be singular, and the number is a "
            "lower bound",
        )
    number = float(largest / smallest)
    if found.errors[0] > 1e-2 * smallest:
        return replace(
            known,
            number=number,
            reason=f"after {found.products} products the smallest eigenvalue is at most "
            f"{smallest:.1e} and has not converged, so the number is a lower bound; allow more "
            "steps",
        )
    return replace(known, number=number)


def _noise(kernel: Kernel, rng: np.random.Generator) -> tuple[float, int]:
    """About the norm of what rounding adds to Θ, and the products it took.

    The exact Θ is symmetric: |u · Θ v − v · Θ u| of random unit vectors u and v is rounding, about
    norm / sqrt(2 size) if that is spread evenly.
    """
    size, count = kernel.shape[0], 4
    V = rng.standard_normal((size, count))
    V /= np.linalg.norm(V, axis=0)
    C = kernel.matmat(V)
    H = V.T @ C
    off = (H - H.T)[np.triu_indices(count, 1)]
    measured = float(np.sqrt(np.mean(off**2))) * math.sqrt(2 * size)
    scale = float(np.linalg.norm(C, axis=0).max())
    return max(measured, kernel.eps * scale), count


@dataclass(frozen=True)
class _Ritz:
    """Eigenvalues of Θ on a Krylov space, the smallest first, and a bound of each one's error."""

    values: Array
    errors: Array
    products: int


def _lanczos(kernel: Kernel, steps: int, noise: float, rng: np.random.Generator) -> _Ritz:
    """Lanczos' method with every vector made orthogonal to all others, until both ends settle."""
    size = kernel.shape[0]
    basis = np.empty((steps, size))
    vector = rng.standard_normal(size)
    basis[0] = vector / np.linalg.norm(vector)
    alpha, beta = np.zeros(steps), np.zeros(steps)
    for j in range(steps):
        w = kernel.matvec(basis[j])
        alpha[j] = basis[j] @ w
        for _ in range(2):  # once leaves what rounding makes of a vector nearly in the space
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        beta[j] = np.linalg.norm(w)
        found = _ritz(alpha[: j + 1], beta[: j + 1])
        largest, smallest = found.values[-1], found.values[0]
        settled = found.errors[-1] <= 1e-3 * largest and (
            found.errors[0] <= 1e-2 * smallest or smallest + found.errors[0] <= noise
        )
        if j + 1 == steps or beta[j] <= _NOTHING * largest or (settled and j >= _SETTLED):
            break
        basis[j + 1] = w / beta[j]
    if found.products == size:  # the space is the whole one
        return replace(found, errors=np.zeros(len(found.values)))
    return found


#: steps before an end may be said to have settled
_SETTLED = 20


def _ritz(alpha: Array, beta: Array) -> _Ritz:
    values, vectors = eigh_tridiagonal(alpha, beta[:-1])
    return _Ritz(values, beta[-1] * np.abs(vectors[-1]), len(alpha))


# -- linear systems ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Solution:
    """A solution of (Θ + ridge · I) α = y.

    Attributes:
      alpha: float64, in the shape of y.
      residual: ‖(Θ + ridge · I) α − y‖ / ‖y‖, measured with a product of its own.
      products: how many were used.
      reason: why the residual is larger than was asked for; empty where it is not.
    """

    alpha: Array
    residual: float
    products: int
    reason: str = ""

    @property
    def converged(self) -> bool:
        return not self.reason

    def shaped(self, shape: tuple[int, ...]) -> Solution:
        return replace(self, alpha=self.alpha.reshape(shape))

    def require(self) -> Solution:
        """Itself. Raises: NotConvergedError with the residual, where it has not converged."""
        if self.reason:
            raise NotConvergedError(
                f"conjugate gradients left a residual of {self.residual:.1e}: {self.reason}"
            )
        return self


def solve(kernel: Kernel, y: Array, ridge: float, tol: float | None, steps: int) -> Solution:
    """See `NTKOperator.solve`; y is [N·K].

    Conjugate gradients, again on what is left over where that turns out to be more than the
    method thought: products are rounded.
    """
    size = float(np.linalg.norm(y))
    wanted = _RESIDUAL if tol is None else tol
    alpha, left, used, stalled = np.zeros(len(y)), y, 0, False
    residual = math.inf if size else 0.0
    while residual > wanted and not stalled and used < steps:
        change, products = _descend(kernel, left, ridge, wanted * size, steps - used)
        trial = alpha + change
        rest = y - kernel.matvec(trial) - ridge * trial
        used += products + 1
        before, found = residual, float(np.linalg.norm(rest)) / size
        if found < before:
            alpha, left, residual = trial, rest, found
        stalled = found > before / 2
    if stalled and residual > wanted and tol is None:
        noise, probes = _noise(kernel, np.random.default_rng(0))
        used += probes
        wanted = min(4 * noise * float(np.linalg.norm(alpha)) / size, _COARSEST)
    if residual <= wanted:
        return Solution(alpha, residual, used)
    reason = f"{used} products are spent; allow more"
    if stalled:
        reason = "rounding of the kernel's products keeps it from becoming smaller"
    asked = f"{wanted:.1e} was asked for, and {reason}"
    return Solution(alpha, residual, used, f"{asked}, take a larger ridge, or ask for less")


#: the residual that a solution may have where nobody says, and where rounding leaves more
_RESIDUAL, _COARSEST = 1e-6, 1e-2


def _descend(
    kernel: Kernel, right: Array, ridge: float, target: float, steps: int
) -> tuple[Array, int]:
    """Conjugate gradients from 0 until the residual, as the recurrence has it, meets the target."""
    x, r = np.zeros(len(right)), right.copy()
    p, square = r.copy(), float(r @ r)
    for j in range(1, steps + 1):
        image = kernel.matvec(p) + ridge * p
        curvature = float(p @ image)
        if curvature <= 0:  # Θ has nothing there but rounding
            return x, j
        x += (square / curvature) * p
        r -= (square / curvature) * image
        before, square = square, float(r @ r)
        if math.sqrt(square) <= target:
            return x, j
        p = r + (square / before) * p
    return x, steps
