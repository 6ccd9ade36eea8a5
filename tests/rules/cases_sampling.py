"""Operators that read images between their pixels."""

from __future__ import annotations

import numpy as np
from helpers import Array, Input, ints, weights
from op_case import OpCase


def _places(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Inside the image and around it, where padding begins; no place is near a kink."""
    return np.asarray(rng.uniform(-1.9, 1.9, shape))


_IMAGE: dict[str, Input] = {"x": ("N", 2, 4, 5)}
_GRID = {"g": np.random.default_rng(0).uniform(-1.9, 1.9, (2, 3, 4, 2))}
_BOTH: dict[str, Input] = {**_IMAGE, "g": ("N", 3, 4, 2)}
_DRAWS = {"g": _places}

CASES = [
    OpCase(
        f"GridSample, {mode}, {padding}{', align_corners' if aligned else ''}",
        f'y = GridSample<mode="{mode}", padding_mode="{padding}", align_corners={aligned}>(x, g)',
        _BOTH,
        draws=_DRAWS,
        opset=20,
    )
    for mode in ("linear", "cubic", "nearest")
    for padding in ("zeros", "border", "reflection")
    for aligned in (0, 1)
]
CASES += [
    OpCase("GridSample", "y = GridSample(x, g)", {"x": (2, 2, 4, 5)}, _GRID, opset=20),
    OpCase(
        "GridSample in the grid",
        "y = GridSample(c, g)",
        {"g": ("B", 3, 4, 2)},
        {"c": weights(2, 2, 4, 5)},
        sizes={"B": 2},
        draws=_DRAWS,
        opset=22,
    ),
    OpCase(
        "GridSample, cubic, in the grid",
        'y = GridSample<mode="cubic">(c, g)',
        {"g": ("B", 3, 4, 2)},
        {"c": weights(2, 2, 4, 5)},
        sizes={"B": 2},
        draws=_DRAWS,
        opset=20,
    ),
    *(
        OpCase(
            f"GridSample-16, {mode}",
            f'y = GridSample<mode="{mode}">(x, g)',
            _BOTH,
            draws=_DRAWS,
            opset=16,
        )
        for mode in ("bilinear", "bicubic", "nearest")
    ),
    OpCase(
        "GridSample of a volume",
        "y = GridSample(x, g)",
        {"x": ("N", 2, 3, 4, 2), "g": ("N", 2, 3, 1, 3)},
        draws=_DRAWS,
        opset=20,
    ),
    OpCase(
        "GridSample of a volume, reflection",
        'y = GridSample<padding_mode="reflection">(x, g)',
        {"x": (1, 1, 3, 2, 4), "g": (1, 2, 2, 2, 3)},
        draws=_DRAWS,
        opset=20,
    ),
    OpCase(
        "GridSample with everything dynamic",
        "y = GridSample<align_corners=1>(x, g)",
        {"x": ("N", "C", "H", "W"), "g": ("N", "P", "Q", 2)},
        sizes={"N": 2, "C": 2, "H": 3, "W": 4, "P": 2, "Q": 3},
        draws=_DRAWS,
        opset=20,
    ),
    OpCase(
        "GridSample of an image of one pixel a row",
        "y = GridSample<align_corners=1>(x, g)",
        {"x": ("N", 2, 3, 1), "g": ("N", 3, 4, 2)},
        draws=_DRAWS,
        opset=20,
    ),
    OpCase(
        "GridSample of what the grid is made of",
        "h = Transpose<perm=[0, 2, 3, 1]>(x)\ng = Tanh(h)\ny = GridSample(x, g)",
        {"x": ("N", 2, 3, 4)},
        opset=20,
    ),
]
CASES += [
    OpCase(
        f"AffineGrid, {what}{', align_corners' if aligned else ''}",
        f"y = AffineGrid<align_corners={aligned}>(x, s)",
        {"x": ("B", *shape)},
        {"s": ints(*size)},
        sizes={"B": 2},
        opset=20,
    )
    for what, shape, size in (("plane", (2, 3), (2, 1, 3, 4)), ("space", (3, 4), (2, 1, 2, 3, 4)))
    for aligned in (0, 1)
]
CASES += [
    OpCase(
        "AffineGrid that GridSample reads",
        "g = AffineGrid(theta, s)\ny = GridSample(x, g)",
        {"x": (2, 2, 4, 5), "theta": (2, 2, 3)},
        {"s": ints(2, 2, 3, 4)},
        draws={"theta": lambda rng, shape: np.asarray(0.4 * rng.standard_normal(shape))},
        opset=20,
    ),
]

CASES += [
    OpCase(
        "AffineGrid to sizes that are fed",
        "y = AffineGrid(x, s)",
        {"x": ("B", 2, 3), "s": ints(2, 1, 3, 4)},
        sizes={"B": 2},
        opset=20,
    ),
]

# -- deformable convolution --------------------------------------------------------------------


def _small(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Offsets of less than a pixel, and some of more."""
    return np.asarray(rng.uniform(-1.4, 1.4, shape))


_TAPS: dict[str, Input] = {"x": ("N", 2, 4, 5), "w": (3, 2, 2, 2), "o": ("N", 8, 3, 4)}
CASES += [
    OpCase(
        "DeformConv, all live",
        "y = DeformConv(x, w, o, b, m)",
        {**_TAPS, "b": (3,), "m": ("N", 4, 3, 4)},
        draws={"o": _small},
        opset=19,
    ),
    OpCase(
        "DeformConv without a mask",
        "y = DeformConv(x, w, o)",
        _TAPS,
        draws={"o": _small},
        opset=22,
    ),
    OpCase(
        "DeformConv, X live",
        "y = DeformConv(x, w, o, b, m)",
        {"x": (2, 2, 4, 5)},
        {
            "w": weights(3, 2, 2, 2),
            "o": 0.6 * weights(2, 8, 3, 4),
            "b": weights(3),
            "m": weights(2, 4, 3, 4),
        },
        opset=19,
    ),
    OpCase(
        "DeformConv, offsets alone live",
        "y = DeformConv(c, w, o)",
        {"o": (2, 8, 3, 4)},
        {"c": weights(2, 2, 4, 5), "w": weights(3, 2, 2, 2)},
        draws={"o": _small},
        opset=22,
    ),
    OpCase(
        "DeformConv, groups, strides, dilations, pads",
        "y = DeformConv<group=2, offset_group=2, strides=[2, 1], dilations=[1, 2], "
        "pads=[1, 0, 1, 1]>(x, w, o, , m)",
        {"x": ("N", 4, 4, 5), "w": (6, 2, 2, 2), "o": ("N", 16, 3, 4), "m": ("N", 8, 3, 4)},
        draws={"o": _small},
        opset=22,
    ),
    OpCase(
        "DeformConv with everything dynamic",
        "y = DeformConv(x, w, o)",
        {"x": ("N", 2, "H", "W"), "w": (3, 2, 2, 2), "o": ("N", 8, "P", "Q")},
        sizes={"N": 2, "H": 4, "W": 5, "P": 3, "Q": 4},
        draws={"o": _small},
        opset=22,
    ),
]

# -- regions of interest -----------------------------------------------------------------------

_REGIONS = {
    "r": np.array([[0.3, 0.2, 4.1, 3.3], [1.2, 1.4, 5.9, 3.1], [-2.0, -1.0, 3.0, 2.6]]),
    "b": ints(1, 0, 1),
}
_POOLED = "output_height=2, output_width=3"
CASES += [
    OpCase(
        f"RoiAlign, {what}",
        f"y = RoiAlign<{_POOLED}, {attributes}>(x, r, b)",
        {"x": (2, 2, 5, 6)},
        _REGIONS,
        opset=opset,
    )
    for what, attributes, opset in (
        ("adaptive", "sampling_ratio=0", 16),
        ("two samples", "sampling_ratio=2", 16),
        ("scaled", "sampling_ratio=2, spatial_scale=0.5", 16),
        (
            "not by half pixels",
            'coordinate_transformation_mode="output_half_pixel", sampling_ratio=1',
            21,
        ),
        ("at opset 10", "sampling_ratio=2", 10),
    )
]
CASES += [
    OpCase(
        "RoiAlign of a region beside the image",
        f"y = RoiAlign<{_POOLED}, sampling_ratio=2>(x, r, b)",
        {"x": (1, 2, 5, 6)},
        {"r": np.array([[9.0, 9.0, 12.0, 12.0], [1.0, 1.0, 4.0, 4.0]]), "b": ints(0, 0)},
    ),
    OpCase(
        "RoiAlign with everything dynamic",
        f"y = RoiAlign<{_POOLED}, sampling_ratio=2>(x, r, b)",
        {"x": ("M", "C", "H", "W")},
        _REGIONS,
        sizes={"M": 2, "C": 2, "H": 5, "W": 6},
    ),
]


def _regions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Inside an image of 5 x 6, and one beyond it."""
    start = rng.uniform(-0.4, 2.0, (shape[0], 2))
    return np.concatenate([start, start + rng.uniform(1.7, 4.0, (shape[0], 2))], axis=1)


CASES += [
    OpCase(
        f"RoiAlign, regions live, {what}",
        f"y = RoiAlign<{_POOLED}, sampling_ratio=2, {attributes}>({x}, r, b)",
        inputs,
        {"b": ints(1, 0, 1), **params},
        draws={"r": _regions},
        opset=16,
    )
    for what, attributes, x, inputs, params in (
        ("alone", "spatial_scale=1.0", "c", {"r": (3, 4)}, {"c": weights(2, 2, 5, 6)}),
        ("and X", "spatial_scale=0.75", "x", {"x": (2, 2, 5, 6), "r": (3, 4)}, {}),
        (
            "not by half pixels",
            'coordinate_transformation_mode="output_half_pixel"',
            "x",
            {"x": (2, 2, 5, 6), "r": (3, 4)},
            {},
        ),
    )
]
CASES += [
    OpCase(
        "RoiAlign, regions live, everything dynamic",
        f"y = RoiAlign<{_POOLED}, sampling_ratio=3>(x, r, b)",
        {"x": ("M", "C", "H", "W"), "r": ("R", 4)},
        {"b": ints(1, 0, 1)},
        sizes={"M": 2, "C": 2, "H": 5, "W": 6, "R": 3},
        draws={"r": _regions},
        opset=18,
    ),
]

CASES += [
    OpCase(
        "RoiAlign at opset 22",
        f"y = RoiAlign<{_POOLED}, sampling_ratio=2>(x, r, b)",
        {"x": (2, 2, 5, 6)},
        _REGIONS,
        opset=22,
        no_runtime="onnxruntime has no kernel of that opset",
    ),
]

_PARTS = {"r": np.array([[0, 0, 0, 5, 4], [1, 2, 1, 4, 2], [1, 4, 3, 9, 8]])}
CASES += [
    OpCase(
        f"MaxRoiPool, {what}",
        f"y = MaxRoiPool<pooled_shape=[2, 3]{more}>(x, r)",
        {"x": shape},
        {"r": _PARTS["r"].astype(float)},
        sizes={"M": 2, "C": 2, "H": 5, "W": 6},
        opset=opset,
    )
    for what, more, shape, opset in (
        ("plain", "", (2, 3, 5, 6), 18),
        ("scaled", ", spatial_scale=0.5", (2, 3, 5, 6), 18),
        ("beyond the image", ", spatial_scale=1.6", (2, 3, 5, 6), 18),
        ("everything dynamic, at opset 7", "", ("M", "C", "H", "W"), 7),
    )
]

# -- images put together -----------------------------------------------------------------------

CASES += [
    OpCase(
        f"Col2Im, {what}",
        f"y = Col2Im<{attributes}>(x, image, block)",
        {"x": ("N", *shape)},
        {"image": ints(*image), "block": ints(*block)},
    )
    for what, attributes, shape, image, block in (
        ("plain", "strides=[1, 1]", (8, 6), (3, 4), (2, 2)),
        ("strides, side by side", "strides=[2, 2]", (8, 6), (4, 6), (2, 2)),
        ("pads", "pads=[1, 0, 1, 1]", (12, 18), (3, 6), (3, 2)),
        ("dilations", "dilations=[2, 1]", (4, 4), (4, 3), (2, 2)),
        ("line", "strides=[2]", (6, 3), (7,), (3,)),
        ("volume", "strides=[1, 2, 1]", (8, 8), (3, 4, 3), (2, 2, 2)),
    )
]
CASES += [
    OpCase(
        "Col2Im of blocks of a shape that is fed",
        "c = Col2Im<strides=[1, 2], pads=[0, 1, 0, 1]>(x, image, block)\ny = Reshape(c, rows)",
        {"x": ("N", 8, 6), "block": ints(2, 2)},
        {"image": ints(3, 4), "rows": ints(-1, 12)},
    ),
    OpCase(
        "Col2Im to a size that is fed",
        "y = Col2Im(x, image, block)",
        {"x": ("N", 8, "L"), "image": ints(3, 4)},
        {"block": ints(2, 2)},
        sizes={"N": 2, "L": 6},
    ),
]
CASES += [
    OpCase(
        f"CenterCropPad, {what}",
        f"y = CenterCropPad{attributes}(x, s)",
        {"x": ("B", 4, 5)},
        {"s": ints(*sizes)},
        sizes={"B": 3},
    )
    for what, attributes, sizes in (
        ("crops", "<axes=[1, 2]>", (2, 2)),
        ("pads", "<axes=[-1, 1]>", (8, 7)),
        ("both", "<axes=[1, 2]>", (7, 2)),
        ("every axis", "", (4, 3, 6)),
    )
]
CASES += [
    OpCase(
        "CenterCropPad to sizes that are fed",
        "c = CenterCropPad<axes=[1]>(x, s)\ny = Reshape(c, rows)",
        {"x": ("N", "T", 2), "s": ints(3)},
        {"rows": ints(-1, 6)},
        sizes={"N": 2, "T": 6},
    ),
]


def _boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Four boxes, of which two are nearly one."""
    corners = np.array([[0, 0, 1, 1], [0.05, 0, 1, 1], [2, 2, 3, 4], [5, 0, 6, 1.5]])
    return np.asarray(corners[None] + 0.01 * rng.standard_normal(shape))


CASES += [
    OpCase(
        "NonMaxSuppression that picks",
        "i = NonMaxSuppression(x, s, n, t)\nk = Gather<axis=1>(i, two)\ny = Gather<axis=1>(x, k)",
        {"x": (1, 4, 4)},
        {
            "s": np.array([[[0.9, 0.8, 0.7, 0.6]]]),
            "n": np.array([3]),
            "t": np.array([0.5]),
            "two": np.array(2),
        },
        draw=_boxes,
        single=True,
        no_half="ONNX has none for half precision",
    ),
]

_REGIONS = np.array([[0.1, 0.2, 0.8, 0.9], [0.9, -0.3, 0.15, 1.2], [0.33, 0.1, 0.4, 0.65]])
_CROPS = {"b": np.array([0, 1, 1], np.int32), "s": np.array([3, 4], np.int32)}
_CROPPED = (3, 2, 3, 4)


def _regions(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """None along the edge of a pixel."""
    return np.asarray(_REGIONS + rng.uniform(-0.01, 0.01, shape))


CASES += [
    OpCase(
        "CropAndResize",
        "y = com.microsoft.CropAndResize<extrapolation_value=0.7>(x, r, b, s)",
        {"x": ("N", 2, 4, 5)},
        {"r": _REGIONS, **_CROPS},
        declared={"y": _CROPPED},
        not_empty="there is no image to cut from",
    ),
    OpCase(
        "CropAndResize, regions live",
        "y = com.microsoft.CropAndResize(x, r, b, s)",
        {"x": ("N", 2, 4, 5), "r": (3, 4)},
        _CROPS,
        declared={"y": _CROPPED},
        not_empty="there is no image to cut from",
        draws={"r": _regions},
        opset=20,
    ),
    OpCase(
        "CropAndResize of a constant image",
        "y = com.microsoft.CropAndResize(c, r, b, s)",
        {"r": (3, 4)},
        {"c": weights(2, 2, 4, 5), **_CROPS},
        declared={"y": _CROPPED},
        draws={"r": _regions},
    ),
    OpCase(
        "CropAndResize, nearest, everything dynamic",
        'y = com.microsoft.CropAndResize<mode="nearest">(x, r, b, s)',
        {"x": ("N", "C", "H", "W"), "r": ("R", 4)},
        _CROPS,
        declared={"y": ("R", "C", 3, 4)},
        sizes={"N": 2, "C": 2, "H": 4, "W": 5, "R": 3},
        not_empty="there is no image to cut from",
        draws={"r": _regions},
    ),
    OpCase(
        "CropAndResize to a column, of rows",
        "y = com.microsoft.CropAndResize(x, r, b, s)",
        {"x": (2, 2, 1, 5), "r": (3, 4)},
        {**_CROPS, "s": np.array([2, 1], np.int32)},
        declared={"y": (3, 2, 2, 1)},
        draws={"r": _regions},
    ),
]
