"""Reductions by others, and over axes that only the run tells."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand


def _axes_of(node: ir.Node) -> tuple[list[ir.Value | None], dict[str, Any]]:
    """What a reduction over the same axes is given, beside what it reduces."""
    kept = ("keepdims", "noop_with_empty_axes")
    attributes = {name: a for name, a in node.attributes.items() if name in kept}
    return list(node.inputs[1:]), attributes


def _sum(op: Ops, node: ir.Node, x: ir.Value) -> ir.Value:
    axes, attributes = _axes_of(node)
    return op.emit("ReduceSum", [x, *axes], attributes)[0]


@lowering("ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp")
def norms(low: Lowering, node: ir.Node) -> Made:
    """A sum of absolute values or squares, and a root or logarithm."""
    op, x = low.op, operand(node, 0)
    if node.attributes.get_int("noop_with_empty_axes", 0) and len(node.inputs) < 2:
        return [op.Identity(x)]
    match node.op_type:
        case "ReduceL1":
            return [_sum(op, node, op.Abs(x))]
        case "ReduceL2":
            return [op.Sqrt(_sum(op, node, op.Mul(x, x)))]
        case "ReduceSumSquare":
            return [_sum(op, node, op.Mul(x, x))]
        case "ReduceLogSum":
            return [op.Log(_sum(op, node, x))]
    axes, attributes = _axes_of(node)
    kept = {**attributes, "keepdims": ir.AttrInt64("keepdims", 1)}
    most = op.emit("ReduceMax", [x, *axes], kept)[0]
    logs = op.Log(_sum(op, node, op.Exp(op.Sub(x, most))))
    if node.attributes.get_int("keepdims", 1):
        return [op.Add(logs, most)]
    return [op.Add(logs, op.Reshape(most, op.Shape(logs)))]


@lowering("ReduceSum ReduceProd")
def reduced(low: Lowering, node: ir.Node) -> Made:
    """Products of a few integers one by one; sums over axes that only the run tells by Slices."""
    if node.op_type == "ReduceProd":
        return _product(low.op, node)
    return _over_unsure(low, node)


def _product(op: Ops, node: ir.Node) -> Made:
    """Of a vector of known length, element by element."""
    x = operand(node, 0)
    axes = op.shapes.ints(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    if rank(x) != 1 or axes not in (None, (0,), [0]):
        return None
    length = dim(x, 0)
    if not isinstance(length, int) or not 0 < length <= 8:
        return None
    found = op.Gather(x, op.ints([0]), axis=0)
    for i in range(1, length):
        found = op.Mul(found, op.Gather(x, op.ints([i]), axis=0))
    return [found if node.attributes.get_int("keepdims", 1) else op.Squeeze(found, op.ints([0]))]


def _over_unsure(low: Lowering, node: ir.Node) -> Made:
    """A sum over those of some axes that broadcasting has repeated, which only the run tells.

    Axes are chosen by Compress. Beside the operand stands its sum, and a Slice takes one of both.
    """
    op, axes = low.op, operand(node, 1) if len(node.inputs) > 1 else None
    array, once = _chosen(low, axes)
    flags = [node.attributes.get_int(name, 0) for name in ("keepdims", "noop_with_empty_axes")]
    if array is None or once is None or not all(flags):
        return None
    found = operand(node, 0)
    for i, axis in enumerate(map(int, array)):
        size = op.as_tensor((dim(found, axis),))
        summed = op.Cast(op.Gather(once, op.ints([i]), axis=0), to=int(ir.DataType.INT64))
        both = op.Concat(found, op.ReduceSum(found, op.ints([axis]), keepdims=1), axis=axis)
        found = op.Slice(both, op.Mul(summed, size), op.Add(size, summed), op.ints([axis]))
        found.shape = node.outputs[0].shape if i == len(array) - 1 else found.shape
    return [found]


def _chosen(low: Lowering, axes: ir.Value | None) -> tuple[Any, ir.Value | None]:
    """Constants, and which of them a Compress takes."""
    made = None if axes is None else axes.producer()
    if axes is not None and axes in low.chosen:
        every, once = low.chosen[axes]
    elif made is not None and made.op_type == "Compress":
        every, once = operand(made, 0), operand(made, 1)
    else:
        return None, None
    return constant(every), once
