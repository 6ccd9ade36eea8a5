"""What is said where a file's parameters may not be those of the training."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxjvp.errors import UsageError
from onnxjvp.kernels.problem import problem

W = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)


def model(nodes: list[onnx.NodeProto], **constants: np.ndarray) -> onnx.ModelProto:
    """x [n, 3] → y of two axes."""
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", floats, ["n", 3])],
        [helper.make_tensor_value_info("y", floats, ["n", None])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def tied(second: np.ndarray) -> onnx.ModelProto:
    """x W V."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("MatMul", ["t", "v"], ["y"]),
    ]
    return model(nodes, w=W, v=second)


def test_a_weight_that_is_there_twice() -> None:
    (note,) = problem(tied(W.T.copy())).notes
    assert note.startswith("'w' and 'v' hold the same numbers")
    assert problem(tied(W.T + 1)).notes == ()


def test_a_weight_that_is_computed() -> None:
    nodes = [
        helper.make_node("ReduceL2", ["w", "axes"], ["norm"]),
        helper.make_node("Div", ["w", "norm"], ["unit"]),
        helper.make_node("Mul", ["unit", "g"], ["weight"]),
        helper.make_node("MatMul", ["x", "weight"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["y"]),
    ]
    b, g = np.arange(2, dtype=np.float32), np.array([2, 3], np.float32)
    normalised = model(nodes, w=W, axes=np.array([0]), g=g, b=b)
    found = problem(normalised)
    assert found.params == ("b",)
    assert "'g', 'w'" in found.notes[0]
    assert "--params" in found.notes[0]
    assert set(problem(normalised, ["*"]).params) == {"b", "g", "w"}
    assert problem(normalised, ["*"]).notes == ()


def test_constants_that_were_merged() -> None:
    nodes = [
        helper.make_node("Identity", ["scale"], ["same"]),
        helper.make_node("LayerNormalization", ["x", "scale", "b"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "same", "c"], ["y"]),
    ]
    one, b, c = np.ones(3, np.float32), np.arange(3.0), np.arange(3.0) - 1
    made = model(nodes, scale=one, b=b.astype(np.float32), c=c.astype(np.float32))
    (note,) = problem(made).notes
    assert note.startswith("'scale' hold one number")
    trained = model(nodes, scale=W[:, 0], b=b.astype(np.float32), c=c.astype(np.float32))
    assert problem(trained).notes == ()


def test_a_quantised_model_is_explained() -> None:
    scale = np.array(0.1, np.float32)
    codes = [helper.make_node("DequantizeLinear", ["w", "s"], ["weight"])]
    nodes = [*codes, helper.make_node("MatMul", ["x", "weight"], ["y"])]
    with pytest.raises(UsageError, match="before it was quantised"):
        problem(model(nodes, w=np.ones((3, 2), np.int8), s=scale))
