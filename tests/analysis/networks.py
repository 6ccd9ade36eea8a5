"""Small networks, points for them, and their Jacobians by differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
import onnx
from helpers import MODELS, Array, Values, build, ints, weights
from onnx import ModelProto, helper, numpy_helper

from onnxjvp import jacobian_operator
from onnxjvp.analysis import samples
from onnxjvp.analysis.linear import JacobianOperator
from onnxjvp.runtime import Session, random_feeds

STEP = 1e-5


def relu_net(dtype: str = "float64", outputs: Sequence[str] = ("y", "z")) -> ModelProto:
    """Two inputs and two outputs: y depends on x alone, z on both. h and t meet the kinks."""
    return build(
        """
        h = Gemm(x, W1, b1)
        a = Relu(h)
        y = Gemm(a, W2, b2)
        s = MatMul(c, W3)
        t = Add(y, s)
        z = LeakyRelu(t)
        """,
        {"x": ("N", 4), "c": ("N", 2)},
        {
            "W1": weights(4, 8),
            "b1": weights(8),
            "W2": weights(8, 3),
            "b2": weights(3),
            "W3": weights(2, 3),
        },
        outputs,
        dtype=dtype,
    )


def smooth_net(dtype: str = "float64") -> ModelProto:
    """x and y are residuals, too; one axis is of size 1, and the other input holds indices."""
    return build(
        """
        e = Gather(E, i)
        q = Mul(x, x)
        p = Mul(q, e)
        h = MatMul(p, W)
        y = Tanh(h)
        """,
        {"x": ("N", 1, 4), "i": ints(0, 2)},
        {"E": weights(3, 1, 4), "W": weights(4, 3)},
        dtype=dtype,
    )


def point(net: str, seed: int = 0, dtype: str = "float64") -> Values:
    rng = np.random.default_rng(seed)
    if net == "relu":
        shapes = {"x": (2, 4), "c": (2, 2)}
        return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return {"x": rng.standard_normal((2, 1, 4)).astype(dtype), "i": ints(0, 2)}


NETS = {"relu": relu_net, "smooth": smooth_net}


def by_differences(model: ModelProto, x: Mapping[str, Array], wrt: str, output: str) -> Array:
    """The Jacobian [*y, *x], by central differences; in float64."""
    session = Session(model)

    def at(offset: Array) -> Array:
        return session.run({**x, wrt: x[wrt] + offset}, [output])[output]

    columns = []
    for i in range(x[wrt].size):
        step = np.zeros(x[wrt].size)
        step[i] = STEP
        step = step.reshape(x[wrt].shape)
        columns.append((at(step) - at(-step)) / (2 * STEP))
    return np.stack(columns, -1).reshape(*columns[0].shape, *x[wrt].shape)


def parameter_as_input(model: ModelProto, name: str) -> tuple[ModelProto, Array]:
    """The model with one parameter fed, and the parameter."""
    changed = ModelProto.FromString(model.SerializeToString())
    (tensor,) = (t for t in changed.graph.initializer if t.name == name)
    changed.graph.initializer.remove(tensor)
    changed.graph.input.append(
        helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
    )
    return changed, numpy_helper.to_array(tensor)


def trained_point(path: str) -> Values:
    """Random numbers, standardised as a network that begins with a Scaler expects them."""
    x = random_feeds(Session(path).inputs, seed=0)
    for node in onnx.load(path).graph.node:
        if node.op_type == "Scaler":
            given = {a.name: np.array(a.floats, np.float32) for a in node.attribute}
            x[node.input[0]] = given["offset"] + x[node.input[0]] / given["scale"]
    return x


@cache
def trained_operator(name: str) -> tuple[JacobianOperator, Array]:
    """The Jacobian of one of `models/` at one sample, and the matrix in float64."""
    path = str(MODELS / f"{name}.onnx")
    x = trained_point(path)
    point = x if name == "digits_rnn" else samples(x)[0]  # whose batch is fixed
    operator = jacobian_operator(path, point, blocks=True)
    return operator, np.asarray(operator.matmat(np.eye(operator.shape[1])))
