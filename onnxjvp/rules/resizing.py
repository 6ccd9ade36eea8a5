"""Resize: linear in the image, and by the slopes of its weights in what says where it samples.

Every new pixel lies at a place between the old ones, along each axis on its own: scales and, of a
crop, the region of interest move these places. What interpolates linearly or by cubics follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules import grids
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import holds, linear_push

_CROP = "tf_crop_and_resize"
#: how new pixels are placed → what is added to the number of each before it is scaled
_SHIFTS = {
    "half_pixel": 0.5,
    "half_pixel_symmetric": 0.5,
    "pytorch_half_pixel": 0.5,
    "tf_half_pixel_for_nn": 0.5,
    "asymmetric": 0.0,
}


@linear_push(
    "Resize",
    terms=((0,),),
    args=(0, 1, 2),
    source="ONNX Resize-19; linear in X, in roi and scales by the slopes of its weights, "
    "which the nearest pixel has not",
)
def resize_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    along_x, *moving = (tangents[i] if i < len(tangents) else None for i in (0, 1, 2))
    parts: list[ir.Value] = []
    if along_x is not None:
        operands = [along_x, *region.inputs[1:]]
        parts += op.like(region.node, operands, extrapolation_value=None)
    if any(t is not None for t in moving):
        _check_places(region, scaled=moving[1] is not None)
        parts += _moved(op, region, *moving)
    for part in parts:
        part.shape = region.outputs[0].shape  # by scales that are fed no size is known
    return [op.add_all(parts) if parts else None]


@holds("Resize")
def resize_holds(region: Region) -> set[int]:
    """The nearest pixel is piecewise constant in the place, and only a crop reads the roi."""
    if region.attr_string("mode", "nearest") == "nearest":
        return {1, 2}
    return set() if _how(region) == _CROP else {1}


def _how(region: Region) -> str:
    return region.attr_string("coordinate_transformation_mode", "half_pixel")


def _check_places(region: Region, *, scaled: bool) -> None:
    if region.attr_int("antialias", 0):
        raise RefusedError(
            "an antialiased image has a derivative in the image alone, not in roi or scales; leave "
            "antialias out, or hold them"
        )
    scales = region.input(2)
    by_scales = scales is not None and dim(scales, 0) != 0
    if (scaled and _how(region) not in _SHIFTS) or (_how(region) == _CROP and by_scales):
        raise RefusedError(
            f"in coordinates {_how(region)!r} runtimes differ in what length a scale gives the "
            "new image, whole or fractional, and so in its corners; give sizes instead of scales"
        )


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized, and where its new pixels lie."""

    axis: int
    #: its number among those that are resized
    at: int
    #: [out]: places in pixels of the old image
    place: ir.Value
    #: operand and index in it → [out]: how places move with that number
    slopes: dict[tuple[int, int], ir.Value]


def _moved(
    op: Ops, region: Region, along_roi: ir.Value | None, along_scales: ir.Value | None
) -> list[ir.Value]:
    """Σ over axes of ∂y/∂place · how the places move; an axis of one pixel has one value."""
    x = region.operand(0)
    listed = region.attributes.get("axes")
    axes = [a % rank(x) for a in (range(rank(x)) if listed is None else listed.as_ints())]
    parts, moving = [], {1: along_roi, 2: along_scales}
    for at, axis in enumerate(axes):
        if dim(x, axis) == 1:
            continue
        one = _placed(op, region, axes, at)
        steps = []
        for (operand, index), slope in one.slopes.items():
            along = moving[operand]
            if along is None:
                continue
            number = op.Gather(along, op.const(np.int64(index), INT64))
            steps.append(op.Mul(slope, _as(op, number, slope)))
        step = _behind(op, _as(op, op.add_all(steps), x), axis, x)
        parts.append(op.Mul(_slope(op, region, axes, one), step))
    return parts or [op.zeros_like(region.outputs[0])]


def _placed(op: Ops, region: Region, axes: Sequence[int], at: int) -> _Axis:
    x, y = region.operand(0), region.outputs[0]
    wide = ir.DataType.DOUBLE if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    count = op.sizes(y, [axes[at]])
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    k = op.Cast(op.Range(zero, op.Squeeze(count, op.ints([0])), one), to=int(wide))
    k.shape = ir.Shape([dim(y, axes[at])])
    size, out = (grids.number(op, dim(v, axes[at]), k) for v in (x, y))

    def given(operand: int, index: int) -> ir.Value:
        where = op.const(np.int64(index), INT64)
        return _as(op, op.Gather(region.operand(operand), where), k)

    if _how(region) == _CROP:
        last = op.Sub(size, op.const(1, like=k))
        start, end = (given(1, i) for i in (at, len(axes) + at))
        single, half = op.const(1, like=k), op.const(0.5, like=k)
        behind = op.Max(op.Sub(out, single), single)
        share = op.Where(op.Greater(out, single), op.Div(k, behind), half)
        slopes = {
            (1, at): op.Mul(last, op.Sub(single, share)),
            (1, len(axes) + at): op.Mul(last, share),
        }
        place = op.Add(op.Mul(op.Mul(op.Sub(end, start), last), share), op.Mul(start, last))
        return _Axis(axes[at], at, place, slopes)
    return _scaled(op, _how(region), k, (size, out, given(2, at)), (axes[at], at))


