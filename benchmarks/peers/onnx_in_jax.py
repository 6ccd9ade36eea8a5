"""ONNX files as functions of jax.numpy: the operators of the networks that are timed.

Float weights are arguments of the function, as users of JAX pass parameters; what shapes are made
of stays NumPy's, and is computed while tracing. Images have their channels last from the first
convolution on, and kernels too: on a CPU, XLA takes up to twice the time with ONNX's order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import onnx
from jax_operators import OPERATORS, Array
from onnx import numpy_helper

#: operators that take images with channels last, and those that act on either order
IMAGES = {
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool"),
    "BatchNormalization",
}
EITHER = {
    *("Relu", "Sigmoid", "Gelu", "Identity", "Add", "Sub", "Mul", "Div", "Concat", "Pad"),
    "ReduceMean",
}
#: where an axis of ONNX's order comes to lie
LAST = (0, 3, 1, 2)
#: of ONNX's kernels: Conv's outputs come first, ConvTranspose's inputs
KERNELS = {"Conv": (2, 3, 1, 0), "ConvTranspose": (2, 3, 0, 1)}


class Function:
    """A model with one input and one output.

    Raises NotImplementedError for operators that are not here.
    """

    def __init__(self, path: Path) -> None:
        graph = onnx.load(path).graph
        self.nodes = list(graph.node)
        if unknown := sorted({n.op_type for n in self.nodes} - {*OPERATORS, "Constant"}):
            raise NotImplementedError(f"no rule in this interpreter for {', '.join(unknown)}")
        held = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                held[node.output[0]] = np.asarray(attributes(node)["value"])
        self.nodes = [n for n in self.nodes if n.op_type != "Constant"]
        for kernel, kind in {
            n.input[1]: n.op_type for n in self.nodes if n.op_type in KERNELS
        }.items():
            held[kernel] = held[kernel].transpose(KERNELS[kind])
        self.weights = {k: jnp.asarray(v) for k, v in held.items() if _is_weight(v)}
        self.constants = {k: v for k, v in held.items() if not _is_weight(v)}
        (self.input,) = (v.name for v in graph.input if v.name not in held)
        (self.output,) = (v.name for v in graph.output)

    def __call__(
        self, weights: dict[str, Array], x: Array, masks: list[Array] | None = None
    ) -> Array:
        """f(x). Every Relu adds to `masks` which elements it lets through, [batch, elements]."""
        values = {**self.constants, **weights, self.input: x, "": None}
        last: set[str] = set()  # values with channels last
        for node in self.nodes:
            names, options = list(node.input), attributes(node)
            inputs = [values[name] for name in names]
            ordered = node.op_type in EITHER and any(name in last for name in names)
            if ordered and all(v is None or v.ndim in (0, 4) for v in inputs[: _operands(node)]):
                count = _operands(node)
                inputs[:count] = [
                    channels_last(v) if v.ndim == 4 and name not in last else v
                    for name, v in zip(names[:count], inputs[:count], strict=True)
                ]
                _move_axes(node.op_type, inputs, options)
            elif ordered := node.op_type in IMAGES:
                inputs[0] = inputs[0] if names[0] in last else channels_last(inputs[0])
            else:
                inputs = [
                    channels_first(v) if name in last else v
                    for name, v in zip(names, inputs, strict=True)
                ]
            made = OPERATORS[node.op_type](*inputs, **options)
            made = made if isinstance(made, tuple) else (made,)
            values.update(zip(node.output, made, strict=False))
            if ordered and made[0].ndim == 4:
                last.add(node.output[0])
            if masks is not None and node.op_type == "Relu":
                y = channels_first(made[0]) if node.output[0] in last else made[0]
                masks.append((y > 0).reshape(len(x), -1))
            if masks is not None and node.op_type == "RNN":
                masks.append(jnp.moveaxis(made[0] > 0, 2, 0).reshape(len(x), -1))
        result = values[self.output]
        return channels_first(result) if self.output in last else result


def channels_last(x: Array) -> Array:
    return x.transpose(0, 2, 3, 1)


def channels_first(x: Array) -> Array:
    return x.transpose(0, 3, 1, 2)


def _operands(node: onnx.NodeProto) -> int:
    """How many of the inputs are images; the others say how."""
    return 1 if node.op_type in ("Pad", "ReduceMean") else len(node.input)


def _move_axes(kind: str, inputs: list[Array], options: dict[str, Any]) -> None:
    if kind == "Concat":
        options["axis"] = LAST[options["axis"] % 4]
    elif kind == "ReduceMean" and len(inputs) > 1:
        inputs[1] = [LAST[int(axis) % 4] for axis in inputs[1]]
        if not options.get("keepdims", 1) and sorted(inputs[1]) != [1, 2]:
            raise NotImplementedError("a mean over other axes than those of pixels")
    elif kind == "Pad":
        low, high = np.reshape(inputs[1], (2, 4))
        order = np.argsort(LAST)
        inputs[1] = [*low[order], *high[order]]


def _is_weight(value: np.ndarray[Any, Any]) -> bool:
    return value.dtype.kind == "f" and value.size > 1


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, onnx.TensorProto):
            value = numpy_helper.to_array(value)
        elif isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list) and value and isinstance(value[0], bytes):
            value = [each.decode() for each in value]
        found[attribute.name] = value
    return found
