"""Batch, layer and local response normalisation."""

from __future__ import annotations

import numpy as np
from helpers import Input, weights
from op_case import OpCase

_IMAGE: dict[str, Input] = {"x": ("N", 3, 2, 4)}
_STATS = {"mean": weights(3, seed=1), "var": 0.5 + np.abs(weights(3, seed=2))}
_SCALE = {"scale": weights(3, seed=3), "shift": weights(3, seed=4)}
_BN = "y = BatchNormalization<epsilon=0.01>(x, scale, shift, mean, var)"

CASES = [
    OpCase("BatchNormalization", _BN, _IMAGE, {**_SCALE, **_STATS}),
    OpCase("BatchNormalization of rows", _BN, {"x": ("N", 3)}, {**_SCALE, **_STATS}),
    OpCase("BatchNormalization 1-D", _BN, {"x": ("N", 3, 5)}, {**_SCALE, **_STATS}),
    OpCase("BatchNormalization 3-D", _BN, {"x": ("N", 3, 2, 2, 2)}, {**_SCALE, **_STATS}),
    OpCase(
        "BatchNormalization, scale and shift live",
        _BN,
        {**_IMAGE, "scale": (3,), "shift": (3,)},
        _STATS,
    ),
    OpCase(
        "BatchNormalization, only the scale live",
        "x = Identity(c)\n" + _BN,
        {"scale": (3,)},
        {"c": weights(2, 3, 2, 4), "shift": weights(3), **_STATS},
    ),
    OpCase(
        "BatchNormalization, only the shift live",
        "x = Identity(c)\n" + _BN,
        {"shift": (3,)},
        {"c": weights(2, 3, 2, 4), "scale": weights(3), **_STATS},
    ),
    OpCase("BatchNormalization-9", _BN, _IMAGE, {**_SCALE, **_STATS}, opset=9),
    OpCase("BatchNormalization-7", _BN, _IMAGE, {**_SCALE, **_STATS}, opset=7),
    OpCase("BatchNormalization-14", _BN, _IMAGE, {**_SCALE, **_STATS}, opset=14),
]

_TRAINING = (
    "BatchNormalization<training_mode=1, momentum=0.7, epsilon=0.01>(x, scale, shift, mean, var)"
)
CASES += [
    OpCase(
        "BatchNormalization in training",
        f"y, m, v = {_TRAINING}",
        _IMAGE,
        {**_SCALE, **_STATS},
        outputs=("y", "m", "v"),
    ),
    OpCase(
        "BatchNormalization in training, y alone",
        f"y, m, v = {_TRAINING}",
        _IMAGE,
        {**_SCALE, **_STATS},
    ),
    OpCase(
        "BatchNormalization in training, one output left out",
        f"y, , v = {_TRAINING}",
        _IMAGE,
        {**_SCALE, **_STATS},
        outputs=("y", "v"),
        evaluated="onnxruntime crashes where an output is left out",
    ),
    OpCase(
        "BatchNormalization in training, of rows",
        f"y, m, v = {_TRAINING}",
        {"x": ("N", 3)},
        {**_SCALE, **_STATS},
        outputs=("y", "m", "v"),
        sizes={"N": 4},
    ),
    OpCase(
        "BatchNormalization in training, all live",
        f"y, m, v = {_TRAINING}",
        {**_IMAGE, "scale": (3,), "shift": (3,), "mean": (3,), "var": (3,)},
        outputs=("y", "m", "v"),
    ),
    OpCase(
        "BatchNormalization in training, only its parameters live",
        f"x = Identity(c)\ny, m, v = {_TRAINING}",
        {"scale": (3,), "shift": (3,)},
        {"c": weights(2, 3, 2, 4), **_STATS},
    ),
    OpCase(
        "BatchNormalization in training, only the statistics live",
        f"x = Identity(c)\nw, m, v = {_TRAINING}\ny = Concat<axis=0>(m, v)",
        {"mean": (3,), "var": (3,)},
        {"c": weights(2, 3, 2, 4), **_SCALE},
        evaluated="onnxruntime writes the running mean over the mean, whoever reads that later",
    ),
]

# -- LayerNormalization ------------------------------------------------------------------------

_TOKENS: dict[str, Input] = {"x": ("N", 4, 5)}
_LAST = {"scale": weights(5, seed=3), "shift": weights(5, seed=4)}
CASES += [
    OpCase("LayerNormalization", "y = LayerNormalization(x, scale, shift)", _TOKENS, _LAST),
    OpCase(
        "LayerNormalization without a shift",
        "y = LayerNormalization<epsilon=0.1>(x, scale)",
        _TOKENS,
        _LAST,
    ),
    OpCase(
        "LayerNormalization over two axes",
        "y = LayerNormalization<axis=1>(x, scale, shift)",
        _TOKENS,
        {"scale": weights(4, 5), "shift": weights(4, 5, seed=4)},
    ),
    OpCase(
        "LayerNormalization, axis -2",
        "y = LayerNormalization<axis=-2>(x, scale)",
        _TOKENS,
        {"scale": weights(4, 5)},
    ),
    OpCase(
        "LayerNormalization, a scale that broadcasts",
        "y = LayerNormalization<axis=1>(x, scale, shift)",
        _TOKENS,
        {"scale": weights(5), "shift": weights(1, 5)},
    ),
    OpCase(
        "LayerNormalization over the batch too",
        "y = LayerNormalization<axis=0>(x, scale)",
        {"x": (2, 3)},
        {"scale": weights(2, 3)},
    ),
    OpCase(
        "LayerNormalization, all live",
        "y = LayerNormalization(x, scale, shift)",
        {**_TOKENS, "scale": (5,), "shift": (5,)},
    ),
    OpCase(
        "LayerNormalization, only its parameters live",
        "y = LayerNormalization(c, scale, shift)",
        {"scale": (5,), "shift": (5,)},
        {"c": weights(2, 4, 5)},
    ),
    OpCase(
        "LayerNormalization, its parameters computed from an input",
        "s = Exp(v)\nb = Neg(v)\ny = LayerNormalization(x, s, b)",
        {**_TOKENS, "v": (5,)},
    ),
    OpCase(
        "LayerNormalization with its statistics",
        "y, m, d = LayerNormalization(x, scale, shift)",
        _TOKENS,
        _LAST,
        outputs=("y", "m", "d"),
        single=True,
    ),
    OpCase(
        "LayerNormalization, everything dynamic",
        "y = LayerNormalization(x, scale, shift)",
        {"x": ("N", "T", 5)},
        _LAST,
        sizes={"N": 2, "T": 3},
    ),
]

# -- LRN ---------------------------------------------------------------------------------------

_MANY: dict[str, Input] = {"x": ("N", 6, 2, 2)}
CASES += [
    OpCase(
        f"LRN, size {size}",
        f"y = LRN<size={size}, alpha=0.5, beta=0.6, bias=1.5>(x)",
        _MANY,
        no_runtime="" if size % 2 else "onnxruntime's LRN takes odd sizes only",
    )
    for size in (1, 3, 4, 5, 8)
]
CASES += [
    OpCase("LRN with its defaults", "y = LRN<size=3>(x)", _MANY),
    OpCase("LRN-1", "y = LRN<size=3, alpha=0.5>(x)", _MANY, opset=7),
    OpCase(
        "LRN of a dynamic picture",
        "y = LRN<size=3, alpha=0.5>(x)",
        {"x": ("N", 4, "H", "W")},
        sizes={"N": 2, "H": 2, "W": 3},
    ),
]
