"""Quantisation. Integers are taken as the real numbers that they are; see graph/quantized.py.

DequantizeLinear is linear, and a constant where it reads a weight. What rounds is refused unless
the straight-through estimator is asked for, which takes the derivative of rounding as 1 and that of
clipping as 0 outside the range: QuantizeLinear and DequantizeLinear in a row are then the identity
inside the range, and an operator on quantised values is its float counterpart.
"""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.quantized import (
    QUANTISED,
    Codes,
    counterpart,
    layout_of,
    operand,
    passes_straight_through,
)
from onnxjvp.graph.regions import Region, of_node
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import RULES, linear_push, straight_through, tangents_of

FLOAT = ir.DataType.FLOAT


def _real(op: Ops, value: ir.Value) -> ir.Value:
    """In float32, as all arithmetic on quantised values."""
    return value if value.dtype == FLOAT else op.Cast(value, to=int(FLOAT))


def _beside(op: Ops, region: Region, parameter: ir.Value, x: ir.Value) -> ir.Value:
    """A scale or zero point, brought into a shape that broadcasts against x.

    One element; one per slice of `axis`; or, of the rank of x, one per block along `axis`.
    """
    axis, block = region.attr_int("axis", 1), region.attr_int("block_size", 0)
    if not block and (rank(parameter) == 0 or dims.of(parameter) == (1,)):
        return op.Reshape(parameter, op.ints([])) if rank(parameter) > rank(x) else parameter
    axis %= rank(x)
    if not block:
        return op.unsqueeze(parameter, *range(1, rank(x) - axis))
    size = op.sizes(x, [axis])
    zero, one = (op.const(np.int64(k), ir.DataType.INT64) for k in (0, 1))
    positions = op.Range(zero, op.Reshape(size, op.ints([])), one)
    blocks = op.Div(positions, op.ints([block]))
    return op.Gather(parameter, blocks, axis=axis)


def _centred(op: Ops, region: Region, x: ir.Value) -> ir.Value:
    """x − zero point."""
    zero_point = region.input(2)
    if zero_point is None:
        return _real(op, x)
    return op.Sub(_real(op, x), _beside(op, region, _real(op, zero_point), x))


@linear_push(
    "DequantizeLinear com.microsoft::DequantizeLinear",
    terms=((0, 1),),
    source="ONNX DequantizeLinear-21; (x − zero point) · scale, bilinear",
)
def dequantize_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, scale, y = region.operand(0), region.operand(1), region.outputs[0]
    parts = []
    if (code := tangents[0]) is not None:
        parts.append(op.Mul(code, _beside(op, region, _real(op, scale), x)))
    if (own := tangents[1]) is not None:
        parts.append(op.Mul(_centred(op, region, x), _beside(op, region, _real(op, own), x)))
    total = op.add_all(parts)
    return [total if y.dtype == FLOAT else op.Cast(total, to=int(y.dtype or FLOAT))]


@straight_through(
    "QuantizeLinear com.microsoft::QuantizeLinear",
    args=(0, 1),
    source="ONNX QuantizeLinear-21; (ẋ − x/scale · ṡ)/scale in the range, which rounded values "
    "that are its ends are in, 0 outside (Bengio et al. 2013; in the scale Esser et al. 2020)",
)
def quantize_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    scale = _beside(op, region, _real(op, region.operand(1)), x)
    level = op.Div(_real(op, x), scale)
    parts = []
    if (t := tangents[0]) is not None:
        parts.append(_real(op, t))
    if (own := tangents[1]) is not None:
        parts.append(op.Neg(op.Mul(level, _beside(op, region, _real(op, own), x))))
    zero_point = region.input(2)
    if zero_point is not None:
        zero_point = _beside(op, region, _real(op, zero_point), x)
    return [_clipped(op, op.Div(op.add_all(parts), scale), level, zero_point, y.dtype)]


@straight_through(
    "DynamicQuantizeLinear",
    source="ONNX DynamicQuantizeLinear-11; ẋ/scale: the range covers x, scale and zero point are "
    "held; of the scale alone, which does not round, the derivative of (max(x, 0) − min(x, 0))/255",
)
def dynamic_quantize_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, scale = tangents[0], region.outputs[1]
    assert t is not None
    if passes_straight_through(region.node):
        return [op.Div(t, scale)]
    levels = [op.Reshape(v, op.ints([-1])) for v in (region.operand(0), t)]
    none, ends = op.const(0, like=t), []
    for at, inside in (("ArgMax", "GreaterOrEqual"), ("ArgMin", "LessOrEqual")):
        (place,) = op.emit(at, [levels[0]], {"axis": 0, "keepdims": 1})
        end, moved = (op.Gather(v, place, axis=0) for v in levels)
        (counts,) = op.emit(inside, [end, none])
        ends.append(op.Where(counts, moved, none))
    width = op.Squeeze(op.Sub(*ends), op.ints([0]))
    return [None, op.Div(width, op.const(255, like=t))]


