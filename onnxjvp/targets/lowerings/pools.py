"""Max pools without Indices, and what is summed up at Indices.

Indices are told by a walk over the window's taps: each tap is a strided slice of the padded image,
and the first largest one keeps its place. Of a cotangent, each tap takes its share where Indices
name it, and the taps of all windows are laid over each other by a transposed convolution.
"""

from __future__ import annotations

import itertools

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops
from onnxjvp.rules.transposes.convolution import spread
from onnxjvp.rules.windows import Window, around, to_the_end, window
from onnxjvp.targets.lowerings.engine import Lowering, Made, Pool, lowering, operand
from onnxjvp.targets.lowerings.shapes import counting

#: an end that a Slice never reaches
_END = int(np.iinfo(np.int64).max)


@lowering("MaxPool")
def max_pool(low: Lowering, node: ir.Node) -> Made:
    """The pool alone; its Indices by a comparison for each tap of the window."""
    op, x = low.op, operand(node, 0)
    moves = _window_of(node)
    if moves is None or len(node.outputs) == 1:
        return None
    kept = {name: a for name, a in node.attributes.items() if name != "storage_order"}
    pooled = op.emit("MaxPool", [x], kept)[0]
    numbers = _taps(op, _numbers(op, x), moves, _none(op))
    values = _taps(op, x, moves, op.const(-np.inf, like=x))
    best, place = values[0], numbers[0]
    for value, number in zip(values[1:], numbers[1:], strict=True):
        larger = op.Greater(value, best)
        best = op.Where(larger, value, best)
        # of integers, which some runtimes have no Where of
        place = op.Add(place, op.Mul(op.Cast(larger, to=int(INT64)), op.Sub(number, place)))
    place.shape = node.outputs[0].shape
    low.pools[place] = Pool(to_the_end(node, moves), dims.of(node.outputs[0]), place, numbers)
    return [pooled, place]


def _none(op: Ops) -> ir.Value:
    """The number of no element: that of a tap in the padding."""
    return op.const(np.int64(-1), INT64)


def _numbers(op: Ops, x: ir.Value) -> ir.Value:
    """The elements of x, counted through all of it."""
    out = op.Reshape(counting(op, op.volume(dims.of(x))), op.shape_of(x), allowzero=1)
    out.shape = x.shape
    return out


def _window_of(node: ir.Node) -> Window | None:
    kernel = tuple(node.attributes.get_ints("kernel_shape") or ())
    if node.attributes.get_int("storage_order", 0):
        return None
    inner, outer = dims.of(operand(node, 0))[2:], dims.of(node.outputs[0])[2:]
    return window(node, kernel, inner, outer)


def _taps(op: Ops, x: ir.Value, moves: Window, fill: ir.Value) -> list[ir.Value]:
    """For each tap of the window, in order, what it reads: in the shape of the pool's result."""
    n = len(moves.kernel)
    axes = op.ints(range(2, 2 + n))
    # windows cover what is padded exactly, so that a tap ends as far from the end as it begins
    padded = op.Pad(x, around(op, moves), fill, axes)
    reaches = [int(r) for r in moves.reach if isinstance(r, int)]
    found = []
    for tap in itertools.product(*(range(int(k)) for k in moves.kernel if isinstance(k, int))):
        starts = [j * d for j, d in zip(tap, moves.dilations, strict=True)]
        behind = [r - 1 - start for r, start in zip(reaches, starts, strict=True)]
        ends = [-b if b else _END for b in behind]
        found.append(op.Slice(padded, op.ints(starts), op.ints(ends), axes, op.ints(moves.strides)))
    return found


def spread_back(
    low: Lowering, data: ir.Value, indices: ir.Value, values: ir.Value
) -> ir.Value | None:
    """Σ of values at the Indices of a max pool, which may stand in several rows of `data`.

    None where the indices are others. Values have to be finite: an infinite one makes its
    window NaN.
    """
    op, pool = low.op, _pool_behind(low, indices)
    if pool is None:
        return None
    # [rows, batch, channels, …], and the taps behind the channels
    rows = op.volume(dims.of(data)[:-1])
    apart = op.Concat(rows, op.as_tensor(pool.shape), axis=0)
    shared, none = op.Reshape(values, apart, allowzero=1), op.const(0, like=values)
    kept = [op.Where(op.Equal(pool.chosen, tap), shared, none) for tap in pool.numbers]
    stacked = op.Concat(*(op.unsqueeze(value, 3) for value in kept), axis=3)
    count = op.volume((*dims.of(data)[:-1], *pool.shape[:2]))
    shape = op.Concat(count, op.ints([len(kept)]), op.as_tensor(pool.shape[2:]), axis=0)
    planes = op.Reshape(stacked, shape, allowzero=1)
    planes.shape = ir.Shape([dims.fresh(), len(kept), *pool.shape[2:]])
    sizes = [int(k) for k in pool.moves.kernel if isinstance(k, int)]
    kernel = op.const(np.eye(len(kept)).reshape(len(kept), 1, *sizes), like=values)
    whole = spread(op, planes, kernel, 1, pool.moves)
    out = op.Reshape(whole, op.as_tensor(dims.of(data)), allowzero=1)
    out.shape = data.shape
    return out


def _pool_behind(low: Lowering, indices: ir.Value) -> Pool | None:
    """The max pool whose Indices these are, flattened and repeated."""
    while indices not in low.pools:
        made = indices.producer()
        if made is None:
            return None
        if made.op_type == "MaxPool":
            moves = _window_of(made)
            if moves is None or indices is not made.outputs[1]:
                return None
            x = operand(made, 0)
            numbers = _taps(low.op, _numbers(low.op, x), moves, _none(low.op))
            shape = dims.of(indices)
            low.pools[indices] = Pool(to_the_end(made, moves), shape, indices, numbers)
        elif made.op_type in ("Reshape", "Expand", "Identity"):
            indices = operand(made, 0)
        else:
            return None
    return low.pools[indices]
