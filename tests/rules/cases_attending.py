"""LinearAttention and FlexAttention: a recurrence, and graphs that change scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from helpers import Draw, Input
from op_case import OpCase

_NO_KERNEL = "onnxruntime has no kernel for it"


def _gentle(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Keys that leave states as large as they are."""
    return np.asarray(0.5 * rng.standard_normal(shape))


def _falling(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Logarithms of decays."""
    return np.asarray(-rng.uniform(0.1, 1.0, shape))


_GATES: Mapping[str, Draw] = {"g": _falling}


def linear(
    name: str,
    rule: str,
    optional: str = "",
    more: Mapping[str, Input] | None = None,
    *,
    queries: int = 2,
    steps: int | str = 3,
    scale: str = "",
    **given: Any,
) -> OpCase:
    """LinearAttention of two heads with keys of 2 and values of 3 numbers."""
    domain = "com.microsoft." if given.get("opset") == 18 else ""
    return OpCase(
        name,
        f"y, z = {domain}LinearAttention<q_num_heads={queries}, kv_num_heads=2, "
        f'update_rule="{rule}"{scale}>(q, k, v{optional})',
        {
            "q": ("N", steps, 2 * queries),
            "k": ("N", steps, 4),
            "v": ("N", steps, 6),
            **(more or {}),
        },
        outputs=("y", "z"),
        declared={"y": ("N", steps, 3 * queries), "z": ("N", 2, 2, 3)},
        sizes={"N": 2, "T": 3},
        draw=_gentle,
        draws=_GATES,
        single=True,
        **{"opset": 27, "no_runtime": _NO_KERNEL, **given},
    )


_PAST: dict[str, Input] = {"s": ("N", 2, 2, 3)}
_RUNTIME = {"opset": 18, "no_runtime": ""}

LINEAR = [
    linear("LinearAttention", "linear"),
    linear("LinearAttention of a number of steps known at run time", "linear", steps="T"),
    linear(
        "LinearAttention that decays by the number, grouped, from a past",
        "gated",
        ", s, g",
        {**_PAST, "g": ("N", 3, 4)},
        queries=4,
        scale=", scale=0.7",
    ),
    linear("LinearAttention of differences", "delta", ", , , b", {"b": ("N", 3, 1)}),
    linear(
        "LinearAttention of differences that decays by the head",
        "gated_delta",
        ", , g, b",
        {"g": ("N", 3, 2), "b": ("N", 3, 2)},
    ),
    linear(
        "LinearAttention of the runtime",
        "gated_delta",
        ", s, g, b",
        {**_PAST, "g": ("N", 3, 4), "b": ("N", 3, 2)},
        queries=4,
        **_RUNTIME,
    ),
]

_Q: dict[str, Input] = {"q": ("N", 4, 3, 4), "k": ("N", 4, 5, 4), "v": ("N", 4, 5, 2)}
_GROUPED: dict[str, Input] = {**_Q, "k": ("N", 2, 5, 4), "v": ("N", 2, 5, 2)}
_LOWER = np.where(np.tril(np.ones((3, 5), bool), 1), 0.0, -np.inf)


def flexible(
    name: str,
    attributes: str = "",
    inputs: Mapping[str, Input] = _Q,
    params: Mapping[str, Any] | None = None,
) -> OpCase:
    return OpCase(
        name,
        f"y = ai.onnx.preview.FlexAttention{attributes}(q, k, v)",
        inputs,
        params or {},
        opset=26,
        no_runtime=_NO_KERNEL,
        evaluated=_NO_KERNEL,
    )


FLEXIBLE = [
    flexible("FlexAttention"),
    flexible("FlexAttention, grouped and scaled", "<scale=0.3>", _GROUPED),
    flexible(
        "FlexAttention under a mask, its scores capped",
        "<score_mod=m (a) => (r) {t = Tanh(a) c = CastLike(w, a) r = Add(t, c)}>",
        params={"w": _LOWER},
    ),
    flexible(
        "FlexAttention that reads live values around it",
        "<score_mod=m (a) => (r) {c = CastLike(b, a) r = Mul(a, c)}, "
        "prob_mod=n (a) => (r) {c = CastLike(g, a) r = Mul(a, c)}>",
        {**_Q, "b": (4, 1, 1), "g": (3, 5)},
    ),
    flexible(
        "FlexAttention of places",
        """<score_mod=m (a) => (r) {
            s = Shape<start=2, end=3>(a) i = Constant<value_ints=[0]>() l = Squeeze(s, i)
            o = Constant<value_int=0>() e = Constant<value_int=1>() p = Range(o, l, e)
            j = Constant<value_ints=[-1, 1]>() c = Reshape(p, j) d = CastLike(c, a)
            r = Sub(a, d)}>""".replace("\n", " "),
    ),
]

CASES = [*LINEAR, *FLEXIBLE]
