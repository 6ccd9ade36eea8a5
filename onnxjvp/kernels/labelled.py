"""Tensors whose axes have names, multiplied and summed as an einsum says, in plain operators.

onnxruntime's Einsum permutes, and multiplies in one thread; a MatMul over broadcast axes does not.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir
import opt_einsum

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import Ops

Labels = tuple[str, ...]


@dataclass(frozen=True)
class Labelled:
    """A tensor with a name per axis.

    Where `indices` is a name, elements are not numbers but positions along an axis of that name:
    the tensor is 1 there and 0 elsewhere, in `dtype`, and never written out.
    """

    value: ir.Value
    labels: Labels
    indices: str | None = None
    dtype: ir.DataType | None = None


class Sizes:
    """How long the axis of each name is, and what a symbol is taken for when costs are counted."""

    def __init__(self, of: Mapping[str, Dim], assumed: int = 1) -> None:
        self._of = dict(of)
        self._assumed = assumed

    @property
    def labels(self) -> Labels:
        return tuple(self._of)

    def having(self, label: str, size: int) -> Sizes:
        """The same, with an axis of another size."""
        return Sizes({**self._of, label: size}, self._assumed)

    def dim(self, label: str) -> Dim:
        return self._of[label]

    def number(self, label: str) -> int:
        size = self._of[label]
        return size if isinstance(size, int) else self._assumed

    def volume(self, labels: Collection[str]) -> int:
        return math.prod(map(self.number, labels))


# -- which product first -----------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """Pairs of operands to multiply, one after the other: positions in a list that each pair
    leaves and whose result joins it at the end."""

    pairs: tuple[tuple[int, ...], ...]
    flops: float
    #: elements of the largest intermediate result
    largest: float


def order(operands: Sequence[Labels], out: Labels, sizes: Sizes) -> Order:
    """The cheapest order to contract a few operands in."""
    names = {label: opt_einsum.get_symbol(i) for i, label in enumerate(_union(*operands, out))}
    spelled = ["".join(names[label] for label in labels) for labels in operands]
    equation = ",".join(spelled) + "->" + "".join(names[label] for label in out)
    shapes = [tuple(map(sizes.number, labels)) for labels in operands]
    path, info = opt_einsum.contract_path(equation, *shapes, shapes=True, optimize="optimal")
    return Order(tuple(map(tuple, path)), float(info.opt_cost), float(info.largest_intermediate))


def contract(
    op: Ops, operands: Sequence[Labelled], out: Collection[str], sizes: Sizes, first: Order
) -> Labelled:
    """The product of all operands, summed over every label that is not in `out`."""
    whole, factor = contract_apart(op, operands, out, sizes, first)
    return whole if factor is None else multiplied(op, whole, factor, out, sizes)


#: products that were recorded already: the same operands, whatever their axes are called
Memo = dict[tuple[object, ...], tuple[ir.Value, tuple[int, ...]]]


def contract_apart(
    op: Ops,
    operands: Sequence[Labelled],
    out: Collection[str],
    sizes: Sizes,
    first: Order,
    memo: Memo | None = None,
) -> tuple[Labelled, Labelled | None]:
    """`contract`, but for a last factor that multiplies elementwise: sums may share the rest."""
    left = list(operands)
    for pair in first.pairs:
        chosen = [left[i] for i in pair]
        left = [x for i, x in enumerate(left) if i not in pair]
        needed = {label for x in left for label in x.labels} | set(out)
        if len(chosen) == 1:
            left.append(summed(op, chosen[0], needed))
            continue
        one, other = chosen
        if not left and all(label in out for x in chosen for label in x.labels):
            large, small = (one, other) if set(other.labels) <= set(one.labels) else (other, one)
            if set(small.labels) <= set(large.labels) and not (one.indices or other.indices):
                return large, small
        left.append(_once(op, one, other, needed, sizes, {} if memo is None else memo))
    (result,) = left
    return result, None


def _once(
    op: Ops, x: Labelled, y: Labelled, keep: Collection[str], sizes: Sizes, memo: Memo
) -> Labelled:
    """`multiplied`, or what it gave for the same two before."""
    every = _union(x.labels, y.labels)
    number = {label: i for i, label in enumerate(every)}
    pattern = (*(number[label] for label in x.labels), -1, *(number[label] for label in y.labels))
    key = (x.value, y.value, pattern, *(label in keep for label in every))
    if key not in memo:
        found = multiplied(op, x, y, keep, sizes)
        memo[key] = found.value, tuple(number[label] for label in found.labels)
    value, labels = memo[key]
    return Labelled(value, tuple(every[i] for i in labels))


# -- one product -------------------------------------------------------------------------------


def summed(op: Ops, x: Labelled, keep: Collection[str]) -> Labelled:
    """Σ over the labels that are not kept."""
    axes = [axis for axis, label in enumerate(x.labels) if label not in keep]
    if not axes:
        return x
    value = op.ReduceSum(x.value, op.ints(axes), keepdims=0)
    return Labelled(value, tuple(label for label in x.labels if label in keep))


def multiplied(op: Ops, x: Labelled, y: Labelled, keep: Collection[str], sizes: Sizes) -> Labelled:
    """The product of two tensors of numbers, summed over the labels that are not kept."""
    assert x.indices is None and y.indices is None
    x = summed(op, x, {*keep, *y.labels})
    y = summed(op, y, {*keep, *x.labels})
    if sizes.volume(x.labels) < sizes.volume(y.labels):
        x, y = y, x
    shared = [label for label in x.labels if label in y.labels]
    if all(label in keep for label in shared):
        return _elementwise(op, x, y)
    return _matrices(op, x, y, keep, sizes)


def without_indices(op: Ops, operands: Sequence[Labelled]) -> list[Labelled]:
    """The same product, in which nothing is given by indices: of two they are compared, of one
    they are looked up in the operand that has the axis written out."""
    left = list(operands)
    while where := next((x for x in left if x.indices is not None), None):
        left.remove(where)
        other = next(x for x in left if where.indices in (x.indices, *x.labels))
        left.remove(other)
        joined = _agreeing if other.indices == where.indices else _looked_up
        left.append(joined(op, where, other))
    return left


def _agreeing(op: Ops, x: Labelled, y: Labelled) -> Labelled:
    """1 where the indices are the same: the product of two tensors of zeros and ones."""
    assert x.dtype is not None
    joint = _union(x.labels, y.labels)
    one, other = (_aligned(op, each, joint) for each in (x, y))
    return Labelled(op.Cast(op.Equal(one, other), to=int(x.dtype)), joint)


def _looked_up(op: Ops, where: Labelled, table: Labelled) -> Labelled:
    """The elements that indices point at."""
    assert where.indices is not None and not {*where.labels} & {*table.labels}
    axis = table.labels.index(where.indices)
    labels = (*table.labels[:axis], *where.labels, *table.labels[axis + 1 :])
    return Labelled(op.Gather(table.value, where.value, axis=axis), labels)


def _elementwise(op: Ops, x: Labelled, y: Labelled) -> Labelled:
    joint = _union(x.labels, y.labels)
    return Labelled(op.Mul(_aligned(op, x, joint), _aligned(op, y, joint)), joint)


def _aligned(op: Ops, x: Labelled, joint: Labels) -> ir.Value:
    """The tensor with an axis for every label of `joint`, of size 1 where it has none."""
    own = tuple(label for label in joint if label in x.labels)
    missing = [axis for axis, label in enumerate(joint) if label not in x.labels]
    return op.unsqueeze(arranged(op, x, own).value, *missing)


def arranged(op: Ops, x: Labelled, labels: Labels) -> Labelled:
    """The same tensor with its axes in another order."""
    if x.labels == labels:
        return x
    perm = [x.labels.index(label) for label in labels]
    return replace(x, value=op.Transpose(x.value, perm=perm), labels=labels)


@dataclass(frozen=True)
class _Blocks:
    """The axes of a factor of a product of matrices: lead, batch, then rows and columns."""

    lead: Labels
    batch: Labels
    free: Labels
    inner: Labels
    inner_first: bool

    @property
    def labels(self) -> Labels:
        tail = (*self.inner, *self.free) if self.inner_first else (*self.free, *self.inner)
        return (*self.lead, *self.batch, *tail)


def _matrices(op: Ops, x: Labelled, y: Labelled, keep: Collection[str], sizes: Sizes) -> Labelled:
    """As a MatMul, in which x, the larger one, stays as it is if possible."""
    batch = tuple(label for label in x.labels if label in y.labels and label in keep)
    inner = tuple(label for label in x.labels if label in y.labels and label not in keep)
    blocks = _natural(x.labels, batch, inner)
    again = sizes.volume(blocks.lead) - 1  # how often runtimes pack y anew, if x stays as it is
    packed = not blocks.inner_first  # else y is the left operand, which is read as it is
    if batch and packed and again * sizes.volume(y.labels) > 2 * sizes.volume(x.labels):
        blocks = _Blocks((), batch, (*blocks.lead, *blocks.free), inner, inner_first=False)
    inner = blocks.inner
    other = tuple(label for label in y.labels if label not in batch and label not in inner)
    left = _viewed(op, arranged(op, x, blocks.labels), blocks, sizes)
    theirs = _Blocks((), batch, other, inner, inner_first=not blocks.inner_first)
    turned = replace(theirs, inner_first=blocks.inner_first)
    if y.labels == turned.labels and other:  # as it is, and turned: runtimes join the two
        right = _viewed(op, y, turned, sizes)
        last = len(dims.of(right))
        right = op.Transpose(right, perm=[*range(last - 2), last - 1, last - 2])
    else:
        right = _viewed(op, arranged(op, y, theirs.labels), theirs, sizes)
    if blocks.inner_first:
        product, tail = op.MatMul(right, left), (*other, *blocks.free)
    else:
        product, tail = op.MatMul(left, right), (*blocks.free, *other)
    labels = (*blocks.lead, *batch, *tail)
    return Labelled(_shaped(op, product, [(label,) for label in labels], sizes), labels)


def _natural(labels: Labels, batch: Labels, inner: Labels) -> _Blocks:
    """How a tensor can be read as matrices without moving its elements, else how it is moved."""
    free = tuple(label for label in labels if label not in batch and label not in inner)
    for cut in range(len(free) + 1):
        lead, rest = free[:cut], free[cut:]
        for inner_first in (False, True):
            blocks = _Blocks(lead, batch, rest, inner, inner_first)
            if blocks.labels == labels and (batch or not lead or inner_first):
                return blocks
    return _Blocks((), batch, free, inner, inner_first=False)


def _viewed(op: Ops, x: Labelled, blocks: _Blocks, sizes: Sizes) -> ir.Value:
    tail = (blocks.inner, blocks.free) if blocks.inner_first else (blocks.free, blocks.inner)
    groups = [*((label,) for label in (*blocks.lead, *blocks.batch)), *tail]
    return _shaped(op, x.value, groups, sizes)


def _shaped(op: Ops, value: ir.Value, groups: Sequence[Labels], sizes: Sizes) -> ir.Value:
    """Viewed with one axis per group of labels."""
    shape = tuple(dims.product(sizes.dim(label) for label in group) for group in groups)
    out = op.reshape_to(value, shape)
    return op.Reshape(value, op.as_tensor(shape), allowzero=1) if out is None else out


def _union(*labels: Labels) -> Labels:
    return tuple(dict.fromkeys(label for each in labels for label in each))
