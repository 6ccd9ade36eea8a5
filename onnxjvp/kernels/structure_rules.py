"""The structures of operators that read parameters, one rule each."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, equations
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.kernels.labelled import Labelled, Labels
from onnxjvp.kernels.structures import (
    SAMPLE,
    Axes,
    Structure,
    UnstructuredError,
    Use,
    operand,
    reshaped,
    static,
    structure,
)
from onnxjvp.kernels.tiles import seen_last, tiles, windows
from onnxjvp.rules.windows import Window, window, window_of_transpose

# -- elementwise -------------------------------------------------------------------------------


def _broadcast(
    op: Ops, use: Use, weight: Dims, z: ir.Value | None, *, start: int = 0, scale: float = 1.0
) -> Structure:
    """y = z · θ, elementwise; θ has the shape `weight` and ends at axis `start - 1` of y."""
    axes = Axes(use)
    lead = len(use.out) + start - len(weight)
    if lead < 0:
        raise UnstructuredError("the parameter has more axes than what it is used for")
    labels: list[str] = []
    shape: list[int] = []
    for axis, size in enumerate(static(weight)):
        if size == 1 and use.out[lead + axis] != 1:
            continue
        if lead + axis == use.axis:
            raise UnstructuredError("the parameter has an axis of samples")
        labels += axes.of[lead + axis]
        shape.append(size)
    factor = None if z is None else axes.along(op, z)
    return _structure(axes, tuple(labels), tuple(shape), factor, scale)


def _structure(
    axes: Axes, weight: Labels, shape: tuple[int, ...], z: Labelled | None, scale: float = 1.0
) -> Structure:
    return Structure(
        out=tuple(axes.out),
        weight=weight,
        shape=shape,
        z=z,
        scale=scale,
        sizes={label: size for label, size in axes.sizes.items() if label not in weight},
        groups=axes.groups,
    )


@structure("Add Identity Expand Cast")
def _add(op: Ops, use: Use) -> Structure:
    return _broadcast(op, use, use.weight, None)


@structure("Sub")
def _sub(op: Ops, use: Use) -> Structure:
    return _broadcast(op, use, use.weight, None, scale=-1.0 if use.index == 1 else 1.0)


@structure("Neg")
def _neg(op: Ops, use: Use) -> Structure:
    return _broadcast(op, use, use.weight, None, scale=-1.0)


@structure("Mul")
def _mul(op: Ops, use: Use) -> Structure:
    return _broadcast(op, use, use.weight, operand(use.node, 1 - use.index))


@structure("Div")
def _div(op: Ops, use: Use) -> Structure:
    return _broadcast(op, use, use.weight, op.Reciprocal(operand(use.node, 1)))


@structure("Where")
def _where(op: Ops, use: Use) -> Structure:
    """Between the parameter and zeros, which is all that a linear program writes."""
    chosen = operand(use.node, 0)
    dtype = int(use.node.outputs[0].dtype or ir.DataType.FLOAT)
    taken = op.Cast(chosen if use.index == 1 else op.Not(chosen), to=dtype)
    return _broadcast(op, use, use.weight, taken)


@structure("BatchNormalization")
def _batch_normalization(op: Ops, use: Use) -> Structure:
    """In the scale, z is what is normalised."""
    if use.index != 1:
        raise UnstructuredError("it is read as a statistic")
    x, scale, _, *statistics = use.node.inputs
    assert x is not None and scale is not None
    ones = op.const(np.ones(static(dims.of(scale))), scale)
    zeros = op.const(np.zeros(static(dims.of(scale))), scale)
    normal = op.like(use.node, [x, ones, zeros, *statistics])[0]
    normal.shape = x.shape
    return _broadcast(op, use, use.weight, normal, start=2 - rank(x))


# -- products of matrices ----------------------------------------------------------------------


@structure("MatMul")
def _matmul(op: Ops, use: Use) -> Structure:
    """y[…, r, j] = Σᵢ z[…, r, i] · θ[…, i, j], or the other way round."""
    other = operand(use.node, 1 - use.index)
    if len(use.weight) < 2 or rank(other) < 2:
        raise UnstructuredError("a product with a vector")
    axes = Axes(use)
    *batch, rows, columns = use.weight
    on_right = use.index == 1
    inner = rows if on_right else columns
    labels, shape = list[str](), list[int]()
    lead = len(use.out) - len(use.weight)
    for axis, count in enumerate(static(tuple(batch))):
        if count == 1 and use.out[lead + axis] != 1:
            continue
        if lead + axis == use.axis:
            raise UnstructuredError("the parameter has an axis of samples")
        labels += axes.of[lead + axis]
        shape.append(count)
    axes.sizes["i"] = inner
    own, *more = axes.of[-1] if on_right else axes.of[-2]
    if own == SAMPLE or more:
        raise UnstructuredError("samples along an axis of the parameter")
    their = axes.of[-2] if on_right else axes.of[-1]
    weight = (*labels, *(("i", own) if on_right else (own, "i")))
    sizes = (*shape, *static((rows, columns)))
    z = _factor(op, axes, other, their, inner_last=on_right)
    return _structure(axes, weight, sizes, z)


def _factor(op: Ops, axes: Axes, other: ir.Value, own: Labels, *, inner_last: bool) -> Labelled:
    """The other factor of a product of matrices: [batch…, own, i] or [batch…, i, own]."""
    *batch, first, second = dims.of(other)
    lead = len(axes.use.out) - rank(other)
    labels, sizes = list[str](), list[Dim]()
    for axis, size in enumerate(batch):
        if size == 1 and axes.use.out[lead + axis] != 1:
            continue
        if size != axes.use.out[lead + axis]:
            raise UnstructuredError("an operand broadcasts in a way that is not known")
        labels += axes.of[lead + axis]
        sizes += [axes.sizes[label] for label in axes.of[lead + axis]]
    mine = [axes.sizes[label] for label in own]
    if inner_last:
        return Labelled(reshaped(op, other, (*sizes, *mine, second)), (*labels, *own, "i"))
    return Labelled(reshaped(op, other, (*sizes, first, *mine)), (*labels, "i", *own))


@structure("Gemm")
def _gemm(op: Ops, use: Use) -> Structure:
    """alpha · A' B', with A or B the parameter."""
    attributes = use.node.attributes
    turned = [bool(attributes.get_int(name, 0)) for name in ("transA", "transB")]
    alpha = attributes.get_float("alpha", 1.0)
    axes = Axes(use)
    if use.index == 2:
        return _broadcast(op, use, use.weight, None, scale=attributes.get_float("beta", 1.0))
    other = operand(use.node, 1 - use.index)
    on_right = use.index == 1
    own, their = (axes.of[1], axes.of[0]) if on_right else (axes.of[0], axes.of[1])
    if len(own) != 1 or own[0] == SAMPLE:
        raise UnstructuredError("samples along an axis of the parameter")
    # A' is [rows, i] and B' is [i, columns]
    weight = ("i", own[0]) if on_right else (own[0], "i")
    if turned[use.index]:
        weight = (weight[1], weight[0])
    inner_last = turned[1 - use.index] != on_right
    axes.sizes["i"] = use.weight[weight.index("i")]
    z = _factor(op, axes, other, their, inner_last=inner_last)
    return _structure(axes, weight, static(use.weight), z, alpha)


@structure("Einsum")
def _einsum(op: Ops, use: Use) -> Structure:
    """As its equation says; of two operands, no axis twice in one."""
    ranks = [rank(v) for v in use.node.inputs if v is not None]
    equation = equations.read(use.node.attributes.get_string("equation", ""), ranks)
    terms, result = equation.operands, equation.result
    if len(terms) != 2 or any(len(set(term)) < len(term) for term in (*terms, result)):
        raise UnstructuredError("an Einsum of other than two plain operands")
    axes = Axes(use)
    names = {letter: axes.of[axis] for axis, letter in enumerate(result)}
    other = operand(use.node, 1 - use.index)
    inner = [letter for letter in terms[1 - use.index] if letter not in names]
    inner += [letter for letter in terms[use.index] if letter not in (*names, *inner)]
    for letter in inner:
        names[letter] = (f"i{letter}",)
    for term, value in zip(terms, use.node.inputs, strict=True):
        assert value is not None
        for letter, size in zip(term, dims.of(value), strict=True):
            if letter in inner:
                axes.sizes[f"i{letter}"] = size
            elif dims.product(axes.sizes[label] for label in names[letter]) != size:
                raise UnstructuredError("an axis that broadcasts in an Einsum")
    weight = tuple(label for letter in terms[use.index] for label in names[letter])
    if SAMPLE in weight:
        raise UnstructuredError("the parameter has an axis of samples")
    labels = tuple(label for letter in terms[1 - use.index] for label in names[letter])
    view = tuple(axes.sizes[label] for label in labels)
    z = Labelled(reshaped(op, other, view), labels)
    return _structure(axes, weight, static(use.weight), z)


# -- convolutions ------------------------------------------------------------------------------


def _images(use: Use) -> None:
    if use.axis not in (0, None) or use.rows != 1:
        raise UnstructuredError("samples along an axis of an image")
    if not dims.is_static(use.out[1:]):
        raise UnstructuredError("images of unknown size")


@structure("Conv")
def _conv(op: Ops, use: Use) -> Structure:
    """ẏ[n, g, m, p] = Σ z[n, p, k, g, c] · θ̇[g, m, c, k]: z is what pixel p sees at offset k.

    An offset has an axis for each of the kernel's.
    """
    _images(use)
    if use.index != 1:
        raise UnstructuredError("its image is a parameter")
    group = use.node.attributes.get_int("group", 1)
    x = operand(use.node, 0)
    out_channels, channels, *kernel = static(use.weight)
    moves = window(use.node, tuple(kernel), dims.of(x)[2:], use.out[2:])
    batch, _, *image = use.out
    pixels = dims.product(image)
    sizes, lead, each = _of_samples(use, batch)
    sizes["p"] = pixels
    offset = tuple(f"k{axis}" for axis in range(len(kernel)))
    if group == 1:
        seen = seen_last(op, x, moves)
        labels: Labels = (each, "p", *offset, "c")
        view: Dims = (batch, pixels, *kernel, channels)
    else:
        seen = _patches(op, x, moves, group)
        labels = (each, "g", "c", *offset, "p")
        view = (batch, group, channels, *kernel, pixels)
    found = Structure(
        out=(*lead, "g", "m", "p"),
        weight=("g", "m", "c", *offset),
        shape=(group, out_channels // group, channels, *kernel),
        z=Labelled(reshaped(op, seen, view), labels),
        sizes=sizes,
        groups=((1, lead), (1, ("g", "m")), (len(image), ("p",))),
    )
    return replace(found, tiles=tiles(use, x, moves, found)) if group == 1 else found


def _of_samples(use: Use, batch: Dim) -> tuple[dict[str, Dim], Labels, str]:
    """Sizes of the axes in front of an image's, their names in y, and in z."""
    if use.axis is not None:
        return {SAMPLE: batch}, (SAMPLE,), SAMPLE
    # all is one sample's: pixels of all its images
    return {SAMPLE: 1, "b": batch}, (SAMPLE, "b"), "b"


