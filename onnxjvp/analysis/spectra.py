"""The largest singular values or eigenvalues of a Jacobian, by products alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from onnxjvp.analysis import eigenpairs, triplets
from onnxjvp.analysis.found import GUARD, PATIENCE, Found, Judge, Progress, Step
from onnxjvp.analysis.points import Point, at_each, check_seed, operator_at
from onnxjvp.analysis.products import Products
from onnxjvp.errors import MissingDependencyError, NotConvergedError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

if TYPE_CHECKING:
    from onnxjvp.analysis.linear import JacobianOperator
    from onnxjvp.analysis.maps import Tensor

KINDS = ("singular", "eigen")
#: what one of them is called
VALUES = {"singular": "singular value", "eigen": "eigenvalue"}
#: methods by kind; those after "dense" are SciPy's
METHODS = {
    "singular": ("krylov", "alternating", "dense", "svds", "lobpcg"),
    "eigen": ("krylov", "subspace", "dense", "eigs", "eigsh"),
}
#: so many products are one call, and leave nothing to chance
_SMALL = 256
#: about the products that iterations take per vector of a block
_ITERATIONS = 8
#: bytes of a matrix that is computed as a whole
DENSE_BYTES = 1 << 29

Solver = Callable[[Products, int, Judge, np.random.Generator], Found]


@dataclass(frozen=True)
class Spectrum:
    """The largest values of a Jacobian at one point, and what is known of their errors.

    Attributes:
      kind, method: which values, and what computed them.
      shape: rows and columns of J; wanted: how many values were asked for.
      values: float64 [k], or complex128 where eigenvalues are; largest modulus first. Of the
        eigenvalues there may be k + 1, since conjugate pairs stay whole, and there are never more
        than J has.
      residuals: [k], in the units of J. Singular values: ‖Jᵀ u − σ v‖, J v being σ u; a singular
        value of J lies within. Eigenvalues: ‖J v − λ v‖, ‖v‖ = 1.
      errors: [k]. Of singular values the residuals; of eigenvalues, residuals times the condition
        of the value, as far as it is known: an estimate, 1 for symmetric matrices and large for
        those far from normal.
      right: per variable, the vectors v: [k, *its shape], in its dtype, so that they can be added
        to it (float32 of an integer; complex64 or complex128 where values are complex); together
        they are orthonormal where they are of singular values, else of length 1.
      left: per output, the vectors u: [k, *its shape], in its dtype; empty of eigenvalues.
      tolerance: the residual that was allowed. rounding: what rounding of products leaves of one.
      converged: whether all residuals are within the tolerance; reason says why they are not.
      history: products used and the worst residual, step by step.
      pushed, pulled: products J u and Jᵀ v used.
    """

    kind: str
    method: str
    shape: tuple[int, int]
    wanted: int
    values: Array
    residuals: Array
    errors: Array
    right: dict[str, Array]
    left: dict[str, Array]
    tolerance: float
    rounding: float
    converged: bool
    reason: str
    history: tuple[Step, ...]
    pushed: int
    pulled: int

    def require(self) -> Spectrum:
        """Itself. Raises: NotConvergedError with the residuals, where it has not converged."""
        if not self.converged:
            told = ", ".join(
                f"{value:.6g} ± {residual:.1e}"
                for value, residual in zip(self.values, self.residuals, strict=True)
            )
            raise NotConvergedError(
                f"{self.method} did not converge: {self.reason}. Values and residuals: {told}"
            )
        return self


# fmt: off
@overload
def spectrum(
    model: AnyModel | Rewritten | JacobianOperator, x: Point, k: int = ...,
    wrt: Sequence[str] | None = ..., outputs: Sequence[str] | None = ..., *, kind: str = ...,
    method: str = ..., tol: float | None = ..., products: int | None = ..., seed: int = ...,
    progress: Progress | None = ..., providers: Sequence[str] | None = ...,
    links: Path | None = ..., quantized: str | None = ...,
) -> Spectrum: ...
@overload
def spectrum(
    model: AnyModel | Rewritten | JacobianOperator, x: Sequence[Point], k: int = ...,
    wrt: Sequence[str] | None = ..., outputs: Sequence[str] | None = ..., *, kind: str = ...,
    method: str = ..., tol: float | None = ..., products: int | None = ..., seed: int = ...,
    progress: Progress | None = ..., providers: Sequence[str] | None = ...,
    links: Path | None = ..., quantized: str | None = ...,
) -> list[Spectrum]: ...
# fmt: on
def spectrum(
    model: AnyModel | Rewritten | JacobianOperator,
    x: Point | Sequence[Point],
    k: int = 6,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    kind: str = "singular",
    method: str = "auto",
    tol: float | None = None,
    products: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    providers: Sequence[str] | None = None,
    links: Path | None = None,
    quantized: str | None = None,
) -> Spectrum | list[Spectrum]:
    """The k largest singular values, or eigenvalues, of the Jacobian at x, with their vectors.

    Args:
      model, wrt, outputs, links, quantized: as for `onnxjvp.jvp`; or, alone, an operator of
        `onnxjvp.jacobian_operator`, whose sessions are used and which stays where it is.
      x: an array per input of the model; or several such points, which share sessions.
      k: how many; of more than the Jacobian has, all.
      kind: "singular", or "eigen" of a square Jacobian (those of largest modulus).
      method: "auto" takes the whole matrix where that is about as cheap, else "krylov", a
        randomised block Krylov method with blocks as narrow as calls are fast, which is the fastest
        here and overlooks no value that is multiple. "alternating" and "subspace" are the paper's
        Alg. 4 and 2; "svds", "lobpcg" (on JᵀJ), "eigs" and "eigsh" (of a symmetric J) are SciPy's;
        "dense" is the whole matrix.
      tol: residuals allowed, relative to the largest value. None means 1e-5, or what products in
        the model's dtype permit. What is asked for below that has not converged.
      products: how many may be used; None means 200 per value. A block is not cut.
      seed: of the random start: equal seeds give equal numbers.
      progress: told the products used and the worst residual over the largest value, at every
        look; of several points, from several threads.
      providers: as for `Session`; None means CPU.
    Returns:
      A `Spectrum`, or a list of one per point. One that has not converged says so, in `converged`
      and `reason`; `require()` raises.
    Raises:
      MissingDependencyError: scipy is not installed. as `onnxjvp.jacobian_operator`; UsageError for
      a method that does not fit, eigenvalues of a Jacobian that is not square, or products that are
      not finite.
    Cost: all products of an iteration are one call, x being linearised once. "krylov" takes some 3
      to 10 products per value each way, and 20 more; "dense" as many as the smaller side has
      elements. On a CPU up to 4 points are at work at once, each with residuals of its own.
    Source: Balestriero & Baraniuk 2021, §4.1; Golub & Kahan 1965; Musco & Musco 2015.
    """
    _check(k, kind, method, tol, products)
    check_seed(seed)
    points = [x] if isinstance(x, Mapping) else list(x)

    def work(operator: JacobianOperator, i: int) -> Spectrum:
        rng = np.random.default_rng([seed, i])
        A, name, solved = solve(operator, k, kind, method, tol, products, rng, progress)
        return _spectrum(operator, A, kind, name, k, solved)

    options = {"providers": providers, "links": links, "quantized": quantized}
    found = at_each(work, operator_at(model, points, wrt, outputs, **options), points)
    return found[0] if isinstance(x, Mapping) else found


def _check(k: int, kind: str, method: str, tol: float | None, products: int | None) -> None:
    if k < 1:
        raise UsageError(f"{k} values are none; ask for 1 or more")
    if kind not in KINDS:
        raise UsageError(f"unknown kind of values {kind!r}; choose {' or '.join(KINDS)}")
    if method not in ("auto", *METHODS[kind]):
        raise UsageError(
            f"unknown method {method!r} for {kind} values; choose auto, {', '.join(METHODS[kind])}"
        )
    if tol is not None and not tol > 0:
        raise UsageError(f"a tolerance of {tol} is never met; give a number above 0")
    if products is not None and products < 1:
        raise UsageError(f"{products} products are none; allow 1 or more")


def solve(
    operator: Any,
    k: int,
    kind: str,
    method: str,
    tol: float | None,
    products: int | None,
    rng: np.random.Generator,
    progress: Progress | None = None,
) -> tuple[Products, str, Found]:
    """The k largest values of any operator, see `spectrum`; the products, and the method taken."""
    rows, columns = operator.shape
    if kind == "eigen" and rows != columns:
        raise UsageError(
            f"the Jacobian is {rows} x {columns}, and only square ones have eigenvalues; take "
            "singular values, or choose outputs and variables of one size"
        )
    k = min(k, rows, columns)
    limit = PATIENCE * (k + GUARD) if products is None else products
    A = Products(operator, limit)
    if method == "auto":
        least = min(rows, columns)
        small = least <= max(_SMALL, _ITERATIONS * (k + GUARD))
        fits = 8 * rows * columns <= DENSE_BYTES and (products is None or least <= products)
        method = "dense" if small and fits else "krylov"
    solver = _solver(kind, method)
    return A, method, solver(A, k, Judge(A, tol, rng, progress), rng)


def _solver(kind: str, method: str) -> Solver:
    own: dict[str, Solver] = (
        {
            "krylov": triplets.krylov,
            "alternating": triplets.alternating,
            "dense": triplets.dense,
        }
        if kind == "singular"
        else {
            "krylov": eigenpairs.krylov,
            "subspace": eigenpairs.subspace,
            "dense": eigenpairs.dense,
        }
    )
    if method in own:
        return own[method]
    try:
        from onnxjvp.analysis import scipy_solvers  # noqa: PLC0415 - scipy is optional
    except ImportError as error:
        raise MissingDependencyError(
            f"The method {method!r} needs scipy, which is not installed: "
            'pip install "onnxjvp[analysis]".'
        ) from error
    solver: Solver = getattr(scipy_solvers, method)
    return solver


def _spectrum(
    operator: JacobianOperator, A: Products, kind: str, method: str, k: int, found: Found
) -> Spectrum:
    conditions = 1.0 if found.conditions is None else found.conditions
    left = {} if found.left is None else _tensors(found.left, operator.outputs)
    return Spectrum(
        kind=kind,
        method=method,
        shape=A.shape,
        wanted=k,
        values=found.values,
        residuals=found.residuals,
        errors=np.asarray(found.residuals * conditions),
        right=_tensors(found.right, operator.variables),
        left=left,
        tolerance=found.tolerance,
        rounding=found.rounding,
        converged=found.converged,
        reason=found.reason,
        history=tuple(found.history),
        pushed=A.forward,
        pulled=A.backward,
    )


def _tensors(columns: Array, tensors: Sequence[Tensor]) -> dict[str, Array]:
    """Columns [elements, k] → [k, *shape] by name, in the dtypes of tangents."""
    ends = np.cumsum([t.size for t in tensors])[:-1]
    parts = np.split(columns.T, ends, axis=1)
    return {
        t.name: part.reshape(-1, *t.shape).astype(_dtype(t, part))
        for t, part in zip(tensors, parts, strict=True)
    }


def _dtype(tensor: Tensor, vectors: Array) -> np.dtype[Any]:
    if vectors.dtype.kind == "c":
        return np.result_type(tensor.tangent, np.complex64)
    return tensor.tangent
