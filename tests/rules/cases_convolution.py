"""Convolutions and pools."""

from __future__ import annotations

import numpy as np
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

# -- pools -------------------------------------------------------------------------------------

_POOLS = {
    "plain": "kernel_shape=[2, 2]",
    "strides": "kernel_shape=[3, 2], strides=[2, 2]",
    "pads": "kernel_shape=[3, 3], strides=[2, 1], pads=[1, 0, 1, 2]",
    "ceil_mode": "kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1",
    "ceil_mode and pads": "kernel_shape=[3, 2], strides=[2, 2], pads=[1, 1, 1, 0], ceil_mode=1",
    "SAME_UPPER": 'kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_UPPER"',
    "SAME_LOWER": 'kernel_shape=[3, 2], strides=[2, 2], auto_pad="SAME_LOWER"',
    "VALID": 'kernel_shape=[3, 2], strides=[2, 2], auto_pad="VALID"',
}
_DILATED = {
    "dilations and ceil_mode": "kernel_shape=[2, 2], strides=[2, 2], dilations=[2, 3], ceil_mode=1",
    "dilations, ceil_mode and pads": (
        "kernel_shape=[2, 2], strides=[3, 2], dilations=[2, 2], ceil_mode=1, pads=[1, 1, 0, 1]"
    ),
}
_EVERYWHERE: dict[str, Input] = {"x": ("N", "C", "H", "W")}
_SIZES = {"N": 2, "C": 3, "H": 6, "W": 5}
for _op in ("MaxPool", "AveragePool"):
    CASES += [
        OpCase(f"{_op}, {what}", f"y = {_op}<{attributes}>(x)", _IMAGE)
        for what, attributes in _POOLS.items()
    ]
    CASES += [
        OpCase(f"{_op} 1-D", f"y = {_op}<kernel_shape=[3], strides=[2]>(x)", _LINE),
        OpCase(f"{_op} 3-D", f"y = {_op}<kernel_shape=[2, 2, 2]>(x)", _VOLUME),
        OpCase(
            f"{_op} of a fixed batch", f"y = {_op}<kernel_shape=[2, 2]>(x)", {"x": (1, 2, 4, 4)}
        ),
        OpCase(
            f"{_op} with everything dynamic",
            f"y = {_op}<kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1>(x)",
            _EVERYWHERE,
            sizes=_SIZES,
        ),
        OpCase(
            f"{_op} at opset 7",
            f"y = {_op}<kernel_shape=[2, 2], pads=[1, 0, 0, 1]>(x)",
            _IMAGE,
            opset=7,
        ),
    ]
    CASES.append(
        OpCase(
            f"{_op}, dilations",
            f"y = {_op}<kernel_shape=[2, 2], dilations=[2, 3]>(x)",
            _IMAGE,
            opset=18 if _op == "MaxPool" else 19,
        )
    )
CASES += [
    OpCase(
        f"AveragePool, count_include_pad, {what}",
        f"y = AveragePool<count_include_pad=1, {_POOLS[what]}>(x)",
        _IMAGE,
    )
    for what in ("pads", "ceil_mode and pads", "SAME_UPPER")
]
CASES += [
    OpCase(
        f"AveragePool, {what}, {'all' if all_count else 'inner'} count",
        f"y = AveragePool<count_include_pad={all_count}, {attributes}>(x)",
        _IMAGE,
        opset=19,
    )
    for what, attributes in _DILATED.items()
    for all_count in (0, 1)
]
CASES += [
    OpCase(f"AveragePool, {what}", f"y = AveragePool<{attributes}>(x)", _IMAGE)
    for what, attributes in (
        ("gaps between windows", "kernel_shape=[1, 2], strides=[3, 3]"),
        ("side by side", "kernel_shape=[3, 5], strides=[3, 5]"),
        ("side by side, rows left over", "kernel_shape=[4, 2], strides=[4, 2]"),
        ("pads, no strides", "kernel_shape=[3, 3], pads=[1, 0, 1, 2]"),
    )
]
CASES += [
    OpCase(
        f"AveragePool, {what}, everything dynamic, {'all' if all_count else 'inner'} count",
        f"y = AveragePool<count_include_pad={all_count}, {_POOLS[what]}>(x)",
        _EVERYWHERE,
        sizes=_SIZES,
    )
    for what in ("pads", "ceil_mode and pads", "SAME_UPPER", "SAME_LOWER")
    for all_count in (0, 1)
]
CASES += [
    OpCase(
        "MaxPool with Indices",
        "y, i = MaxPool<kernel_shape=[2, 2]>(x)",
        _IMAGE,
        outputs=("y", "i"),
        excluded=("i",),
    ),
    OpCase(
        "MaxPool with Indices, by columns",
        "y, i = MaxPool<kernel_shape=[2, 2], storage_order=1>(x)",
        _IMAGE,
        outputs=("y", "i"),
        excluded=("i",),
    ),
    OpCase(
        "MaxPool of negative numbers in padding",
        "n = Sub(x, big)\ny = MaxPool<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(n)",
        _IMAGE,
        {"big": np.array(100.0)},
    ),
]
for _op in ("GlobalAveragePool", "GlobalMaxPool"):
    CASES += [
        OpCase(_op, f"y = {_op}(x)", _IMAGE),
        OpCase(f"{_op} 1-D", f"y = {_op}(x)", _LINE),
        OpCase(f"{_op} 3-D", f"y = {_op}(x)", _VOLUME),
        OpCase(f"{_op} with everything dynamic", f"y = {_op}(x)", _EVERYWHERE, sizes=_SIZES),
        OpCase(f"{_op} at opset 7", f"y = {_op}(x)", _IMAGE, opset=7),
    ]
