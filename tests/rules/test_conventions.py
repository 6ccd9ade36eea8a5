"""What differences cannot say: slopes at kinks, who wins a tie, infinities, one shared mask."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers import Input, build, double, ints, ort

from onnxjvp import clone, jvp

INF = np.inf


@dataclass(frozen=True, eq=False)
class Kink:
    """At x, along u, the tangent is `tangent`: by convention, not by differences."""

    name: str
    body: str
    x: Any
    u: Any
    tangent: Any
    params: dict[str, Any] = field(default_factory=dict)
    opset: int = 18

    def __str__(self) -> str:
        return self.name


_BOUNDS = {"low": np.array(-1.0), "high": np.array(2.0)}
_IMAGE = (1, 1, 2, 3)
KINKS = [
    # the slope at a kink is that of the flat side
    Kink("Relu", "y = Relu(x)", [-1.0, 0.0, -0.0, 1.0], [5.0, 5.0, 5.0, 5.0], [0.0, 0.0, 0.0, 5.0]),
    Kink("Abs", "y = Abs(x)", [-1.0, 0.0, -0.0, 1.0], [5.0, 5.0, 5.0, 5.0], [-5.0, 0.0, 0.0, 5.0]),
    Kink(
        "Clip",
        "y = Clip(x, low, high)",
        [-2.0, -1.0, 0.0, 2.0, 3.0],
        [5.0] * 5,
        [0.0, 0.0, 5.0, 0.0, 0.0],
        _BOUNDS,
    ),
    Kink(
        "Clip-6",
        "y = Clip<min=-1.0, max=2.0>(x)",
        [-1.0, 0.0, 2.0],
        [5.0] * 3,
        [0.0, 5.0, 0.0],
        opset=10,
    ),
    Kink(
        "HardSigmoid",
        "y = HardSigmoid<alpha=0.25>(x)",
        [-2.0, 0.0, 2.0],
        [4.0] * 3,
        [0.0, 1.0, 0.0],
    ),
    Kink("HardSwish", "y = HardSwish(x)", [-3.0, 0.0, 3.0], [4.0] * 3, [0.0, 2.0, 4.0]),
    Kink(
        "ThresholdedRelu",
        "y = ThresholdedRelu<alpha=1.5>(x)",
        [1.0, 1.5, 2.0],
        [4.0] * 3,
        [0.0, 0.0, 4.0],
    ),
    Kink(
        "Shrink",
        "y = Shrink<lambd=0.5>(x)",
        [-1.0, -0.5, 0.5, 1.0],
        [4.0] * 4,
        [4.0, 0.0, 0.0, 4.0],
    ),
    Kink(
        "LpNormalization, p 1",
        "y = LpNormalization<p=1>(x)",
        [0.0, 2.0],
        [3.0, 5.0],
        [1.5, 0.0],
    ),
    *(
        Kink(
            f"LpNormalization, p {p}, at the origin",
            f"y = LpNormalization<p={p}>(x)",
            [0.0, 0.0],
            [3.0, 5.0],
            [0.0, 0.0],
        )
        for p in (1, 2)
    ),
    Kink("ReduceL1", "y = ReduceL1<keepdims=0>(x)", [-1.0, 0.0, 2.0], [3.0, 5.0, 7.0], 4.0),
    Kink("ReduceL2 at the origin", "y = ReduceL2<keepdims=0>(x)", [0.0, 0.0], [3.0, 5.0], 0.0),
    # a bound takes what it meets
    Kink(
        "Clip, in its lower bound",
        "y = Clip(c, x)",
        -1.0,
        5.0,
        [5.0, 5.0, 0.0],
        {"c": np.array([-2.0, -1.0, 0.0])},
    ),
    Kink(
        "Clip, in its upper bound",
        "y = Clip(c, , x)",
        1.0,
        5.0,
        [5.0, 5.0, 0.0],
        {"c": np.array([2.0, 1.0, 0.0])},
    ),
    Kink(
        "Clip, in bounds that are one",
        "y = Clip(c, x, x)",
        1.0,
        5.0,
        [5.0] * 3,
        {"c": np.arange(3.0)},
    ),
    # at a jump: the slopes of the piece that the runtime is on
    Kink(
        "Mod, of a multiple",
        "y = Mod<fmod=1>(x, c)",
        [2.0, -2.0],
        [5.0] * 2,
        [5.0] * 2,
        {"c": np.array(1.0)},
    ),
    Kink(
        "Mod, by a divisor",
        "y = Mod<fmod=1>(c, x)",
        [1.0, 0.5],
        [5.0] * 2,
        [-10.0, -20.0],
        {"c": np.array(2.0)},
    ),
    # else: the slope of the side x ≤ kink
    Kink("LeakyRelu", "y = LeakyRelu<alpha=0.5>(x)", [-1.0, 0.0, 1.0], [4.0] * 3, [2.0, 2.0, 4.0]),
    Kink(
        "PRelu",
        "y = PRelu(x, a)",
        [-1.0, 0.0, 1.0],
        [4.0] * 3,
        [2.0, 2.0, 4.0],
        {"a": np.array([0.5])},
    ),
    Kink("Celu", "y = Celu<alpha=0.5>(x)", [0.0, 1.0], [4.0, 4.0], [4.0, 4.0]),
    Kink("Elu", "y = Elu<alpha=0.5>(x)", [0.0, 1.0], [4.0, 4.0], [2.0, 4.0]),
    Kink("Selu", "y = Selu<alpha=2.0, gamma=0.25>(x)", [0.0, 1.0], [4.0, 4.0], [2.0, 1.0]),
    # powers of 0
    Kink("Pow 2 at 0", "y = Pow(x, e)", [0.0, -1.0], [3.0, 3.0], [0.0, -6.0], {"e": np.array(2.0)}),
    Kink("Pow 1 at 0", "y = Pow(x, e)", [0.0, -1.0], [3.0, 3.0], [3.0, 3.0], {"e": np.array(1.0)}),
    Kink("Pow 0 at 0", "y = Pow(x, e)", [0.0, -1.0], [3.0, 3.0], [0.0, 0.0], {"e": np.array(0.0)}),
    Kink(
        "Pow in the exponent",
        "y = Pow(c, x)",
        [2.0, 3.0, 0.0],
        [3.0] * 3,
        [0.0] * 3,
        {"c": np.array([0.0, -2.0, 0.0])},
    ),
    Kink(
        "Pow 0, 1 and 3 at 0",
        "y = Pow(x, e)",
        [0.0] * 3,
        [3.0] * 3,
        [0.0, 3.0, 0.0],
        {"e": np.array([0.0, 1.0, 3.0])},
    ),
    # ties: the first
    Kink(
        "MaxPool",
        "y = MaxPool<kernel_shape=[2, 3]>(x)",
        np.ones(_IMAGE),
        np.arange(1.0, 7).reshape(_IMAGE),
        np.full((1, 1, 1, 1), 1.0),
    ),
    Kink(
        "MaxPool, a tie further on",
        "y = MaxPool<kernel_shape=[2, 3]>(x)",
        np.reshape([0.0, 2.0, 1.0, 2.0, 2.0, 0.0], _IMAGE),
        np.arange(1.0, 7).reshape(_IMAGE),
        np.full((1, 1, 1, 1), 2.0),
    ),
    Kink(
        "MaxPool by columns",
        "y, i = MaxPool<kernel_shape=[2, 3], storage_order=1>(x)",
        np.reshape([0.0, 2.0, 1.0, 2.0, 2.0, 0.0], _IMAGE),
        np.arange(1.0, 7).reshape(_IMAGE),
        np.full((1, 1, 1, 1), 2.0),
    ),
    Kink(
        "LpPool of zeros",
        "y = LpPool<kernel_shape=[2, 2]>(x)",
        [[[[0.0, 0.0, 3.0], [0.0, 0.0, 4.0]]]],
        [[[[7.0, 7.0, 5.0], [7.0, 7.0, 5.0]]]],
        [[[[0.0, 7.0]]]],
    ),
    Kink(
        "LpPool of zeros, p 1",
        "y = LpPool<kernel_shape=[1, 3], p=1>(x)",
        [[[[0.0, -2.0, 3.0]]]],
        [[[[7.0, 1.0, 5.0]]]],
        [[[[4.0]]]],
    ),
    Kink(
        "GlobalLpPool of zeros",
        "y = GlobalLpPool<p=3>(x)",
        [[[0.0, -0.0]]],
        [[[7.0, 7.0]]],
        [[[0.0]]],
    ),
    Kink(
        "GridSample at a pixel",
        "y = GridSample<align_corners=1>(k, x)",
        [[[[0.0, -1.0]]]],
        [[[[1.0, 0.0]]]],
        [[[[2.0]]]],
        {"k": np.array([[[[0.0, 1.0, 3.0], [9.0, 9.0, 9.0]]]])},
        opset=20,
    ),
    Kink(
        "GridSample at the border",
        'y = GridSample<align_corners=1, padding_mode="border">(k, x)',
        [[[[1.0, -1.0]]]],
        [[[[1.0, 0.0]]]],
        [[[[0.0]]]],
        {"k": np.array([[[[0.0, 1.0, 3.0], [9.0, 9.0, 9.0]]]])},
        opset=20,
    ),
    Kink(
        "RoiAlign where a sample meets a pixel",
        "y = RoiAlign<sampling_ratio=1, "
        'coordinate_transformation_mode="output_half_pixel">(k, x, i)',
        [[0.0, 0.0, 2.0, 2.0]],
        [[0.0, 0.0, 2.0, 0.0]],
        [[[[2.0]]]],
        {"k": np.array([[[[9.0, 9.0, 9.0], [0.0, 1.0, 3.0], [9.0, 9.0, 9.0]]]]), "i": ints(0)},
    ),
    Kink(
        "GlobalMaxPool",
        "y = GlobalMaxPool(x)",
        np.reshape([0.0, 2.0, 1.0, 2.0, 2.0, 0.0], _IMAGE),
        np.arange(1.0, 7).reshape(_IMAGE),
        np.full((1, 1, 1, 1), 2.0),
    ),
    Kink("ReduceMax", "y = ReduceMax<keepdims=0>(x)", [1.0, 3.0, 3.0], [5.0, 7.0, 9.0], 7.0),
    Kink("ReduceMin", "y = ReduceMin<keepdims=0>(x)", [3.0, 1.0, 1.0], [5.0, 7.0, 9.0], 7.0),
    Kink(
        "ReduceMax over two axes",
        "y = ReduceMax<keepdims=0>(x, axes)",
        [[1.0, 3.0], [3.0, 0.0]],
        [[5.0, 7.0], [9.0, 11.0]],
        7.0,
        {"axes": ints(1, 0)},
    ),
    Kink(
        "Max, x first",
        "y = Max(x, c)",
        [1.0, 2.0],
        [5.0, 5.0],
        [5.0, 5.0],
        {"c": np.array([1.0, 1.0])},
    ),
    Kink(
        "Max, x second",
        "y = Max(c, x)",
        [1.0, 2.0],
        [5.0, 5.0],
        [0.0, 5.0],
        {"c": np.array([1.0, 1.0])},
    ),
    Kink(
        "Min, x first",
        "y = Min(x, c)",
        [1.0, 2.0],
        [5.0, 5.0],
        [5.0, 0.0],
        {"c": np.array([1.0, 1.0])},
    ),
    Kink(
        "Min, x second",
        "y = Min(c, x)",
        [1.0, 0.0],
        [5.0, 5.0],
        [0.0, 5.0],
        {"c": np.array([1.0, 1.0])},
    ),
    Kink("TopK", "y, i = TopK(x, k)", [1.0, 3.0, 3.0], [5.0, 7.0, 9.0], [7.0], {"k": ints(1)}),
    Kink(
        "TopK, smallest",
        "y, i = TopK<largest=0>(x, k)",
        [1.0, 3.0, 1.0, 1.0],
        [5.0, 7.0, 9.0, 11.0],
        [5.0, 9.0],
        {"k": ints(2)},
    ),
    Kink("Unique", "y = Unique(x)", [2.0, 1.0, 2.0], [5.0, 7.0, 9.0], [7.0, 5.0]),
    *(
        Kink(
            f"{op}, {how}, the data first",
            f'y = {op}<reduction="{how}">(x, i, c)',
            [1.0, 2.0],
            [5.0, 7.0],
            [5.0, 0.0],
            {"i": at, "c": np.array([1.0, 3.0 if how == "max" else 1.0])},
        )
        for how in ("max", "min")
        for op, at in (("ScatterElements", ints(0, 1)), ("ScatterND", ints(0, 1).reshape(2, 1)))
    ),
    *(
        Kink(
            f"{op}, {how}, the first update",
            f'y = {op}<reduction="{how}">(c, i, x)',
            [1.0, 2.0, 2.0, 1.0],
            [5.0, 7.0, 9.0, 11.0],
            [7.0 if how == "max" else 5.0],
            {"i": at, "c": np.array([0.0 if how == "max" else 3.0])},
        )
        for how in ("max", "min")
        for op, at in (
            ("ScatterElements", ints(0, 0, 0, 0)),
            ("ScatterND", np.zeros((4, 1), np.int64)),
        )
    ),
    Kink(
        "Max of three",
        "n = Neg(x)\ny = Max(n, x, c)",
        [0.0, 1.0, -1.0],
        [5.0] * 3,
        [-5.0, 5.0, -5.0],
        {"c": np.array([0.0, 1.0, 1.0])},
    ),
]


@pytest.mark.parametrize("kink", KINKS, ids=str)
@pytest.mark.parametrize("form", ["jvp", "split", "stacked", "substitute"])
def test_kinks_and_ties(kink: Kink, form: str) -> None:
    x, u = np.array(kink.x, np.float32), np.array(kink.u, np.float32)
    outputs = ("y", "i") if "i =" in kink.body else ("y",)
    params = {k: v if v.dtype == np.int64 else np.float32(v) for k, v in kink.params.items()}
    model = build(kink.body, {"x": x.shape}, params, outputs, dtype="float32", opset=kink.opset)
    if form == "jvp":
        result = jvp(model)
    elif form == "substitute":
        result = clone(model, method="substitute")
    else:
        result = clone(model, layout=form)
    values = ort(result.proto(), {"x": x, "x_u": u})
    np.testing.assert_array_equal(values["y_jvp"], np.array(kink.tangent, np.float32))
    np.testing.assert_array_equal(values["y"], ort(model, {"x": x})["y"])


# -- infinities --------------------------------------------------------------------------------

_MASK = {"c": np.array([[0.0, -INF, 0.0], [0.0, 0.0, -INF]])}
INFINITE = {
    "masked attention": "m = Add(x, c)\ny = Softmax(m)",
    "log of masked": "m = Add(x, c)\ns = LogSoftmax(m)\ny = Max(s, c)",
    "Relu of -inf": "m = Add(x, c)\ny = Relu(m)",
    "Clip of -inf": "m = Add(x, c)\ny = Clip(m, low)",
    "Sigmoid of -inf": "m = Add(x, c)\ny = Sigmoid(m)",
    "Tanh of -inf": "m = Add(x, c)\ny = Tanh(m)",
    "the largest beside -inf": "m = Add(x, c)\ny = ReduceMax(m, last)",
}


@pytest.mark.parametrize("layout", ["split", "stacked"])
@pytest.mark.parametrize("name", INFINITE)
def test_infinities_inside_leave_no_nan(name: str, layout: str) -> None:
    words = set(re.findall(r"\w+", INFINITE[name]))
    params = {**_MASK, "low": np.array(-1.0), "last": ints(-1)}
    model = build(INFINITE[name], {"x": ("N", 3)}, {k: v for k, v in params.items() if k in words})
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 2, 3))
    run, step = double(model), 1e-6
    with np.errstate(invalid="ignore"):
        wanted = (run({"x": x + step * u})["y"] - run({"x": x - step * u})["y"]) / (2 * step)
    values = double(clone(model, layout=layout).proto())({"x": x, "x_u": u})
    finite = np.isfinite(values["y"])
    assert finite.any()
    forms = {form: values[form][finite] for form in ("y_u", "y_0", "y_jvp")}
    forms["tangent"] = double(jvp(model).proto())({"x": x, "x_u": u})["y_jvp"][finite]
    for form, value in forms.items():
        assert np.isfinite(value).all(), form
    np.testing.assert_allclose(forms["tangent"], wanted[finite], atol=1e-8)
    np.testing.assert_allclose(forms["y_jvp"], wanted[finite], atol=1e-8)
    np.testing.assert_allclose(forms["y_u"] - forms["y_0"], wanted[finite], atol=1e-8)


# -- Dropout -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.9])
@pytest.mark.parametrize("form", ["jvp", "split", "stacked", "substitute"])
def test_dropout_shares_one_mask(ratio: float, form: str) -> None:
    """J u is u · y/x: the tangent is kept and scaled where, and as, x is; without a seed too."""
    inputs: dict[str, Input] = {"x": ("N", 50)}
    params = {"ratio": np.array(ratio), "mode": np.array(True)}
    model = build("h = Mul(x, x)\ny = Dropout(h, ratio, mode)", inputs, params, dtype="float32")
    if form == "jvp":
        result = jvp(model)
    elif form == "substitute":
        result = clone(model, method="substitute")
    else:
        result = clone(model, layout=form)
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 4, 50)).astype(np.float32)
    values = ort(result.proto(), {"x": x, "x_u": u})
    np.testing.assert_allclose(values["y_jvp"], 2 * u / x * values["y"], rtol=1e-4, atol=1e-4)
    dropped = (values["y"] == 0).mean()
    assert 0 < dropped < 1
    if form in ("split", "stacked"):
        assert not values["y_0"][values["y"] == 0].any()
        assert not values["y_u"][values["y"] == 0].any()


@pytest.mark.parametrize("op", ["RandomNormalLike", "RandomUniformLike"])
@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_random_factors_are_drawn_once(op: str, layout: str) -> None:
    model = build(f"r = {op}(x)\ny = Mul(x, r)", {"x": (4, 5)}, dtype="float32")
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((2, 4, 5)).astype(np.float32)
    values = ort(clone(model, layout=layout).proto(), {"x": x, "x_u": u})
    np.testing.assert_allclose(values["y_jvp"], u / x * values["y"], rtol=1e-4)
    np.testing.assert_allclose(values["y_u"], u / x * values["y"], rtol=1e-3, atol=1e-5)
