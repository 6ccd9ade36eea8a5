"""Sums, products and quotients: operators that broadcast."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import constant
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import linear, linear_push, pushed, selection

linear("Neg Identity Cast", source="linear in X")
linear("CastLike", ignores=(1,), source="ONNX CastLike-15; linear in X")
linear("Mul", terms=((0, 1),), source="ONNX Mul-14; bilinear")
linear("MatMul", terms=((0, 1),), source="ONNX MatMul-13; bilinear")


@linear_push("Add Sum", terms=None, source="ONNX Add-14, Sum-13; linear in every operand")
def sum_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    total = op.add_all([t for t in tangents if t is not None])
    return [op.expand_to(total, region.outputs[0])]


@linear_push("Sub", terms=None, source="ONNX Sub-14; linear in both operands")
def sub_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    minuend, subtrahend = tangents
    if subtrahend is None:
        assert minuend is not None
        total = minuend
    else:
        total = op.Neg(subtrahend) if minuend is None else op.Sub(minuend, subtrahend)
    return [op.expand_to(total, region.outputs[0])]


@linear_push("Mean", terms=None, source="ONNX Mean-13; linear in every operand")
def mean_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (total,) = sum_push(op, region, tangents)
    assert total is not None
    return [op.Mul(total, op.const(1 / len(region.inputs), like=total))]


@linear_push(
    "Div", terms=((0,),), args=(0, 1), source="ONNX Div-14; (ṅ − y ḋ) / d, linear in the numerator"
)
def div_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    divisor, y = region.operand(1), region.outputs[0]
    numerator, denominator = tangents
    parts = [] if numerator is None else [numerator]
    if denominator is not None:
        parts.append(op.Neg(op.Mul(y, denominator)))
    return [op.expand_to(op.Div(op.add_all(parts), divisor), y)]


@linear_push("Where", terms=((1,), (2,)), source="ONNX Where-16; linear in both branches")
def where_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    _, chosen, other = tangents
    y = region.outputs[0]
    zero = op.const(0, like=y)
    picked = op.Where(
        region.operand(0),
        zero if chosen is None else chosen,
        zero if other is None else other,
    )
    return [op.expand_to(picked, y)]


@linear_push("Gemm", terms=((0, 1), (2,)), source="ONNX Gemm-13; alpha A B + beta C")
def gemm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    a, b, *bias = region.inputs
    parts = []
    for operands in ((tangents[0], b), (a, tangents[1])):
        if operands[0] is not None and operands[1] is not None:
            parts.append(op.like(region.node, operands, beta=None)[0])
    if bias and tangents[2] is not None:
        beta = region.attr_float("beta", 1.0)
        scaled = op.Mul(tangents[2], op.const(beta, like=tangents[2])) if beta != 1 else tangents[2]
        parts.append(scaled)
    return [op.expand_to(op.add_all(parts), region.outputs[0])]


@linear_push(
    "ai.onnx.ml::Scaler", terms=((0,),), source="ai.onnx.ml Scaler-1; (x − offset) · scale"
)
def scaler_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    scale, t = region.attributes.get("scale"), tangents[0]
    assert t is not None
    if t.dtype != ir.DataType.FLOAT:  # whatever it reads, it writes float32
        t = op.Cast(t, to=int(ir.DataType.FLOAT))
    return [t if scale is None else op.Mul(t, op.const(list(scale.as_floats()), like=t))]


def _compare(op: Ops, region: Region, tangents: Tangents, better: str) -> ir.Value:
    """Fold the operands from the left; on a tie the earlier one stays chosen."""
    best, tangent = region.operand(0), tangents[0]
    for i in range(1, len(region.inputs)):
        value, its = region.operand(i), tangents[i]
        if tangent is not None or its is not None:
            keeps = op.emit(f"{better}OrEqual", (best, value))[0]
            zero = op.const(0, like=value)
            tangent = op.Where(
                keeps, zero if tangent is None else tangent, zero if its is None else its
            )
        if i + 1 < len(region.inputs):
            best = op.emit(region.op_type, (best, value))[0]
    assert tangent is not None
    return op.expand_to(tangent, region.outputs[0])


@selection("Max", args=None, source="ONNX Max-13; the first largest operand")
def max_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    return [_compare(op, region, tangents, "Greater")]


@selection("Min", args=None, source="ONNX Min-13; the first smallest operand")
def min_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    return [_compare(op, region, tangents, "Less")]


# -- softmax -----------------------------------------------------------------------------------


@pushed("Softmax", source="ONNX Softmax-13; y (t − Σ y t)")
def softmax_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), y = tangents, region.outputs[0]
    assert t is not None
    scaled = op.Mul(y, t)
    total = op.ReduceSum(scaled, op.ints([region.attr_int("axis", -1)]), keepdims=1)
    return [op.Sub(scaled, op.Mul(y, total))]


@pushed("LogSoftmax", source="ONNX LogSoftmax-13; t − Σ softmax(x) t")
def log_softmax_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), y = tangents, region.outputs[0]
    assert t is not None
    axis = op.ints([region.attr_int("axis", -1)])
    return [op.Sub(t, op.ReduceSum(op.Mul(op.Exp(y), t), axis, keepdims=1))]


# -- reductions --------------------------------------------------------------------------------

linear("ReduceSum ReduceMean", source="ONNX ReduceSum-13, ReduceMean-18; linear in X")


@selection("ReduceMax ReduceMin", source="ONNX ReduceMax-18; the first extreme element")
def reduce_extreme_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y, t = region.operand(0), region.outputs[0], tangents[0]
    assert t is not None
    n = rank(x)
    axes = _axes(region, n)
    if not axes:
        return [t]
    # bring the reduced axes to the end and flatten them: one arg-extreme, one gather
    kept = [i for i in range(n) if i not in axes]
    perm = [*kept, *axes]
    tail = op.count(x, axes)
    target = op.Concat(op.sizes(x, kept), tail, axis=0) if kept else tail

    def flat(value: ir.Value) -> ir.Value:
        moved = op.Transpose(value, perm=perm) if perm != list(range(n)) else value
        return op.Reshape(moved, target, allowzero=1) if len(axes) > 1 or not kept else moved

    arg = "ArgMax" if region.op_type == "ReduceMax" else "ArgMin"
    where = op.emit(arg, (flat(x),), {"axis": len(kept), "keepdims": 1})[0]
    taken = op.GatherElements(flat(t), where, axis=len(kept))
    return [op.Reshape(taken, op.shape_of(y), allowzero=1)]


def _axes(region: Region, n: int) -> list[int]:
    operand = region.input(1)
    array = constant(operand) if operand is not None else None
    if operand is not None and array is None:
        raise RefusedError("its axes are not a constant")
    axes = [] if array is None else [int(a) % n for a in array.reshape(-1)]
    if not axes and not region.attr_int("noop_with_empty_axes", 0):
        axes = list(range(n))
    return sorted(axes)


@pushed("ReduceL2", source="ONNX ReduceL2-18; Σ x t / y, 0 where y = 0")
def reduce_l2_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y, t = region.operand(0), region.outputs[0], tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    zero = op.const(0, like=y)
    safe = op.Where(op.Equal(y, zero), op.const(1, like=y), y)
    dot = op.emit("ReduceSum", (op.Mul(x, t), *region.inputs[1:]), attributes)[0]
    dot.shape = y.shape
    return [op.Div(dot, safe)]


@pushed("ReduceSumSquare", source="ONNX ReduceSumSquare-18; 2 Σ x t")
def reduce_sum_square_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    product = op.Mul(op.Mul(x, op.const(2, like=x)), t)
    return [op.emit("ReduceSum", (product, *region.inputs[1:]), attributes)[0]]


@pushed("ReduceL1", source="ONNX ReduceL1-18; Σ sign(x) t")
def reduce_l1_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    attributes = dict(region.attributes)
    return [op.emit("ReduceSum", (op.Mul(op.Sign(x), t), *region.inputs[1:]), attributes)[0]]


@pushed("ReduceLogSumExp", source="ONNX ReduceLogSumExp-18; Σ exp(x − y) t")
def reduce_log_sum_exp_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    x, t = region.operand(0), tangents[0]
    assert t is not None
    kept = op.ReduceLogSumExp(*region.inputs, **{**region.attributes, "keepdims": 1})
    weights = op.Exp(op.Sub(x, kept))
    attributes = dict(region.attributes)
    return [op.emit("ReduceSum", (op.Mul(weights, t), *region.inputs[1:]), attributes)[0]]
