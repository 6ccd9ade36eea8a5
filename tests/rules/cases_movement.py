"""Operators that move elements."""

from __future__ import annotations

import numpy as np
from helpers import Input, ints, weights
from op_case import OpCase

_CUBE: dict[str, Input] = {"x": ("N", 3, 4)}
_FIXED: dict[str, Input] = {"x": (2, 3, 4)}
_IMAGE: dict[str, Input] = {"x": ("N", 4, 2, 2)}
_SYMBOLS: dict[str, Input] = {"x": ("A", "B", "C")}
_SIZES = {"A": 3, "B": 4, "C": 5}
_BIG = 2**63 - 1

# -- Reshape and the like ----------------------------------------------------------------------

_NO_MINUS_ONE = "an axis of an empty tensor cannot be inferred"

CASES = [
    OpCase(
        "Reshape, batch kept",
        "y = Reshape(x, s)",
        _CUBE,
        {"s": ints(0, -1)},
        not_empty=_NO_MINUS_ONE,
    ),
    OpCase("Reshape, batch inferred", "y = Reshape(x, s)", _CUBE, {"s": ints(-1, 12)}),
    OpCase("Reshape, batch merged", "y = Reshape(x, s)", _CUBE, {"s": ints(-1, 4)}),
    OpCase("Reshape, batch literal", "y = Reshape(x, s)", _FIXED, {"s": ints(2, 12)}),
    OpCase("Reshape to a vector", "y = Reshape(x, s)", _CUBE, {"s": ints(-1)}),
    OpCase("Reshape, allowzero", "y = Reshape<allowzero=1>(x, s)", _FIXED, {"s": ints(3, 8)}),
    OpCase("Reshape of a scalar", "y = Reshape(x, s)", {"x": ()}, {"s": ints(1, 1)}),
    OpCase("Reshape to a scalar", "y = Reshape(x, s)", {"x": (1, 1)}, {"s": ints()}),
    OpCase(
        "Reshape, computed from the shape",
        "full = Shape(x)\nn = Gather<axis=0>(full, zero)\ns = Concat<axis=0>(n, rest)\n"
        "y = Reshape(x, s)",
        _CUBE,
        {"zero": ints(0), "rest": ints(2, 6)},
    ),
    OpCase(
        "Reshape, several dynamic axes",
        "y = Reshape(x, s)",
        {"x": ("N", "T", 4)},
        {"s": ints(0, 0, 2, 2)},
        sizes={"N": 2, "T": 3},
    ),
    OpCase(
        "Reshape by a shape that is fed", "y = Reshape(x, s)", {"x": ("N", 12), "s": ints(-1, 3)}
    ),
    OpCase(
        "Reshape-5",
        "y = Reshape(x, s)",
        _CUBE,
        {"s": ints(0, -1)},
        opset=7,
        not_empty=_NO_MINUS_ONE,
    ),
    OpCase("Flatten", "y = Flatten(x)", _CUBE),
    *(OpCase(f"Flatten, axis {a}", f"y = Flatten<axis={a}>(x)", _CUBE) for a in (0, 2, 3, -1, -2)),
    OpCase("Flatten-1", "y = Flatten<axis=1>(x)", _CUBE, opset=7),
    OpCase("Transpose", "y = Transpose(x)", _CUBE),
    *(
        OpCase(f"Transpose {perm}", f"y = Transpose<perm={perm}>(x)", _CUBE)
        for perm in ([0, 2, 1], [1, 0, 2], [2, 0, 1])
    ),
    OpCase("Transpose of a vector", "y = Transpose(x)", {"x": (3,)}),
    OpCase("Squeeze", "y = Squeeze(x, a)", {"x": ("N", 1, 3, 1)}, {"a": ints(1, -1)}),
    OpCase("Squeeze of all", "y = Squeeze(x)", {"x": (1, 3, 1)}),
    OpCase("Squeeze of the batch", "y = Squeeze(x, a)", {"x": (1, 3)}, {"a": ints(0)}),
    OpCase("Squeeze-11", "y = Squeeze<axes=[1, 3]>(x)", {"x": ("N", 1, 3, 1)}, opset=11),
    OpCase("Squeeze-1", "y = Squeeze<axes=[1]>(x)", {"x": ("N", 1, 3)}, opset=7),
    OpCase("Unsqueeze", "y = Unsqueeze(x, a)", {"x": ("N", 3)}, {"a": ints(1, -1)}),
    OpCase("Unsqueeze in front", "y = Unsqueeze(x, a)", {"x": ("N", 3)}, {"a": ints(0)}),
    OpCase("Unsqueeze of a scalar", "y = Unsqueeze(x, a)", {"x": ()}, {"a": ints(0, 1)}),
    OpCase("Unsqueeze-11", "y = Unsqueeze<axes=[0, 2]>(x)", {"x": ("N", 3)}, opset=11),
    OpCase("Expand", "y = Expand(x, s)", {"x": ("N", 1, 3)}, {"s": ints(1, 4, 1)}),
    OpCase("Expand in rank", "y = Expand(x, s)", {"x": ("N", 3)}, {"s": ints(5, 1, 3)}),
    OpCase("Expand of a scalar", "y = Expand(x, s)", {"x": ()}, {"s": ints(2, 3)}),
    OpCase("Expand of the batch", "y = Expand(x, s)", {"x": (1, 3)}, {"s": ints(4, 1)}),
    OpCase("Expand by a shorter shape", "y = Expand(x, s)", {"x": ("N", 2, 1)}, {"s": ints(3)}),
    OpCase(
        "Expand to the shape of another",
        "s = Shape(c)\ny = Expand(x, s)",
        {"x": (1, 3), "c": ("N", 3)},
    ),
    OpCase("Tile", "y = Tile(x, r)", _CUBE, {"r": ints(1, 2, 3)}),
    OpCase("Tile of the batch", "y = Tile(x, r)", {"x": ("N", 3)}, {"r": ints(3, 1)}),
    OpCase("Tile-6", "y = Tile(x, r)", {"x": ("N", 3)}, {"r": ints(1, 2)}, opset=7),
    OpCase("Trilu", "y = Trilu(x)", {"x": ("N", 3, 3)}),
    OpCase(
        "Trilu, lower and shifted",
        "y = Trilu<upper=0>(x, k)",
        {"x": ("N", 3, 3)},
        {"k": np.array(1)},
    ),
    OpCase("CumSum", "y = CumSum(x, a)", _CUBE, {"a": np.array(1)}),
    OpCase(
        "CumSum, exclusive, reversed, of the batch",
        "y = CumSum<exclusive=1, reverse=1>(x, a)",
        _CUBE,
        {"a": np.array(0)},
    ),
    OpCase("CumSum, negative axis", "y = CumSum(x, a)", _CUBE, {"a": np.array(-1)}),
    OpCase(
        "ReverseSequence",
        "y = ReverseSequence<batch_axis=0, time_axis=1>(x, l)",
        _FIXED,
        {"l": ints(3, 2)},
    ),
    OpCase(
        "ReverseSequence, time first",
        "y = ReverseSequence<batch_axis=1, time_axis=0>(x, l)",
        {"x": ("T", 2, 3)},
        {"l": ints(3, 2)},
        sizes={"T": 4},
    ),
    *(
        OpCase(f"DepthToSpace {mode}", f'y = DepthToSpace<blocksize=2, mode="{mode}">(x)', _IMAGE)
        for mode in ("DCR", "CRD")
    ),
    OpCase("DepthToSpace-1", "y = DepthToSpace<blocksize=2>(x)", _IMAGE, opset=7),
    OpCase("SpaceToDepth", "y = SpaceToDepth<blocksize=2>(x)", _IMAGE),
]

