"""Transposed convolutions with strides, of which onnxruntime has no blocked kernel.

y = ConvTranspose(x, w) puts w, times each element of x, a stride apart. Three forms of it run in
the blocked layout for the most part: x with zeros in between, convolved with the turned kernel
(channel by channel, where the additional products cost little); a convolution, then zeros in
between (kernels of one element); and, where few channels come out, one convolution for all phases
of the stride, whose results are interleaved by DepthToSpace.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import limits
from onnxjvp.graph.fixed import fix
from onnxjvp.graph.ops import Ops, dim
from onnxjvp.graph.shapes import constant
from onnxjvp.rules.transposes.convolution import turned
from onnxjvp.targets import blocked

#: so many results, phases included, still fit one block of channels
FEW = blocked.BLOCK


@dataclass(frozen=True)
class Along:
    """One spatial axis: o = stride · i + tap − before, for `more` results than x has strides."""

    taps: int
    stride: int
    before: int
    #: what the size of the result is beyond stride · (size of x − 1) + 1
    more: int


def lowered(op: Ops, node: ir.Node) -> ir.Value | None:
    """The result of a ConvTranspose by other operators, or None where the node stays as it is."""
    if node.op_type != "ConvTranspose":
        return None
    x, w, *_ = node.inputs
    axes = _axes(node)
    # channels that fill no block would be convolved outside the layout
    if x is None or w is None or axes is None or not blocked.is_image(x):
        return None
    group, (m, c) = node.attributes.get_int("group", 1), (dim(w, 0), dim(w, 1))
    phases = int(np.prod([axis.stride for axis in axes]))
    if phases == 1 or not isinstance(c, int):
        return None
    if c == 1 and group == m:
        return _zeros_first(op, x, w, group, axes)
    if group == 1 and all(axis.taps == 1 for axis in axes) and c % blocked.BLOCK == 0:
        return _zeros_last(op, x, w, c, axes)
    if group == 1 and c * phases <= FEW and constant(w) is not None:
        return _by_phases(op, x, w, axes)
    return None


def _axes(node: ir.Node) -> list[Along] | None:
    """None where the padding depends on sizes, or the kernel has holes."""
    attributes, w = node.attributes, node.inputs[1]
    assert w is not None
    taps = [dim(w, i) for i in (2, 3)] if blocked.is_image(node.inputs[0]) else []
    plain = attributes.get_string("auto_pad", "NOTSET") == "NOTSET"
    holes = max(attributes.get_ints("dilations") or (1,)) > 1
    biased = len(node.inputs) > 2 and node.inputs[2] is not None
    if not taps or not plain or holes or biased or "output_shape" in attributes:
        return None
    strides = attributes.get_ints("strides") or (1, 1)
    pads = attributes.get_ints("pads") or (0, 0, 0, 0)
    extra = attributes.get_ints("output_padding") or (0, 0)
    found = []
    for i in range(2):
        size = taps[i]
        if not isinstance(size, int):
            return None
        more = size - 1 - pads[i] - pads[i + 2] + extra[i]
        found.append(Along(size, strides[i], pads[i], more))
    return found


def _zeros_between(
    op: Ops, x: ir.Value, channels: int, axes: list[Along], more: list[int]
) -> ir.Value:
    """Zeros between the elements of x, and `more` behind the last one."""
    return op.ConvTranspose(
        x,
        op.const(np.ones((channels, 1, 1, 1)), like=x),
        group=channels,
        strides=[axis.stride for axis in axes],
        output_padding=more if any(more) else None,
    )


def _zeros_first(
    op: Ops, x: ir.Value, w: ir.Value, group: int, axes: list[Along]
) -> ir.Value | None:
    """Zeros in between, then a convolution of stride 1 by the turned kernel, per channel."""
    before = [axis.taps - 1 - axis.before for axis in axes]
    behind = [axis.taps - 1 + axis.more - b for axis, b in zip(axes, before, strict=True)]
    if min(*before, *behind) < 0:
        return None
    apart = _zeros_between(op, x, group, axes, [0, 0])
    return op.Conv(apart, turned(op, w, group), group=group, pads=[*before, *behind])


def _zeros_last(
    op: Ops, x: ir.Value, w: ir.Value, channels: int, axes: list[Along]
) -> ir.Value | None:
    """A convolution of one element, then zeros in between."""
    if any(axis.before or not 0 <= axis.more < axis.stride for axis in axes):
        return None
    mixed = op.Conv(x, turned(op, w, 1))
    return blocked.blocked(
        op, _zeros_between(op, mixed, channels, axes, [axis.more for axis in axes])
    )


def _by_phases(op: Ops, x: ir.Value, w: ir.Value, axes: list[Along]) -> ir.Value | None:
    """Every phase of the stride is a convolution of x of stride 1; DepthToSpace interleaves them.

    At o = s · q + r of the result, tap j meets x at q − e with e = (j − r − before) / s: per phase
    r the taps for which e is whole.
    """
    stride = axes[0].stride
    array = constant(w)
    if array is None or any(axis.stride != stride for axis in axes):
        return None
    reaches = [_reach(axis) for axis in axes]
    m, c = array.shape[:2]
    sizes = [last - first + 1 for first, last in reaches]
    limits.check_constant(stride * stride * m * c * math.prod(sizes), "kernels of its phases")
    kernel = np.zeros((stride, stride, c, m, *sizes), array.dtype)
    for phase in itertools.product(range(stride), repeat=2):
        for taps in itertools.product(*(range(axis.taps) for axis in axes)):
            moved = [j - r - axis.before for j, r, axis in zip(taps, phase, axes, strict=True)]
            if not any(shift % stride for shift in moved):
                # a correlation reads x at q − last + position
                at = [last - s // stride for (_, last), s in zip(reaches, moved, strict=True)]
                kernel[phase][:, :, at[0], at[1]] = array[:, :, taps[0], taps[1]].T
    results = [stride * -1 + 1 + axis.more for axis in axes]  # beyond stride · size of x
    longer = [-(-size // stride) for size in results]
    before = [last for _, last in reaches]
    behind = [more - first for more, (first, _) in zip(longer, reaches, strict=True)]
    if min(*before, *behind) < 0:
        return None
    fix(w)
    flat = kernel.reshape(stride * stride * c, m, *sizes)
    phases = op.Conv(x, op.const(flat, like=w), pads=[*before, *behind])
    whole = op.DepthToSpace(phases, blocksize=stride, mode="DCR")
    left = [n * stride - size for n, size in zip(longer, results, strict=True)]
    if not any(left):
        return whole
    # what is left over stands behind
    return op.Pad(whole, op.ints([0, 0, *(-n for n in left)]), None, op.ints([2, 3]))


def _reach(axis: Along) -> tuple[int, int]:
    """The smallest and the largest e over all phases and taps."""
    moved = [
        j - r - axis.before
        for r in range(axis.stride)
        for j in range(axis.taps)
        if (j - r - axis.before) % axis.stride == 0
    ]
    return min(moved) // axis.stride, max(moved) // axis.stride
