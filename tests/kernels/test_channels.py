"""Masked cotangents that leave the blocked layout with channels last."""

from __future__ import annotations

import numpy as np
import pytest
from exact import kernel
from helpers import build, weights

from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.structured import Structured

BODY = """
    a = Conv<pads = [1, 1, 1, 1]>(x, U, c)
    h = Relu(a)
    b = Conv<pads = [1, 1, 1, 1]>(h, W, d)
    g = Relu(b)
    y = Conv(g, V)
"""
PARAMS = {
    "U": weights(64, 64, 3, 3) / 10,
    "c": weights(64),
    "W": weights(32, 64, 3, 3) / 10,
    "d": weights(32),
    "V": weights(3, 32, 8, 8),
}


def test_a_mask_is_turned_in_place_of_a_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cotangent behind W goes to tiles, to the sum for a bias, and through W's convolution."""
    monkeypatch.setattr("onnxjvp.kernels.cotangents.MAKING", 0)  # images are too small to pay
    monkeypatch.setattr("onnxjvp.kernels.cotangents.READING", 0)
    model = build(BODY, {"x": ("N", 64, 8, 8)}, PARAMS, dtype="float32")
    x = {"x": np.random.default_rng(0).standard_normal((2, 64, 8, 8)).astype(np.float32)}
    asked = problem(model, list(PARAMS))
    method = Structured(asked, samples=2)
    tiled = [any(side.taps is not None for side in term.sides) for term in method.terms]
    assert tiled == [False, False, True, False, False]
    nodes = [node for node in method._cut.model.graph if node.op_type == "Transpose"]
    perms = {tuple(node.attributes.get_ints("perm") or ()) for node in nodes}
    assert (0, 3, 1, 2) in perms and (0, 1, 3, 4, 2) not in perms
    found, wanted = method.product(*[method.factors(x)] * 2)[0], kernel(asked, x, x)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6 * np.abs(wanted).max())
