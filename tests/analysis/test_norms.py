"""Norms, traces and determinants against dense NumPy, and bands that hold what they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from helpers import MODELS, Array, build
from matrices import model_of, orthogonal, with_singular_values
from networks import trained_operator
from scipy import stats
from scipy.sparse.linalg import aslinearoperator

from onnxjvp import Estimate, NotConvergedError, norm
from onnxjvp.analysis import sampling
from onnxjvp.analysis.norms import METHODS, estimate
from onnxjvp.analysis.products import Products
from onnxjvp.analysis.quadrature import log_squares
from onnxjvp.analysis.sampling import Rule, mean_of, probes
from onnxjvp.analysis.solves import solve
from onnxjvp.errors import UsageError

RNG = np.random.default_rng(0)
SIZE = 50
Q = orthogonal(RNG, SIZE)
TURNED = Q * RNG.uniform(-0.8, 3, SIZE) @ Q.T
MATRICES = {
    "square": np.eye(SIZE) + RNG.standard_normal((SIZE, SIZE)) / 9,
    "wide": with_singular_values(np.linspace(1, 3, 30), 30, 60),
    "tall": with_singular_values(np.linspace(1, 3, 30), 60, 30),
    "symmetric": (TURNED + TURNED.T) / 2,
    "bottleneck": RNG.standard_normal((SIZE, 4)) @ RNG.standard_normal((4, SIZE)),
    "zero": np.zeros((SIZE, SIZE)),
}
SQUARE = ("trace", "inverse", "log-det-symmetric")
TRUTHS: dict[str, Callable[[Array], float]] = {
    "frobenius": lambda J: float(np.linalg.norm(J)),
    "spectral": lambda J: float(np.linalg.norm(J, 2)),
    "trace": lambda J: float(np.trace(J)),
    "log-det": lambda J: float(np.linalg.slogdet(np.eye(J.shape[1]) + J.T @ J)[1]),
    "log-det-symmetric": lambda J: float(np.linalg.slogdet(np.eye(len(J)) + J)[1]),
    "inverse": lambda J: float(np.linalg.norm(np.linalg.inv(J))),
    "condition": lambda J: float(np.linalg.cond(J)),
}


def estimated(
    matrix: Array,
    kind: str,
    method: str = "auto",
    *,
    rtol: float | None = None,
    count: int | None = None,
    most: int = 10_000,
    probe: str | None = None,
    seed: int = 0,
) -> Estimate:
    rng = np.random.default_rng(seed)
    return estimate(aslinearoperator(matrix), kind, method, rtol, count, most, probe, rng)


CASES = [(kind, method) for kind, methods in METHODS.items() for method in methods]


@pytest.mark.parametrize(("kind", "method"), CASES)
@pytest.mark.parametrize("name", MATRICES)
def test_against_dense(name: str, kind: str, method: str) -> None:
    matrix = MATRICES[name]
    square = matrix.shape[0] == matrix.shape[1]
    if kind in SQUARE and not square:
        with pytest.raises(UsageError, match=r"only square ones|not symmetric"):
            estimated(matrix, kind, method)
        return
    if kind == "log-det-symmetric" and name not in ("symmetric", "zero"):
        with pytest.raises(UsageError, match="J is not symmetric"):
            estimated(matrix, kind, method)
        return
    found = estimated(matrix, kind, method)
    if kind in ("inverse", "condition") and name in ("bottleneck", "zero"):
        assert found.value == found.low == found.high == math.inf
        assert "J is singular to rounding" in found.note
        return
    if (name, kind, method) == ("bottleneck", "trace", "sampling"):  # far smaller than the norm
        assert not found.converged
        assert found.samples == 10_000
        return
    assert found.converged, found.reason
    truth = TRUTHS[kind](matrix)
    slack = 1e-9 * (abs(truth) + 1)
    wide = found.high - found.low  # a band of 95 % may miss it by a little, for one seed
    assert found.low - slack - wide / 2 <= truth <= found.high + slack + wide / 2
    assert found.pushed + found.pulled > 0
    if method == "sampling":
        assert found.samples >= 100
        assert found.high - found.value <= 0.0501 * abs(found.value) or not found.value
        assert found.error > 0 or name == "zero"
    else:
        assert abs(found.value - truth) <= 1e-3 * abs(truth) + slack
        assert found.samples == 0 or method == "hutch++"


def test_hutch_samples_what_the_sketch_leaves() -> None:
    rng = np.random.default_rng(1)
    V = orthogonal(rng, 200)
    matrix = V * np.r_[100 * 0.5 ** np.arange(20), np.full(180, 0.05)] @ V.T
    found = estimated(matrix, "trace", "hutch++", rtol=1e-3)
    plain = estimated(matrix, "trace", "sampling", rtol=1e-3, most=5000)
    assert found.converged
    assert not plain.converged
    assert abs(found.value - np.trace(matrix)) <= 3 * found.error
    assert 100 <= found.samples <= 1000


@pytest.mark.parametrize("probe", sampling.PROBES)
def test_probes_have_covariance_one(probe: str) -> None:
    """On the unit sphere E ‖A u‖² is ‖A‖_F² / D: the factor that eq. 13 leaves out."""
    U = probes(probe, np.random.default_rng(0), 4, 200_000)
    np.testing.assert_allclose(U @ U.T / 200_000, np.eye(4), atol=0.02)
    if probe == "sphere":
        np.testing.assert_allclose(np.linalg.norm(U, axis=0), 2)
    matrix = np.diag([3.0, 1, 0.5, 0])
    assert abs(np.mean(np.sum((matrix @ U) ** 2, 0)) / np.sum(matrix**2) - 1) < 0.02


@pytest.mark.parametrize("kind", ["frobenius", "trace"])
@pytest.mark.parametrize("probe", ["normal", "rademacher"])
@pytest.mark.parametrize("name", ["rank 1", "rank 3", "full"])
def test_bands_hold_the_truth(name: str, probe: str, kind: str) -> None:
    """Of 300 seeds 0.95 less four deviations; benchmarks/coverage.py has the real thing."""
    rng = np.random.default_rng(7)
    factor = rng.standard_normal((40, {"rank 1": 1, "rank 3": 3, "full": 40}[name]))
    matrix = factor @ factor.T
    truth = TRUTHS[kind](matrix)
    held = 0
    for seed in range(300):
        found = estimated(matrix, kind, "sampling", rtol=0.15, probe=probe, seed=seed)
        assert found.samples >= 100
        held += found.low <= truth <= found.high
    assert held / 300 >= 0.93 - 0.025


def test_equal_seeds_give_equal_numbers() -> None:
    model, x = model_of(MATRICES["square"])
    one, two, other = (norm(model, x, method="sampling", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.draws, two.draws)
    assert one.value == two.value != other.value


def test_just_so_many_samples() -> None:
    found = estimated(MATRICES["square"], "frobenius", count=37)
    assert (found.samples, found.pushed, len(found.draws)) == (37, 37, 37)
    assert found.converged
    assert abs(found.value - np.sqrt(found.draws.mean())) < 1e-12


def test_a_band_that_stays_too_wide() -> None:
    found = estimated(MATRICES["square"], "frobenius", "sampling", rtol=1e-4, most=200)
    assert not found.converged
    assert found.samples == 200
    with pytest.raises(NotConvergedError, match=r"after 200 draws the band is ± .*1.0e-04"):
        found.require()


def test_student_bands_of_normal_draws() -> None:
    draws = np.random.default_rng(0).standard_normal(5000) + 3
    mean = mean_of(draws)
    low, high = stats.t.interval(0.96, 4999, draws.mean(), stats.sem(draws))
    np.testing.assert_allclose([mean.low, mean.high], [low, high], rtol=1e-3)
    np.testing.assert_allclose(mean.error, stats.sem(draws))
    assert mean_of(np.full(10, 2.0)).low == 2.0


def test_looks_are_few() -> None:
    rule, looks = Rule(0.1, 1000), [0]
    while looks[-1] < 1000:
        looks.append(rule.next(looks[-1]))
    assert looks[1] >= 100
    assert len(looks) < 12
    assert Rule(None, 77).next(0) == 77


def test_lanczos_brackets_the_truth() -> None:
    A = Products(aslinearoperator(MATRICES["wide"]))
    U = np.random.default_rng(0).standard_normal((60, 4))
    values, vectors = np.linalg.eigh(MATRICES["wide"].T @ MATRICES["wide"])
    truth = np.sum((vectors.T @ U) ** 2 * np.log1p(np.maximum(values, 0))[:, None], 0)
    for tolerance in (0.1, 1e-3, 1e-8):
        found, off = log_squares(A, U, tolerance)
        assert np.all(np.abs(found - truth) <= off + 1e-10)
        assert np.all(off <= tolerance * truth)


def test_solves() -> None:
    right = np.random.default_rng(0).standard_normal((SIZE, 3))
    found = solve(Products(aslinearoperator(MATRICES["square"])), right, 1e-10, 1e-15, 1000)
    np.testing.assert_allclose(MATRICES["square"] @ found.solutions, right, atol=1e-8)
    assert found.singular is None
    found = solve(Products(aslinearoperator(MATRICES["bottleneck"])), right, 1e-10, 1e-15, 1000)
    assert found.singular is not None
    assert found.singular < 1e-14


def test_an_eigenvalue_below_minus_one() -> None:
    for method in METHODS["log-det-symmetric"]:
        with pytest.raises(UsageError, match=r"has an eigenvalue of -.*take A = JᵀJ"):
            estimated(2 * MATRICES["symmetric"], "log-det-symmetric", method)


def test_what_is_nearly_singular_is_not_called_so() -> None:
    matrix = with_singular_values(np.geomspace(1, 1e-5, 30), 30, 30)
    for kind in ("inverse", "condition"):
        found = estimated(matrix, kind)
        np.testing.assert_allclose(found.value, TRUTHS[kind](matrix), rtol=1e-6)
    matrix = matrix.astype(np.float32)
    model, x = model_of(matrix.astype(float), "float32")
    assert norm(model, x, "condition").value == pytest.approx(1e5, rel=0.1)
    model, x = model_of(with_singular_values(np.geomspace(1, 1e-9, 30), 30, 30), "float32")
    assert norm(model, x, "condition").value == math.inf


@pytest.mark.parametrize("name", sorted(path.stem for path in MODELS.glob("*.onnx")))
def test_every_trained_model(name: str) -> None:
    operator, J = trained_operator(name)
    rng = np.random.default_rng(0)
    for kind in ("frobenius", "spectral", "log-det", "condition"):
        found = estimate(operator, kind, "auto", None, None, 10_000, None, rng)
        truth = TRUTHS[kind](J)
        if np.isinf(found.value):
            assert truth > 1e5
            continue
        assert abs(found.value - truth) <= 2 * found.error + 1e-4 * abs(truth), kind
    drawn = estimate(operator, "frobenius", "auto", None, 200, 10_000, None, rng)
    assert abs(drawn.value - TRUTHS["frobenius"](J)) <= 4 * drawn.error
    assert drawn.samples == 200


def test_refusals() -> None:
    model, x = model_of(MATRICES["wide"])
    for options, words in (
        ({"kind": "nuclear"}, "unknown kind 'nuclear'; choose frobenius"),
        ({"method": "hutch++"}, "unknown method 'hutch++' for frobenius"),
        ({"probe": "uniform"}, "unknown probe 'uniform'"),
        ({"rtol": 0.1, "samples": 200}, "give one of them"),
        ({"rtol": 0.0}, "never reached"),
        ({"samples": 1}, "draw 2 or more"),
        ({"most": 10}, "allow 128 or more"),
        ({"kind": "spectral", "samples": 200}, "spectral draws no samples"),
        ({"method": "dense", "probe": "normal"}, "dense draws no samples"),
        ({"kind": "trace"}, "30 x 60, and only square ones have a trace"),
    ):
        with pytest.raises(UsageError, match=words.replace("+", r"\+")):
            norm(model, x, **options)
    empty = build("y = Mul(x, x)", {"x": ("N",)})
    with pytest.raises(UsageError, match="0 x 0 and has no element"):
        norm(empty, {"x": np.zeros(0)})
