"""Largest singular values and eigenvalues, against dense NumPy in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MODELS, Array, build, weights
from matrices import EIGEN, SINGULAR, model_of, with_eigenvalues, with_singular_values
from networks import trained_operator
from scipy.sparse.linalg import aslinearoperator

import onnxjvp
from onnxjvp import NotConvergedError, Spectrum, dense_jacobian, spectrum
from onnxjvp.analysis import samples
from onnxjvp.analysis.found import Found
from onnxjvp.analysis.products import Products
from onnxjvp.analysis.spectra import METHODS, solve
from onnxjvp.errors import UsageError

#: float32's products of these small networks are exact to about 1e-6
NARROW = 3e-5
ITERATIVE = {kind: [m for m in methods if m != "eigsh"] for kind, methods in METHODS.items()}


def solved(
    matrix: Array, k: int, kind: str, method: str, tol: float | None = None, products: int = 50_000
) -> tuple[Products, Found]:
    rng = np.random.default_rng(0)
    A, _, found = solve(aslinearoperator(matrix), k, kind, method, tol, products, rng)
    return A, found


def worst(found: Array, expected: Array) -> float:
    """The largest distance between values, matched one to one, the nearest first."""
    left, most = list(expected), 0.0
    for value in found:
        at = int(np.argmin(np.abs(np.array(left) - value)))
        most = max(most, abs(left.pop(at) - value))
    return most


def by_modulus(values: Array) -> Array:
    return np.asarray(values[np.argsort(-np.abs(values), kind="stable")])


@pytest.mark.parametrize("method", METHODS["singular"])
@pytest.mark.parametrize("name", SINGULAR)
def test_singular_values(name: str, method: str) -> None:
    matrix = SINGULAR[name]
    expected = np.linalg.svd(matrix, compute_uv=False)
    for k in (1, 4):
        if (method == "svds" and k >= min(matrix.shape)) or (
            method == "lobpcg" and 5 * k > min(matrix.shape)
        ):
            continue
        A, found = solved(matrix, k, "singular", method)
        if method == "svds" and name in ("zero", "rank 2"):  # ARPACK's own limit
            continue
        assert found.converged, found.reason
        count = min(k, *matrix.shape)
        assert found.values.shape == (count,)
        assert np.abs(found.values - expected[:count]).max() <= 1e-5 * (expected[0] or 1)
        assert found.left is not None
        for vectors in (found.left, found.right):
            np.testing.assert_allclose(vectors.T @ vectors, np.eye(count), atol=1e-10)
        off = [matrix @ found.right - found.left * found.values]
        off += [matrix.T @ found.left - found.right * found.values]
        for each in off:
            assert np.all(np.linalg.norm(each, axis=0) <= found.residuals * 1.001 + 1e-12)
        assert np.all(found.residuals <= found.tolerance + found.rounding)
        assert A.used == A.forward + A.backward
        assert found.history[-1].products <= A.used


@pytest.mark.parametrize("method", ITERATIVE["eigen"])
@pytest.mark.parametrize("name", EIGEN)
def test_eigenvalues(name: str, method: str) -> None:
    matrix = EIGEN[name]
    n = len(matrix)
    expected = by_modulus(np.linalg.eigvals(matrix))
    if (name, method) == ("turning", "subspace"):  # no modulus is larger than another
        assert not solved(matrix, 2, "eigen", method, products=500)[1].converged
        return
    for k in (1, 2, 5):
        if method == "eigs" and (k > n - 3 or name in ("zero", "rank 1", "all equal")):
            continue
        _, found = solved(matrix, k, "eigen", method)
        assert found.converged, (k, found.reason)
        count = len(found.values)
        assert count in (min(k, n), min(k, n) + 1)
        largest = abs(expected[0]) or 1
        scale = found.conditions.max() if found.conditions is not None else 1
        assert worst(found.values, expected) <= scale * 2e-5 * largest
        if name != "turning":
            moduli = np.abs(expected[:count])
            assert np.abs(np.abs(found.values) - moduli).max() <= scale * 2e-5 * largest
        # pairs are whole: what is there is real together
        assert abs(np.sum(found.values).imag) <= 1e-9 * largest
        np.testing.assert_allclose(np.linalg.norm(found.right, axis=0), 1, atol=1e-9)
        off = np.linalg.norm(matrix @ found.right - found.right * found.values, axis=0)
        assert np.all(off <= found.residuals * 1.001 + 1e-12)


def test_symmetric_matrices_have_real_eigenvalues() -> None:
    for name in ("repeated", "clustered", "all equal"):
        for method in ("krylov", "subspace", "eigsh", "dense"):
            if (name, method) == ("all equal", "eigsh"):
                continue
            _, found = solved(EIGEN[name], 3, "eigen", method)
            assert not np.iscomplexobj(found.values), (name, method)
            assert found.conditions is not None
            assert found.conditions.max() <= 1 + 1e-6


def test_eigsh_asks_a_probe_first() -> None:
    with pytest.raises(UsageError, match="J is not symmetric"):
        solved(EIGEN["complex"], 2, "eigen", "eigsh")


def test_alg_2_as_printed_does_not_stop_on_a_complex_pair() -> None:
    """diag(R) are no eigenvalues, and ‖A V − V R‖ stays: what the corrected rule is for."""
    matrix = EIGEN["complex"]
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((len(matrix), 2)))[0]
    for _ in range(300):
        V, R = np.linalg.qr(matrix @ V)
    assert np.linalg.norm(matrix @ V - V @ R) > 1
    assert worst(np.diag(R).astype(complex), np.linalg.eigvals(matrix)) > 0.5
    H = V.T @ matrix @ V
    assert np.linalg.norm(matrix @ V - V @ H) < 1e-9
    assert worst(np.linalg.eigvals(H), np.linalg.eigvals(matrix)) < 1e-9


def test_a_matrix_far_from_normal_says_so() -> None:
    """A shift with a 0.1 in the corner: an error of 1e-9 moves values by far more."""
    matrix = np.diag(np.ones(19), 1)
    matrix[-1, 0] = 1e-12
    _, found = solved(matrix, 3, "eigen", "dense")
    assert found.conditions is not None
    assert found.conditions.max() > 1e6


def test_restarts_keep_what_was_found() -> None:
    """Values 1 to 2, evenly: far more steps than a space may have vectors."""
    values = 1 + np.arange(400) / 400
    matrix = with_singular_values(values, 400, 400)
    _, found = solved(matrix, 5, "singular", "krylov", 1e-8)
    assert found.converged
    np.testing.assert_allclose(found.values, values[::-1][:5], rtol=1e-9)
    sizes = np.linspace(1, 1.4, 300)
    matrix = with_eigenvalues(sizes * np.where(np.arange(300) % 2, 1, -1), normal=False)
    _, found = solved(matrix, 4, "eigen", "krylov", 1e-6)
    assert found.converged, found.reason
    np.testing.assert_allclose(np.abs(found.values), sizes[::-1][:4], rtol=1e-3)


def test_equal_seeds_give_equal_numbers() -> None:
    model, x = model_of(SINGULAR["decaying"])
    one, two, other = (
        spectrum(model, x, 3, method="krylov", seed=seed).right["x"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, two)
    assert np.abs(one - other).max() > 0


@pytest.mark.parametrize("kind", ["singular", "eigen"])
def test_what_does_not_converge_says_so(kind: str) -> None:
    matrix = with_singular_values(1 + np.arange(200) / 200, 200, 200)
    if kind == "eigen":
        matrix = with_eigenvalues(1 + np.arange(200) / 200, normal=False)
    model, x = model_of(matrix)
    method = "alternating" if kind == "singular" else "subspace"
    found = spectrum(model, x, 2, kind=kind, method=method, products=100)
    assert not found.converged
    assert "after 1" in found.reason
    assert 1e-3 < found.residuals.max() < 1
    with pytest.raises(NotConvergedError, match=r"did not converge.*±") as raised:
        found.require()
    assert raised.value.exit_code == 1


def test_nothing_converges_below_rounding() -> None:
    model, x = model_of(SINGULAR["decaying"], "float32")
    for method in METHODS["singular"]:
        found = spectrum(model, x, 3, method=method, tol=1e-12)
        assert not found.converged
        assert "products are exact to" in found.reason
        assert 1e-9 < found.rounding < 1e-5
        assert np.all(found.residuals >= found.rounding)
    assert spectrum(model, x, 3, method="krylov").require().converged


def test_vectors_have_the_shapes_of_their_tensors() -> None:
    model = build(
        """
        h = MatMul(x, W)
        s = MatMul(c, V)
        y = Add(h, s)
        z = Mul(s, s)
        """,
        {"x": (2, 4), "c": (2, 3)},
        {"W": weights(4, 5), "V": weights(3, 5)},
        ["y", "z"],
    )
    rng = np.random.default_rng(0)
    x = {"x": rng.standard_normal((2, 4)), "c": rng.standard_normal((2, 3))}
    found = spectrum(model, x, 3)
    assert {name: v.shape for name, v in found.right.items()} == {"x": (3, 2, 4), "c": (3, 2, 3)}
    assert {name: v.shape for name, v in found.left.items()} == {"y": (3, 2, 5), "z": (3, 2, 5)}
    J = dense_jacobian(model, x)
    pushed = sum(np.tensordot(J["y", n], found.right[n][0], 2) for n in ("x", "c"))
    np.testing.assert_allclose(pushed, found.values[0] * found.left["y"][0], atol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_vectors_have_the_dtypes_of_their_tensors(dtype: str) -> None:
    """They can be added to x; values, residuals and errors are float64."""
    for kind, method, matrix in (
        ("singular", "krylov", SINGULAR["decaying"]),
        ("singular", "dense", SINGULAR["wide"]),
        ("eigen", "krylov", EIGEN["real"]),
        ("eigen", "krylov", EIGEN["complex"]),
    ):
        model, x = model_of(matrix, dtype)
        found = spectrum(model, x, 2, kind=kind, method=method).require()
        assert found.residuals.dtype == found.errors.dtype == np.float64
        expected = np.dtype(dtype)
        if np.iscomplexobj(found.values):
            expected = np.dtype("complex128" if dtype == "float64" else "complex64")
        for vectors in (*found.right.values(), *found.left.values()):
            assert vectors.dtype == expected
            lengths = np.linalg.norm(vectors.astype(complex), axis=1)
            np.testing.assert_allclose(lengths, 1, atol=4 * np.finfo(expected).eps)


def test_an_operator_stands_for_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rewritten or loaded again, and it stays where it is."""
    path = MODELS / "digits_unet.onnx"
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    points = samples({"noisy": image})
    alone = (
        spectrum(path, points, 2),
        onnxjvp.norm(path, points[1]),
        dense_jacobian(path, points[2]),
    )
    J = onnxjvp.jacobian_operator(path, points[0])
    J.matmat(np.eye(64)[:, :2])
    column = J.matvec(np.ones(64))

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a session is made")

    monkeypatch.setattr(onnxjvp.analysis.maps, "LinearizedSession", load)
    for one, other in zip(spectrum(J, points, 2), alone[0], strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-5)
    assert onnxjvp.norm(J, points[1]).value == pytest.approx(alone[1].value, rel=1e-5)
    found = dense_jacobian(J, points[2])
    for pair, matrix in alone[2].items():
        np.testing.assert_allclose(found[pair], matrix, atol=1e-5)
    beside = onnxjvp.jacobian_operator(J, points[1])
    assert np.abs(beside.matvec(np.ones(64)) - column).max() > 1e-3
    np.testing.assert_array_equal(J.matvec(np.ones(64)), column)
    with pytest.raises(UsageError, match="made with wrt, providers of its own"):
        spectrum(J, points[0], wrt=["noisy"], providers=["cpu"])
    with pytest.raises(onnxjvp.InputError):
        spectrum(J, {"noisy": image.astype(np.float64)})


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_every_trained_model(name: str) -> None:
    operator, J = trained_operator(name)
    rng = np.random.default_rng(0)
    expected = np.linalg.svd(J, compute_uv=False)
    k = min(3, *J.shape)
    for method in ("auto", "krylov", "alternating"):
        _, _, found = solve(operator, k, "singular", method, None, None, rng)
        assert found.converged, found.reason
        assert np.abs(found.values - expected[:k]).max() <= NARROW * expected[0], method
        assert found.rounding <= found.tolerance
    if J.shape[0] == J.shape[1]:
        for method in ("auto", "krylov", "eigs"):
            _, _, found = solve(operator, k, "eigen", method, None, None, rng)
            assert found.converged, found.reason
            assert found.conditions is not None
            allowed = NARROW * expected[0] + (found.conditions * found.residuals).max()
            assert worst(found.values, np.linalg.eigvals(J)) <= allowed, method


