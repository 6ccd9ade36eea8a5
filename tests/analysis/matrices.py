"""Matrices whose spectra are known, and models that they are the Jacobians of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from helpers import Array, build
from onnx import ModelProto


def orthogonal(rng: np.random.Generator, size: int) -> Array:
    return np.asarray(np.linalg.qr(rng.standard_normal((size, size)))[0])


def with_singular_values(values: Sequence[float] | Array, rows: int, columns: int) -> Array:
    rng = np.random.default_rng(0)
    middle = np.zeros((rows, columns))
    middle[np.arange(len(values)), np.arange(len(values))] = values
    return np.asarray(orthogonal(rng, rows) @ middle @ orthogonal(rng, columns))


def with_eigenvalues(values: Sequence[complex] | Array, *, normal: bool = True) -> Array:
    """A complex one stands for a pair."""
    blocks = []
    for value in np.asarray(values, complex):
        a, b = float(value.real), float(value.imag)
        blocks.append(np.array([[a, b], [-b, a]] if b else [[a]]))
    size = sum(len(block) for block in blocks)
    middle, at = np.zeros((size, size)), 0
    for block in blocks:
        middle[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    rng = np.random.default_rng(1)
    Q = orthogonal(rng, size)
    if not normal:
        Q = np.eye(size) + 0.5 * rng.standard_normal((size, size)) / np.sqrt(size)
    made = np.asarray(Q @ middle @ np.linalg.inv(Q))
    return (made + made.T) / 2 if normal and not np.iscomplex(values).any() else made


DECAY = 0.8 ** np.arange(60)
SINGULAR = {
    "decaying": with_singular_values(DECAY, 80, 60),
    "wide": with_singular_values(DECAY[:40], 40, 90),
    "clustered": with_singular_values([*(1 + 1e-6 * np.arange(6)), *(DECAY[:50] / 2)], 60, 60),
    "repeated": with_singular_values([5.0] * 7 + [1.0] * 40, 50, 60),
    "all equal": np.eye(30),
    "rank 2": with_singular_values([3.0, 2.0], 40, 30),
    "zero": np.zeros((20, 30)),
    "a row": with_singular_values([2.0], 1, 30),
    "a number": np.array([[-3.0]]),
}
TAIL = list(0.5 * DECAY)
EIGEN = {
    "real": with_eigenvalues([3, -2.5, 2, 1.5, *TAIL]),
    "complex": with_eigenvalues([3 + 1j, 2 - 2j, 1.5, 0.5 + 0.9j, *TAIL]),
    "opposite signs": with_eigenvalues([3, -3, 2, -2, 1, *TAIL]),
    "repeated": with_eigenvalues([2, 2, 2, 1, 1, *TAIL]),
    "clustered": with_eigenvalues([*(2 + 1e-6 * np.arange(4)), *TAIL]),
    "not normal": with_eigenvalues([3 + 1j, 2 - 2j, 1, *TAIL], normal=False),
    "all equal": np.eye(25),
    "zero": np.zeros((25, 25)),
    "rank 1": with_eigenvalues([2, *([0] * 20)]),
    "turning": with_eigenvalues(np.exp(1j * np.linspace(0.2, 3, 10))),
    "a number": np.array([[-3.0]]),
}


def model_of(matrix: Array, dtype: str = "float64") -> tuple[ModelProto, dict[str, Array]]:
    """A model whose Jacobian is the matrix, at any point; and a point."""
    columns = matrix.shape[1]
    model = build("y = MatMul(A, x)", {"x": (columns, 1)}, {"A": matrix}, dtype=dtype)
    return model, {"x": np.ones((columns, 1), dtype)}
