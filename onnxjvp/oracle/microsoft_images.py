"""NumPy implementations of onnxruntime's operators on images; like microsoft.py."""

from __future__ import annotations

import numpy as np

from onnxjvp.oracle.microsoft import microsoft
from onnxjvp.oracle.registry import Array


@microsoft
def CropAndResize(
    X: Array,
    rois: Array,
    batch_indices: Array,
    crop_size: Array,
    *,
    mode: str = "bilinear",
    extrapolation_value: float = 0.0,
) -> Array:
    """Pixel by pixel; `rois` are (y1, x1, y2, x2) as shares of the last row and column."""
    height, width = (int(n) for n in crop_size)
    out = np.full((len(rois), X.shape[1], height, width), extrapolation_value, X.dtype)
    for r, (y1, x1, y2, x2) in enumerate(rois):
        image = X[int(batch_indices[r])]
        for i, y in enumerate(_along(y1, y2, height) * (X.shape[2] - 1)):
            for j, x in enumerate(_along(x1, x2, width) * (X.shape[3] - 1)):
                if 0 <= y <= X.shape[2] - 1 and 0 <= x <= X.shape[3] - 1:
                    out[r, :, i, j] = _pixel(image, y, x, mode)
    return out


def _along(low: float, high: float, count: int) -> Array:
    if count == 1:
        return np.array([(low + high) / 2])
    return np.asarray(low + (high - low) * np.arange(count) / (count - 1))


def _pixel(image: Array, y: float, x: float, mode: str) -> Array:
    if mode == "nearest":
        return np.asarray(image[:, int(np.floor(y + 0.5)), int(np.floor(x + 0.5))])
    top, left = int(np.floor(y)), int(np.floor(x))
    bottom, right = int(np.ceil(y)), int(np.ceil(x))
    above = image[:, top, left] * (1 - (x - left)) + image[:, top, right] * (x - left)
    below = image[:, bottom, left] * (1 - (x - left)) + image[:, bottom, right] * (x - left)
    return np.asarray(above * (1 - (y - top)) + below * (y - top))
