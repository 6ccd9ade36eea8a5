"""Fourier transforms."""

from __future__ import annotations

import numpy as np
from helpers import Input, ints, weights
from op_case import OpCase

_REAL: dict[str, Input] = {"x": ("N", 6, 1)}
_COMPLEX: dict[str, Input] = {"x": ("N", 6, 2)}
_INVERSE = "onnxruntime divides by a length in single precision"


def _scalar(value: int) -> np.ndarray:
    return np.array(value, np.int64)


CASES = [
    OpCase("DFT of real numbers", "y = DFT<axis=1>(x)", _REAL),
    OpCase("DFT of complex numbers", "y = DFT<axis=1>(x)", _COMPLEX),
    OpCase("DFT, onesided", "y = DFT<axis=1, onesided=1>(x)", _REAL),
    OpCase("DFT, onesided, an odd length", "y = DFT<axis=1, onesided=1>(x)", {"x": ("N", 5, 1)}),
    OpCase("DFT, inverse", "y = DFT<axis=1, inverse=1>(x)", {"x": ("N", 8, 2)}),
    OpCase("DFT, inverse, of real numbers", "y = DFT<axis=1, inverse=1>(x)", {"x": ("N", 8, 1)}),
    OpCase(
        "DFT, inverse, six points",
        "y = DFT<axis=1, inverse=1>(x)",
        _COMPLEX,
        evaluated=_INVERSE,
    ),
    *(
        OpCase(
            f"DFT of {length} points, {what}",
            f"y = DFT<axis=1, {attributes}>(x, n)",
            {"x": ("N", 6, parts)},
            {"n": _scalar(length)},
        )
        for length in (4, 8)
        for what, attributes, parts in (
            ("real", "inverse=0", 1),
            ("complex", "inverse=0", 2),
            ("onesided", "onesided=1", 1),
            ("inverse", "inverse=1", 2),
        )
    ),
    *(
        OpCase(
            f"DFT of a half spectrum to {length} points",
            "y = DFT<axis=1, onesided=1, inverse=1>(x, n)",
            {"x": ("N", 5, 2)},
            {"n": _scalar(length)},
            evaluated=_INVERSE if length & (length - 1) else "",
        )
        for length in (8, 9)
    ),
    OpCase(
        "DFT of a half spectrum",
        "y = DFT<axis=1, onesided=1, inverse=1>(x)",
        {"x": ("N", 5, 2)},
    ),
    OpCase("DFT along the batch", "y = DFT<axis=0>(x)", {"x": (4, 3, 1)}),
    OpCase("DFT along a negative axis", "y = DFT<axis=-2>(x)", {"x": ("N", 3, 4, 2)}),
    OpCase(
        "DFT with everything dynamic",
        "y = DFT<axis=1, onesided=1>(x)",
        {"x": ("N", "T", 1)},
        sizes={"N": 2, "T": 7},
    ),
    OpCase(
        "DFT of a number of points that is fed",
        "f = DFT<axis=1>(x, n)\ny = Reshape(f, rows)",
        {"x": ("N", "T", 2), "n": _scalar(5)},
        {"rows": ints(-1, 10)},
        sizes={"N": 2, "T": 7},
    ),
    OpCase("DFT-20", "y = DFT(x)", {"x": ("N", 3, 4, 1)}, opset=20),
    OpCase(
        "DFT-20 along an axis, onesided",
        "y = DFT<onesided=1>(x, , a)",
        {"x": ("N", 4, 3, 1)},
        {"a": _scalar(1)},
        opset=20,
    ),
    OpCase(
        "DFT-20, inverse, of a half spectrum",
        "y = DFT<inverse=1, onesided=1>(x, , a)",
        {"x": ("N", 5, 3, 2)},
        {"a": _scalar(-3)},
        opset=20,
    ),
    OpCase(
        "DFT there, a square, and back",
        "f = DFT<axis=1>(x)\nq = Mul(f, f)\ny = DFT<axis=1, inverse=1>(q)",
        {"x": ("N", 4, 1)},
    ),
]

CASES += [
    OpCase(
        f"DFT along an axis that is fed, {what}",
        f"f = DFT{attributes}(x{', n' if length else ', '}, a)\ny = Reshape(f, flat)",
        {"x": ("N", 4, 3, parts), "a": _scalar(-3)},
        {"flat": ints(-1, 2), **({"n": _scalar(length)} if length else {})},
        opset=20,
    )
    for what, attributes, parts, length in (
        ("real", "", 1, 0),
        ("complex", "", 2, 0),
        ("onesided", "<onesided=1>", 1, 0),
        ("inverse", "<inverse=1>", 2, 0),
        ("longer", "", 2, 5),
    )
]

# onnx's inference takes an STFT that does not say so for one of all frequencies
_STEP = {"s": _scalar(2)}
_SIGNAL: dict[str, Input] = {"x": ("N", 9, 1)}
CASES += [
    OpCase("STFT", "y = STFT<onesided=1>(x, s, w)", _SIGNAL, {**_STEP, "w": weights(4)}),
    OpCase("STFT, the window live", "y = STFT<onesided=1>(x, s, w)", {**_SIGNAL, "w": (4,)}, _STEP),
    OpCase(
        "STFT, the window alone live",
        "y = STFT<onesided=0>(c, s, w)",
        {"w": (5,)},
        {**_STEP, "c": weights(2, 9, 1)},
    ),
    OpCase("STFT, all frequencies", "y = STFT<onesided=0>(x, s, w)", {**_SIGNAL, "w": (4,)}, _STEP),
    OpCase(
        "STFT of complex numbers",
        "y = STFT<onesided=0>(x, s, w)",
        {"x": ("N", 9, 2), "w": (4,)},
        _STEP,
    ),
    OpCase(
        "STFT without a window",
        "y = STFT<onesided=1>(x, s, , n)",
        _SIGNAL,
        {**_STEP, "n": _scalar(5)},
    ),
    OpCase(
        "STFT with gaps",
        "y = STFT<onesided=1>(x, s, w, n)",
        {**_SIGNAL, "w": (3,)},
        {"s": _scalar(4), "n": _scalar(3)},
    ),
    OpCase(
        "STFT with a Hann window, and everything dynamic",
        "h = HannWindow<output_datatype=FLOAT>(n)\nf = STFT<onesided=1>(x, s, h)\n"
        "y = Reshape(f, rows)",
        {"x": ("N", "T", 1)},
        {**_STEP, "n": _scalar(4), "rows": ints(-1, 6)},
        sizes={"N": 2, "T": 9},
    ),
    OpCase(
        "STFT at opset 22",
        "h = HammingWindow<output_datatype=FLOAT>(n)\n"
        "b = BlackmanWindow<output_datatype=FLOAT>(n)\n"
        "w = Add(h, b)\ny = STFT<onesided=1>(x, s, w)",
        _SIGNAL,
        {**_STEP, "n": _scalar(4)},
        opset=22,
        no_half="onnxruntime makes no window in half precision",
    ),
    OpCase(
        "MelWeightMatrix beside x",
        "m = MelWeightMatrix<output_datatype=FLOAT>(bins, n, rate, low, high)\ny = MatMul(x, m)",
        {"x": ("N", 9), "low": ()},
        {
            "bins": _scalar(4),
            "n": _scalar(16),
            "rate": _scalar(8000),
            "high": np.array(4000.0),
        },
        draws={"low": lambda rng, shape: np.full(shape, 100.0)},
        no_half="onnxruntime makes no weights in half precision",
    ),
]
