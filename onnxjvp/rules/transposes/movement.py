"""Operators that move elements: the cotangent moves back, and adds up where they were copied."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.fixed import fixed
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.rules.transposes.table import (
    Cotangents,
    jointly,
    linear_operands,
    operand,
    reshaped,
    scatter_add,
    scatter_back,
    transposed,
)


@transposed("Reshape Flatten Squeeze Unsqueeze")
def reshape(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return reshaped(op, ct, operand(node, i))


@transposed("Transpose", small=True)
def transpose(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    perm = node.attributes.get_ints("perm") or tuple(reversed(range(rank(ct))))
    return op.Transpose(ct, perm=[int(axis) for axis in np.argsort(perm)])


@jointly("Concat")
def concat(op: Ops, node: ir.Node, cotangents: Cotangents) -> dict[int, ir.Value]:
    ct = cotangents[0]
    if ct is None:
        return {}
    out, axis = node.outputs[0], _axis(node, 0)
    parts = [v for v in node.inputs if v is not None]
    if len(parts) == 1:
        return {0: ct}
    sizes = op.as_tensor(tuple(dim(v, axis) for v in parts))
    pieces = op.emit("Split", (op.expand_to(ct, out), sizes), {"axis": axis}, outputs=len(parts))
    for piece, part in zip(pieces, parts, strict=True):
        piece.shape = part.shape
    return {i: pieces[i] for i in linear_operands(op, node)}


@jointly("Split")
def split(op: Ops, node: ir.Node, cotangents: Cotangents) -> dict[int, ir.Value]:
    if all(ct is None for ct in cotangents):
        return {}
    pieces = [
        op.zeros_like(y) if ct is None else op.expand_to(ct, y)
        for y, ct in zip(node.outputs, cotangents, strict=True)
    ]
    whole = op.Concat(*pieces, axis=_axis(node, 0))
    whole.shape = operand(node, 0).shape
    return {0: whole}


def _axis(node: ir.Node, default: int) -> int:
    return node.attributes.get_int("axis", default) % rank(operand(node, 0))


@transposed("Tile")
def tile(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """[r·d, …] is [r, d, …] in memory: sum over every r."""
    x = operand(node, 0)
    n = rank(x)
    columns = [op.unsqueeze(v, 1) for v in (operand(node, 1), op.shape_of(x))]
    pairs = op.Reshape(op.Concat(*columns, axis=1), op.ints([-1]))
    apart = op.Reshape(ct, pairs, allowzero=1)
    out = op.ReduceSum(apart, op.ints(range(0, 2 * n, 2)), keepdims=0)
    out.shape = x.shape
    return out


@transposed("Slice")
def slice_(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    x = operand(node, 0)
    steps = op.shapes.ints(node.inputs[4]) if len(node.inputs) > 4 else (1,) * rank(x)
    starts = operand(node, 1)
    count = dim(starts, 0)
    if node.inputs[3:4] and node.inputs[3] is not None:
        axes = op.shapes.ints(node.inputs[3])
    else:
        axes = tuple(range(count)) if isinstance(count, int) else None
    if steps is None or axes is None or any(step != 1 for step in steps):
        return scatter_back(op, node, i, ct)
    axes = tuple(axis % rank(x) for axis in axes)
    sizes = op.as_tensor(tuple(dim(x, axis) for axis in axes))
    begin = _begins(op, starts, sizes, [dim(x, axis) for axis in axes])
    taken = op.as_tensor(tuple(dim(ct, axis) for axis in axes))
    end = _minus(op, _minus(op, sizes, begin), taken)
    return _padded(op, ct, begin, end, axes, x)


def _begins(op: Ops, starts: ir.Value, sizes: ir.Value, known: Sequence[dims.Dim]) -> ir.Value:
    """Where a slice of step 1 begins: not before 0, not behind the end, from it if negative."""
    values = op.shapes.ints(starts)
    if values is not None and dims.is_static(known):
        ends = [int(d) for d in known if isinstance(d, int)]
        pairs = zip(values, ends, strict=True)
        return op.ints([min(max(s + d if s < 0 else s, 0), d) for s, d in pairs])
    if starts.dtype != ir.DataType.INT64:
        starts = op.Cast(starts, to=int(ir.DataType.INT64))
    zero = op.ints([0])
    from_end = op.Where(op.Less(starts, zero), op.Add(starts, sizes), starts)
    return op.Min(op.Max(from_end, zero), sizes)


def _minus(op: Ops, a: ir.Value, b: ir.Value) -> ir.Value:
    first, second = op.shapes.ints(a), op.shapes.ints(b)
    if first is not None and second is not None:
        return op.ints([x - y for x, y in zip(first, second, strict=True)])
    return op.Sub(a, b)


def _padded(
    op: Ops, ct: ir.Value, begin: ir.Value, end: ir.Value, axes: Sequence[int], x: ir.Value
) -> ir.Value:
    """Zeros around a cotangent along some axes, to the shape of x."""
    before, behind = op.shapes.ints(begin), op.shapes.ints(end)
    if before is not None and behind is not None:
        if not any((*before, *behind)):
            return ct
        pads = op.ints([*before, *behind])
    else:
        pads = op.Concat(begin, end, axis=0)
    out = op.Pad(ct, pads, None, op.ints(axes))
    out.shape = x.shape
    return out


@transposed("Pad")
def pad(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    if node.attributes.get_string("mode", "constant") != "constant":
        return scatter_back(op, node, i, ct)
    pads = op.shapes.ints(operand(node, 1))
    cut = op.Neg(operand(node, 1)) if pads is None else op.ints([-p for p in pads])
    out = op.Pad(ct, cut, None, *node.inputs[3:4])
    out.shape = operand(node, 0).shape
    return out


# -- by index ----------------------------------------------------------------------------------


@transposed("Gather")
def gather(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    data, indices = operand(node, 0), operand(node, 1)
    axis = _axis(node, 0)
    one = op.shapes.ints(indices)
    size = dim(data, axis)
    if one is not None and len(one) == 1 and isinstance(size, int):
        begin = one[0] % size
        kept = ct if rank(indices) else op.unsqueeze(ct, axis)
        if rank(indices) > 1:
            kept = op.Squeeze(ct, op.ints(range(axis, axis + rank(indices) - 1)))
        return _padded(op, kept, op.ints([begin]), op.ints([size - 1 - begin]), [axis], data)
    # indices of any rank as one axis of the cotangent, and repeated along its other axes
    flat = (*dims.of(data)[:axis], dims.product(dims.of(indices)), *dims.of(data)[axis + 1 :])
    shape = op.Concat(
        op.as_tensor(flat[:axis]),
        op.Reshape(op.Size(indices), op.ints([1])),
        op.as_tensor(flat[axis + 1 :]),
        axis=0,
    )
    values = ct if rank(indices) == 1 else op.Reshape(ct, shape, allowzero=1)
    where = op.Reshape(indices, op.ints([-1, *[1] * (rank(data) - axis - 1)]))
    if rank(data) > 1:
        where = op.Expand(where, shape)
    return scatter_add(op, op.zeros_like(data), where, values, axis)


@transposed("GatherElements")
def gather_elements(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    data = operand(node, 0)
    return scatter_add(op, op.zeros_like(data), operand(node, 1), ct, _axis(node, 0))


@transposed("ScatterElements")
def scatter_elements(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    indices, updates = operand(node, 1), operand(node, 2)
    if i == 2:
        return op.GatherElements(ct, indices, axis=_axis(node, 0))
    if node.attributes.get_string("reduction", "none") == "add":
        return ct
    return op.ScatterElements(ct, indices, op.zeros_like(updates), axis=_axis(node, 0))


@transposed("ScatterND")
def scatter_nd(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    indices, updates = operand(node, 1), operand(node, 2)
    if i == 2:
        found = op.GatherND(ct, indices)
        found.shape = updates.shape  # not even its rank is known where the indices' depth is not
        return found
    if node.attributes.get_string("reduction", "none") == "add":
        return ct
    return op.ScatterND(ct, indices, op.zeros_like(updates))


transposed("GatherND")(scatter_back)


# -- permutations ------------------------------------------------------------------------------


@transposed("Trilu ReverseSequence")
def its_own(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return op.like(node, [ct, *node.inputs[1:]])[0]


@transposed("DepthToSpace")
def depth_to_space(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    size = node.attributes.get_int("blocksize", 1)
    if node.attributes.get_string("mode", "DCR") == "DCR":
        return op.SpaceToDepth(ct, blocksize=size)
    n, channels, height, width = dims.of(operand(node, 0))
    deep = dims.quotient(channels, size * size)
    apart = op.Reshape(ct, op.as_tensor((n, deep, height, size, width, size)), allowzero=1)
    together = op.Transpose(apart, perm=[0, 1, 3, 5, 2, 4])
    return reshaped(op, together, operand(node, 0))


@transposed("SpaceToDepth")
def space_to_depth(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    order = node.attributes.get_string("mode", "DCR")  # from opset 28 on
    return op.DepthToSpace(ct, blocksize=node.attributes.get_int("blocksize", 1), mode=order)


# -- interpolation -----------------------------------------------------------------------------


@transposed("Resize")
def resize(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Every mode acts along one axis at a time: as a matrix, which unit vectors show."""
    x, y = operand(node, 0), node.outputs[0]
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return _resized_together(op, node, ct)
    for axis in range(rank(x)):
        if not _is_identity(op, node, axis):
            matrix = _matrix(op, node, axis)
            last = op.Transpose(ct, perm=_exchanged(rank(x), axis))
            ct = op.Transpose(op.MatMul(last, matrix), perm=_exchanged(rank(x), axis))
    ct.shape = x.shape
    assert rank(y) == rank(x)
    return ct


