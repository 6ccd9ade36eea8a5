"""What onnxruntime's CPU kernels compute in the blocked layout of its convolutions (NCHWc).

Convolutions, pools without Indices, Concat of channels, Mul and Add of one shape, Sigmoid, Relu,
Clip, HardSigmoid and factors per channel work on blocked values; Where, Sub, comparisons, Slice
and products that broadcast do not, and cost a reordering on the way in and another on the way out.
Behind a convolution, a sum and one of those functions run in the convolution's own pass.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.shapes import constant

#: a slope so steep that HardSigmoid is 0 or 1 for every normal float32
STEEP = float(np.finfo(np.float32).max)
#: channels of a block
BLOCK = 16


def step(op: Ops, value: ir.Value) -> ir.Value:
    """1 where the value is positive, else 0."""
    return op.HardSigmoid(value, alpha=STEEP, beta=0.0)


def beyond(op: Ops, value: ir.Value, bound: float, side: int) -> ir.Value | None:
    """1 where the value is above (side 1) or below (side -1) a bound, else 0.

    The slope is a power of two, so that nothing is rounded near the bound, and makes 1 of the next
    number behind it. None where that is too steep for float32, at bounds close to 0 but not 0.
    """
    edge = np.float32(bound)
    slope = STEEP
    if edge != 0:
        following = np.nextafter(edge, np.float32(side * np.inf))
        slope = float(2.0 ** np.ceil(-np.log2(abs(float(following) - float(edge)))))
        if not slope < STEEP:
            return None
    return op.HardSigmoid(value, alpha=side * slope, beta=-side * slope * float(edge))


def is_image(value: ir.Value | None) -> bool:
    """Whether a value can be blocked."""
    if value is None or rank(value) != 4 or value.dtype != ir.DataType.FLOAT:
        return False
    channels = dim(value, 1)
    return isinstance(channels, int) and channels % BLOCK == 0


def blocked(op: Ops, value: ir.Value) -> ir.Value:
    """The same value, from an operator that makes it in the blocked layout.

    What follows then stays there. Where a skip connection never meets a convolution, one value
    outside the layout would keep all sums behind it outside as well.
    """
    out = op.AveragePool(value, kernel_shape=[1, 1])
    out.shape = value.shape
    return out


def is_number(value: ir.Value | None, number: float) -> bool:
    array = constant(value)
    return array is not None and array.size == 1 and float(array.reshape(())) == number
