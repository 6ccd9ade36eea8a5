"""Sizes and inputs made constants: f(x) stays, and what they decide is decided."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import MODELS, build, ort, weights
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxjvp
from onnxjvp.errors import InputError, UnsupportedOpError, UsageError

value = helper.make_tensor_value_info


def branching() -> ModelProto:
    """y = x · W where the flag is set, else Unsqueeze(x): another rank, known to nobody before."""
    shape = [value("x", TensorProto.FLOAT, ["N", 3])]
    flag = value("flag", TensorProto.INT64, [])
    y = value("y", TensorProto.FLOAT, None)
    arms = [
        helper.make_graph([node], name, [], [value(name, TensorProto.FLOAT, None)])
        for name, node in (
            ("one", helper.make_node("MatMul", ["x", "W"], ["one"])),
            ("other", helper.make_node("Unsqueeze", ["x", "axis"], ["other"])),
        )
    ]
    nodes = [
        helper.make_node("Equal", ["flag", "sixteen"], ["is"]),
        helper.make_node("If", ["is"], ["y"], then_branch=arms[0], else_branch=arms[1]),
    ]
    held = {
        "W": weights(3, 2).astype(np.float32),
        "axis": np.array([0]),
        "sixteen": np.array(16),
    }
    tensors = [numpy_helper.from_array(array, name) for name, array in held.items()]
    graph = helper.make_graph(nodes, "g", [*shape, flag], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_flag_decides_a_branch() -> None:
    model = branching()
    with pytest.raises(UnsupportedOpError):
        onnxjvp.jvp(model)
    fixed = onnxjvp.fix(model, {"x": (2, 3)}, {"flag": 16})
    assert [v.name for v in fixed.model.graph.inputs] == ["x"]
    assert {node.op_type for node in fixed.model.graph} <= {"MatMul", "Identity"}
    assert list(fixed.model.graph.outputs[0].shape or ()) == [2, 2]
    x = np.ones((2, 3), np.float32)
    whole = ort(model, {"x": x, "flag": np.array(16)})["y"]
    assert np.array_equal(ort(fixed.proto(), {"x": x})["y"], whole)
    assert onnxjvp.jvp(fixed).names["results"] == {"y": {"jvp": "y_jvp"}}


def test_dimensions_by_name() -> None:
    fixed = onnxjvp.fix(str(MODELS / "digits_cnn.onnx"), dims={"batch": 3})
    (image,), (logits,) = fixed.model.graph.inputs, fixed.model.graph.outputs
    assert (list(image.shape or ()), list(logits.shape or ())) == ([3, 1, 8, 8], [3, 10])


def test_bad_requests() -> None:
    model = build("y = Relu(x)", {"x": ("N", 3)}, dtype="float32")
    with pytest.raises(UsageError, match="no input 'z'"):
        onnxjvp.fix(model, {"z": (1,)})
    with pytest.raises(UsageError, match="cannot be"):
        onnxjvp.fix(model, {"x": (1, 4)})
    with pytest.raises(UsageError, match="no input has a dimension"):
        onnxjvp.fix(model, dims={"M": 4})
    with pytest.raises(InputError, match="the input takes"):
        onnxjvp.fix(model, values={"x": np.zeros(3)})
