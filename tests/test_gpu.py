"""The rewritten models on CUDA against the CPU; skipped, saying so, where there is no device."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest

import onnxjvp
from onnxjvp.runtime import Session, random_feeds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
        reason="no CUDA device, or onnxruntime-gpu is not installed",
    ),
]


FORMS: dict[str, Callable[[str], onnxjvp.Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "split": lambda m: onnxjvp.clone(m, layout="split"),
    "stacked": lambda m: onnxjvp.clone(m, layout="stacked"),
    "substitute": lambda m: onnxjvp.clone(m, method="substitute"),
    "vjp": onnxjvp.vjp,
    "vjp in weights": lambda m: onnxjvp.vjp(m, ["params"]),
    "three directions": lambda m: onnxjvp.jvp(m, directions=3),
    "K directions": lambda m: onnxjvp.jvp(m, directions="K"),
}


@pytest.mark.parametrize("form", FORMS)
def test_cuda_agrees_with_the_cpu(model_file: str, form: str) -> None:
    made = FORMS[form](model_file)
    proto = made.proto()
    cpu, cuda = Session(proto, providers=["cpu"]), Session(proto, providers=["cuda"])
    feeds = random_feeds(cpu.inputs, seed=0)
    expected, found = cpu.run(feeds), cuda.run(feeds)
    for forms in made.names["results"].values():
        for name in forms.values():
            scale = float(np.abs(expected[name]).max(initial=1e-6))
            np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-3 * scale)
