"""Trigonometric and hyperbolic functions: one slope each, written so that nothing overflows."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.registry import elementwise


@elementwise("Sin", source="ONNX Sin-7; cos x")
def sin_slope(op: Ops, region: Region) -> ir.Value:
    return op.Cos(region.operand(0))


@elementwise("Cos", source="ONNX Cos-7; −sin x")
def cos_slope(op: Ops, region: Region) -> ir.Value:
    return op.Neg(op.Sin(region.operand(0)))


@elementwise("Tan", source="ONNX Tan-7; 1 + y²")
def tan_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    return op.Add(op.const(1, like=y), op.Mul(y, y))


@elementwise("Asin", source="ONNX Asin-7; 1/√(1 − x²)")
def asin_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    one = op.const(1, like=x)
    # as a product, 1 − x² keeps its digits near ±1
    return op.Reciprocal(op.Sqrt(op.Mul(op.Sub(one, x), op.Add(one, x))))


@elementwise("Acos", source="ONNX Acos-7; −1/√(1 − x²)")
def acos_slope(op: Ops, region: Region) -> ir.Value:
    return op.Neg(asin_slope(op, region))


@elementwise("Atan", source="ONNX Atan-7; 1/(1 + x²)")
def atan_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Reciprocal(op.Add(op.const(1, like=x), op.Mul(x, x)))


@elementwise("Sinh", source="ONNX Sinh-9; cosh x")
def sinh_slope(op: Ops, region: Region) -> ir.Value:
    return op.Cosh(region.operand(0))


@elementwise("Cosh", source="ONNX Cosh-9; sinh x")
def cosh_slope(op: Ops, region: Region) -> ir.Value:
    return op.Sinh(region.operand(0))


@elementwise("Asinh", source="ONNX Asinh-9; 1/√(1 + x²) = 1/cosh y, where x² may overflow")
def asinh_slope(op: Ops, region: Region) -> ir.Value:
    return op.Reciprocal(op.Cosh(region.outputs[0]))


@elementwise("Acosh", source="ONNX Acosh-9; 1/(√(x − 1) √(x + 1))")
def acosh_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    one = op.const(1, like=x)
    return op.Reciprocal(op.Mul(op.Sqrt(op.Sub(x, one)), op.Sqrt(op.Add(x, one))))


@elementwise("Atanh", source="ONNX Atanh-9; 1/(1 − x²)")
def atanh_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    one = op.const(1, like=x)
    return op.Reciprocal(op.Mul(op.Sub(one, x), op.Add(one, x)))
