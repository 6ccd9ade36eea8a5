"""Correlations over tiles: the numbers, and convolutions that use them against exact kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact import kernel
from helpers import build, weights

from onnxjvp.kernels.cotangents import Reading, readings
from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.structured import Structured
from onnxjvp.kernels.tiles import COUNT, on_rows, values


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("rows", [1, 4, 7, 13])
@pytest.mark.parametrize("taps", [2, 3, 4, 5])
def test_tiles_give_the_correlation(taps: int, rows: int, before: int) -> None:
    """Σ g[i] · z[i + j - before] over rows of g, with zeros around z."""
    rng = np.random.default_rng(taps)
    size = COUNT + 1 - taps
    count, height = -(-rows // size), rows + taps - 1 - before
    if height < 1:
        pytest.skip("padding alone")
    g, z = rng.standard_normal(rows), rng.standard_normal(height)
    each, theta, seen = values(size, taps)
    products = (on_rows(each, count, rows, size, 0) @ g) * (
        on_rows(seen, count, height, size, before) @ z
    )
    found = theta.T @ products.reshape(COUNT, count).sum(1)
    padded = np.concatenate([np.zeros(before), z])
    wanted = [g @ padded[j : j + rows] for j in range(taps)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("attributes", "kernel_shape", "batch"),
    [
        ("pads = [1, 1, 1, 1]", (3, 3), "N"),
        ("pads = [0, 2, 1, 0], strides = [1, 2], dilations = [1, 2]", (2, 3), "N"),
        ('auto_pad = "SAME_LOWER"', (4, 1), 1),
        ("pads = [2, 0, 2, 1]", (5, 2), 3),
        ("pads = [2, 0, 1, 1], strides = [2, 1], dilations = [1, 2]", (3, 2), "N"),
    ],
)
def test_convolutions_over_tiles(
    attributes: str,
    kernel_shape: tuple[int, int],
    batch: int | str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wherever there is that form it is taken, whether it pays or not; strided rows have none."""

    def over_tiles(*args: Any) -> tuple[Reading, ...]:
        found = readings(*args)
        return tuple(each for each in found if each.structure.taps is not None) or found

    monkeypatch.setattr("onnxjvp.kernels.cotangents.MAKING", 0)
    monkeypatch.setattr("onnxjvp.kernels.cotangents.READING", 0)
    monkeypatch.setattr("onnxjvp.kernels.cut.readings", over_tiles)
    body = f"""
        a = Conv<pads = [1, 1, 1, 1]>(x, U)
        h = Tanh(a)
        b = Conv<{attributes}>(h, W)
        g = Relu(b)
        y = Conv<strides = [3, 9], pads = [0, 0, 3, 3]>(g, V)
    """
    params = {
        "U": weights(18, 2, 3, 3),
        "W": weights(3, 18, *kernel_shape) / 5,
        "V": weights(2, 3, 4, 3),
    }
    model = build(body, {"x": (batch, 2, 6, 5)}, params, dtype="float32")
    x = {"x": np.random.default_rng(0).standard_normal((3, 2, 6, 5)).astype(np.float32)}
    asked = problem(model, list(params))
    method = Structured(asked, samples=3)
    found = [any(side.taps is not None for side in term.sides) for term in method.terms]
    assert found == [True, "strides = [2" not in attributes, False]
    factors = method.factors(x)
    wanted, ours = kernel(asked, x, x), method.product(factors, factors)[0]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
    if method.sweeps():
        np.testing.assert_allclose(method.sweep(x)[0], ours, rtol=1e-5)


@pytest.mark.parametrize(("channels", "side", "tiled"), [(64, 32, True), (64, 6, False)])
def test_tiles_are_taken_where_they_pay(channels: int, side: int, tiled: bool) -> None:
    body = "h = Conv<pads = [1, 1, 1, 1]>(x, W)\na = Relu(h)\ny = Conv(a, V)"
    params = {"W": weights(channels, channels, 3, 3), "V": weights(1, channels, side - 1, side - 2)}
    model = build(body, {"x": ("N", channels, side, side)}, params, dtype="float32")
    method = Structured(problem(model, ["W"]))
    ((side_of_w,),) = [term.sides for term in method.terms]
    assert (side_of_w.taps is not None) == tiled
