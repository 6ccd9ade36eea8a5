"""Operators that read images between their pixels: the cotangent is added up at those pixels.

And those that put images together, whose cotangent is taken apart again.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.ops import INT64, Ops, dim, rank
from onnxjvp.rules import grids
from onnxjvp.rules.transposes.table import operand, reshaped, scatter_add, transposed


@transposed("GridSample")
def grid_sample(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Every sample's cotangent, times the weights of the pixels that it was made of, to them.

    Of K pixels along each of d axes these are Kᵈ a sample, one scatter for all of them.
    """
    x, grid = operand(node, 0), grids.precise(op, operand(node, 1))
    how, d = grids.sampling(node), rank(x) - 2
    where, weight = None, None
    for axis in range(d):
        size = dim(x, 2 + axis)
        place = grids.place(op, grids.coordinate(op, grid, axis), size, how)
        start = grids.before(op, place, how)
        index, share = _along(op, start, op.Sub(place, start), size, how, axis, d)
        if where is None or weight is None:
            where, weight = index, share
        else:
            where = op.Add(op.Mul(where, op.as_tensor((size,))), index)
            weight = op.Mul(weight, share)
    assert where is not None and weight is not None
    # [N, C, 1 …, *out] · [N, 1, K …, *out], and its pixels [N, 1, K …, *out], each as [N, ·, P]
    if weight.dtype != ct.dtype:
        weight = op.CastLike(weight, ct)
    values = op.Mul(op.unsqueeze(ct, *range(2, 2 + d)), op.unsqueeze(weight, 1))
    count = op.count(where, range(1, rank(where)))
    rows = op.Concat(op.as_tensor(dims.of(x)[:2]), count, axis=0)
    indices = op.Reshape(where, op.Concat(op.sizes(where, [0]), op.ints([1]), count, axis=0))
    images = op.Concat(op.as_tensor(dims.of(x)[:2]), op.volume(dims.of(x)[2:]), axis=0)
    flat = scatter_add(
        op,
        op.zeros(ct.dtype, images),
        op.Expand(indices, rows),
        op.Reshape(values, rows, allowzero=1),
        2,
    )
    return reshaped(op, flat, x)


def _along(
    op: Ops,
    start: ir.Value,
    behind: ir.Value,
    size: dims.Dim,
    how: grids.Sampling,
    axis: int,
    d: int,
) -> tuple[ir.Value, ir.Value]:
    """Pixels and weights along one axis: [N, 1 …, K, 1 …, *out]."""
    found, inside = grids.pixels(op, start, size, how)
    shares = []
    for weight, mask in zip(grids.weights(op, behind, how), inside, strict=True):
        full = op.expand_to(weight, behind)
        shares.append(full if mask is None else op.Where(mask, full, op.const(0.0, like=full)))
    axes = range(1, 1 + d)
    return tuple(
        op.Concat(*(op.unsqueeze(v, *axes) for v in values), axis=1 + axis)
        for values in (found, shares)
    )  # type: ignore[return-value]


