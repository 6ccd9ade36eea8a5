"""Operators that broadcast, products of matrices, and sums along axes."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import INT64, dim, rank
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.leading.table import given, known_axes, leading, only, shifted


@leading(
    """Add Sub Mul Div Sum Max Min Mean Pow PRelu Where Equal Greater Less GreaterOrEqual
    LessOrEqual And Or Not Neg Identity Cast Relu LeakyRelu Abs Sign Sqrt Exp Log Reciprocal Erf
    Tanh Sigmoid Clip"""
)
def broadcasting(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    out = node.outputs[0]
    n = rank(out)

    def by_row(operand: Operand) -> bool:
        if operand is None:
            return True
        if isinstance(operand, Stacked):
            return rank(operand.like) == n and (n == 0 or dim(operand.like, 0) == dim(out, 0))
        return rank(operand) < n or n == 0 or dim(operand, 0) == 1

    if all(map(by_row, operands)):
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, [_aligned(lanes, v, n) for v in operands])


def _aligned(lanes: Lanes, operand: Operand, n: int) -> Operand:
    """Unfolded, with its own axes where broadcasting to rank n looks for them."""
    if not isinstance(operand, Stacked) or rank(operand.like) == n:
        return operand
    return lanes.op.unsqueeze(lanes.unfold(operand), *range(1, 1 + n - rank(operand.like)))


@leading("CastLike")
def cast_like(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    return lanes.on_folded(node, operands) if isinstance(operands[0], Stacked) else None


# -- products of matrices ----------------------------------------------------------------------


@leading("MatMul")
def matmul(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    a, b = operands
    if isinstance(a, Stacked) and isinstance(b, ir.Value) and rank(b) == 2 <= rank(a.like):
        # one product of matrices either way: take the form that is there
        by_lane = a.folded is None
        return (lanes.on_unfolded if by_lane else lanes.on_folded)(node, operands)
    n, m = (rank(v.like) if isinstance(v, Stacked) else rank(_known(v)) for v in (a, b))
    axes = max(n, m, 2)
    if isinstance(a, ir.Value) and isinstance(b, Stacked) and n > 2 >= m:
        return [_by_rows(lanes, node, a, b)]
    widened = [r < axes for r, v in ((n, a), (m, b)) if isinstance(v, Stacked)]
    if axes > 2 and any(widened) and isinstance(lanes.count, int):
        return None  # runtimes broadcast no 1 against an empty batch of matrices
    left, right = _known(a), _known(b)
    dropped = []
    if isinstance(a, Stacked):
        left = lanes.op.unsqueeze(lanes.unfold(a), *range(1, 1 + axes - n))
        if n == 1:  # a row: the axis before the columns, if those are left
            dropped.append(-2 if m > 1 or isinstance(b, Stacked) else -1)
    if isinstance(b, Stacked):
        tail = [axes] if m == 1 else []
        before = range(1, 1 + axes - m - len(tail))
        right = lanes.op.unsqueeze(lanes.unfold(b), *before, *tail)
        dropped += [-1] * len(tail)
    out = lanes.op.MatMul(left, right)
    if dropped:
        out = lanes.op.Squeeze(out, lanes.op.ints(dropped))
    return [lanes.unfolded(node.outputs[0], out)]


def _by_rows(lanes: Lanes, node: ir.Node, a: ir.Value, b: Stacked) -> Stacked:
    """A batch of matrices by lanes of one matrix (or vector): all rows by every lane."""
    op, n = lanes.op, rank(a)
    rows = op.Concat(op.count(a, range(n - 1)), op.sizes(a, [n - 1]), axis=0)
    right = lanes.unfold(b)
    columns = [lanes.shape_of(right, 2)] if rank(b.like) == 2 else []
    if not columns:
        right = op.unsqueeze(right, 2)
    product = op.MatMul(op.Reshape(a, rows, allowzero=1), right)
    target = op.Concat(lanes.size, op.sizes(a, range(n - 1)), *columns, axis=0)
    return lanes.unfolded(node.outputs[0], op.Reshape(product, target, allowzero=1))


def _known(operand: Operand) -> ir.Value:
    assert operand is not None
    return operand.like if isinstance(operand, Stacked) else operand


@leading("Gemm")
def gemm(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    bias = given(operands, 2)
    rows = node.attributes.get_int("transA", 0) == 0 and only(operands) is not None
    one_row = not isinstance(bias, ir.Value) or rank(bias) < 2 or dim(bias, 0) == 1
    if rows and one_row:
        return lanes.on_folded(node, operands)
    return _written_out(lanes, node, operands[0], operands[1], bias)


def _written_out(
    lanes: Lanes, node: ir.Node, a: Operand, b: Operand, bias: Operand
) -> list[Stacked]:
    """alpha A' B' + beta C over stacks, as MatMul, Mul and Add."""
    op = lanes.op
    whole = op.MatMul(_matrix(lanes, node, a, "transA"), _matrix(lanes, node, b, "transB"))
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    if alpha != 1:
        whole = op.Mul(whole, op.const(alpha, like=whole))
    if bias is not None:
        aligned = _aligned(lanes, bias, 2)
        shift = lanes.unfold(aligned) if isinstance(aligned, Stacked) else aligned
        assert shift is not None
        whole = op.Add(whole, op.Mul(shift, op.const(beta, like=shift)) if beta != 1 else shift)
    return [lanes.unfolded(node.outputs[0], whole)]


def _matrix(lanes: Lanes, node: ir.Node, operand: Operand, flag: str) -> ir.Value:
    value = lanes.unfold(operand) if isinstance(operand, Stacked) else operand
    assert value is not None
    if not node.attributes.get_int(flag, 0):
        return value
    return lanes.op.Transpose(value, perm=[0, 2, 1] if isinstance(operand, Stacked) else [1, 0])


@leading("Einsum")
def einsum(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """The lanes' axis is one more letter, in the terms of the stacks and of the result."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    inputs, arrow, result = equation.partition("->")
    letters = sorted({c for c in inputs if c.isalpha()})
    new = next((c for c in "KZYXWVUkzyxwvu" if c not in letters), None)
    if new is None:
        return None
    if not arrow:
        once = "".join(c for c in letters if inputs.count(c) == 1)
        result = ("..." if "..." in inputs else "") + once
    terms = [
        new + term if isinstance(operand, Stacked) else term
        for term, operand in zip(inputs.split(","), operands, strict=True)
    ]
    return lanes.on_unfolded(node, operands, equation=f"{','.join(terms)}->{new}{result}")


