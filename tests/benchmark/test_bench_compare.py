"""A form that computes something else is found; rounding is not taken for it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxjvp.benchmark.compare import BACKWARDS, FORWARDS, PRIMAL, Found, Judge, difference

RNG = np.random.default_rng(0)
J = RNG.standard_normal((4, 6))
U, V = RNG.standard_normal(6), RNG.standard_normal(4)
VECTORS = {"x": U, "y": V}


def found(
    kind: str, array: np.ndarray, nudged: float = 0.0, **more: np.ndarray
) -> dict[str, Found]:
    name = "x" if kind == BACKWARDS else "y"
    offsets = {name: more["offset"]} if more else {}
    return {kind: Found({name: array}, {name: array * (1 + nudged)}, offsets)}


@pytest.mark.parametrize("kind", [PRIMAL, FORWARDS, BACKWARDS])
def test_others_are_compared_with_the_first(kind: str) -> None:
    right = RNG.standard_normal(6 if kind == BACKWARDS else 4)
    judge = Judge()
    assert judge.problem("first", VECTORS, found(kind, right)) is None
    assert judge.problem("same", VECTORS, found(kind, right * (1 + 1e-8))) is None
    problem = judge.problem("other", VECTORS, found(kind, right * (1 + 1e-3)))
    assert problem is not None
    assert f"its {kind} is not that of first" in problem


def test_what_rounding_moves_may_differ() -> None:
    right = J @ U
    judge = Judge()
    assert judge.problem("first", VECTORS, found(FORWARDS, right, nudged=1e-3)) is None
    assert judge.problem("near", VECTORS, found(FORWARDS, right * (1 + 3e-3))) is None
    assert judge.problem("far", VECTORS, found(FORWARDS, right * (1 + 6e-3))) is not None


def test_digits_lost_to_a_difference_may_differ() -> None:
    right, lost = J @ U, 1e-5 * np.ones(4)
    judge = Judge()
    assert judge.problem("first", VECTORS, found(FORWARDS, right)) is None
    assert judge.problem("plain", VECTORS, found(FORWARDS, right + lost)) is not None
    offset = 1e3 * np.ones(4)
    assert judge.problem("stack", VECTORS, found(FORWARDS, right + lost, offset=offset)) is None


def test_the_transpose_is_that_of_j() -> None:
    judge = Judge()
    assert judge.problem("jvp", {"x": U}, found(FORWARDS, J @ U)) is None
    assert judge.problem("vjp", {"y": V}, found(BACKWARDS, J.T @ V)) is None
    judge = Judge()
    assert judge.problem("jvp", {"x": U}, found(FORWARDS, J @ U)) is None
    problem = judge.problem("vjp", {"y": V}, found(BACKWARDS, 1.01 * J.T @ V))
    assert problem is not None
    assert "<J^T v, u>" in problem


def test_numbers_and_none() -> None:
    nan = np.array([1.0, np.nan])
    assert difference({"y": nan}, {"y": nan}) == 0
    assert difference({"y": np.array([1.0, 2.0])}, {"y": nan}) == np.inf
    assert difference({"y": np.ones(2)}, {"y": np.ones(3)}) == np.inf
    assert difference({"y": np.ones(2)}, {"y": np.zeros(2)}) == np.inf
    assert difference({"y": np.zeros(2)}, {"y": np.zeros(2)}) == 0
