"""Convolutions."""

from __future__ import annotations

from helpers import Input, ints, weights
from op_case import OpCase

_LINE: dict[str, Input] = {"x": ("N", 2, 7)}
_IMAGE: dict[str, Input] = {"x": ("N", 2, 6, 5)}
_VOLUME: dict[str, Input] = {"x": ("N", 2, 4, 3, 3)}
_PICTURE: dict[str, Input] = {"x": ("N", 2, "H", "W")}
_SIZED = {"N": 2, "H": 6, "W": 5}
_K1, _K2, _K3 = weights(3, 2, 3), weights(3, 2, 3, 2), weights(3, 2, 2, 2, 2)
_BIAS = weights(3)

CASES = [
    OpCase("Conv 1-D", "y = Conv(x, w, b)", _LINE, {"w": _K1, "b": _BIAS}),
    OpCase("Conv 2-D", "y = Conv(x, w, b)", _IMAGE, {"w": _K2, "b": _BIAS}),
    OpCase("Conv 3-D", "y = Conv(x, w, b)", _VOLUME, {"w": _K3, "b": _BIAS}),
    OpCase("Conv without a bias", "y = Conv(x, w)", _IMAGE, {"w": _K2}),
    OpCase(
        "Conv of a fixed batch", "y = Conv(x, w, b)", {"x": (2, 2, 6, 5)}, {"w": _K2, "b": _BIAS}
    ),
    OpCase(
        "Conv with everything dynamic",
        "y = Conv<pads=[1, 0, 1, 1]>(x, w, b)",
        {"x": ("N", 2, "H", "W")},
        {"w": _K2, "b": _BIAS},
        sizes={"N": 2, "H": 5, "W": 4},
    ),
    OpCase(
        "Conv, strides and pads",
        "y = Conv<strides=[2, 1], pads=[1, 0, 2, 1]>(x, w, b)",
        _IMAGE,
        {"w": _K2, "b": _BIAS},
    ),
    OpCase(
        "Conv, dilations",
        "y = Conv<dilations=[2, 3], kernel_shape=[3, 2]>(x, w)",
        _IMAGE,
        {"w": _K2},
    ),
    OpCase(
        "Conv, groups",
        "y = Conv<group=2>(x, w, b)",
        _IMAGE,
        {"w": weights(4, 1, 3, 2), "b": weights(4)},
    ),
    OpCase(
        "Conv, depthwise",
        "y = Conv<group=2, pads=[1, 1, 1, 1]>(x, w)",
        _IMAGE,
        {"w": weights(2, 1, 3, 3)},
    ),
    *(
        OpCase(
            f"Conv, {pad}",
            f'y = Conv<auto_pad="{pad}", strides=[2, 2]>(x, w, b)',
            _IMAGE,
            {"w": _K2, "b": _BIAS},
        )
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET")
    ),
    OpCase(
        "Conv, all live",
        "y = Conv<strides=[2, 1]>(x, w, b)",
        {**_IMAGE, "w": (3, 2, 3, 2), "b": (3,)},
    ),
    OpCase(
        "Conv, only W live",
        "y = Conv<pads=[1, 1, 1, 1]>(c, w)",
        {"w": (3, 2, 3, 2)},
        {"c": weights(2, 2, 6, 5)},
    ),
    OpCase(
        "Conv, only the bias live",
        "y = Conv(c, w, b)",
        {"b": (3,)},
        {"c": weights(2, 2, 6, 5), "w": _K2},
    ),
    OpCase(
        "Conv, W and B computed from an input",
        "w = Reshape(v, s)\nb = Slice(v, zero, three)\ny = Conv(x, w, b)",
        {**_IMAGE, "v": (36,)},
        {"s": ints(3, 2, 3, 2), "zero": ints(0), "three": ints(3)},
    ),
    OpCase(
        "Conv 1-D, groups, all live",
        "y = Conv<group=2>(x, w, b)",
        {**_LINE, "w": (4, 1, 3), "b": (4,)},
    ),
    OpCase("Conv-1 at opset 7", "y = Conv(x, w, b)", _IMAGE, {"w": _K2, "b": _BIAS}, opset=7),
    OpCase(
        "Conv, depthwise, strides, dilations, everything dynamic",
        "y = Conv<group=2, strides=[2, 2], dilations=[2, 1], pads=[1, 0, 2, 1]>(x, w)",
        _PICTURE,
        {"w": weights(4, 1, 2, 3)},
        sizes=_SIZED,
    ),
    OpCase(
        "Conv 3-D, groups, strides, all live",
        "y = Conv<group=2, strides=[2, 1, 2], pads=[1, 0, 1, 0, 1, 1]>(x, w)",
        {**_VOLUME, "w": (4, 1, 2, 2, 2)},
    ),
    *(
        OpCase(
            f"Conv, groups, strides, dilations, all live, {what}",
            "y = Conv<group=2, strides=[2, 3], dilations=[2, 1], pads=[1, 0, 2, 1]>(x, w, b)",
            {"x": shape, "w": (6, 2, 2, 3), "b": (6,)},
            sizes=_SIZED,
        )
        for what, shape in (("fixed", ("N", 4, 7, 6)), ("dynamic", ("N", 4, "H", "W")))
    ),
    *(
        OpCase(
            f"Conv, {pad}, W live, {what}",
            f'y = Conv<auto_pad="{pad}", strides={strides}, dilations={dilations}>(x, w)',
            {**inputs, "w": (3, 2, 3, 2)},
            sizes=_SIZED,
            no_runtime="dilations beside auto_pad" if what == "dilations" else "",
        )
        for pad in ("SAME_UPPER", "SAME_LOWER")
        for what, inputs, strides, dilations in (
            ("dynamic", _PICTURE, [3, 2], [1, 1]),
            ("dilations", _IMAGE, [2, 2], [2, 3]),
            ("no strides, dynamic", _PICTURE, [1, 1], [1, 1]),
        )
    ),
    *(
        OpCase(
            f"Conv, pads beyond the kernel, W live, strides {strides}",
            f"y = Conv<pads=[3, 2, 4, 3], strides={strides}>(x, w)",
            {**_IMAGE, "w": (3, 2, 3, 2)},
        )
        for strides in ([1, 1], [2, 3])
    ),
    *(
        OpCase(
            f"Conv, strides beyond the kernel, W live, {what}",
            "y = Conv<strides=[4, 3]>(x, w)",
            {**inputs, "w": (3, 2, 2, 2)},
            sizes=_SIZED,
        )
        for what, inputs in (("fixed", _IMAGE), ("dynamic", _PICTURE))
    ),
]

