"""What a scalar is said to be made of, computed from the model's outputs by definition."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxjvp.verification.point import Values
from onnxjvp.verification.report import Array


@dataclass(frozen=True)
class Loss:
    """A scalar of one output."""

    output: str
    #: (the output, the inputs that the original has not) → the terms that it is the sum of
    terms: Callable[[Array, Values], Array]

    def extra(self, y: Array, dtype: np.dtype[np.generic], rng: np.random.Generator) -> Array:
        """A target like y, or labels of classes along its last axis, for an input of that dtype."""
        if dtype.kind == "i":
            return np.asarray(rng.integers(0, max(y.shape[-1], 1), y.shape[:-1])).astype(dtype)
        size = float(np.sqrt(np.mean(np.square(y[np.isfinite(y)].astype(np.float64))))) or 1.0
        return np.asarray(size * rng.standard_normal(y.shape)).astype(dtype)


def parse(text: str | None, outputs: Mapping[str, Array]) -> Loss | None:
    """What "y", "y[:, 3]" or "squared_error of y" stand for; None if it is none of these."""
    text = (text or "").strip()
    if text in outputs:
        return Loss(text, lambda y, _: y)
    name, _, output = text.partition(" of ")
    if name in _TERMS and output in outputs:
        return Loss(output, _TERMS[name])
    match = re.fullmatch(r"(.*?)\[([^\[\]]*)\]", text, re.DOTALL)
    if match is None or match[1] not in outputs:
        return None
    entries = [part.strip() for part in match[2].split(",") if part.strip()]
    index = tuple(_entry(part) for part in entries)
    return Loss(match[1], lambda y, _: y[index])


def _entry(text: str) -> int | slice | type(Ellipsis):  # type: ignore[valid-type]
    if text == "...":
        return Ellipsis
    if ":" not in text:
        return int(text)
    return slice(*(int(part) if part else None for part in text.split(":")))


def _cross_entropy(y: Array, extra: Values) -> Array:
    (labels,) = extra.values()
    shifted = y - y.max(axis=-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.asarray(-np.take_along_axis(logs, labels[..., None].astype(np.int64), axis=-1))


def _squared_error(y: Array, extra: Values) -> Array:
    (target,) = extra.values()
    return np.asarray(0.5 * np.square(y - target))


_TERMS: dict[str, Callable[[Array, Values], Array]] = {
    "sum": lambda y, _: y,
    "squared_norm": lambda y, _: 0.5 * np.square(y),
    "squared_error": _squared_error,
    "cross_entropy": _cross_entropy,
}
