"""Jacobians as operators of SciPy's."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from helpers import MODELS, TOLERANCES, Array, assert_close, build, weights
from networks import (
    NETS,
    by_differences,
    parameter_as_input,
    point,
    relu_net,
    smooth_net,
    trained_point,
)
from scipy.sparse.linalg import LinearOperator, svds

import onnxjvp
from onnxjvp import jacobian_operator
from onnxjvp.analysis import maps
from onnxjvp.errors import InputError, MissingDependencyError, UnsupportedOpError, UsageError

EXACT = TOLERANCES["float64"]


def dense(operator: LinearOperator) -> Array:
    return np.asarray(operator @ np.eye(operator.shape[1]))


def test_columns_and_rows_are_in_the_order_asked_for() -> None:
    model, x = relu_net(), point("relu")
    operator = jacobian_operator(model, x, ["c", "x"], ["z", "y"])
    blocks = [
        [by_differences(model, x, v, y).reshape(6, -1) for v in ("c", "x")] for y in ("z", "y")
    ]
    assert operator.shape == (12, 12)
    assert operator.dtype == np.float64
    assert [(t.name, t.shape) for t in operator.variables] == [("c", (2, 2)), ("x", (2, 4))]
    assert_close(dense(operator), np.block(blocks), 1e-8, "J")


@pytest.mark.parametrize("net", NETS)
def test_every_product_is_that_of_one_matrix(net: str) -> None:
    operator = jacobian_operator(NETS[net](), point(net))
    matrix = dense(operator)
    rng = np.random.default_rng(0)
    right, left = (rng.standard_normal((n, 5)) for n in operator.shape[::-1])
    assert_close(operator.matmat(right), matrix @ right, EXACT, "matmat")
    assert_close(operator.rmatmat(left), matrix.T @ left, EXACT, "rmatmat")
    for i in range(5):
        assert_close(operator.matvec(right[:, i]), matrix @ right[:, i], EXACT, "matvec")
        assert_close(operator.rmatvec(left[:, i]), matrix.T @ left[:, i], EXACT, "rmatvec")
    assert_close(operator.T @ left, matrix.T @ left, EXACT, "T")
    assert_close(operator.matvec(right[:, :1]), matrix @ right[:, :1], EXACT, "a column")
    assert operator.matmat(np.zeros((operator.shape[1], 0))).shape == (operator.shape[0], 0)


@pytest.mark.parametrize("net", NETS)
def test_the_transpose_is_the_adjoint(net: str) -> None:
    operator = jacobian_operator(NETS[net](), point(net), ["W*"])
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal(operator.shape[1]), rng.standard_normal(operator.shape[0])
    left, right = v @ (operator @ u), (operator.T @ v) @ u
    assert abs(left - right) <= EXACT * np.linalg.norm(v) * np.linalg.norm(operator @ u)


def test_parameters_are_variables() -> None:
    model, x = relu_net(), point("relu")
    operator = jacobian_operator(model, x, ["params"], ["z"])
    names = [t.name for t in operator.variables]
    assert sorted(names) == ["W1", "W2", "W3", "b1", "b2"]
    columns = []
    for name in names:
        fed, value = parameter_as_input(model, name)
        columns.append(by_differences(fed, {**x, name: value}, name, "z").reshape(6, -1))
    assert_close(dense(operator), np.hstack(columns), 1e-8, "J")


def test_values_inside_are_variables() -> None:
    operator = jacobian_operator(relu_net(), point("relu"), ["a"], ["y"])
    assert operator.shape == (6, 16)
    assert_close(dense(operator), np.kron(np.eye(2), weights(8, 3).T), EXACT, "J")


def test_values_inside_whose_size_is_in_no_file() -> None:
    model = build(
        """
        n = Cast<to = 7>(x)
        k = NonZero(n)
        t = Cast<to = FLOAT>(k)
        h = Mul(t, s)
        w = Sin(h)
        y = ReduceSum(w)
        """,
        {"x": ("N",), "s": ()},
    )
    x = {"x": np.array([1.0, 0, 2]), "s": np.array(0.5)}
    operator = jacobian_operator(model, x, ["h"])
    assert operator.shape == (1, 2)
    assert_close(dense(operator), np.cos([[0.0, 1.0]]), EXACT, "J")


def test_what_no_output_depends_on_has_zeros() -> None:
    operator = jacobian_operator(relu_net(), point("relu"), outputs=["y"])
    np.testing.assert_array_equal(dense(operator)[:, 8:], 0)
    np.testing.assert_array_equal((operator.T @ np.eye(6))[8:], 0)


def test_f_of_x_comes_along() -> None:
    model, x = relu_net(), point("relu")
    operator = jacobian_operator(model, x)
    for name, value in maps.LinearizedSession(onnxjvp.linearize(model)).at(x).items():
        np.testing.assert_array_equal(operator.values[name], value)


def test_svd_of_a_trained_network() -> None:
    path = str(MODELS / "digits_cnn.onnx")
    operator = jacobian_operator(path, trained_point(path))
    _, found, _ = svds(operator, k=4, v0=np.ones(min(operator.shape)))
    _, wanted, _ = np.linalg.svd(dense(operator))
    assert_close(np.sort(found)[::-1], wanted[:4], TOLERANCES["float32"], "singular values")


def test_complex_vectors() -> None:
    operator = jacobian_operator(smooth_net(), point("smooth"))
    rng = np.random.default_rng(2)
    u = rng.standard_normal(8) + 1j * rng.standard_normal(8)
    got = operator @ u
    assert_close(got.real, operator @ u.real, EXACT, "real part")
    assert_close(got.imag, operator @ u.imag, EXACT, "imaginary part")


@pytest.mark.parametrize("size", [2.0**-100, 2.0**100])
def test_narrow_floats_hold_vectors_of_any_size(size: float) -> None:
    model = build("y = Mul(x, w)", {"x": (3,)}, {"w": np.array([1.0, 2.0, 3.0])}, dtype="float16")
    operator = jacobian_operator(model, {"x": np.ones(3, np.float16)})
    u = size * np.array([1.0, 0.5, -1.0])
    assert_close(operator @ u, u * [1, 2, 3], EXACT, "J u")
    assert_close(operator @ np.stack([u, 4 * u], 1), np.outer(u * [1, 2, 3], [1, 4]), EXACT, "J U")


@pytest.mark.parametrize("size", [1, 700])
def test_blocks_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    want = dense(jacobian_operator(smooth_net(), point("smooth")))
    monkeypatch.setattr(maps, "BLOCK_BYTES", size)
    operator = jacobian_operator(smooth_net(), point("smooth"))
    assert_close(dense(operator), want, EXACT, "J")
    assert operator.single is None


def test_what_refuses_many_directions_runs_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    linearize = maps.linearize

    def refusing(*args: Any, directions: Any, **options: Any) -> Any:
        if directions is not None:
            raise UnsupportedOpError("1 node(s) cannot run on K directions")
        return linearize(*args, directions=directions, **options)

    want = dense(jacobian_operator(smooth_net(), point("smooth")))
    monkeypatch.setattr(maps, "linearize", refusing)
    operator = jacobian_operator(smooth_net(), point("smooth"))
    assert_close(dense(operator), want, EXACT, "J")
    assert_close(np.asarray(operator.rmatmat(np.eye(6))).T, want, EXACT, "J")
    assert operator.single == "1 node(s) cannot run on K directions"


@pytest.mark.parametrize("blocks", [False, True])
def test_it_moves_to_another_point(blocks: bool) -> None:
    operator = jacobian_operator(relu_net(), point("relu"), blocks=blocks)
    dense(operator)
    rng = np.random.default_rng(3)
    x = {"x": rng.standard_normal((3, 4)), "c": rng.standard_normal((3, 2))}
    operator.at(x)
    assert operator.shape == (18, 18)
    assert_close(dense(operator), dense(jacobian_operator(relu_net(), x)), EXACT, "J")
    assert operator.used == {"jvp": 12 + 18, "vjp": 0, "calls": 2}
    with pytest.raises(InputError):
        operator.at({"x": x["x"]})


def test_refusals() -> None:
    model, x = relu_net(), point("relu")
    with pytest.raises(InputError, match=r"input c: .* is missing"):
        jacobian_operator(model, {"x": x["x"]})
    with pytest.raises(UsageError, match="no output 'q'"):
        jacobian_operator(model, x, outputs=["q"])
    with pytest.raises(UsageError, match=r"without a derivative.*'y': it does not depend"):
        jacobian_operator(model, x, ["c"], ["z", "y"])
    assert jacobian_operator(model, x, ["c"]).excluded.keys() == {"y"}


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "onnxjvp.analysis.linear", raising=False)
    monkeypatch.setitem(sys.modules, "scipy.sparse.linalg", None)
    with pytest.raises(MissingDependencyError, match=r"onnxjvp\[analysis\]"):
        jacobian_operator(relu_net(), point("relu"))
