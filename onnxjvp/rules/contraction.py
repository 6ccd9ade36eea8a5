"""Sums of products over named axes, and determinants."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Linear, RefusedError, Tangents
from onnxjvp.rules.registry import multilinear, pushed, register

#: an Einsum has no more operands than it has letters for them
_ALL = tuple(range(52))


def einsum_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    return multilinear(op, region, tangents, (_ALL[: len(tangents)],))


register(
    "Einsum",
    Linear(einsum_push, (_ALL,), None, "ONNX Einsum-12; linear in each operand, one term of all"),
)

#: rows up to which cofactors are made: of n rows they are n² determinants of n - 1 rows
LARGEST_DET = 32


@pushed("Det", source="ONNX Det-11; Σ over the elements of cofactor · t, for singular matrices too")
def det_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x = tangents, region.operand(0)
    assert t is not None
    n = rank(x)
    products = t
    if dim(x, n - 1) != 1:
        products = op.Mul(_cofactors(op, x), t)
    return [op.ReduceSum(products, op.ints([n - 2, n - 1]), keepdims=0)]


def _cofactors(op: Ops, x: ir.Value) -> ir.Value:
    """[…, n, n] → the determinants of what is left without a row and a column, with their signs."""
    n = rank(x)
    size = dim(x, n - 1) if isinstance(dim(x, n - 1), int) else dim(x, n - 2)
    if isinstance(size, int) and size > LARGEST_DET:
        raise RefusedError(
            f"the {size} x {size} cofactors of its matrices, which are exact for singular ones "
            f"too, are made for up to {LARGEST_DET} rows"
        )
    others, odd = _left(op, op.ints([size]) if isinstance(size, int) else op.sizes(x, [n - 1]))
    # […, i, row, column], then […, i, row, j, column]
    minors = op.Gather(op.Gather(x, others, axis=n - 2), others, axis=n)
    minors = op.Transpose(minors, perm=[*range(n - 2), n - 2, n, n - 1, n + 1])
    of_minors = op.Det(minors)
    return op.Where(odd, op.Neg(of_minors), of_minors)


def _left(op: Ops, size: ir.Value) -> tuple[ir.Value, ir.Value]:
    """[n, n - 1], the indices but i; and [n, n], whether i + j is odd."""
    known = op.shapes.ints(size)
    if known is not None:
        n = known[0]
        rows = [[k for k in range(n) if k != i] for i in range(n)]
        odd = np.add.outer(np.arange(n), np.arange(n)) % 2 == 1
        return op.const(np.array(rows, np.int64), INT64), op.const(odd, ir.DataType.BOOL)
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    all_of = op.Range(zero, op.Squeeze(size, op.ints([0])), one)
    others = op.Range(zero, op.Squeeze(op.Sub(size, op.ints([1])), op.ints([0])), one)
    row = op.unsqueeze(all_of, 1)
    behind = op.Cast(op.GreaterOrEqual(others, row), to=int(INT64))
    odd_sum = op.Mod(op.Add(all_of, row), op.ints([2]))
    return op.Add(others, behind), op.Equal(odd_sum, op.ints([1]))
