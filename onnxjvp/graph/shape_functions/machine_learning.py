"""Operators of the domain ai.onnx.ml. Whatever they read, most of them write float32."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.shape_functions.operands import integer, operand
from onnxjvp.graph.shapes import Shapes, shape_function

FLOAT, INT64, STRING = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.STRING


def _rows(node: ir.Node) -> Dim:
    """How many samples there are: a vector is one."""
    shape = dims.of(operand(node))
    return shape[0] if len(shape) > 1 else 1


@shape_function("ai.onnx.ml::Normalizer")
def normalizer(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node)), FLOAT)


@shape_function("ai.onnx.ml::Imputer ai.onnx.ml::Binarizer")
def same_type(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node)), operand(node).dtype)


@shape_function("ai.onnx.ml::LinearRegressor ai.onnx.ml::SVMRegressor")
def regressor(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], (_rows(node), integer(node, "targets", 1)), FLOAT)


@shape_function("ai.onnx.ml::TreeEnsembleRegressor")
def trees(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], (_rows(node), integer(node, "n_targets", 1)), FLOAT)


@shape_function("ai.onnx.ml::TreeEnsemble")
def new_trees(s: Shapes, node: ir.Node) -> None:
    shape = (_rows(node), integer(node, "n_targets", 1))
    s.put(node.outputs[0], shape, operand(node).dtype)


@shape_function("ai.onnx.ml::LinearClassifier ai.onnx.ml::TreeEnsembleClassifier")
def classifier(s: Shapes, node: ir.Node) -> None:
    words = node.attributes.get("classlabels_strings")
    labels = (
        words
        or node.attributes.get("classlabels_ints")
        or node.attributes.get("classlabels_int64s")
    )
    label, scores = node.outputs
    s.put(label, (_rows(node),), STRING if words else INT64)
    count = None if labels is None else len(labels.as_strings() if words else labels.as_ints())
    shape = None if count is None else (_rows(node), count)
    s.put(scores, shape, FLOAT)


@shape_function("ai.onnx.ml::OneHotEncoder")
def one_hot_encoder(s: Shapes, node: ir.Node) -> None:
    words = node.attributes.get("cats_strings")
    found = words or node.attributes.get("cats_int64s")
    assert found is not None, "it has no categories"
    count = len(found.as_strings() if words else found.as_ints())
    s.put(node.outputs[0], (*dims.of(operand(node)), count), FLOAT)


@shape_function("ai.onnx.ml::FeatureVectorizer")
def feature_vectorizer(s: Shapes, node: ir.Node) -> None:
    widths = node.attributes.get_ints("inputdimensions")
    assert widths is not None, "it has no inputdimensions"
    s.put(node.outputs[0], (dims.of(operand(node))[0], sum(widths)), FLOAT)