def _clipped(
    op: Ops, tangent: ir.Value, level: ir.Value, zero: ir.Value | None, dtype: ir.DataType | None
) -> ir.Value:
    """The tangent where the level, rounded and moved by the zero point, is in the dtype's range."""
    low, high = _range(dtype)
    level = op.Round(level)
    level = level if zero is None else op.Add(level, zero)
    inside = op.And(
        op.GreaterOrEqual(level, op.const(low, like=level)),
        op.LessOrEqual(level, op.const(high, like=level)),
    )
    return op.Where(inside, tangent, op.const(0, like=tangent))


def _range(dtype: ir.DataType | None) -> tuple[float, float]:
    assert dtype is not None
    numpy = dtype.numpy()
    info = np.iinfo(numpy) if numpy.kind in "iu" else None
    if info is not None:
        return float(info.min), float(info.max)
    if "INT" in dtype.name:  # of 4 bits and fewer
        low = 0 if dtype.name.startswith("U") else -(2 ** (dtype.bitwidth - 1))
        return float(low), float(low + 2**dtype.bitwidth - 1)
    largest = float(ml_dtypes.finfo(numpy).max)  # type: ignore[no-untyped-call]
    return -largest, largest


# -- operators on quantised values -------------------------------------------------------------


@straight_through(
    " ".join(QUANTISED), args=None, source="the float counterpart, of dequantised operands"
)
def quantised_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    layout, y = layout_of(region.node), region.outputs[0]
    places = {codes.value for codes in layout.operands} | {layout.shift}
    for i, tangent in enumerate(tangents):
        if tangent is not None and i not in places:
            raise RefusedError(f"its parameter {region.operand(i).name!r} depends on the input")
    shift = layout.shift
    moved = tangents[shift] if shift is not None and shift < len(tangents) else None
    if all(tangents[codes.value] is None for codes in layout.operands):
        assert moved is not None
        return [op.expand_to(moved, y)]
    real, tangent = _counterpart(op, region, tangents)
    scale = region.input(layout.out.scale) if layout.out.scale is not None else None
    if scale is None:
        return [tangent if moved is None else op.expand_to(op.Add(tangent, moved), y)]
    zero = region.input(layout.out.zero_point or 0)
    zero = None if zero is None else _real(op, zero)
    return [_clipped(op, op.Div(tangent, scale), op.Div(real, scale), zero, y.dtype)]


def _counterpart(op: Ops, region: Region, tangents: Tangents) -> tuple[ir.Value, ir.Value]:
    """The float operator on dequantised operands, and its tangent by its own rule."""
    node, layout = region.node, layout_of(region.node)
    attributes, _ = counterpart(node)
    inputs = [operand(node, i) for i in layout.plain]
    moved: list[ir.Value | None] = [None] * len(inputs)
    for codes in layout.operands:
        t = tangents[codes.value]
        inputs.append(_dequantised(op, region, codes))
        moved.append(None if t is None else _scaled(op, region, codes, t))
    if layout.bias is not None and region.input(layout.bias) is not None:
        inputs.append(_bias(op, region, layout.bias, layout.operands))
        moved.append(None)
    (real,) = op.emit(layout.op_type, inputs, attributes)
    real.shape = region.outputs[0].shape
    made = real.producer()
    assert made is not None
    (tangent, *_) = tangents_of(op, RULES[layout.op_type], of_node(made), moved)
    assert tangent is not None
    return real, tangent


def _dequantised(op: Ops, region: Region, codes: Codes) -> ir.Value:
    value = region.operand(codes.value)
    real = _real(op, value)
    if codes.zero_point is not None and (zero := region.input(codes.zero_point)) is not None:
        real = op.Sub(real, _along(op, region, codes, _real(op, zero)))
    return _scaled(op, region, codes, real)


def _scaled(op: Ops, region: Region, codes: Codes, value: ir.Value) -> ir.Value:
    scale = region.input(codes.scale) if codes.scale is not None else None
    return value if scale is None else op.Mul(value, _along(op, region, codes, scale))


def _along(op: Ops, region: Region, codes: Codes, parameter: ir.Value) -> ir.Value:
    """A scale or zero point beside the operand: one, one per slice, or of the operand's rank."""
    n, axis = rank(region.operand(codes.value)), codes.axis
    if rank(parameter) == 0 or rank(parameter) > 1:
        return parameter
    if dims.of(parameter) == (1,):
        return op.Reshape(parameter, op.ints([]))
    if region.op_type == "QGemm" and region.attr_int("transB", 0) and codes.value == 3:
        axis = 0
    return op.unsqueeze(parameter, *range(1, n - axis % n))


def _bias(op: Ops, region: Region, index: int, operands: Sequence[Codes]) -> ir.Value:
    bias = _real(op, region.operand(index))
    for codes in operands:
        scale = region.operand(codes.scale or 0)
        bias = op.Mul(bias, scale if rank(scale) < 2 else op.Reshape(scale, op.ints([-1])))
    if region.op_type == "QGemm":  # the counterpart has no alpha for its bias
        bias = op.Mul(bias, op.const(region.attr_float("alpha", 1.0), like=bias))
    return bias
