"""The kernel as an operator: products, eigenvalues, condition, regression."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from exact import data, heads_data, kernel, two_heads
from helpers import MODELS, TOLERANCES, Array, Values, assert_close, build, weights

from onnxjvp.errors import (
    InputError,
    MissingDependencyError,
    NotConvergedError,
    UnsupportedOpError,
    UsageError,
)
from onnxjvp.kernels import blocks, solvers
from onnxjvp.kernels.linear import NTKOperator
from onnxjvp.kernels.operator import ntk_operator
from onnxjvp.kernels.problem import problem
from onnxjvp.runtime import Session

EXACT, SINGLE = TOLERANCES["float64"], TOLERANCES["float32"]


def matrix(asked: Any, x1: Values, x2: Values) -> Array:
    """[N1 · K, N2 · K], sample by sample."""
    theta = kernel(asked, x1, x2)
    count = theta.shape[0]
    return theta.transpose(1, 0, 3, 2).reshape(theta.shape[1] * count, -1)


@dataclass(frozen=True)
class Heads:
    """5 samples of the network of two heads, in float64: a kernel of 35 x 35."""

    x: Values
    new: Values
    operator: NTKOperator
    theta: Array
    across: Array


@pytest.fixture(scope="module")
def heads() -> Heads:
    model, outputs = two_heads("float64"), ["y", "z"]
    x, new = heads_data(5, "float64"), heads_data(3, "float64", seed=1)
    asked = problem(model, outputs=outputs)
    operator = ntk_operator(model, x, outputs=outputs)
    return Heads(x, new, operator, matrix(asked, x, x), matrix(asked, new, x))


def columns(size: int, count: int = 3) -> Array:
    return np.random.default_rng(0).standard_normal((size, count))


# -- products ----------------------------------------------------------------------------------


def test_products(heads: Heads) -> None:
    operator, V = heads.operator, columns(35)
    assert operator.shape == (35, 35) and operator.dtype == np.float64
    assert (operator.samples, operator.count) == (5, 7)
    assert operator.eps == np.finfo(np.float64).eps
    for found in (operator.matmat(V), operator.rmatmat(V), operator.T @ V):
        assert_close(found, heads.theta @ V, EXACT, "several vectors")
    assert_close(operator @ V[:, 0], heads.theta @ V[:, 0], EXACT, "one vector")
    assert_close(operator.rmatvec(V[:, 0]), heads.theta @ V[:, 0], EXACT, "from the left")
    mixed = V[:, 0] + 1j * V[:, 1]
    assert np.allclose(operator @ mixed, heads.theta @ mixed)
    assert operator.matmat(np.zeros((35, 0))).shape == (35, 0)
    assert not (operator @ np.zeros(35)).any()
    values = Session(two_heads("float64")).run(heads.x, ["y", "z"])
    flat = np.concatenate([v.reshape(5, -1) for v in values.values()], axis=1)
    assert_close(operator.values, flat, EXACT, "f(x)")


@pytest.mark.parametrize("options", [{"block": 2}, {"block": 2, "memory": 0}, {"memory": 0}])
def test_samples_in_blocks(heads: Heads, options: dict[str, int]) -> None:
    V = columns(35)
    operator = ntk_operator(two_heads("float64"), heads.x, outputs=["y", "z"], **options)
    for _ in range(2):  # from what is held, too
        assert_close(operator @ V, heads.theta @ V, EXACT, "several vectors")
        assert_close(operator @ V[:, 0], heads.theta @ V[:, 0], EXACT, "one vector")
    alpha = V[:, 0].reshape(5, 7)
    assert_close(
        operator.predict(heads.new, alpha).reshape(-1), heads.across @ V[:, 0], EXACT, "predicted"
    )
    assert_close(operator @ V[:, 1], heads.theta @ V[:, 1], EXACT, "after predicting")


@pytest.mark.parametrize("logit", [3, "sum"])
def test_combinations_of_outputs(heads: Heads, logit: int | str) -> None:
    model = two_heads("float64")
    operator = ntk_operator(model, heads.x, outputs=["y", "z"], logit=logit)
    theta = matrix(problem(model, outputs=["y", "z"], logit=logit), heads.x, heads.x)
    assert_close(operator @ np.eye(5), theta, EXACT, str(logit))
    rows = weights(2, 7)
    asked = problem(model, outputs=["y", "z"], rows=rows)
    operator = ntk_operator(model, heads.x, outputs=["y", "z"], rows=rows)
    assert_close(operator @ np.eye(10), matrix(asked, heads.x, heads.x), EXACT, "rows")


def test_a_model_of_a_fixed_number_of_samples() -> None:
    """4 at once: of 5 samples the last three are there to pad."""
    path = str(MODELS / "digits_rnn.onnx")
    x, new = data(path, 5), data(path, 3, seed=1)
    operator, asked, V = ntk_operator(path, x, logit=2), problem(path, logit=2), columns(5)
    theta = matrix(asked, x, x)
    assert_close(operator @ V, theta @ V, SINGLE, "several vectors")
    assert_close(operator @ V[:, 0], theta @ V[:, 0], SINGLE, "one vector")
    found = operator.predict(new, V[:, 0])
    assert_close(found.reshape(-1), matrix(asked, new, x) @ V[:, 0], SINGLE, "predicted")


def test_vectors_of_any_size_survive() -> None:
    """Numbers that float32 cannot hold, nor their squares."""
    operator = ntk_operator(two_heads(), heads_data(3), outputs=["y"])
    v = columns(9, 1)[:, 0]
    for scale in (1e-200, 1e200):
        assert_close(operator @ (scale * v) / scale, operator @ v, SINGLE, str(scale))


def test_one_vector_at_a_time(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    original = blocks.linearize

    def refuses(*args: Any, **options: Any) -> Any:
        if options["directions"] is not None:
            raise UnsupportedOpError("one at a time")
        return original(*args, **options)

    monkeypatch.setattr(blocks, "linearize", refuses)
    operator = ntk_operator(two_heads("float64"), heads.x, outputs=["y", "z"])
    V = columns(35)
    assert operator.single is None
    assert_close(operator @ V, heads.theta @ V, EXACT, "several vectors")
    assert operator.single == "one at a time"


# -- eigenvalues -------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [64, 1])
def test_the_largest_eigenvalues(heads: Heads, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the kernel as a whole, and by SciPy's Lanczos method."""
    monkeypatch.setattr(solvers, "_SMALL", small)
    expected = np.linalg.eigvalsh(heads.theta)[::-1]
    found = heads.operator.top(4).require()
    assert_close(found.values, expected[:4], EXACT, "values")
    assert np.allclose(found.vectors.T @ found.vectors, np.eye(4))
    residual = heads.theta @ found.vectors - found.vectors * found.values
    assert np.abs(residual).max() < 1e-8 * expected[0]
    assert len(heads.operator.top(35).values) == 35
    with pytest.raises(UsageError, match="give 1 to 35"):
        heads.operator.top(36)


