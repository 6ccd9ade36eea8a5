"""Pools that are convolutions with a constant kernel, and factors per channel."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.rules.transposes.convolution import spread
from onnxjvp.rules.transposes.table import add_at, number, operand, reshaped, transposed
from onnxjvp.rules.windows import Window, around, known_int, to_the_end, window


@transposed("GlobalAveragePool", small=True)
def global_average_pool(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    return op.Div(ct, number(op, op.volume(dims.of(operand(node, 0))[2:]), ct))


@transposed("AveragePool")
def average_pool(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Every element of a window gets the cotangent, times what the window weighs an element."""
    x = operand(node, 0)
    kernel = tuple(node.attributes.get_ints("kernel_shape") or ())
    moves = window(node, kernel, dims.of(x)[2:], dims.of(node.outputs[0])[2:])
    weights = _weights(op, node, kernel, moves, ct)
    moves = to_the_end(node, moves)
    if _is_tiling(moves):
        out = _repeated(op, op.Mul(ct, weights), moves)
    elif _is_its_own(moves):
        # the same pool: over windows that reach as far beyond the edges as they fell short of them
        size = op.const(float(np.prod(kernel)), like=ct)
        beyond = [[r - 1 - p[side] for _, r, p in moves.along()] for side in (0, 1)]
        out = op.AveragePool(
            op.Mul(op.Mul(ct, weights), size),
            kernel_shape=kernel,
            pads=[*beyond[0], *beyond[1]],
            count_include_pad=1,
            dilations=moves.dilations if max(moves.dilations) > 1 else None,
        )
    else:
        single = op.Reshape(op.Mul(ct, weights), _planes(op, ct), allowzero=None)
        ones = op.const(np.ones((1, 1, *kernel)), like=ct)
        spread_out = spread(op, single, ones, 1, moves)
        out = op.Reshape(spread_out, op.shape_of(x), allowzero=1)
    out.shape = x.shape
    return out


def _planes(op: Ops, value: ir.Value) -> ir.Value:
    """Every channel of every sample as an image of its own."""
    count = op.volume(dims.of(value)[:2])
    return op.Concat(count, op.ints([1]), op.sizes(value, range(2, rank(value))), axis=0)


def _weights(
    op: Ops, node: ir.Node, kernel: tuple[int, ...], moves: Window, ct: ir.Value
) -> ir.Value:
    """What a window weighs each of its elements, in the shape [1, 1, *outer] or [].

    Read off the pool itself: its average of ones, over the number of ones that each window holds.
    """
    whole = node.attributes.get_int("ceil_mode", 0) == 0
    padded = moves.pads is None or any(map(any, moves.pads))
    counts_pads = node.attributes.get_int("count_include_pad", 0) == 1
    if whole and (counts_pads or not padded):
        return op.const(1 / float(np.prod(kernel)), like=ct)
    shape = op.as_tensor((1, 1, *moves.inner))
    one = op.const(1, like=ct)
    ones = op.Expand(one, shape)
    average = op.like(node, [ones])[0]
    padded_ones = op.Pad(ones, around(op, moves), None, op.ints(range(2, rank(ct))))
    one_each = op.const(np.ones((1, 1, *kernel)), like=ct)
    held = op.Conv(padded_ones, one_each, strides=moves.strides, dilations=moves.dilations)
    return op.Div(average, held)


def _is_tiling(moves: Window) -> bool:
    """Whether the windows lie side by side and cover everything."""
    return moves.pads is not None and all(
        s == r and k == r and not any(p) and isinstance(o, int) and i == o * s
        for k, i, o, (s, r, p) in zip(
            moves.kernel, moves.inner, moves.outer, moves.along(), strict=True
        )
    )


def _is_its_own(moves: Window) -> bool:
    """Whether the pool's transpose is a pool too: runtimes want less padding than kernel."""
    return moves.pads is not None and all(
        s == 1 and max(p) < r and r - 1 - min(p) < known_int(k)
        for k, (s, r, p) in zip(moves.kernel, moves.along(), strict=True)
    )


def _repeated(op: Ops, value: ir.Value, moves: Window) -> ir.Value:
    """Every element repeated over its window."""
    lead = dims.of(value)[:2]
    apart = op.unsqueeze(value, *(3 + 2 * k for k in range(len(moves.kernel))))
    pairs = [d for o, k in zip(moves.outer, moves.kernel, strict=True) for d in (o, k)]
    full = op.Expand(apart, op.as_tensor((*lead, *pairs)))
    return op.Reshape(full, op.as_tensor((*lead, *moves.inner)), allowzero=1)


@transposed("BatchNormalization")
def batch_normalization(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """In a program its mean and shift are zero, in X: a factor per channel."""
    x, scale, shift, mean, variance = (operand(node, k) for k in range(5))
    if i == 0:
        return op.like(node, [ct, scale, shift, mean, variance])[0]
    assert i == 1
    ones = op.Expand(op.const(1, like=scale), op.shape_of(scale))
    normal = op.like(node, [x, ones, shift, mean, variance])[0]
    axes = op.ints([0, *range(2, rank(x))])
    total = op.ReduceSum(op.Mul(normal, ct), axes, keepdims=0)
    return total if total.dtype == scale.dtype else op.Cast(total, to=int(scale.dtype or 1))


#: numbers below this are exact in single precision, and so are two such digits of an index
_DIGIT = 1 << 12


@transposed("MaxUnpool")
def max_unpool(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """Where each element went is read off the operator itself, on their numbers in two digits.

    Runtimes differ in what indices mean beside an output_shape; of those that fall on one place,
    one wins.
    """
    x = operand(node, 0)
    count = op.volume(dims.of(x))
    one = op.const(np.int64(1), ir.DataType.INT64)
    numbers = op.Range(one, op.Add(op.Squeeze(count), one), one)
    digits = op.const(np.int64(_DIGIT), ir.DataType.INT64)
    float32, int64 = int(ir.DataType.FLOAT), int(ir.DataType.INT64)
    found = []
    for digit in (op.Div(numbers, digits), op.Mod(numbers, digits)):
        shown = op.Reshape(op.Cast(digit, to=float32), op.shape_of(x), allowzero=1)
        (moved,) = op.like(node, [shown, *node.inputs[1:]])
        found.append(op.Reshape(op.Cast(moved, to=int64), op.ints([-1])))
    where = op.Add(op.Mul(found[0], digits), found[1])
    # what nothing went to names element 0, which is not there
    whole = op.Add(count, op.ints([1]))
    flat = add_at(op, whole, where, op.Reshape(ct, op.ints([-1])))
    kept = op.Slice(flat, op.ints([1]), whole, op.ints([0]))
    return reshaped(op, kept, x)
