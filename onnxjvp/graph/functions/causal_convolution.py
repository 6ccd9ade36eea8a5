"""CausalConvWithState: where ONNX defines it, by that; with sizes that are symbols, by windows."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.functions.schema import record_definition
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import INT64, Ops
from onnxjvp.graph.regions import Region


@body("CausalConvWithState")
def _causal_convolution(op: Ops, region: Region) -> Outs:
    """CausalConvWithState-27: y[l] = Σ_j w[j] x[l + j] per channel, behind k - 1 steps of the past.

    ONNX's definition is a Conv of as many groups as channels. Where their number, or that of the
    taps, is no number, every window is gathered: k times the memory of x.
    """
    found = record_definition(op, region)
    if found is not None:
        return found
    activation = region.attr_string("activation", "none")
    if activation not in ("none", "silu", "swish"):
        raise NoBodyError(f"activation {activation!r} is not defined")
    x, weight, bias = region.operand(0), region.operand(1), region.input(2)
    (batch, channels, length), taps = dims.of(x), dims.of(weight)[2]
    one = op.ints([1])
    before = op.Sub(op.as_tensor((taps,)), one)
    past = region.input(3)
    if past is None:
        past = op.Expand(
            op.const(0, like=x), op.Concat(op.as_tensor((batch, channels)), before, axis=0)
        )
    whole = op.Concat(past, x, axis=2)
    places = op.Add(op.unsqueeze(_counted(op, length), 1), op.unsqueeze(_counted(op, taps), 0))
    windows = op.Gather(whole, places, axis=2)  # [N, C, L, k]
    y = op.ReduceSum(
        op.Mul(windows, op.unsqueeze(op.Squeeze(weight, one), 1)), op.ints([3]), keepdims=0
    )
    if bias is not None:
        y = op.Add(y, op.unsqueeze(bias, 1))
    if activation != "none":
        y = op.Mul(y, op.Sigmoid(y))
    size = op.as_tensor((length,))
    state = op.Slice(whole, size, op.Add(size, before), op.ints([2]))
    return [y, state]


def _counted(op: Ops, size: dims.Dim) -> ir.Value:
    """0, 1, … below a size."""
    zero, one = (op.const(k, INT64) for k in (0, 1))
    out = op.Range(zero, op.Squeeze(op.as_tensor((size,)), op.ints([0])), one)
    out.shape = ir.Shape([size])
    return out
