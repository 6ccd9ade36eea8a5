"""Regions: where they end, what shares them, and what is refused.

The truth is f itself, in float64 by the oracle, which knows no comparison: along a line it is
affine as long as the line stays in the region, and not beyond.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import MODELS, Array, Input, Values, build, ints, weights
from networks import relu_net
from onnx import ModelProto, TensorProto, helper

import onnxjvp
from onnxjvp.analysis import Regions, regions, walk
from onnxjvp.errors import InputError, NotConvergedError, UnsupportedOpError, UsageError
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session

FLOATS = int(TensorProto.FLOAT)


@dataclass(frozen=True)
class Case:
    """A network, and how many of its comparisons there are."""

    name: str
    body: str
    units: int
    inputs: Mapping[str, Input] = field(default_factory=lambda: {"x": ("N", 6)})
    params: Mapping[str, Any] = field(default_factory=dict)
    #: factor of the points that are drawn
    wide: float = 1.0
    #: f is affine on both sides of some boundaries, by the same map
    silent: bool = False


def _steps(op: str, units: int = 12, **more: Any) -> Case:
    """x, moved and turned, through an elementwise operator; the sum of two rows of its results."""
    body = f"h = MatMul(x, W)\na = {op}\ny = MatMul(a, V)"
    params = {"W": weights(6, 6), "V": weights(6, 2), **more.pop("params", {})}
    return Case(op.split("(")[0].split()[0], body, units, params=params, **more)


def _image(name: str, op: str, units: int, sizes: tuple[int, int] = (5, 7)) -> Case:
    body = f"h = Conv<pads=[1,1,1,1]>(x, K)\na = {op}\nf = Flatten(a)\ny = ReduceSum(f, last)"
    params = {"K": weights(2, 1, 3, 3), "last": ints(1)}
    return Case(name, body, units, {"x": (1, 1, *sizes)}, params)


IF = """
s = ReduceSum(h)
c = Greater(s, zero)
a = If(c) <
  then_branch = then () => (float64[N, 6] p) { q = Relu(h) p = Mul(q, two) },
  else_branch = other () => (float64[N, 6] r) { r = Abs(h) }
