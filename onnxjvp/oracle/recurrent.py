"""NumPy implementations of RNN, GRU and LSTM, with everything that ONNX says of them.

Those of onnx.reference run forwards only, with the activations that are the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxjvp.oracle.registry import Array, kernel

#: activation → the function, and the defaults of alpha and beta
ACTIVATIONS: dict[str, tuple[Callable[[Array, float, float], Array], float, float]] = {
    "Relu": (lambda x, a, b: np.maximum(x, 0), 0, 0),
    "Tanh": (lambda x, a, b: np.tanh(x), 0, 0),
    "Sigmoid": (lambda x, a, b: 0.5 * (1 + np.tanh(0.5 * x)), 0, 0),
    "Affine": (lambda x, a, b: a * x + b, 1, 0),
    "LeakyRelu": (lambda x, a, b: np.where(x >= 0, x, a * x), 0.01, 0),
    "ThresholdedRelu": (lambda x, a, b: np.where(x > a, x, 0), 1, 0),
    "ScaledTanh": (lambda x, a, b: a * np.tanh(b * x), 1, 1),
    "HardSigmoid": (lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5),
    "Elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(np.minimum(x, 0))), 1, 0),
    "Softsign": (lambda x, a, b: x / (1 + np.abs(x)), 0, 0),
    "Softplus": (lambda x, a, b: np.logaddexp(0, x), 0, 0),
}
_WITH_ALPHA = {"Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"}
_WITH_BETA = {"Affine", "ScaledTanh", "HardSigmoid"}

Activation = Callable[[Array], Array]
#: (a step's inputs, the states before it, the weights R, both biases) → the states after it
Cell = Callable[[Array, list[Array]], list[Array]]


@dataclass(frozen=True)
class _Weights:
    """What one direction reads: W, R, its two biases, and peepholes."""

    w: Array
    r: Array
    wb: Array
    rb: Array
    p: Array


def _activations(
    names: Sequence[str], alphas: Sequence[float] | None, betas: Sequence[float] | None
) -> list[Activation]:
    """Functions in order; those that take an alpha or a beta take the next one that is there."""
    alpha, beta = iter(alphas or ()), iter(betas or ())
    found = []
    for name in names:
        named = next(known for known in ACTIVATIONS if known.lower() == name.lower())
        function, a, b = ACTIVATIONS[named]
        a = next(alpha, a) if named in _WITH_ALPHA else a
        b = next(beta, b) if named in _WITH_BETA else b
        found.append(_bound(function, float(np.float32(a)), float(np.float32(b))))
    return found


def _bound(function: Callable[[Array, float, float], Array], a: float, b: float) -> Activation:
    return lambda x: function(x, a, b)


def _directions(direction: str) -> list[bool]:
    """Whether each direction runs from the end."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]


def _run(
    operands: Sequence[Array | None],
    gates: int,
    states: int,
    make: Callable[[_Weights, int], Cell],
    direction: str,
    layout: int,
) -> tuple[Array, ...]:
    """Y, and every state after the last step of each row."""
    x, w, r, b, lens, *first, p = [*operands, *[None] * (8 - len(operands))][:8]
    assert x is not None and w is not None and r is not None
    x = x.swapaxes(0, 1) if layout else x
    size, backwards = r.shape[2], _directions(direction)
    shape = (x.shape[1], size)
    b = np.zeros((len(backwards), 2 * gates * size)) if b is None else b
    p = np.zeros((len(backwards), 3 * size)) if p is None else p
    rows: list[list[Array]] = []
    for d, back in enumerate(backwards):
        start = [_start(first[k], d, layout, shape) for k in range(states)]
        wb, rb = np.split(b[d], 2)
        cell = make(_Weights(w[d], r[d], wb, rb, p[d]), d)
        rows.append(_over_time(x, start, cell, lens, back))
    y = np.stack([row[0] for row in rows], axis=1)
    last = [np.stack([row[1 + k] for row in rows]) for k in range(states)]
    if layout:
        y, last = y.transpose(2, 0, 1, 3), [v.swapaxes(0, 1) for v in last]
    return y, *last


