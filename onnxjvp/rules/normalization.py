"""Normalisations: over the batch, a layer, groups of channels, an axis, a window of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import enters, linear_push, pushed

enters("TrainingBatchNormalization", {0: {0, 1, 2}, 1: {0, 3}, 2: {0, 4}})
enters("LayerNormalization", {1: {0}, 2: {0}})


@linear_push(
    "BatchNormalization",
    terms=((0, 1), (2,)),
    args=(0, 1, 2, 3, 4),
    source="ONNX BatchNormalization-15 at inference; γ (x − μ)/σ + β, bilinear and a shift",
)
def batch_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, scale, shift, mean, variance = (region.operand(i) for i in range(5))
    x_t = tangents[0]
    scale_t, shift_t = _moved_parameters(op, region, tangents)
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


def _moved_parameters(
    op: Ops, region: Region, tangents: Tangents
) -> tuple[ir.Value | None, ir.Value | None]:
    """γ̇ and β̇, among them what moving statistics amount to: −γ/2 (σ²)˙/σ² and −γ μ̇/σ."""
    scale, variance = region.operand(1), region.operand(4)
    _, scale_t, shift_t, mean_t, variance_t = tangents
    if mean_t is None and variance_t is None:
        return scale_t, shift_t
    squared = op.Add(variance, op.const(region.attr_float("epsilon", 1e-5), like=variance))
    if variance_t is not None:
        share = op.Mul(op.Div(variance_t, squared), op.const(-0.5, like=variance))
        moved = op.Mul(_cast(op, share, scale), scale)
        scale_t = moved if scale_t is None else op.Add(scale_t, moved)
    if mean_t is not None:
        steps = op.Neg(op.Div(mean_t, op.Sqrt(squared)))
        moved = op.Mul(_cast(op, steps, scale), scale)
        shift_t = moved if shift_t is None else op.Add(shift_t, moved)
    return scale_t, shift_t


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


@dataclass(frozen=True)
class _Normal:
    """x̂ = (x − μ) / σ with σ² = mean (x − μ)² + ε over some axes; μ = 0 if not centred."""

    op: Ops
    axes: ir.Value
    centred: bool
    value: ir.Value  # x̂
    inverse: ir.Value  # 1/σ

    def mean(self, value: ir.Value) -> ir.Value:
        return self.op.ReduceMean(value, self.axes, keepdims=1)

    def tangent(self, t: ir.Value, aligned: ir.Value) -> ir.Value:
        """(t − mean t − x̂ mean(x̂ t)) / σ, where `aligned` is mean(x̂ t)."""
        op = self.op
        moved = op.Sub(t, self.mean(t)) if self.centred else t
        return op.Mul(op.Sub(moved, op.Mul(self.value, aligned)), self.inverse)

    def aligned(self, t: ir.Value) -> ir.Value:
        return self.mean(self.op.Mul(self.value, t))

    def push(self, t: ir.Value) -> ir.Value:
        return self.tangent(t, self.aligned(t))


def _normal(op: Ops, x: ir.Value, axes: range, region: Region, *, centred: bool = True) -> _Normal:
    """Of x in the precision of its statistics, with the region's epsilon."""
    over = op.ints(axes)
    centre = op.Sub(x, op.ReduceMean(x, over, keepdims=1)) if centred else x
    variance = op.ReduceMean(op.Mul(centre, centre), over, keepdims=1)
    epsilon = op.const(region.attr_float("epsilon", 1e-5), like=x)
    inverse = op.Reciprocal(op.Sqrt(op.Add(variance, epsilon)))
    return _Normal(op, over, centred, op.Mul(centre, inverse), inverse)


def _widened(op: Ops, value: ir.Value, region: Region) -> ir.Value:
    """In the precision of the statistics (stash_type); single, where the operator names none."""
    assert value.dtype is not None
    stash = ir.DataType(region.attr_int("stash_type", int(ir.DataType.FLOAT)))
    if value.dtype.itemsize >= stash.itemsize:
        return value
    return op.Cast(value, to=int(stash))


