"""DeformConv, as what it is: bilinear samples around every place, and a product over their taps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.rules import grids
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.registry import linear_push
from onnxjvp.rules.sampling import sampled_tangent

#: from this opset on GridSample's modes are called linear and cubic
_NEW_NAMES = 20


@dataclass(frozen=True)
class _Taps:
    """The sizes of one DeformConv."""

    kernel: tuple[int, ...]
    group: int
    parts: int  # that share offsets
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def count(self) -> int:
        return int(np.prod(self.kernel))


@linear_push(
    "DeformConv",
    terms=((0, 1, 4), (3,)),
    args=(0, 1, 2, 3, 4),
    source="ONNX DeformConv-22; GridSample at moved taps, times a mask, times W, and a bias",
)
def deform_conv_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    """Everything as (value, tangent or None); the samples are computed once more."""
    x, w, offset = (region.operand(k) for k in range(3))
    mask = region.input(4)
    of = [tangents[k] if k < len(tangents) else None for k in range(5)]
    taps, y = _taps(region), region.outputs[0]
    grid = _grid(op, taps, offset, x, y)
    along_grid = None if of[2] is None else _grid(op, taps, of[2], x, y, moving=True)
    images = [None if v is None else _by_part(op, v, x, taps) for v in (x, of[0])]
    assert images[0] is not None
    linear = "linear" if op.shapes.opset_imports.get("", 0) >= _NEW_NAMES else "bilinear"
    samples = op.GridSample(images[0], grid, mode=linear, padding_mode="zeros", align_corners=0)
    node = samples.producer()
    assert node is not None
    moved = sampled_tangent(op, node, (images[0], grid), (images[1], along_grid))

    shares = None if mask is None else _shares(op, mask, x, y, taps)
    along_shares = None if of[4] is None else _shares(op, of[4], x, y, taps)
    columns = _columns(op, samples, shares, x, y, taps)
    changes = [
        _columns(op, value, share, x, y, taps)
        for value, share in ((moved, shares), (samples, along_shares))
        if value is not None and (share is not None or value is moved)
    ]
    parts = []
    if changes:
        parts.append(_product(op, op.add_all(changes), w, taps))
    if of[1] is not None:
        parts.append(_product(op, columns, of[1], taps))
    if of[3] is not None:
        parts.append(op.unsqueeze(of[3], 0, 2, 3))
    return [op.expand_to(op.add_all(parts), y)]


def _taps(region: Region) -> _Taps:
    w, node = region.operand(1), region.node
    kernel = dims.of(w)[2:]
    if rank(w) != 4:  # [M, C/g, kh, kw]
        raise RefusedError("samples are taken of planes only")
    if not dims.is_static(kernel):
        raise RefusedError("the size of its kernel cannot be inferred")

    def listed(name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(node.attributes.get_ints(name) or default)

    return _Taps(
        tuple(int(k) for k in kernel if isinstance(k, int)),
        region.attr_int("group", 1),
        region.attr_int("offset_group", 1),
        listed("strides", (1, 1)),
        listed("dilations", (1, 1)),
        listed("pads", (0, 0, 0, 0)),
    )


def _grid(
    op: Ops, taps: _Taps, offset: ir.Value, x: ir.Value, y: ir.Value, *, moving: bool = False
) -> ir.Value:
    """[N, parts·K·2, h, w] → [N·parts, K·h, w, 2], from −1 to 1, across before down.

    Args:
      moving: what is given are tangents of offsets: there is nothing to add them to.
    """
    n, down, along = dim(x, 0), *dims.of(y)[2:]
    shape = op.as_tensor((n, taps.parts, taps.count, 2, down, along))
    places = op.Reshape(offset, shape, allowzero=1)
    if not moving:
        places = op.Add(places, _starts(op, taps, y, offset))
    scales = [grids.number(op, size, offset) for size in dims.of(x)[2:]]
    one, half = op.const(1.0, like=offset), op.const(0.5, like=offset)
    named = []
    for axis in (1, 0):
        place = op.Gather(places, op.const(np.int64(axis), INT64), axis=3)
        unit = op.Mul(scales[axis], half)
        named.append(op.Div(place if moving else op.Add(place, half), unit))
        if not moving:
            named[-1] = op.Sub(named[-1], one)
    grid = op.Concat(*(op.unsqueeze(v, 5) for v in named), axis=5)  # [N, parts, K, h, w, 2]
    rows = dims.product((n, taps.parts)), dims.product((taps.count, down)), along, 2
    out = op.Reshape(
        grid, _products(op, (n, taps.parts), (taps.count, down), (along,), (2,)), allowzero=1
    )
    out.shape = ir.Shape(rows)
    return out


def _products(op: Ops, *factors: dims.Dims) -> ir.Value:
    """A shape, each of whose sizes is a product."""
    return op.Concat(*(op.volume(part) for part in factors), axis=0)


def _starts(op: Ops, taps: _Taps, y: ir.Value, like: ir.Value) -> ir.Value:
    """[K, 2, h, w]: where every tap is before it is moved."""
    found = []
    for axis in range(2):
        size = dim(y, 2 + axis)
        if isinstance(size, int):
            limits.check_constant(size, "the places of an axis")
            steps = op.const(np.arange(size) * float(taps.strides[axis]), like=like)
        else:
            zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
            whole = op.Range(zero, op.Squeeze(op.as_tensor((size,)), op.ints([0])), one)
            assert like.dtype is not None
            stride = op.const(float(taps.strides[axis]), like=like)
            steps = op.Mul(op.Cast(whole, to=int(like.dtype)), stride)
        inside = np.indices(taps.kernel)[axis].ravel() * float(taps.dilations[axis])
        firsts = op.const((inside - taps.pads[axis]).reshape(-1, 1, 1, 1), like=like)
        row = op.unsqueeze(steps, 1) if axis == 0 else steps
        found.append(op.Add(firsts, row))
    shape = op.as_tensor((taps.count, 1, *dims.of(y)[2:]))
    return op.Concat(*(op.Expand(v, shape) for v in found), axis=1)


def _by_part(op: Ops, x: ir.Value, like: ir.Value, taps: _Taps) -> ir.Value:
    """[N, C, H, W] → [N·parts, C/parts, H, W]."""
    n, channels, *image = dims.of(like)
    shape = (dims.product((n, taps.parts)), dims.quotient(channels, taps.parts), *image)
    target = _products(op, (n, taps.parts), (shape[1],), *((size,) for size in image))
    out = op.Reshape(x, target, allowzero=1)
    out.shape = ir.Shape(shape)
    return out


def _shares(op: Ops, mask: ir.Value, x: ir.Value, y: ir.Value, taps: _Taps) -> ir.Value:
    """[N, parts·K, h, w] → [N·parts, 1, K·h, w]."""
    n, down, along = dim(x, 0), *dims.of(y)[2:]
    target = _products(op, (n, taps.parts), (1,), (taps.count, down), (along,))
    return op.Reshape(mask, target, allowzero=1)


def _columns(
    op: Ops, samples: ir.Value, shares: ir.Value | None, x: ir.Value, y: ir.Value, taps: _Taps
) -> ir.Value:
    """[N·parts, C/parts, K·h, w], times the mask → [N, C·K, h, w]."""
    value = samples if shares is None else op.Mul(samples, shares)
    (n, channels), image = dims.of(x)[:2], dims.of(y)[2:]
    target = _products(op, (n,), (channels, taps.count), *((size,) for size in image))
    out = op.Reshape(value, target, allowzero=1)
    out.shape = ir.Shape((n, dims.product((channels, taps.count)), *image))
    return out


def _product(op: Ops, columns: ir.Value, w: ir.Value, taps: _Taps) -> ir.Value:
    m, deep = dims.of(w)[:2]
    weights = op.Reshape(w, _products(op, (m,), (deep, taps.count), (1,), (1,)), allowzero=1)
    weights.shape = ir.Shape((m, dims.product((deep, taps.count)), 1, 1))
    return op.Conv(columns, weights, group=taps.group)
