"""Functions of single elements, and of pairs, by others."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.fusion_limits import copies, missing_axes
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand
from onnxjvp.targets.lowerings.fusions import as_wide

_INTEGERS = {ir.DataType.INT8, ir.DataType.INT16, ir.DataType.INT32, ir.DataType.INT64}


def zero(op: Ops, like: ir.Value) -> ir.Value:
    return op.const(0, like=like)


def as_number(op: Ops, condition: ir.Value, like: ir.Value) -> ir.Value:
    """1 where a condition holds, else 0."""
    assert like.dtype is not None
    return op.Cast(condition, to=int(like.dtype))


@lowering("Sign")
def sign(low: Lowering, node: ir.Node) -> Made:
    """Two Where: 1, −1, or x · 0, which keeps 0 and NaN; of integers, comparisons subtracted."""
    op, x = low.op, operand(node, 0)
    if x.dtype in _INTEGERS:
        above, below = op.Greater(x, zero(op, x)), op.Less(x, zero(op, x))
        return [op.Sub(as_number(op, above, x), as_number(op, below, x))]
    if x.dtype is None or not x.dtype.is_floating_point():
        return None
    negative = op.Where(op.Less(x, zero(op, x)), op.const(-1, like=x), op.Mul(x, zero(op, x)))
    return [op.Where(op.Greater(x, zero(op, x)), op.const(1, like=x), negative)]


@lowering("IsNaN")
def is_nan(low: Lowering, node: ir.Node) -> Made:
    """What is not equal to itself."""
    x = operand(node, 0)
    return [low.op.Not(low.op.Equal(x, x))]


@lowering("Cosh Sinh")
def hyperbolic(low: Lowering, node: ir.Node) -> Made:
    """sinh = tanh · cosh, which loses nothing near 0."""
    op, x = low.op, operand(node, 0)
    half = op.const(0.5, like=x)
    root = op.Exp(op.Mul(op.Abs(x), half))  # whose square may not be held where cosh is
    cosh = op.Add(op.Mul(op.Mul(root, half), root), op.Div(op.Div(half, root), root))
    return [cosh if node.op_type == "Cosh" else op.Mul(op.Tanh(x), cosh)]


@lowering("Softplus")
def softplus(low: Lowering, node: ir.Node) -> Made:
    """max(x, 0) + log(1 + exp(−|x|)), which does not overflow."""
    op, x = low.op, operand(node, 0)
    less = op.Exp(op.Neg(op.Abs(x)))
    return [op.Add(op.Relu(x), op.Log(op.Add(less, op.const(1, like=x))))]


@lowering("Softsign")
def softsign(low: Lowering, node: ir.Node) -> Made:
    """x / (1 + |x|)."""
    op, x = low.op, operand(node, 0)
    return [op.Div(x, op.Add(op.Abs(x), op.const(1, like=x)))]


@lowering("Swish")
def swish(low: Lowering, node: ir.Node) -> Made:
    """x σ(α x)."""
    op, x = low.op, operand(node, 0)
    alpha = node.attributes.get_float("alpha", 1.0)
    assert alpha is not None
    return [op.Mul(x, op.Sigmoid(op.Mul(x, op.const(alpha, like=x))))]


@lowering("Gelu")
def gelu(low: Lowering, node: ir.Node) -> Made:
    """x / 2 · (1 + erf(x / √2)), or its approximation by tanh."""
    op, x = low.op, operand(node, 0)
    if node.attributes.get_string("approximate", "none") == "tanh":
        cube = op.Mul(op.Mul(op.Mul(x, x), x), op.const(0.044715, like=x))
        inner = op.Mul(op.Add(x, cube), op.const(math.sqrt(2 / math.pi), like=x))
        bell = op.Tanh(inner)
    else:
        bell = op.Erf(op.Mul(x, op.const(math.sqrt(0.5), like=x)))
    return [op.Mul(op.Mul(x, op.const(0.5, like=x)), op.Add(bell, op.const(1, like=x)))]


@lowering("Celu")
def celu(low: Lowering, node: ir.Node) -> Made:
    """An Elu of x / α, times α; runtimes differ where α is negative, and it stays."""
    op, x = low.op, operand(node, 0)
    alpha = node.attributes.get_float("alpha", 1.0)
    if alpha is None or alpha <= 0:
        return None
    factor = op.const(alpha, like=x)
    return [op.Mul(factor, op.Elu(op.Div(x, factor), alpha=1.0))]


@lowering("CastLike")
def cast_like(low: Lowering, node: ir.Node) -> Made:
    """A Cast."""
    dtype = operand(node, 1).dtype
    return None if dtype is None else [low.op.Cast(operand(node, 0), to=int(dtype))]


@lowering("Dropout")
def dropout(low: Lowering, node: ir.Node) -> Made:
    """At inference, its operand."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    known = constant(mode)
    trains = mode is not None and (known is None or bool(known.any()))
    others = node.outputs[1:]
    if trains or any(v.uses() for v in others):
        return None
    return [low.op.Identity(operand(node, 0)), *[None] * len(others)]


