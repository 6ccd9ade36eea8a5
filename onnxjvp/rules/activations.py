"""Elementwise operators: one slope each. Kinks follow one convention (docs/architecture.md):

the slope *at* a kink of Relu, Clip, Abs, … is that of the flat side, so Relu'(0) = Abs'(0) = 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.fixed import fixed
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import constant
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import elementwise, holds, selection, zero

zero(
    "Floor Ceil Round Sign Hardmax",
    source="piecewise constant: derivative 0 almost everywhere",
)

# -- piecewise affine --------------------------------------------------------------------------


@elementwise("Relu", homogeneous=True, mask=True, source="ONNX Relu-14; 1 where y > 0")
def relu_mask(op: Ops, region: Region) -> ir.Value:
    # read off y, not x: otherwise the primal's fusion of Conv and Relu is lost
    y = region.outputs[0]
    return op.Greater(y, op.const(0, like=y))


@elementwise("LeakyRelu", homogeneous=True, source="ONNX LeakyRelu-16; 1 where x > 0, else alpha")
def leaky_relu_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Where(
        op.Greater(x, op.const(0, like=x)),
        op.const(1, like=x),
        op.const(region.attr_float("alpha", 0.01), like=x),
    )


def prelu_slope_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Min(x, op.const(0, like=x))


@elementwise(
    "PRelu",
    prelu_slope_slope,
    homogeneous=True,
    source="ONNX PRelu-16; 1 where x > 0, else slope; in the slope: min(x, 0)",
)
def prelu_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Where(op.Greater(x, op.const(0, like=x)), op.const(1, like=x), region.operand(1))


@elementwise("Abs", homogeneous=True, source="ONNX Abs-13; sign(x)")
def abs_slope(op: Ops, region: Region) -> ir.Value:
    return op.Sign(region.operand(0))


def clip_low_mask(op: Ops, region: Region) -> ir.Value:
    """1 where x ≤ min < max: of bounds that cross, the upper one is taken."""
    y, low = region.outputs[0], region.operand(1)
    below = op.LessOrEqual(y, low)
    high = region.input(2)
    return below if high is None else op.And(below, op.Less(low, high))


def clip_high_mask(op: Ops, region: Region) -> ir.Value:
    return op.GreaterOrEqual(region.outputs[0], region.operand(2))


@elementwise(
    "Clip",
    clip_low_mask,
    clip_high_mask,
    mask=True,
    source="ONNX Clip-13; 1 where min < y < max, and in a bound where y is that bound",
)
def clip_mask(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    inside = []
    if (low := region.input(1)) is not None:
        inside.append(op.Greater(y, low))
    if (high := region.input(2)) is not None:
        inside.append(op.Less(y, high))
    if not inside:
        return op.Equal(y, y)
    return inside[0] if len(inside) == 1 else op.And(*inside)


@elementwise("HardSigmoid", source="ONNX HardSigmoid-6; alpha where 0 < y < 1")
def hard_sigmoid_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    inside = op.And(op.Greater(y, op.const(0, like=y)), op.Less(y, op.const(1, like=y)))
    return op.Where(inside, op.const(region.attr_float("alpha", 0.2), like=y), op.const(0, like=y))


@elementwise("HardSwish", source="ONNX HardSwish-14; 0 below -3, 1 above 3, x/3 + 1/2 between")
def hard_swish_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    between = op.Add(op.Mul(x, op.const(1 / 3, like=x)), op.const(0.5, like=x))
    above = op.Where(op.Less(x, op.const(3, like=x)), between, op.const(1, like=x))
    return op.Where(op.Greater(x, op.const(-3, like=x)), above, op.const(0, like=x))


@elementwise(
    "ThresholdedRelu",
    mask=True,
    homogeneous=True,
    source="ONNX ThresholdedRelu-10; 1 where x > alpha",
)
def thresholded_relu_mask(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Greater(x, op.const(region.attr_float("alpha", 1.0), like=x))


@elementwise("Shrink", mask=True, source="ONNX Shrink-9; 1 where |x| > lambd")
def shrink_mask(op: Ops, region: Region) -> ir.Value:
    x, edge = region.operand(0), region.attr_float("lambd", 0.5)
    return op.Or(op.Greater(x, op.const(edge, like=x)), op.Less(x, op.const(-edge, like=x)))


@selection(
    "Dropout",
    args=(0, 1),
    chosen=(0,),
    source="ONNX Dropout-13; x · mask / (1 − ratio), whose mask is drawn once and held; "
    "the ratio by y / (1 − ratio), and not at all at inference",
)
def dropout_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    t, along_ratio = (tangents[i] if i < len(tangents) else None for i in (0, 1))
    if _never_trains(region):
        return [t]
    parts, factor = list[ir.Value](), _dropout_factor(op, region)
    if t is not None:
        parts.append(op.Where(region.outputs[1], op.Mul(t, factor), op.const(0, like=t)))
    if along_ratio is not None:
        y, zero = region.outputs[0], op.const(0, like=factor)
        if along_ratio.dtype != y.dtype:
            along_ratio = op.CastLike(along_ratio, y)
        held = op.Where(op.Reshape(region.operand(2), op.ints([])), factor, zero)
        parts.append(op.Mul(op.Mul(y, held), op.Reshape(along_ratio, op.ints([]))))
    return [op.add_all(parts)]


@holds("Dropout")
def dropout_holds(region: Region) -> set[int]:
    """At inference it copies x, whatever the ratio."""
    return {1} if _never_trains(region) else set()


def _never_trains(region: Region) -> bool:
    training = constant(region.input(2))
    return region.input(2) is None or (training is not None and not training.any())


def _dropout_factor(op: Ops, region: Region) -> ir.Value:
    """1 / (1 − ratio) in training; 0 where nothing is kept."""
    x, ratio, training = region.operand(0), region.input(1), region.operand(2)
    one, zero = op.const(1, like=x), op.const(0, like=x)
    if ratio is None:
        factor = op.const(2, like=x)
    else:  # in nodes even of a constant, which may be a variable in turn
        ratio = op.Reshape(ratio, op.ints([]))
        share = op.Sub(one, ratio if ratio.dtype == x.dtype else op.CastLike(ratio, one))
        some = op.Greater(share, zero)
        factor = op.Where(some, op.Reciprocal(op.Where(some, share, one)), zero)
    return factor if constant(training) is not None else op.Where(training, factor, one)


# -- smooth ------------------------------------------------------------------------------------


@elementwise("Sigmoid", source="ONNX Sigmoid-13; y (1 − y)")
def sigmoid_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    return op.Mul(y, op.Sub(op.const(1, like=y), y))


@elementwise("Tanh", source="ONNX Tanh-13; 1 − y²")
def tanh_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    return op.Sub(op.const(1, like=y), op.Mul(y, y))


@elementwise("Exp", source="ONNX Exp-13; y")
def exp_slope(op: Ops, region: Region) -> ir.Value:
    return region.outputs[0]


@elementwise("Log", source="ONNX Log-13; 1/x")
def log_slope(op: Ops, region: Region) -> ir.Value:
    return op.Reciprocal(region.operand(0))


@elementwise("Sqrt", source="ONNX Sqrt-13; 1/(2 y)")
def sqrt_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    return op.Div(op.const(0.5, like=y), y)


@elementwise("Reciprocal", source="ONNX Reciprocal-13; −y²")
def reciprocal_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    return op.Neg(op.Mul(y, y))


@elementwise("Erf", source="ONNX Erf-13; 2/√π exp(−x²)")
def erf_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    return op.Mul(op.Exp(op.Neg(op.Mul(x, x))), op.const(2 / math.sqrt(math.pi), like=x))


@elementwise("Softplus", source="ONNX Softplus-1; sigmoid x")
def softplus_slope(op: Ops, region: Region) -> ir.Value:
    return op.Sigmoid(region.operand(0))


@elementwise("Softsign", source="ONNX Softsign-1; (1 − |y|)²")
def softsign_slope(op: Ops, region: Region) -> ir.Value:
    y = region.outputs[0]
    root = op.Sub(op.const(1, like=y), op.Abs(y))
    return op.Mul(root, root)


@elementwise("Elu", source="ONNX Elu-6; 1 where x > 0, else y + alpha")
def elu_slope(op: Ops, region: Region) -> ir.Value:
    x, y = region.operand(0), region.outputs[0]
    below = op.Add(y, op.const(region.attr_float("alpha", 1.0), like=y))
    return op.Where(op.Greater(x, op.const(0, like=x)), op.const(1, like=x), below)


@elementwise("Selu", source="ONNX Selu-6; gamma where x > 0, else y + gamma·alpha")
def selu_slope(op: Ops, region: Region) -> ir.Value:
    x, y = region.operand(0), region.outputs[0]
    alpha = region.attr_float("alpha", 1.67326319217681884765625)
    gamma = region.attr_float("gamma", 1.05070102214813232421875)
    below = op.Add(y, op.const(alpha * gamma, like=y))
    return op.Where(op.Greater(x, op.const(0, like=x)), op.const(gamma, like=x), below)


@elementwise("Celu", source="ONNX Celu-12; 1 where x > 0, else exp(x/alpha) = y/alpha + 1")
def celu_slope(op: Ops, region: Region) -> ir.Value:
    x, y = region.operand(0), region.outputs[0]
    one = op.const(1, like=y)
    below = op.Add(op.Mul(y, op.const(1 / region.attr_float("alpha", 1.0), like=y)), one)
    return op.Where(op.Greater(x, op.const(0, like=x)), one, below)


@elementwise("Mish", source="ONNX Mish-18; w + x (1 − w²) σ, w = tanh(softplus x)")
def mish_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    w = op.Tanh(op.Softplus(x))
    bend = op.Mul(op.Sub(op.const(1, like=x), op.Mul(w, w)), op.Sigmoid(x))
    return op.Add(w, op.Mul(x, bend))


@elementwise("SiLU", source="region x·Sigmoid(x); σ + y (1 − σ)")
def silu_slope(op: Ops, region: Region) -> ir.Value:
    # σ is computed again beside the primal, whose Sigmoid·Mul the runtime fuses
    return _swish_slope(op, region.operand(0), region.outputs[0], 1.0)


@elementwise("Swish", source="ONNX Swish-24; σ + alpha y (1 − σ), σ = sigmoid(alpha x)")
def swish_slope(op: Ops, region: Region) -> ir.Value:
    return _swish_slope(op, region.operand(0), region.outputs[0], region.attr_float("alpha", 1.0))


def _swish_slope(op: Ops, x: ir.Value, y: ir.Value, alpha: float) -> ir.Value:
    gate = op.Sigmoid(x if alpha == 1 else op.Mul(x, op.const(alpha, like=x)))
    scaled = y if alpha == 1 else op.Mul(y, op.const(alpha, like=y))
    return op.Add(gate, op.Mul(scaled, op.Sub(op.const(1, like=x), gate)))


@elementwise("Gelu", source="ONNX Gelu-20, or written out; Φ(x) + x φ(x), or of the tanh form")
def gelu_slope(op: Ops, region: Region) -> ir.Value:
    x = region.operand(0)
    half, one = op.const(0.5, like=x), op.const(1, like=x)
    if region.attr_string("approximate", "none") == "tanh":
        root = math.sqrt(2 / math.pi)
        square = op.Mul(x, x)
        cubic = op.Add(one, op.Mul(square, op.const(0.044715, like=x)))
        t = op.Tanh(op.Mul(op.Mul(x, cubic), op.const(root, like=x)))
        inner = op.Add(
            op.const(root, like=x), op.Mul(square, op.const(3 * 0.044715 * root, like=x))
        )
        bump = op.Mul(op.Mul(x, op.Sub(one, op.Mul(t, t))), inner)
        return op.Mul(half, op.Add(op.Add(one, t), bump))
    cdf = op.Mul(half, op.Add(one, op.Erf(op.Mul(x, op.const(math.sqrt(0.5), like=x)))))
    density = op.Exp(op.Mul(op.Mul(x, x), op.const(-0.5, like=x)))
    return op.Add(cdf, op.Mul(op.Mul(x, density), op.const(1 / math.sqrt(2 * math.pi), like=x)))


# -- powers ------------------------------------------------------------------------------------


def pow_exponent_slope(op: Ops, region: Region) -> ir.Value:
    """y ln x, and 0 where x ≤ 0: there the power is defined at isolated exponents only."""
    x, y = region.operand(0), region.outputs[0]
    positive = op.Greater(x, op.const(0, like=x))
    safe = op.Where(positive, x, op.const(1, like=x))
    return op.Mul(y, op.Log(safe))


@elementwise("Pow", pow_exponent_slope, source="ONNX Pow-15; e x^(e−1), and y ln x in the exponent")
def pow_slope(op: Ops, region: Region) -> ir.Value:
    x, exponent = region.operand(0), region.operand(1)
    value = fixed(exponent)
    if value is not None and value.size == 1:
        e = float(value.reshape(()) if value.ndim == 0 else value.reshape(-1)[0])
        if e == 2:
            return _full(op, op.Mul(x, op.const(2, like=x)), region)
        if e in (0, 1):
            return _full(op, op.const(e, like=x), region)
        lowered = op.Pow(x, op.const(e - 1, like=x))
        return _full(op, op.Mul(lowered, op.const(e, like=x)), region)
    e_value = op.Cast(exponent, to=int(_dtype(x))) if exponent.dtype != x.dtype else exponent
    slope = op.Mul(e_value, op.Pow(x, op.Sub(e_value, op.const(1, like=x))))
    zero_exponent = op.Equal(e_value, op.const(0, like=x))  # 0 · 0⁻¹ is not NaN but 0
    return op.Where(zero_exponent, op.const(0, like=x), slope)


def _full(op: Ops, slope: ir.Value, region: Region) -> ir.Value:
    return op.expand_to(slope, region.outputs[0])


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype
