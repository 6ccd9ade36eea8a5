"""Operators of the domain ai.onnx.ml in float64, where onnx.reference rounds or has no kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from onnxjvp.oracle.registry import Array, operator

#: classes for `ReferenceEvaluator(new_ops=...)`
MACHINE_LEARNING: list[type[OpRun]] = []


def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    MACHINE_LEARNING.append(operator(function, "ai.onnx.ml"))
    return function


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _posted(scores: Array, post_transform: str) -> Array:
    if post_transform == "LOGISTIC":
        return np.asarray(1 / (1 + np.exp(-scores)))
    return _softmax(scores) if post_transform == "SOFTMAX" else scores


def _single(numbers: Sequence[float]) -> Array:
    """Attributes are float32 in the format."""
    return np.asarray(numbers, np.float32).astype(np.float64)


@_kernel
def Normalizer(X: Array, *, norm: str = "MAX") -> Array:
    """A row of zeros stays one."""
    sizes = {
        "MAX": np.abs(X).max(axis=-1, keepdims=True, initial=0),
        "L1": np.abs(X).sum(axis=-1, keepdims=True),
        "L2": np.sqrt(np.square(X).sum(axis=-1, keepdims=True)),
    }
    size = sizes[norm]
    return np.asarray(X / np.where(size == 0, 1, size))


@_kernel
def LinearRegressor(
    X: Array,
    *,
    coefficients: Sequence[float],
    intercepts: Sequence[float] = (),
    targets: int = 1,
    post_transform: str = "NONE",
) -> Array:
    scores = X.reshape(-1, X.shape[-1]) @ _single(coefficients).reshape(targets, -1).T
    return _posted(scores + (_single(intercepts) if intercepts else 0), post_transform)


@_kernel
def LinearClassifier(
    X: Array,
    *,
    coefficients: Sequence[float],
    classlabels_ints: Sequence[int],
    intercepts: Sequence[float] = (),
    multi_class: int = 0,
    post_transform: str = "NONE",
) -> tuple[Array, Array]:
    rows = X.reshape(-1, X.shape[-1])
    scores = rows @ _single(coefficients).reshape(-1, rows.shape[1]).T
    scores = scores + (_single(intercepts) if intercepts else 0)
    if scores.shape[1] == 1:  # of two classes, the second
        first = 1 - scores if post_transform == "NONE" else -scores
        scores = np.concatenate([first, scores], axis=1)
    scores = _posted(scores, post_transform)
    return np.asarray(classlabels_ints, np.int64)[scores.argmax(axis=1)], scores


@_kernel
def SVMRegressor(
    X: Array,
    *,
    coefficients: Sequence[float],
    rho: Sequence[float],
    kernel_type: str = "LINEAR",
    kernel_params: Sequence[float] = (0.0, 0.0, 0.0),
    support_vectors: Sequence[float] = (),
    n_supports: int = 0,
    post_transform: str = "NONE",
    one_class: int = 0,
) -> Array:
    gamma, offset, degree = _single(kernel_params)
    vectors = _single(support_vectors).reshape(max(n_supports, 1), -1)
    if not n_supports:
        return np.asarray((X @ _single(coefficients) + _single(rho)[0])[:, None])
    products = X @ vectors.T
    match kernel_type:
        case "POLY":
            values = (gamma * products + offset) ** degree
        case "SIGMOID":
            values = np.tanh(gamma * products + offset)
        case "RBF":
            values = np.exp(-gamma * np.square(X[:, None] - vectors).sum(axis=-1))
        case _:
            values = products
    return np.asarray((values @ _single(coefficients) + _single(rho)[0])[:, None])


@_kernel
def FeatureVectorizer(*inputs: Array, inputdimensions: Sequence[int]) -> Array:
    parts = []
    for x, n in zip(inputs, inputdimensions, strict=True):
        kept = x[:, :n]
        parts.append(np.pad(kept, [(0, 0), (0, n - kept.shape[1])]))
    return np.concatenate(parts, axis=1)