# -- along axes --------------------------------------------------------------------------------


@leading("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd")
def reduce(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data, axes = lanes.op, only(operands), given(operands, 1)
    if data is None:
        return None
    n = rank(data.like)
    if n == 0:
        return [Stacked(node.outputs[0], data.folded, data.unfolded)]
    none_is_noop = node.attributes.get_int("noop_with_empty_axes", 0) == 1
    chosen = known_axes(axes, n) if isinstance(axes, ir.Value) else ()
    if chosen is None:
        assert isinstance(axes, ir.Value)
        length = dim(axes, 0)
        some = none_is_noop or (isinstance(length, int) and length > 0)
        return lanes.on_unfolded(node, [data, (shifted if some else _all_if_none)(lanes, axes, n)])
    if not chosen and not none_is_noop:
        chosen = tuple(range(n))
    if 0 not in chosen:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, [data, op.ints([a + 1 for a in chosen])])


def _all_if_none(lanes: Lanes, axes: ir.Value, n: int) -> ir.Value:
    """Axes of a tensor of rank n behind a leading axis, which no axes (all) would reduce too."""
    op = lanes.op
    marks = op.ScatterElements(op.ints([0] * n), axes, op.Expand(op.ints([1]), op.Shape(axes)))
    none = op.Equal(op.Size(axes), op.const(0, INT64))
    return op.Compress(op.ints(range(1, n + 1)), op.Or(none, op.Equal(marks, op.ints([1]))))


@leading("CumSum")
def cumulative(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data, axis = only(operands), operands[1]
    if data is None or not isinstance(axis, ir.Value):
        return None
    n = rank(data.like)
    known = known_axes(axis, n)
    if known is not None and known[0] > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, [data, shifted(lanes, axis, n)])


@leading("Trilu")
def triangle(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data = only(operands)
    if data is None:
        return None
    by_row = rank(data.like) > 2
    return lanes.on_folded(node, operands) if by_row else lanes.on_unfolded(node, operands)
