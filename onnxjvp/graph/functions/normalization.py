"""Bodies of onnxruntime's normalisations."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.functions.activations import silu, with_bias
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region

FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE


def widened(op: Ops, x: ir.Value) -> ir.Value:
    """In float32 at least, in which the runtime normalises."""
    return x if x.dtype in (FLOAT, DOUBLE) else op.Cast(x, to=int(FLOAT))


def narrowed(op: Ops, x: ir.Value, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return x if x.dtype == like.dtype else op.Cast(x, to=int(like.dtype))


def rms_norm(
    op: Ops, x: ir.Value, scale: ir.Value, epsilon: float, axis: int = -1
) -> tuple[ir.Value, ir.Value]:
    """scale · x / √(mean(x²) + ε) over the axes from `axis` on, and that 1/√."""
    wide = widened(op, x)
    axes = op.ints(range(axis % rank(x), rank(x)))
    power = op.ReduceMean(op.Mul(wide, wide), axes, keepdims=1)
    inverse = op.Reciprocal(op.Sqrt(op.Add(power, op.const(np.float32(epsilon), like=wide))))
    return op.Mul(narrowed(op, op.Mul(wide, inverse), x), narrowed(op, scale, x)), inverse


@body("com.microsoft::SimplifiedLayerNormalization")
def _simplified_layer_norm(op: Ops, region: Region) -> Outs:
    """onnxruntime keeps it among the standard operators; ONNX has RMSNormalization."""
    epsilon = region.attr_float("epsilon", 1e-5)
    axis = region.attr_int("axis", -1)
    return rms_norm(op, region.operand(0), region.operand(1), epsilon, axis)


@body("com.microsoft::SkipLayerNormalization")
def _skip_layer_norm(op: Ops, region: Region) -> Outs:
    x, skip, scale, shift, bias = (region.input(i) for i in range(5))
    assert x is not None and skip is not None
    total = op.Add(with_bias(op, x, bias), skip)
    attributes = {"axis": -1, "epsilon": region.attr_float("epsilon", 1e-12)}
    (y,) = op.emit("LayerNormalization", [total, scale, shift], attributes)
    return [y, None, None, total]  # no runtime gives the statistics


@body("com.microsoft::SkipSimplifiedLayerNormalization")
def _skip_simplified_layer_norm(op: Ops, region: Region) -> Outs:
    x, skip, scale = (region.operand(i) for i in range(3))
    total = op.Add(with_bias(op, x, region.input(3)), skip)
    y, _ = rms_norm(op, total, scale, region.attr_float("epsilon", 1e-12))
    return [y, None, None, total]


@body("com.microsoft::EmbedLayerNormalization")
def _embed_layer_norm(op: Ops, region: Region) -> Outs:
    """The layer normalisation of a word's, a position's and a segment's embedding."""
    ids, segments, words, places, kinds, scale, shift = (region.input(i) for i in range(7))
    assert ids is not None and words is not None and places is not None
    mask, positions = region.input(7), region.input(8)
    if positions is None:
        length = op.Squeeze(op.sizes(ids, [1]), op.ints([0]))
        zero, one = (op.const(np.int64(i), ir.DataType.INT64) for i in (0, 1))
        positions = op.Range(zero, length, one)
        positions.shape = ir.Shape([dim(ids, 1)])
    total = op.Add(op.Gather(words, ids, axis=0), op.Gather(places, positions, axis=0))
    if segments is not None and kinds is not None:
        total = op.Add(total, op.Gather(kinds, segments, axis=0))
    attributes = {"axis": -1, "epsilon": region.attr_float("epsilon", 1e-12)}
    (y,) = op.emit("LayerNormalization", [total, scale, shift], attributes)
    if mask is None:
        count: ir.Value = op.ReduceSum(op.Mul(ids, op.const(0, like=ids)), op.ints([1]), keepdims=0)
    else:
        count = op.ReduceSum(mask, op.ints([1]), keepdims=0)
    return [y, count, total]


@body("com.microsoft::GroupNorm")
def _group_norm(op: Ops, region: Region) -> Outs:
    return [_by_groups(op, region, region.operand(0))]


@body("com.microsoft::SkipGroupNorm")
def _skip_group_norm(op: Ops, region: Region) -> Outs:
    x, skip = region.operand(0), region.operand(3)
    if not region.attr_int("channels_last", 1):
        raise NoBodyError("its channels are not last, for which its operands are not defined")
    if rank(skip) == 2:
        skip = op.unsqueeze(skip, 1, 2)
    total = op.Add(with_bias(op, x, region.input(4)), skip)
    return [_by_groups(op, region, total), total]


def _by_groups(op: Ops, region: Region, x: ir.Value) -> ir.Value:
    """γ (x − mean)/√(var + ε) + β over groups of channels, and SiLU of it."""
    last = region.attr_int("channels_last", 1)
    groups = region.attr_int("groups", 1)
    n = rank(x)
    first = op.Transpose(x, perm=[0, n - 1, *range(1, n - 1)]) if last else x
    wide = widened(op, first)
    shape = op.shape_of(wide)
    rows = op.Reshape(wide, op.ints([0, groups, -1]))
    centre = op.Sub(rows, op.ReduceMean(rows, op.ints([2]), keepdims=1))
    variance = op.ReduceMean(op.Mul(centre, centre), op.ints([2]), keepdims=1)
    epsilon = op.const(np.float32(region.attr_float("epsilon", 1e-5)), like=wide)
    normal = op.Reshape(op.Div(centre, op.Sqrt(op.Add(variance, epsilon))), shape)
    scale, shift = (
        op.unsqueeze(narrowed(op, region.operand(i), wide), *range(1, n - 1)) for i in (1, 2)
    )
    y = op.Add(op.Mul(normal, scale), shift)
    y = silu(op, y) if region.attr_int("activation", 0) else y
    y = narrowed(op, y, x)
    return op.Transpose(y, perm=[0, *range(2, n), 1]) if last else y