def _scaled(
    op: Ops,
    how: str,
    k: ir.Value,
    numbers: tuple[ir.Value, ir.Value, ir.Value],
    which: tuple[int, int],
) -> _Axis:
    """place = r / scale + constant, with r the number of the pixel, shifted."""
    size, out, scale = numbers
    half = op.const(0.5, like=k)
    ratio = op.Add(k, op.const(_SHIFTS[how], like=k))
    added = op.const(0.0 if how in ("asymmetric", "tf_half_pixel_for_nn") else -0.5, like=k)
    if how == "half_pixel_symmetric":  # both centres in one place
        ratio, added = op.Sub(ratio, op.Mul(out, half)), op.Add(added, op.Mul(size, half))
    place, slope = op.Div(ratio, scale), op.Neg(op.Div(ratio, op.Mul(scale, scale)))
    place = op.Add(place, added)
    if how == "pytorch_half_pixel":
        several, none = op.Greater(out, op.const(1, like=k)), op.const(0, like=k)
        place, slope = (op.Where(several, v, none) for v in (place, slope))
    axis, at = which
    return _Axis(axis, at, place, {(2, at): slope})


def _slope(op: Ops, region: Region, axes: Sequence[int], one: _Axis) -> ir.Value:
    """∂y/∂place along one axis, the shape of y: slopes along it, the other axes resized as ever."""
    x, y = region.operand(0), region.outputs[0]
    size = op.as_tensor((dim(x, one.axis),))
    last = op.Sub(size, op.ints([1]))
    total = []
    for index, slope in _taps(op, region, one.place, size):
        nearest = op.Min(op.Max(index, op.ints([0])), last)
        sample = op.Gather(x, nearest, axis=one.axis)
        total.append(op.Mul(sample, _behind(op, _as(op, slope, x), one.axis, x)))
    found = op.add_all(total)
    others = [at for at in range(len(axes)) if at != one.at]
    if others:
        found = _resized(op, region, found, axes, others)
    found.shape = y.shape
    return found


def _taps(
    op: Ops, region: Region, place: ir.Value, size: ir.Value
) -> list[tuple[ir.Value, ir.Value]]:
    """Of every pixel that is read along an axis, its index [out] and the slope of its weight."""
    cubic = region.attr_string("mode", "nearest") == "cubic"
    table = grids.cubic(region.attr_float("cubic_coeff_a", -0.75)) if cubic else grids.LINEAR
    start, first = op.Floor(place), -1 if cubic else 0
    numbers = [op.ints([first + k]) for k in range(len(table))]
    indices = [op.Add(op.Cast(start, to=int(INT64)), k) for k in numbers]
    zero, behind = op.const(0, like=place), op.Sub(place, start)
    slopes = [op.expand_to(v, place) for v in grids.slopes(op, table, behind)]
    inside = [op.And(op.GreaterOrEqual(i, op.ints([0])), op.Less(i, size)) for i in indices]
    if region.attr_int("exclude_outside", 0):  # what is left is divided by its sum
        pairs = zip(grids.polynomials(op, table, behind), inside, strict=True)
        shares = [op.Where(mask, share, zero) for share, mask in pairs]
        slopes = [op.Where(mask, v, zero) for v, mask in zip(slopes, inside, strict=True)]
        whole, moved = op.add_all(shares), op.add_all(slopes)
        parts = [op.Div(op.Mul(share, moved), whole) for share in shares]
        slopes = [op.Div(op.Sub(v, p), whole) for v, p in zip(slopes, parts, strict=True)]
    if _how(region) == _CROP:  # elsewhere is one value
        end = _as(op, op.Sub(size, op.ints([1])), place)
        held = op.And(op.GreaterOrEqual(place, zero), op.LessOrEqual(place, end))
        slopes = [op.Where(held, v, zero) for v in slopes]
    return list(zip(indices, slopes, strict=True))


def _resized(
    op: Ops, region: Region, x: ir.Value, axes: Sequence[int], others: Sequence[int]
) -> ir.Value:
    """The region's Resize along some of its axes alone."""
    chosen, roi, scales = op.ints(others), region.input(1), region.input(2)
    if _how(region) == _CROP:
        ends = op.ints([*others, *(len(axes) + at for at in others)])
        roi = op.Gather(region.operand(1), ends)
    else:
        roi = None
    by_scales = scales is not None and dim(scales, 0) != 0
    targets: list[ir.Value | None] = [op.Gather(scales, chosen) if by_scales else None]
    if not by_scales:
        targets.append(op.sizes(region.outputs[0], [axes[at] for at in others]))
    return op.like(
        region.node,
        [x, roi, *targets],
        axes=[axes[at] for at in others],
        extrapolation_value=None,
        keep_aspect_ratio_policy=None,
    )[0]


def _as(op: Ops, value: ir.Value, like: ir.Value) -> ir.Value:
    """In the dtype of another value."""
    assert like.dtype is not None
    return value if value.dtype == like.dtype else op.Cast(value, to=int(like.dtype))


def _behind(op: Ops, value: ir.Value, axis: int, like: ir.Value) -> ir.Value:
    """[out] along one axis of values of the rank of another."""
    return op.unsqueeze(value, *range(1, rank(like) - axis))
