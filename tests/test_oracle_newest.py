"""Kernels of the oracle that no onnxruntime has, against onnx.reference in float32."""

from __future__ import annotations

import cases_attending
import cases_newest
import cases_training
import numpy as np
import pytest
from helpers import assert_close, build, ort, weights
from onnx.reference import ReferenceEvaluator
from op_case import OpCase

from onnxjvp.oracle import Evaluator

#: onnx.reference has the graphs of FlexAttention read nothing around them
_AROUND = ("under a mask", "reads live values")
CASES = [
    case
    for case in (*cases_attending.CASES, *cases_newest.CAUSAL, *cases_training.CASES)
    if case.no_runtime and not any(words in case.name for words in _AROUND)
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernels_are_those_of_onnx(case: OpCase) -> None:
    model = case.model("float32")
    x = {n: v.astype(np.float32) if v.dtype.kind == "f" else v for n, v in case.point().items()}
    wanted = ReferenceEvaluator(model).run(None, x)
    found = Evaluator(model).run(x)
    for name, want in zip(case.outputs, wanted, strict=True):
        assert found[name].dtype == np.float64
        assert_close(found[name], want.astype(np.float64), 1e-5, name)


@pytest.mark.parametrize("rule", ["linear", "gated", "delta", "gated_delta"])
def test_linear_attention_is_that_of_the_runtime(rule: str) -> None:
    sizes = {
        "q": 8,
        "k": 4,
        "v": 6,
        "g": 2 if "gated" in rule else 0,
        "b": 1 if "delta" in rule else 0,
    }
    x = {
        n: 0.5 * weights(2, 3, d, seed=i).astype(np.float32)
        for i, (n, d) in enumerate(sizes.items())
        if d
    }
    operands = f"q, k, v, , {'g' if 'g' in x else ''}, {'b' if 'b' in x else ''}"
    model = build(
        "y, s = com.microsoft.LinearAttention<q_num_heads=4, kv_num_heads=2, "
        f'update_rule="{rule}">({operands.rstrip(", ")})',
        {n: a.shape for n, a in x.items()},
        outputs=("y", "s"),
        dtype="float32",
        declared={"y": (2, 3, 12), "s": (2, 2, 2, 3)},
    )
    wanted, found = ort(model, x), Evaluator(model).run(x)
    for name in ("y", "s"):
        assert_close(found[name], wanted[name].astype(np.float64), 1e-5, name)


def test_graphs_of_flex_attention_read_what_is_around_them() -> None:
    body = "y = ai.onnx.preview.FlexAttention<score_mod=m (a) => (r) {r = Add(a, b)}>(q, k, v)"
    shapes = {"q": (1, 1, 2, 3), "k": (1, 1, 4, 3), "v": (1, 1, 4, 2), "b": (2, 4)}
    x = {n: weights(*s, seed=i) for i, (n, s) in enumerate(shapes.items())}
    found = Evaluator(build(body, shapes, opset=26)).run(x)["y"]
    powers = np.exp(x["q"][0, 0] @ x["k"][0, 0].T / np.sqrt(3) + x["b"])
    wanted = powers / powers.sum(axis=1, keepdims=True) @ x["v"][0, 0]
    assert_close(found[0, 0], wanted, 1e-12, "y")
