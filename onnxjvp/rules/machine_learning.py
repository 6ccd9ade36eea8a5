"""The domain ai.onnx.ml: what scikit-learn's converters write beside ordinary operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import linear_push, pushed, zero

FLOAT = ir.DataType.FLOAT
_ML = "ai.onnx.ml::"

zero(
    f"{_ML}TreeEnsemble {_ML}TreeEnsembleRegressor {_ML}TreeEnsembleClassifier",
    source="trees are piecewise constant",
)
zero(
    f"{_ML}Binarizer {_ML}LabelEncoder {_ML}OneHotEncoder",
    source="ai.onnx.ml-1 and newer; a step, or a table",
)


def _single(op: Ops, value: ir.Value) -> ir.Value:
    """In float32, which these operators write whatever they read."""
    return value if value.dtype == FLOAT else op.Cast(value, to=int(FLOAT))


def _floats(region: Region, name: str) -> np.ndarray:
    found = region.attributes.get(name)
    return np.array([] if found is None else found.as_floats(), np.float32)


def _as_rows(op: Ops, value: ir.Value) -> ir.Value:
    return op.unsqueeze(value, 0) if rank(value) == 1 else value


@pushed(
    f"{_ML}Normalizer",
    source="ai.onnx.ml Normalizer-1; (t − y ṅ)/n with ṅ = Σ sign(x) t or Σ y t; 0 in rows of zeros",
)
def normalizer_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = _single(op, region.operand(0)), region.outputs[0]
    t = _single(op, tangents[0] or region.operand(0))
    norm = region.attr_string("norm", "MAX")
    if norm == "MAX":
        raise RefusedError(
            "with norm MAX onnxruntime divides by the largest element, and ONNX by the largest "
            "magnitude; write it as ReduceMax of Abs and Div"
        )
    last = op.ints([rank(y) - 1])  # onnxruntime gets negative axes of an empty batch wrong
    if norm == "L1":
        size = op.ReduceL1(x, last, keepdims=1)
        change = op.ReduceSum(op.Mul(op.Sign(x), t), last, keepdims=1)
    else:
        size = op.ReduceL2(x, last, keepdims=1)
        change = op.ReduceSum(op.Mul(y, t), last, keepdims=1)
    nought = op.Equal(size, op.const(0, like=size))
    safe = op.Where(nought, op.const(1, like=size), size)
    slope = op.Div(op.Sub(t, op.Mul(y, change)), safe)
    return [op.Where(nought, op.const(0, like=slope), slope)]


@pushed(
    f"{_ML}LinearRegressor",
    source="ai.onnx.ml LinearRegressor-1; x Cᵀ, then that of Sigmoid or Softmax",
)
def linear_regressor_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    targets, t = region.attr_int("targets", 1), tangents[0]
    assert t is not None
    post = region.attr_string("post_transform", "NONE")
    if targets == 1 and post != "NONE":
        raise RefusedError(
            f"onnxruntime ignores the post_transform {post} of a single target, ONNX does not; "
            "apply it in a node of its own"
        )
    moved = _scores(op, region, t, targets)
    return [_posted(op, moved, region.outputs[0], post)]


def _scores(op: Ops, region: Region, t: ir.Value, count: int) -> ir.Value:
    matrix = _floats(region, "coefficients").reshape(count, -1).T
    return op.MatMul(_as_rows(op, _single(op, t)), op.const(matrix, like=FLOAT))


def _posted(op: Ops, t: ir.Value, y: ir.Value, post: str) -> ir.Value:
    match post:
        case "NONE":
            return t
        case "LOGISTIC":
            return op.Mul(op.Mul(y, op.Sub(op.const(1, like=y), y)), t)
        case "SOFTMAX":
            scaled = op.Mul(y, t)
            return op.Sub(scaled, op.Mul(y, op.ReduceSum(scaled, op.ints([1]), keepdims=1)))
    raise RefusedError(f"the post_transform {post} has no derivative rule")


@pushed(
    f"{_ML}LinearClassifier",
    source="ai.onnx.ml LinearClassifier-1; scores as LinearRegressor, labels none; one row of "
    "coefficients for two classes gives −s and s",
)
def linear_classifier_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    t, y = tangents[0], region.outputs[1]
    assert t is not None
    if not y.name:
        return []
    post = region.attr_string("post_transform", "NONE")
    classes, count = dims.of(y)[-1], _count(region)
    moved = _scores(op, region, t, count)
    if count == 1 and classes == 2:
        if post == "SOFTMAX":
            raise RefusedError(
                "onnxruntime ignores the post_transform SOFTMAX of two classes with one row of "
                "coefficients, ONNX does not; apply it in a node of its own"
            )
        moved = op.Mul(moved, op.const([-1.0, 1.0], like=moved))
    elif count != classes:
        raise RefusedError(f"it has {count} rows of coefficients for {classes} classes")
    return [None, _posted(op, moved, y, post)]


def _count(region: Region) -> int:
    """How many rows of coefficients there are."""
    features = dims.of(region.operand(0))[-1]
    if intercepts := len(_floats(region, "intercepts")):
        return intercepts
    if not isinstance(features, int):
        raise RefusedError("how many features there are is not known, and it has no intercepts")
    return len(_floats(region, "coefficients")) // features


@pushed(
    f"{_ML}SVMRegressor",
    source="ai.onnx.ml SVMRegressor-1; Σ α k'(x, s) t, kernels LINEAR, POLY, RBF and SIGMOID",
)
def svm_regressor_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    if region.attr_int("one_class", 0):
        raise RefusedError("with one_class its result is a sign, piecewise constant")
    if (post := region.attr_string("post_transform", "NONE")) != "NONE":
        raise RefusedError(f"the post_transform {post} has no derivative rule")
    x, t = _as_rows(op, _single(op, x)), _as_rows(op, _single(op, t))
    weights, count = _floats(region, "coefficients"), region.attr_int("n_supports", 0)
    if count == 0:
        return [op.MatMul(t, op.const(weights[:, None], like=FLOAT))]
    vectors = _floats(region, "support_vectors").reshape(count, -1)
    along = op.MatMul(t, op.const(vectors.T, like=FLOAT))
    slope = _kernel_slope(op, region, x, vectors)
    column = op.const(weights[:, None], like=FLOAT)
    if slope is None:
        return [op.MatMul(along, column)]
    if region.attr_string("kernel_type", "LINEAR") == "RBF":
        own = op.ReduceSum(op.Mul(x, t), op.ints([1]), keepdims=1)
        along = op.Sub(own, along)  # (x − s) · t
    return [op.MatMul(op.Mul(slope, along), column)]


def _kernel_slope(op: Ops, region: Region, x: ir.Value, vectors: np.ndarray) -> ir.Value | None:
    """The slope of each kernel in x · s, or that of RBF in (x − s) · t; None is 1."""
    kind = region.attr_string("kernel_type", "LINEAR")
    params = _floats(region, "kernel_params")
    gamma, offset, degree = (float(p) for p in (*params, *[0.0] * (3 - len(params)))[:3])

    def number(value: float) -> ir.Value:
        return op.const(value, like=FLOAT)

    if kind == "LINEAR":
        return None
    if kind == "RBF":
        apart = op.Sub(op.unsqueeze(x, 1), op.const(vectors[None], like=FLOAT))
        squares = op.ReduceSumSquare(apart, op.ints([2]), keepdims=0)
        return op.Mul(op.Exp(op.Mul(squares, number(-gamma))), number(-2 * gamma))
    inner = op.MatMul(x, op.const(vectors.T, like=FLOAT))
    inner = op.Add(op.Mul(inner, number(gamma)), number(offset))
    if kind == "POLY":
        if degree < 1 or degree != int(degree):
            raise RefusedError(f"a kernel of the degree {degree} has no derivative rule")
        return op.Mul(op.Pow(inner, number(degree - 1)), number(gamma * degree))
    if kind == "SIGMOID":
        value = op.Tanh(inner)
        return op.Mul(op.Sub(number(1), op.Mul(value, value)), number(gamma))
    raise RefusedError(f"the kernel {kind} is not known")


@pushed(f"{_ML}Imputer", source="ai.onnx.ml Imputer-1; 0 where a value is replaced")
def imputer_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    replaced = region.attr_float("replaced_value_float", 0.0)
    gone = op.IsNaN(x) if np.isnan(replaced) else op.Equal(x, op.const(replaced, like=x))
    return [op.Where(gone, op.const(0, like=t), t)]


@linear_push(
    f"{_ML}FeatureVectorizer",
    terms=None,
    source="ai.onnx.ml FeatureVectorizer-1; a Concat of columns",
)
def feature_vectorizer_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    widths, parts = region.attributes["inputdimensions"].as_ints(), []
    for x, t, width in zip(region.inputs, tangents, widths, strict=True):
        assert x is not None
        if rank(x) != 2:
            raise RefusedError(f"operand {x.name!r} has {rank(x)} axes, not 2")
        part = op.zeros_like(_single(op, x)) if t is None else _single(op, t)
        parts.append(part if dims.of(x)[1] == width else _fitted(op, x, part, width))
    return [op.Concat(*parts, axis=1)]


def _fitted(op: Ops, x: ir.Value, part: ir.Value, width: int) -> ir.Value:
    """So many columns: further ones are left out, and missing ones zeros."""
    grown = op.Pad(part, op.ints([0, 0, 0, width]))
    kept = op.Slice(grown, op.ints([0]), op.ints([width]), op.ints([1]))
    kept.shape = ir.Shape((dims.of(x)[0], width))
    return kept


@linear_push(
    f"{_ML}ArrayFeatureExtractor",
    terms=((0,),),
    source="ai.onnx.ml ArrayFeatureExtractor-1; a Gather along the last axis",
)
def array_feature_extractor_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    t = tangents[0]
    assert t is not None
    positions = op.Reshape(region.operand(1), op.ints([-1]))
    return [op.Gather(_as_rows(op, t), positions, axis=-1)]
