"""Sums, products and quotients: operators that broadcast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Tangents
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


@pushed("Mod", args=(0, 1), source="ONNX Mod-13; ȧ − q ḃ, q the integral quotient (a − y)/b")
def mod_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (a, b), y = region.inputs, region.outputs[0]
    a_t, b_t = tangents
    parts = [] if a_t is None else [a_t]
    if b_t is not None:
        quotient = op.Round(op.Div(op.Sub(a, y), b))
        parts.append(op.Neg(op.Mul(quotient, b_t)))
    return [op.expand_to(op.add_all(parts), y)]


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
    (t,), y = tangents, _with_empty_rows(op, region.outputs[0])
    assert t is not None
    scaled = op.Mul(y, t)
    total = op.ReduceSum(scaled, op.ints([region.attr_int("axis", -1)]), keepdims=1)
    return [op.Sub(scaled, op.Mul(y, total))]


def _with_empty_rows(op: Ops, y: ir.Value) -> ir.Value:
    """Zeros in rows of −inf alone, where a model puts something else in place of their NaN.

    The Where that does so gives them cotangents of zero, and zero times NaN is NaN.
    """
    if not any(kind in ("Where", "IsNaN") for kind in _readers(y)):
        return y
    return op.Where(op.IsNaN(y), op.const(0, like=y), y)


def _readers(value: ir.Value) -> Iterator[str]:
    """Operators that read a value, or a copy of it."""
    for node in value.consumers():
        if node.op_type in ("Cast", "CastLike", "Identity"):
            yield from _readers(node.outputs[0])
        else:
            yield node.op_type


@pushed("LogSoftmax", source="ONNX LogSoftmax-13; t − Σ softmax(x) t")
def log_softmax_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), y = tangents, region.outputs[0]
    assert t is not None
    axis = op.ints([region.attr_int("axis", -1)])
    return [op.Sub(t, op.ReduceSum(op.Mul(op.Exp(y), t), axis, keepdims=1))]
