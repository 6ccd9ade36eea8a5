"""Largest singular values of a matrix that is known by its products, with their vectors.

All methods finish with the SVD of a small core, so values are never negative and vectors are
orthonormal. A residual is ‖Jᵀ u − σ v‖ or ‖J v − σ u‖, the other one being zero: some singular
value of J lies within it of σ.
"""

from __future__ import annotations

from functools import cached_property, partial

import numpy as np

from onnxjvp.analysis.bases import Columns, Looks, directions, lengths, narrow, rest, room
from onnxjvp.analysis.found import GUARD, Found, Image, Judge
from onnxjvp.analysis.products import Products, normal, orthonormal, outside
from onnxjvp.runtime import Array

#: of `narrow`, for one value and for each: measured
_SHARE, _SHARE_EACH = 2.3, 0.3


def krylov(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """Randomised block Krylov space, by block Golub–Kahan bidiagonalisation.

    Blocks are as narrow as calls are fast. From b random vectors comes no value more than b times:
    where b values or more are equal, and others below them, a block of k and more starts again.

    Source: Golub & Kahan 1965, for blocks; Musco & Musco 2015, Alg. 2.
    """
    if A.shape[1] > A.shape[0]:  # the smaller side is where spaces end
        return exchanged(krylov(A.transposed(), k, judge, rng))
    width, most = narrow(A, k, _SHARE + _SHARE_EACH * k), min(A.shape[1], k + GUARD)
    found = bidiagonalised(A, k, width, judge, rng)
    if width < most and found.settled and _crowded(found, width):
        found = bidiagonalised(A, k, most, judge, rng)
    return found


def _crowded(found: Found, width: int) -> bool:
    """Whether so many values are equal, and values below them may be wrong."""
    s, near = found.values, 2 * max(found.tolerance, found.rounding)
    starts = s[: max(len(s) - width + 1, 0)]
    return bool(np.any((starts - s[width - 1 :] <= near) & (starts - s[-1] > near)))


def bidiagonalised(
    A: Products, k: int, width: int, judge: Judge, rng: np.random.Generator
) -> Found:
    """J V = U core, by blocks of vectors, until the SVD of the core says enough of J.

    The space is compressed to its best vectors when it gets too large. The images Jᵀ U are kept, so
    residuals need no further product.

    Source: as `krylov`, with restarts as of Baglama & Reichel 2006.
    """
    rows, columns = A.shape
    most = room(k, 3 * (k + GUARD), 8 * (rows + 2 * columns))
    V, U, Z = (Columns(size, most + width) for size in (columns, rows, columns))  # Z = Jᵀ U
    held, looks = np.zeros((most + width, most + width)), Looks(k)
    new = orthonormal(normal(rng, columns, width))
    while True:
        pushed = A.push(new)
        V.add(new)
        made, left = rest(U, pushed, width)
        more = directions(U, left, lengths(pushed), new.shape[1], rng)
        added = slice(U.count, V.count)  # J V so far is in the span of U so far
        held[: U.count, added], held[added, added] = made, more.T @ left
        U.add(more)
        pulled = A.pull(more)
        Z.add(pulled)
        _, left = rest(V, pulled, more.shape[1])
        new = directions(V, left, lengths(pulled), min(width, columns - V.count), rng)
        if new.shape[1] and (V.count < k or (V.count < min(looks.next, most) and not A.spent)):
            continue
        X, s, Yt = np.linalg.svd(held[: V.count, : V.count])
        residuals = lengths((new.T @ left) @ X[-left.shape[1] :, :k])
        goal = judge.goal(float(s[0]))
        looks.seen(V.count, float(residuals.max()), goal)
        triplets = _Triplets(A, V, U, Z, X[:, :k], s[:k], Yt[:k])
        if residuals.max() <= goal or not new.shape[1] or A.spent:
            residuals = triplets.residuals()
        if judge.over(float(s[0]), residuals, triplets.images, last=not new.shape[1]):
            return triplets.finished(judge)
        if V.count + new.shape[1] > most:
            kept = min(V.count, most // 2)
            V.mix(Yt[:kept].T)
            U.mix(X[:, :kept])
            Z.mix(X[:, :kept])
            held[:] = 0
            np.fill_diagonal(held[:kept, :kept], s)


class _Triplets:
    """The best that a space holds, multiplied out when asked for; until the space grows."""

    def __init__(
        self, A: Products, V: Columns, U: Columns, Z: Columns, X: Array, s: Array, Yt: Array
    ) -> None:
        self._of = (A, V, U, Z)
        self._core = (X, s, Yt)

    @cached_property
    def right(self) -> Array:
        return np.asarray(self._of[1].all @ self._core[2].T)

    @cached_property
    def left(self) -> Array:
        return np.asarray(self._of[2].all @ self._core[0])

    @cached_property
    def pulled(self) -> Array:
        """Jᵀ u."""
        return np.asarray(self._of[3].all @ self._core[0])

    def residuals(self) -> Array:
        return lengths(self.pulled - self.right * self._core[1])

    def images(self) -> list[Image]:
        left = self.left
        return _images(self._of[0], self.right, left * self._core[1], left, self.pulled)

    def finished(self, judge: Judge) -> Found:
        return judge.finished(self._core[1], self.right, self.left, self.residuals())


def alternating(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """The paper's Alg. 4: C ← J V, U ← QR of C, B ← Jᵀ U, V ← QR of B, until C = U Σ.

    With vectors to guard the last value, and the small SVD that turns the core Uᵀ J V, which is
    triangular and may have negative diagonals, into values.

    Source: Balestriero & Baraniuk 2021, Alg. 4, of Bentbib & Kanber 2015.
    """
    V = orthonormal(normal(rng, A.shape[1], min(*A.shape, k + GUARD)))
    C = A.push(V)
    squares = C.T @ C
    while True:
        U = orthonormal(C, squares)
        V = orthonormal(A.pull(U))
        C = A.push(V)
        core, squares = U.T @ C, C.T @ C
        X, s, Yt = np.linalg.svd(core)
        residuals = outside(squares, core, Yt[:k].T, float(s[0]))
        if residuals is None or A.spent or residuals.max() <= judge.goal(float(s[0])):
            residuals = lengths((C - U @ core) @ Yt[:k].T)

        images = partial(_alternated, A, (V, U, C), X[:, :k], s[:k], Yt[:k])
        if judge.over(float(s[0]), residuals, images):
            return judge.finished(s[:k], V @ Yt[:k].T, U @ X[:, :k], residuals)


def _alternated(
    A: Products, bases: tuple[Array, Array, Array], X: Array, s: Array, Yt: Array
) -> list[Image]:
    """Of V, U that spans C = J V, and C."""
    V, U, C = bases
    right = V @ Yt.T
    return _images(A, right, C @ Yt.T, U @ X, right * s)


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


def exchanged(found: Found) -> Found:
    """Of Jᵀ → of J."""
    assert found.left is not None
    found.left, found.right = found.right, found.left
    return found
