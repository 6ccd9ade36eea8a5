"""Operators as the newest opset that onnx knows defines them, which no onnxruntime runs yet."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Draw, Input, ints, normal, positive, weights, wide
from op_case import OpCase

_UNKNOWN = "onnxruntime knows no such opset"
_ROWS: tuple[tuple[str, dict[str, Input], dict[str, Any], Draw], ...] = (
    ("Celu<alpha=0.4>(x)", {"x": ("N", 3)}, {}, normal),
    ("Mish(x)", {"x": ("N", 3)}, {}, wide),
    ("Swish<alpha=1.7>(x)", {"x": ("N", 3)}, {}, normal),
    ("SwiGLU<alpha=0.7>(x, z)", {"x": ("N", 3), "z": ("N", 3)}, {}, normal),
    ("Mod(x, c)", {"x": ("N", 3)}, {"c": np.array([0.7, -0.9, 1.3])}, wide),
    ("ReduceLogSum(x, a)", {"x": ("N", 3)}, {"a": ints(1)}, positive),
    ("CumProd(x, a)", {"x": ("N", 3)}, {"a": np.array(1)}, normal),
    ("Compress<axis=1>(x, c)", {"x": ("N", 3)}, {"c": np.array([True, False, True])}, normal),
    ("OneHot(i, d, v)", {"v": (2,)}, {"i": ints(0, 2, 7), "d": np.array(3)}, normal),
    ("Unique(x)", {"x": (5,)}, {}, normal),
    ("Range(a, b, d)", {"a": (), "d": ()}, {"b": np.array(2.1)}, positive),
    ("LpNormalization<p=1>(x)", {"x": ("N", 3)}, {}, normal),
    ("RMSNormalization(x, s)", {"x": ("N", 3), "s": (3,)}, {}, normal),
    (
        "GroupNormalization<num_groups=2>(x, s, b)",
        {"x": ("N", 4, 3), "s": (4,)},
        {"b": weights(4)},
        normal,
    ),
)
CASES = [
    OpCase(
        f"{call.split('(')[0]} at opset 28",
        f"y = {call}",
        inputs,
        params,
        draw=draw,
        opset=28,
        no_runtime=_UNKNOWN,
        evaluated=_UNKNOWN,
    )
    for call, inputs, params, draw in _ROWS
]

# -- CausalConvWithState -----------------------------------------------------------------------


def _causal(
    name: str, call: str, inputs: dict[str, Input], declared: dict[str, tuple[int | str, ...]]
) -> OpCase:
    return OpCase(
        f"CausalConvWithState {name}",
        f"y, s = CausalConvWithState{call}",
        inputs,
        outputs=("y", "s"),
        declared=declared,
        sizes={"N": 2, "C": 3, "L": 4, "k": 3, "k1": 2},
        single=True,
        opset=27,
        no_runtime=_UNKNOWN,
        evaluated=_UNKNOWN,
    )


_FIXED: dict[str, Input] = {"x": ("N", 3, "L"), "w": (3, 1, 3)}
#: of these onnx has no definition: it needs the number of channels
_FREE: dict[str, Input] = {"x": ("N", "C", "L"), "w": ("C", 1, "k")}
_STATE: dict[str, tuple[int | str, ...]] = {"y": ("N", "C", "L"), "s": ("N", "C", "k1")}
CAUSAL = [
    _causal("of a number of channels", "(x, w)", _FIXED, {"y": ("N", 3, "L"), "s": ("N", 3, 2)}),
    _causal("of any number of channels", "(x, w)", _FREE, _STATE),
    _causal(
        "of any number of channels, from a past",
        "<activation='silu'>(x, w, b, p)".replace("'", '"'),
        {**_FREE, "b": ("C",), "p": ("N", "C", "k1")},
        _STATE,
    ),
]
CASES += CAUSAL