# -- Slice -------------------------------------------------------------------------------------


def _slice(
    name: str, starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None
) -> OpCase:
    given = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    params = {key: ints(*values) for key, values in given.items() if values is not None}
    names = ", ".join(key if key in params else "" for key in given).rstrip(", ")
    return OpCase(f"Slice, {name}", f"y = Slice(x, {names})", _CUBE, params)


CASES += [
    _slice("one axis", [1], [3], [2], None),
    _slice("negative bounds", [-3], [-1], [-1], None),
    _slice("to the end", [1], [_BIG], [1], None),
    _slice("backwards", [_BIG], [-_BIG], [2], [-1]),
    _slice("backwards by two", [3], [0], [2], [-2]),
    _slice("the batch backwards", [-1], [-_BIG], [0], [-1]),
    _slice("the batch", [1], [_BIG], [0], None),
    _slice("several axes", [1, 0], [3, 2], [2, 1], [2, 1]),
    _slice("axes left out", [0, 1, 1], [_BIG, 3, 4], None, None),
    _slice("axes left out, steps given", [0, 1, 1], [_BIG, 3, 4], None, [1, 1, 2]),
    OpCase(
        "Slice of nothing",
        "z = Slice(x, a, a, axis)\ny = Concat<axis=2>(z, x)",
        _CUBE,
        {"a": ints(2), "axis": ints(2)},
    ),
    OpCase(
        "Slice with bounds that are fed",
        "y = Slice(x, a, b, axis)",
        {**_CUBE, "a": ints(1), "b": ints(3)},
        {"axis": ints(2)},
    ),
    OpCase(
        "Slice along axes that are fed",
        "y = Slice(x, a, b, axis)",
        {**_CUBE, "axis": ints(2)},
        {"a": ints(1), "b": ints(3)},
    ),
    OpCase(
        "Slice of half the batch, computed",
        "s = Shape(x)\nn = Gather(s, zero)\nh = Div(n, two)\ny = Slice(x, zero, h, zero)",
        _CUBE,
        {"zero": ints(0), "two": ints(2)},
    ),
    *(
        OpCase(
            f"Slice with bounds that are fed, {what}",
            f"y = Slice({operands})",
            {**_SYMBOLS, "a": np.array(starts, kind), "b": np.array(ends, kind)},
            {"axis": np.array([2, 1], kind), "step": np.array([1, 1], kind)},
            sizes=_SIZES,
        )
        for what, operands, starts, ends, kind in (
            ("from the end", "x, a, b, axis", [-3, 1], [100, -1], np.int64),
            ("beyond the edges", "x, a, b, axis, step", [-30, 1], [100, 100], np.int64),
            ("int32", "x, a, b, axis, step", [-3, 1], [100, -1], np.int32),
        )
    ),
    OpCase(
        "Slice with bounds that are fed, axes left out",
        "z = Slice(x, a, b)\ny = ReduceSum<keepdims=0>(z)",
        {**_SYMBOLS, "a": ints(-3, 1, 0), "b": ints(100, -1, 2)},
        sizes=_SIZES,
    ),
    OpCase(
        "Slice with steps that are fed",
        "y = Slice(x, a, b, axis, step)",
        {**_SYMBOLS, "step": ints(-2, -1)},
        {"a": ints(-1, 3), "b": ints(-100, 0), "axis": ints(2, 1)},
        sizes=_SIZES,
    ),
    OpCase(
        "Slice backwards, dynamic",
        "y = Slice(x, a, b, axis, step)",
        _SYMBOLS,
        {"a": ints(-1, 4), "b": ints(-100, 0), "axis": ints(0, 2), "step": ints(-1, -2)},
        sizes=_SIZES,
    ),
    OpCase("Slice-1", "y = Slice<starts=[1], ends=[3], axes=[2]>(x)", _CUBE, opset=9),
    OpCase("Slice-1 without axes", "y = Slice<starts=[0, 1], ends=[2, 3]>(x)", _CUBE, opset=7),
    OpCase(
        "Slice-10",
        "y = Slice(x, a, b, axis, step)",
        _CUBE,
        {"a": ints(3), "b": ints(0), "axis": ints(2), "step": ints(-1)},
        opset=10,
    ),
]

