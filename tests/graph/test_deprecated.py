"""GroupNormalization of opset 18 to 20, which onnx's checker turns away and runtimes run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from helpers import Array, Values, checked, ort, weights
from onnx import ModelProto, helper, numpy_helper

from onnxjvp import clone, jvp, vjp
from onnxjvp.oracle import Evaluator, directional_derivative

_SHAPE = (2, 6, 3, 2)


def _model(opset: int, dtype: str = "float32", inside: bool = False) -> ModelProto:
    """y = norm of x in three groups of two channels, in a function of the model's own or not."""
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("GroupNormalization", ["x", "s", "b"], ["y"], num_groups=3)
    node.attribute.append(helper.make_attribute("epsilon", 0.01))
    opsets = [helper.make_opsetid("", opset)]
    functions = []
    if inside:
        own = helper.make_function("own", "Norm", ["x", "s", "b"], ["y"], [node], opsets)
        functions, node = [own], helper.make_node("Norm", ["x", "s", "b"], ["y"], domain="own")
        opsets = [*opsets, helper.make_opsetid("own", 1)]
    graph = helper.make_graph(
        [node],
        "case",
        [helper.make_tensor_value_info("x", number, ("N", *_SHAPE[1:]))],
        [helper.make_tensor_value_info("y", number, ("N", *_SHAPE[1:]))],
        [numpy_helper.from_array(weights(3, seed=i).astype(dtype), n) for i, n in enumerate("sb")],
    )
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)


def _by_hand(values: Values) -> Values:
    """Scale and bias are of groups, not of channels."""
    x = values["x"]
    groups = x.reshape(len(x), 3, -1)
    centred = groups - groups.mean(axis=2, keepdims=True)
    normal = centred / np.sqrt(groups.var(axis=2, keepdims=True) + np.float32(0.01))
    y = values["s"][:, None] * normal + values["b"][:, None]
    return {"y": y.reshape(x.shape)}


@pytest.mark.parametrize(("opset", "inside"), [(18, False), (20, True)])
def test_scale_and_bias_are_of_groups(opset: int, inside: bool) -> None:
    model = _model(opset, inside=inside)
    with pytest.raises(onnx.checker.ValidationError, match="deprecated"):
        onnx.checker.check_model(_model(opset))
    point: Values = {"x": weights(*_SHAPE)} | {
        n: weights(3, seed=i).astype(np.float32).astype(np.float64) for i, n in enumerate("sb")
    }
    u = {name: weights(*v.shape, seed=7) for name, v in point.items()}
    wanted = directional_derivative(_by_hand, point, u, ["y"])
    wrt = ["x", "s", "b"]
    x = {"x": point["x"]}
    pushed = jvp(model, wrt)
    for result in (pushed, clone(model, wrt), clone(model, wrt, layout="stacked")):
        seeds = {result.names["seeds"][name]: t for name, t in u.items()}
        values = Evaluator(checked(result)).run({**x, **seeds})
        _close(values["y"], wanted.primal["y"], 1e-12)
        _close(values["y_jvp"], wanted.value["y"], 1e-6)
    ct = weights(*_SHAPE, seed=3)
    pulled = Evaluator(checked(vjp(model, wrt))).run({**x, "y_ct": ct})
    there = sum(np.vdot(pulled[f"{name}_vjp"], t) for name, t in u.items())
    np.testing.assert_allclose(np.vdot(ct, wanted.value["y"]), there, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_runtime_gives_the_same_bits(dtype: str) -> None:
    model, x = _model(19, dtype), {"x": weights(*_SHAPE).astype(dtype)}
    result: Any = jvp(model)
    assert "GroupNormalization" not in {node.op_type for node in result.proto().graph.node}
    values = ort(result.proto(), {**x, "x_u": x["x"]})
    assert values["y"].tobytes() == ort(model, x)["y"].tobytes()


def test_its_parameters_are_trainable_and_it_can_be_raised() -> None:
    raised = jvp(_model(18), ["params"], opset=21)
    assert raised.report["opset"] == 21
    assert set(raised.names["seeds"]) == {"s", "b"}


def _close(got: Array, want: Array, tolerance: float) -> None:
    np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max(), rtol=0)
