"""The float64 oracle: kernels against onnxruntime, differences against known derivatives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from onnxjvp.oracle import (
    Evaluator,
    NoOracleError,
    convolution,
    directional_derivative,
    kernels,
    to_double,
)
from onnxjvp.oracle.special import erf
from onnxjvp.runtime import Session

Array = np.ndarray[Any, Any]


#: operators whose outputs behind the first are indices
_INDICES = ("MaxPool", "Unique")


def one_node(
    op_type: str, inputs: list[Array], outputs: int = 1, opset: int = 21, **attributes: Any
) -> tuple[onnx.ModelProto, dict[str, Array], dict[str, Array]]:
    """A model of one node, its feeds, and what onnxruntime makes of them."""
    feeds = {f"i{k}": array for k, array in enumerate(inputs)}
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op_type, list(feeds), results, **attributes)
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    kinds = [TensorProto.FLOAT, TensorProto.INT64 if op_type in _INDICES else TensorProto.FLOAT]

    def model(shapes: list[Any]) -> onnx.ModelProto:
        ends = [
            helper.make_tensor_value_info(name, kinds[min(k, 1)], shapes[k])
            for k, name in enumerate(results)
        ]
        graph = helper.make_graph([node], "g", infos, ends)
        imports = [helper.make_opsetid("", opset)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    expected = Session(model([None] * outputs), optimize=False).run(feeds)
    # named, as onnx's own inference counts one window too many in some cases of ceil_mode
    shapes = [[f"d{axis}" for axis in range(expected[name].ndim)] for name in results]
    return model(shapes), feeds, expected


def assert_like_the_runtime(
    op_type: str, inputs: list[Array], outputs: int = 1, opset: int = 21, **attributes: Any
) -> None:
    """Our kernel (not onnx.reference's) gives what onnxruntime does in float32, in float64."""
    assert op_type in {kernel.__name__ for kernel in kernels.KERNELS}
    model, feeds, expected = one_node(op_type, inputs, outputs, opset, **attributes)
    found = Evaluator(model).run(feeds)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        if value.dtype.kind == "f":
            assert found[name].dtype == np.float64
            scale = np.abs(value).max(initial=1e-3)
            np.testing.assert_allclose(found[name], value, rtol=0, atol=2e-6 * scale)
        else:
            np.testing.assert_array_equal(found[name], value)


def normal(rng: np.random.Generator, *shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


def _window(rng: np.random.Generator, rank: int, kernel: list[int], pool: bool) -> dict[str, Any]:
    """Random strides, dilations and padding."""
    drawn: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": rng.integers(1, 4, rank).tolist(),
        "dilations": rng.integers(1, 3, rank).tolist(),
    }
    padding = rng.choice(
        ["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"], p=[0.55, 0.15, 0.15, 0.15]
    )
    if padding == "NOTSET":
        most = min(kernel) - 1 if pool else 2  # the runtime wants pool padding below the kernel
        drawn["pads"] = rng.integers(0, most + 1, 2 * rank).tolist()
    else:
        drawn["auto_pad"] = str(padding)
        if padding != "VALID":
            drawn["dilations"] = [1] * rank
            # onnxruntime computes negative padding where the stride exceeds the kernel
            drawn["strides"] = np.minimum(drawn["strides"], kernel).tolist()
    return drawn


@pytest.mark.parametrize("seed", range(60))
def test_conv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, group, per_group = int(rng.integers(1, 4)), *rng.integers(1, 4, 2).tolist()
    if rng.random() < 0.25:
        group, per_group = 6, 1  # depthwise
    kernel = rng.integers(1, 4, rank).tolist()
    X = normal(rng, 2, group * per_group, *rng.integers(7, 11, rank).tolist())
    W = normal(rng, group * int(rng.integers(1, 4)), per_group, *kernel)
    inputs = [X, W] if rng.random() < 0.5 else [X, W, normal(rng, W.shape[0])]
    attributes = _window(rng, rank, kernel, pool=False)
    assert_like_the_runtime("Conv", inputs, group=group, **attributes)


def test_conv_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "_BLOCK", 100)
    rng = np.random.default_rng(0)
    X, W = normal(rng, 2, 4, 13, 9), normal(rng, 6, 2, 3, 3)
    assert_like_the_runtime("Conv", [X, W], group=2, pads=[1, 0, 1, 2], strides=[2, 1])


