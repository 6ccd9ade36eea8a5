"""Numbers that say something of a whole matrix, from its products; each with an error and a band.

Every function here takes the products of any matrix and a `Plan`, and gives an `Estimate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from onnxjvp.analysis.products import Products, extension, rounding
from onnxjvp.analysis.quadrature import log_squares, log_symmetric
from onnxjvp.analysis.sampling import Mean, Rule, probes, sample
from onnxjvp.errors import NotConvergedError, UsageError
from onnxjvp.runtime import Array

#: columns that Hutch++ projects out beforehand
_SKETCH = 64


@dataclass(frozen=True)
class Plan:
    """How to estimate.

    Args:
      method: one that the function knows.
      rtol: half width of the band over the estimate; None for just `most` draws.
      most: draws at the most.
      probe: distribution of the draws.
      rng: where they come from.
      progress: told draws made and allowed.
    """

    method: str
    rtol: float | None
    most: int
    probe: str
    rng: np.random.Generator
    progress: Callable[[int, int], object] | None = None


@dataclass(frozen=True)
class Estimate:
    """A number of a Jacobian at one point, and what is known of its error.

    Attributes:
      kind, method: which number, and what computed it.
      shape: rows and columns of J.
      value: infinite where a matrix without an inverse has none; `note` says so.
      error: the standard error, of sampled values; else what residuals and rounding leave.
      low, high: a band that holds the truth with 95 %, or for methods without chance their error.
      samples: random vectors drawn; 0 where there is no chance in it.
      pushed, pulled: products J u and Jᵀ v used.
      converged: whether the band is as narrow as `rtol` asked; reason says why it is not.
      note: what else is to be said.
      draws: [samples], whose mean (`squared`: whose mean's root) is the value: the trajectory.
      offset: what is added to that mean.
    """

    kind: str
    method: str
    shape: tuple[int, int]
    value: float
    error: float
    low: float
    high: float
    samples: int = 0
    pushed: int = 0
    pulled: int = 0
    converged: bool = True
    reason: str = ""
    note: str = ""
    draws: Array = field(default_factory=lambda: np.zeros(0), repr=False)
    squared: bool = False
    offset: float = 0.0

    def require(self) -> Estimate:
        """Itself. Raises: NotConvergedError where it has not converged."""
        if not self.converged:
            raise NotConvergedError(
                f"{self.kind} by {self.method} did not converge: {self.reason}. It is "
                f"{self.value:.6g} ± {self.error:.1e}, between {self.low:.6g} and {self.high:.6g}"
            )
        return self


def frobenius(A: Products, plan: Plan) -> Estimate:
    """‖J‖_F: the root of the mean of ‖J u‖² over u of covariance I.

    Source: Balestriero & Baraniuk 2021, eq. 13, of Gudmundsson et al. 1995.
    """
    if plan.method == "dense":
        matrix, exact = whole(A, plan.rng)
        return certain("frobenius", A, float(np.linalg.norm(matrix)), exact * _root(A))

    def draw(count: int) -> Array:
        return squares_of(A.push(probes(plan.probe, plan.rng, A.shape[1], count)))

    return root_of_mean("frobenius", A, plan, draw)


def trace(A: Products, plan: Plan) -> Estimate:
    """tr J of a square J: the mean of uᵀ J u.

    "sampling" is Hutchinson's; "hutch++" takes the trace on a random range by itself, and samples
    what is orthogonal to it.

    Source: Hutchinson 1989; Meyer, Musco, Musco & Woodruff 2021, Alg. 1, whose sample goes on here
    until the band is narrow enough.
    """
    require_square(A, "a trace")
    size = A.shape[0]
    if plan.method == "dense":
        matrix, exact = whole(A, plan.rng)
        return certain("trace", A, float(np.trace(matrix)), exact * _root(A))
    basis, offset, remainder = np.zeros((size, 0)), 0.0, 0.0
    if plan.method == "hutch++":
        sketch = A.push(probes(plan.probe, plan.rng, size, min(_SKETCH, size)))
        basis = extension(basis, sketch)
        images = A.push(basis)
        offset = float(np.sum(basis * images))
        remainder = rounding(A, basis, images, plan.rng) * math.sqrt(basis.shape[1])
    if basis.shape[1] == size:  # nothing is left to chance
        return replace(certain("trace", A, offset, remainder), method="hutch++")

    def draw(count: int) -> Array:
        U = probes(plan.probe, plan.rng, size, count)
        U = U - basis @ (basis.T @ U)
        return np.asarray(np.sum(U * A.push(U), axis=0))

    def width(mean: Mean) -> float:
        return _relative(mean.half_width + remainder, mean.value + offset)

    draws, mean, reached = sample(draw, width, _rule(plan), plan.progress)
    return _sampled("trace", A, plan, draws, mean, reached, offset=offset, more=remainder)


def log_det(A: Products, plan: Plan, *, symmetric: bool = False) -> Estimate:
    """log det(I + JᵀJ), or log det(I + J) of a symmetric J: the mean of uᵀ log(I + A) u.

    Raises: UsageError where a J said to be symmetric is not, or has an eigenvalue of -1 or less.
    Source: Ubaru, Chen & Saad 2017 (stochastic Lanczos quadrature).
    """
    kind, of = "log-det", A
    if symmetric:
        from onnxjvp.analysis.scipy_solvers import require_symmetric  # noqa: PLC0415 - optional

        require_symmetric(A, plan.rng)
    elif A.shape[1] > A.shape[0]:  # JᵀJ and JJᵀ have the same eigenvalues but for zeros
        A = A.transposed()
    if plan.method == "dense":
        matrix, exact = whole(A, plan.rng)
        if symmetric:
            values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
            _require_positive(values)
            slope = float(np.sum(1 / (1 + values)))
        else:
            s = np.linalg.svd(matrix, compute_uv=False)
            values, slope = s**2, float(np.sum(2 * s / (1 + s**2)))
        return certain(kind, of, float(np.sum(np.log1p(values))), exact * slope)
    quadrature = log_symmetric if symmetric else log_squares
    part = 0.05 * (plan.rtol or 0.01)
    open_widths: list[Array] = []

    def draw(count: int) -> Array:
        found, widths = quadrature(A, probes(plan.probe, plan.rng, A.shape[1], count), part)
        open_widths.append(widths)
        return found

    def left_open() -> float:
        return float(np.mean(np.concatenate(open_widths)))

    def width(mean: Mean) -> float:
        return _relative(mean.half_width + left_open(), mean.value)

    draws, mean, reached = sample(draw, width, _rule(plan), plan.progress)
    return _sampled(kind, of, plan, draws, mean, reached, more=left_open())


def whole(A: Products, rng: np.random.Generator) -> tuple[Array, float]:
    """J as an array, and how far off J u may be for a unit vector u."""
    rows, columns = A.shape
    if rows < columns:
        identity = np.eye(rows)
        pulled = A.pull(identity)
        return pulled.T, _exact(A, pulled, rounding(A.transposed(), identity, pulled, rng))
    identity = np.eye(columns)
    pushed = A.push(identity)
    return pushed, _exact(A, pushed, rounding(A, identity, pushed, rng))


def _exact(A: Products, matrix: Array, measured: float) -> float:
    return max(measured, A.eps * float(np.linalg.norm(matrix)) / _root(A))


def _root(A: Products) -> float:
    """Of as many random errors, one is that much smaller than their norm."""
    return math.sqrt(min(A.shape))


def require_square(A: Products, what: str) -> None:
    """Raises: UsageError for a Jacobian that is not."""
    if A.shape[0] != A.shape[1]:
        raise UsageError(
            f"the Jacobian is {A.shape[0]} x {A.shape[1]}, and only square ones have {what}; "
            "choose outputs and variables of one size"
        )


def _require_positive(values: Array) -> None:
    if values.min() <= -1:
        raise UsageError(
            f"J has an eigenvalue of {values.min():.4g}, so I + J is not positive definite and "
            "log det(I + J) not real; take A = JᵀJ"
        )


def squares_of(columns: Array) -> Array:
    """Of the norm of every column."""
    return np.asarray(np.sum(columns * columns, axis=0))


def _relative(width: float, value: float) -> float:
    if width == 0:
        return 0.0
    return width / abs(value) if value else math.inf


def _rule(plan: Plan) -> Rule:
    return Rule(plan.rtol, plan.most)


def root_width(mean: Mean) -> float:
    """The half width of the band of the mean's root, over that root."""
    low, middle, high = (math.sqrt(max(v, 0.0)) for v in (mean.low, mean.value, mean.high))
    return _relative(max(high - middle, middle - low), middle)


def root_of_mean(kind: str, A: Products, plan: Plan, draw: Callable[[int], Array]) -> Estimate:
    """The root of the mean of draws that are never negative."""
    draws, mean, reached = sample(draw, root_width, _rule(plan), plan.progress)
    return _sampled(kind, A, plan, draws, mean, reached, squared=True)


def _sampled(
    kind: str,
    A: Products,
    plan: Plan,
    draws: Array,
    mean: Mean,
    reached: bool,
    *,
    squared: bool = False,
    offset: float = 0.0,
    more: float = 0.0,
) -> Estimate:
    """The estimate that draws make; `more` is what rounding and quadrature leave of it."""
    value, error, low, high = mean.value + offset, mean.error, mean.low + offset, mean.high + offset
    if squared:
        value, low, high = (math.sqrt(max(v, 0.0)) for v in (value, low, high))
        error = error / (2 * value) if value else 0.0
    more += A.eps * abs(value)
    reason = ""
    if not reached:
        half = max(high - value, value - low)
        reason = (
            f"after {len(draws)} draws the band is ± {_relative(half, value):.1e} of the value, "
            f"and {plan.rtol:.1e} is asked for; allow more samples, or ask for less"
        )
    return Estimate(
        *(kind, plan.method, A.shape, value, error + more, low - more, high + more),
        samples=len(draws),
        pushed=A.forward,
        pulled=A.backward,
        converged=reached,
        reason=reason,
        draws=draws,
        squared=squared,
        offset=offset,
    )


def certain(kind: str, A: Products, value: float, error: float) -> Estimate:
    """A value without chance in it."""
    return Estimate(
        *(kind, "dense", A.shape, value, error, value - error, value + error),
        pushed=A.forward,
        pulled=A.backward,
    )
