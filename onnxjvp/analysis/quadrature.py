"""uᵀ log(I + A) u by Lanczos quadrature, for many vectors u at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxjvp.analysis.products import Products
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: what is left of a vector that has nothing new, relative to what it was made of
_NOTHING = 1e-12
_STEPS = 300


def log_squares(A: Products, starts: Array, tolerance: float) -> tuple[Array, Array]:
    """uᵀ log(I + JᵀJ) u for every column u, and how far off each may be.

    Golub–Kahan bidiagonalisation from u: J V = U B, so that BᵀB is the Lanczos matrix of JᵀJ. Its
    Gauss rule is too large and the Gauss–Radau rule with a node at 0, from B with one column more,
    too small, since log(1 + t) has derivatives of alternating signs: they bracket the truth.

    Args:
      starts: [columns of J, K].
      tolerance: stop where the bracket is narrower than that, relative to the value, or after 300
        steps.
    Source: Golub & Meurant 2010, chapters 6 and 7; Ubaru, Chen & Saad 2017.
    """
    sizes = np.linalg.norm(starts, axis=0)
    V, U = starts / sizes, np.zeros((A.shape[0], starts.shape[1]))
    values, widths = np.zeros(len(sizes)), np.zeros(len(sizes))
    going = np.arange(len(sizes))
    diagonal = np.zeros((len(sizes), 0))
    above = np.zeros((len(sizes), 0))
    looks = _looks()
    look = next(looks)
    for step in range(1, _STEPS + 1):
        W = A.push(V) - (above[going, -1] if step > 1 else 0.0) * U
        alpha = np.linalg.norm(W, axis=0)
        U = _over(W, alpha)
        Z = A.pull(U) - alpha * V
        beta = np.linalg.norm(Z, axis=0)
        beta[beta <= max(_NOTHING, A.eps) * alpha] = 0.0
        V = _over(Z, beta)
        diagonal, above = _with(diagonal, going, alpha), _with(above, going, beta)
        ended = (beta == 0) | (alpha == 0)
        if step < look and not ended.any():
            continue
        if step >= look:
            look = next(looks)
        high = _rule(diagonal[going], above[going, :-1])
        low = _rule(diagonal[going], above[going])
        values[going] = (high + low) / 2 * sizes[going] ** 2
        widths[going] = np.abs(high - low) / 2 * sizes[going] ** 2
        left = ~ended & (widths[going] > tolerance * np.abs(values[going]))
        going, V, U = going[left], V[:, left], U[:, left]
        if not len(going):
            return values, widths
    return values, widths


def _rule(diagonal: Array, above: Array) -> Array:
    """Σ weight · log(1 + σ²) of upper bidiagonal matrices [K, steps, steps or one more]."""
    count, rows = diagonal.shape
    columns = above.shape[1] + 1
    B = np.zeros((count, rows, columns))
    B[:, np.arange(rows), np.arange(rows)] = diagonal
    B[:, np.arange(columns - 1), np.arange(1, columns)] = above
    _, s, Vt = np.linalg.svd(B, full_matrices=False)
    return np.asarray((Vt[:, :, 0] ** 2 * np.log1p(s**2)).sum(1))


def log_symmetric(A: Products, starts: Array, tolerance: float) -> tuple[Array, Array]:
    """uᵀ log(I + A) u of a symmetric A, as `log_squares`; off by about the last change.

    Raises: UsageError where I + A is not positive definite.
    """
    sizes = np.linalg.norm(starts, axis=0)
    V, last = starts / sizes, np.zeros_like(starts)
    values, widths = np.full(len(sizes), np.inf), np.full(len(sizes), np.inf)
    going = np.arange(len(sizes))
    diagonal = np.zeros((len(sizes), 0))
    beside = np.zeros((len(sizes), 0))
    looks = _looks()
    look = next(looks)
    for step in range(1, _STEPS + 1):
        beta = beside[going, -1] if step > 1 else np.zeros(len(going))
        W = A.push(V) - beta * last
        alpha = np.sum(V * W, axis=0)
        W -= alpha * V
        size = np.linalg.norm(W, axis=0)
        size[size <= max(_NOTHING, A.eps) * (np.abs(alpha) + beta)] = 0.0
        last, V = V, _over(W, size)
        diagonal, beside = _with(diagonal, going, alpha), _with(beside, going, size)
        ended = size == 0
        if step < look and not ended.any():
            continue
        if step >= look:
            look = next(looks)
        found = _symmetric_rule(diagonal[going], beside[going, :-1]) * sizes[going] ** 2
        widths[going] = np.where(ended, 0.0, np.abs(found - values[going]))
        values[going] = found
        left = widths[going] > tolerance * np.abs(found)
        going, V, last = going[left], V[:, left], last[:, left]
        if not len(going):
            return values, widths
    return values, widths


def _symmetric_rule(diagonal: Array, beside: Array) -> Array:
    count, size = diagonal.shape
    T = np.zeros((count, size, size))
    at = np.arange(size)
    T[:, at, at] = diagonal
    T[:, at[:-1], at[1:]] = T[:, at[1:], at[:-1]] = beside
    values, vectors = np.linalg.eigh(T)
    if values.min() <= -1:
        raise UsageError(
            f"J has an eigenvalue of {values.min():.4g} or less, so I + J is not positive definite "
            "and log det(I + J) not real; take A = JᵀJ"
        )
    return np.asarray((vectors[:, 0] ** 2 * np.log1p(values)).sum(1))


def _looks() -> Iterator[int]:
    look = 3
    while True:
        yield look
        look = max(look + 2, int(look * 1.4))


def _over(columns: Array, sizes: Array) -> Array:
    return np.asarray(columns / np.where(sizes == 0, 1.0, sizes))


def _with(rows: Array, at: Array, values: Array) -> Array:
    """One column more, which some rows have."""
    column = np.zeros((len(rows), 1))
    column[at, 0] = values
    return np.hstack([rows, column])
