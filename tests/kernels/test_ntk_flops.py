"""Operations counted by hand, and how those of a kernel grow."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers import MODELS, build, ints, weights
from onnx import ModelProto, TensorProto, helper

import onnxjvp
from onnxjvp.kernels.contraction import Contraction
from onnxjvp.kernels.flops import count, flops
from onnxjvp.kernels.problem import problem
from onnxjvp.kernels.products import Products
from onnxjvp.kernels.structured import Structured

W = {"W": weights(4, 8), "b": weights(8)}
IMAGE = {"x": ("N", 4, 9, 9)}
LSTM = {"W": weights(1, 20, 3), "R": weights(1, 20, 5)}


@pytest.mark.parametrize(
    ("body", "inputs", "params", "expected"),
    [
        # N = 6 everywhere
        ("y = MatMul(x, W)", {"x": ("N", 4)}, W, 6 * 2 * 4 * 8),
        ("y = Gemm(x, W, b)", {"x": ("N", 4)}, W, 6 * (2 * 4 * 8 + 8)),
        ("y = Gemm <transA = 1> (x, W)", {"x": (4, "N")}, W, 6 * 2 * 4 * 8),
        ("y = MatMul(x, W)", {"x": ("N", 3, 4)}, W, 6 * 3 * 2 * 4 * 8),
        # 7 x 7 pixels of 6 channels, of 2 channels each
        (
            "y = Conv <group = 2> (x, K, c)",
            IMAGE,
            {"K": weights(6, 2, 3, 3), "c": weights(6)},
            6 * 49 * 6 * (2 * 2 * 9 + 1),
        ),
        # every pixel of 4 channels is multiplied by 3 x 2 x 2 weights; 18 x 18 pixels of 3 + bias
        (
            "y = ConvTranspose <strides = [2, 2]> (x, K, c)",
            IMAGE,
            {"K": weights(4, 3, 2, 2), "c": weights(3)},
            6 * (2 * 81 * 4 * 3 * 4 + 3 * 18 * 18),
        ),
        ('y = Einsum <equation = "nij,njk->nik"> (x, x)', {"x": ("N", 4, 4)}, {}, 6 * 2 * 64),
        ('y = Einsum <equation = "ni,nj->nij"> (x, x)', {"x": ("N", 4)}, {}, 6 * 16),
        ("y = MaxPool <kernel_shape = [3, 3]> (x)", IMAGE, {}, 6 * 4 * 49 * 9),
        ("y = ReduceSum(x, a)", {"x": ("N", 4)}, {"a": ints(1)}, 6 * 4),
        ("a = Tanh(x)\ny = Add(a, x)", {"x": ("N", 4)}, {}, 6 * 4 * 2),
        ("y = Softmax(x)", {"x": ("N", 4)}, {}, 6 * 4 * 5),
        ("t = Transpose(x)\ny = Reshape(t, s)", {"x": ("N", 4)}, {"s": ints(2, -1)}, 0),
        # 7 steps of N: four gates of 5 elements
        (
            "y, h, c = LSTM <hidden_size = 5> (x, W, R)",
            {"x": (7, "N", 3)},
            LSTM,
            7 * 6 * 20 * (2 * 3 + 2 * 5 + 10),
        ),
    ],
)
def test_operations_by_hand(
    body: str, inputs: dict[str, Any], params: dict[str, Any], expected: int
) -> None:
    model = build(body, inputs, params, dtype="float32")
    assert count(model, {"N": 6}) == expected
    assert count(model, default=6) == expected


def test_sizes_are_symbols() -> None:
    found = flops(build("y = MatMul(x, x)", {"x": ("N", "N")}, dtype="float32"))
    assert [found.at({"N": n}) for n in (2, 20)] == [2 * 8, 2 * 8000]
    assert found.by_operator({"N": 2}) == {"MatMul": 16}
    with pytest.raises(KeyError, match="the size of N is not given"):
        found.at()


def _looping(op_type: str, turns: int | None) -> ModelProto:
    """A product of 2 · 4 · 4 operations in a body; and a sum of 4 beside it in a Loop."""
    floats = TensorProto.FLOAT
    made = [helper.make_node("MatMul", ["h", "W"], ["g"])]
    line, row = (helper.make_tensor_value_info(n, floats, [1, 4]) for n in ("h", "g"))
    weight = helper.make_tensor("W", floats, [4, 4], np.ones(16, np.float32).tobytes(), raw=True)
    if op_type == "Scan":
        part = helper.make_tensor_value_info("p", floats, [1])
        body = helper.make_graph(made, "body", [line, part], [row])
        nodes = [helper.make_node("Scan", ["x", "steps"], ["y"], body=body, num_scan_inputs=1)]
        inputs = [("x", [1, 4]), ("steps", [turns, 1])]
        tensors = [weight]
    else:
        made.append(helper.make_node("Identity", ["on"], ["still"]))
        on, still = (
            helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("on", "still")
        )
        turn = helper.make_tensor_value_info("i", TensorProto.INT64, [])
        body = helper.make_graph(made, "body", [turn, on, line], [still, row])
        nodes = [helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body, name="loop")]
        inputs = [("x", [1, 4])]
        tensors = [weight]
        if turns is not None:
            tensors.append(helper.make_tensor("turns", TensorProto.INT64, [], [turns]))
    infos = [helper.make_tensor_value_info(n, floats, s) for n, s in inputs]
    if op_type == "Loop" and turns is None:
        infos.append(helper.make_tensor_value_info("turns", TensorProto.INT64, []))
    end = helper.make_tensor_value_info("y", floats, [1, 4])
    graph = helper.make_graph(nodes, "loops", infos, [end], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_bodies_count_as_often_as_they_run() -> None:
    assert count(_looping("Scan", 5)) == 5 * 32
    assert count(_looping("Loop", 7)) == 7 * 32
    open_ended = flops(_looping("Loop", None))
    assert open_ended.at() == 32
    assert "run time" in open_ended.unknown["loop"]


def test_of_two_branches_the_larger_counts() -> None:
    line = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 4]) for n in ("s", "t", "y")]
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("Neg", ["x"], ["s"])], "a", [], ends[:1]
        ),
        "else_branch": helper.make_graph(
            [helper.make_node("Softmax", ["x"], ["t"])], "b", [], ends[1:2]
        ),
    }
    nodes = [helper.make_node("If", ["c"], ["y"], **branches)]
    choice = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph(nodes, "if", [line, choice], ends[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert count(model, {"N": 3}) == 3 * 4 * 5


def test_a_body_of_an_operator_is_counted() -> None:
    """Two products of 4 heads: 2 · N · 4 · 5 · 5 · 3 operations each, and a softmax."""
    query = dict.fromkeys("qkv", ("N", 4, 5, 3))
    model = build("y = Attention(q, k, v)", query, dtype="float32", opset=23, ir_version=11)
    least = 2 * (2 * 6 * 4 * 5 * 5 * 3)
    assert least < count(model, {"N": 6}) < 1.5 * least


# -- growth ------------------------------------------------------------------------------------


def _fcn(width: int, outputs: int, layers: int = 3) -> ModelProto:
    """`layers` hidden layers of a width, x as wide, no biases: the network of Table 2."""
    lines = [
        f"h{i} = MatMul({'x' if not i else f'a{i - 1}'}, W{i})\na{i} = Relu(h{i})"
        for i in range(layers)
    ]
    params = {f"W{i}": np.ones((width, width)) for i in range(layers)}
    body = "\n".join([*lines, f"y = MatMul(a{layers - 1}, last)"])
    params["last"] = np.ones((width, outputs))
    return build(body, {"x": ("N", width)}, params, dtype="float32")


def _slope(cost: Callable[[int], float], size: int) -> float:
    return math.log2(cost(2 * size) / cost(size))


@pytest.mark.parametrize(
    ("method", "in_width", "in_outputs", "in_samples"),
    # Novak et al. 2022, Table 2: N²O²LW² + N²O³W, and N²OLW² + N²O²W, for wide networks
    [(Contraction, 2.0, 2.0, 2.0), (Products, 2.0, 1.0, 2.0)],
)
def test_growth_is_that_of_the_second_table(
    method: type[Contraction | Products], in_width: float, in_outputs: float, in_samples: float
) -> None:
    def cost(width: int = 128, outputs: int = 8, samples: int = 8) -> float:
        return method(problem(_fcn(width, outputs))).cost(samples, samples).flops

    assert _slope(lambda w: cost(width=w), 128) == pytest.approx(in_width, abs=0.1)
    assert _slope(lambda o: cost(width=512, outputs=o), 32) == pytest.approx(in_outputs, abs=0.1)
    assert _slope(lambda n: cost(samples=n), 16) == pytest.approx(in_samples, abs=0.1)


def _cnn(width: int, outputs: int, side: int, layers: int = 2) -> ModelProto:
    """`layers` convolutions of 3 x 3 taps, the mean over pixels, a dense layer: that of Table 3."""
    lines = [
        f"h{i} = Conv <pads = [1, 1, 1, 1]> ({'x' if not i else f'a{i - 1}'}, W{i})\n"
        f"a{i} = Relu(h{i})"
        for i in range(layers)
    ]
    params = {f"W{i}": np.ones((width, width, 3, 3)) for i in range(layers)}
    last = [f"p = ReduceMean <keepdims = 0> (a{layers - 1}, axes)", "y = MatMul(p, last)"]
    given = params | {"axes": ints(2, 3), "last": np.ones((width, outputs))}
    return build(
        "\n".join([*lines, *last]), {"x": ("N", width, side, side)}, given, dtype="float32"
    )


@pytest.mark.parametrize(
    ("method", "samples", "outputs", "slopes"),
    # Novak et al. 2022, Table 3, where one term is far above the others. Of few rows of J:
    # N O L D F W², J itself; of many: N² O² L F W² for contraction, N² O² L D W for structured
    # derivatives, whose rows meet in y and not in θ. Products run forwards for every entry.
    [
        (Contraction, 1, 1, {"width": 2, "side": 2}),
        (Contraction, 128, 64, {"width": 2, "outputs": 2, "samples": 2, "side": 0}),
        (Products, 8, 8, {"width": 2, "outputs": 1, "samples": 2, "side": 2}),
        (Structured, 1, 16, {"width": 2, "outputs": 1, "side": 2}),
        (Structured, 256, 64, {"width": 1, "outputs": 2, "samples": 2}),
    ],
)
def test_growth_is_that_of_the_third_table(
    method: type[Contraction | Products | Structured],
    samples: int,
    outputs: int,
    slopes: dict[str, int],
) -> None:
    width = 128 if outputs * samples < 64 else 32
    usual = {"samples": samples, "outputs": outputs, "side": 4, "width": width}

    def cost(**sizes: int) -> float:
        at = {**usual, **sizes}
        task = problem(_cnn(at["width"], at["outputs"], at["side"]))
        made = Structured(task, samples=at["samples"]) if method is Structured else method(task)
        return made.cost(at["samples"], at["samples"]).flops

    once = cost()
    found = {name: math.log2(cost(**{name: 2 * usual[name]}) / once) for name in slopes}
    assert found == pytest.approx(slopes, abs=0.15)


def test_derivatives_cost_a_few_forward_passes() -> None:
    path = str(MODELS / "digits_cnn.onnx")
    once = count(path, {"batch": 1})
    assert 1.8 < count(onnxjvp.jvp(path), {"batch": 1}) / once < 2.5
    assert 1.8 < count(onnxjvp.vjp(path, ["params"]), {"batch": 1}) / once < 4
