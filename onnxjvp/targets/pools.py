"""Max pools without Indices, whose kernel is slow (a branch per element) and not blocked.

A pool over a window is a pool along its rows, then one along its columns, and the first largest
element of a window is the first one of the first row that has it. Along one axis, with
m_j = 1 where tap j is not yet the largest,

    t_0 + m_0 · (t_1 − t_0 + m_1 · (t_2 − t_1 + …))

takes the tangent of the first largest: every tap, or difference of two, is a convolution per
channel with a constant kernel, to which the sum with what follows is fused. Values have to be
finite: an infinite one makes its neighbours NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.ops import Ops, dim, rank, same_shape
from onnxjvp.rules.transposes.convolution import window
from onnxjvp.targets import blocked

#: elements that a pass over a value handles while the pool with Indices compares two
PASSES_A_COMPARISON = 9


@dataclass(frozen=True)
class Axis:
    """A pool along one spatial axis (0 or 1) of an image."""

    axis: int
    taps: int
    stride: int
    dilation: int
    pads: tuple[int, int]

    def windows(self) -> dict[str, list[int]]:
        """Attributes of a pool or convolution along this axis alone."""
        sizes = {"kernel_shape": self.taps, "strides": self.stride, "dilations": self.dilation}
        made = {name: [1, 1] for name in sizes} | {"pads": [0, 0, 0, 0]}
        for name, size in sizes.items():
            made[name][self.axis] = size
        made["pads"][self.axis], made["pads"][self.axis + 2] = self.pads
        return made


def taken_by(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """The pool and the tangent, if the node takes a tangent at the Indices of a max pool."""
    if node.op_type != "Gather":
        return None
    data, indices = node.inputs
    pool = None if indices is None else indices.producer()
    flat = None if data is None else data.producer()
    if pool is None or pool.op_type != "MaxPool" or flat is None or flat.op_type != "Reshape":
        return None
    x, tangent = pool.inputs[0], flat.inputs[0]
    if x is None or tangent is None or not blocked.is_image(x) or not same_shape(x, tangent):
        return None
    # a model may read Indices in ways of its own
    if rank(flat.outputs[0]) != 1 or pool.attributes.get_int("storage_order", 0) == 1:
        return None
    return pool, tangent


class Selections:
    """Max pools that have been lowered, and what each takes."""

    def __init__(self, op: Ops) -> None:
        self._op = op
        self._masks: dict[ir.Value, list[tuple[Axis, list[ir.Value]]]] = {}

    def take(
        self, node: ir.Node, vanishes: Callable[[ir.Value, ir.Value], bool]
    ) -> ir.Value | None:
        """The node's result without Indices, or None where that cannot be or does not pay.

        A tap in the padding reads 0 in place of −∞. It is taken for the largest only where all
        taps are 0, and does no harm where tangents vanish there: `vanishes(x, t)` says so.
        """
        found = taken_by(node)
        if found is None:
            return None
        pool, tangent = found
        axes = _axes(pool)
        x, indices = pool.inputs[0], pool.outputs[1]
        assert x is not None
        if axes is None or not _pays(axes):
            return None
        if any(any(axis.pads) for axis in axes) and not vanishes(x, tangent):
            return None
        if indices not in self._masks:
            self._masks[indices] = self._chosen(x, axes)
        for axis, masks in self._masks[indices]:
            tangent = self._along(axis, masks, tangent)
        return tangent

    def _chosen(self, x: ir.Value, axes: list[Axis]) -> list[tuple[Axis, list[ir.Value]]]:
        op, found = self._op, []
        for axis in axes:
            largest = op.MaxPool(x, **axis.windows())
            below = [op.Add(self._taps(axis, x, {j: -1}), largest) for j in range(axis.taps - 1)]
            found.append((axis, [blocked.step(op, value) for value in below]))
            x = largest
        return found

    def _along(self, axis: Axis, masks: list[ir.Value], tangent: ir.Value) -> ir.Value:
        op, out = self._op, None
        for j in reversed(range(axis.taps)):
            tap = self._taps(axis, tangent, {j: 1} if j == 0 else {j - 1: -1, j: 1})
            out = tap if out is None else op.Add(tap, op.Mul(masks[j], out))
        assert out is not None
        return out

    def _taps(self, axis: Axis, value: ir.Value, weights: dict[int, float]) -> ir.Value:
        """A sum of taps, each with its weight, of every window in every channel."""
        channels = dim(value, 1)
        assert isinstance(channels, int)
        limits.check_constant(channels * axis.taps, "a kernel for every channel")
        kernel = np.zeros(axis.taps)
        kernel[list(weights)] = list(weights.values())
        shape = (channels, 1, axis.taps, 1) if axis.axis == 0 else (channels, 1, 1, axis.taps)
        whole = np.broadcast_to(kernel.reshape(shape[2:]), shape)
        return self._op.Conv(
            value, self._op.const(whole, like=value), group=channels, **axis.windows()
        )


def _axes(pool: ir.Node) -> list[Axis] | None:
    """The pool as one along rows and one along columns; None where its padding is not known."""
    taps = tuple(pool.attributes.get_ints("kernel_shape") or ())
    x, y = pool.inputs[0], pool.outputs[0]
    assert x is not None
    inner, outer = dims.of(x)[2:], dims.of(y)[2:]
    moves = window(pool, taps, inner, outer)
    if moves.pads is None:
        return None
    every = []
    for i, (s, r, (before, after)) in enumerate(moves.along()):
        behind = after
        if pool.attributes.get_int("ceil_mode", 0):
            size, results = inner[i], outer[i]
            if not isinstance(size, int) or not isinstance(results, int):
                return None
            behind = max(after, (results - 1) * s + r - size - before)  # the last window's
        if max(before, behind) >= taps[i]:
            return None  # a runtime wants less padding than taps
        every.append(Axis(i, taps[i], s, moves.dilations[i], (before, behind)))
    # the first axis of the window decides last
    return [axis for axis in reversed(every) if axis.taps > 1 or axis.stride > 1]


def _pays(axes: list[Axis]) -> bool:
    """Whether passes over images cost less than the comparisons of the pool with Indices.

    In units of a pass over the pool's result. Along an axis: the pool and a mask per tap but one,
    then two passes a tap. The first axis has as many results more as the second one strides.
    """
    comparisons = int(np.prod([axis.taps for axis in axes]))
    passes, repeats = 0, 1
    for axis in reversed(axes):
        passes += repeats * (3 * axis.taps)
        repeats *= axis.stride
    return bool(axes) and passes < PASSES_A_COMPARISON * comparisons
