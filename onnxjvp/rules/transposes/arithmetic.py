"""Sums, products and reductions."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.rules.transposes.table import number, operand, transposed, undo_broadcast


@transposed("Identity Add", small=True)
def add(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return undo_broadcast(op, ct, dims.of(node.outputs[0]), operand(node, i))


@transposed("Sub", small=True)
def sub(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return add(op, node, i, op.Neg(ct) if i else ct)


@transposed("Neg", small=True)
def neg(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return op.Neg(ct)


@transposed("Cast CastLike", small=True)
def cast(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    dtype = operand(node, i).dtype
    assert dtype is not None
    return ct if ct.dtype == dtype else op.Cast(ct, to=int(dtype))


@transposed("Mul", small=True)
def mul(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return add(op, node, i, op.Mul(operand(node, 1 - i), ct))


@transposed("Div", small=True)
def div(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    assert i == 0
    return add(op, node, i, op.Div(ct, operand(node, 1)))


@transposed("Where", small=True)
def where(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    zero = op.const(0, like=ct)
    branches = (ct, zero) if i == 1 else (zero, ct)
    return add(op, node, i, op.Where(operand(node, 0), *branches))


@transposed("Expand", small=True)
def expand(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return add(op, node, i, ct)


# -- products of matrices ----------------------------------------------------------------------


@transposed("MatMul")
def matmul(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    a, b = operand(node, 0), operand(node, 1)
    # vectors as matrices of one row or one column
    wide_a = op.unsqueeze(a, 0) if rank(a) == 1 else a
    wide_b = op.unsqueeze(b, 1) if rank(b) == 1 else b
    n = max(rank(wide_a), rank(wide_b))
    if rank(b) == 1:
        ct = op.unsqueeze(ct, rank(ct))
    if rank(a) == 1:
        ct = op.unsqueeze(ct, rank(ct) - 1)
    target, wide = (a, wide_a) if i == 0 else (b, wide_b)
    if i == 1 and rank(wide_b) == 2 and n > 2:
        # one product over all rows, not one per matrix of the batch and a sum
        rows = [
            op.Reshape(v, op.Concat(op.ints([-1]), op.sizes(v, [rank(v) - 1]), axis=0))
            for v in (wide_a, ct)
        ]
        total = op.Gemm(*rows, transA=1)
        total.shape = wide.shape
    else:
        total = op.MatMul(ct, swapped(op, wide_b)) if i == 0 else op.MatMul(swapped(op, wide_a), ct)
        batch = dims.of(ct)[:-2]
        total = undo_broadcast(op, total, (*batch, *dims.of(wide)[-2:]), wide)
    return total if rank(target) > 1 else op.Squeeze(total, op.ints([i]))


def swapped(op: Ops, matrix: ir.Value) -> ir.Value:
    n = rank(matrix)
    return op.Transpose(matrix, perm=[*range(n - 2), n - 1, n - 2])


@transposed("Gemm")
def gemm(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    a, b = operand(node, 0), operand(node, 1)
    trans_a = node.attributes.get_int("transA", 0)
    trans_b = node.attributes.get_int("transB", 0)
    alpha = node.attributes.get_float("alpha", 1.0)
    assert i < 2  # no rule leaves a bias inside
    if i == 0 and not trans_a:
        return op.Gemm(ct, b, alpha=alpha, transB=1 - trans_b)
    if i == 0:
        return op.Gemm(b, ct, alpha=alpha, transA=trans_b, transB=1)
    if trans_b:
        return op.Gemm(ct, a, alpha=alpha, transA=1, transB=trans_a)
    return op.Gemm(a, ct, alpha=alpha, transA=1 - trans_a)


# -- reductions --------------------------------------------------------------------------------


@transposed("ReduceSum", small=True)
def reduce_sum(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """The cotangent stays 1 along the axes that were summed."""
    x = operand(node, 0)
    axes = reduced_axes(op, node)
    if axes is None:  # known at run time only
        if not node.attributes.get_int("keepdims", 1):
            ct = op.Unsqueeze(ct, operand(node, 1))
            ct.shape, ct.type = None, x.type
        ct = op.Expand(ct, op.shape_of(x))
        ct.shape, ct.type = x.shape, x.type
        return ct
    return ct if node.attributes.get_int("keepdims", 1) else op.unsqueeze(ct, *axes)


@transposed("ReduceMean", small=True)
def reduce_mean(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    x = operand(node, 0)
    axes = reduced_axes(op, node)
    if axes is None:
        sizes = [number(op, op.volume(dims.of(v)), ct) for v in (x, node.outputs[0])]
        count = op.Div(*sizes)
    else:
        count = number(op, op.volume([dims.of(x)[axis] for axis in axes]), ct)
    return reduce_sum(op, node, i, op.Div(ct, count))


def reduced_axes(op: Ops, node: ir.Node) -> list[int] | None:
    """The axes that a reduction takes away, or None where they are known at run time only."""
    n = rank(operand(node, 0))
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = () if given is None else op.shapes.ints(given)
    if axes is None:
        return None
    if not axes and not node.attributes.get_int("noop_with_empty_axes", 0):
        return list(range(n))
    return sorted(axis % n for axis in axes)


@transposed("CumSum")
def cum_sum(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    backwards = 1 - node.attributes.get_int("reverse", 0)
    return op.like(node, [ct, operand(node, 1)], reverse=backwards)[0]
