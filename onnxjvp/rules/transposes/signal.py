"""Fourier transforms.

A transform over all frequencies is symmetric, so its adjoint is itself between two conjugations:
no inverse is needed, nor a division by the length that the inverse would bring.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.shape_functions.operands import unknown
from onnxjvp.rules.spectra import (
    Axis,
    frame_length,
    half_of,
    has_axis_operand,
    one_of,
    places,
    transform,
)
from onnxjvp.rules.transposes.table import operand, scatter_add, transposed


@transposed("DFT")
def dft(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    x = operand(node, 0)
    axis = _axis(op, node)
    onesided = node.attributes.get_int("onesided", 0) == 1
    inverse = node.attributes.get_int("inverse", 0) == 1
    if not onesided and not inverse and (len(node.inputs) < 2 or node.inputs[1] is None):
        out = _parts_of(op, _back(op, ct, axis), x)
        out.shape = x.shape
        return out
    length = _length(op, node, axis, onesided and inverse)
    if onesided and inverse:
        if not isinstance(axis, int):
            raise dims.UnknownTypeError("the axis of its half spectrum is known at run time only")
        _check_half(op, x, axis, length)
        back = _of_real(op, ct, axis, length)
        made = half_of(op, length)
    else:
        whole = _fitted(op, ct, axis, half_of(op, length), length) if onesided else ct
        if inverse:
            back = op.Div(transform(op, whole, axis), _as_number(op, length, ct))
        else:
            back = _back(op, whole, axis)
        made = length
    out = _parts_of(op, _fitted(op, back, axis, made, _size(op, x, axis)), x)
    out.shape = x.shape
    return out


def _back(op: Ops, whole: ir.Value, axis: Axis) -> ir.Value:
    return _conjugate(op, transform(op, _conjugate(op, whole), axis))


def _axis(op: Ops, node: ir.Node) -> Axis:
    n = rank(operand(node, 0))
    if not has_axis_operand(op):
        return node.attributes.get_int("axis", 1) % n
    given = node.inputs[2] if len(node.inputs) > 2 else None
    if given is None:
        return n - 2
    known = op.shapes.ints(given)
    return op.Mod(one_of(op, given), op.ints([n])) if known is None else known[0] % n


def _size(op: Ops, value: ir.Value, axis: Axis) -> ir.Value:
    """The size of a value along an axis, as a tensor of one element."""
    if isinstance(axis, int):
        return op.as_tensor((dim(value, axis),))
    return op.Gather(op.shape_of(value), axis)


def _length(op: Ops, node: ir.Node, axis: Axis, to_real: bool) -> ir.Value:
    """The number of points, as a tensor of one element."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is not None:
        return one_of(op, given)
    x = operand(node, 0)
    if to_real and isinstance(axis, int):
        return op.as_tensor((dims.simplest((dim(x, axis) - 1) * 2),))
    return _size(op, x, axis)


def _conjugate(op: Ops, value: ir.Value) -> ir.Value:
    return op.Mul(value, op.const(np.array([1.0, -1.0]), like=value))


def _of_real(op: Ops, ct: ir.Value, axis: int, length: ir.Value) -> ir.Value:
    """Of a spectrum's half → real numbers: every frequency but the first, and the one in the
    middle, stands for two."""
    zeros = op.ints([*[0] * (2 * rank(ct) - 1), 1])
    count = half_of(op, length)
    whole = transform(op, op.Pad(ct, zeros), axis)
    half = op.Slice(whole, op.ints([0]), count, op.ints([axis]))
    scalars = [op.const(np.int64(k), INT64) for k in (0, 1)]
    k = op.Range(scalars[0], op.Squeeze(count, op.ints([0])), scalars[1])
    alone = op.Equal(op.Mod(op.Mul(k, op.ints([2])), length), op.ints([0]))
    weights = op.Where(alone, op.const(1.0, like=ct), op.const(2.0, like=ct))
    column = op.unsqueeze(weights, *range(1, rank(ct) - axis))
    return op.Mul(half, op.Div(column, _as_number(op, length, ct)))


def _check_half(op: Ops, x: ir.Value, axis: int, length: ir.Value) -> None:
    known, size = op.shapes.ints(length), dim(x, axis)
    if known is not None and isinstance(size, int) and known[0] // 2 + 1 != size:
        raise dims.UnknownTypeError(
            f"runtimes differ in what {known[0]} points make of {size} frequencies of a half "
            f"spectrum, which are {known[0] // 2 + 1}"
        )


def _fitted(op: Ops, value: ir.Value, axis: Axis, have: ir.Value, size: ir.Value) -> ir.Value:
    """Cut, or filled up with zeros, at the end of an axis."""
    more = op.Sub(size, have)
    known = op.shapes.ints(more)
    if known == (0,):
        return value
    pads = op.Concat(op.ints([0]), op.ints(known) if known is not None else more, axis=0)
    out = op.Pad(value, pads, None, op.ints([axis]) if isinstance(axis, int) else axis)
    if not isinstance(axis, int):
        out.shape = ir.Shape([*unknown(rank(value) - 1), dim(value, rank(value) - 1)])
    return out


def _parts_of(op: Ops, pairs: ir.Value, x: ir.Value) -> ir.Value:
    """The real parts alone, where x has no others."""
    last, parts = rank(pairs) - 1, dim(x, rank(x) - 1)
    if parts == 2:
        return pairs
    return op.Slice(pairs, op.ints([0]), op.as_tensor((parts,)), op.ints([last]))


def _as_number(op: Ops, size: ir.Value, like: ir.Value) -> ir.Value:
    known = op.shapes.ints(size)
    if known is not None:
        return op.const(float(known[0]), like=like)
    assert like.dtype is not None
    return op.Cast(op.Squeeze(size, op.ints([0])), to=int(like.dtype))


# -- frames ------------------------------------------------------------------------------------


@transposed("STFT")
def stft(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Frames of the signal's cotangent, times the window, added up where they overlap."""
    signal = operand(node, 0)
    window = node.inputs[2] if len(node.inputs) > 2 else None
    like = signal if rank(signal) > 2 else op.unsqueeze(signal, 2)
    length = frame_length(op, node)
    where = places(op, operand(node, 1), dim(node.outputs[0], 1), length)
    onesided = node.attributes.get_int("onesided", 1)
    whole = _fitted(op, ct, 2, half_of(op, length), length) if onesided else ct
    frames = _parts_of(op, _back(op, whole, 2), like)
    if window is not None:
        frames = op.Mul(frames, op.unsqueeze(window, 1))
    rows = op.Concat(
        op.as_tensor(dims.of(like)[:1]),
        op.Mul(op.as_tensor((dim(node.outputs[0], 1),)), length),
        op.as_tensor(dims.of(like)[2:]),
        axis=0,
    )
    indices = op.Expand(op.Reshape(where, op.ints([1, -1, 1])), rows)
    zeros = op.zeros(ct.dtype, op.as_tensor(dims.of(like)))
    out = scatter_add(op, zeros, indices, op.Reshape(frames, rows, allowzero=1), 1)
    return out if like is signal else op.Squeeze(out, op.ints([2]))
