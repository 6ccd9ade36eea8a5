"""Normalisations: batch, layer and local response."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import linear_push, pushed


@linear_push(
    "BatchNormalization",
    terms=((0, 1), (2,)),
    source="ONNX BatchNormalization-15 at inference; γ (x − μ)/σ + β, bilinear and a shift",
)
def batch_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, scale, shift, mean, variance = (region.operand(i) for i in range(5))
    x_t, scale_t, shift_t = tangents[:3]
    parts = []
    if x_t is not None:
        # written as a normalisation with zero mean and shift, it still fuses into the Conv before
        none = op.zeros_like(shift)
        centred = op.zeros_like(mean)
        parts.append(op.like(region.node, [x_t, scale, none, centred, variance])[0])
    if scale_t is not None:
        parts.append(op.like(region.node, [x, scale_t, op.zeros_like(shift), mean, variance])[0])
    total = op.add_all(parts) if parts else None
    if shift_t is not None:
        shift_t = _per_channel(op, shift_t, x)
        total = shift_t if total is None else op.Add(total, shift_t)
    assert total is not None
    return [op.expand_to(total, region.outputs[0])]


@pushed(
    "TrainingBatchNormalization",
    args=(0, 1, 2, 3, 4),
    source="ONNX BatchNormalization-15 with training_mode; statistics of the batch",
)
def training_batch_norm_push(
    op: Ops, region: Region, tangents: Tangents
) -> Sequence[ir.Value | None]:
    """ẏ = γ/σ · (ṫ − mean ṫ − x̂ mean(x̂ ṫ)); the running statistics move with the batch's."""
    x, scale = region.operand(0), region.operand(1)
    axes = op.ints([0, *range(2, rank(x))])
    momentum = region.attr_float("momentum", 0.9)
    stats, (t, scale_t, shift_t, mean_t, variance_t) = region.operand(3), tangents

    def mean(value: ir.Value, keepdims: int = 1) -> ir.Value:
        return op.ReduceMean(value, axes, keepdims=keepdims)

    centre = op.Sub(x, mean(x))
    variance = mean(op.Mul(centre, centre))
    inverse = op.Reciprocal(
        op.Sqrt(op.Add(variance, op.const(region.attr_float("epsilon", 1e-5), like=x)))
    )
    normal = op.Mul(centre, inverse)
    parts, running = [], [mean_t, variance_t]
    kept = [None if r is None else op.Mul(r, op.const(momentum, like=r)) for r in running]
    if t is not None:
        projected = op.Sub(op.Sub(t, mean(t)), op.Mul(normal, mean(op.Mul(normal, t))))
        parts.append(op.Mul(op.Mul(inverse, _per_channel(op, scale, x)), projected))
        moving = op.const(1 - momentum, like=stats)
        cross = op.Mul(mean(op.Mul(centre, t), 0), op.const(2, like=x))
        for i, batch_t in enumerate((mean(t, 0), cross)):
            moved = op.Mul(_cast(op, batch_t, stats), moving)
            before = kept[i]
            kept[i] = moved if before is None else op.Add(before, moved)
    if scale_t is not None:
        parts.append(op.Mul(normal, _per_channel(op, scale_t, x)))
    if shift_t is not None:
        parts.append(_per_channel(op, shift_t, x))
    y_t = op.expand_to(op.add_all(parts), region.outputs[0]) if parts else None
    return [y_t, *kept][: len(region.outputs)]


def _per_channel(op: Ops, value: ir.Value, x: ir.Value) -> ir.Value:
    """[C] → [1, C, 1, …] in the dtype of x."""
    return op.unsqueeze(_cast(op, value, x), 0, *range(2, rank(x)))


def _cast(op: Ops, value: ir.Value, like: ir.Value) -> ir.Value:
    assert like.dtype is not None
    return value if value.dtype == like.dtype else op.Cast(value, to=int(like.dtype))


@pushed(
    "LayerNormalization",
    args=(0, 1, 2),
    source="ONNX LayerNormalization-17; γ/σ · (t − mean t − x̂ mean(x̂ t)), and γ̇ x̂ + β̇",
)
def layer_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    scale = region.input(1)
    axis = region.attr_int("axis", -1) % rank(x)
    axes = op.ints(range(axis, rank(x)))

    def mean(value: ir.Value) -> ir.Value:
        return op.ReduceMean(value, axes, keepdims=1)

    wide = _widened(op, x, region)
    centre = op.Sub(wide, mean(wide))
    variance = mean(op.Mul(centre, centre))
    epsilon = op.const(region.attr_float("epsilon", 1e-5), like=wide)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    normal = op.Mul(centre, inverse)
    t, scale_t, shift_t = (tangents[i] if i < len(tangents) else None for i in range(3))
    parts: list[ir.Value] = []
    statistics: list[ir.Value | None] = [None, None]
    if t is not None:
        t = _widened(op, t, region)
        mean_t = mean(t)
        aligned = mean(op.Mul(normal, t))
        out = op.Mul(op.Sub(op.Sub(t, mean_t), op.Mul(normal, aligned)), inverse)
        out = _cast(op, out, y)
        parts.append(out if scale is None else op.Mul(out, scale))
        deviation_t = op.Neg(op.Mul(op.Mul(inverse, inverse), aligned))
        statistics = [mean_t, deviation_t]
    if scale_t is not None:
        parts.append(op.Mul(_cast(op, normal, y), scale_t))
    if shift_t is not None:
        parts.append(shift_t)
    return [op.expand_to(op.add_all(parts), y), *statistics][: len(region.outputs)]


def _widened(op: Ops, value: ir.Value, region: Region) -> ir.Value:
    """In the precision that LayerNormalization computes its statistics in (stash_type)."""
    assert value.dtype is not None
    stash = ir.DataType(region.attr_int("stash_type", int(ir.DataType.FLOAT)))
    if value.dtype.itemsize >= stash.itemsize:
        return value
    return op.Cast(value, to=int(stash))


@pushed("LRN", source="ONNX LRN-13; t D^−β − 2αβ/n x D^(−β−1) Σ x t, D = bias + α/n Σ x²")
def lrn_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x = tangents, region.operand(0)
    assert t is not None
    size = region.attr_int("size", 1)
    alpha, beta = region.attr_float("alpha", 1e-4), region.attr_float("beta", 0.75)
    window = _channel_window(op, x, size)
    base = op.Add(
        op.const(region.attr_float("bias", 1.0), like=x),
        op.Mul(window(op.Mul(x, x)), op.const(alpha / size, like=x)),
    )
    scale = op.Pow(base, op.const(-beta, like=x))
    spread = op.Mul(op.Mul(x, op.Div(scale, base)), op.const(2 * alpha * beta / size, like=x))
    return [op.Sub(op.Mul(scale, t), op.Mul(spread, window(op.Mul(x, t))))]


def _channel_window(op: Ops, x: ir.Value, size: int) -> Callable[[ir.Value], ir.Value]:
    """Sum over the window of channels around each, as a Conv with a band of ones."""
    channels = dims.of(x)[1]
    if not isinstance(channels, int):
        raise RefusedError("its number of channels is not known")
    before, after = (size - 1) // 2, size // 2
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = (offset >= -before) & (offset <= after)
    weight = op.const(band.reshape(channels, channels, *[1] * (rank(x) - 2)), like=x)
    return lambda value: op.Conv(value, weight)
