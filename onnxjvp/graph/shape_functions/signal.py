"""Fourier transforms, and what is made for them."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.shape_functions.operands import integer, operand, optional, unknown
from onnxjvp.graph.shapes import Shapes, shape_function


def _scalar(s: Shapes, value: ir.Value | None) -> Dim | None:
    content = s.content(value)
    return content[0] if content else None


@shape_function("DFT")
def dft(s: Shapes, node: ir.Node) -> None:
    x = list(dims.of(operand(node)))
    if s.opset_imports.get("", 20) < 20:
        axis: Dim | None = integer(node, "axis", 1)
    else:
        axis = -2 if optional(node, 2) is None else _scalar(s, optional(node, 2))
    if not isinstance(axis, int):
        s.put(node.outputs[0], unknown(len(x)), operand(node).dtype)
        return
    axis %= len(x)
    onesided, inverse = integer(node, "onesided", 0) == 1, integer(node, "inverse", 0) == 1
    to_real = onesided and inverse
    length = _scalar(s, optional(node, 1))
    if optional(node, 1) is None:
        length = dims.simplest((x[axis] - 1) * 2) if to_real else x[axis]
    elif length is None:
        length = dims.fresh()
    x[axis] = dims.simplest(length // 2 + 1) if onesided and not inverse else length
    x[-1] = 1 if to_real else 2
    s.put(node.outputs[0], x, operand(node).dtype)


@shape_function("STFT")
def stft(s: Shapes, node: ir.Node) -> None:
    signal, step = dims.of(operand(node)), _scalar(s, operand(node, 1))
    window, given = optional(node, 2), optional(node, 3)
    length: Dim | None = signal[1]
    if given is not None:
        length = _scalar(s, given)
    elif window is not None:
        length = dims.of(window)[0]
    frames: Dim = dims.fresh()
    bins = length
    if length is None:
        bins = dims.fresh()
    else:
        if isinstance(step, int) and step > 0:
            frames = dims.simplest((signal[1] - length) // step + 1)
        if integer(node, "onesided", 1):
            bins = dims.simplest(length // 2 + 1)
    assert bins is not None
    s.put(node.outputs[0], (signal[0], frames, bins, 2), operand(node).dtype)