# -- where dtypes are few ----------------------------------------------------------------------


@lowering("Where")
def where(low: Lowering, node: ir.Node) -> Made:
    """Of integers b + c · (a − b), which is exact; of conditions by And and Or."""
    op, c, a, b = low.op, operand(node, 0), operand(node, 1), operand(node, 2)
    if a.dtype == ir.DataType.BOOL:
        return [op.Or(op.And(c, a), op.And(op.Not(c), b))]
    if a.dtype not in _INTEGERS:
        return None
    return [op.Add(b, op.Mul(as_number(op, c, a), op.Sub(a, b)))]


@lowering("Max Min")
def extreme(low: Lowering, node: ir.Node) -> Made:
    """Of integers, two at a time: a + (b − a) where b is the larger one."""
    op, found = low.op, operand(node, 0)
    if found.dtype not in _INTEGERS or missing_axes(node) or copies(node):
        return as_wide(low, node)
    for other in node.inputs[1:]:
        assert other is not None
        pair = (found, other) if node.op_type == "Max" else (other, found)
        found = op.Add(found, op.Mul(as_number(op, op.Less(*pair), found), op.Sub(other, found)))
    return [found]


@lowering("GreaterOrEqual LessOrEqual")
def or_equal(low: Lowering, node: ir.Node) -> Made:
    """Of integers, which are never NaN: not Less, not Greater."""
    op, a, b = low.op, operand(node, 0), operand(node, 1)
    if a.dtype not in _INTEGERS:
        return None
    return [op.Not(op.Less(a, b) if node.op_type == "GreaterOrEqual" else op.Greater(a, b))]


@lowering("Equal Xor")
def alike(low: Lowering, node: ir.Node) -> Made:
    """Of conditions, by And, Or and Not."""
    op, a, b = low.op, operand(node, 0), operand(node, 1)
    if a.dtype != ir.DataType.BOOL:
        return None
    other = op.Not(b)
    if node.op_type == "Xor":
        return [op.Or(op.And(a, other), op.And(op.Not(a), b))]
    return [op.Or(op.And(a, b), op.And(op.Not(a), other))]


@lowering("Mod")
def mod(low: Lowering, node: ir.Node) -> Made:
    """Of integers, with the sign of the divisor: what a division that cuts off leaves, moved."""
    op, a, b = low.op, operand(node, 0), operand(node, 1)
    if a.dtype not in _INTEGERS or bool(node.attributes.get_int("fmod", 0)):
        return None
    rest = op.Sub(a, op.Mul(b, op.Div(a, b)))
    signs = op.Xor(op.Less(rest, zero(op, a)), op.Less(b, zero(op, a)))
    apart = op.And(signs, op.Not(op.Equal(rest, zero(op, a))))
    return [op.Add(rest, op.Mul(as_number(op, apart, a), b))]
