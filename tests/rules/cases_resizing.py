"""Resize and Upsample, in what cases_movement leaves of their modes."""

from __future__ import annotations

import numpy as np
from helpers import Draw, Input, ints, weights
from op_case import OpCase

_RESIZED: dict[str, Input] = {"x": ("N", 2, 3, 4)}
_BY = {"s": np.array([1, 1, 1.5, 2], np.float32)}
_FED: dict[str, Input] = {"x": ("N", 2, 3, 4), "s": (2,)}
_CROPPED: dict[str, Input] = {"x": ("N", 2, 3, 4), "r": (4,)}
_NO_HALF = "scales are of float32"
_SPACE = {"s": np.array([1, 1, 1.5, 2, 0.5], np.float32)}


def _by(*numbers: float) -> Draw:
    """What is fed as it is."""
    return lambda rng, shape: np.array(numbers)


CASES = [
    *(
        OpCase(
            f"Resize by 1.7 and 0.6, {mode}, {how}",
            f'y = Resize<mode="{mode}", coordinate_transformation_mode="{how}">(x, , s)',
            _RESIZED,
            {"s": np.array([1, 1, 1.7, 0.6], np.float32)},
            opset=19,
        )
        for mode in ("nearest", "linear", "cubic")
        for how in ("half_pixel_symmetric", "pytorch_half_pixel", "asymmetric", "align_corners")
    ),
    OpCase(
        "Resize-11, tf_half_pixel_for_nn",
        'y = Resize<mode="nearest", coordinate_transformation_mode="tf_half_pixel_for_nn", '
        'nearest_mode="floor">(x, r, s)',
        _RESIZED,
        {"r": np.array([]), "s": np.array([1, 1, 1.7, 0.6], np.float32)},
        opset=11,
    ),
    *(
        OpCase(
            f"Resize, nearest, {which}",
            f'y = Resize<mode="nearest", nearest_mode="{which}">(x, , s)',
            _RESIZED,
            _BY,
        )
        for which in ("round_prefer_floor", "round_prefer_ceil", "floor")
    ),
    *(
        OpCase(
            f"Resize that crops, {mode}",
            f'y = Resize<mode="{mode}", coordinate_transformation_mode="tf_crop_and_resize", '
            "extrapolation_value=3.0>(x, r, , s)",
            {"x": (2, 2, 3, 4)},
            {"r": np.array([0, 0, -0.2, 0.1, 1, 1, 0.8, 1.3]), "s": ints(2, 2, 5, 3)},
        )
        for mode in ("nearest", "cubic")
    ),
    *(
        OpCase(
            f"Resize, antialias, {mode}, {what}",
            f'y = Resize<mode="{mode}", antialias=1>(x, , s)',
            {"x": ("N", 2, 6, 8)},
            {"s": np.array([1, 1, *by], np.float32)},
        )
        for mode in ("linear", "cubic")
        for what, by in (("smaller", (0.5, 0.6)), ("larger", (1.5, 1.25)))
    ),
    *(
        OpCase(
            f"Resize, antialias, {mode}, named axes in proportion",
            f'y = Resize<mode="{mode}", axes=[2, 3], keep_aspect_ratio_policy="not_larger", '
            "antialias=1>(x, , , s)",
            {"x": ("N", 2, 6, 8)},
            {"s": ints(3, 5)},
        )
        for mode in ("linear", "cubic")
    ),
    OpCase(
        "Resize, cubic by another parameter, exclude_outside",
        'y = Resize<mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5>(x, , s)',
        _RESIZED,
        _BY,
    ),
    *(
        OpCase(
            f"Resize of a volume, {mode}",
            f'y = Resize<mode="{mode}">(x, , s)',
            {"x": ("N", 2, 3, 2, 4)},
            _SPACE,
        )
        for mode in ("nearest", "linear")
    ),
    *(
        OpCase(
            f"Resize by scales that are fed, {mode}, {how}",
            f'y = Resize<mode="{mode}", coordinate_transformation_mode="{how}", axes=[2, 3]>'
            "(x, , s)",
            _FED,
            draws={"s": _by(1.7, 0.55)},
            opset=19,
            single=True,
            no_half=_NO_HALF,
        )
        for mode, how in (
            *(("linear", how) for how in ("half_pixel", "half_pixel_symmetric", "asymmetric")),
            *(("cubic", how) for how in ("half_pixel", "pytorch_half_pixel", "asymmetric")),
        )
    ),
    OpCase(
        "Resize of what is held by scales that are fed, to one pixel",
        'y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel", '
        "axes=[-1, -2]>(x, , s)",
        {"s": (2,)},
        {"x": weights(2, 2, 3, 4)},
        draws={"s": _by(1.6, 0.4)},
        single=True,
        no_half=_NO_HALF,
    ),
    OpCase(
        "Resize by scales that are computed, cubic, exclude_outside",
        "t = Exp(z)\ns = Concat<axis=0>(one, t, t)\n"
        'y = Resize<mode="cubic", exclude_outside=1, cubic_coeff_a=-0.5>(x, , s)',
        {"x": (2, 2, 3, 4), "z": (1,)},
        {"one": np.ones(2, np.float32)},
        draws={"z": _by(0.43)},
        single=True,
        no_half=_NO_HALF,
        no_dynamic="runtimes have no cubic that reads five axes",
    ),
    OpCase(
        "Resize of one region that is fed to one row",
        'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, r, , s)',
        {"x": (1, 1, 3, 4), "r": (8,)},
        {"s": ints(1, 1, 1, 3)},
        draws={"r": _by(0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9)},
        single=True,
    ),
    OpCase(
        "Resize to the nearest by scales that are fed",
        "t = Mul(z, z)\ny = Resize<axes=[2, 3]>(x, , t)",
        {"x": ("N", 2, 3, 4), "z": (2,)},
        draws={"z": _by(1.4, 1.2)},
        single=True,
        no_half=_NO_HALF,
    ),
    *(
        OpCase(
            f"Resize by a region that is fed, {mode}",
            f'y = Resize<mode="{mode}", coordinate_transformation_mode="tf_crop_and_resize", '
            "extrapolation_value=3.0, axes=[3, 2]>(x, r, , s)",
            _CROPPED,
            {"s": ints(*sizes)},
            draws={"r": _by(0.1, -0.2, 1.3, 0.8)},
            single=True,
        )
        for mode, sizes in (("linear", (3, 5)), ("cubic", (3, 5)))
    ),
    OpCase(
        "Upsample-7, linear",
        'y = Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 2.0]>(x)',
        _RESIZED,
        opset=7,
    ),
]