@pytest.mark.parametrize("seed", range(60))
def test_conv_transpose(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank, group, per_group = int(rng.integers(1, 3)), *rng.integers(1, 4, 2).tolist()
    kernel = rng.integers(2, 5, rank).tolist()
    X = normal(rng, 2, group * per_group, *rng.integers(3, 7, rank).tolist())
    W = normal(rng, X.shape[1], int(rng.integers(1, 4)), *kernel)
    strides = rng.integers(2, 4, rank).tolist()
    attributes: dict[str, Any] = {"strides": strides}
    match seed % 3:
        case 0:
            attributes["pads"] = rng.integers(0, 2, 2 * rank).tolist()
            attributes["output_padding"] = rng.integers(0, 2, rank).tolist()
            attributes["dilations"] = rng.integers(1, 3, rank).tolist()
        case 1:
            upper = "SAME_UPPER" if rng.random() < 0.5 else "SAME_LOWER"
            attributes |= {"auto_pad": upper, "strides": np.minimum(strides, kernel).tolist()}
        case 2:
            full = [(n - 1) * s + k for n, s, k in zip(X.shape[2:], strides, kernel, strict=True)]
            attributes["output_shape"] = [n - int(rng.integers(0, 2)) for n in full]
    inputs = [X, W] if rng.random() < 0.5 else [X, W, normal(rng, W.shape[1] * group)]
    assert_like_the_runtime("ConvTranspose", inputs, group=group, **attributes)


@pytest.mark.parametrize("seed", range(60))
def test_max_pool(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, rank).tolist()
    # negative throughout, so that padding with zeros would show; ties, so that the choice does
    X = -1 - np.abs(np.round(normal(rng, 2, 3, *rng.integers(7, 11, rank).tolist())))
    attributes = _window(rng, rank, kernel, pool=True)
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = int(rng.integers(0, 2))
    assert_like_the_runtime("MaxPool", [X], 1 + seed % 2, **attributes)


@pytest.mark.parametrize("op_type", ["Conv", "ConvTranspose", "MaxPool", "AveragePool"])
def test_empty_batch(op_type: str) -> None:
    X, W = np.zeros((0, 3, 5, 5), np.float32), normal(np.random.default_rng(0), 3, 3, 2, 2)
    inputs = [X, W] if "Conv" in op_type else [X]
    assert_like_the_runtime(op_type, inputs, kernel_shape=[2, 2])


def test_max_pool_indices_by_column() -> None:
    X = normal(np.random.default_rng(0), 2, 3, 6, 5)
    assert_like_the_runtime("MaxPool", [X], 2, kernel_shape=[2, 2], storage_order=1)


@pytest.mark.parametrize("seed", range(60))
def test_average_pool(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, rank).tolist()
    X = normal(rng, 2, 3, *rng.integers(7, 11, rank).tolist())
    attributes = _window(rng, rank, kernel, pool=True)
    attributes["count_include_pad"] = int(rng.integers(0, 2))
    if "auto_pad" not in attributes:
        attributes["ceil_mode"] = int(rng.integers(0, 2))
    assert_like_the_runtime("AveragePool", [X], **attributes)


RNG = np.random.default_rng(0)
X4 = normal(RNG, 2, 6, 5, 4)
CHANNELS = [normal(RNG, 6), normal(RNG, 6), normal(RNG, 6), np.abs(normal(RNG, 6)) + 0.5]
ROWS = np.array([[2, 0, 1], [1, 1, 2]], np.int64)
PAIRS = np.array([[[0, 1], [1, 2]], [[0, 0], [1, 0]]], np.int64)
DATA = normal(RNG, 4, 3)

NODES: dict[str, tuple[str, list[Array], int, int, dict[str, Any]]] = {
    "GlobalAveragePool": ("GlobalAveragePool", [X4], 1, 21, {}),
    "GlobalMaxPool": ("GlobalMaxPool", [X4], 1, 21, {}),
    "GlobalMaxPool, 1-D": ("GlobalMaxPool", [X4[..., 0]], 1, 21, {}),
    "LRN odd": ("LRN", [X4], 1, 21, {"size": 3, "alpha": 0.5, "beta": 0.6, "bias": 2.0}),
    "LRN wide": ("LRN", [X4], 1, 21, {"size": 9, "alpha": 0.5}),
    "BatchNormalization": ("BatchNormalization", [X4, *CHANNELS], 1, 21, {"epsilon": 1e-3}),
    "BatchNormalization opset 9": ("BatchNormalization", [X4, *CHANNELS], 1, 9, {}),
    "BatchNormalization training": (
        "BatchNormalization",
        [X4, *CHANNELS],
        3,
        21,
        {"training_mode": 1, "momentum": 0.75},
    ),
    "BatchNormalization matrix": ("BatchNormalization", [X4[:, :, 0, 0], *CHANNELS], 1, 21, {}),
    "LayerNormalization": ("LayerNormalization", [X4, X4[0, 0], X4[0, 1]], 1, 21, {"axis": 2}),
    "LayerNormalization all": ("LayerNormalization", [X4, X4[0, 0, 0]], 3, 21, {"epsilon": 0.1}),
    "GroupNormalization": ("GroupNormalization", [X4, *CHANNELS[:2]], 1, 21, {"num_groups": 2}),
    "InstanceNormalization": ("InstanceNormalization", [X4, *CHANNELS[:2]], 1, 21, {}),
    "RMSNormalization": ("RMSNormalization", [X4, X4[0, 0]], 1, 23, {"axis": -2, "epsilon": 0.1}),
    "MeanVarianceNormalization": (
        "MeanVarianceNormalization",
        [X4],
        1,
        21,
        {"axes": [0, 2, 3]},
    ),
    "LpNormalization": ("LpNormalization", [X4], 1, 21, {"axis": 1}),
    "LpNormalization, p 1": ("LpNormalization", [X4], 1, 21, {"axis": 0, "p": 1}),
    "LpNormalization of zeros": ("LpNormalization", [0 * X4], 1, 21, {"p": 1}),
    "Mean": ("Mean", [DATA[:, :1], DATA, DATA[0]], 1, 21, {}),
    "Softsign": ("Softsign", [X4], 1, 21, {}),
    "Softsign scalar": ("Softsign", [np.array(0.7, np.float32)], 1, 21, {}),
    "Pad": ("Pad", [DATA, np.array([1, 0, 2, 3]), np.array(2.5, np.float32)], 1, 21, {}),
    "Pad crop": ("Pad", [DATA, np.array([-1, 2, -2, -1])], 1, 21, {}),
    "Pad axes": (
        "Pad",
        [DATA, np.array([-1, 2]), np.array(2.5, np.float32), np.array([-2])],
        1,
        21,
        {},
    ),
    "Pad reflect": ("Pad", [DATA, np.array([1, 0, 2, 2])], 1, 21, {"mode": "reflect"}),
    "Pad edge": ("Pad", [DATA, np.array([1, 0, 2, 2])], 1, 21, {"mode": "edge"}),
    "Pad wrap": ("Pad", [DATA, np.array([1, 0, 2, 2])], 1, 21, {"mode": "wrap"}),
    "Erf": ("Erf", [3 * X4], 1, 21, {}),
    "Gelu": ("Gelu", [3 * X4], 1, 21, {}),
    "Gelu tanh": ("Gelu", [3 * X4], 1, 21, {"approximate": "tanh"}),
    "Celu": ("Celu", [3 * X4], 1, 21, {"alpha": 0.7}),
    "GatherElements": ("GatherElements", [DATA, ROWS], 1, 21, {}),
    "GatherElements axis": ("GatherElements", [DATA[:2], ROWS - 3], 1, 21, {"axis": -1}),
    "CumSum": ("CumSum", [DATA, np.array([1])], 1, 21, {}),
    "CumSum before": ("CumSum", [DATA, np.array(-1)], 1, 21, {"exclusive": 1}),
    "CumSum back": ("CumSum", [DATA, np.array([0])], 1, 21, {"exclusive": 1, "reverse": 1}),
    "OneHot": ("OneHot", [ROWS - 2, np.array(3), DATA[0, :2]], 1, 21, {"axis": 1}),
    "OneHot at the end": ("OneHot", [ROWS * 2, np.array([3]), DATA[0, :2]], 1, 21, {}),
    "Unique": ("Unique", [ROWS.astype(np.float32)], 4, 21, {}),
    "Unique, not sorted": ("Unique", [ROWS.astype(np.float32)], 4, 21, {"sorted": 0}),
    "Unique of columns": ("Unique", [DATA[:, [1, 0, 1]]], 4, 21, {"axis": 1, "sorted": 0}),
    "ScatterElements": ("ScatterElements", [DATA, ROWS[:1], DATA[:1]], 1, 21, {}),
    "ScatterElements add": (
        "ScatterElements",
        [DATA, ROWS - 3, DATA[:2]],
        1,
        21,
        {"axis": 1, "reduction": "add"},
    ),
    "ScatterND": ("ScatterND", [DATA, PAIRS, PAIRS[..., 0].astype(np.float32) + 7], 1, 21, {}),
    "RotaryEmbedding": (
        "RotaryEmbedding",
        [X4[..., :4], X4[:, 0, :, :2], X4[:, 1, :, :2]],
        1,
        23,
        {},
    ),
    "RotaryEmbedding of rows": (
        "RotaryEmbedding",
        [X4[:, 0, :3], DATA[:, :1], DATA[:, 1:2], np.arange(6).reshape(2, 3) % 4],
        1,
        23,
        {"num_heads": 2, "rotary_embedding_dim": 2, "interleaved": 1},
    ),
    "Attention": ("Attention", [X4[:, :2], X4[:, 2:4], X4[:, :2] + 1], 1, 23, {"is_causal": 1}),
    "Attention, scores": (
        "Attention",
        [X4[:, :2], X4[:, 2:4], X4[:, :2] + 1],
        4,
        23,
        {"softcap": 1.5, "qk_matmul_output_mode": 0},
    ),
    "ScatterND max": (
        "ScatterND",
        [DATA, ROWS[:, :1], DATA[:2]],
        1,
        21,
        {"reduction": "max"},
    ),
}


@pytest.mark.parametrize("case", NODES)
def test_other_kernels(case: str) -> None:
    op_type, inputs, outputs, opset, attributes = NODES[case]
    assert_like_the_runtime(op_type, inputs, outputs, opset, **attributes)


def test_lrn_of_even_size_leans_forward() -> None:
    """Half a window, rounded down, before a channel, and the rest after (onnxruntime: odd only)."""
    X = X4.astype(np.float64)
    padded = np.pad(X**2, [(0, 0), (1, 2), (0, 0), (0, 0)])
    total = sum(padded[:, i : i + 6] for i in range(4))
    found = kernels.LRN(X, size=4, alpha=0.5, beta=0.5)
    np.testing.assert_allclose(found, X / np.sqrt(1 + 0.125 * total), rtol=1e-14)


def test_every_kernel_is_tested() -> None:
    tested = {op_type for op_type, *_ in NODES.values()}
    tested |= {"Conv", "ConvTranspose", "MaxPool", "AveragePool"}
    tested |= {"RNN", "GRU", "LSTM", "Scan", "Loop"}  # tests/test_oracle_recurrent.py
    # tests/test_oracle_sampling.py
    tested |= {"GridSample", "AffineGrid", "Resize", "Col2Im", "DeformConv", "MaxRoiPool"}
    tested |= {"LpPool", "GlobalLpPool"}
    # tests/test_oracle_newest.py
    tested |= {"LinearAttention", "FlexAttention", "Adagrad", "Adam", "Momentum"}
    tested |= {"CausalConvWithState"}
    assert {kernel.__name__ for kernel in kernels.KERNELS} == tested


def test_erf_is_exact() -> None:
    points = [np.linspace(-7, 7, 100_003), np.logspace(-300, 0.8, 5_000), [0.0, np.inf, -np.inf]]
    x = np.concatenate(points)
    exact = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), exact, rtol=3e-16, atol=0)
    assert np.isnan(erf(np.array([np.nan]))).all()
    assert erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)


