"""Groups of nodes that have one derivative, and their near misses, which have others."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from helpers import ints, weights, wide
from op_case import OpCase


@dataclass(frozen=True, eq=False)
class RegionCase(OpCase):
    """A case that also says which group is recognised, and of how many nodes."""

    group: str = ""
    members: int = 0


def _found(name: str, group: str, members: int, body: str, **more: object) -> RegionCase:
    return RegionCase(name, body, group=group, members=members, **more)  # type: ignore[arg-type]


def _missed(name: str, body: str, **more: object) -> RegionCase:
    return RegionCase(f"not a group: {name}", body, **more)  # type: ignore[arg-type]


# -- gates -------------------------------------------------------------------------------------

_SIXTH = "HardSigmoid<alpha=0.16666667, beta=0.5>"
CASES = [
    _found("SiLU", "SiLU", 2, "g = Sigmoid(x)\ny = Mul(x, g)", draw=wide),
    _found("SiLU, gate first", "SiLU", 2, "g = Sigmoid(x)\ny = Mul(g, x)", draw=wide),
    _found("SiLU of a scalar", "SiLU", 2, "g = Sigmoid(x)\ny = Mul(x, g)", inputs={"x": ()}),
    _found("HardSwish written out", "HardSwish", 2, f"g = {_SIXTH}(x)\ny = Mul(x, g)", draw=wide),
    _found(
        "HardSwish written out, gate first",
        "HardSwish",
        2,
        f"g = {_SIXTH}(x)\ny = Mul(g, x)",
        draw=wide,
    ),
    _missed("a gate used elsewhere", "g = Sigmoid(x)\np = Mul(x, g)\ny = Add(p, g)", draw=wide),
    _missed(
        "a gate that is an output", "g = Sigmoid(x)\ny = Mul(x, g)", outputs=("y", "g"), draw=wide
    ),
    _missed("a gate of another value", "n = Neg(x)\ng = Sigmoid(n)\ny = Mul(x, g)", draw=wide),
    _missed(
        "another slope of HardSigmoid", "g = HardSigmoid<alpha=0.2>(x)\ny = Mul(x, g)", draw=wide
    ),
    _missed(
        "another shift of HardSigmoid",
        "g = HardSigmoid<alpha=0.16666667, beta=0.4>(x)\ny = Mul(x, g)",
        draw=wide,
    ),
]

# -- Gelu --------------------------------------------------------------------------------------

_GELU = {"root": np.array(math.sqrt(2)), "half": np.array(0.5), "one": np.array(1.0)}
_INVERSE = {**_GELU, "root": np.array(math.sqrt(0.5))}
_INNER = "d = Div(x, root)\ne = Erf(d)\na = Add(e, one)\n"
_BY_MUL = "d = Mul(x, root)\ne = Erf(d)\na = Add(e, one)\n"


def _gelu(name: str, body: str, params: object = None, **more: object) -> RegionCase:
    return _found(f"Gelu, {name}", "Gelu", 5, body, params=params or _GELU, **more)


def _not_gelu(name: str, body: str, params: object = None, **more: object) -> RegionCase:
    return _missed(f"Gelu, {name}", body, params=params or _GELU, **more)


CASES += [
    _gelu("(x b) half", _INNER + "p = Mul(x, a)\ny = Mul(p, half)"),
    _gelu("half (b x)", _INNER + "p = Mul(a, x)\ny = Mul(half, p)"),
    _gelu("(x half) b", _INNER + "p = Mul(x, half)\ny = Mul(p, a)"),
    _gelu("b (half x)", _INNER + "p = Mul(half, x)\ny = Mul(a, p)"),
    _gelu("x (b half)", _INNER + "p = Mul(a, half)\ny = Mul(x, p)"),
    _gelu("(half b) x", _INNER + "p = Mul(half, a)\ny = Mul(p, x)"),
    _gelu("x times 1/root", _BY_MUL + "p = Mul(x, a)\ny = Mul(p, half)", _INVERSE),
    _gelu(
        "constants of one element",
        _INNER + "p = Mul(x, half)\ny = Mul(p, a)",
        {k: v.reshape(1) for k, v in _GELU.items()},
    ),
    _gelu(
        "one first",
        "d = Div(x, root)\ne = Erf(d)\na = Add(one, e)\np = Mul(x, a)\ny = Mul(p, half)",
    ),
    _gelu(
        "constants in nodes",
        "root = Constant<value_float=1.4142135>()\nhalf = Constant<value_float=0.5>()\n"
        "one = Constant<value_float=1.0>()\n" + _INNER + "p = Mul(x, half)\ny = Mul(p, a)",
        {"unused": ints(0)},
        single=True,
        no_half="its constants are float32",
    ),
    _gelu(
        "a chain of two",
        _INNER + "p = Mul(x, half)\nz = Mul(p, a)\n"
        "d2 = Div(z, root)\ne2 = Erf(d2)\na2 = Add(e2, one)\np2 = Mul(z, half)\ny = Mul(p2, a2)",
    ),
    _not_gelu("the erf used elsewhere", _INNER + "p = Mul(x, half)\nq = Mul(p, a)\ny = Add(q, e)"),
    _not_gelu(
        "the half of x an output", _INNER + "p = Mul(x, half)\ny = Mul(p, a)", outputs=("y", "p")
    ),
    _not_gelu(
        "another root", _INNER + "p = Mul(x, half)\ny = Mul(p, a)", {**_GELU, "root": np.array(1.5)}
    ),
    _not_gelu(
        "another half", _INNER + "p = Mul(x, half)\ny = Mul(p, a)", {**_GELU, "half": np.array(0.6)}
    ),
    _not_gelu(
        "another one", _INNER + "p = Mul(x, half)\ny = Mul(p, a)", {**_GELU, "one": np.array(1.1)}
    ),
    _not_gelu(
        "a root per element",
        _INNER + "p = Mul(x, half)\ny = Mul(p, a)",
        {**_GELU, "root": np.array([1.4142135, 1.0, 2.0])},
    ),
    _not_gelu(
        "root over x",
        "d = Div(root, x)\ne = Erf(d)\na = Add(e, one)\np = Mul(x, half)\ny = Mul(p, a)",
    ),
    _not_gelu("the half of another value", _INNER + "n = Neg(x)\np = Mul(n, half)\ny = Mul(p, a)"),
    _not_gelu(
        "a constant that is fed",
        _INNER + "p = Mul(x, half)\ny = Mul(p, a)",
        {k: v for k, v in _GELU.items() if k != "half"},
        inputs={"x": ("N", 3), "half": ()},
    ),
    _not_gelu(
        "constants that widen x",
        _INNER + "p = Mul(x, half)\ny = Mul(p, a)",
        {**_GELU, "half": np.full((1, 1, 1), 0.5)},
    ),
]

# -- LayerNormalization ------------------------------------------------------------------------

_LN = {
    "last": ints(-1),
    "two": np.array(2.0),
    "eps": np.array(0.01),
    "w": weights(5),
    "b": weights(5, seed=1),
}
_CENTRE = "m = ReduceMean(x, last)\nc = Sub(x, m)\n"
_REST = "v = ReduceMean(q, last)\ns = Add(v, eps)\nr = Sqrt(s)\nn = Div(c, r)\n"
_POWER = _CENTRE + "q = Pow(c, two)\n" + _REST
_SQUARE = _CENTRE + "q = Mul(c, c)\n" + _REST
_TWICE = _CENTRE + "k = Sub(x, m)\nq = Pow(k, two)\n" + _REST
_END = "g = Mul(n, w)\ny = Add(g, b)"


def _norm(name: str, body: str, members: int = 9, **more: object) -> RegionCase:
    fields = {"params": _LN, "inputs": {"x": ("N", 4, 5)}, **more}
    return _found(f"LayerNormalization, {name}", "LayerNormalization", members, body, **fields)


def _not_norm(name: str, body: str, **more: object) -> RegionCase:
    fields = {"params": _LN, "inputs": {"x": ("N", 4, 5)}, **more}
    return _missed(f"LayerNormalization, {name}", body, **fields)


CASES += [
    _norm("by power", _POWER + _END),
    _norm("by product", _SQUARE + _END),
    _norm(
        "axes an attribute",
        (_POWER + _END).replace("ReduceMean(", "ReduceMean<axes=[-1]>(").replace(", last", ""),
        params={k: v for k, v in _LN.items() if k != "last"},
        opset=13,
    ),
    _norm("subtracted twice", _TWICE + _END, 10),
    _norm("operands the other way", _POWER + "g = Mul(w, n)\ny = Add(b, g)"),
    _norm("axis counted from the front", _POWER + _END, params={**_LN, "last": ints(2)}),
    _not_norm("the mean used elsewhere", _POWER + "g = Mul(n, w)\na = Add(g, b)\ny = Add(a, m)"),
    _not_norm(
        "the root an output",
        _POWER + _END,
        outputs=("y", "r"),
        not_empty="onnxruntime mistakes negative axes of an empty tensor",
    ),
    _not_norm(
        "another power",
        _CENTRE + "a = Abs(c)\nq = Pow(a, two)\n" + _REST + _END,
        params={**_LN, "two": np.array(3.0)},
    ),
    _not_norm(
        "power three",
        _POWER.replace("r = Sqrt(s)", "t = Abs(s)\nr = Sqrt(t)") + _END,
        params={**_LN, "two": np.array(3.0), "eps": np.array(1.0)},
    ),
    _not_norm("another axis", _POWER + _END, params={**_LN, "last": ints(1)}),
    _not_norm("two axes", _POWER + _END, params={**_LN, "last": ints(1, 2)}),
    _not_norm(
        "axes that differ",
        "m = ReduceMean(x, last)\nc = Sub(x, m)\nq = Mul(c, c)\n"
        + _REST.replace("last", "other")
        + _END,
        params={**_LN, "other": ints(1)},
    ),
    _not_norm(
        "the mean of another value",
        "h = Exp(x)\nm = ReduceMean(h, last)\nc = Sub(x, m)\nq = Mul(c, c)\n" + _REST + _END,
    ),
    _not_norm(
        "a weight that is fed",
        _POWER + _END,
        inputs={"x": ("N", 4, 5), "w": (5,)},
        params={k: v for k, v in _LN.items() if k != "w"},
    ),
    _not_norm("a weight per token", _POWER + _END, params={**_LN, "w": weights(4, 5)}),
    _not_norm("a weight of another length", _POWER + _END, inputs={"x": ("N", 4, 1)}, flat=True),
]
