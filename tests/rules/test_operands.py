"""Operands beside the data: those that a node holds are cut and named; a ratio in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import Input, build, checked, ints, ort, weights
from onnx.reference import ReferenceEvaluator

from onnxjvp import UnsupportedOpError, UsageError, clone, jvp, vjp
from onnxjvp.oracle import Evaluator, directional_derivative

_IMAGE = {"x": (1, 1, 3, 4)}
#: a node that holds its operand z: body, inputs, parameters
HELD: dict[str, tuple[str, dict[str, Input], dict[str, Any]]] = {
    "Pad": ('y = Pad<mode="reflect">(x, p, z)', {"x": (3,), "z": ()}, {"p": ints(1, 1)}),
    "Dropout": ("y = Dropout(x, z)", {"x": (3,), "z": ()}, {}),
    "GridSample": (
        'y = GridSample<mode="nearest">(x, z)',
        {**_IMAGE, "z": (1, 2, 2, 2)},
        {},
    ),
    "Resize": (
        'y = Resize<mode="nearest", coordinate_transformation_mode="tf_crop_and_resize">'
        "(x, z, , s)",
        {**_IMAGE, "z": (8,)},
        {"s": ints(1, 1, 2, 2)},
    ),
}


@pytest.mark.parametrize("op", HELD)
def test_an_operand_that_a_node_holds_is_cut_and_named(op: str) -> None:
    body, inputs, params = HELD[op]
    model = build(body, inputs, params, opset=20)
    for rewrite in (jvp, vjp, lambda m, **k: clone(m, layout="stacked", **k)):
        assert [c for c in rewrite(model).report["cuts"] if f"({op}, in operand 'z')" in c]
        assert rewrite(model, wrt=["x"]).report["cuts"] == []
        with pytest.raises((UnsupportedOpError, UsageError), match=f"{op}, in operand 'z'"):
            rewrite(model, wrt=["z"])


def test_the_ratio_of_a_dropout_moves_what_its_mask_keeps() -> None:
    """y = x · mask / (1 − ratio), by differences of onnx's own, whose mask hangs on the seed."""
    body = "y, mask = Dropout<seed=7>(x, r, t)"
    inputs: dict[str, Input] = {"x": (40,), "r": ()}
    model = build(body, inputs, {"t": np.array(True)}, ("y", "mask"))
    x, u = {"x": weights(40), "r": np.array(0.3)}, {"x": weights(40, seed=1), "r": np.array(0.7)}

    def run(feeds: Any) -> dict[str, np.ndarray]:
        names = ("y", "mask")
        return dict(zip(names, ReferenceEvaluator(model).run(list(names), feeds), strict=True))

    wanted = directional_derivative(run, x, u, ["y"])
    pushed = jvp(model)
    (reference,) = ReferenceEvaluator(pushed.proto()).run(
        ["y_jvp"], {**x, "x_u": u["x"], "r_u": u["r"]}
    )
    np.testing.assert_allclose(reference, wanted.value["y"], rtol=1e-6)
    # in onnxruntime, whose mask is another one: along the ratio alone, in every form
    small = build(body, inputs, {"t": np.array(True)}, ("y", "mask"), dtype="float32")
    feeds = {k: v.astype(np.float32) for k, v in x.items()}
    for result in (jvp(small, ["r"]), clone(small, ["r"]), clone(small, ["r"], layout="stacked")):
        values = ort(result.proto(), {**feeds, "r_u": np.array(0.7, np.float32)})
        np.testing.assert_allclose(values["y_jvp"], 0.7 * values["y"] / 0.7, rtol=2e-6)
    (y_ct,) = (weights(40, seed=2).astype(np.float32),)
    values = ort(vjp(small, ["r"]).proto(), {**feeds, "y_ct": y_ct})
    np.testing.assert_allclose(values["r_vjp"], values["y"] @ y_ct / 0.7, rtol=1e-5)


def test_scales_are_of_single_precision_whatever_the_image() -> None:
    how = 'mode="cubic", axes=[2, 3]'
    s, u = np.array([1.7, 0.55], np.float32), np.array([0.3, -0.2], np.float32)
    inputs: dict[str, Input] = {"x": ("N", 2, 3, 4), "s": s}
    x, t, ct = weights(2, 2, 3, 4), weights(2, 2, 3, 4, seed=1), weights(2, 2, 5, 2)
    found = {}
    for dtype in ("float16", "float32", "float64"):
        model = build(f"y = Resize<{how}>(x, , s)", inputs, dtype=dtype)
        pushed, pulled = checked(jvp(model, ["x", "s"])), checked(vjp(model, ["x", "s"]))
        run = Evaluator if dtype == "float64" else None  # onnxruntime has no such kernel
        point, (t_of, ct_of) = {"x": x.astype(dtype), "s": s}, (v.astype(dtype) for v in (t, ct))
        seeds, cts = {"x_u": t_of, "s_u": u}, {"y_ct": ct_of}
        along = run(pushed).run({**point, **seeds}) if run else ort(pushed, {**point, **seeds})
        back = run(pulled).run({**point, **cts}) if run else ort(pulled, {**point, **cts})
        found[dtype] = along["y_jvp"], back["x_vjp"], back["s_vjp"]
    for narrow, tolerance in (("float16", 4e-2), ("float32", 1e-4)):
        for got, want in zip(found[narrow], found["float64"], strict=True):
            error = tolerance * np.abs(want).max()
            np.testing.assert_allclose(got.astype(np.float64), want, rtol=0, atol=error)
        assert found[narrow][2].dtype == np.float32


def test_a_place_that_is_a_pixel_has_the_slope_towards_the_next() -> None:
    """As GridSample has it: 0 beyond the last."""
    how = 'mode="linear", coordinate_transformation_mode="asymmetric"'
    model = build(
        f"y = Resize<{how}, axes=[2, 3]>(k, , s)",
        {"s": (2,)},
        {"k": np.array([[[[1.0, 2.0, 5.0]]]])},
        dtype="float32",
    )
    s, u = np.array([1.0, 1.0], np.float32), np.array([0.0, 1.0], np.float32)
    values = ort(jvp(model).proto(), {"s": s, "s_u": u})
    np.testing.assert_array_equal(values["y"], [[[[1.0, 2.0, 5.0]]]])
    np.testing.assert_array_equal(values["y_jvp"], [[[[0.0, -3.0, 0.0]]]])
