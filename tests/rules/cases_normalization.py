"""Batch, layer and local response normalisation."""

from __future__ import annotations

import numpy as np
from helpers import Input, positive, weights, wide
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
    OpCase(
        "BatchNormalization, all live",
        _BN,
        {**_IMAGE, "scale": (3,), "shift": (3,), "mean": (3,), "var": (3,)},
        draws={"var": positive},
    ),
    *(
        OpCase(
            f"BatchNormalization, only the {live} live",
            "x = Identity(c)\n" + _BN,
            {live: (3,)},
            {"c": weights(2, 3, 2, 4), **_SCALE, other: _STATS[other]},
            draw=positive,
        )
        for live, other in (("mean", "var"), ("var", "mean"))
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
        "BatchNormalization in training, only the mean live",
        "y, m, v = BatchNormalization<training_mode=1, momentum=0.7>(c, s, s, x, s)",
        {"x": (3,)},
        {"c": weights(2, 3, 4), "s": weights(3) ** 2},
        outputs=("y", "m", "v"),
        excluded=("y", "v"),
        evaluated="onnxruntime writes the running mean over the mean, whoever reads that later",
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
        "LayerNormalization, statistics that the scale does not enter",
        "y, m, v = LayerNormalization(c, x)",
        {"x": (4,)},
        {"c": weights(2, 3, 4)},
        outputs=("y", "m", "v"),
        excluded=("m", "v"),
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
    *(
        OpCase(
            f"LRN of any number of channels, size {size}",
            f"y = LRN<size={size}, alpha=0.5>(x)",
            {"x": ("N", "C", 2, 2)},
            sizes={"N": 2, "C": 5},
            no_runtime="" if size % 2 else "onnxruntime's LRN takes odd sizes only",
        )
        for size in (3, 4)
    ),
]

# -- RMSNormalization --------------------------------------------------------------------------

_RMS = "y = RMSNormalization"
CASES += [
    OpCase("RMSNormalization", f"{_RMS}(x, scale)", _TOKENS, {"scale": weights(5)}, opset=23),
    OpCase(
        "RMSNormalization over two axes",
        f"{_RMS}<axis=1, epsilon=0.1>(x, scale)",
        _TOKENS,
        {"scale": weights(4, 5)},
        opset=23,
    ),
    OpCase(
        "RMSNormalization, axis -2, a scale that broadcasts",
        f"{_RMS}<axis=-2>(x, scale)",
        _TOKENS,
        {"scale": weights(5)},
        opset=23,
    ),
    OpCase(
        "RMSNormalization over the batch too",
        f"{_RMS}<axis=0>(x, scale)",
        {"x": (2, 3)},
        {"scale": weights(1, 3)},
        opset=24,
    ),
    OpCase(
        "RMSNormalization of a vector",
        f"{_RMS}(x, scale)",
        {"x": (4,)},
        {"scale": weights(1)},
        opset=23,
    ),
    OpCase(
        "RMSNormalization, both live", f"{_RMS}(x, scale)", {**_TOKENS, "scale": (5,)}, opset=23
    ),
    OpCase(
        "RMSNormalization, only the scale live",
        f"{_RMS}(c, scale)",
        {"scale": (5,)},
        {"c": weights(2, 4, 5)},
        opset=23,
    ),
    OpCase(
        "RMSNormalization, everything dynamic",
        f"{_RMS}(x, scale)",
        {"x": ("N", "T", "D"), "scale": ("D",)},
        sizes={"N": 2, "T": 3, "D": 4},
        opset=23,
    ),
]

# -- InstanceNormalization, GroupNormalization -------------------------------------------------

