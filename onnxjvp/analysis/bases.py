"""Orthonormal columns that grow by blocks, and what a block says of them: Krylov spaces."""

from __future__ import annotations

import math

import numpy as np

from onnxjvp.analysis.found import GUARD
from onnxjvp.analysis.products import Products, cholesky, filled
from onnxjvp.runtime import Array

#: what a block may lose in projections and factors before all of it is orthogonalised anew
_WELL = 1e-3
#: what is left of a block, over the block, that is orthogonal enough; and coefficients, over the
#: block, above which it is projected once more
_MUCH, _LARGE = 0.5, 1e-3
#: a space grows by so much, at least and at the most, between two looks at what it holds
_NEXT, _LATEST = 1.08, 1.3
#: the last look should find residuals so many times smaller than those that may be enough
_BELOW = 3
#: blocks of so many columns, at the most, are made orthonormal by Householder's reflections: with
#: more of them products of matrices are faster
_FEW = 8
#: columns that are read once for both of their products, at least, and the bytes that a cache has
#: for them
_PANEL, _CACHED = 32, 1 << 20
#: vectors of a space before it is compressed, per value and at least; and the bytes they may take
_DEPTH, _LEAST, _BYTES = 8, 400, 1 << 29


def room(k: int, least: int, bytes_each: int) -> int:
    """How many vectors a space may have for k values, at least so many."""
    return max(least, min(max(_DEPTH * k, _LEAST), _BYTES // bytes_each))


def narrow(A: Products, k: int, share: float) -> int:
    """How many vectors a block should have for the least time, for the k largest values.

    Where single vectors take P steps, blocks of b take about P / b + P / share; and a step as long
    as `A.overhead` + b directions. A single vector would not tell whether one of several values is
    alone; and `GUARD` more than k are enough for all.
    """
    most = min(*A.shape, k + GUARD)
    if not math.isfinite(A.overhead):
        return most
    return min(most, max(1 if k == 1 else 2, round(math.sqrt(share * A.overhead))))


class Looks:
    """When to look at what a space holds, since that takes as long as several products.

    Residuals are expected to fall as they did since the last look.
    """

    def __init__(self, first: int) -> None:
        #: the number of vectors to look at again
        self.next = first
        self._last: tuple[int, float] | None = None

    def seen(self, count: int, worst: float, goal: float) -> None:
        """Of so many vectors the worst residual is that, and it has to become that."""
        expected = math.inf
        before, was = self._last or (count, worst)
        if count > before and 0 < worst < was and goal > 0:
            falls = math.log(was / worst) / (count - before)
            expected = count + math.log(_BELOW * worst / goal) / falls
        self._last = (count, worst)
        self.next = int(min(max(_NEXT * count, expected), _LATEST * count))


def lengths(columns: Array) -> Array:
    """Euclidean norms of columns."""
    if np.iscomplexobj(columns):
        return np.hypot(lengths(columns.real), lengths(columns.imag))
    return np.asarray(np.sqrt(np.einsum("ij,ij->j", columns, columns)))


class Columns:
    """Columns of one length, in memory that is taken as it is used."""

    def __init__(self, rows: int, most: int) -> None:
        self._held = np.empty((rows, most), order="F")
        self._count = 0
        self._panel = max(_PANEL, _CACHED // (8 * max(rows, 1)))

    @property
    def count(self) -> int:
        return self._count

    @property
    def all(self) -> Array:
        """A view [rows, count]."""
        return self._held[:, : self._count]

    def taken_out(self, rows: Array, near: int) -> Array:
        """Make rows orthogonal to the last `near` columns, in place: modified Gram–Schmidt.

        Panel by panel from the last one, so that a panel comes from memory once.

        Returns: what was taken out, as combinations of all columns: [K, count].
        """
        coefficients = np.zeros((len(rows), self._count))
        first = max(self._count - near, 0)
        for stop in range(self._count, first, -self._panel):
            start = max(stop - self._panel, first)
            panel = self._held[:, start:stop].T
            part = rows @ panel.T
            rows -= part @ panel
            coefficients[:, start:stop] = part
        return coefficients

    def add(self, block: Array) -> None:
        self._held[:, self._count : self._count + block.shape[1]] = block
        self._count += block.shape[1]

    def mix(self, weights: Array) -> None:
        """Take combinations in place of the columns: [rows, count] · [count, fewer]."""
        mixed = self.all @ weights
        self._count = 0
        self.add(mixed)


def rest(basis: Columns, block: Array, near: int) -> tuple[Array, Array]:
    """A block as combinations of a basis and what is left: B = V C + R, with Vᵀ R = 0.

    Twice is enough, and once where much is left. Of Lanczos' recurrence only the last columns
    matter the first time, since the block is made of them but for rounding.

    Args: near: how many columns the block is made of, the last ones.
    Returns: C [count, K]; R [rows, K].
    """
    left = np.array(block.T, order="C")
    coefficients = basis.taken_out(left, near)
    size = float(np.linalg.norm(block))
    if near < basis.count or np.any(lengths(left.T) < _MUCH * lengths(block)):
        for _ in range(2):
            found = basis.taken_out(left, basis.count)
            coefficients += found
            if np.linalg.norm(found) <= _LARGE * size:
                break
    return coefficients.T, left.T


def directions(
    basis: Columns, left: Array, sizes: Array, count: int, rng: np.random.Generator
) -> Array:
    """So many orthonormal columns, orthogonal to the basis, whose span has what is left of a block.

    Random ones fill up where there is less: a space that products do not leave is left by chance.

    Args: left: R of `rest`; sizes: how long the block's columns were.
    """
    if left.shape[1] == count and sizes.all():
        whole = _orthonormal(left / sizes)
        if whole is not None:
            return whole
    known = sizes > 0
    found = np.linalg.svd(left[:, known] / sizes[known], full_matrices=False)[0]
    for _ in range(2):  # small parts of a block may lie in the basis, as far as rounding tells
        found -= basis.all @ (basis.all.T @ found)
    found = found[:, lengths(found) > _MUCH]
    return filled(basis.all, found[:, :count], count, rng)


def _orthonormal(block: Array) -> Array | None:
    """Orthonormal columns that span those of a block; None where they are close to dependent."""
    if block.shape[1] <= _FEW:
        found, factor = np.linalg.qr(block)
        return found if np.abs(np.diag(factor)).min(initial=1) > _WELL else None
    for least in (_WELL, 0):
        triangle = cholesky(block.T @ block)
        if triangle is None or np.diag(triangle).min(initial=1) <= least:
            return None
        block = block @ np.linalg.inv(triangle).T
    return block
