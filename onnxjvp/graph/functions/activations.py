"""Bodies of onnxruntime's activations, and of those that it fuses into other operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import constant


def gelu(op: Ops, x: ir.Value) -> ir.Value:
    """½ x (1 + erf(x/√2)), as it is written out in many models, and recognised."""
    bent = op.Erf(op.Mul(x, op.const(np.sqrt(0.5), like=x)))
    half = op.Mul(x, op.const(0.5, like=x))
    return op.Mul(half, op.Add(bent, op.const(1, like=x)))


def tanh_gelu(op: Ops, x: ir.Value) -> ir.Value:
    """½ x (1 + tanh(x (0.797885 + 0.035677 x²))), with the constants that the operator states."""
    square = op.Mul(op.Mul(x, x), op.const(0.035677408136300125, like=x))
    bent = op.Tanh(op.Mul(x, op.Add(square, op.const(0.7978845608028654, like=x))))
    half = op.Mul(x, op.const(0.5, like=x))
    return op.Mul(half, op.Add(bent, op.const(1, like=x)))


def silu(op: Ops, x: ir.Value) -> ir.Value:
    return op.Mul(x, op.Sigmoid(x))


def with_bias(op: Ops, x: ir.Value, bias: ir.Value | None) -> ir.Value:
    return x if bias is None else op.Add(x, bias)


@body("com.microsoft::Gelu com.microsoft::BiasGelu")
def _gelu(op: Ops, region: Region) -> Outs:
    return [gelu(op, with_bias(op, region.operand(0), region.input(1)))]


@body("com.microsoft::FastGelu")
def _fast_gelu(op: Ops, region: Region) -> Outs:
    return [tanh_gelu(op, with_bias(op, region.operand(0), region.input(1)))]


@body("com.microsoft::QuickGelu")
def _quick_gelu(op: Ops, region: Region) -> Outs:
    x = region.operand(0)
    alpha = region.attr_float("alpha", 1.702)
    scaled = x if alpha == 1 else op.Mul(x, op.const(alpha, like=x))
    return [op.Mul(x, op.Sigmoid(scaled))]


@body("com.microsoft::BiasSplitGelu")
def _bias_split_gelu(op: Ops, region: Region) -> Outs:
    left, right = op.emit(
        "Split",
        [op.Add(region.operand(0), region.operand(1))],
        {"axis": -1, "num_outputs": 2},
        outputs=2,
    )
    return [op.Mul(left, gelu(op, right))]


@body("com.microsoft::BiasAdd")
def _bias_add(op: Ops, region: Region) -> Outs:
    x, bias, skip = (region.operand(i) for i in range(3))
    return [op.Add(op.Add(x, bias), skip)]


@body("com.microsoft::BiasSoftmax")
def _bias_softmax(op: Ops, region: Region) -> Outs:
    """Softmax over all axes from `axis` on, of scores and a bias that broadcasts."""
    scores, bias = region.operand(0), region.operand(1)
    rank = len(scores.shape or ())
    axis = region.attr_int("axis", 1) % rank
    if axis != rank - 1:
        raise NoBodyError("its softmax is over several axes at once")
    inner = region.attr_int("is_inner_broadcast", 0)
    missing = rank - len(bias.shape or ())
    if inner and missing:
        raise NoBodyError("its bias broadcasts in the middle and has not the rank of its scores")
    return [op.Softmax(op.Add(scores, bias), axis=axis)]


@body("com.microsoft::BiasDropout")
def _bias_dropout(op: Ops, region: Region) -> Outs:
    mode = constant(region.input(4))
    if region.input(4) is not None and (mode is None or mode.any()):
        raise NoBodyError("it may run in training mode, which draws random numbers")
    total = op.Add(region.operand(0), region.operand(1))
    return [with_bias(op, total, region.input(2)), None]


# -- fused into products -----------------------------------------------------------------------

#: activation → its standard attributes, in the order of `activation_params`
_STANDARD: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "ThresholdedRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}
_WRITTEN_OUT: dict[str, Callable[[Ops, ir.Value], ir.Value]] = {
    "Gelu": gelu,
    "FastGelu": tanh_gelu,
    "HardSwish": lambda op, x: op.HardSwish(x),
}


def activated(op: Ops, name: str, x: ir.Value, params: Sequence[float]) -> ir.Value:
    """The activation that a fused operator names, with its parameters in order."""
    if name in ("", "Identity"):
        return x
    if name == "Clip":
        low, high = params or (None, None)
        bounds = [None if b is None else op.const(b, like=x) for b in (low, high)]
        return op.Clip(x, *bounds)
    if name in _STANDARD:
        attributes = dict(zip(_STANDARD[name], map(float, params), strict=False))
        return op.emit(name, [x], attributes)[0]
    if name in _WRITTEN_OUT:
        return _WRITTEN_OUT[name](op, x)
    raise NoBodyError(f"its activation {name!r} is not known")
