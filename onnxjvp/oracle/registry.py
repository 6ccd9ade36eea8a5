"""The table of our own implementations of operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]

#: classes for `ReferenceEvaluator(new_ops=...)`
KERNELS: list[type[OpRun]] = []


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function as the implementation of the operator that it is named for."""
    KERNELS.append(operator(function))
    return function


def operator(function: Callable[..., Any], domain: str = "") -> type[OpRun]:
    """What onnx.reference takes for the implementation of an operator."""
    parameters = list(inspect.signature(function).parameters.values())
    wanted = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    passes = any(p.kind is p.VAR_KEYWORD for p in parameters)

    def _run(self: OpRun, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        if domain:  # there is no schema that says which attributes there are
            attributes = {a.name: _said(a) for a in self.onnx_node.attribute}
        attributes["outputs"] = len(self.onnx_node.output)
        given = {n: a for n, a in attributes.items() if n in wanted or (passes and n != "outputs")}
        result = function(*inputs, **given)
        return result if isinstance(result, tuple) else (result,)

    return type(function.__name__, (OpRun,), {"op_domain": domain, "_run": _run})


def _said(attribute: onnx.AttributeProto) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value


def per_channel(values: Array, like: Array) -> Array:
    """A vector over axis 1, shaped to broadcast against an array."""
    shape = (-1, *(1,) * (like.ndim - 2))
    return values.reshape(shape)