def _start(given: Array | None, d: int, layout: int, shape: tuple[int, int]) -> Array:
    if given is None:
        return np.zeros(shape)
    return given[:, d] if layout else given[d]


def _over_time(
    x: Array, states: list[Array], cell: Cell, lens: Array | None, back: bool
) -> list[Array]:
    y = np.zeros((*x.shape[:2], states[0].shape[1]))
    length = len(x)
    for t in range(length)[:: -1 if back else 1]:
        on = np.ones(x.shape[1], bool) if lens is None else t < lens
        after = cell(x[t], states)
        states = [np.where(on[:, None], a, s) for a, s in zip(after, states, strict=True)]
        y[t] = np.where(on[:, None], after[0], 0)
    return [y, *states]


def _clipped(activations: Sequence[Activation], clip: float | None) -> Iterator[Activation]:
    for activation in activations:
        if clip is None:
            yield activation
        else:
            yield lambda x, f=activation: f(np.clip(x, -clip, clip))  # type: ignore[misc]


@kernel
def RNN(
    *operands: Array | None,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
    outputs: int = 2,
) -> tuple[Array, ...]:
    names = activations or ["Tanh"] * len(_directions(direction))
    functions = list(_clipped(_activations(names, activation_alpha, activation_beta), clip))

    def make(weights: _Weights, d: int) -> Cell:
        def cell(x: Array, states: list[Array]) -> list[Array]:
            inner = x @ weights.w.T + states[0] @ weights.r.T + weights.wb + weights.rb
            return [functions[d](inner)]

        return cell

    return _run(operands, 1, 1, make, direction, layout)[:outputs]


@kernel
def GRU(
    *operands: Array | None,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 2,
) -> tuple[Array, ...]:
    names = activations or ["Sigmoid", "Tanh"] * len(_directions(direction))
    functions = list(_clipped(_activations(names, activation_alpha, activation_beta), clip))

    def make(weights: _Weights, d: int) -> Cell:
        f, g = functions[2 * d : 2 * d + 2]
        r, rb = np.split(weights.r, 3), np.split(weights.rb, 3)

        def cell(x: Array, states: list[Array]) -> list[Array]:
            (h,) = states
            of_x = np.split(x @ weights.w.T + weights.wb, 3, axis=1)
            update, reset = (f(of_x[k] + h @ r[k].T + rb[k]) for k in (0, 1))
            if linear_before_reset:
                hidden = g(of_x[2] + reset * (h @ r[2].T + rb[2]))
            else:
                hidden = g(of_x[2] + (reset * h) @ r[2].T + rb[2])
            return [(1 - update) * hidden + update * h]

        return cell

    return _run(operands, 3, 1, make, direction, layout)[:outputs]


@kernel
def LSTM(
    *operands: Array | None,
    hidden_size: int | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    input_forget: int = 0,
    layout: int = 0,
    outputs: int = 3,
) -> tuple[Array, ...]:
    names = activations or ["Sigmoid", "Tanh", "Tanh"] * len(_directions(direction))
    functions = _activations(names, activation_alpha, activation_beta)

    def make(weights: _Weights, d: int) -> Cell:
        f, g = _clipped(functions[3 * d : 3 * d + 2], clip)
        last = functions[3 * d + 2]
        peep_i, peep_o, peep_f = np.split(weights.p, 3)

        def cell(x: Array, states: list[Array]) -> list[Array]:
            h, c = states
            inner = x @ weights.w.T + weights.wb + h @ weights.r.T + weights.rb
            i, o, forget, new = np.split(inner, 4, axis=1)
            i = f(i + peep_i * c)
            kept = 1 - i if input_forget else f(forget + peep_f * c)
            c = kept * c + i * g(new)
            return [f(o + peep_o * c) * last(c), c]

        return cell

    return _run(operands, 4, 2, make, direction, layout)[:outputs]
