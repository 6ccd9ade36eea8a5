"""Bodies of ai.onnx.preview.training: steps of optimisers, for several tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.functions.normalization import narrowed
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region

_DOMAIN = "ai.onnx.preview.training"


@body(f"{_DOMAIN}::Adagrad", shapes=True)
def _adagrad(op: Ops, region: Region) -> Outs:
    """Adagrad-1: h ← h + g², x ← x − r g / (√h + ε) with r = R / (1 + decay · T)."""
    rows = []
    for x, given, h in _tensors(region, 3):
        rate, count = _scalars(op, region, x)
        decay = op.Mul(count, op.const(region.attr_float("decay_factor", 0.0), like=x))
        rate = op.Div(rate, op.Add(decay, op.const(1, like=x)))
        g = _regularised(op, region, x, given)
        new = op.Add(h, op.Mul(g, g))
        rows.append([_moved(op, x, rate, op.Div(g, _root(op, region, new))), new])
    return _together(rows)


@body(f"{_DOMAIN}::Adam", shapes=True)
def _adam(op: Ops, region: Region) -> Outs:
    """Adam-1: means v of g and h of g², x ← (1 − post) (x − r v / (√h + ε)) with
    r = R √(1 − βᵀ) / (1 − αᵀ) after T > 0 steps.
    """
    alpha, beta = region.attr_float("alpha", 0.9), region.attr_float("beta", 0.999)
    kept = 1 - region.attr_float("norm_coefficient_post", 0.0)
    rows = []
    for x, given, v, h in _tensors(region, 4):
        rate, count = _scalars(op, region, x)
        one = op.const(1, like=x)
        above, below = (op.Sub(one, op.Pow(op.const(k, like=x), count)) for k in (beta, alpha))
        # 0/0 in the first step must not meet a derivative in R
        unbiased = op.Where(_is_later(op, count), op.Div(op.Sqrt(above), below), one)
        rate = op.Mul(rate, unbiased)
        g = _regularised(op, region, x, given)
        mean, power = _mean(op, alpha, v, g), _mean(op, beta, h, op.Mul(g, g))
        new = _moved(op, x, rate, op.Div(mean, _root(op, region, power)))
        rows.append([op.Mul(new, op.const(kept, like=x)) if kept != 1 else new, mean, power])
    return _together(rows)


@body(f"{_DOMAIN}::Momentum", shapes=True)
def _momentum(op: Ops, region: Region) -> Outs:
    """Momentum-1: v ← α v + β g (g in the first step), x ← x − R v, or x − R (g + α v)."""
    alpha, beta = region.attr_float("alpha", 0.0), region.attr_float("beta", 0.0)
    mode = region.attr_string("mode", "standard")
    if mode not in ("standard", "nesterov"):
        raise NoBodyError(f"mode {mode!r} is not defined")
    rows = []
    for x, given, v in _tensors(region, 3):
        rate, count = _scalars(op, region, x)
        share = op.Where(_is_later(op, count), op.const(beta, like=x), op.const(1, like=x))
        g, factor = _regularised(op, region, x, given), op.const(alpha, like=x)
        new = op.Add(op.Mul(v, factor), op.Mul(g, share))
        way = op.Add(g, op.Mul(new, factor)) if mode == "nesterov" else new
        rows.append([_moved(op, x, rate, way), new])
    return _together(rows)


def _tensors(region: Region, each: int) -> list[list[ir.Value]]:
    """For every tensor: itself, its gradient, and what is kept of earlier ones."""
    given = [region.operand(i) for i in range(2, len(region.inputs))]
    count, rest = divmod(len(given), each)
    if rest:
        raise NoBodyError(f"{len(given)} operands are not {each} for every tensor")
    return [given[i::count] for i in range(count)]


def _together(rows: Sequence[Sequence[ir.Value]]) -> Outs:
    """The first result of every tensor, then the second of every one, …"""
    return [value for column in zip(*rows, strict=True) for value in column]


def _scalars(op: Ops, region: Region, x: ir.Value) -> list[ir.Value]:
    """The learning rate and the number of steps, in the dtype of x."""
    given = [narrowed(op, region.operand(i), x) for i in range(2)]
    return [op.Reshape(v, op.ints([])) if rank(v) else v for v in given]


def _is_later(op: Ops, count: ir.Value) -> ir.Value:
    return op.Greater(count, op.const(0, like=count))


def _regularised(op: Ops, region: Region, x: ir.Value, g: ir.Value) -> ir.Value:
    norm = region.attr_float("norm_coefficient", 0.0)
    return op.Add(op.Mul(x, op.const(norm, like=x)), g) if norm else g


def _mean(op: Ops, kept: float, old: ir.Value, new: ir.Value) -> ir.Value:
    return op.Add(op.Mul(old, op.const(kept, like=old)), op.Mul(new, op.const(1 - kept, like=old)))


def _root(op: Ops, region: Region, h: ir.Value) -> ir.Value:
    return op.Add(op.Sqrt(h), op.const(region.attr_float("epsilon", 1e-6), like=h))


def _moved(op: Ops, x: ir.Value, rate: ir.Value, way: ir.Value) -> ir.Value:
    out = op.Sub(x, op.Mul(rate, way))
    out.shape = x.shape
    return out