class Matrix:
    """A kernel that is a matrix, rounded as float32 is."""

    def __init__(self, values: Array, noise: float = 0.0) -> None:
        rng = np.random.default_rng(0)
        Q = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
        self.theta = (Q * values) @ Q.T + noise * rng.standard_normal((len(values), len(values)))
        self.shape = (len(values), len(values))
        self.eps = max(noise, float(np.finfo(np.float64).eps))

    def matvec(self, x: Array) -> Array:
        return np.asarray(self.theta @ x)

    def matmat(self, X: Array) -> Array:
        return np.asarray(self.theta @ X)


def test_a_condition_number() -> None:
    found = solvers.condition(Matrix(np.geomspace(1, 1e4, 50)), 300, 100)
    assert found.converged
    assert found.number == pytest.approx(1e4, rel=1e-6)
    assert (found.smallest, found.largest) == (pytest.approx(1), pytest.approx(1e4))


def test_a_condition_number_that_is_only_a_bound() -> None:
    noisy = solvers.condition(Matrix(np.geomspace(1e-9, 1, 50), noise=1e-7), 300, 100)
    assert "rounding" in noisy.reason and 1e4 < noisy.number < 1e8
    assert 1e-8 < noisy.noise < 1e-4
    hurried = solvers.condition(Matrix(np.geomspace(1, 1e6, 400)), 40, 1000)
    assert "40 products" in hurried.reason and 1 < hurried.number <= 1.001e6