# -- Split and Concat --------------------------------------------------------------------------

CASES += [
    OpCase("Split", "y, z = Split<axis=1, num_outputs=2>(x)", {"x": ("N", 4)}, outputs=("y", "z")),
    OpCase(
        "Split, a last one smaller",
        "y, z = Split<axis=1, num_outputs=2>(x)",
        _CUBE,
        outputs=("y", "z"),
    ),
    OpCase(
        "Split, uneven", "y, z = Split<axis=2>(x, s)", _CUBE, {"s": ints(1, 3)}, outputs=("y", "z")
    ),
    OpCase("Split, one output dead", "a, y = Split<axis=-1>(x, s)", _CUBE, {"s": ints(1, 3)}),
    OpCase(
        "Split of a fixed batch",
        "y, z = Split<axis=0, num_outputs=2>(x)",
        {"x": (4, 3)},
        outputs=("y", "z"),
    ),
    OpCase(
        "Split of the batch",
        "y, z = Split(x, s)",
        {"x": (3, 2)},
        {"s": ints(1, 2)},
        outputs=("y", "z"),
    ),
    OpCase("Split-2", "y, z = Split<axis=1, split=[1, 2]>(x)", _CUBE, outputs=("y", "z"), opset=11),
    OpCase("Split-2, even", "y, z = Split<axis=2>(x)", _CUBE, outputs=("y", "z"), opset=7),
    OpCase(
        "Split-13",
        "y, z = Split<axis=1>(x, s)",
        _CUBE,
        {"s": ints(1, 2)},
        outputs=("y", "z"),
        opset=13,
    ),
    OpCase("Split-13, even", "y, z = Split<axis=2>(x)", _CUBE, outputs=("y", "z"), opset=13),
    OpCase("Concat, both live", "y = Concat<axis=1>(a, b)", {"a": ("N", 3), "b": ("N", 2)}),
    OpCase("Concat, the same twice", "y = Concat<axis=1>(x, x)"),
    OpCase("Concat, one dead", "y = Concat<axis=1>(x, c)", {"x": (2, 3)}, {"c": weights(2, 2)}),
    OpCase("Concat, first dead", "y = Concat<axis=-1>(c, x)", {"x": (2, 3)}, {"c": weights(2, 2)}),
    OpCase(
        "Concat, a dead one of dynamic size",
        "s = Shape(x)\nf = ConstantOfShape(s)\nc = Cast<to=FLOAT>(f)\ny = Concat<axis=1>(x, c)",
    ),
    OpCase(
        "Concat, dead and large", "y = Concat<axis=1>(x, c)", {"x": (1, 3)}, {"c": weights(1, 5000)}
    ),
    OpCase(
        "Concat of batches",
        "y = Concat<axis=0>(a, b)",
        {"a": ("N", 3), "b": ("M", 3)},
        sizes={"N": 2, "M": 1},
    ),
    OpCase(
        "Concat of batches, one dead",
        "y = Concat<axis=-2>(a, c)",
        {"a": ("N", 3)},
        {"c": weights(1, 3)},
    ),
    OpCase("Concat of one", "y = Concat<axis=0>(x)"),
    OpCase("Concat of three", "y = Concat<axis=1>(a, c, a)", {"a": (2, 3)}, {"c": weights(2, 1)}),
    OpCase("Concat-4", "y = Concat<axis=1>(a, b)", {"a": ("N", 3), "b": ("N", 2)}, opset=7),
]

