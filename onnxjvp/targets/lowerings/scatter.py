"""Scattering with a sum, by comparisons and sums: what falls on one place is added up there."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.lowerings import pools
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand
from onnxjvp.targets.lowerings.shapes import (
    counted_from_end,
    counting,
    flat_index,
    size_along,
)

#: elements of a comparison of all places with all updates, which is refused beyond
MOST = 1 << 26


@lowering("ScatterElements")
def scatter_elements(low: Lowering, node: ir.Node) -> Made:
    """Sums at Indices by a ConvTranspose, of rows by a MatMul, others by comparisons of all places
    with all updates; without a sum, a ScatterND.
    """
    op, data, values = low.op, operand(node, 0), operand(node, 2)
    indices, axis = operand(node, 1), node.attributes.get_int("axis", 0) % max(rank(data), 1)
    kind = node.attributes.get_string("reduction", "none")
    if kind == "none":
        return _placed(op, data, indices, values, axis)
    if kind != "add":
        return None
    at_end = axis == rank(data) - 1
    total = (
        (pools.spread_back(low, data, indices, values) if at_end else None)
        or _rows(op, data, indices, values, axis)
        or _compared(op, data, indices, values, axis)
    )
    if total is None:
        return None
    return [total if _is_zero(data) else op.Add(data, total)]


def _placed(op: Ops, data: ir.Value, indices: ir.Value, values: ir.Value, axis: int) -> Made:
    """Without a sum: ScatterND into the flattened data."""
    where = op.unsqueeze(flat_index(op, data, indices, axis), rank(indices))
    flat = op.ScatterND(op.Reshape(data, op.ints([-1])), where, values)
    return [op.Reshape(flat, op.as_tensor(dims.of(data)), allowzero=1)]


def _is_zero(value: ir.Value) -> bool:
    array, made = constant(value), value.producer()
    if array is not None:
        return not array.any()
    if made is None:
        return False
    if made.op_type == "Expand":
        return _is_zero(operand(made, 0))
    if made.op_type != "ConstantOfShape":
        return False
    fill = made.attributes.get("value")
    return fill is None or not fill.as_tensor().numpy().any()


def _is_small(shape: Dims) -> bool:
    """As far as sizes are known."""
    known = [d for d in shape if isinstance(d, int)]
    return int(dims_product(known)) <= MOST


def dims_product(sizes: list[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


def _rows(
    op: Ops, data: ir.Value, indices: ir.Value, values: ir.Value, axis: int
) -> ir.Value | None:
    """Indices repeated along the other axes name rows: a product with a matrix of zeros and ones.

    Values have to be finite: an infinite one makes its column NaN.
    """
    expanded = indices.producer()
    if expanded is None or expanded.op_type != "Expand":
        return None
    row = operand(expanded, 0)
    ones = [d == 1 for k, d in enumerate(dims.of(row)) if k + rank(data) - rank(row) != axis]
    shape = (dim(data, axis), dim(values, axis))
    if not all(ones) or rank(row) + axis < rank(data) or not _is_small(shape):
        return None
    before, behind = dims.of(data)[:axis], dims.of(data)[axis + 1 :]
    size = size_along(op, data, axis)
    flat = counted_from_end(op, op.Reshape(row, op.ints([-1])), size)
    hits = op.Equal(op.unsqueeze(counting(op, size), 1), flat)
    assert values.dtype is not None
    matrix = op.Cast(hits, to=int(values.dtype))
    sheets = op.Concat(op.volume(before), size_along(op, values, axis), op.volume(behind), axis=0)
    total = op.MatMul(matrix, op.Reshape(values, sheets, allowzero=1))
    out = op.Reshape(total, op.as_tensor(dims.of(data)), allowzero=1)
    out.shape = data.shape
    return out


def _compared(
    op: Ops, data: ir.Value, indices: ir.Value, values: ir.Value, axis: int
) -> ir.Value | None:
    """Every place along the axis is compared with every index: what does not meet is left out."""
    n = rank(data)
    others = [k for k in range(n) if k != axis]
    if not _is_small((*dims.of(values), dim(data, axis))):
        return None
    if any(dim(data, k) != dim(values, k) for k in others):
        return None
    size = size_along(op, data, axis)
    places = op.Reshape(counting(op, size), op.ints([-1, *[1] * (n - 1 - axis)]))
    hits = op.Equal(op.unsqueeze(counted_from_end(op, indices, size), axis + 1), places)
    kept = op.Where(hits, op.unsqueeze(values, axis + 1), op.const(0, like=values))
    out = op.ReduceSum(kept, op.ints([axis]), keepdims=0)
    out.shape = data.shape
    return out