>
"""

CASES = [
    _steps("Relu(h)"),
    _steps("LeakyRelu<alpha=0.3>(h)"),
    _steps("PRelu(h, s)", params={"s": weights(6)}),
    _steps("ThresholdedRelu<alpha=0.4>(h)"),
    _steps("Shrink<bias=0.2, lambd=0.7>(h)"),
    _steps("Abs(h)"),
    _steps("HardSigmoid<alpha=0.3, beta=0.4>(h)"),
    _steps("Clip(h, low, high)", params={"low": np.float64(-0.5), "high": np.float64(0.8)}),
    _steps("Clip(h, , high)", params={"high": np.float64(0.8)}),
    _steps("Floor(h)"),
    _steps("Ceil(h)"),
    _steps("Round(h)"),
    _steps("Sign(h)"),
    _steps("Max(h, c, x)", params={"c": weights(6, seed=1)}),
    _steps("Min(h, c)", params={"c": weights(1, seed=2)}),
    _steps("Mod<fmod=1>(h, c)", params={"c": np.full(6, 0.7)}),
    Case(
        "live bounds",
        "h = MatMul(x, W)\nl = ReduceMin<keepdims=0>(x)\ny = Clip(h, l, c)",
        9,
        {"x": (2, 4)},
        {"W": weights(4, 4), "c": np.float64(0.5)},
        silent=True,  # what is below both bounds
    ),
    Case(
        "Cast to an integer",
        "h = MatMul(x, W)\ni = Cast<to=7>(h)\nf = Cast<to=FLOAT>(i)\ny = Sub(h, f)",
        12,
        params={"W": weights(6, 6)},
        wide=3,
    ),
    Case(
        "a condition of Where",
        "h = MatMul(x, W)\nc = Less(h, x)\nd = Not(c)\na = Where(d, h, x)\ny = MatMul(a, W)",
        12,
        params={"W": weights(6, 6)},
    ),
    Case(
        "several conditions",
        """
        h = MatMul(x, W)
        c = GreaterOrEqual(h, t)
        d = LessOrEqual(x, t)
        e = Xor(c, d)
        a = Where(e, h, zero)
        y = Add(a, x)
        """,
        24,
        params={"W": weights(6, 6), "t": np.float64(0.2), "zero": np.float64(0)},
        silent=True,
    ),
    Case(
        "ReduceMax",
        "h = MatMul(x, W)\ny = ReduceMax<keepdims=0>(h, axes)",
        2,
        params={"W": weights(6, 6), "axes": ints(-1)},
    ),
    Case(
        "ReduceMin of two axes",
        "h = Reshape(x, s)\ny = ReduceMin(h, axes)",
        3,
        {"x": (4, 6)},
        {"s": ints(4, 3, 2), "axes": ints(0, 2)},
    ),
    Case(
        "ArgMax and Gather",
        "h = MatMul(x, W)\ni = ArgMax<axis=1, keepdims=1>(h)\ny = GatherElements<axis=1>(x, i)",
        2,
        params={"W": weights(6, 6)},
    ),
    Case(
        "ArgMin of the last",
        """
        h = MatMul(x, W)
        i = ArgMin<axis=0, select_last_index=1>(h)
        r = Gather(T, i)
        y = Mul(r, h)
        """,
        6,
        params={"W": weights(6, 6), "T": weights(2, 1)},
    ),
    Case("Hardmax", "h = Hardmax<axis=1>(x)\ny = MatMul(h, W)", 2, params={"W": weights(6, 1)}),
    Case(
        "TopK",
        "h = MatMul(x, W)\nv, i = TopK<axis=1>(h, k)\ny = MatMul(v, V)",
        4,
        params={"W": weights(6, 6), "V": weights(2, 1), "k": ints(2)},
    ),
    Case(
        "TopK of the smallest",
        "v, i = TopK<axis=0, largest=0>(x, k)\ny = MatMul(V, v)",
        18,
        {"x": (5, 6)},
        {"V": weights(1, 3), "k": ints(3)},
    ),
    Case(
        "Mod",
        "h = MatMul(x, W)\na = Add(h, c)\ny = Mod<fmod=1>(a, b)",
        12,
        params={"W": weights(6, 6), "b": np.float64(0.9), "c": np.float64(-5)},
    ),
    Case("ReduceL1", "h = MatMul(x, W)\ny = ReduceL1(h)", 12, params={"W": weights(6, 6)}),
    _image("MaxPool", "MaxPool<kernel_shape=[2,2], strides=[2,2]>(h)", 12),
    _image("MaxPool with padding", "MaxPool<kernel_shape=[3,2], pads=[1,0,2,1]>(h)", 84),
    _image(
        "MaxPool dilated, rounded up",
        "MaxPool<kernel_shape=[2,2], dilations=[2,1], strides=[2,3], ceil_mode=1>(h)",
        12,
    ),
    _image(
        "MaxPool of the same size",
        'MaxPool<kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER">(h)',
        24,
    ),
    _image("GlobalMaxPool", "GlobalMaxPool(h)", 2),
    Case(
        "If",
        f"h = MatMul(x, W)\n{' '.join(IF.split())}\ny = MatMul(a, W)",
        13,
        params={"W": weights(6, 6), "zero": np.float64(0), "two": np.float64(2)},
    ),
    Case(
        "a network",
        """
        h = Gemm(x, W1, b1)
        a = Relu(h)
        i = MatMul(a, W2)
        c = Clip(i, zero, six)
        r = ReduceMax<keepdims=1>(c, last)
        d = Sub(c, r)
        e = LeakyRelu(d)
        y = MatMul(e, W3)
        """,
        2 * (8 + 8 + 1 + 8),
        params={
            "W1": weights(6, 8),
            "b1": weights(8),
            "W2": weights(8, 8, seed=3),
            "W3": weights(8, 3),
            "zero": np.float64(0),
            "six": np.float64(6),
            "last": ints(1),
        },
        silent=True,  # the maximum of what is clipped moves with it
    ),
]


def model_of(case: Case, dtype: str = "float64") -> ModelProto:
    return build(case.body, case.inputs, case.params, dtype=dtype)


def drawn(case: Case, seed: int) -> Array:
    (shape,) = case.inputs.values()
    assert isinstance(shape, tuple)
    size = [2 if isinstance(n, str) else n for n in shape]
    return case.wide * np.random.default_rng(seed).standard_normal(size)


def along(f: Evaluator, x: Array, u: Array, t: float) -> Array:
    return f.run({"x": x + t * u}, ["y"])["y"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_f_is_affine_up_to_the_boundary_and_not_beyond(case: Case) -> None:
    model = model_of(case)
    found, f, met = regions(model, precise=True), Evaluator(model), 0
    for seed in range(4):
        x, u = drawn(case, seed), drawn(case, seed + 100)
        here = found.at({"x": x})
        assert here.units == case.units
        for sign, edge in zip((1, -1), found.boundary({"x": x}, {"x": u}), strict=True):
            t = edge.distance
            assert 0 < t < math.inf
            assert edge.distance == pytest.approx(edge.margin / -edge.rate)
            assert edge.length == pytest.approx(t * float(np.linalg.norm(u)))
            v = sign * u
            y = {share: along(f, x, v, share * t) for share in (0, 0.25, 0.5, 0.999999)}
            slope = (y[0.5] - y[0.25]) / (0.25 * t)
            scale = 1 + np.abs(y[0]).max() + np.abs(slope).max() * t
            for share, value in y.items():
                np.testing.assert_allclose(value, y[0] + share * t * slope, atol=1e-9 * scale)
            beyond = along(f, x, v, 1.001 * t) - (y[0] + 1.001 * t * slope)
            met += bool(np.abs(beyond).max() > 1e-7 * np.abs(slope).max() * t)
            assert not found.differences({"x": x}, {"x": x + 0.999999 * t * v})
            first, *_ = found.differences({"x": x}, {"x": x + 1.000001 * t * v})
            assert first.node == edge.node
    assert met if case.silent else met == 8


