"""Transposed convolutions with strides in the forms that run in the blocked layout."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, assert_close, build, ort, weights

from onnxjvp.rewrite import vjp

#: (attributes of the Conv, channels in, channels out, group, kernel): what its transpose becomes
CASES = {
    "zeros first": [
        ("strides=[2, 2], pads=[1, 1, 1, 1], group=16", 16, 16, (3, 3)),
        ("strides=[2, 2], pads=[2, 2, 2, 2], group=16", 16, 16, (5, 5)),
        ("strides=[3, 2], pads=[0, 1, 2, 0], group=32", 32, 32, (3, 2)),
        ("strides=[2, 1], group=16", 16, 16, (1, 3)),
    ],
    "zeros last": [
        ("strides=[2, 2]", 16, 32, (1, 1)),
        ("strides=[1, 3]", 32, 16, (1, 1)),
    ],
    "phases": [
        ("strides=[2, 2], pads=[3, 3, 3, 3]", 3, 16, (7, 7)),
        ("strides=[2, 2]", 3, 32, (3, 3)),
        ("strides=[2, 2], pads=[0, 1, 1, 0]", 4, 16, (2, 3)),
        ("strides=[4, 4], pads=[2, 2, 2, 2]", 1, 16, (11, 11)),
        ("strides=[2, 2], pads=[1, 1, 1, 1]", 1, 16, (4, 4)),
    ],
}
KEPT = [
    ("strides=[2, 2], pads=[1, 1, 1, 1]", 16, 16, (3, 3)),
    ("strides=[2, 2], dilations=[2, 2], group=16", 16, 16, (3, 3)),
    ("strides=[2, 2], group=2", 16, 16, (3, 3)),
    ("strides=[2, 2]", 6, 6, (3, 3)),
    ("strides=[2, 3], pads=[1, 1, 1, 1]", 2, 16, (3, 3)),
]
Case = tuple[str, int, int, tuple[int, int]]


def _model(case: Case, side: int) -> onnx.ModelProto:
    attributes, channels, results, kernel = case
    group = int(attributes.split("group=")[1]) if "group=" in attributes else 1
    w = weights(results, channels // group, *kernel)
    shape = ("N", channels, side, side + 1)
    return build(f"y = Conv<{attributes}>(x, w)", {"x": shape}, {"w": w}, dtype="float32")


def _both(case: Case, side: int) -> onnx.ModelProto:
    model = _model(case, side)
    results = [vjp(model, target=t).proto() for t in ("portable", "cpu")]
    onnx.checker.check_model(results[1], full_check=True)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, case[1], side, side + 1)).astype(np.float32)
    ct = rng.standard_normal(ort(model, {"x": x})["y"].shape).astype(np.float32)
    wanted, found = (ort(m, {"x": x, "y_ct": ct})["x_vjp"] for m in results)
    assert_close(found, wanted, TOLERANCES["float32"], "x_vjp")
    return results[1]


@pytest.mark.parametrize("side", [12, 13, 14, 15])
@pytest.mark.parametrize(
    ("form", "case"), [(form, case) for form, cases in CASES.items() for case in cases]
)
def test_every_form_is_the_transposed_convolution(form: str, case: Case, side: int) -> None:
    made = [node.op_type for node in _both(case, side).graph.node]
    spreads = made.count("ConvTranspose")
    assert ("DepthToSpace" in made) is (form == "phases")
    assert spreads == (0 if form == "phases" else 1)
    # the original, and the one that reads the cotangent
    assert made.count("Conv") == 2


@pytest.mark.parametrize("case", KEPT, ids=str)
def test_others_stay_as_they_are(case: Case) -> None:
    made = [node.op_type for node in _both(case, 13).graph.node]
    assert "DepthToSpace" not in made
    assert made.count("Conv") == 1


def test_repeated_cotangents_are_resized() -> None:
    body = "p = AveragePool<kernel_shape=[2, 3], strides=[2, 3]>(x)\ny = Mul(p, p)"
    model = build(body, {"x": ("N", 16, 8, 9)}, dtype="float32")
    portable, cpu = (vjp(model, target=t).proto() for t in ("portable", "cpu"))
    assert "Resize" in [node.op_type for node in cpu.graph.node]
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((2, 16, 8, 9)), "y_ct": rng.standard_normal((2, 16, 4, 3))}
    feeds = {name: value.astype(np.float32) for name, value in feeds.items()}
    wanted, found = (ort(m, feeds)["x_vjp"] for m in (portable, cpu))
    assert_close(found, wanted, TOLERANCES["float32"], "x_vjp")
