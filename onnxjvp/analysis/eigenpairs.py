"""Eigenvalues of largest modulus of a square matrix that is known by its products.

Values are those of the small matrix Vᵀ A V: conjugate pairs stay whole, so that there may be one
value more than was asked for. A residual is ‖A v − λ v‖ for ‖v‖ = 1: λ is an eigenvalue of a matrix
that differs from A by no more than that. Where A is far from normal, λ itself may be off by more,
as many times as its condition says (so far as Vᵀ A V knows it).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from onnxjvp.analysis.bases import Columns, Looks, directions, lengths, narrow, rest, room
from onnxjvp.analysis.found import GUARD, Found, Image, Judge
from onnxjvp.analysis.products import Products, extension, normal, orthonormal, outside
from onnxjvp.runtime import Array

#: of `narrow`: blocks delay the eigenvalues of matrices far from normal, however many
_SHARE = 3.0
#: what a residual may move an eigenvalue by, at the most, for two to count as equal
_MOVED = 100


def krylov(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """Randomised block Krylov space, by Rayleigh–Ritz (block Arnoldi).

    Blocks are as narrow as calls are fast. From b random vectors comes no eigenvalue more than b
    times: where b or more are equal, a block of k and more starts again.

    Source: Saad 2011, chapter 6; Stewart 2001 (Krylov–Schur), for blocks.
    """
    width, most = narrow(A, k, _SHARE), min(A.shape[0], k + GUARD)
    found = expanded(A, k, width, judge, rng)
    if width < most and found.settled and _crowded(found, width):
        found = expanded(A, k, most, judge, rng)
    return found


def _crowded(found: Found, width: int) -> bool:
    """Whether so many values are equal, and smaller ones may be wrong."""
    assert found.conditions is not None
    values, moduli = found.values, np.abs(found.values)
    near = 2 * max(found.tolerance, found.rounding) * np.minimum(found.conditions, _MOVED)
    equal = np.sum(np.abs(values[:, None] - values) <= near[:, None], axis=1)
    return bool(np.any((equal >= width) & (moduli - moduli.min() > near)))


def expanded(A: Products, k: int, width: int, judge: Judge, rng: np.random.Generator) -> Found:
    """A V = V H + a block outside V, until eigenvectors of H say enough of A.

    The space is compressed to its leading Schur vectors when it gets too large. The images A V are
    kept, so residuals need no further product.

    Source: as `krylov`.
    """
    n = A.shape[0]
    most = room(k, 3 * (k + GUARD), 16 * n)
    V, C = Columns(n, most + width + 1), Columns(n, most + width + 1)  # C = A V
    new = orthonormal(normal(rng, n, width))
    H, edge, looks = np.zeros((0, 0)), np.zeros((width, 0)), Looks(k)  # edge = newᵀ C
    while True:
        pushed = A.push(new)
        V.add(new)
        C.add(pushed)
        made, left = rest(V, pushed, V.count)
        H = np.hstack([np.vstack([H, edge]), made])
        new = directions(V, left, lengths(pushed), min(width, n - V.count), rng)
        inside = np.zeros((new.shape[1], len(H) - made.shape[1]))
        edge = np.hstack([inside, new.T @ left])
        if new.shape[1] and (V.count <= k or (V.count < min(looks.next, most) and not A.spent)):
            continue
        ritz = Ritz(H, judge.floor)
        values, Y = ritz.leading(k)
        largest, residuals = float(abs(values[0])), lengths(edge @ Y)
        goal = judge.goal(largest)
        looks.seen(V.count, float(residuals.max()), goal)
        exact = residuals.max() <= goal or not new.shape[1] or A.spent
        if exact:
            vectors, residuals = _pairs(V, C, values, Y)
        images = partial(_images, A, V.all, C.all, Y)
        if judge.over(largest, residuals, images, last=not new.shape[1]):
            if not exact:
                vectors, residuals = _pairs(V, C, values, Y)
            return _finished(judge, values, vectors, residuals, ritz)
        if V.count + new.shape[1] > most:
            kept = _span(ritz.leading(max(len(values) + GUARD, most // 3))[1])
            V.mix(kept)
            C.mix(kept)
            H, edge = V.all.T @ C.all, new.T @ C.all


def _pairs(V: Columns, C: Columns, values: Array, Y: Array) -> tuple[Array, Array]:
    """Ritz vectors v = V Y, and ‖A v − λ v‖."""
    vectors = _times(V.all, Y)
    return vectors, lengths(_times(C.all, Y) - vectors * values)


def subspace(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """The paper's Alg. 2, orthogonal iteration: C ← A V, V ← QR of C.

    Printed, it takes diag(R) for the values and stops on ‖A V − V R‖. The columns of V become
    Schur vectors, and R a triangle, only where moduli differ: a complex pair, or a value and its
    opposite, keep turning, and it never stops. Here values and vectors are those of Vᵀ A V, a few
    vectors more than wanted guard the last one, and what has to vanish is A V − V (Vᵀ A V), for
    those wanted.

    Source: Balestriero & Baraniuk 2021, Alg. 2, of Bentbib & Kanber 2015; corrected.
    """
    V = orthonormal(normal(rng, A.shape[0], min(A.shape[0], k + GUARD)))
    while True:
        C = A.push(V)
        H, squares = V.T @ C, C.T @ C
        ritz = Ritz(H, judge.floor)
        values, Y = ritz.leading(k)
        residuals = outside(squares, H, Y, math.sqrt(np.trace(squares)))
        if residuals is None or A.spent or residuals.max() <= judge.goal(abs(values[0])):
            residuals = lengths(_times(C - V @ H, Y))
        if judge.over(abs(values[0]), residuals, partial(_images, A, V, C, Y)):
            return _finished(judge, values, _times(V, Y), residuals, ritz)
        V = orthonormal(C, squares)


def dense(A: Products, k: int, judge: Judge, rng: np.random.Generator) -> Found:
    """The whole matrix, by a product per column, and its eigenvalues."""
    identity = np.eye(A.shape[0])
    matrix = A.push(identity)
    judge.measure(float(np.linalg.norm(matrix, 2)), [(A, identity, matrix)])
    ritz = Ritz(matrix, judge.floor)
    values, found = ritz.leading(k)
    residuals = np.linalg.norm(matrix @ found - found * values, axis=0)
    judge.over(abs(values[0]), residuals, list)
    return _finished(judge, values, found, residuals, ritz)


def refined(A: Products, found: Array, k: int, judge: Judge, reason: str = "") -> Found:
    """Pairs from the span of vectors, by products with each: what other solvers found."""
    V = _span(found)
    C = A.push(V)
    ritz = Ritz(V.T @ C, 0.0)
    values, Y = ritz.leading(min(k, V.shape[1]))
    vectors = V @ Y
    residuals = np.linalg.norm(C @ Y - vectors * values, axis=0)
    largest = float(np.abs(values).max(initial=0))
    judge.measure(largest, _images(A, V, C, Y))
    if not judge.over(largest, residuals, list) and not reason:
        reason = judge.missed(residuals)
    return _finished(judge, values, vectors, residuals, ritz, reason)


def _finished(
    judge: Judge, values: Array, vectors: Array, residuals: Array, ritz: Ritz, reason: str = ""
) -> Found:
    conditions = ritz.conditions(len(values), judge.floor)
    return judge.finished(values, vectors, None, residuals, reason, conditions)


class Ritz:
    """The eigenvalues of a small matrix, the largest modulus first, with unit vectors.

    A matrix that is symmetric but for rounding is made so, or equal values would become pairs.
    """

    def __init__(self, H: Array, rounding: float) -> None:
        self._skew = float(np.linalg.norm(H - H.T)) / math.sqrt(max(len(H), 1))
        if self._symmetric(rounding):
            values, vectors = np.linalg.eigh((H + H.T) / 2)
        else:
            values, vectors = np.linalg.eig(H)
        order = np.argsort(-np.abs(values), kind="stable")  # LAPACK's pairs stay side by side
        self.values, self.vectors = values[order], vectors[:, order]

    def _symmetric(self, rounding: float) -> bool:
        return self._skew <= 4 * rounding

    def leading(self, k: int) -> tuple[Array, Array]:
        """The first k values and vectors, or k + 1: pairs stay whole."""
        if k < len(self.values) and self.values[k - 1].imag > 0:
            k += 1
        values, vectors = self.values[:k], self.vectors[:, :k]
        real = not np.any(values.imag)
        return (values.real, vectors.real) if real else (values, vectors)

    def conditions(self, k: int, rounding: float) -> Array:
        """1 / |yᴴ x| of the first k, with unit vectors from the left and the right."""
        if self._symmetric(rounding):
            return np.ones(k)
        try:
            rows = np.linalg.inv(self.vectors)[:k]
        except np.linalg.LinAlgError:  # a block of Jordan's
            return np.full(k, np.inf)
        return np.asarray(np.linalg.norm(rows, axis=1))


def _times(V: Array, Y: Array) -> Array:
    """V Y of a real V: as two real products where Y is complex."""
    return V @ Y.real + 1j * (V @ Y.imag) if np.iscomplexobj(Y) else V @ Y


def _span(columns: Array) -> Array:
    """Orthonormal real columns that span complex ones and their conjugates."""
    return extension(np.zeros((len(columns), 0)), _real(columns))


def _real(columns: Array) -> Array:
    if not np.iscomplexobj(columns):
        return columns
    return np.hstack([columns.real, columns.imag])


def _images(A: Products, V: Array, C: Array, Y: Array) -> list[Image]:
    """The span of Ritz vectors V Y, with C = A V."""
    span = _span(Y)
    return [(A, V @ span, C @ span)]
