"""Networks with every kind of comparison, and how a test follows one to a boundary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from helpers import Array, Input, Values, build, ints, weights
from onnx import ModelProto

from onnxjvp.analysis import Regions
from onnxjvp.oracle import Evaluator


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
    return Case(op.split("(", maxsplit=1)[0], body, units, params=params, **more)


def _image(name: str, op: str, units: int, sizes: tuple[int, int] = (5, 7)) -> Case:
    body = f"h = Conv<pads=[1,1,1,1]>(x, K)\na = {op}\nf = Flatten(a)\ny = ReduceSum(f, last)"
    params = {"K": weights(2, 1, 3, 3), "last": ints(1)}
    return Case(name, body, units, {"x": (1, 1, *sizes)}, params)


IF = (
    "If(c) <"
    "then_branch = then () => (double[N, 6] p) { q = Relu(h) p = Mul(q, two) },"
    "else_branch = other () => (double[N, 6] r) { r = Abs(h) }>"
)

STEP = (
    "(a, r) => (next, out) {m = MatMul(a, w) n = Add(m, r) k = ReduceMax<keepdims=1>(n, last) "
    "j = Sub(n, k) i = Clip(j, low, high) next = LeakyRelu(i) out = Relu(n)}"
)
TURN = (
    "(int64 t, bool k, a) => (k2, next, i) {k2 = Identity(k) m = MatMul(a, w) n = Add(m, c) "
    "next = LeakyRelu(n) i = Sign(m)}"
)

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
        params={"W": weights(6, 6), "T": weights(2)},
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
    Case(
        "Mod of live numbers",
        "a, b = Split<axis=1, num_outputs=2>(x)\ny = Mod<fmod=1>(a, b)",
        6,
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
        f"h = MatMul(x, W)\ns = ReduceSum(h)\nc = Greater(s, zero)\na = {IF}\ny = MatMul(a, W)",
        13,
        params={"W": weights(6, 6), "zero": np.float64(0), "two": np.float64(2)},
    ),
    Case(
        "Scan",
        f"h, v = Scan<num_scan_inputs=1, scan_input_directions=[1], body=b {STEP}>(h0, x)\n"
        "y = MatMul(v, w)",
        4 * (2 + 6 + 6 + 6),
        {"x": (4, 2, 3)},
        {
            **{"w": weights(3, 3), "h0": weights(2, 3, seed=1), "last": ints(-1)},
            **{"low": np.float64(-1), "high": np.float64(-0.1)},
        },
        silent=True,  # a maximum of what is clipped
    ),
    Case(
        "Loop",
        f"h, n = Loop<body=b {TURN}>(turns, yes, x)\ny = MatMul(h, w)",
        3 * 6,  # nobody reads what the turns give out, the signs
        {"x": (2, 3)},
        {"w": weights(3, 3), "turns": np.array(3), "yes": np.array(True), "c": weights(3)},
        silent=True,
    ),
    Case(
        "a function",
        'y = com.microsoft.FusedGemm<activation="Relu">(x, W, b)',
        6,
        params={"W": weights(6, 3), "b": weights(3)},
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


def follow(found: Regions, f: Evaluator, x: Values, u: Values, edge: Any, output: str) -> bool:
    """Whether f leaves its affine map at a boundary, having kept to it until there."""
    t = edge.distance

    def at(step: float) -> Array:
        return f.run(moved(x, u, step), [output])[output]

    inside = {share: at(share * t) for share in (0, 0.25, 0.5, 0.999999)}
    slope = (inside[0.5] - inside[0.25]) / (0.25 * t)
    scale = 1 + np.abs(inside[0]).max() + np.abs(slope).max() * t
    for share, value in inside.items():
        np.testing.assert_allclose(value, inside[0] + share * t * slope, atol=1e-9 * scale)
    assert not found.differences(x, moved(x, u, 0.999999 * t))
    first, *_ = found.differences(x, moved(x, u, 1.000001 * t))
    assert first.node == edge.node
    beyond = at(1.001 * t) - (inside[0] + 1.001 * t * slope)
    return bool(np.abs(beyond).max() > 1e-7 * np.abs(slope).max() * t)


def moved(x: Values, u: Values, t: float) -> Values:
    return {n: a.astype(np.float64) + t * u[n] if n in u else a for n, a in x.items()}
