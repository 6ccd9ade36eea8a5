"""RNN, GRU and LSTM: directions, layouts, activations, rows that end early, all operands live."""

from __future__ import annotations

from typing import Any

import numpy as np
from helpers import Array, weights
from op_case import OpCase

_H, _I = 4, 3
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_STATES = {"RNN": ("h",), "GRU": ("h",), "LSTM": ("h", "c")}
#: two rows: one ends before the other
_LENS = np.array([5, 3], np.int32)
#: onnxruntime's GRU kills the process on an empty batch, so no batch is called N
_SIZES = {"B": 2, "T": 5}


def _weights(op: str, directions: int, peepholes: bool) -> dict[str, Array]:
    gates = _GATES[op]
    found = {
        "w": weights(directions, gates * _H, _I, seed=80),
        "r": 0.5 * weights(directions, gates * _H, _H, seed=81),
        "b": weights(directions, 2 * gates * _H, seed=82),
    }
    if peepholes:
        found["p"] = weights(directions, 3 * _H, seed=83)
    return found


def _case(
    name: str,
    op: str,
    *,
    direction: str = "forward",
    attributes: str = "",
    given: str = "w r b",
    live: str = "",
    lens: bool = False,
    layout: int = 0,
    outputs: str = "y",
    x: Array | None = None,
    **more: Any,
) -> OpCase:
    """A recurrent node. `given` and `live` name operands (w r b p h c); live ones are inputs."""
    count = 2 if direction == "bidirectional" else 1
    states = [s for s in _STATES[op] if s in given.split() + live.split()]
    values = {k: v for k, v in _weights(op, count, True).items() if k in given.split()}
    state = ("B", count, _H) if layout else (count, "B", _H)
    inputs: dict[str, Any] = {"x": ("B", "T", _I) if layout else ("T", "B", _I)}
    shapes = {k: v.shape for k, v in _weights(op, count, True).items()}
    inputs |= {k: shapes[k] for k in live.split() if k in shapes}
    inputs |= {f"{s}0": state for s in states if s in live.split()}
    values |= {
        f"{s}0": weights(*(_SIZES["B"] if d == "B" else d for d in state), seed=84)
        for s in states
        if s in given.split()
    }
    if x is not None:
        values["x"] = x
        del inputs["x"]
    if lens:
        values["lens"] = _LENS
    known = {**inputs, **values}
    slots = [k if k in known else "" for k in ("x", "w", "r", "b", "lens", "h0", "c0", "p")]
    results = [o if o in outputs.split() else "" for o in ("y", "yh", "yc")[: 1 + len(_STATES[op])]]
    text = ", ".join([f"hidden_size={_H}", f'direction="{direction}"', f"layout={layout}"])
    body = f"{', '.join(results)} = {op}<{text}{attributes}>({', '.join(slots).rstrip(', ')})"
    return OpCase(
        name,
        body,
        inputs,
        values,
        outputs=tuple(outputs.split()),
        sizes=_SIZES,
        **more,
    )


def _functions(*names: str, alpha: str = "", beta: str = "") -> str:
    listed = ", ".join(f'"{name}"' for name in names)
    more = (f", activation_alpha=[{alpha}]" if alpha else "") + (
        f", activation_beta=[{beta}]" if beta else ""
    )
    return f", activations=[{listed}]{more}"


_ALL = {"RNN": "w r b h", "GRU": "w r b h", "LSTM": "w r b h c p"}
_ENDS = {"RNN": "y yh", "GRU": "y yh", "LSTM": "y yh yc"}
_BATCHWISE = "its recurrent kernels take no layout of 1"

CASES = [
    _case("RNN", "RNN"),
    _case("GRU", "GRU"),
    _case("LSTM", "LSTM"),
    *(
        _case(
            f"{op}, all live, {direction}",
            op,
            direction=direction,
            given="",
            live=_ALL[op],
            outputs=_ENDS[op],
        )
        for op in _GATES
        for direction in ("forward", "reverse", "bidirectional")
    ),
    *(
        _case(
            f"{op}, rows that end, {direction}",
            op,
            direction=direction,
            lens=True,
            live="h c",
            outputs=_ENDS[op],
        )
        for op in _GATES
        for direction in ("forward", "reverse", "bidirectional")
    ),
    *(
        _case(
            f"{op}, batch first",
            op,
            layout=1,
            direction="bidirectional",
            live="h c",
            outputs=_ENDS[op],
            no_runtime=_BATCHWISE,
        )
        for op in _GATES
    ),
    *(
        _case(f"{op}, the last state alone, no bias", op, given="w r", outputs="yh")
        for op in _GATES
    ),
    *(_case(f"{op}, first states alone", op, live="h c", x=weights(5, 2, _I)) for op in _GATES),
    *(
        _case(f"RNN, {name}", "RNN", attributes=_functions(name, alpha=alpha, beta=beta))
        for name, alpha, beta in (
            ("Relu", "", ""),
            ("Sigmoid", "", ""),
            ("Affine", "0.5", "0.25"),
            ("LeakyRelu", "0.125", ""),
            ("ThresholdedRelu", "0.25", ""),
            ("ScaledTanh", "1.5", "0.75"),
            ("HardSigmoid", "", ""),
            ("Elu", "", ""),
            ("Softsign", "", ""),
            ("Softplus", "", ""),
        )
    ),
    _case("RNN, clip", "RNN", attributes=", clip=1.25", lens=True),
    _case(
        "GRU, reset after",
        "GRU",
        attributes=", linear_before_reset=1",
        given="",
        live=_ALL["GRU"],
        outputs="y yh",
    ),
    _case(
        "GRU, reset after, rows that end",
        "GRU",
        attributes=", linear_before_reset=1",
        lens=True,
        direction="bidirectional",
        outputs="y yh",
    ),
    _case(
        "GRU, reset after, its bias alone",
        "GRU",
        attributes=", linear_before_reset=1",
        given="w r",
        live="b",
    ),
    _case("GRU, its bias alone", "GRU", given="w r", live="b"),
    _case(
        "GRU, clip and other functions",
        "GRU",
        attributes=", clip=1.25" + _functions("HardSigmoid", "Softsign"),
    ),
    _case("GRU, reset after, clip", "GRU", attributes=", clip=1.25, linear_before_reset=1"),
    _case("LSTM, peepholes", "LSTM", given="w r b p c"),
    _case(
        "LSTM, peepholes, rows that end",
        "LSTM",
        given="w r b",
        live="p",
        lens=True,
        direction="bidirectional",
        outputs="y yh yc",
    ),
    _case("LSTM, coupled gates", "LSTM", attributes=", input_forget=1", outputs="y yh yc"),
    _case(
        "LSTM, coupled gates and peepholes",
        "LSTM",
        attributes=", input_forget=1",
        given="w r b",
        live="p",
    ),
    _case("LSTM, clip", "LSTM", attributes=", clip=1.25", given="w r b p"),
    _case(
        "LSTM, other functions", "LSTM", attributes=_functions("HardSigmoid", "Softsign", "Relu")
    ),
]