def test_many_points_share_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    path = MODELS / "digits_unet.onnx"
    image = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
    points = samples({"noisy": image})
    alone = [spectrum(path, x, 3, method="dense") for x in points]
    loaded: list[Any] = []
    session = onnxjvp.analysis.maps.LinearizedSession
    monkeypatch.setattr(
        onnxjvp.analysis.maps,
        "LinearizedSession",
        lambda *a, **b: (loaded.append(0), session(*a, **b))[1],
    )
    found = spectrum(path, points, 3, method="krylov")
    assert len(loaded) == 1
    for one, other in zip(found, alone, strict=True):
        assert isinstance(one, Spectrum)
        np.testing.assert_allclose(one.values, other.values, rtol=1e-4)
    assert len({one.values[0] for one in found}) == 3


def test_an_iteration_is_one_call_each_way() -> None:
    operator = onnxjvp.jacobian_operator(*model_of(SINGULAR["decaying"]), blocks=True)
    rng = np.random.default_rng(0)
    A, _, found = solve(operator, 5, "singular", "krylov", None, None, rng)
    steps = len(found.history)
    assert operator.used["calls"] == 2 * steps + 2  # and two that measure rounding
    assert (operator.used["jvp"], operator.used["vjp"]) == (A.forward, A.backward)


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (1, 1)])
def test_a_space_that_ends_at_its_first_look(shape: tuple[int, int]) -> None:
    """How exact products are is measured before it is said that they are not exact enough."""
    matrix = np.random.default_rng(0).standard_normal(shape)
    for dtype in ("float16", "float32"):
        found = spectrum(*model_of(matrix.astype(dtype), dtype), 3, method="krylov").require()
        assert abs(found.values[0] - np.linalg.norm(matrix)) <= 2 * found.errors[0]


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_small_and_large_values(scale: float) -> None:
    for kind, method in (("singular", "krylov"), ("singular", "alternating"), ("eigen", "krylov")):
        matrix = (SINGULAR if kind == "singular" else EIGEN)[
            "decaying" if kind == "singular" else "complex"
        ]
        plain, scaled = (
            spectrum(*model_of(m.astype(np.float32), "float32"), 3, kind=kind, method=method)
            for m in (matrix, scale * matrix)
        )
        np.testing.assert_allclose(scaled.require().values / scale, plain.values, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_values_without_squares_are_refused(scale: float) -> None:
    model, x = model_of(scale * SINGULAR["decaying"])
    with pytest.raises(UsageError, match="squares float64 cannot hold"):
        spectrum(model, x, 2, method="krylov")
    with pytest.raises(UsageError, match="squares float64 cannot hold"):
        onnxjvp.norm(model, x)


def test_refusals(tmp_path: Path) -> None:
    model, x = model_of(SINGULAR["wide"])
    with pytest.raises(UsageError, match="40 x 90, and only square ones have eigenvalues"):
        spectrum(model, x, kind="eigen")
    with pytest.raises(UsageError, match=r"unknown method 'subspace' for singular values"):
        spectrum(model, x, method="subspace")
    with pytest.raises(UsageError, match="unknown kind of values 'eigenvalues'"):
        spectrum(model, x, kind="eigenvalues")
    with pytest.raises(UsageError, match="svds takes at most 39 values"):
        spectrum(model, x, 40, method="svds")
    with pytest.raises(UsageError, match="ask for 1 or more"):
        spectrum(model, x, 0)
    with pytest.raises(UsageError, match="seed of -1"):
        spectrum(model, x, seed=-1)
    with pytest.raises(UsageError, match="no point"):
        spectrum(model, [])
    with pytest.raises(UsageError, match="no batch axis in common"):
        samples({"a": np.zeros((2, 3)), "b": np.zeros(3)})
    log = build("y = Log(x)", {"x": (3,)})
    with pytest.raises(UsageError, match="not finite"):
        spectrum(log, {"x": np.array([0.0, 1, 2])}, 1)
