"""Bodies of onnxruntime's operators that cut regions out of images."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import limits
from onnxjvp.graph.functions.normalization import narrowed, widened
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region

#: from this opset on the modes of GridSample have other names
_RENAMED = 20


@body("com.microsoft::CropAndResize")
def _crop_and_resize(op: Ops, region: Region) -> Outs:
    """Regions of images at h × w places each, corners on corners; a number outside the image."""
    narrow, rois, which, size = (region.operand(i) for i in range(4))
    x, rois = widened(op, narrow), widened(op, rois)  # half precision tells few places apart
    known = op.shapes.ints(size)
    if known is None:
        raise NoBodyError("the size of its crops is known at run time only")
    top, left, bottom, right = op.emit("Split", [rois], {"axis": 1, "num_outputs": 4}, outputs=4)
    rows = op.unsqueeze(_places(op, top, bottom, known[0]), 2)  # [R, h, 1], 0 to 1 over the image
    columns = op.unsqueeze(_places(op, left, right, known[1]), 1)  # [R, 1, w]
    nowhere = op.Or(_outside(op, rows, x, 2), _outside(op, columns, x, 3))
    zero = op.Mul(op.Add(rows, columns), op.const(0, like=x))  # in the shape of a crop
    both = [op.unsqueeze(op.Add(zero, places), 3) for places in (columns, rows)]
    grid = op.Sub(op.Mul(op.Concat(*both, axis=3), op.const(2, like=x)), op.const(1, like=x))
    nearest = region.attr_string("mode", "bilinear") == "nearest"
    linear = "linear" if op.shapes.opset_imports.get("", 0) >= _RENAMED else "bilinear"
    how = {"mode": "nearest" if nearest else linear, "padding_mode": "border", "align_corners": 1}
    read = op.GridSample(op.Gather(x, which, axis=0), grid, **how)
    beyond = op.const(region.attr_float("extrapolation_value", 0.0), like=x)
    return [narrowed(op, op.Where(op.unsqueeze(nowhere, 1), beyond, read), narrow)]


def _places(op: Ops, low: ir.Value, high: ir.Value, count: int) -> ir.Value:
    """[R, 1] twice → [R, count]: from one end to the other, or the middle alone."""
    limits.check_constant(count, "the places of a crop")
    steps = np.linspace(0, 1, count) if count > 1 else np.array([0.5])
    return op.Add(low, op.Mul(op.Sub(high, low), op.const(steps, like=low)))


def _outside(op: Ops, places: ir.Value, x: ir.Value, axis: int) -> ir.Value:
    """Whether they are beyond the first or the last pixel. An image of one is everywhere."""
    assert x.dtype is not None
    last = op.Cast(op.Sub(op.sizes(x, [axis]), op.ints([1])), to=int(x.dtype))
    pixels = op.Mul(places, last)
    return op.Or(op.Less(pixels, op.const(0, like=x)), op.Greater(pixels, last))
