"""Largest singular values of a matrix that is known by its products, with their vectors.

All methods finish with the SVD of a small core, so values are never negative and vectors are
orthonormal. A residual is ‖Jᵀ u − σ v‖ or ‖J v − σ u‖, the other one being zero: some singular
value of J lies within it of σ.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from onnxjvp.analysis.found import GUARD, Found, Image, Judge
from onnxjvp.analysis.products import (
    Products,
    extension,
    filled,
    normal,
    orthonormal,
)
from onnxjvp.runtime import Array

#: bytes that the vectors of a Krylov space may take
_BYTES = 1 << 29
#: vectors of a Krylov space before it is compressed, per vector of a block, and at least
_DEPTH, _LEAST = 8, 120


def krylov(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """Randomised block Krylov space, by block Golub–Kahan bidiagonalisation.

    It grows by the residuals of what has not converged, and is compressed to its best vectors when
    it gets too large. Both bases and their images are kept, so residuals need no further product.

    Source: Musco & Musco 2015, Alg. 2, and Golub & Kahan 1965, with restarts as of Baglama &
    Reichel 2006.
    """
    if A.shape[1] > A.shape[0]:  # the smaller side is where spaces end
        return exchanged(krylov(A.transposed(), k, judge, rng))
    rows, columns = A.shape
    size = min(columns, k + GUARD)
    most = max(3 * size, min(max(_DEPTH * size, _LEAST), _BYTES // (16 * (rows + columns))))
    V, W = np.zeros((columns, 0)), np.zeros((rows, 0))  # W = J V
    U, Z = W, V  # Z = Jᵀ U, and U spans W
    core = np.zeros((0, 0))  # Uᵀ W
    new = orthonormal(normal(rng, columns, size))
    while True:
        pushed = A.push(new)
        more = filled(U, pushed, new.shape[1], rng)
        below = np.zeros((more.shape[1], core.shape[1]))  # W so far is in the span of U so far
        core = np.block([[core, U.T @ pushed], [below, more.T @ pushed]])
        V, W = np.hstack([V, new]), np.hstack([W, pushed])
        U, Z = np.hstack([U, more]), np.hstack([Z, A.pull(more)])
        X, s, Yt = np.linalg.svd(core)
        right = V @ Yt[:k].T
        off = Z @ X[:, :k] - right * s[:k]
        residuals = np.linalg.norm(off, axis=0)
        images = partial(_ritz_images, A, (right, W, U, off), X[:, :k], s[:k], Yt[:k])
        if judge.over(float(s[0]), residuals, images):
            return judge.finished(s[:k], right, U @ X[:, :k], residuals)
        new = extension(V, off[:, residuals > max(judge.tolerance, judge.floor)])
        if not new.shape[1]:
            reason = judge.stalled(float(s[0]), images)
            return judge.finished(s[:k], right, U @ X[:, :k], residuals, reason)
        if V.shape[1] + new.shape[1] > most:
            kept = k + GUARD
            V, W, U, Z = V @ Yt[:kept].T, W @ Yt[:kept].T, U @ X[:, :kept], Z @ X[:, :kept]
            core = np.diag(s[:kept])


def alternating(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """The paper's Alg. 4: C ← J V, U ← QR of C, B ← Jᵀ U, V ← QR of B, until C = U Σ.

    With vectors to guard the last value, and the small SVD that turns the core Uᵀ J V, which is
    triangular and may have negative diagonals, into values.

    Source: Balestriero & Baraniuk 2021, Alg. 4, of Bentbib & Kanber 2015.
    """
    V = orthonormal(normal(rng, A.shape[1], min(*A.shape, k + GUARD)))
    C = A.push(V)
    while True:
        U = orthonormal(C)
        V = orthonormal(A.pull(U))
        C = A.push(V)
        X, s, Yt = np.linalg.svd(U.T @ C)
        right, left = V @ Yt[:k].T, U @ X[:, :k]
        off = C @ Yt[:k].T - left * s[:k]
        residuals = np.linalg.norm(off, axis=0)
        images = partial(_images, A, right, off + left * s[:k], left, right * s[:k])
        if judge.over(float(s[0]), residuals, images):
            return judge.finished(s[:k], right, left, residuals)


def dense(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """The whole matrix, by as many products as its smaller side has elements, and its SVD."""
    rows, columns = A.shape
    if columns > rows:
        return exchanged(dense(A.transposed(), k, judge, rng))
    matrix = A.push(np.eye(columns))
    U, s, Vt = np.linalg.svd(matrix, full_matrices=False)
    right, left = Vt[:k].T, U[:, :k]
    residuals = np.linalg.norm(matrix.T @ left - right * s[:k], axis=0)
    judge.over(float(s[0]), residuals, lambda: [(A, right, matrix @ right)])
    return judge.finished(s[:k], right, left, residuals)


def refined(A: Products, V: Array, k: int, judge: Judge, reason: str = "") -> Found:
    """Triplets from the span of right vectors, by products with each: what other solvers found."""
    V = orthonormal(V)
    C = A.push(V)
    U, s, Yt = np.linalg.svd(C, full_matrices=False)
    right, left = (V @ Yt.T)[:, :k], U[:, :k]
    back = A.pull(left)
    residuals = np.linalg.norm(back - right * s[:k], axis=0)
    judge.measure(float(s[0]), _images(A, right, left * s[:k], left, back))
    if not judge.over(float(s[0]), residuals, list) and not reason:
        reason = judge.missed(residuals)
    return judge.finished(s[:k], right, left, residuals, reason)


def _images(A: Products, right: Array, pushed: Array, left: Array, pulled: Array) -> list[Image]:
    return [(A, right, pushed), (A.transposed(), left, pulled)]


def _ritz_images(
    A: Products, vectors: tuple[Array, Array, Array, Array], X: Array, s: Array, Yt: Array
) -> list[Image]:
    right, W, U, off = vectors
    return _images(A, right, W @ Yt.T, U @ X, off + right * s)


def exchanged(found: Found) -> Found:
    """Of Jᵀ → of J."""
    assert found.left is not None
    found.left, found.right = found.right, found.left
    return found
