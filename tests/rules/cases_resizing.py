"""Resize and Upsample, in what cases_movement leaves of their modes."""

from __future__ import annotations

import numpy as np
from helpers import Input, ints
from op_case import OpCase

_RESIZED: dict[str, Input] = {"x": ("N", 2, 3, 4)}
_BY = {"s": np.array([1, 1, 1.5, 2], np.float32)}
_SPACE = {"s": np.array([1, 1, 1.5, 2, 0.5], np.float32)}
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
    OpCase(
        "Upsample-7, linear",
        'y = Upsample<mode="linear", scales=[1.0, 1.0, 2.0, 2.0]>(x)',
        _RESIZED,
        opset=7,
    ),
]
