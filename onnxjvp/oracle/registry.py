"""The table of our own implementations of operators."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]

#: classes for `ReferenceEvaluator(new_ops=...)`
KERNELS: list[type[OpRun]] = []


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function as the implementation of the operator that it is named for."""
    parameters = inspect.signature(function).parameters.values()
    wanted = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}

    def _run(self: OpRun, *inputs: Array | None, **attributes: Any) -> tuple[Array, ...]:
        attributes["outputs"] = len(self.onnx_node.output)
        given = {name: attributes[name] for name in wanted if name in attributes}
        result = function(*inputs, **given)
        return result if isinstance(result, tuple) else (result,)

    KERNELS.append(type(function.__name__, (OpRun,), {"op_domain": "", "_run": _run}))
    return function


def per_channel(values: Array, like: Array) -> Array:
    """A vector over axis 1, shaped to broadcast against an array."""
    shape = (-1, *(1,) * (like.ndim - 2))
    return values.reshape(shape)
