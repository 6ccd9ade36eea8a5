"""Kernels of the oracle that read between pixels, resize, or pool by norms, against onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import assert_close, build, ints, ort
from test_oracle import Array, assert_like_the_runtime, normal

from onnxjvp.oracle import Evaluator

RNG = np.random.default_rng(5)
IMAGES, VOLUMES = normal(RNG, 2, 4, 5, 6), normal(RNG, 2, 2, 3, 4, 3)


def near(*shape: int) -> Array:
    """Places inside an image, and around it."""
    return RNG.uniform(-1.9, 1.9, shape).astype(np.float32)


def scales(*values: float) -> Array:
    return np.array([1, 1, *values], np.float32)


@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_grid_sample(mode: str, padding: str, aligned: int) -> None:
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": aligned}
    assert_like_the_runtime("GridSample", [IMAGES, near(2, 3, 4, 2)], **attributes)
    if mode != "cubic":
        assert_like_the_runtime("GridSample", [VOLUMES, near(2, 2, 3, 4, 3)], **attributes)


@pytest.mark.parametrize("aligned", [0, 1])
def test_affine_grid(aligned: int) -> None:
    for d, size in ((2, [2, 1, 3, 4]), (3, [2, 1, 2, 3, 4])):
        theta = normal(RNG, 2, d, d + 1)
        assert_like_the_runtime("AffineGrid", [theta, np.array(size)], align_corners=aligned)


#: coordinates of new pixels → the scales that are tried
COORDINATES = {
    "half_pixel": [(1.7, 0.6), (0.5, 2.0)],
    "half_pixel_symmetric": [(1.7, 0.6), (0.5, 2.0)],
    "pytorch_half_pixel": [(1.7, 0.6), (0.2, 0.15)],
    "align_corners": [(1.7, 0.6), (0.2, 2.0)],
    "asymmetric": [(1.7, 0.6), (0.5, 2.0)],
    "tf_crop_and_resize": [(1.7, 0.6), (0.2, 2.0)],
}
MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "linear": {"mode": "linear"},
    "cubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
    "cubic, exclude_outside": {"mode": "cubic", "exclude_outside": 1},
    "linear, antialias": {"mode": "linear", "antialias": 1},
    "cubic, antialias": {"mode": "cubic", "antialias": 1},
    "cubic, antialias, exclude_outside": {"mode": "cubic", "antialias": 1, "exclude_outside": 1},
}


@pytest.mark.parametrize("how", COORDINATES)
@pytest.mark.parametrize("mode", MODES)
def test_resize(mode: str, how: str) -> None:
    crops = how == "tf_crop_and_resize"
    region = np.array([0, 0, -0.13, 0.21, 1, 1, 0.83, 1.17] if crops else [], np.float32)
    for by in COORDINATES[how]:
        assert_like_the_runtime(
            "Resize",
            [IMAGES, region, scales(*by)],
            coordinate_transformation_mode=how,
            **MODES[mode],
        )


@pytest.mark.parametrize("nearest", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_to_the_nearest(nearest: str) -> None:
    none = np.array([], np.float32)
    for how in ("half_pixel", "asymmetric"):
        assert_like_the_runtime(
            "Resize",
            [IMAGES, none, scales(1.5, 2.0)],
            coordinate_transformation_mode=how,
            nearest_mode=nearest,
        )
    assert_like_the_runtime(
        "Resize",
        [IMAGES, none, scales(1.7, 0.6)],
        opset=11,
        coordinate_transformation_mode="tf_half_pixel_for_nn",
        nearest_mode="floor",
    )


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_resize_to_sizes(policy: str) -> None:
    body = f'y = Resize<mode="linear", axes=[2, 3], keep_aspect_ratio_policy="{policy}">(x, , , s)'
    model = build(body, {"x": IMAGES.shape}, {"s": ints(7, 4)}, dtype="float32")
    found, wanted = Evaluator(model).run({"x": IMAGES})["y"], ort(model, {"x": IMAGES})["y"]
    assert_close(found, wanted, 1e-6, policy)


@pytest.mark.parametrize(
    ("shape", "image", "block", "attributes"),
    [
        ((2, 8, 6), (3, 4), (2, 2), {}),
        ((2, 12, 18), (3, 6), (3, 2), {"pads": [1, 0, 1, 1]}),
        ((2, 4, 4), (4, 3), (2, 2), {"dilations": [2, 1]}),
        ((2, 6, 3), (7,), (3,), {"strides": [2]}),
        ((2, 8, 8), (3, 4, 3), (2, 2, 2), {"strides": [1, 2, 1]}),
    ],
)
def test_col_to_im(shape: Any, image: Any, block: Any, attributes: dict[str, Any]) -> None:
    inputs = [normal(RNG, *shape), np.array(image), np.array(block)]
    assert_like_the_runtime("Col2Im", inputs, **attributes)


@pytest.mark.parametrize("groups", [1, 2])
def test_deform_conv(groups: int) -> None:
    window = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 1, 1], "offset_group": groups}
    inputs = [
        IMAGES,
        normal(RNG, 6, 4 // groups, 2, 2),
        normal(RNG, 2, 8 * groups, 3, 5),
        normal(RNG, 6),
        normal(RNG, 2, 4 * groups, 3, 5),
    ]
    assert_like_the_runtime("DeformConv", inputs, group=groups, **window)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.6])
def test_max_roi_pool(scale: float) -> None:
    rois = np.array([[0, 0, 0, 5, 4], [1, 2, 1, 4, 2], [1, 4, 3, 9, 8]], np.float32)
    assert_like_the_runtime("MaxRoiPool", [IMAGES, rois], pooled_shape=[2, 3], spatial_scale=scale)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_norms(p: int) -> None:
    assert_like_the_runtime("GlobalLpPool", [IMAGES], p=p)
    for attributes in (
        {"strides": [2, 2], "ceil_mode": 1},
        {"pads": [1, 0, 1, 1], "dilations": [2, 1]},
        {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    ):
        assert_like_the_runtime("LpPool", [IMAGES], p=p, kernel_shape=[3, 2], **attributes)
