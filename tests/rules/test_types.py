"""Float types: bfloat16 throughout, and models that mix several."""

from __future__ import annotations

import re
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from cases import CASES
from helpers import (
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    checked,
    ort,
    weights,
)
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_node
from op_case import OpCase

from onnxjvp import Rewritten, clone, jvp, vjp
from onnxjvp.oracle import Evaluator

BF16 = np.dtype(ml_dtypes.bfloat16)
#: rules that choose by what is equal, or by a sign, see other numbers once these are rounded
ROUNDED = 1e-2
#: the opsets in which more operators take bfloat16
OPSETS = (18, 20, 22, 24)


# -- bfloat16 ----------------------------------------------------------------------------------


def _new_operators() -> list[OpCase]:
    """A case for each set of operators that no earlier one had."""
    found: dict[frozenset[str], OpCase] = {}
    for case in CASES:
        kinds = frozenset(re.findall(r"= *([\w.]+) *[<(]", case.body))
        if not (case.single or case.random):
            found.setdefault(kinds, case)
    return list(found.values())


def _as(case: OpCase, dtype: str, opset: int) -> onnx.ModelProto:
    model = build(
        *(case.body, case.inputs, case.params, case.outputs),
        dtype=dtype,
        opset=opset,
        ir_version=10 if opset > 20 else 8,
        rounded="bfloat16",
        declared=case.declared,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _narrow(case: OpCase) -> tuple[onnx.ModelProto, int] | None:
    """The case in bfloat16 at the first opset that has it so; None if none has."""
    for opset in (case.opset, *(o for o in OPSETS if o > case.opset)):
        try:
            return _as(case, "bfloat16", opset), opset
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
            continue
    return None


@pytest.mark.parametrize("case", _new_operators(), ids=str)
def test_bfloat16(case: OpCase) -> None:
    """Valid ONNX at the model's opset, and in float64 the derivative of the float64 model."""
    found = _narrow(case)
    if found is None:
        return  # no opset has these operators in bfloat16
    model, opset = found
    x, u = (_rounded(v) for v in (case.point(), case.direction()))
    result = jvp(model)
    proto = checked(result)
    checked(vjp(model))
    wide = jvp(_as(case, "float64", opset))
    feeds = {**x, **{result.names["seeds"][name]: value for name, value in u.items()}}
    got, want = (Evaluator(m).run(feeds) for m in (proto, wide.proto()))
    for name, forms in result.names["results"].items():
        assert_close(got[forms["jvp"]], want[forms["jvp"]], ROUNDED, f"J u of {name}")


def _rounded(values: Values) -> Values:
    return {
        n: v.astype(BF16).astype(np.float64) if v.dtype.kind == "f" else v
        for n, v in values.items()
    }


# -- several types -----------------------------------------------------------------------------


def mixed(body: str, params: dict[str, Any], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    graph = helper.make_graph(
        [parse_node(line.strip()) for line in body.strip().splitlines()],
        "mixed",
        [helper.make_tensor_value_info("x", kind, ["N", 4])],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(a, n) for n, a in params.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    found = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    model.graph.output[0].CopyFrom(found.graph.output[0])
    return model


W, V = weights(4, 3).astype(np.float16), weights(3, 2).astype(np.float16)

#: body, parameters, what x is, the map in float64, and how much of it is computed in float16
MIXED: dict[str, tuple[str, dict[str, Array], int, Any, str]] = {
    "weights kept in half": (
        "w = Cast<to=1>(h)\nm = MatMul(x, w)\ny = Tanh(m)",
        {"h": W},
        TensorProto.FLOAT,
        lambda x: np.tanh(x @ W.astype(float)),
        "float32",
    ),
    "weights kept in half, transposed": (
        "w = Cast<to=1>(h)\nt = Transpose<perm=[1, 0]>(w)\nm = MatMul(x, t)\ny = Tanh(m)",
        {"h": np.ascontiguousarray(W.T)},
        TensorProto.FLOAT,
        lambda x: np.tanh(x @ W.astype(float)),
        "float32",
    ),
    "computed in half": (
        """a = Cast<to=10>(x)
        m = MatMul(a, h)
        t = Tanh(m)
        n = MatMul(t, v)
        y = Cast<to=1>(n)""",
        {"h": W, "v": V},
        TensorProto.FLOAT,
        lambda x: np.tanh(x @ W.astype(float)) @ V.astype(float),
        "float16",
    ),
    "normalised in single, between halves": (
        """m = MatMul(x, h)
        a = Cast<to=1>(m)
        s = Softmax<axis=1>(a)
        b = CastLike(s, h)
        y = MatMul(b, v)""",
        {"h": W, "v": V},
        TensorProto.FLOAT16,
        lambda x: _softmax(x @ W.astype(float)) @ V.astype(float),
        "float16",
    ),
    "double inside": (
        "a = Cast<to=11>(x)\nm = MatMul(a, h)\ne = Exp(m)\ny = Cast<to=1>(e)",
        {"h": 0.1 * W.astype(np.float64)},
        TensorProto.FLOAT,
        lambda x: np.exp(x @ (0.1 * W.astype(float))),
        "float32",
    ),
    "double throughout": (
        "m = MatMul(x, h)\ne = Sigmoid(m)\ny = ReduceSum(e, k)",
        {"h": W.astype(np.float64), "k": np.array([1])},
        TensorProto.DOUBLE,
        lambda x: (1 / (1 + np.exp(-x @ W.astype(float)))).sum(axis=1, keepdims=True),
        "float64",
    ),
}


def _softmax(s: Array) -> Array:
    powers = np.exp(s - s.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("what", MIXED)
def test_models_that_mix_types(what: str) -> None:
    body, params, kind, function, computed = MIXED[what]
    model, number = mixed(body, params, kind), helper.tensor_dtype_to_np_dtype(kind)
    x, u = (weights(3, 4, seed=s).astype(number) for s in (1, 2))
    at, along, step = x.astype(float), u.astype(float), 1e-6
    wanted = (function(at + step * along) - function(at - step * along)) / (2 * step)
    tolerance = max(TOLERANCES[computed], 1e-8)
    for rewrite in (jvp, clone, lambda m: clone(m, layout="stacked")):
        result: Rewritten = rewrite(model)
        values = ort(checked(result), {"x": x, "x_u": u})
        assert values["y_jvp"].dtype == values["y"].dtype
        scale = float(np.abs(wanted).max() + np.abs(function(at)).max())
        assert_close(values["y_jvp"], wanted, tolerance, "J u", scale)
    v = weights(*wanted.shape, seed=3).astype(values["y"].dtype)
    pulled = ort(checked(vjp(model)), {"x": x, "y_ct": v})["x_vjp"]
    assert pulled.dtype == number
    paired, size = np.sum(pulled.astype(float) * along), np.sum(np.abs(v * wanted))
    assert abs(paired - np.sum(v * wanted)) <= tolerance * size
    k = np.stack([u, -2 * u])
    several = jvp(model, directions=2)
    values = ort(checked(several), {"x": x, "x_u": k})
    assert_close(values["y_jvp"][1], -2 * wanted, tolerance, "the second direction", 2 * scale)
