"""What the largest and the smallest singular values say: ‖J‖₂, ‖J⁻¹‖_F and the condition number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from onnxjvp.analysis import triplets
from onnxjvp.analysis.found import TOLERANCE, Found, Judge
from onnxjvp.analysis.functionals import (
    Estimate,
    Plan,
    certain,
    require_square,
    root_of_mean,
    squares_of,
    whole,
)
from onnxjvp.analysis.products import Products, normal, orthonormal
from onnxjvp.analysis.sampling import probes
from onnxjvp.analysis.solves import Solved, solve
from onnxjvp.runtime import Array

#: steps of an iterative solver
_STEPS = 1000
#: a residual, over the value, that tells the largest value from the next
_NEAR = 1e-3
#: vectors, and turns, of an inverse iteration
_VECTORS, _TURNS = 8, 40


class _SingularError(Exception):
    """J has no inverse, to rounding: the bound of its smallest singular value over the largest."""

    def __init__(self, bound: float) -> None:
        super().__init__(bound)
        self.bound = bound


class _OpenError(Exception):
    """A solver gave up."""

    def __init__(self, left: float) -> None:
        super().__init__(left)
        self.left = left


def spectral(A: Products, plan: Plan) -> Estimate:
    """‖J‖₂, the largest singular value: how much a small step of x moves the outputs at the most.

    The Lipschitz constant of f near x, in Euclidean norms.
    """
    found = _largest(A, plan, plan.method)
    value, error = float(found.values[0]), float(found.residuals[0])
    return replace(
        certain("spectral", A, value, error),
        method=plan.method,
        converged=found.converged,
        reason=found.reason,
    )


def inverse(A: Products, plan: Plan) -> Estimate:
    """‖J⁻¹‖_F of a square J: from its singular values, or the mean of ‖J⁻¹ u‖² by LSQR.

    Infinite where J is singular to the rounding of its products, which the note says.

    Source: Kenney, Laub & Reese 1998; Paige & Saunders 1982.
    """
    require_square(A, "an inverse")
    kind = "inverse"
    if plan.method == "dense":
        s, exact = _values(A, plan)
        if s[-1] <= exact:
            return _infinite(kind, A, plan, s[-1] / s[0] if s[0] else 0.0)
        value = math.sqrt(float(np.sum(s**-2.0)))
        # of Σ σ⁻², to first order
        return certain(kind, A, value, exact * float(np.sum(s**-3.0)) / value)
    found = _largest(A, plan, "krylov")
    if not found.values[0]:
        return _infinite(kind, A, plan, 0.0)
    relative = found.rounding / float(found.values[0])
    tolerance = max(1e-2 * (plan.rtol or 0.01) / math.sqrt(A.shape[0]), 1e-10)

    def draw(count: int) -> Array:
        U = probes(plan.probe, plan.rng, A.shape[0], count)
        return squares_of(_solutions(A, U, tolerance, relative))

    try:
        return root_of_mean(kind, A, plan, draw)
    except _SingularError as singular:
        return _infinite(kind, A, plan, singular.bound)
    except _OpenError as given_up:
        return _given_up(kind, A, plan, given_up.left)


def condition(A: Products, plan: Plan) -> Estimate:
    """σ_max / σ_min, over all min(rows, columns) singular values; infinite where σ_min is 0.

    "iterative": σ_max by Krylov's, σ_min by inverse iteration, with LSQR for both solves.
    """
    kind = "condition"
    if plan.method == "dense":
        s, exact = _values(A, plan)
        if s[-1] <= exact:
            return _infinite(kind, A, plan, s[-1] / s[0] if s[0] else 0.0)
        value = float(s[0] / s[-1])
        return certain(kind, A, value, value * exact * float(1 / s[0] + 1 / s[-1]))
    found = _largest(A, plan, "krylov")
    largest = float(found.values[0])
    if not largest:
        return _infinite(kind, A, plan, 0.0)
    B = A if A.shape[0] <= A.shape[1] else A.transposed()  # B Bᵀ is the smaller square
    try:
        least, residual, settled = _smallest(B, plan, found.rounding / largest)
    except _SingularError as singular:
        return _infinite(kind, A, plan, singular.bound)
    except _OpenError as given_up:
        return _given_up(kind, A, plan, given_up.left)
    if least <= found.rounding:
        return _infinite(kind, A, plan, least / largest)
    value = largest / least
    error = value * (float(found.residuals[0]) / largest + residual / least)
    return replace(
        certain(kind, A, value, error),
        method=plan.method,
        converged=found.converged and settled,
        reason=found.reason or ("" if settled else "the smallest singular value has not settled"),
    )


def _smallest(B: Products, plan: Plan, relative: float) -> tuple[float, float, bool]:
    """The smallest singular value of a B with no more rows than columns, by (B Bᵀ)⁻¹.

    Returns: the value, its residual, and whether it has settled.
    """
    U = orthonormal(normal(plan.rng, B.shape[0], min(_VECTORS, B.shape[0])))
    tolerance = max(1e-3 * (plan.rtol or TOLERANCE), 10 * relative)
    least, residual = math.inf, math.inf
    for _ in range(_TURNS):
        Y = _solutions(B, U, tolerance, relative)
        Z = _solutions(B.transposed(), Y, tolerance, relative, within=True)
        Q = orthonormal(Z)
        C = B.pull(Q)  # Bᵀ Q
        V, s, Wt = np.linalg.svd(C, full_matrices=False)
        U = Q @ Wt.T
        before, least = least, float(s[-1])
        residual = float(np.linalg.norm(B.push(V[:, -1:]) - least * U[:, -1:]))
        wanted = (plan.rtol or TOLERANCE) * least
        if residual <= wanted or abs(before - least) <= 1e-2 * wanted:
            return least, residual, True
    return least, residual, False


def _solutions(
    A: Products, U: Array, tolerance: float, relative: float, *, within: bool = False
) -> Array:
    """A⁻¹ U. `within`: right sides are in the range, or nearly, and what is not is passed over."""
    found: Solved = solve(A, U, tolerance, relative, _STEPS)
    if not within and found.singular is not None:
        raise _SingularError(found.singular)
    if not within and found.open.max() > tolerance:
        raise _OpenError(float(found.open.max()))
    return found.solutions


def _largest(A: Products, plan: Plan, method: str) -> Found:
    solver = {
        "krylov": triplets.krylov,
        "alternating": triplets.alternating,
        "dense": triplets.dense,
    }[method]
    tolerance = None
    if method == plan.method and plan.rtol is not None:
        tolerance = min(plan.rtol, _NEAR)  # a larger residual may belong to another value
    return solver(A, 1, Judge(A, tolerance, plan.rng), plan.rng)


def _values(A: Products, plan: Plan) -> tuple[Array, float]:
    """All singular values, and how far off they may be."""
    matrix, exact = whole(A, plan.rng)
    # a singular value moves by no more than the largest one of the errors
    return np.asarray(np.linalg.svd(matrix, compute_uv=False)), 2 * exact


def _infinite(kind: str, A: Products, plan: Plan, bound: float) -> Estimate:
    return replace(
        certain(kind, A, math.inf, math.inf),
        low=math.inf,
        high=math.inf,
        error=0.0,
        method=plan.method,
        note=f"J is singular to rounding: its smallest singular value is {bound:.1e} of its "
        "largest, or less",
    )


def _given_up(kind: str, A: Products, plan: Plan, left: float) -> Estimate:
    return replace(
        certain(kind, A, math.nan, math.nan),
        method=plan.method,
        converged=False,
        reason=f"after {_STEPS} steps LSQR leaves {left:.1e} of a right side; J may be close to "
        "singular; take method='dense'",
    )