# -- Gather and Scatter ------------------------------------------------------------------------

_NO_SUM = "onnxruntime does not add float16 in Scatter"

CASES += [
    OpCase("Gather", "y = Gather<axis=1>(x, i)", _CUBE, {"i": ints(2, 0, 2)}),
    OpCase("Gather, negative indices", "y = Gather<axis=-1>(x, i)", _CUBE, {"i": ints(-1, 0, -4)}),
    OpCase("Gather by a scalar", "y = Gather<axis=2>(x, i)", _CUBE, {"i": np.array(1)}),
    OpCase(
        "Gather by a matrix", "y = Gather<axis=1>(x, i)", _CUBE, {"i": np.array([[0, 1], [2, 2]])}
    ),
    OpCase(
        "Gather of the batch",
        "y = Gather<axis=0>(x, i)",
        _CUBE,
        {"i": ints(1, 0, 1)},
        not_empty="it has no rows 0 and 1",
    ),
    OpCase(
        "Gather, a live embedding",
        "y = Gather(e, i)",
        {"e": (5, 3), "i": np.array([[1, 4], [0, 1]])},
    ),
    OpCase(
        "Gather, an embedding computed from an input",
        "e = Reshape(v, s)\ny = Gather(e, i)",
        {"v": (15,), "i": ints(1, 4, 1)},
        {"s": ints(5, 3)},
    ),
    OpCase("Gather of a vector", "y = Gather(x, i)", {"x": (4,)}, {"i": np.array(2)}),
    OpCase("Gather by int32", "y = Gather<axis=1>(x, i)", _CUBE, {"i": np.array([1], np.int32)}),
    OpCase("Gather-1", "y = Gather<axis=1>(x, i)", _CUBE, {"i": ints(2, 0)}, opset=7),
    *(
        OpCase(
            f"Gather, duplicate and negative indices, axis {axis}",
            f"y = Gather<axis={axis}>(x, i)",
            {**_SYMBOLS, "i": np.array([[-1, 0, 2], [-1, 2, -1]])},
            sizes=_SIZES,
        )
        for axis in (0, 1, -1)
    ),
    OpCase(
        "Gather by a scalar, dynamic",
        "y = Gather<axis=1>(x, i)",
        _SYMBOLS,
        {"i": np.array(-2)},
        sizes=_SIZES,
    ),
    OpCase(
        "Gather by a matrix of one",
        "y = Gather<axis=1>(x, i)",
        {"x": (3, 4, 5)},
        {"i": np.array([[-2]])},
    ),
    OpCase(
        "GatherElements, dynamic",
        "y = GatherElements<axis=1>(x, i)",
        {**_SYMBOLS, "i": np.array([[[-1, 0], [1, -1]], [[0, 0], [2, 2]]])},
        sizes=_SIZES,
    ),
    OpCase(
        "GatherElements",
        "y = GatherElements<axis=1>(x, i)",
        {"x": (2, 3)},
        {"i": np.array([[0, 2, -1], [1, 1, 0]])},
    ),
    OpCase(
        "GatherElements of the batch",
        "y = GatherElements(x, i)",
        {"x": (2, 3)},
        {"i": np.array([[0, 1, 1]])},
    ),
    OpCase("GatherND", "y = GatherND(x, i)", {"x": (2, 3)}, {"i": np.array([[0, 2], [1, -1]])}),
    OpCase(
        "GatherND, batched",
        "y = GatherND<batch_dims=1>(x, i)",
        {"x": (2, 3, 4)},
        {"i": np.array([[1], [2]])},
    ),
    OpCase(
        "ScatterElements",
        "y = ScatterElements<axis=1>(x, i, v)",
        {"x": (2, 3)},
        {"i": np.array([[0, 2], [1, 0]]), "v": weights(2, 2)},
    ),
    OpCase(
        "ScatterElements, both live",
        "y = ScatterElements<axis=1>(x, i, v)",
        {"x": (2, 3), "v": (2, 2)},
        {"i": np.array([[0, 2], [1, 0]])},
    ),
    OpCase(
        "ScatterElements, only updates live",
        "y = ScatterElements<axis=1>(c, i, v)",
        {"v": (2, 2)},
        {"i": np.array([[0, 2], [1, 0]]), "c": weights(2, 3)},
    ),
    OpCase(
        "ScatterElements, adding",
        'y = ScatterElements<axis=1, reduction="add">(x, i, v)',
        {"x": (2, 3), "v": (2, 2)},
        {"i": np.array([[0, 0], [1, 0]])},
        no_half=_NO_SUM,
    ),
    OpCase(
        "ScatterND",
        "y = ScatterND(x, i, v)",
        {"x": (4, 3), "v": (2, 3)},
        {"i": np.array([[2], [0]])},
    ),
    OpCase(
        "ScatterND, adding",
        'y = ScatterND<reduction="add">(x, i, v)',
        {"x": (4, 3), "v": (2, 3)},
        {"i": np.array([[2], [2]])},
        no_half=_NO_SUM,
    ),
    OpCase(
        "ScatterND, only updates live",
        "y = ScatterND(c, i, v)",
        {"v": (2, 3)},
        {"i": np.array([[2], [0]]), "c": weights(4, 3)},
    ),
]