# -- ConvTranspose -----------------------------------------------------------------------------

_T2 = weights(2, 3, 3, 2)
CASES += [
    OpCase(
        "ConvTranspose 1-D",
        "y = ConvTranspose<strides=[2]>(x, w, b)",
        _LINE,
        {"w": weights(2, 3, 3), "b": _BIAS},
    ),
    OpCase("ConvTranspose 2-D", "y = ConvTranspose(x, w, b)", _IMAGE, {"w": _T2, "b": _BIAS}),
    OpCase(
        "ConvTranspose 3-D",
        "y = ConvTranspose<strides=[2, 1, 1]>(x, w)",
        _VOLUME,
        {"w": weights(2, 3, 2, 2, 2)},
    ),
    OpCase(
        "ConvTranspose, output_padding",
        "y = ConvTranspose<strides=[2, 2], output_padding=[1, 0], pads=[1, 0, 0, 1]>(x, w, b)",
        _IMAGE,
        {"w": _T2, "b": _BIAS},
    ),
    OpCase(
        "ConvTranspose, output_shape",
        "y = ConvTranspose<strides=[2, 2], output_shape=[12, 10]>(x, w)",
        _IMAGE,
        {"w": _T2},
    ),
    OpCase(
        "ConvTranspose, groups",
        "y = ConvTranspose<group=2, strides=[2, 2]>(x, w, b)",
        _IMAGE,
        {"w": weights(2, 2, 3, 2), "b": weights(4)},
    ),
    OpCase(
        "ConvTranspose, dilations", "y = ConvTranspose<dilations=[2, 1]>(x, w)", _IMAGE, {"w": _T2}
    ),
    *(
        OpCase(
            f"ConvTranspose, {pad}",
            f'y = ConvTranspose<auto_pad="{pad}", strides=[2, 2]>(x, w)',
            _IMAGE,
            {"w": _T2},
        )
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ),
    OpCase(
        "ConvTranspose, all live",
        "y = ConvTranspose<strides=[2, 2]>(x, w, b)",
        {**_IMAGE, "w": (2, 3, 3, 2), "b": (3,)},
    ),
    OpCase(
        "ConvTranspose, only W live",
        "y = ConvTranspose(c, w)",
        {"w": (2, 3, 3, 2)},
        {"c": weights(2, 2, 3, 3)},
    ),
    OpCase(
        "ConvTranspose with everything dynamic",
        "y = ConvTranspose<strides=[2, 2]>(x, w, b)",
        {"x": ("N", 2, "H", "W")},
        {"w": _T2, "b": _BIAS},
        sizes={"N": 2, "H": 3, "W": 4},
    ),
    OpCase(
        "ConvTranspose at opset 7",
        "y = ConvTranspose<strides=[2, 2]>(x, w, b)",
        _IMAGE,
        {"w": _T2, "b": _BIAS},
        opset=7,
    ),
    *(
        OpCase(
            f"ConvTranspose, {what}, W live, groups {group}",
            f"y = ConvTranspose<group={group}, {attributes}>(x, w)",
            {**inputs, "w": (2, 4 // group, 3, 2)},
            sizes=_SIZED,
            no_runtime="output_padding beyond strides" if "more" in what else "",
        )
        for group in (1, 2)
        for what, inputs, attributes in (
            ("everything", _IMAGE, "strides=[2, 3], pads=[1, 0, 2, 1], dilations=[2, 1]"),
            ("dynamic", _PICTURE, "strides=[2, 3], pads=[1, 0, 2, 1], dilations=[2, 1]"),
            ("more output_padding than strides", _IMAGE, "dilations=[3, 2], output_padding=[2, 1]"),
            ("strides beyond the kernel", _PICTURE, "strides=[4, 3]"),
            ("SAME_LOWER", _PICTURE, 'auto_pad="SAME_LOWER", strides=[2, 2]'),
        )
    ),
]

# -- sizes known at run time only --------------------------------------------------------------

CASES += [
    OpCase(
        f"ConvTranspose, output_shape beyond the kernel{what}",
        "y = ConvTranspose<strides=[3, 2], output_shape=[14, 12]>(x, w)",
        {"x": shape, "w": (2, 3, 3, 3)},
        sizes={"N": 2, "H": 4, "W": 5},
    )
    for what, shape in (("", ("N", 2, 4, 5)), (", everything dynamic", ("N", 2, "H", "W")))
]
CASES += [
    OpCase(
        f"ConvTranspose, output_shape, everything dynamic{', SAME_UPPER' if same else ''}",
        f"y = ConvTranspose<strides=[2, 3], output_shape=[7, 9]{same}>(x, w)",
        {**_PICTURE, "w": (2, 3, 3, 2)},
        sizes={"N": 2, "H": 4, "W": 4},
    )
    for same in ("", ', auto_pad="SAME_UPPER"')
]
CASES += [
    OpCase(
        "Conv, a kernel of unknown size",
        "c = Conv<strides=[2, 1], pads=[1, 0, 0, 1]>(x, w, b)\ny = Reshape(c, rows)",
        {**_PICTURE, "w": (3, 2, "P", "Q"), "b": (3,)},
        {"rows": ints(-1, 3)},
        sizes={**_SIZED, "P": 3, "Q": 2},
    ),
    OpCase(
        "ConvTranspose, a kernel of unknown size",
        "c = ConvTranspose<strides=[2, 1], pads=[1, 0, 0, 1]>(x, w)\ny = Reshape(c, rows)",
        {**_PICTURE, "w": (2, 3, "P", "Q")},
        {"rows": ints(-1, 3)},
        sizes={**_SIZED, "P": 3, "Q": 2},
    ),
]
