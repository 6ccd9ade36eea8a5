"""SciPy's solvers on the same operators; what they find is finished by products with every vector.

A residual that they return is of their own arithmetic. Here it is measured afterwards, and a solver
that gives up returns what it has.
"""

from __future__ import annotations

import threading
import warnings

import numpy as np
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator
from scipy.sparse.linalg import eigs as scipy_eigs
from scipy.sparse.linalg import eigsh as scipy_eigsh
from scipy.sparse.linalg import lobpcg as scipy_lobpcg
from scipy.sparse.linalg import svds as scipy_svds

from onnxjvp.analysis import eigenpairs, triplets
from onnxjvp.analysis.found import Found, Judge
from onnxjvp.analysis.products import Products, normal, rounding
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: filters of warnings are those of all threads
_FILTERS = threading.Lock()


def svds(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """ARPACK on JᵀJ or JJᵀ, a vector at a time."""
    _few_enough(k, min(A.shape) - 1, "svds")
    start = normal(rng, min(A.shape), 1)[:, 0]
    reason = ""
    try:
        _, _, Vt = scipy_svds(_operator(A), k, tol=judge.asked, v0=start, maxiter=_turns(A, k))
        V = Vt.T
    except (ArpackNoConvergence, ArpackError) as error:
        V, reason = normal(rng, A.shape[1], k), f"ARPACK: {error}"
    return triplets.refined(A, V, k, judge, reason)


def lobpcg(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """Locally optimal block preconditioned conjugate gradients on JᵀJ, without a preconditioner."""
    if A.shape[1] > A.shape[0]:
        return triplets.exchanged(lobpcg(A.transposed(), k, judge, rng))
    columns = A.shape[1]
    _few_enough(k, columns // 5, "lobpcg")
    square = LinearOperator(
        (columns, columns),
        matvec=lambda v: A.pull(A.push(np.reshape(v, (-1, 1))))[:, 0],
        matmat=lambda V: A.pull(A.push(V)),
        dtype=np.float64,
    )
    start = normal(rng, columns, k)
    start, size = np.linalg.qr(A.pull(A.push(start)))[0], 1.0
    size = float(np.linalg.norm(square.matmat(start[:, :1])))
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says there what residuals say here
        _, V = scipy_lobpcg(square, start, tol=judge.asked * size / 2, maxiter=_turns(A, k))
    return triplets.refined(A, V, k, judge)


def eigs(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """ARPACK's Arnoldi iteration, a vector at a time."""
    _few_enough(k, A.shape[0] - 3, "eigs")
    reason = ""
    try:
        # one more than wanted, or a pair may be cut
        _, V = scipy_eigs(
            _operator(A),
            k + 1,
            tol=judge.asked,
            v0=normal(rng, A.shape[0], 1)[:, 0],
            maxiter=_turns(A, k),
        )
    except ArpackNoConvergence as error:
        V, reason = error.eigenvectors, f"ARPACK: {error}"
    return eigenpairs.refined(A, V, k, judge, reason)


def eigsh(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """ARPACK's Lanczos iteration, a vector at a time, of a symmetric J.

    Raises: UsageError where a probe shows that J is not symmetric.
    """
    _few_enough(k, A.shape[0] - 2, "eigsh")
    require_symmetric(A, rng)
    reason = ""
    try:
        _, V = scipy_eigsh(
            _operator(A),
            k,
            tol=judge.asked,
            v0=normal(rng, A.shape[0], 1)[:, 0],
            maxiter=_turns(A, k),
        )
    except ArpackNoConvergence as error:
        V, reason = error.eigenvectors, f"ARPACK: {error}"
    return eigenpairs.refined(A, V, k, judge, reason)


def require_symmetric(A: Products, rng: np.random.Generator) -> None:
    """Compare u · J v and v · J u for random u and v.

    Raises: UsageError where they differ, or J is not square.
    """
    rows, columns = A.shape
    if rows != columns:
        raise UsageError(f"a Jacobian of {rows} x {columns} is not symmetric; take JᵀJ")
    V = np.linalg.qr(normal(rng, columns, min(columns, 8)))[0]
    C = A.push(V)
    H = V.T @ C
    exact = rounding(A, V, C, rng) + A.eps * float(np.linalg.norm(C, 2))
    off = float(np.abs(H - H.T).max())
    if off > 10 * exact:
        raise UsageError(
            f"J is not symmetric: u · J v and v · J u differ by {off:.1e} for random unit vectors, "
            f"where products are exact to {exact:.1e}; take JᵀJ, or a method for any matrix"
        )


def _operator(A: Products) -> LinearOperator:
    def push(v: Array) -> Array:
        return A.push(np.reshape(v, (-1, 1)))[:, 0]

    def pull(u: Array) -> Array:
        return A.pull(np.reshape(u, (-1, 1)))[:, 0]

    return LinearOperator(
        A.shape, matvec=push, rmatvec=pull, matmat=A.push, rmatmat=A.pull, dtype=np.float64
    )


def _turns(A: Products, k: int) -> int:
    """Restarts that the products allowed are enough for."""
    return max(1, (A.limit or 10_000) // (2 * max(k, 10)))


def _few_enough(k: int, most: int, method: str) -> None:
    if k > most:
        raise UsageError(
            f"{method} takes at most {max(most, 0)} values of this Jacobian, not {k}; leave the "
            "method out, or take 'dense'"
        )