def test_more_outputs_than_parameters_are_singular(heads: Heads) -> None:
    found = heads.operator.condition()
    assert found.converged == (np.linalg.cond(heads.theta) < 1e12)
    model = build("y = MatMul(x, W)", {"x": ("N", 2)}, {"W": weights(2, 1)}, dtype="float32")
    x = {"x": np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)}
    found = ntk_operator(model, x).condition()
    assert found.number == np.inf and "3 x 3, and there are 2 parameters" in found.reason


# -- regression --------------------------------------------------------------------------------


def test_ridge_regression_and_prediction(heads: Heads) -> None:
    y = columns(35, 1).reshape(5, 7)
    ridge = 1e-2 * float(np.linalg.eigvalsh(heads.theta)[-1])
    found = heads.operator.solve(y, ridge=ridge, tol=1e-10).require()
    alpha = np.linalg.solve(heads.theta + ridge * np.eye(35), y.reshape(-1))
    assert found.alpha.shape == (5, 7)
    assert_close(found.alpha.reshape(-1), alpha, 1e-8, "alpha")
    assert found.residual <= 1e-10
    predicted = heads.operator.predict(heads.new, found.alpha)
    assert_close(predicted.reshape(-1), heads.across @ alpha, 1e-8, "predicted")
    assert heads.operator.solve(0 * y, ridge=ridge).residual == 0


def test_a_system_that_is_not_solved_says_so() -> None:
    kernel_ = Matrix(np.geomspace(1e-9, 1, 50), noise=1e-7)
    y = columns(50, 1)[:, 0]
    exact = solvers.solve(kernel_, y, 1e-2, None, 1000)
    assert exact.converged and exact.residual < 1e-4
    stalled = solvers.solve(kernel_, y, 1e-6, 1e-12, 1000)
    assert "larger ridge" in stalled.reason
    with pytest.raises(NotConvergedError, match="residual"):
        stalled.require()
    hurried = solvers.solve(Matrix(np.geomspace(1e-3, 1, 50)), y, 0.0, 1e-10, 5)
    assert "products are spent" in hurried.reason
    rest = Matrix(np.geomspace(1e-3, 1, 50)).theta @ hurried.alpha - y
    assert hurried.residual == pytest.approx(np.linalg.norm(rest) / np.linalg.norm(y))


# -- refusals ----------------------------------------------------------------------------------


def test_what_is_refused(heads: Heads, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = heads.operator
    with pytest.raises(UsageError, match="y has the shape"):
        operator.solve(np.ones((7, 5)))
    with pytest.raises(UsageError, match="ridge"):
        operator.solve(np.ones((5, 7)), ridge=-1)
    with pytest.raises(UsageError, match="alpha has 3"):
        operator.predict(heads.new, np.ones(3))
    with pytest.raises(InputError, match="missing"):
        ntk_operator(two_heads("float64"), {"x": heads.x["x"]}, outputs=["y"])
    with pytest.raises(UsageError, match="no samples"):
        ntk_operator(two_heads("float64"), heads_data(0, "float64"), outputs=["y"])
    with pytest.raises(UsageError, match="block"):
        ntk_operator(two_heads("float64"), heads.x, outputs=["y"], block=0)
    mixing = build(
        "z = MatMul(x, W)\nm = ReduceMean(z, a)\ny = Sub(z, m)",
        {"x": (3, 2)},
        {"W": weights(2, 2), "a": np.array([0])},
    )
    with pytest.raises(UnsupportedOpError, match="samples beside it"):
        ntk_operator(mixing, {"x": weights(3, 2)})
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    monkeypatch.delitem(sys.modules, "onnxjvp.kernels.linear")
    monkeypatch.delitem(sys.modules, "onnxjvp.kernels.solvers")
    with pytest.raises(MissingDependencyError, match="analysis"):
        ntk_operator(two_heads("float64"), heads.x, outputs=["y"])