_PLANES: dict[str, Input] = {"x": ("N", 4, 2, 3)}
_FOUR = {"scale": weights(4, seed=3), "shift": weights(4, seed=4)}
_INSTANCE = "InstanceNormalization<epsilon=0.01>(x, scale, shift)"
_GROUP = "GroupNormalization<num_groups=2, epsilon=0.01>(x, scale, shift)"
_AMBIGUOUS = "onnxruntime's GroupNormalization asks what -1 of no elements is"
for _body, _opset, _empty in ((_INSTANCE, 18, ""), (_GROUP, 21, _AMBIGUOUS)):
    _name = _body.split("<")[0]
    CASES += [
        *(
            OpCase(
                f"{_name}{what}", f"y = {_body}", {"x": x}, _FOUR, opset=_opset, not_empty=_empty
            )
            for what, x in (
                ("", ("N", 4, 2, 3)),
                (" 1-D", ("N", 4, 5)),
                (" 3-D", ("N", 4, 2, 1, 3)),
                (", fixed shape", (2, 4, 2, 3)),
            )
        ),
        OpCase(
            f"{_name}, all live",
            f"y = {_body}",
            {**_PLANES, "scale": (4,), "shift": (4,)},
            opset=_opset,
            not_empty=_empty,
        ),
        *(
            OpCase(
                f"{_name}, only the {live} live",
                f"c = Floor(x)\ny = {_body.replace('x,', 'c,')}",
                {"x": (2, 4, 5), live: (4,)},
                {other: weights(4)},
                opset=_opset,
                draws={"x": wide},
            )
            for live, other in (("scale", "shift"), ("shift", "scale"))
        ),
        OpCase(
            f"{_name}, everything dynamic",
            f"y = {_body}",
            {"x": ("N", "C", "H", "W")},
            _FOUR,
            sizes={"N": 2, "C": 4, "H": 2, "W": 3},
            opset=_opset,
            not_empty=_empty,
        ),
    ]
CASES += [
    OpCase("InstanceNormalization-6", f"y = {_INSTANCE}", _PLANES, _FOUR, opset=7),
    OpCase("InstanceNormalization-22", f"y = {_INSTANCE}", _PLANES, _FOUR, opset=22),
    *(
        OpCase(
            f"GroupNormalization, {groups} groups",
            f"y = GroupNormalization<num_groups={groups}>(x, scale, shift)",
            _PLANES,
            _FOUR,
            opset=21,
            not_empty=_AMBIGUOUS,
        )
        for groups in (1, 4)
    ),
]

# -- MeanVarianceNormalization -----------------------------------------------------------------

_MVN = "y = MeanVarianceNormalization<axes="
_FLOATS = "the function body has float32 constants"
CASES += [
    OpCase(
        f"MeanVarianceNormalization{what}",
        f"{_MVN}{axes}>(x)",
        {"x": x},
        sizes={"N": 2, "C": 3, "H": 2, "W": 4},
        opset=opset,
        single=True,
        no_half=_FLOATS,
    )
    for what, x, axes, opset in (
        ("", ("N", 3, 2, 4), [0, 2, 3], 18),
        (" of a fixed shape", (2, 3, 2, 4), [0, 2, 3], 18),
        (" of an axis", ("N", 5), [-1], 18),
        (" of all axes", (3, 4), [1, 0], 18),
        ("-9", (2, 3, 2, 4), [0, 2, 3], 9),
        (", everything dynamic", ("N", "C", "H", "W"), [0, 2, 3], 18),
    )
]

# -- LpNormalization ---------------------------------------------------------------------------

for _p in (1, 2):
    _LP = f"y = LpNormalization<p={_p}"
    CASES += [
        OpCase(f"LpNormalization, p {_p}", f"{_LP}>(x)", _TOKENS),
        *(
            OpCase(f"LpNormalization, p {_p}, axis {axis}", f"{_LP}, axis={axis}>(x)", _TOKENS)
            for axis in (0, 1, -2)
        ),
        OpCase(f"LpNormalization, p {_p}, of a vector", f"{_LP}>(x)", {"x": (4,)}),
        OpCase(
            f"LpNormalization, p {_p}, everything dynamic",
            f"{_LP}, axis=1>(x)",
            {"x": ("N", "C", "W")},
            sizes={"N": 2, "C": 3, "W": 2},
        ),
        OpCase(f"LpNormalization-1, p {_p}", f"{_LP}>(x)", opset=7),
        OpCase(f"LpNormalization-22, p {_p}", f"{_LP}>(x)", opset=22),
    ]
