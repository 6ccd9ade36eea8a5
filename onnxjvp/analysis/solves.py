"""A y = u for many right sides at once, by products alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxjvp.analysis.products import Products
from onnxjvp.runtime import Array


@dataclass(frozen=True)
class Solved:
    """Solutions as columns.

    Attributes:
      open: ‖A y − u‖ / ‖u‖ of every one.
      singular: an upper bound of the smallest singular value of A over its largest, where a
        residual came up that Aᵀ all but annuls: A has no solution there, to rounding.
    """

    solutions: Array
    open: Array
    singular: float | None


def solve(A: Products, right: Array, tolerance: float, rounding: float, steps: int) -> Solved:
    """Least-squares solutions of A y = u by LSQR, a step of all columns in one call each way.

    Args:
      right: [rows, K].
      tolerance: stop where ‖A y − u‖ ≤ tolerance · ‖u‖.
      rounding: of products, over the largest singular value: A is singular to rounding where
        ‖Aᵀ r‖ ≤ 4 · rounding · ‖A‖ · ‖r‖ with r = u − A y.
    Source: Paige & Saunders 1982.
    """
    count = right.shape[1]
    x, size = np.zeros((A.shape[1], count)), np.linalg.norm(right, axis=0)
    left_open, singular = np.ones(count), None
    going = np.arange(count)
    beta = size.copy()
    U = right / beta
    V = A.pull(U)
    alpha = np.linalg.norm(V, axis=0)
    V = V / _nonzero(alpha)
    W, phi, rho, squares = V.copy(), beta.copy(), alpha.copy(), np.zeros(count)
    for _ in range(steps):
        U = A.push(V) - alpha * U
        beta = np.linalg.norm(U, axis=0)
        U /= _nonzero(beta)
        squares += alpha**2 + beta**2
        V = A.pull(U) - beta * V
        alpha = np.linalg.norm(V, axis=0)
        V /= _nonzero(alpha)
        turned = np.hypot(rho, beta)
        c, s = rho / _nonzero(turned), beta / _nonzero(turned)
        theta, rho_next = s * alpha, -c * alpha
        x[:, going] += (c * phi / _nonzero(turned)) * W
        W = V - (theta / _nonzero(turned)) * W
        phi, rho = s * phi, rho_next
        left_open[going] = phi / size[going]
        # ‖Aᵀ r‖ / ‖r‖ is that of a unit vector, so some singular value is no larger
        least = alpha * np.abs(c) / np.sqrt(squares)
        done = left_open[going] <= tolerance
        annulled = ~done & (least <= 4 * rounding)
        if annulled.any():
            found = float(least[annulled].min())
            singular = found if singular is None else min(singular, found)
        kept = ~(done | annulled)
        if not kept.any() or A.spent:
            break
        going, U, V, W = going[kept], U[:, kept], V[:, kept], W[:, kept]
        alpha, phi, rho, squares = alpha[kept], phi[kept], rho[kept], squares[kept]
    return Solved(x, left_open, singular)


def _nonzero(values: Array) -> Array:
    return np.where(values == 0, 1.0, values)
