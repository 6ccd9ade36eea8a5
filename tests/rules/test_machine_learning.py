"""Pipelines of scikit-learn as its converter writes them, and what of ai.onnx.ml is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, Array, assert_close, checked, ort, weights
from onnx import TensorProto, helper
from onnx.parser import parse_node

from onnxjvp import InvalidModelError, UnsupportedOpError, clone, grad, jvp, vjp

CLOSE = TOLERANCES["float32"]
ML = "ai.onnx.ml"


def build(
    body: str,
    outputs: dict[str, tuple[int, tuple[int | str, ...]]],
    params: dict[str, Array] | None = None,
    nodes: tuple[onnx.NodeProto, ...] = (),
    version: int = 3,
) -> onnx.ModelProto:
    """[N, 3] float32 inputs; `outputs` by name: dtype and shape."""
    lines = [parse_node(line.strip()) for line in body.strip().splitlines()]
    graph = helper.make_graph(
        [*lines, *nodes],
        "pipeline",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info(n, *t) for n, t in outputs.items()],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in (params or {}).items()],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(ML, version)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, domain=ML, **attributes)


def point() -> tuple[Array, Array]:
    return weights(4, 3, seed=3).astype(np.float32), weights(4, 3, seed=4).astype(np.float32)


C, B = weights(3, 3, seed=7), weights(3, seed=8)
OFFSET, SCALE = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.5, 1.5])


def _softmax(s: Array) -> Array:
    powers = np.exp(s - s.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _logistic(zipmap: bool) -> onnx.ModelProto:
    """StandardScaler and LogisticRegression of three classes."""
    shape = (TensorProto.FLOAT, ("N", 3))
    zipped = node("ZipMap", ["p"], ["maps"], classlabels_int64s=[0, 1, 2])
    model = build(
        "",
        {"label": (TensorProto.INT64, ("N",)), **({} if zipmap else {"p": shape})},
        nodes=(
            node("Scaler", ["x"], ["s"], offset=OFFSET.tolist(), scale=SCALE.tolist()),
            node(
                "LinearClassifier",
                ["s"],
                ["label", "raw"],
                coefficients=C.reshape(-1).tolist(),
                intercepts=B.tolist(),
                classlabels_ints=[0, 1, 2],
                multi_class=1,
                post_transform="SOFTMAX",
            ),
            node("Normalizer", ["raw"], ["p"], norm="L1"),
            *((zipped,) if zipmap else ()),
        ),
    )
    if zipmap:
        kind = helper.make_map_type_proto(
            TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
        )
        maps = onnx.ValueInfoProto(name="maps", type=helper.make_sequence_type_proto(kind))
        model.graph.output.append(maps)
    return model


def test_a_scaled_logistic_regression() -> None:
    model, (x, u) = _logistic(zipmap=False), point()
    s = (x - OFFSET) * SCALE
    p = _softmax(s @ C.T + B)
    moved = (u * SCALE) @ C.T
    wanted = p * (moved - (p * moved).sum(axis=1, keepdims=True))
    for rewrite in (jvp, clone):
        result = rewrite(model)
        values = ort(checked(result), {"x": x, "x_u": u})
        assert_close(values["p"], p, CLOSE, "p")
        assert_close(values["p_jvp"], wanted, CLOSE, "J u")
        assert "int64" in result.report["excluded"]["label"]
    ct = weights(4, 3, seed=5).astype(np.float32)
    back = ort(checked(vjp(model)), {"x": x, "p_ct": ct})["x_vjp"]
    assert_close(np.sum(back * u), np.sum(ct * wanted), CLOSE, "adjoint")
    first = grad(model, select="p[:, 1]")
    slope = ort(checked(first), {"x": x})["x_grad"]
    assert_close(np.sum(slope * u, axis=1), wanted[:, 1], CLOSE, "gradient")


def test_an_output_that_is_made_of_maps_says_how_to_do_without() -> None:
    with pytest.raises(InvalidModelError, match=r"'maps'.*maps.*'zipmap': False.*'p'"):
        jvp(_logistic(zipmap=True))


def test_a_network_behind_a_scaler() -> None:
    """MLPRegressor: products and Relus, then a Reshape."""
    w, v = weights(3, 5).astype(np.float32), weights(5, 1).astype(np.float32)
    model = build(
        """c = Cast<to=1>(s)
        m = MatMul(c, w)
        a = Add(m, b)
        r = Relu(a)
        n = MatMul(r, v)
        y = Reshape(n, k)""",
        {"y": (TensorProto.FLOAT, ("N", 1))},
        {"w": w, "v": v, "b": np.zeros(5, np.float32), "k": np.array([-1, 1])},
    )
    scaler = node("Scaler", ["x"], ["s"], offset=OFFSET.tolist(), scale=SCALE.tolist())
    model.graph.node.insert(0, scaler)
    x, u = point()
    hidden = ((x - OFFSET) * SCALE) @ w > 0
    wanted = (((u * SCALE) @ w) * hidden) @ v
    values = ort(checked(jvp(model)), {"x": x, "x_u": u})
    assert_close(values["y_jvp"], wanted, CLOSE, "J u")


def test_a_row_of_zeros_has_the_slope_zero() -> None:
    for norm in ("L1", "L2"):
        shape = {"y": (TensorProto.FLOAT, ("N", 3))}
        model = build("", shape, nodes=(node("Normalizer", ["x"], ["y"], norm=norm),))
        x, u = point()
        x[1] = 0
        values = ort(checked(jvp(model)), {"x": x, "x_u": u})
        assert not values["y_jvp"][1].any()
        assert np.isfinite(values["y_jvp"]).all()
        assert values["y_jvp"][0].any()


@pytest.mark.parametrize("op", ["Normalizer", "Scaler", "FeatureVectorizer"])
def test_doubles_come_out_as_singles(op: str) -> None:
    """These operators write float32 whatever they read; the tangent goes with them."""
    attributes: dict[str, dict[str, Any]] = {
        "Normalizer": {"norm": "L2"},
        "Scaler": {"offset": [0.0], "scale": [2.0]},
        "FeatureVectorizer": {"inputdimensions": [3]},
    }
    made = node(op, ["x"], ["y"], **attributes[op])
    model = build("", {"y": (TensorProto.FLOAT, ("N", 3))}, nodes=(made,))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    x, u = (a.astype(np.float64) for a in point())
    single = build("", {"y": (TensorProto.FLOAT, ("N", 3))}, nodes=(made,))
    wanted = ort(jvp(single).proto(), {"x": x.astype("f4"), "x_u": u.astype("f4")})["y_jvp"]
    for layout in ("split", "stacked"):
        values = ort(checked(clone(model, layout=layout)), {"x": x, "x_u": u})
        assert values["y_jvp"].dtype == np.float32
        assert_close(values["y_jvp"], wanted, CLOSE, layout)
    pulled = ort(checked(vjp(model)), {"x": x, "y_ct": np.ones_like(wanted)})["x_vjp"]
    assert pulled.dtype == np.float64
    assert_close(np.sum(pulled * u), np.sum(wanted, dtype=np.float64), CLOSE, "adjoint")


STEPS = {
    "LabelEncoder": {"keys_floats": [0.0, 1.0], "values_floats": [2.0, -3.0], "default_float": 1.0},
    "OneHotEncoder": {"cats_int64s": [0, 1], "zeros": 1},
    "Binarizer": {"threshold": 0.5},
    "TreeEnsemble": {
        "n_targets": 1,
        "nodes_featureids": [0],
        "nodes_splits": onnx.numpy_helper.from_array(np.array([0.1], np.float32)),
        "nodes_modes": onnx.numpy_helper.from_array(np.array([0], np.uint8)),
        "nodes_truenodeids": [0],
        "nodes_trueleafs": [1],
        "nodes_falsenodeids": [1],
        "nodes_falseleafs": [1],
        "tree_roots": [0],
        "leaf_targetids": [0, 0],
        "leaf_weights": onnx.numpy_helper.from_array(np.array([1.5, -2.0], np.float32)),
    },
}


@pytest.mark.parametrize("op", STEPS)
def test_tables_and_steps_are_cut_and_named(op: str) -> None:
    made = node(op, ["x"], ["y"], **STEPS[op])
    version = 5 if op == "TreeEnsemble" else 3
    model = build("", {"y": (TensorProto.FLOAT, None)}, nodes=(made,), version=version)
    with pytest.raises(UnsupportedOpError, match=op):
        jvp(model)
    model.graph.node.append(helper.make_node("Exp", ["x"], ["e"]))
    model.graph.output.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, ["N", 3]))
    result = jvp(model)
    assert op in result.report["excluded"]["y"]
    x, u = point()
    values = ort(checked(result), {"x": x, "x_u": u})
    assert_close(values["e_jvp"], np.exp(x) * u, CLOSE, "e")


REFUSED = {
    "Normalizer": ({"norm": "MAX"}, "largest magnitude"),
    "LinearRegressor": (
        {"coefficients": [1.0, 2.0, 3.0], "post_transform": "LOGISTIC"},
        "single target",
    ),
    "SVMRegressor": (
        {"coefficients": [1.0, 2.0, 3.0], "rho": [0.0], "one_class": 1},
        "one_class",
    ),
    "SVMClassifier": (
        {"coefficients": [1.0, 2.0, 3.0], "rho": [0.0], "classlabels_ints": [0, 1]},
        "votes",
    ),
    "LinearClassifier": (
        {"coefficients": [1.0, 2.0, 3.0], "classlabels_ints": [0, 1], "post_transform": "SOFTMAX"},
        "two classes",
    ),
}


@pytest.mark.parametrize("op", REFUSED)
def test_what_is_refused(op: str) -> None:
    attributes, why = REFUSED[op]
    outputs = ["label", "y"] if op.endswith("Classifier") else ["y"]
    made = node(op, ["x"], outputs, **attributes)
    model = build("", {"y": (TensorProto.FLOAT, ("N", "M"))}, nodes=(made,))
    with pytest.raises(UnsupportedOpError, match=why):
        jvp(model)


def test_probit_and_kernels_that_are_no_polynomials_are_refused() -> None:
    shape = {"y": (TensorProto.FLOAT, ("N", 2))}
    made = node(
        "LinearRegressor", ["x"], ["y"], coefficients=[1.0] * 6, targets=2, post_transform="PROBIT"
    )
    with pytest.raises(UnsupportedOpError, match="PROBIT"):
        jvp(build("", shape, nodes=(made,)))
    made = node(
        *("SVMRegressor", ["x"], ["y"]),
        coefficients=[1.0, -1.0],
        n_supports=2,
        rho=[0.0],
        kernel_type="POLY",
        kernel_params=[1.0, 1.0, 0.5],
        support_vectors=[1.0] * 6,
    )
    with pytest.raises(UnsupportedOpError, match="degree"):
        jvp(build("", {"y": (TensorProto.FLOAT, ("N", 1))}, nodes=(made,)))