def _scaled(
    op: Ops,
    x_t: ir.Value | None,
    normal: ir.Value,
    scale: tuple[ir.Value | None, ir.Value | None],
    shift_t: ir.Value | None,
) -> ir.Value:
    """γ ẋ̂ + γ̇ x̂ + β̇ of what is live; `scale` holds γ, if there is one, and γ̇."""
    factor, factor_t = scale
    parts = []
    if x_t is not None:
        parts.append(x_t if factor is None else op.Mul(x_t, factor))
    if factor_t is not None:
        parts.append(op.Mul(normal, factor_t))
    if shift_t is not None:
        parts.append(shift_t)
    return op.add_all(parts)


def _three(tangents: Tangents) -> Tangents:
    return [tangents[i] if i < len(tangents) else None for i in range(3)]


@pushed(
    "LayerNormalization",
    args=(0, 1, 2),
    source="ONNX LayerNormalization-17; γ/σ · (t − mean t − x̂ mean(x̂ t)), and γ̇ x̂ + β̇",
)
def layer_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    axes = range(region.attr_int("axis", -1) % rank(x), rank(x))
    normal = _normal(op, _widened(op, x, region), axes, region)
    t, scale_t, shift_t = _three(tangents)
    statistics: list[ir.Value | None] = [None, None]
    x_t = None
    if t is not None:
        t = _widened(op, t, region)
        aligned = normal.aligned(t)
        x_t = _cast(op, normal.tangent(t, aligned), y)
        squared = op.Mul(normal.inverse, normal.inverse)
        pushed_on = [normal.mean(t), op.Neg(op.Mul(squared, aligned))]
        statistics = [  # single, whatever x is
            _cast(op, moved, value) if value.name else None
            for moved, value in zip(pushed_on, region.outputs[1:], strict=False)
        ]
    scale = (region.input(1), scale_t)
    y_t = _scaled(op, x_t, _cast(op, normal.value, y), scale, shift_t)
    return [op.expand_to(y_t, y), *statistics][: len(region.outputs)]


@pushed(
    "RMSNormalization",
    args=(0, 1),
    source="ONNX RMSNormalization-23; γ/σ · (t − x̂ mean(x̂ t)) + γ̇ x̂",
)
def rms_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    axes = range(region.attr_int("axis", -1) % rank(x), rank(x))
    normal = _normal(op, _widened(op, x, region), axes, region, centred=False)
    t, scale_t, _ = _three(tangents)
    x_t = None if t is None else _cast(op, normal.push(_widened(op, t, region)), y)
    scale = (region.operand(1), scale_t)
    return [op.expand_to(_scaled(op, x_t, _cast(op, normal.value, y), scale, None), y)]


@pushed(
    "InstanceNormalization",
    args=(0, 1, 2),
    source="ONNX InstanceNormalization-6; LayerNormalization over the space of each channel",
)
def instance_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    if rank(x) < 3:
        raise RefusedError("its operand has no axis behind the channels")
    normal = _normal(op, _widened(op, x, region), range(2, rank(x)), region)
    t, scale_t, shift_t = _three(tangents)
    x_t = None if t is None else _cast(op, normal.push(_widened(op, t, region)), y)
    scale, scale_t, shift_t = (
        None if v is None else _per_channel(op, v, x) for v in (region.operand(1), scale_t, shift_t)
    )
    y_t = _scaled(op, x_t, _cast(op, normal.value, y), (scale, scale_t), shift_t)
    return [op.expand_to(y_t, y)]


@pushed(
    "GroupNormalization",
    args=(0, 1, 2),
    source="ONNX GroupNormalization-21; LayerNormalization over each group of channels; "
    "before 21 by ONNX's definition",
)
def group_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    x, y = region.operand(0), region.outputs[0]
    apart = _by_groups(op, x, region.attr_int("num_groups", 1))
    normal = _normal(op, apart(_widened(op, x, region)), range(2, rank(x) + 1), region)
    t, scale_t, shift_t = _three(tangents)
    value, x_t = _together(op, _cast(op, normal.value, y), x), None
    if t is not None:
        x_t = _together(op, _cast(op, normal.push(apart(_widened(op, t, region))), y), x)
    scale, scale_t, shift_t = (
        None if v is None else _per_channel(op, v, x) for v in (region.operand(1), scale_t, shift_t)
    )
    return [op.expand_to(_scaled(op, x_t, value, (scale, scale_t), shift_t), y)]


