"""Pools: largest elements, averages and norms over windows, and MaxPool undone."""

from __future__ import annotations

import numpy as np
from helpers import Input, ints
from op_case import OpCase

_LINE: dict[str, Input] = {"x": ("N", 2, 7)}
_IMAGE: dict[str, Input] = {"x": ("N", 2, 6, 5)}
_VOLUME: dict[str, Input] = {"x": ("N", 2, 4, 3, 3)}

CASES: list[OpCase] = []

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

# -- norms over windows, and MaxPool undone ----------------------------------------------------

_NORMS = {
    **{k: v for k, v in _POOLS.items() if k != "plain"},
    "dilations": "kernel_shape=[2, 2], dilations=[2, 3]",
    **_DILATED,
}
CASES += [
    OpCase(f"LpPool, p {p}", f"y = LpPool<p={p}, kernel_shape=[3, 2]>(x)", _IMAGE)
    for p in (1, 2, 3, 4)
]
CASES += [
    OpCase(f"LpPool, {what}", f"y = LpPool<{attributes}>(x)", _IMAGE)
    for what, attributes in _NORMS.items()
]
CASES += [
    OpCase(
        f"LpPool, {what}, everything dynamic",
        f"y = LpPool<p=3, {_POOLS[what]}>(x)",
        _EVERYWHERE,
        sizes=_SIZES,
    )
    for what in ("pads", "ceil_mode and pads", "SAME_UPPER", "SAME_LOWER")
]
CASES += [
    OpCase("LpPool 1-D", "y = LpPool<kernel_shape=[3], strides=[2]>(x)", _LINE),
    OpCase("LpPool 3-D", "y = LpPool<kernel_shape=[2, 2, 2]>(x)", _VOLUME),
    OpCase("LpPool at opset 11", "y = LpPool<p=3, kernel_shape=[2, 2]>(x)", _IMAGE, opset=11),
    OpCase("LpPool at opset 7", "y = LpPool<kernel_shape=[2, 2]>(x)", _IMAGE, opset=7),
    OpCase("LpPool at opset 22", "y = LpPool<kernel_shape=[2, 2]>(x)", _IMAGE, opset=22),
    *(OpCase(f"GlobalLpPool, p {p}", f"y = GlobalLpPool<p={p}>(x)", _IMAGE) for p in (1, 2, 3)),
    OpCase("GlobalLpPool 1-D", "y = GlobalLpPool(x)", _LINE),
    OpCase(
        "GlobalLpPool with everything dynamic", "y = GlobalLpPool(x)", _EVERYWHERE, sizes=_SIZES
    ),
    OpCase("GlobalLpPool at opset 7", "y = GlobalLpPool(x)", _IMAGE, opset=7),
]
_PLACES = np.array([0, 5, 10, 15, 19, 20, 25, 30, 35, 39, 40, 44, 51, 56, 58, 60], np.int64)
_UNPOOLED = "kernel_shape=[2, 2], strides=[2, 2]"
CASES += [
    OpCase(
        "MaxUnpool",
        f"y = MaxUnpool<{_UNPOOLED}>(x, i)",
        {"x": (2, 2, 2, 2)},
        {"i": _PLACES.reshape(2, 2, 2, 2)},
    ),
    OpCase(
        "MaxUnpool, several to one place",
        f"y = MaxUnpool<{_UNPOOLED}>(x, i)",
        {"x": (2, 2, 2, 2)},
        {"i": np.minimum(_PLACES, 33).reshape(2, 2, 2, 2)},
    ),
    OpCase(
        "MaxUnpool to a shape",
        f"u = MaxUnpool<{_UNPOOLED}>(x, i, s)\ny = Reshape(u, rows)",
        {"x": (2, 2, 2, 2)},
        {"i": _PLACES.reshape(2, 2, 2, 2), "s": ints(2, 2, 5, 5), "rows": ints(4, 25)},
        by_dtype="onnxruntime counts the indices through the larger shape",
        no_dynamic="runtimes do not agree where the indices of a second direction begin",
    ),
    OpCase(
        "MaxUnpool of a MaxPool",
        f"p, i = MaxPool<{_UNPOOLED}>(x)\nq = Tanh(p)\ny = MaxUnpool<{_UNPOOLED}>(q, i)",
        {"x": ("N", 2, 4, 6)},
    ),
    OpCase(
        "MaxUnpool 1-D, pads",
        "y = MaxUnpool<kernel_shape=[3], strides=[2], pads=[1, 0]>(x, i)",
        {"x": (1, 2, 3)},
        {"i": np.array([[[0, 3, 4], [7, 9, 11]]])},
    ),
    OpCase(
        "MaxUnpool of a MaxPool with everything dynamic, at opset 11",
        f"p, i = MaxPool<{_UNPOOLED}>(x)\ny = MaxUnpool<{_UNPOOLED}>(p, i)",
        _EVERYWHERE,
        sizes={"N": 2, "C": 2, "H": 4, "W": 6},
        opset=11,
    ),
]
CASES += [
    OpCase(
        f"{_op}, every attribute, everything dynamic",
        f"y = {_op}<kernel_shape=[2, 3], strides=[2, 1], dilations=[2, 1], pads=[1, 1, 0, 1], "
        f"ceil_mode=1{more}>(x)",
        _EVERYWHERE,
        sizes=_SIZES,
        opset=22,
    )
    for _op, more in (("MaxPool", ""), ("AveragePool", ", count_include_pad=1"), ("LpPool", ""))
]
CASES += [
    OpCase(
        "MaxPool, whose Indices are read, by columns",
        "p, i = MaxPool<kernel_shape=[2, 2], storage_order=1>(x)\nf = Cast<to=FLOAT>(i)\n"
        "y = Mul(p, f)",
        {"x": ("N", 2, 3, 4)},
    ),
]
