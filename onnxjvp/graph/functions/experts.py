"""The body of onnxruntime's mixture of experts."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.functions.activations import silu, tanh_gelu, with_bias
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region


@body("com.microsoft::MoE")
def _mixture(op: Ops, region: Region) -> Outs:
    """Σ over the k likeliest experts of every row: its probability · f(x W₁ᵀ + b₁) W₂ᵀ + b₂.

    All experts run on all rows, which takes a row's own share of each: no weight is copied.
    """
    if region.attr_int("use_sparse_mixer", 0) or region.input(6) is not None:
        raise NoBodyError("its sparse mixer, or a third product, has no kernel to be checked with")
    x = region.operand(0)
    rows = op.Concat(op.count(x, range(rank(x) - 1)), op.sizes(x, [rank(x) - 1]), axis=0)
    flat = op.Reshape(x, rows, allowzero=1)
    inner = _activated(op, region, _product(op, flat, region, 2))
    every = _product(op, inner, region, 4)  # [experts, rows, hidden]
    shares = op.unsqueeze(op.Transpose(_shares(op, region), perm=[1, 0]), 2)
    y = op.ReduceSum(op.Mul(every, shares), op.ints([0]), keepdims=0)
    y = op.Reshape(y, op.shape_of(x), allowzero=1)
    y.shape = x.shape
    return [y]


def _product(op: Ops, x: ir.Value, region: Region, index: int) -> ir.Value:
    """x Wᵀ + b for every expert, of operands `index` and the one behind it."""
    bias = region.input(index + 1)
    bias = None if bias is None else op.unsqueeze(bias, 1)
    weight = op.Transpose(region.operand(index), perm=[0, 2, 1])
    return with_bias(op, op.MatMul(x, weight), bias)


def _shares(op: Ops, region: Region) -> ir.Value:
    """[rows, experts]: the probabilities of the k likeliest, and 0 elsewhere."""
    probable = op.Softmax(region.operand(1), axis=-1)
    count = op.ints([region.attr_int("k", 1)])
    top, which = op.emit("TopK", [probable, count], {"axis": -1}, outputs=2)
    if region.attr_int("normalize_routing_weights", 0):
        top = op.Div(top, op.ReduceSum(top, op.ints([1]), keepdims=1))
    return op.ScatterElements(op.zeros_like(probable), which, top, axis=1)


def _activated(op: Ops, region: Region, x: ir.Value) -> ir.Value:
    match region.attr_string("activation_type", "relu").lower():
        case "relu":
            return op.Relu(x)
        case "gelu":
            return tanh_gelu(op, x)
        case "silu":
            return silu(op, x)
        case "identity":
            return x
        case "swiglu" if region.attr_int("swiglu_fusion", 0) == 1:
            return _gated(op, region, x)
        case other:
            raise NoBodyError(f"its activation {other!r} has no kernel to be checked with")


def _gated(op: Ops, region: Region, x: ir.Value) -> ir.Value:
    """g σ(alpha g) (l + beta): g and l are every other number, held within the limit."""
    last, end = op.ints([rank(x) - 1]), op.ints([2**62])
    gate, level = (op.Slice(x, op.ints([i]), end, last, op.ints([2])) for i in (0, 1))
    if "swiglu_limit" in region.attributes:
        limit = region.attr_float("swiglu_limit", 0.0)
        gate = op.Clip(gate, None, op.const(limit, like=x))
        level = op.Clip(level, op.const(-limit, like=x), op.const(limit, like=x))
    alpha, beta = (
        op.const(region.attr_float(f"activation_{name}", default), like=x)
        for name, default in (("alpha", 1.0), ("beta", 0.0))
    )
    opened = op.Mul(gate, op.Sigmoid(op.Mul(gate, alpha)))
    return op.Mul(opened, op.Add(level, beta))