def _resized_together(op: Ops, node: ir.Node, ct: ir.Value) -> ir.Value:
    """Where the axes share a scale: one matrix for all of them, read off unit images."""
    x, y = operand(node, 0), node.outputs[0]
    if min(_resized(node)) < 2:
        raise dims.UnknownTypeError("its axes share a scale with the batch or the channels")
    inner, outer = (op.volume(dims.of(v)[2:]) for v in (x, y))
    eye = op.EyeLike(op.zeros(x.dtype, op.Concat(inner, inner, axis=0)))
    images = op.Reshape(
        eye, op.Concat(inner, op.ints([1]), op.as_tensor(dims.of(x)[2:]), axis=0), allowzero=1
    )
    shown = op.like(node, [images, *node.inputs[1:]], extrapolation_value=None)[0]
    matrix = op.Reshape(shown, op.Concat(inner, outer, axis=0), allowzero=1)
    flat = op.Concat(op.as_tensor(dims.of(y)[:2]), outer, axis=0)
    rows = op.MatMul(op.Reshape(ct, flat, allowzero=1), op.Transpose(matrix, perm=[1, 0]))
    out = op.Reshape(rows, op.as_tensor(dims.of(x)), allowzero=1)
    out.shape = x.shape
    return out


def _is_identity(op: Ops, node: ir.Node, axis: int) -> bool:
    """Whether this axis keeps its size by a factor of exactly one (any mode copies it then)."""
    x, y = operand(node, 0), node.outputs[0]
    axes = _resized(node)
    if axis not in axes:
        return True
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if _crops(node):
        return False
    if scales is not None and dim(scales, 0) != 0:
        numbers = fixed(scales)
        return numbers is not None and float(numbers[axes.index(axis)]) == 1.0
    return dim(x, axis) == dim(y, axis)