def test_kernels_compute_in_float64() -> None:
    """A float32 anywhere inside would show as noise in a difference over 1e-9."""
    jumps = {"LpNormalization of zeros"}
    chosen = [row for name, row in NODES.items() if name not in jumps]
    cases = [row for row in chosen if "Norm" in row[0] or "elu" in row[0]]
    for op_type, inputs, outputs, opset, attributes in cases:
        model, feeds, _ = one_node(op_type, inputs, outputs, opset, **attributes)
        evaluator, x = Evaluator(model), feeds["i0"].astype(np.float64)
        ahead, behind, far, back = (
            evaluator.run({**feeds, "i0": x + step * np.cos(x)})["o0"]
            for step in (1e-9, -1e-9, 1e-5, -1e-5)
        )
        near = (ahead - behind) / 2e-9
        np.testing.assert_allclose(
            near, (far - back) / 2e-5, rtol=0, atol=1e-5 * np.abs(near).max()
        )


# -- to_double ---------------------------------------------------------------------------------

MIXED = parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, 2] x, float16[N, 2] h, bool c, int64[N, 2] k) => (float16[N, 2] y, int64[N, 2] n)
    <float[2] w = {1.5, 2.5}, int64[1] two = {2}>
    {
        a = Cast <to = 10> (x)
        b = Add (a, h)
        e = Constant <value_float = 0.5> ()
        f = Cast <to = 10> (e)
        z = ConstantOfShape (two)
        o = ConstantOfShape <value = float[1] {3.0}> (two)
        q = Add (z, o)
        r = Cast <to = 10> (q)
        s = If (c) <
            then_branch = t () => (float16[N, 2] u) <float[2] v = {2.0, 4.0}> {u = Mul (b, v)},
            else_branch = l () => (float16[N, 2] p) {
                m = Constant <value = float {8.0}> ()
                p = Mul (b, m)
            }
        >
        t1 = Mul (s, w)
        t2 = Add (t1, f)
        y = Add (t2, r)
        n = Add (k, k)
    }"""
)


def _halve(tensor: TensorProto) -> None:
    """The parser reads no float16 numbers."""
    half = numpy_helper.to_array(tensor).astype(np.float16)
    tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))


_THEN, _ELSE = (attribute.g for attribute in MIXED.graph.node[8].attribute)
for _tensor in (MIXED.graph.initializer[0], _THEN.initializer[0], _ELSE.node[0].attribute[0].t):
    _halve(_tensor)


def test_to_double_reaches_every_type() -> None:
    double = to_double(MIXED)
    onnx.checker.check_model(double, full_check=True)
    text = onnx.printer.to_text(double)
    assert "float16" not in text
    assert "float[" not in text
    assert [info.type.tensor_type.elem_type for info in double.graph.output] == [
        TensorProto.DOUBLE,
        TensorProto.INT64,
    ]
    assert MIXED.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT


@pytest.mark.parametrize("condition", [True, False])
def test_the_double_model_keeps_its_meaning(condition: bool) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "x": normal(rng, 3, 2),
        "h": normal(rng, 3, 2).astype(np.float16),
        "c": np.array(condition),
        "k": np.arange(6).reshape(3, 2),
    }
    total = feeds["x"].astype(np.float64) + feeds["h"].astype(np.float64)
    factor = np.array([2.0, 4.0]) if condition else 8.0
    found = Evaluator(MIXED).run(feeds)
    np.testing.assert_allclose(found["y"], total * factor * [1.5, 2.5] + 3.5, rtol=1e-15)
    np.testing.assert_array_equal(found["n"], 2 * feeds["k"])
    runtime = Session(MIXED).run(feeds)["y"]
    np.testing.assert_allclose(found["y"], runtime, rtol=2e-3, atol=2e-3)


def test_operands_that_may_not_be_double_stay_float32() -> None:
    scales = numpy_helper.from_array(np.array([1, 1, 2], np.float32), "scales")
    graph = helper.make_graph(
        [
            helper.make_node("Resize", ["x", "", "scales"], ["r"], mode="linear"),
            helper.make_node("QuantizeLinear", ["r", "step"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "step"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", 1, [1, 1, 4])],
        [helper.make_tensor_value_info("y", 1, [1, 1, 8])],
        [scales, numpy_helper.from_array(np.array(0.1, np.float32), "step")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(to_double(model), full_check=True)
    feeds = {"x": np.array([[[0.11, 0.72, 1.93, 0.42]]], np.float32)}
    found = Evaluator(model).run(feeds)["y"]
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, Session(model).run(feeds)["y"], rtol=1e-6)


# -- Evaluator ---------------------------------------------------------------------------------

CHAIN = parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 18]>'
    "g (float[2] x) => (float[2] y, float[2] s) <float[2] w = {2.0, 3.0}>"
    "{h = Mul(x, w) s = Sin(h) y = Exp(s)}"
)


def test_parameters_and_inner_values_can_be_replaced() -> None:
    evaluator = Evaluator(CHAIN)
    x, w = np.array([0.3, 0.7]), np.array([0.5, 0.25])
    np.testing.assert_allclose(evaluator.run({"x": x, "w": w})["s"], np.sin(x * w), rtol=1e-15)
    np.testing.assert_allclose(evaluator.run({"x": x}, ["h"])["h"], x * [2, 3], rtol=1e-15)
    np.testing.assert_allclose(evaluator.run({"x": x, "h": w})["y"], np.exp(np.sin(w)), rtol=1e-15)
    with pytest.raises(NoOracleError, match="no value nothing"):
        evaluator.run({"x": x}, ["nothing"])


def test_dead_values_are_dropped() -> None:
    """A chain of 50 values of 8 MB each; two or three are needed at a time."""
    tracemalloc = pytest.importorskip("tracemalloc")
    nodes = [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(50)]
    infos = [helper.make_tensor_value_info(name, 11, [1 << 20]) for name in ("v0", "v50")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    evaluator, x = Evaluator(model), np.ones(1 << 20)
    tracemalloc.start()
    evaluator.run({"v0": x})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * x.nbytes


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("y = RandomNormalLike(x)", "RandomNormalLike draws random numbers"),
        ("b = Bernoulli(x) y = Add(b, x)", "Bernoulli draws random numbers"),
        (
            "t = Constant<value = bool {1}>() r = Constant<value_float = 0.5>()"
            "y = Dropout(x, r, t)",
            "Dropout draws random numbers",
        ),
    ],
)
def test_random_nodes_have_no_oracle(body: str, reason: str) -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N] x) => (float[N] y)'
    with pytest.raises(NoOracleError, match=reason):
        Evaluator(parser.parse_model(f"{text} {{{body}}}"))


@pytest.mark.parametrize("mode", ["", ", f"])
def test_dropout_at_inference_is_the_identity(mode: str) -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) {'
        "f = Constant<value = bool {0}>() r = Constant<value_float = 0.5>()"
        f"y = Dropout(x, r{mode})}}"
    )
    np.testing.assert_array_equal(Evaluator(model).run({"x": np.ones(4)})["y"], np.ones(4))


def test_unknown_operator_has_no_oracle() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "my" : 1]>'
        "g (float[N] x) => (float[N] y) {y = my.Thing(x)}"
    )
    with pytest.raises(NoOracleError, match="Thing"):
        Evaluator(model)


def test_control_flow_runs() -> None:
    """A Scan over rows of a body with our own Erf inside, and a value captured from outside."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2] h0, float[5, 2] x, float[2] w) => (float[2] h, float[5, 2] y) {
            h, y = Scan <num_scan_inputs = 1,
                body = b (float[2] a, float[2] r) => (float[2] next, float[2] out) {
                    m = Mul (a, w) n = Add (m, r) next = Erf (n) out = Neg (next)
                }> (h0, x)
        }"""
    )
    rng = np.random.default_rng(0)
    feeds = {"h0": normal(rng, 2), "x": normal(rng, 5, 2), "w": normal(rng, 2)}
    found, expected = Evaluator(model).run(feeds), Session(model).run(feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-6)
    state = feeds["h0"].astype(np.float64)
    for row in feeds["x"].astype(np.float64):
        state = erf(state * feeds["w"] + row)
    np.testing.assert_allclose(found["h"], state, rtol=1e-14)


# -- differences -------------------------------------------------------------------------------


def smooth(values: dict[str, Array]) -> dict[str, Array]:
    x, z = values["x"], values["z"]
    return {"y": np.sin(3 * x) * np.exp(z), "s": np.sum(x * z)[None]}


X, Z = np.random.default_rng(0).standard_normal((2, 50))
U, V = np.random.default_rng(1).standard_normal((2, 50))


def test_smooth_functions_are_settled_to_nine_digits() -> None:
    found = directional_derivative(smooth, {"x": X, "z": Z}, {"x": U, "z": V}, ["y", "s"])
    exact = {
        "y": 3 * np.cos(3 * X) * np.exp(Z) * U + np.sin(3 * X) * np.exp(Z) * V,
        "s": np.sum(U * Z + X * V)[None],
    }
    assert len(found.steps) <= 3
    for name, value in exact.items():
        error = np.abs(found.value[name] - value)
        assert error.max() < 1e-8 * np.abs(value).max()
        assert (error <= found.error[name]).all()
        assert not found.kinks[name].any()
    np.testing.assert_array_equal(found.primal["y"], smooth({"x": X, "z": Z})["y"])


def test_never_fewer_than_two_steps() -> None:
    found = directional_derivative(lambda v: {"y": 3 * v["x"]}, {"x": X}, {"x": U}, ["y"])
    assert len(found.steps) == 2
    np.testing.assert_allclose(found.value["y"], 3 * U, atol=1e-7)


def test_inputs_without_a_direction_stay() -> None:
    found = directional_derivative(smooth, {"x": X, "z": Z}, {"z": V}, ["y"])
    np.testing.assert_allclose(found.value["y"], np.sin(3 * X) * np.exp(Z) * V, atol=1e-7)


def test_scales_of_x_and_u_do_not_matter() -> None:
    for x_scale, u_scale in itertools.product((1e-6, 1.0, 1e6), (1e-6, 1e6)):
        x, u = {"x": X * x_scale}, {"x": U * u_scale}
        found = directional_derivative(lambda v: {"y": v["x"] ** 2}, x, u, ["y"])
        exact = 2 * x["x"] * u["x"]
        np.testing.assert_allclose(found.value["y"], exact, atol=1e-8 * np.abs(exact).max())
        assert not found.kinks["y"].any()


def test_a_large_constant_does_not_drown_the_derivative() -> None:
    def far(values: dict[str, Array]) -> dict[str, Array]:
        return {"y": 1e4 + np.sin(values["x"])}

    found = directional_derivative(far, {"x": X}, {"x": U}, ["y"], target=1e-6)
    exact = np.cos(X) * U
    assert max(found.steps) > 1e-6
    assert not found.kinks["y"].any()
    assert np.abs(found.value["y"] - exact).max() < 1e-6 * np.abs(exact).max()


def test_elements_at_a_kink_are_left_out_and_no_others() -> None:
    x = X.copy()
    x[[3, 7, 20]] = 0.0
    found = directional_derivative(
        lambda v: {"y": np.maximum(v["x"], 0)}, {"x": x}, {"x": U}, ["y"], target=1e-6
    )
    assert np.flatnonzero(found.kinks["y"]).tolist() == [3, 7, 20]
    rest = ~found.kinks["y"]
    np.testing.assert_allclose(found.value["y"][rest], ((x > 0) * U)[rest], atol=1e-6)


@pytest.mark.parametrize("odd", [np.sign, np.cbrt, lambda v: v * np.log(np.abs(v) + (v == 0))])
def test_odd_singularities_are_seen(odd: Any) -> None:
    """Both sides are alike there at any step, and so have equal slopes; no two steps agree."""
    x = X.copy()
    x[[3, 7, 20]] = 0.0
    found = directional_derivative(lambda v: {"y": odd(v["x"])}, {"x": x}, {"x": U}, ["y"])
    assert found.kinks["y"][[3, 7, 20]].all()
    bent = np.clip(np.zeros(1), -3e-8, 3e-8)  # and a slope that holds within the smaller steps
    found = directional_derivative(
        lambda v: {"y": np.clip(v["x"], -3e-8, 3e-8)}, {"x": bent}, {"x": np.ones(1)}, ["y"]
    )
    np.testing.assert_allclose(found.value["y"], 1.0, rtol=1e-6)


def test_kinks_nearby_call_for_smaller_steps() -> None:
    x = X.copy()
    x[3] = 3e-8
    found = directional_derivative(
        lambda v: {"y": np.abs(v["x"])}, {"x": x}, {"x": U}, ["y"], target=1e-6
    )
    assert min(found.steps) < 1e-7
    assert not found.kinks["y"].any()
    np.testing.assert_allclose(found.value["y"], np.sign(x) * U, atol=1e-6)


def test_a_network_full_of_kinks_settles_nothing_by_chance() -> None:
    """2000 outputs, each with kinks at every scale: no step can be trusted anywhere."""
    rng = np.random.default_rng(0)
    weights, offsets = rng.standard_normal((2000, 400)), rng.standard_normal(400)
    offsets *= 10.0 ** rng.uniform(-13, -3, 400)

    def crumpled(values: dict[str, Array]) -> dict[str, Array]:
        return {"y": weights @ np.abs(values["x"] + offsets)}

    found = directional_derivative(crumpled, {"x": np.zeros(1)}, {"x": np.ones(1)}, ["y"])
    assert found.kinks["y"].all()


def test_infinite_values_are_not_judged() -> None:
    found = directional_derivative(
        lambda v: {"y": np.where(X > 0, v["x"], -np.inf)}, {"x": X}, {"x": U}, ["y"]
    )
    np.testing.assert_array_equal(found.kinks["y"], ~(X > 0))
