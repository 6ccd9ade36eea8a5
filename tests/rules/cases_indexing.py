"""Operators that choose, place or count elements by index."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from helpers import Array, Input, ints, weights
from op_case import OpCase

_CUBE: dict[str, Input] = {"x": ("N", 3, 4)}
_SIZES = {"N": 2, "C": 3, "W": 4}
_ALL_DYNAMIC: dict[str, Input] = {"x": ("N", "C", "W")}

# -- TopK --------------------------------------------------------------------------------------

_TWO = {"k": ints(2)}
_INDICES = {"outputs": ("y", "i"), "excluded": ("i",)}
CASES = [
    OpCase("TopK", "y, i = TopK(x, k)", _CUBE, _TWO, **_INDICES),
    OpCase("TopK, its values alone", "y, i = TopK(x, k)", _CUBE, _TWO),
    OpCase("TopK, smallest, axis 1", "y, i = TopK<largest=0, axis=1>(x, k)", _CUBE, _TWO),
    OpCase("TopK of the batch", "y, i = TopK<axis=0>(x, k)", {"x": (3, 2)}, _TWO),
    OpCase("TopK, axis -2, not sorted", "y, i = TopK<axis=-2, sorted=0>(x, k)", _CUBE, _TWO),
    OpCase("TopK, k fed", "y, i = TopK(x, k)", {"x": ("N", 4), **_TWO}),
    OpCase("TopK of a vector", "y, i = TopK(x, k)", {"x": (4,)}, {"k": ints(3)}),
    OpCase("TopK of everything dynamic", "y, i = TopK(x, k)", _ALL_DYNAMIC, _TWO, sizes=_SIZES),
    OpCase(
        "TopK, its indices used",
        "v, i = TopK(x, k)\nw = GatherElements<axis=-1>(x, i)\ny = Mul(v, w)",
        _CUBE,
        _TWO,
    ),
    OpCase("TopK-1", "y, i = TopK<k=2>(x)", {"x": (2, 4)}, opset=9),
    OpCase("TopK-1, axis 1", "y, i = TopK<k=2, axis=1>(x)", {"x": (2, 3, 4)}, opset=7),
    OpCase("TopK-10", "y, i = TopK(x, k)", _CUBE, _TWO, opset=10),
    OpCase("TopK-24", "y, i = TopK(x, k)", _CUBE, _TWO, opset=24),
]

# -- Compress, Unique --------------------------------------------------------------------------

_SOME = {"c": np.array([True, False, True])}
CASES += [
    OpCase("Compress", "y = Compress<axis=1>(x, c)", _CUBE, _SOME),
    OpCase("Compress of the batch", "y = Compress<axis=0>(x, c)", {"x": (3, 2)}, _SOME),
    OpCase("Compress, axis -1, fewer conditions", "y = Compress<axis=-1>(x, c)", _CUBE, _SOME),
    OpCase("Compress of all", "y = Compress(x, c)", {"x": (2, 3)}, _SOME),
    OpCase("Compress of a vector", "y = Compress(x, c)", {"x": (4,)}, _SOME),
    OpCase("Compress, fed", "y = Compress<axis=1>(x, c)", {**_CUBE, **_SOME}),
    OpCase(
        "Compress of everything dynamic",
        "y = Compress<axis=1>(x, c)",
        {**_ALL_DYNAMIC, **_SOME},
        sizes=_SIZES,
    ),
    OpCase(
        "Compress of all, dynamic", "y = Compress(x, c)", {"x": ("P", 3), **_SOME}, sizes={"P": 2}
    ),
    OpCase(
        "Compress by the sign of x",
        "f = Flatten<axis=0>(x)\nv = Squeeze(f, zero)\nc = Greater(v, low)\ny = Compress(x, c)",
        {"x": (2, 5)},
        {"zero": ints(0), "low": np.array(0.0)},
    ),
    OpCase("Compress-11", "y = Compress<axis=1>(x, c)", _CUBE, _SOME, opset=11),
    OpCase(
        "Compress-9",
        "y = Compress<axis=1>(x, c)",
        _CUBE,
        {"c": np.array([True, True, True])},
        opset=9,
    ),
]


def _twice(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """All elements different, but that is not what matters here."""
    return rng.permutation(np.prod(shape)).reshape(shape) + rng.uniform(0, 0.5, shape)


CASES += [
    OpCase("Unique", "y = Unique(x)", {"x": (5,)}, draw=_twice),
    OpCase("Unique, not sorted", "y = Unique<sorted=0>(x)", {"x": (2, 3)}, draw=_twice),
    OpCase("Unique, flattened", "y = Unique(x)", {"x": ("P", 3)}, sizes={"P": 2}, draw=_twice),
    OpCase("Unique of columns", "y = Unique<axis=1>(x)", {"x": (2, 3)}, draw=_twice),
    OpCase(
        "Unique with its indices",
        "y, i, j, n = Unique<axis=-1>(x)",
        {"x": (2, 3)},
        outputs=("y", "i", "j", "n"),
        excluded=("i", "j", "n"),
        draw=_twice,
    ),
    OpCase(
        "Unique, of which one comes twice",
        "d = Concat<axis=0>(x, x)\ny = Unique(d)",
        {"x": (3,)},
        draw=_twice,
    ),
    OpCase("Unique, its inverse alone", "u, , j = Unique(x)\ny = Gather(u, j)", {"x": (4,)}),
]

# -- OneHot, Range -----------------------------------------------------------------------------

_CLASSES = {"i": np.array([[0, 2, 7], [-1, 1, 0]]), "d": np.array(4)}
_ONE_HOT = "OneHot(i, d, v)"
CASES += [
    OpCase("OneHot", f"y = {_ONE_HOT}", {"v": (2,)}, _CLASSES),
    *(
        OpCase(f"OneHot, axis {a}", f"y = OneHot<axis={a}>(i, d, v)", {"v": (2,)}, _CLASSES)
        for a in (0, 1, -2)
    ),
    OpCase("OneHot, a depth of rank 1", f"y = {_ONE_HOT}", {"v": (2,)}, {**_CLASSES, "d": ints(3)}),
    OpCase("OneHot, fed", f"y = {_ONE_HOT}", {"v": (2,), **_CLASSES}),
    OpCase(
        "OneHot of indices and a depth that are floats",
        "z = Mul(x, zero)\ni = Add(z, at)\nd = ReduceSum<keepdims=0>(i)\ny = OneHot(i, d, v)",
        {"x": (3,), "v": (2,)},
        {"zero": np.array(0.0), "at": np.array([0.0, 2.0, 1.0])},
    ),
    OpCase(
        "OneHot beside x",
        "i = ArgMax<axis=1, keepdims=0>(x)\nh = OneHot(i, d, v)\ny = Mul(x, h)",
        {"x": ("N", 4)},
        {"d": np.array(4), "v": np.array([0.0, 1.0])},
    ),
    OpCase(
        "OneHot-9",
        f"y = {_ONE_HOT}",
        {"v": (2,)},
        {"i": ints(0, 2, 7), "d": np.array(3)},
        opset=9,
    ),
]
_NO_HALF_RANGE = "onnxruntime's Range takes no float16"
_ENDS: dict[str, Input] = {"a": (), "b": (), "d": ()}


def _start(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.1, 0.2, shape))


def _limit(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(2.05, 2.15, shape))


def _delta(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.52, 0.57, shape))


CASES += [
    OpCase(
        f"Range, live {', '.join(live)}",
        "y = Range(a, b, d)",
        dict.fromkeys(live, ()),
        {k: np.array(v) for k, v in {"a": 0.1, "b": 2.1, "d": 0.6}.items() if k not in live},
        draws={"a": _start, "b": _limit, "d": _delta},
        no_half=_NO_HALF_RANGE,
    )
    for live in (("a",), ("d",), ("a", "d"), ("a", "b", "d"))
]
CASES.append(
    OpCase(
        "Range-11",
        "y = Range(a, b, d)",
        {"a": ()},
        {"b": np.array(2.1), "d": np.array(0.6)},
        draw=_start,
        opset=11,
        no_half=_NO_HALF_RANGE,
    )
)

# -- scattering with a reduction ---------------------------------------------------------------

#: two updates of one element
_AT = {"i": np.array([[0, 0], [2, 0]])}
_AT_ND = {"i": np.array([[1, 2], [0, 0], [1, 2], [-1, -1]])}
_reduced: list[OpCase] = []
for _how in ("mul", "max", "min"):
    _body = f'y = ScatterElements<axis=1, reduction="{_how}">(x, i, u)'
    _nd = f'y = ScatterND<reduction="{_how}">(x, i, u)'
    _reduced += [
        OpCase(f"ScatterElements, {_how}", _body, {"x": (2, 3), "u": (2, 2)}, _AT),
        OpCase(
            f"ScatterElements, {_how}, only the data live",
            _body,
            {"x": (2, 3)},
            {**_AT, "u": weights(2, 2)},
        ),
        OpCase(
            f"ScatterElements, {_how}, only the updates live",
            _body,
            {"u": (2, 2)},
            {**_AT, "x": 0.1 * weights(2, 3)},
        ),
        OpCase(
            f"ScatterElements, {_how}, axis -2",
            f'y = ScatterElements<axis=-2, reduction="{_how}">(x, i, u)',
            {"x": (3, 2), "u": (3, 2)},
            {"i": np.array([[0, -1], [0, 2], [1, -3]])},
        ),
        OpCase(
            f"ScatterElements, {_how}, dynamic",
            _body,
            {"x": ("P", "W"), "u": ("P", 2), **_AT},
            sizes={"P": 2, "W": 3},
        ),
        OpCase(f"ScatterND, {_how}", _nd, {"x": (2, 3), "u": (4,)}, _AT_ND),
        OpCase(
            f"ScatterND, {_how}, of rows",
            _nd,
            {"x": (4, 3), "u": (3, 3)},
            {"i": np.array([[1], [3], [1]])},
        ),
        OpCase(
            f"ScatterND, {_how}, one value thrice",
            f'y = ScatterND<reduction="{_how}">(x, i, x)',
            {"x": (3,)},
            {"i": np.array([[1], [2], [1]])},
        ),
    ]
_reduced += [
    OpCase(
        "ScatterND-16, mul",
        'y = ScatterND<reduction="mul">(x, i, u)',
        {"x": (2, 3), "u": (4,)},
        _AT_ND,
        opset=16,
    ),
    OpCase(
        "ScatterElements-16, mul",
        'y = ScatterElements<axis=1, reduction="mul">(x, i, u)',
        {"x": (2, 3), "u": (2, 2)},
        _AT,
        opset=16,
    ),
]


def _zero_first(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    numbers = rng.standard_normal(shape)
    numbers[0] = 0
    return numbers


_reduced += [
    OpCase(
        f"ScatterND, mul, with a zero in {where}",
        'y = ScatterND<reduction="mul">(x, i, u)',
        {"x": (3,), "u": (4,)},
        {"i": np.array([[0], [0], [1], [0]])},
        draws={where: _zero_first},
    )
    for where in ("x", "u")
]
_NO_HALF = "onnxruntime has no such kernel of float16"
CASES += [
    replace(case, no_half=_NO_HALF if "ND" in case.name or "mul" in case.name else "")
    for case in _reduced
]
CASES += [
    OpCase(
        "Scatter",
        "y = Scatter<axis=1>(x, i, u)",
        {"x": (2, 3), "u": (2, 2)},
        {"i": np.array([[0, 2], [1, 0]])},
        opset=9,
    ),
    OpCase(
        "Scatter at opset 10",
        "y = Scatter(x, i, u)",
        {"x": (3,), "u": (2,)},
        {"i": ints(2, 0)},
        opset=10,
    ),
]

# -- TensorScatter -----------------------------------------------------------------------------

_CACHE: dict[str, Input] = {"x": ("N", 2, 4, 3)}
_NEWS: dict[str, Input] = {"u": ("N", 2, 2, 3)}
_WHERE = {"w": ints(1, 2)}
CASES += [
    OpCase(
        "TensorScatter",
        "y = TensorScatter(x, u, w)",
        {**_CACHE, **_NEWS},
        _WHERE,
        opset=24,
        not_empty="the places are of two samples",
    ),
    OpCase("TensorScatter at the start", "y = TensorScatter(x, u)", {**_CACHE, **_NEWS}, opset=24),
    OpCase(
        "TensorScatter, circular",
        'y = TensorScatter<mode="circular">(x, u, w)',
        {"x": (2, 4, 3), "u": (2, 2, 3)},
        {"w": ints(3, 5)},
        opset=24,
    ),
    OpCase(
        "TensorScatter, axis 1, only the cache live",
        "y = TensorScatter<axis=1>(x, u, w)",
        {"x": (2, 4, 3)},
        {**_WHERE, "u": weights(2, 2, 3)},
        opset=24,
    ),
    OpCase(
        "TensorScatter, axis -1, only the update live",
        "y = TensorScatter<axis=-1>(x, u, w)",
        {"u": (2, 3, 2)},
        {**_WHERE, "x": weights(2, 3, 4)},
        opset=24,
    ),
    OpCase(
        "TensorScatter, everything dynamic",
        "y = TensorScatter(x, u, w)",
        {"x": ("B", "S", "D"), "u": ("B", "T", "D"), **_WHERE},
        sizes={"B": 2, "S": 4, "T": 2, "D": 3},
        opset=24,
    ),
]

# -- sizes that are fed ------------------------------------------------------------------------

CASES += [
    OpCase("Tile, repeats fed", "y = Tile(x, r)", {"x": ("N", 3), "r": ints(2, 3)}),
    OpCase(
        "Tile, repeats fed, everything dynamic",
        "y = Tile(x, r)",
        {"x": ("N", "C", "W"), "r": ints(1, 2, 1)},
        sizes=_SIZES,
    ),
    OpCase("Trilu, k fed", "y = Trilu(x, k)", {"x": ("N", 3, 3), "k": np.array(-1)}),
    OpCase("CumSum, axis fed", "y = CumSum(x, a)", {**_CUBE, "a": np.array(-2)}),
    OpCase(
        "Bernoulli beside x",
        "p = Sigmoid(x)\nb = Bernoulli<seed=3.0>(p)\ny = Mul(x, b)",
        {"x": (2, 6)},
        random=True,
        by_dtype="from one seed onnxruntime draws other numbers in other dtypes",
    ),
    OpCase(
        "RandomNormal beside x",
        "r = RandomNormal<shape=[2, 4], seed=1.0>()\nc = Cast<to=FLOAT>(r)\ny = Mul(x, c)",
        {"x": (2, 4)},
        random=True,
    ),
]
