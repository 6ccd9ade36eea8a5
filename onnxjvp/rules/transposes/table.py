"""The table and its decorators; where broadcasting is undone; the two generic transposes.

An entry takes a node of a program, and the cotangents of its outputs (None: zero), to the
cotangents of its linear operands. A cotangent may be *small*: 1 along an axis of its value, which
stands for the same number repeated. Entries that need it in full say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import Ops, rank

Cotangents = Sequence[ir.Value | None]
#: (op, node, cotangents of its outputs) -> a cotangent per linear operand, by index
Entry = Callable[[Ops, ir.Node, Cotangents], dict[int, ir.Value]]
#: (op, node, index of the operand, cotangent of the only output) -> that operand's cotangent
OfOperand = Callable[[Ops, ir.Node, int, ir.Value], ir.Value]

TRANSPOSES: dict[str, Entry] = {}


def jointly(names: str) -> Callable[[Entry], Entry]:
    """Register an entry that handles all outputs and operands of a node together."""

    def register(entry: Entry) -> Entry:
        for name in names.split():
            assert name not in TRANSPOSES, name
            TRANSPOSES[name] = entry
        return entry

    return register


def transposed(names: str, *, small: bool = False) -> Callable[[OfOperand], OfOperand]:
    """Register the transpose in one operand at a time, of nodes with one output.

    Args:
      small: the entry takes small cotangents; otherwise it gets them in full.
    """

    def register(function: OfOperand) -> OfOperand:
        def entry(op: Ops, node: ir.Node, cotangents: Cotangents) -> dict[int, ir.Value]:
            ct = cotangents[0]
            if ct is None:
                return {}
            if not small:
                ct = op.expand_to(ct, node.outputs[0])
            return {i: function(op, node, i, ct) for i in linear_operands(op, node)}

        jointly(names)(entry)
        return function

    return register


def linear_operands(op: Ops, node: ir.Node) -> list[int]:
    return [i for i, v in enumerate(node.inputs) if v is not None and v in op.linear]


def operand(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


# -- broadcasting ------------------------------------------------------------------------------


def undo_broadcast(op: Ops, ct: ir.Value, full: Dims, target: ir.Value) -> ir.Value:
    """Σ of a cotangent over the axes along which `target` was repeated to the shape `full`.

    `ct` may be small. Where two sizes are not known to be equal, the runtime decides.
    """
    ct = op.unsqueeze(ct, *range(len(full) - rank(ct)))
    lead = len(full) - rank(target)
    wanted: Dims = (1,) * lead + dims.of(target)
    counted, summed, unsure = [], [], []
    for axis, (have, want, size) in enumerate(zip(dims.of(ct), wanted, full, strict=True)):
        if want == size or (want != 1 and isinstance(want, int)):
            continue  # not repeated: then the result has that size, whatever its symbol
        if want != 1:
            unsure.append(axis)
        elif have == 1:
            counted.append(size)
        else:
            summed.append(axis)
    if counted:
        ct = op.Mul(ct, number(op, op.volume(counted), ct))
    ct = _in_full(op, ct, full, (*summed, *unsure))
    if summed:
        ct = op.ReduceSum(ct, op.ints(summed), keepdims=1)
    if unsure:
        once = op.Equal(op.as_tensor(tuple(wanted[k] for k in unsure)), op.ints([1]))
        axes = op.Compress(op.ints(unsure), once)
        shape = [wanted[k] if k in unsure else d for k, d in enumerate(dims.of(ct))]
        ct = op.ReduceSum(ct, axes, keepdims=1, noop_with_empty_axes=1)
        ct.shape = ir.Shape(shape)
    return op.Squeeze(ct, op.ints(range(lead))) if lead else ct


def _in_full(op: Ops, ct: ir.Value, full: Dims, axes: Sequence[int]) -> ir.Value:
    """A small cotangent in its full size along some axes."""
    pairs = enumerate(zip(full, dims.of(ct), strict=True))
    shape = tuple(size if k in axes else have for k, (size, have) in pairs)
    if shape == dims.of(ct):
        return ct
    out = op.Expand(ct, op.as_tensor(shape))
    out.shape = ir.Shape(shape)
    return out


def number(op: Ops, count: ir.Value, like: ir.Value) -> ir.Value:
    """An integer tensor of one element as a scalar in the dtype of `like`."""
    known = op.shapes.ints(count)
    if known is not None:
        return op.const(float(known[0]), like=like)
    assert like.dtype is not None
    return op.Cast(op.Squeeze(count, op.ints([0])), to=int(like.dtype))


# -- generic transposes ------------------------------------------------------------------------


def scatter_back(op: Ops, node: ir.Node, index: int, ct: ir.Value) -> ir.Value:
    """Of a node that only moves elements of one operand: move their indices, add up there."""
    data = operand(node, index)
    count = op.volume(dims.of(data))
    scalar = [op.const(np.int64(n), ir.DataType.INT64) for n in (0, 1)]
    counting = op.Range(scalar[0], op.Squeeze(count), scalar[1])
    moved = list(node.inputs)
    moved[index] = op.Reshape(counting, op.shape_of(data), allowzero=1)
    where = op.Reshape(op.like(node, moved)[0], op.ints([-1]))
    flat = add_at(op, count, where, op.Reshape(ct, op.ints([-1])))
    return reshaped(op, flat, data)


def add_at(op: Ops, count: ir.Value, where: ir.Value, values: ir.Value) -> ir.Value:
    """A vector of `count` elements, zero but for the sum of `values` at the indices `where`."""
    zeros = op.zeros(values.dtype, count)
    return scatter_add(op, zeros, where, values, 0)


def scatter_add(op: Ops, zeros: ir.Value, where: ir.Value, values: ir.Value, axis: int) -> ir.Value:
    """ScatterElements, which adds up what falls on one index (ScatterND of some runtimes races).

    In single precision at least: runtimes have no half kernel, and long sums want more digits.
    """
    dtype = values.dtype
    half = dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    if half:
        zeros, values = (op.Cast(v, to=int(ir.DataType.FLOAT)) for v in (zeros, values))
    out = op.ScatterElements(zeros, where, values, axis=axis, reduction="add")
    return op.Cast(out, to=int(dtype)) if half and dtype is not None else out


def reshaped(op: Ops, value: ir.Value, like: ir.Value) -> ir.Value:
    """The same elements in the shape of `like`."""
    out = op.reshape_to(value, dims.of(like))
    if out is None:
        out = op.Reshape(value, op.shape_of(like), allowzero=1)
        out.shape = like.shape
    return out