@transposed("AffineGrid")
def affine_grid(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """grid = places · thetaᵀ; the places are the grid of the identity, and a one behind them."""
    theta, size = operand(node, 0), operand(node, 1)
    d = rank(ct) - 2
    # in single precision at least, for which runtimes have kernels
    dtype = ir.DataType.DOUBLE if ct.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    (places,) = op.like(node, [op.const(np.eye(d, d + 1)[None], dtype), _of_one(op, size, d)])
    rows = op.Reshape(places, op.ints([-1, d]))
    rows = rows if ct.dtype == dtype else op.CastLike(rows, ct)
    count = op.volume(dims.of(ct)[1:-1])
    ones = op.Expand(op.const(1.0, like=ct), op.Concat(count, op.ints([1]), axis=0))
    flat = op.Concat(op.as_tensor(dims.of(ct)[:1]), count, op.ints([d]), axis=0)
    columns = op.Transpose(op.Reshape(ct, flat, allowzero=1), perm=[0, 2, 1])
    out = op.MatMul(columns, op.Concat(rows, ones, axis=1))
    out.shape = theta.shape
    return out


def _of_one(op: Ops, size: ir.Value, d: int) -> ir.Value:
    """[N, C, *image] with a batch of one."""
    known = op.shapes.ints(size)
    if known is not None:
        return op.ints([1, *known[1:]])
    return op.Concat(op.ints([1]), op.Slice(size, op.ints([1]), op.ints([2 + d])), axis=0)


# -- regions of interest -----------------------------------------------------------------------


@transposed("RoiAlign")
def roi_align(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Σ over regions of A ct Bᵀ: each averages rows by a matrix A, and columns by another, B.

    Both are read off the operator: A, times what all of B adds up to, from images of one row of
    ones, and so on. Of a region with nothing in the image both are zero.
    """
    x, rois, image = (operand(node, k) for k in range(3))
    n, channels, height, width = dims.of(x)
    rows, columns = (_shown(op, node, x, axis) for axis in (2, 3))
    every = op.ReduceSum(rows, op.ints([1, 2, 3]), keepdims=1)
    none = op.const(0.0, like=every)
    is_empty = op.Equal(every, none)
    whole = op.Where(is_empty, op.const(1.0, like=every), every)
    a = op.ReduceSum(rows, op.ints([3]), keepdims=0)  # [R, H, h]
    b = op.Div(op.ReduceSum(columns, op.ints([2]), keepdims=0), op.Squeeze(whole, op.ints([3])))
    # [R, C, h, w] by columns: [R, C, h, W], then one product over all regions and their rows
    wide = op.MatMul(ct, op.unsqueeze(op.Transpose(b, perm=[0, 2, 1]), 1))
    count = op.as_tensor((dim(rois, 0), dim(ct, 2)))
    once = op.ReduceProd(count, keepdims=1)
    right = op.Reshape(
        op.Transpose(wide, perm=[0, 2, 1, 3]),
        op.Concat(once, op.ReduceProd(op.as_tensor((channels, width)), keepdims=1), axis=0),
        allowzero=1,
    )
    of_image = op.Equal(op.unsqueeze(_numbers(op, n), 1), image)  # [N, R]
    left = op.Where(op.unsqueeze(of_image, 2, 3), a, op.const(0.0, like=a))  # [N, R, H, h]
    left = op.Reshape(
        op.Transpose(left, perm=[0, 2, 1, 3]),
        op.Concat(op.as_tensor((n, height)), once, axis=0),
        allowzero=1,
    )
    out = op.Reshape(
        op.MatMul(left, right), op.as_tensor((n, height, channels, width)), allowzero=1
    )
    out = op.Transpose(out, perm=[0, 2, 1, 3])
    out.shape = x.shape
    return out


def _shown(op: Ops, node: ir.Node, x: ir.Value, axis: int) -> ir.Value:
    """[R, size, h, w]: what a region makes of an image that is one along one row (or column)."""
    size = dim(x, axis)
    eye = op.EyeLike(op.zeros(x.dtype, op.as_tensor((size, size))))
    images = op.unsqueeze(eye, 0, 5 - axis)
    images = op.Expand(images, op.as_tensor((1, size, dim(x, 2), dim(x, 3))))
    rois = operand(node, 1)
    first = op.Mul(operand(node, 2), op.const(np.int64(0), INT64))
    return op.like(node, [images, rois, first])[0]


def _numbers(op: Ops, count: dims.Dim) -> ir.Value:
    zero, one = (op.const(np.int64(k), INT64) for k in (0, 1))
    return op.Range(zero, op.Squeeze(op.as_tensor((count,)), op.ints([0])), one)


# -- images put together -----------------------------------------------------------------------


@transposed("Col2Im")
def col_to_im(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """The blocks of every channel: a convolution by one kernel for each of their elements."""
    x = operand(node, 0)
    planes = op.Concat(
        op.volume(dims.of(ct)[:2]), op.ints([1]), op.as_tensor(dims.of(ct)[2:]), axis=0
    )
    given = {name: node.attributes.get_ints(name) for name in ("strides", "dilations", "pads")}
    found = op.Conv(
        op.Reshape(ct, planes, allowzero=1),
        _elements(op, operand(node, 2), ct),
        **{name: None if v is None else list(v) for name, v in given.items()},
    )
    out = op.Reshape(found, op.as_tensor(dims.of(x)), allowzero=1)
    out.shape = x.shape
    return out


def _elements(op: Ops, block: ir.Value, like: ir.Value) -> ir.Value:
    """[K, 1, *block]: a kernel for each of the K elements of a block."""
    known = op.shapes.ints(block)
    if known is not None:
        count = math.prod(known)
        limits.check_constant(count * count, "a kernel for each element of a block")
        return op.const(np.eye(count).reshape(count, 1, *known), like=like)
    size = op.ReduceProd(block, keepdims=1)
    eye = op.EyeLike(op.zeros(like.dtype, op.Concat(size, size, axis=0)))
    return op.Reshape(eye, op.Concat(size, op.ints([1]), block, axis=0))


@transposed("CenterCropPad")
def center_crop_pad(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Back to the sizes of before: what crops from the same places pads there."""
    x = operand(node, 0)
    axes = [axis % rank(x) for axis in node.attributes.get_ints("axes") or range(rank(x))]
    out = op.CenterCropPad(ct, op.as_tensor(tuple(dim(x, axis) for axis in axes)), axes=axes)
    out.shape = x.shape
    return out