def _by_groups(op: Ops, x: ir.Value, groups: int) -> Callable[[ir.Value], ir.Value]:
    """[N, C, …] as [N, groups, C / groups, …]."""
    n, channels, *space = dims.of(x)
    count = op.ints([groups])
    if isinstance(channels, int):
        each = op.ints([channels // groups])
    else:
        each = op.Div(op.sizes(x, [1]), count)
    sizes = [op.sizes(x, [0]), count, each, *([op.sizes(x, range(2, rank(x)))] if space else [])]
    target = op.Concat(*sizes, axis=0)
    shape = ir.Shape([n, groups, dims.quotient(channels, groups), *space])

    def apart(value: ir.Value) -> ir.Value:
        out = op.Reshape(value, target, allowzero=1)
        out.shape = shape
        return out

    return apart


def _together(op: Ops, value: ir.Value, x: ir.Value) -> ir.Value:
    out = op.Reshape(value, op.shape_of(x), allowzero=1)
    out.shape = x.shape
    return out


@pushed(
    "MeanVarianceNormalization",
    source="ONNX MeanVarianceNormalization-13; y = c/(σ + 1e-9), c = x − μ; 0 where σ = 0",
)
def mean_variance_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    """(ċ − y σ̇) / (σ + 1e-9), σ̇ = mean(c t)/σ; σ is not differentiable at 0."""
    (t,), x = tangents, region.operand(0)
    assert t is not None
    listed = region.attributes.get("axes")
    axes = op.ints([0, 2, 3] if listed is None else list(listed.as_ints()))

    def mean(value: ir.Value) -> ir.Value:
        return op.ReduceMean(value, axes, keepdims=1)

    wide, t = _widened(op, x, region), _widened(op, t, region)
    centre, centre_t = op.Sub(wide, mean(wide)), op.Sub(t, mean(t))
    deviation = op.Sqrt(mean(op.Mul(centre, centre)))
    zero = op.const(0, like=wide)
    still = op.Equal(deviation, zero)
    safe = op.Where(still, op.const(1, like=wide), deviation)
    inverse = op.Where(still, zero, op.Reciprocal(op.Add(safe, op.const(1e-9, like=wide))))
    deviation_t = op.Div(mean(op.Mul(centre, t)), safe)
    y = op.Mul(centre, inverse)
    return [_cast(op, op.Mul(op.Sub(centre_t, op.Mul(y, deviation_t)), inverse), x)]


@pushed(
    "LpNormalization",
    source="ONNX LpNormalization-22; (t − y Σ ∂‖x‖ t) / ‖x‖, 0 where the norm is 0",
)
def lp_norm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    (t,), x = tangents, region.operand(0)
    assert t is not None
    axis = op.ints([region.attr_int("axis", -1)])
    one, zero = op.const(1, like=x), op.const(0, like=x)
    absolute = region.attr_int("p", 2) == 1
    norm = op.emit("ReduceL1" if absolute else "ReduceL2", (x, axis), {"keepdims": 1})[0]
    still = op.Equal(norm, zero)
    inverse = op.Where(still, zero, op.Reciprocal(op.Where(still, one, norm)))
    y = op.Mul(x, inverse)
    slope = op.Sign(x) if absolute else y
    norm_t = op.ReduceSum(op.Mul(slope, t), axis, keepdims=1)
    return [op.Mul(op.Sub(t, op.Mul(y, norm_t)), inverse)]


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
    """Sum over the window of channels around each, as a Conv with a band of ones.

    Of an unknown number of channels, as a Conv along them, each a row of an image.
    """
    channels = dims.of(x)[1]
    before, after = (size - 1) // 2, size // 2
    if not isinstance(channels, int):
        ones = op.const(np.ones((1, 1, size, 1)), like=x)
        n, c, *image = dims.of(x)
        parts = (op.as_tensor((n,)), op.ints([1]), op.as_tensor((c,)), op.volume(image))
        rows, shape = op.Concat(*parts, axis=0), op.as_tensor(dims.of(x))

        def along(value: ir.Value) -> ir.Value:
            image_of_rows = op.Reshape(value, rows, allowzero=1)
            found = op.Conv(image_of_rows, ones, pads=[before, 0, after, 0])
            out = op.Reshape(found, shape, allowzero=1)
            out.shape = x.shape
            return out

        return along
    limits.check_constant(channels * channels, "a band over its channels")
    offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]
    band = (offset >= -before) & (offset <= after)
    weight = op.const(band.reshape(channels, channels, *[1] * (rank(x) - 2)), like=x)
    return lambda value: op.Conv(value, weight)
