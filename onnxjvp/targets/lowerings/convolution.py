"""Convolutions by kernels whose sizes only the run tells: those of a gradient in weights.

Such a kernel is a cotangent, large, and the result, the gradient, small: every element of the
result is a product of a strided slice of the image with all of the kernel.
"""

from __future__ import annotations

import itertools

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.rules.windows import flat, window
from onnxjvp.targets.lowerings.engine import operand

#: places of the result, each of which takes a few nodes
MOST = 128


def by_products(op: Ops, node: ir.Node) -> list[ir.Value] | None:
    """The results of a Conv, a product for each place; None where these are many, or not known."""
    x, w, y = operand(node, 0), operand(node, 1), node.outputs[0]
    places = dims.of(y)[2:]
    sizes = [n for n in places if isinstance(n, int)]
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    moves = window(node, dims.of(w)[2:], dims.of(x)[2:], places)
    if len(sizes) < len(places) or biased or moves.pads is None:
        return None
    every = list(itertools.product(*map(range, sizes)))
    if not 0 < len(every) <= MOST:
        return None
    group, n = node.attributes.get_int("group", 1) or 1, len(sizes)
    if any(map(any, moves.pads)):
        x = op.Pad(x, op.ints(flat(moves.pads)), None, op.ints(range(2, rank(x))))
    images, kernels = dims.of(y)[:1], dims.of(y)[1:2]
    inner = (*dims.of(w)[1:],)  # channels of a group, and the kernel's own sizes
    image = op.Reshape(x, _with(op, (*images, group, *inner[:1]), x), allowzero=1)
    deep = dims.quotient(kernels[0], group)
    columns = op.volume(inner)
    bank = op.Reshape(w, op.Concat(op.as_tensor((group, deep)), columns, axis=0), allowzero=1)
    turned = op.Transpose(bank, perm=[0, 2, 1])
    spans = op.Mul(op.Sub(op.sizes(w, range(2, 2 + n)), op.ints([1])), op.ints(moves.dilations))
    axes, steps = op.ints(range(3, 3 + n)), op.ints(moves.dilations)
    found = []
    for place in every:
        starts = [p * s for p, s in zip(place, moves.strides, strict=True)]
        ends = op.Add(spans, op.ints([start + 1 for start in starts]))
        part = op.Slice(image, op.ints(starts), ends, axes, steps)
        rows = op.Reshape(
            part, op.Concat(op.as_tensor((*images, group)), columns, axis=0), allowzero=1
        )
        found.append(op.MatMul(op.Transpose(rows, perm=[1, 0, 2]), turned))  # group, image, kernel
    stacked = op.Concat(*(op.unsqueeze(v, 3) for v in found), axis=3)
    out = op.Reshape(
        op.Transpose(stacked, perm=[1, 0, 2, 3]), op.as_tensor(dims.of(y)), allowzero=1
    )
    out.shape = y.shape
    return [out]


def _with(op: Ops, lead: dims.Dims, x: ir.Value) -> ir.Value:
    """A shape: some sizes in the place of the first two."""
    return op.Concat(op.as_tensor(lead), op.sizes(x, range(2, rank(x))), axis=0)
