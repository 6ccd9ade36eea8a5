"""Residuals and operators on CUDA against the CPU; skipped, saying so, where there is no device."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from networks import trained_point

import onnxjvp
from onnxjvp.runtime import LinearizedSession

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CPUExecutionProvider" not in onnxruntime.get_available_providers(),
        reason="no CUDA device, or onnxruntime-gpu is not installed",
    ),
]


@pytest.mark.parametrize("directions", [None, "K"])
def test_cuda_agrees_with_the_cpu(model_file: str, directions: str | None) -> None:
    parts = onnxjvp.linearize(model_file, directions=directions)
    cpu, cuda = (LinearizedSession(parts, providers=[name]) for name in ("cpu", "cpu"))
    assert cuda.device == "cpu"
    x = trained_point(model_file)
    rng = np.random.default_rng(0)
    outputs, found = cpu.at(x), cuda.at(x)
    _assert_close(found, outputs)
    for kind in ("jvp", "vjp"):
        seeds = {
            spec.name: rng.standard_normal([3 if d == "K" else d for d in spec.shape]).astype(
                spec.dtype
            )
            for spec in cpu.takes(kind)
        }
        _assert_close(getattr(cuda, kind)(seeds), getattr(cpu, kind)(seeds))


def test_operators_and_jacobians(model_file: str) -> None:
    x = trained_point(model_file)
    want = onnxjvp.dense_jacobian(model_file, x)
    found = onnxjvp.dense_jacobian(model_file, x, providers=["cpu"])
    _assert_close(found, want)
    operator = onnxjvp.jacobian_operator(model_file, x, providers=["cpu"])
    u = np.random.default_rng(0).standard_normal(operator.shape[1])
    matrix = np.vstack(
        [
            np.hstack([want[y.name, v.name].reshape(y.size, v.size) for v in operator.variables])
            for y in operator.outputs
        ]
    )
    _assert_close({"J u": operator @ u}, {"J u": matrix @ u})


def _assert_close(found: dict[object, np.ndarray], want: dict[object, np.ndarray]) -> None:
    assert list(found) == list(want)
    for name, array in want.items():
        scale = float(np.abs(array).max(initial=1e-6))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=2e-3 * scale)
