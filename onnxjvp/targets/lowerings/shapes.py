"""Operators that choose and place by position: matrices of ones and zeros, halves, elements."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand


def counting(op: Ops, size: ir.Value) -> ir.Value:
    """0, 1, … up to a size, a tensor of one element."""
    known = op.shapes.ints(size)
    if known is not None and known[0] <= 1 << 16:
        return op.ints(range(known[0]))
    start, step = op.const(0, INT64), op.const(1, INT64)
    return op.Range(start, op.Squeeze(size, op.ints([0])), step)


def size_along(op: Ops, value: ir.Value, axis: int) -> ir.Value:
    return op.as_tensor((dim(value, axis),))


def _rows_and_columns(op: Ops, value: ir.Value) -> tuple[ir.Value, ir.Value]:
    n = rank(value)
    rows = counting(op, size_along(op, value, n - 2))
    return op.unsqueeze(rows, 1), counting(op, size_along(op, value, n - 1))


@lowering("EyeLike")
def eye_like(low: Lowering, node: ir.Node) -> Made:
    """Where numbers of rows and of columns are equal."""
    op, like = low.op, operand(node, 0)
    to = node.attributes.get_int("dtype", int(like.dtype or ir.DataType.FLOAT))
    rows, columns = _rows_and_columns(op, like)
    moved = op.Sub(columns, op.ints([node.attributes.get_int("k", 0)]))
    return [op.Cast(op.Equal(rows, moved), to=to)]


@lowering("Trilu")
def trilu(low: Lowering, node: ir.Node) -> Made:
    """A Where over numbers of rows and of columns."""
    op, x = low.op, operand(node, 0)
    rows, columns = _rows_and_columns(op, x)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        rows = op.Add(rows, op.Reshape(node.inputs[1], op.ints([1, 1])))
    upper = node.attributes.get_int("upper", 1)
    outside = op.Less(columns, rows) if upper else op.Greater(columns, rows)
    return [op.Where(outside, op.const(0, like=x), x)]


@lowering("Split")
def split(low: Lowering, node: ir.Node) -> Made:
    """With the sizes of the parts as an operand, as older opsets want them."""
    op, x = low.op, operand(node, 0)
    axis, count = node.attributes.get_int("axis", 0) or 0, len(node.outputs)
    size = dim(x, axis)
    if not isinstance(size, int) or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return None
    part = -(-size // count)
    sizes = op.ints([part] * (count - 1) + [size - part * (count - 1)])
    return list(op.emit("Split", [x, sizes], {"axis": axis}, outputs=count))


@lowering("Compress")
def compress(low: Lowering, node: ir.Node) -> Made:
    """The numbers of what is chosen, and a Gather; where these are told by NonZero."""
    op, x, chosen = low.op, operand(node, 0), operand(node, 1)
    low.chosen[node.outputs[0]] = (x, chosen)
    axis = node.attributes.get_int("axis", None)
    if axis is None:
        x, axis = op.Reshape(x, op.ints([-1])), 0
    single = op.Cast(chosen, to=int(ir.DataType.FLOAT))
    numbers = op.Squeeze(op.NonZero(single), op.ints([0]))
    return [op.Gather(x, numbers, axis=axis)]


@lowering("GatherElements")
def gather_elements(low: Lowering, node: ir.Node) -> Made:
    """A Gather from the flattened data, at indices that count through all of it."""
    op, data, indices = low.op, operand(node, 0), operand(node, 1)
    if rank(data) == 0:
        return None
    where = flat_index(op, data, indices, node.attributes.get_int("axis", 0) % rank(data))
    return [op.Gather(op.Reshape(data, op.ints([-1])), where, axis=0)]


def flat_index(op: Ops, data: ir.Value, indices: ir.Value, axis: int) -> ir.Value:
    """Where the elements that indices name along an axis are in the flattened data."""
    whole = counted_from_end(op, indices, size_along(op, data, axis))
    n = rank(data)
    terms = []
    for k in range(n):
        stride = dims.of(data)[k + 1 :]
        place = whole
        if k != axis:
            steps = counting(op, size_along(op, indices, k))
            place = op.Reshape(steps, op.ints([1] * k + [-1] + [1] * (n - 1 - k)))
        terms.append(op.Mul(place, op.volume(stride)) if stride else place)
    return op.add_all(terms)


def counted_from_end(op: Ops, indices: ir.Value, size: ir.Value) -> ir.Value:
    """Indices of which the negative ones count from the end, as int64 from the start."""
    if indices.dtype != INT64:
        indices = op.Cast(indices, to=int(INT64))
    beyond = op.Cast(op.Less(indices, op.ints([0])), to=int(INT64))
    return op.Add(indices, op.Mul(beyond, size))