def _crops(node: ir.Node) -> bool:
    mode = node.attributes.get_string("coordinate_transformation_mode", "")
    return bool(mode == "tf_crop_and_resize")


def _resized(node: ir.Node) -> list[int]:
    n = rank(operand(node, 0))
    given = node.attributes.get_ints("axes")
    return list(range(n)) if given is None else [axis % n for axis in given]


def _matrix(op: Ops, node: ir.Node, axis: int) -> ir.Value:
    """[output, input] of a Resize along one axis, read off the rows of an identity.

    As images of one row, which is doubled: runtimes interpolate images of rank 4, and take a Resize
    that changes no size for a copy.
    """
    x, y = operand(node, 0), node.outputs[0]
    at = _resized(node).index(axis)
    size = dim(x, axis)
    square = op.zeros(x.dtype, op.as_tensor((size, size)))
    eye = op.unsqueeze(op.EyeLike(square), 1, 2)
    roi = node.inputs[1] if _crops(node) else None
    if roi is not None:
        count = len(_resized(node))
        ends = [op.Slice(roi, op.ints([k]), op.ints([k + 1])) for k in (at, count + at)]
        zeros, ones = op.const(np.zeros(3), like=roi), op.const(np.ones(3), like=roi)
        roi = op.Concat(zeros, ends[0], ones, ends[1], axis=0)
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is not None and dim(scales, 0) != 0:
        others = op.const(np.array([1, 1, 2]), like=scales)
        scale = op.Slice(scales, op.ints([at]), op.ints([at + 1]))
        targets: list[ir.Value | None] = [op.Concat(others, scale, axis=0), None]
    else:
        targets = [None, op.as_tensor((size, 1, 2, dim(y, axis)))]
    rows = op.like(node, [eye, roi, *targets], axes=None, extrapolation_value=None)[0]
    rows.shape = ir.Shape((size, 1, 2, dim(y, axis)))
    first = op.Slice(rows, op.ints([0]), op.ints([1]), op.ints([2]))
    return op.Transpose(op.Squeeze(first, op.ints([1, 2])), perm=[1, 0])


def _exchanged(n: int, axis: int) -> list[int]:
    """The permutation that exchanges an axis and the last one."""
    perm = list(range(n))
    perm[axis], perm[-1] = perm[-1], perm[axis]
    return perm