# -- Pad ---------------------------------------------------------------------------------------

_PADS = {"p": ints(0, 1, 0, 0, 0, 2)}
CASES += [
    OpCase("Pad", "y = Pad(x, p)", _CUBE, _PADS),
    OpCase("Pad with a fill", "y = Pad(x, p, c)", _CUBE, {**_PADS, "c": np.array(1.5)}),
    *(
        OpCase(f"Pad, {mode}", f'y = Pad<mode="{mode}">(x, p)', _CUBE, _PADS)
        for mode in ("reflect", "edge")
    ),
    OpCase(
        "Pad, wrap",
        'y = Pad<mode="wrap">(x, p)',
        _CUBE,
        _PADS,
        opset=19,
        not_empty="onnxruntime cannot wrap an empty tensor",
    ),
    OpCase(
        "Pad of the batch",
        "y = Pad(x, p, c)",
        _CUBE,
        {"p": ints(1, 0, 0, 2, 0, 0), "c": np.array(1.5)},
    ),
    OpCase(
        "Pad of named axes",
        "y = Pad(x, p, c, a)",
        _CUBE,
        {"p": ints(1, 2), "c": np.array(1.5), "a": ints(-1)},
    ),
    OpCase(
        "Pad of named axes, no fill", "y = Pad(x, p, , a)", _CUBE, {"p": ints(1, 2), "a": ints(2)}
    ),
    OpCase("Pad that crops", "y = Pad(x, p)", _CUBE, {"p": ints(0, -1, 0, 0, 0, -2)}),
    *(
        OpCase(
            f"Pad by pads that are fed, {mode}",
            f'y = Pad<mode="{mode}">(x, p, , a)',
            {**_SYMBOLS, "p": ints(2, 1, 3, 1)},
            {"a": ints(-1, 1)},
            sizes=_SIZES,
            opset=19,
        )
        for mode in ("constant", "reflect", "edge", "wrap")
    ),
    *(
        OpCase(
            f"Pad that pads and crops, {mode}",
            f'y = Pad<mode="{mode}">(x, p)',
            {"x": (3, 4, 5)},
            {"p": ints(1, 0, -2, -1, 2, 1)},
        )
        for mode in ("constant", "reflect", "edge")
    ),
    OpCase("Pad with a fill that is fed", "y = Pad(x, p, c)", {**_CUBE, "c": ()}, _PADS),
    OpCase(
        "Pad of what is held, with a fill that is fed, cropped",
        "y = Pad(k, p, c, a)",
        {"c": (1,)},
        {"k": weights(2, 3, 4), "p": ints(-1, 1, 2, -1), "a": ints(-1, 1)},
        declared={"y": (2, 3, 5)},
    ),
    OpCase(
        "Pad by pads that are fed, of the batch, with a fill that is fed",
        "y = Pad(x, p, c, a)",
        {**_SYMBOLS, "c": (), "p": ints(2, 1, 0, 1)},
        {"a": ints(0, 2)},
        sizes=_SIZES,
    ),
    OpCase(
        "Pad, edge, with a fill that it does not read",
        'y = Pad<mode="edge">(x, p, c)',
        {**_CUBE, "c": ()},
        _PADS,
    ),
    OpCase("Pad-2", "y = Pad<pads=[0, 1, 0, 0, 0, 2], value=1.5>(x)", _CUBE, opset=10),
    OpCase("Pad-2, reflect", 'y = Pad<pads=[0, 1, 0, 0, 0, 2], mode="reflect">(x)', _CUBE, opset=7),
    OpCase("Pad-11", "y = Pad(x, p, c)", _CUBE, {**_PADS, "c": np.array(1.5)}, opset=11),
]

