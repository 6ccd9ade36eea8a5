"""Krylov spaces from fewer vectors than values: equal values, restarts, looks."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import Array
from matrices import EIGEN, SINGULAR, with_eigenvalues, with_singular_values

from onnxjvp.analysis import bases
from onnxjvp.analysis.bases import Columns, Looks, directions, lengths, narrow, rest
from onnxjvp.analysis.found import Found
from onnxjvp.analysis.products import Products
from onnxjvp.analysis.spectra import solve

TAIL = 0.9 ** np.arange(90)
MORE_SINGULAR = {
    "twelve equal": with_singular_values([9, 8, 7, *[5.0] * 12, *(3 * TAIL)], 120, 110),
    "pairs": with_singular_values(np.repeat(5 * TAIL[:45], 2), 110, 100),
    "nearly equal": with_singular_values([*(5 + 1e-4 * np.arange(12)), *(3 * TAIL)], 120, 110),
}
MORE_EIGEN = {
    "nine equal": with_eigenvalues([3, -3, *[2.0] * 9, *(1.5 * TAIL)]),
    "equal pairs": with_eigenvalues([3, *[2 + 1j] * 4, *(1.5 * TAIL[:60])]),
}


class Costly:
    """A matrix of which a direction more costs as much as a call: two vectors are a block."""

    overhead = 0.5

    def __init__(self, matrix: Array) -> None:
        self.matrix = matrix
        self.shape = matrix.shape
        self.widths: set[int] = set()

    def matmat(self, X: Array) -> Array:
        self.widths.add(X.shape[1])
        return np.asarray(self.matrix @ X)

    def rmatmat(self, X: Array) -> Array:
        return np.asarray(self.matrix.T @ X)


def solved(operator: Costly, k: int, kind: str, tol: float | None = None) -> Found:
    rng = np.random.default_rng(0)
    return solve(operator, k, kind, "krylov", tol, 50_000, rng)[2]


@pytest.mark.parametrize("name", [*SINGULAR, *MORE_SINGULAR])
def test_singular_values(name: str) -> None:
    matrix = {**SINGULAR, **MORE_SINGULAR}[name]
    expected = np.linalg.svd(matrix, compute_uv=False)
    for k in (1, 4, 20):
        operator = Costly(matrix)
        found = solved(operator, k, "singular")
        assert found.converged, found.reason
        count = min(k, *matrix.shape)
        assert np.abs(found.values - expected[:count]).max() <= 1e-5 * (expected[0] or 1)
        assert found.left is not None
        for vectors in (found.left, found.right):
            np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-10)
        off = [matrix @ found.right - found.left * found.values]
        off += [matrix.T @ found.left - found.right * found.values]
        for each in off:
            assert np.all(lengths(each) <= found.residuals * 1.001 + 1e-12)
        assert min(operator.widths) <= 2


@pytest.mark.parametrize("name", [*EIGEN, *MORE_EIGEN])
def test_eigenvalues(name: str) -> None:
    matrix = {**EIGEN, **MORE_EIGEN}[name]
    expected = np.linalg.eigvals(matrix)
    moduli = np.sort(np.abs(expected))[::-1]
    for k in (1, 5, 16):
        found = solved(Costly(matrix), k, "eigen")
        assert found.converged, found.reason
        count = len(found.values)
        assert count in (min(k, len(matrix)), min(k, len(matrix)) + 1)
        assert found.conditions is not None
        allowed = 2e-5 * found.conditions.max() * (moduli[0] or 1)
        nearest = np.abs(found.values[:, None] - expected).min(axis=1)
        assert nearest.max() <= allowed
        if name != "turning":  # all of one modulus
            assert np.abs(np.abs(found.values) - moduli[:count]).max() <= allowed
        off = lengths(matrix @ found.right - found.right * found.values)
        assert np.all(off <= found.residuals * 1.001 + 1e-12)


def test_more_equal_values_than_vectors_are_all_found() -> None:
    """Two vectors see two of twelve equal values; what is below them would take their places."""
    operator = Costly(MORE_SINGULAR["twelve equal"])
    found = solved(operator, 18, "singular")
    np.testing.assert_allclose(found.values, [9, 8, 7, *[5.0] * 12, *(3 * TAIL[:3])], rtol=1e-6)
    assert max(operator.widths) > 12


def test_equal_values_are_found_where_rounding_ends_the_search() -> None:
    class Rounded(Costly):
        eps = float(np.finfo(np.float32).eps)

        def matmat(self, X: Array) -> Array:
            return np.asarray(self.matrix.astype(np.float32) @ X.astype(np.float32), float)

        def rmatmat(self, X: Array) -> Array:
            return np.asarray(self.matrix.T.astype(np.float32) @ X.astype(np.float32), float)

    found = solved(Rounded(MORE_SINGULAR["twelve equal"]), 18, "singular", 1e-9)
    assert "products are exact to" in found.reason
    np.testing.assert_allclose(found.values[3:15], 5, rtol=1e-5)
    assert found.values[15] < 3.1


@pytest.mark.parametrize("seed", range(4))
def test_few_distinct_values_and_many_zeros(seed: int) -> None:
    """Products soon lie in what is there already, but for a little that must not get lost."""
    values = np.round(4 * np.random.default_rng(seed).random(60))
    found = solved(Costly(with_singular_values(values, 70, 60)), 20, "singular", 1e-10)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.values, np.sort(values)[::-1][:20], atol=1e-8)


def test_restarts_keep_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "_LEAST", 60)
    values = 1 + np.arange(400) / 400
    found = solved(Costly(with_singular_values(values, 400, 400)), 5, "singular", 1e-8)
    assert found.converged, found.reason
    np.testing.assert_allclose(found.values, values[::-1][:5], rtol=1e-9)
    sizes = np.linspace(1, 1.4, 300)
    matrix = with_eigenvalues(sizes * np.where(np.arange(300) % 2, 1, -1), normal=False)
    found = solved(Costly(matrix), 4, "eigen", 1e-6)
    assert found.converged, found.reason
    np.testing.assert_allclose(np.abs(found.values), sizes[::-1][:4], rtol=1e-3)


def test_blocks_are_as_wide_as_calls_are_slow() -> None:
    matrix = np.eye(200)

    def width(overhead: float, k: int) -> int:
        operator = Costly(matrix)
        operator.overhead = overhead
        return narrow(Products(operator), k, 17.0)

    assert [width(overhead, 50) for overhead in (0, 0.7, 10, 1e4, np.inf)] == [2, 3, 13, 53, 53]
    assert [width(overhead, 1) for overhead in (0, 0.7, 10)] == [1, 3, 4]
    assert width(np.inf, 500) == 200
    assert Products(Costly(matrix)).transposed().overhead == Costly.overhead


def test_a_block_is_split_to_rounding() -> None:
    """Whatever it holds: little beside the basis, nothing, or much that is far back in it."""
    rng = np.random.default_rng(0)
    basis = Columns(60, 20)
    basis.add(np.linalg.qr(rng.standard_normal((60, 12)))[0])
    V = basis.all.copy()
    outside = rng.standard_normal((60, 3))
    outside -= V @ (V.T @ outside)
    for size in (1.0, 1e-4, 1e-8, 0.0):
        block = V @ rng.standard_normal((12, 3)) + size * outside
        made, left = rest(basis, block, 2)
        np.testing.assert_allclose(V @ made + left, block, atol=1e-13)
        new = directions(basis, left, lengths(block), 3, rng)
        both = np.hstack([V, new])
        np.testing.assert_allclose(both.T @ both, np.eye(15), atol=1e-12)
        np.testing.assert_allclose(new @ (new.T @ left), left, atol=1e-9 * size + 1e-13)


def test_looks_follow_the_residuals() -> None:
    looks = Looks(10)
    looks.seen(10, 1.0, 1e-4)
    assert looks.next == 13
    looks.seen(100, 1e-3, 1e-4)  # a digit more in thirty vectors
    assert looks.next == 130
    looks.seen(130, 2e-4, 1e-4)
    assert 160 <= looks.next <= 166
