"""The activations that a recurrent operator can name; slopes are read off their values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import RefusedError


@dataclass(frozen=True)
class Activation:
    """One function of a cell, of what clip leaves of its operand."""

    name: str
    alpha: float
    beta: float
    clip: float | None

    def value(self, op: Ops, a: ir.Value) -> ir.Value:
        if self.clip is not None:
            bounds = [op.const(sign * self.clip, like=a) for sign in (-1, 1)]
            a = op.Clip(a, *bounds)
        return VALUES[self.name](op, a, self)

    def slope(self, op: Ops, y: ir.Value, a: ir.Value | None) -> ir.Value:
        """Off its value y, in the shape of y; with clip its operand `a` is read too."""
        slope = SLOPES[self.name](op, y, self)
        if self.clip is None:
            return slope
        assert a is not None
        free = op.Less(op.Abs(a), op.const(self.clip, like=a))
        return op.Where(free, slope, op.const(0, like=a))


def _same(op_type: str) -> Callable[[Ops, ir.Value, Activation], ir.Value]:
    return lambda op, a, _: op.emit(op_type, (a,))[0]


def _with_alpha(op_type: str) -> Callable[[Ops, ir.Value, Activation], ir.Value]:
    return lambda op, a, f: op.emit(op_type, (a,), {"alpha": f.alpha})[0]


def _affine(op: Ops, a: ir.Value, f: Activation) -> ir.Value:
    return op.Add(op.Mul(a, op.const(f.alpha, like=a)), op.const(f.beta, like=a))


def _scaled_tanh(op: Ops, a: ir.Value, f: Activation) -> ir.Value:
    inner = op.Tanh(op.Mul(a, op.const(f.beta, like=a)))
    return op.Mul(inner, op.const(f.alpha, like=a))


def _hard_sigmoid(op: Ops, a: ir.Value, f: Activation) -> ir.Value:
    return op.HardSigmoid(a, alpha=f.alpha, beta=f.beta)


VALUES: dict[str, Callable[[Ops, ir.Value, Activation], ir.Value]] = {
    **{name: _same(name) for name in ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus")},
    **{name: _with_alpha(name) for name in ("LeakyRelu", "ThresholdedRelu", "Elu")},
    "Affine": _affine,
    "ScaledTanh": _scaled_tanh,
    "HardSigmoid": _hard_sigmoid,
}


def _choose(op: Ops, mask: ir.Value, one: float, other: float, like: ir.Value) -> ir.Value:
    return op.Where(mask, op.const(one, like=like), op.const(other, like=like))


def _above(op: Ops, y: ir.Value, bound: float) -> ir.Value:
    return op.Greater(y, op.const(bound, like=y))


def _complement(op: Ops, y: ir.Value) -> ir.Value:
    return op.Sub(op.const(1, like=y), y)


def _tanh_slope(op: Ops, y: ir.Value, _: Activation) -> ir.Value:
    return _complement(op, op.Mul(y, y))


def _scaled_tanh_slope(op: Ops, y: ir.Value, f: Activation) -> ir.Value:
    """αβ (1 − (y/α)²)"""
    part = op.Mul(op.Mul(y, y), op.const(f.beta / f.alpha, like=y))
    return op.Sub(op.const(f.alpha * f.beta, like=y), part)


def _hard_sigmoid_slope(op: Ops, y: ir.Value, f: Activation) -> ir.Value:
    inside = op.And(_above(op, y, 0), op.Less(y, op.const(1, like=y)))
    return _choose(op, inside, f.alpha, 0, y)


def _affine_slope(op: Ops, y: ir.Value, f: Activation) -> ir.Value:
    return op.expand_to(op.const(f.alpha, like=y), y)


def _elu_slope(op: Ops, y: ir.Value, f: Activation) -> ir.Value:
    falling = op.Add(y, op.const(f.alpha, like=y))
    return op.Where(_above(op, y, 0), op.const(1, like=y), falling)


def _softsign_slope(op: Ops, y: ir.Value, _: Activation) -> ir.Value:
    rest = _complement(op, op.Abs(y))
    return op.Mul(rest, rest)


#: off the value y; at a kink the slope of the lower side
SLOPES: dict[str, Callable[[Ops, ir.Value, Activation], ir.Value]] = {
    "Relu": lambda op, y, _: _choose(op, _above(op, y, 0), 1, 0, y),
    "LeakyRelu": lambda op, y, f: _choose(op, _above(op, y, 0), 1, f.alpha, y),
    "ThresholdedRelu": lambda op, y, f: _choose(op, _above(op, y, f.alpha), 1, 0, y),
    "Tanh": _tanh_slope,
    "ScaledTanh": _scaled_tanh_slope,
    "Sigmoid": lambda op, y, _: op.Mul(y, _complement(op, y)),
    "HardSigmoid": _hard_sigmoid_slope,
    "Affine": _affine_slope,
    "Elu": _elu_slope,
    "Softsign": _softsign_slope,
    "Softplus": lambda op, y, _: _complement(op, op.Exp(op.Neg(y))),
}
#: alpha where none is given; None where runtimes do not agree
_ALPHAS = {
    "Affine": None,
    "LeakyRelu": 0.01,
    "ThresholdedRelu": None,
    "ScaledTanh": None,
    "HardSigmoid": 0.2,
    "Elu": 1.0,
}
_BETAS = {"Affine": None, "ScaledTanh": None, "HardSigmoid": 0.5}
#: with an alpha below 0 or at 0 their value does not tell their slope
_RISING = frozenset({"LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"})


def activations(region: Region, default: Sequence[str], unclipped: int = 99) -> list[Activation]:
    """The functions of all directions, in order.

    Args:
      default: those of one direction.
      unclipped: the function, counted in one direction, that clip does not apply to.
    Raises:
      RefusedError: a function that is unknown, or whose alpha is.
    """
    given = region.attributes.get("activations")
    count = 2 if region.attr_string("direction", "forward") == "bidirectional" else 1
    names = list(default) * count if given is None else list(given.as_strings())
    if len(names) != len(default) * count:
        raise RefusedError(f"it has {len(names)} activations")
    alphas, betas = (_numbers(region, f"activation_{kind}") for kind in ("alpha", "beta"))
    clip = region.attributes.get("clip")
    bound = None if clip is None else clip.as_float()
    found = []
    for i, written in enumerate(names):
        name = next((known for known in SLOPES if known.lower() == written.lower()), None)
        if name is None:
            raise RefusedError(f"its activation {written!r} has no derivative rule")
        alpha = _next(alphas, _ALPHAS.get(name, 0.0), name, "alpha") if name in _ALPHAS else 0.0
        beta = _next(betas, _BETAS.get(name, 0.0), name, "beta") if name in _BETAS else 0.0
        if name in _RISING and alpha <= 0:
            raise RefusedError(
                f"the slope of its activation {name} with alpha = {alpha} is unknown"
            )
        found.append(
            Activation(name, alpha, beta, bound if i % len(default) != unclipped else None)
        )
    return found


def _numbers(region: Region, name: str) -> Iterator[float]:
    found = region.attributes.get(name)
    return iter(() if found is None else found.as_floats())


def _next(given: Iterator[float], default: float | None, name: str, kind: str) -> float:
    value = next(given, default)
    if value is None:
        raise RefusedError(
            f"its activation {name} comes without activation_{kind}, for which runtimes take "
            "different numbers; write it into the node"
        )
    return float(np.float32(value))