# -- Resize ------------------------------------------------------------------------------------

_PICTURE: dict[str, Input] = {"x": ("N", 2, 3, 4)}
_SCALES = {"s": np.array([1, 1, 2, 1.5], np.float32)}
_MODES = {
    "nearest": 'mode="nearest"',
    "nearest, ceil": 'mode="nearest", nearest_mode="ceil"',
    "nearest, asymmetric floor": (
        'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"'
    ),
    "linear": 'mode="linear"',
    "linear, align_corners": 'mode="linear", coordinate_transformation_mode="align_corners"',
    "linear, pytorch_half_pixel": (
        'mode="linear", coordinate_transformation_mode="pytorch_half_pixel"'
    ),
    "cubic": 'mode="cubic", cubic_coeff_a=-0.5',
    "cubic, align_corners": 'mode="cubic", coordinate_transformation_mode="align_corners"',
    "cubic, exclude_outside": 'mode="cubic", exclude_outside=1',
}
CASES += [
    OpCase(f"Resize, {name}", f"y = Resize<{attributes}>(x, , s)", _PICTURE, _SCALES)
    for name, attributes in _MODES.items()
]
CASES += [
    OpCase(
        f"Resize to sizes, {name}",
        f"y = Resize<{_MODES[name]}>(x, , , s)",
        {"x": (2, 2, 3, 4)},
        {"s": ints(2, 2, 6, 5)},
    )
    for name in ("nearest", "linear", "linear, align_corners", "cubic")
]
CASES += [
    OpCase(
        "Resize, smaller",
        'y = Resize<mode="linear">(x, , s)',
        {"x": ("N", 2, 4, 6)},
        {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
    ),
    OpCase(
        "Resize, smaller, antialias",
        'y = Resize<mode="linear", antialias=1>(x, , s)',
        {"x": ("N", 2, 4, 6)},
        {"s": np.array([1, 1, 0.5, 0.5], np.float32)},
    ),
    OpCase(
        "Resize of named axes",
        'y = Resize<mode="linear", axes=[2, 3]>(x, , s)',
        _PICTURE,
        {"s": np.array([2, 1.5], np.float32)},
    ),
    OpCase(
        "Resize of named axes to sizes",
        'y = Resize<mode="linear", axes=[2, 3]>(x, , , s)',
        _PICTURE,
        {"s": ints(6, 5)},
    ),
    OpCase(
        "Resize of the batch",
        'y = Resize<mode="nearest">(x, , s)',
        {"x": ("N", 2)},
        {"s": np.array([2, 1], np.float32)},
    ),
    OpCase(
        "Resize of the batch by name",
        'y = Resize<mode="nearest", axes=[0, 1]>(x, , s)',
        {"x": ("N", 2)},
        {"s": np.array([2, 2], np.float32)},
    ),
    OpCase(
        "Resize of the batch to sizes",
        'y = Resize<mode="linear">(x, , , s)',
        {"x": (2, 3)},
        {"s": ints(3, 4)},
    ),
    OpCase(
        "Resize of a line",
        'y = Resize<mode="linear">(x, , s)',
        {"x": ("N", 2, 5)},
        {"s": np.array([1, 1, 2], np.float32)},
    ),
    OpCase(
        "Resize that crops",
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize", '
        "extrapolation_value=7.5>(x, r, , s)",
        {"x": (2, 2, 3, 4)},
        {"r": np.array([0, 0, -0.5, 0, 1, 1, 0.8, 1.5]), "s": ints(2, 2, 6, 5)},
    ),
    OpCase(
        "Resize to computed sizes",
        "f = Shape(x)\nbatch = Slice(f, zero, two)\ns = Concat<axis=0>(batch, to)\n"
        'y = Resize<mode="nearest">(x, , , s)',
        _PICTURE,
        {"zero": ints(0), "two": ints(2), "to": ints(6, 8)},
    ),
    OpCase(
        "Resize-11",
        'y = Resize<mode="linear", coordinate_transformation_mode="asymmetric">(x, r, s)',
        _PICTURE,
        {"r": np.array([]), "s": np.array([1, 1, 2, 2], np.float32)},
        opset=11,
    ),
    OpCase(
        "Resize-10",
        'y = Resize<mode="nearest">(x, s)',
        _PICTURE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=10,
    ),
    OpCase(
        "Resize-13",
        'y = Resize<mode="nearest">(x, , s)',
        _PICTURE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=13,
    ),
    OpCase(
        "Resize-10 by halves",
        'y = Resize<mode="nearest">(x, s)',
        _PICTURE,
        {"s": np.array([1, 1, 1.5, 1.25], np.float32)},
        opset=10,
    ),
    OpCase(
        "Resize-10, linear",
        'y = Resize<mode="linear">(x, s)',
        _PICTURE,
        {"s": np.array([1, 1, 2, 1.5], np.float32)},
        opset=10,
    ),
    OpCase(
        "Upsample-9",
        'y = Upsample<mode="nearest">(x, s)',
        _PICTURE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    ),
    OpCase(
        "Upsample-9, linear",
        'y = Upsample<mode="linear">(x, s)',
        _PICTURE,
        {"s": np.array([1, 1, 2, 2], np.float32)},
        opset=9,
    ),
    OpCase(
        "Upsample-7",
        'y = Upsample<mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]>(x)',
        _PICTURE,
        opset=7,
    ),
]

_IN_PROPORTION = 'mode="{}", axes=[2, 3], keep_aspect_ratio_policy="{}"'
CASES += [
    *(
        OpCase(
            f"Resize, {mode}, {policy}",
            f"y = Resize<{_IN_PROPORTION.format(mode, policy)}>(x, , , s)",
            {"x": ("N", 2, 3, width)},
            {"s": ints(*sizes)},
        )
        for mode in ("nearest", "linear", "cubic")
        for policy, width, sizes in (
            ("not_larger", 4, (6, 5)),
            ("not_smaller", 10, (3, 11)),  # by 1.1: 3 rows remain 3, but others
        )
    ),
    *(
        OpCase(
            f"Resize by a little, {mode}",
            f'y = Resize<mode="{mode}">(x, , s)',
            _PICTURE,
            {"s": np.array([1, 1, 1.1, 0.9], np.float32)},
        )
        for mode in ("nearest", "linear", "cubic")
    ),
    *(
        OpCase(
            f"Resize to sizes that are fed, {mode}",
            f'y = Resize<mode="{mode}">(x, , , s)',
            {"x": ("B", 2, "H", "W"), "s": ints(2, 2, 5, 7)},
            sizes={"B": 2, "H": 3, "W": 4},
        )
        for mode in ("nearest", "linear")
    ),
    OpCase(
        "Resize that crops named axes and keeps the size",
        'y = Resize<mode="linear", axes=[2, 3], extrapolation_value=3.0, '
        'coordinate_transformation_mode="tf_crop_and_resize">(x, r, , s)',
        _PICTURE,
        {"r": np.array([0.1, -0.2, 0.8, 1.3]), "s": ints(3, 4)},
        evaluated="onnxruntime copies x where no size changes",
    ),
    OpCase(
        "Resize smaller, cubic, antialias",
        'y = Resize<mode="cubic", antialias=1, exclude_outside=1>(x, , , s)',
        {"x": (2, 2, 6, 7)},
        {"s": ints(2, 2, 3, 4)},
    ),
    OpCase(
        "Resize of axes in another order",
        'y = Resize<mode="linear", axes=[3, 2]>(x, , s)',
        _PICTURE,
        {"s": np.array([2, 1.5], np.float32)},
    ),
]

# -- values that do not depend on the values of x ----------------------------------------------

_DRAWN = "from one seed onnxruntime draws other numbers in other dtypes"

CASES += [
    OpCase(
        "Shape and Size beside x",
        "s = Shape(x)\nn = Size(x)\nc = Cast<to=FLOAT>(n)\nf = ConstantOfShape(s)\n"
        "o = Cast<to=FLOAT>(f)\nk = Add(o, c)\ny = Mul(x, k)",
    ),
    OpCase("EyeLike beside x", "e = EyeLike(x)\ny = Mul(x, e)", {"x": (3, 3)}),
    OpCase(
        "RandomNormalLike beside x",
        "r = RandomNormalLike<seed=3.0>(x)\ny = Mul(x, r)",
        {"x": (2, 3)},
        random=True,
        by_dtype=_DRAWN,
    ),
    OpCase(
        "RandomUniformLike beside x",
        "r = RandomUniformLike<seed=3.0>(x)\ny = Mul(x, r)",
        {"x": (2, 3)},
        random=True,
        by_dtype=_DRAWN,
    ),
    OpCase(
        "ArgMax and ArgMin beside x",
        "a = ArgMax<axis=1>(x)\nb = ArgMin<axis=1>(x)\ni = Sub(a, b)\nc = Cast<to=FLOAT>(i)\n"
        "y = Mul(x, c)",
    ),
    OpCase("ArgMax that picks", "i = ArgMax<axis=1>(x)\ny = GatherElements<axis=1>(x, i)"),
    OpCase(
        "NonZero that picks", "i = NonZero(x)\nt = Transpose(i)\ny = GatherND(x, t)", {"x": (2, 3)}
    ),
]
