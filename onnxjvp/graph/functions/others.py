"""Bodies of what else onnxruntime has: movements, distances, gates."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import limits
from onnxjvp.graph.functions.activations import silu
from onnxjvp.graph.functions.normalization import narrowed, rms_norm, widened
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region

#: from this opset on the axis of a DFT is an operand
_AXIS_IS_OPERAND = 20


@body("com.microsoft::SampleOp")
def _sample(op: Ops, region: Region) -> Outs:
    return [op.Identity(region.operand(0))]


@body("com.microsoft::Trilu com.microsoft::GatherND")
def _same_as_standard(op: Ops, region: Region) -> Outs:
    return op.emit(region.op_type, region.inputs, dict(region.attributes))


@body("com.microsoft::Pad")
def _pad(op: Ops, region: Region) -> Outs:
    x, pads, fill = region.operand(0), region.operand(1), region.input(2)
    flat = op.Reshape(pads, op.ints([2 * rank(x)]))
    fill = None if fill is None else op.Reshape(fill, op.ints([]))
    return op.emit("Pad", [x, flat, fill], dict(region.attributes))


@body("com.microsoft::ExpandDims")
def _expand_dims(op: Ops, region: Region) -> Outs:
    axis = op.shapes.ints(region.operand(1))
    if axis is None:
        raise NoBodyError("its axis is known at run time only")
    return [op.unsqueeze(region.operand(0), axis[0])]


@body("com.microsoft::UnfoldTensor")
def _unfold(op: Ops, region: Region) -> Outs:
    """All slices of a size along an axis, behind all others."""
    x = region.operand(0)
    axis = region.attr_int("dim", -1) % rank(x)
    size, step = region.attr_int("size", 1), region.attr_int("step", 1)
    length = dim(x, axis)
    if not isinstance(length, int):
        raise NoBodyError("the length that it cuts up is known at run time only")
    if size < 1 or step < 1:
        raise NoBodyError("its slices have no size or no step")
    limits.check_constant(max(length - size + step, 0) // step * size, "the places of its slices")
    starts = np.arange(0, length - size + 1, step)
    cut = op.Gather(x, op.const(starts[:, None] + np.arange(size), ir.DataType.INT64), axis=axis)
    order = [i for i in range(rank(x) + 1) if i != axis + 1]
    return [op.Transpose(cut, perm=[*order, axis + 1])]


@body("com.microsoft::GridSample")
def _grid_sample(op: Ops, region: Region) -> Outs:
    attributes = dict(region.attributes)
    if op.shapes.opset_imports.get("", 0) >= 20:  # where they have other names
        names = {"bilinear": "linear", "bicubic": "cubic", "nearest": "nearest"}
        mode = names[region.attr_string("mode", "bilinear")]
        attributes["mode"] = ir.AttrString("mode", mode)
    return op.emit("GridSample", region.inputs, attributes)


@body("com.microsoft::Unique")
def _unique(op: Ops, region: Region) -> Outs:
    """In the order of their first occurrences."""
    y, _, inverse, counts = op.emit("Unique", [region.operand(0)], {"sorted": 0}, outputs=4)
    return [y, inverse, counts]


@body("com.microsoft::CDist")
def _distances(op: Ops, region: Region) -> Outs:
    a, b = op.unsqueeze(region.operand(0), 1), op.unsqueeze(region.operand(1), 0)
    match region.attr_string("metric", "sqeuclidean"):
        case "sqeuclidean":
            return [op.ReduceSumSquare(op.Sub(a, b), op.ints([2]), keepdims=0)]
        case "euclidean":
            return [op.ReduceL2(op.Sub(a, b), op.ints([2]), keepdims=0)]
        case other:
            raise NoBodyError(f"the metric {other!r} is not covered")


@body("com.microsoft::GatedAdd")
def _gated_add(op: Ops, region: Region) -> Outs:
    x, y, gate = (region.operand(i) for i in range(3))
    return [op.Add(x, op.Mul(y, gate))]


@body("com.microsoft::ScaledSiLU")
def _scaled_silu(op: Ops, region: Region) -> Outs:
    x, scale = region.operand(0), region.input(1)
    factor = op.const(region.attr_float("alpha", 1.0), like=x)
    if scale is not None:
        factor = op.Reshape(narrowed(op, scale, x), op.ints([]))
    return [silu(op, op.Mul(x, factor))]


@body("com.microsoft::GatedRMSNorm")
def _gated_rms_norm(op: Ops, region: Region) -> Outs:
    """scale · x / √(mean(x²) + ε), over groups as long as `scale`, times its gate's activation."""
    x, scale, gate = (region.operand(i) for i in range(3))
    wide, level = widened(op, x), widened(op, gate)
    size = op.sizes(scale, [0])
    groups = op.Div(op.sizes(x, [rank(x) - 1]), size)
    parts = op.Concat(op.sizes(x, range(rank(x) - 1)), groups, size, axis=0)
    normal, _ = rms_norm(op, op.Reshape(wide, parts), scale, region.attr_float("epsilon", 1e-5))
    sigmoid = region.attr_string("activation", "silu") == "sigmoid"
    opened = op.Sigmoid(level) if sigmoid else silu(op, level)
    y = op.Mul(op.Reshape(normal, op.shape_of(x)), opened)
    return [narrowed(op, y, x)]


# -- Fourier transforms ------------------------------------------------------------------------


@body("com.microsoft::Rfft")
def _rfft(op: Ops, region: Region) -> Outs:
    """[…, n] → […, n/2 + 1, 2]"""
    x = op.unsqueeze(region.operand(0), rank(region.operand(0)))
    return [_transformed(op, region, x, rank(x) - 2)]


@body("com.microsoft::Irfft")
def _irfft(op: Ops, region: Region) -> Outs:
    """[…, n/2 + 1, 2] → […, n], divided by n."""
    x = region.operand(0)
    y = _transformed(op, region, x, rank(x) - 2, inverse=1)
    return [op.Squeeze(y, op.ints([rank(x) - 1]))]


def _transformed(
    op: Ops, region: Region, x: ir.Value, axis: int, inverse: int | None = None
) -> ir.Value:
    if region.attr_int("signal_ndim", 1) != 1 or region.attr_int("normalized", 0):
        raise NoBodyError("it is of several axes at once, or normalised")
    how = {"onesided": 1, "inverse": inverse}
    if op.shapes.opset_imports.get("", _AXIS_IS_OPERAND) >= _AXIS_IS_OPERAND:
        return op.DFT(x, None, op.const(np.int64(axis), ir.DataType.INT64), **how)
    return op.DFT(x, axis=axis, **how)