def _patches(op: Ops, x: ir.Value, moves: Window, group: int) -> ir.Value:
    """What each output pixel sees: [N, group, channels of a group · offsets in it, pixels]."""
    batch, channels, *_ = dims.of(x)
    assert isinstance(channels, int)
    pixels = dims.product(moves.outer)
    parts = windows(op, x, moves, range(2, 2 + len(moves.kernel)))
    seen = [reshaped(op, part, (batch, channels, 1, pixels)) for part in parts]
    stacked = seen[0] if len(seen) == 1 else op.Concat(*seen, axis=2)
    return reshaped(op, stacked, (batch, group, channels // group * len(seen), pixels))


@structure("ConvTranspose")
def _conv_transpose(op: Ops, use: Use) -> Structure:
    """ẏ in patches[n, g, e, p] = Σ_c x[n, g, c, p] · θ̇[g, c, e]: the cotangent is cut up."""
    _images(use)
    if use.index != 1:
        raise UnstructuredError("its image is a parameter")
    group = use.node.attributes.get_int("group", 1)
    x = operand(use.node, 0)
    channels, each, *kernel = static(use.weight)
    moves = window_of_transpose(use.node, tuple(kernel), dims.of(x)[2:], use.out[2:])
    batch, _, *image = dims.of(x)
    if not dims.is_static(image):
        raise UnstructuredError("images of unknown size")
    pixels, offsets = dims.product(image), math.prod(kernel)
    sizes, lead, own = _of_samples(use, batch)
    sizes["p"] = pixels
    z = reshaped(op, x, (batch, group, channels // group, pixels))

    def view(op: Ops, ct: ir.Value) -> ir.Value:
        count, images, *rest = dims.of(ct)
        both = reshaped(op, ct, (dims.product((count, images)), *rest))
        patches = _patches(op, both, moves, group)
        head = (count, *(sizes[label] for label in lead))
        return reshaped(op, patches, (*head, group, each * offsets, pixels))

    return Structure(
        out=(*lead, "g", "e", "p"),
        weight=("g", "c", "e"),
        shape=(group, channels // group, each * offsets),
        z=Labelled(z, (own, "g", "c", "p")),
        sizes=sizes,
        view=view,
    )


# -- tables ------------------------------------------------------------------------------------


@structure("Gather")
def _gather(op: Ops, use: Use) -> Structure:
    """Rows of a table: z is 1 where the index points, and never written out."""
    if use.index != 0 or use.node.attributes.get_int("axis", 0) != 0:
        raise UnstructuredError("indices along another axis than the first of a table")
    indices = operand(use.node, 1)
    axes = Axes(use)
    axes.sizes["v"] = use.weight[0]
    count = rank(indices)
    rest = tuple(label for labels in axes.of[count:] for label in labels)
    own = tuple(label for labels in axes.of[:count] for label in labels)
    if SAMPLE in rest:
        raise UnstructuredError("the parameter has an axis of samples")
    wide = op.Cast(indices, to=int(ir.DataType.INT64))
    below = op.Less(wide, op.ints([0]))
    size = op.ints(static(use.weight[:1]))
    wrapped = op.Where(below, op.Add(wide, size), wide)
    view = reshaped(op, wrapped, tuple(axes.sizes[label] for label in own))
    z = Labelled(view, own, indices="v", dtype=use.node.outputs[0].dtype)
    return _structure(axes, ("v", *rest), static(use.weight), z)
