"""What Fourier transforms and their transposes share: frames of a signal, transforms of pairs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import INT64, Ops, dim

#: from this opset on the axis of a DFT is an operand
AXIS_IS_OPERAND = 20

#: an axis, or a tensor of one element that names it at run time
Axis = int | ir.Value


def has_axis_operand(op: Ops) -> bool:
    return op.shapes.opset_imports.get("", AXIS_IS_OPERAND) >= AXIS_IS_OPERAND


def transform(op: Ops, value: ir.Value, axis: Axis) -> ir.Value:
    """The DFT of pairs of numbers, or of single ones, over all points of an axis."""
    if not isinstance(axis, int):
        out = op.DFT(value, None, op.Squeeze(axis, op.ints([0])))
        out.shape = value.shape
        return out
    if not has_axis_operand(op):
        return op.DFT(value, axis=axis)
    return op.DFT(value, None, op.const(np.int64(axis), INT64))


def half_of(op: Ops, length: ir.Value) -> ir.Value:
    """How many frequencies tell all of a real signal of so many points."""
    known = op.shapes.ints(length)
    if known is not None:
        return op.ints([known[0] // 2 + 1])
    return op.Add(op.Div(length, op.ints([2])), op.ints([1]))


def one_of(op: Ops, scalar: ir.Value) -> ir.Value:
    """An integer scalar as an int64 tensor of one element."""
    known = op.shapes.ints(scalar)
    if known is not None:
        return op.ints(known)
    whole = op.Reshape(scalar, op.ints([1]))
    return whole if whole.dtype == INT64 else op.Cast(whole, to=int(INT64))


# -- frames of an STFT -------------------------------------------------------------------------


def frame_length(op: Ops, node: ir.Node) -> ir.Value:
    """The points of a frame, as a tensor of one element."""
    window, given = (node.inputs[k] if len(node.inputs) > k else None for k in (2, 3))
    if given is not None:
        return one_of(op, given)
    if window is not None:
        return op.as_tensor(dims.of(window))
    signal = node.inputs[0]
    assert signal is not None
    return op.as_tensor((dim(signal, 1),))


def places(op: Ops, step: ir.Value, frames: Dim, length: ir.Value) -> ir.Value:
    """[frames, length]: which element of the signal each frame holds where."""
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    count = op.Squeeze(op.as_tensor((frames,)), op.ints([0]))
    starts = op.Mul(op.Range(zero, count, one), one_of(op, step))
    behind = op.Range(zero, op.Squeeze(length, op.ints([0])), one)
    return op.Add(op.unsqueeze(starts, 1), behind)
