"""The evaluator where values are moved, rounded, or not all needed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from onnxjvp.oracle import Evaluator, NoOracleError, directional_derivative

MODEL = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 18]> g (double[3] x) => (double[3] y, double[3] z)'
    "<double[3] w = {1.0, 2.0, 3.0}>"
    "{ c = Constant<value = double[3] {5.0, 5.0, 5.0}>() h = Mul(x, w) y = Mul(h, h)"
    "z = Add(x, c) n = Relu(x) }"
)
X, D = np.array([1.0, -1.0, 2.0]), np.array([0.5, 0.25, 0.0])


def test_values_are_moved_on_top_of_what_reaches_them() -> None:
    run, w = Evaluator(MODEL).run, np.array([1.0, 2.0, 3.0])
    for name, y in (("x", (X + D) * w), ("w", X * (w + D)), ("h", X * w + D)):
        np.testing.assert_array_equal(run({"x": X}, ["y"], added={name: D})["y"], y * y)
    both = run({"x": X}, added={"x": D, "h": D, "c": D})
    np.testing.assert_array_equal(both["y"], ((X + D) * w + D) ** 2)
    np.testing.assert_array_equal(both["z"], X + D + 5 + D)
    with pytest.raises(NoOracleError, match="no value nothing"):
        run({"x": X}, added={"nothing": D})


def test_only_what_is_needed_runs() -> None:
    broken = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (double[3] x) => (double[3] y, double[2] z)'
        "{ s = Constant<value = int64[1] {2}>() z = Reshape(x, s) y = Add(x, x) }"
    )
    evaluator = Evaluator(broken)
    np.testing.assert_array_equal(evaluator.run({"x": X}, ["y"])["y"], 2 * X)
    with pytest.raises(NoOracleError, match="Reshape"):
        evaluator.run({"x": X})


def test_rounding_inside_shows_what_cancels() -> None:
    """(x³ + 1) − x³ is 1 whatever x is, and not if every step is rounded."""
    cancels = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (double[3] x) => (double[3] y)'
        "{ one = Constant<value = double[1] {1.0}>() xx = Mul(x, x) c = Mul(xx, x)"
        "s = Add(c, one) y = Sub(s, c) }"
    )
    run, x = Evaluator(cancels).run, {"x": np.full(3, 1e3)}
    outside = run(x, noise=1e-9)["y"]
    inside = run(x, noise=1e-9, inside=True)["y"]
    np.testing.assert_allclose(outside, 1.0, atol=1e-6)
    assert np.abs(inside - 1.0).max() > 0.1
    np.testing.assert_array_equal(run(x, inside=True)["y"], run(x)["y"])


def test_a_known_value_is_not_evaluated_again() -> None:
    asked = []

    def run(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(values)
        return {"y": 3 * values["x"]}

    found = directional_derivative(run, {"x": X}, {"x": D}, ["y"], primal={"y": 3 * X})
    np.testing.assert_allclose(found.value["y"], 3 * D, atol=1e-7)
    assert len(asked) == 2 * len(found.steps)
