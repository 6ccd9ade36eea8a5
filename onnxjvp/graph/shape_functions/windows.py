"""Windows undone: the sizes of what a convolution or a pool may have been taken of."""

from __future__ import annotations

import functools

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.shape_functions.operands import integer, ints, operand, optional, unknown
from onnxjvp.graph.shapes import Shapes, shape_function


@shape_function("ConvTranspose")
def conv_transpose(s: Shapes, node: ir.Node) -> None:
    (rows, _, *size), (_, channels, *kernel) = (dims.of(operand(node, k)) for k in (0, 1))
    n = len(size)
    strides, dilations = (ints(node, name) or (1,) * n for name in ("strides", "dilations"))
    pads, extra = ints(node, "pads") or (0,) * 2 * n, ints(node, "output_padding") or (0,) * n
    shaped, auto_pad = ints(node, "output_shape"), node.attributes.get_string("auto_pad", "NOTSET")
    if shaped is not None:
        out: list[Dim] = list(shaped[-n:])
    elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        out = [dims.simplest(d * step) for d, step in zip(size, strides, strict=True)]
    else:
        pads = (0,) * 2 * n if auto_pad == "VALID" else pads
        out = [
            _reach(size[i], strides[i], kernel[i], dilations[i], extra[i] - pads[i] - pads[n + i])
            for i in range(n)
        ]
    wide = dims.simplest(channels * integer(node, "group", 1))
    s.put(node.outputs[0], (rows, wide, *out), operand(node).dtype)


@functools.lru_cache(maxsize=1024)
def _reach(size: Dim, stride: int, kernel: Dim, dilation: int, extra: int) -> Dim:
    """What so many windows cover."""
    return dims.simplest((size - 1) * stride + (kernel - 1) * dilation + (1 + extra))


@shape_function("MaxUnpool")
def max_unpool(s: Shapes, node: ir.Node) -> None:
    x, shaped = dims.of(operand(node)), optional(node, 2)
    if shaped is not None:
        s.put(node.outputs[0], s.content(shaped) or unknown(len(x)), operand(node).dtype)
        return
    kernel = ints(node, "kernel_shape") or ()
    n = len(kernel)
    strides, pads = ints(node, "strides") or (1,) * n, ints(node, "pads") or (0,) * 2 * n
    out = [
        dims.simplest((size - 1) * strides[i] + kernel[i] - pads[i] - pads[n + i])
        for i, size in enumerate(x[2:])
    ]
    s.put(node.outputs[0], (*x[:2], *out), operand(node).dtype)
