"""Resize in NumPy: one matrix per axis.

onnx.reference walks over pixels one by one, takes a size that is no whole number for the distance
between aligned corners, and does not know the coordinates of TensorFlow's old nearest neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxjvp.oracle.registry import Array, kernel

_ROUND: dict[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@dataclass(frozen=True)
class _Axis:
    """One axis that is resized."""

    size: int
    out: int
    scale: float
    start: float = 0.0
    end: float = 1.0

    def places(self, how: str) -> Array:
        """Where every new pixel lies, in pixels of the old image."""
        k = np.arange(self.out, dtype=np.float64)
        match how:
            case "half_pixel":
                return (k + 0.5) / self.scale - 0.5
            case "half_pixel_symmetric":
                shift = self.size / 2 * (1 - self.out / (self.scale * self.size))
                return shift + (k + 0.5) / self.scale - 0.5
            case "pytorch_half_pixel":
                return (k + 0.5) / self.scale - 0.5 if self.out > 1 else np.zeros(self.out)
            case "align_corners":
                return k * (self.size - 1) / max(self.out - 1, 1)
            case "asymmetric":
                return k / self.scale
            case "tf_half_pixel_for_nn":
                return (k + 0.5) / self.scale
            case "tf_crop_and_resize":
                last = self.size - 1
                if self.out == 1:
                    return np.full(1, 0.5 * (self.start + self.end) * last)
                return self.start * last + k * (self.end - self.start) * last / (self.out - 1)
        raise ValueError(f"coordinate_transformation_mode {how!r}")


@kernel
def Resize(
    X: Array,
    roi: Array | None = None,
    scales: Array | None = None,
    sizes: Array | None = None,
    *,
    antialias: int = 0,
    axes: Sequence[int] | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Array:
    """Every axis on its own, and outside of a crop the one value."""
    chosen = [axis % X.ndim for axis in axes or range(X.ndim)]
    given = [X.shape[axis] for axis in chosen]
    crops = coordinate_transformation_mode == "tf_crop_and_resize"
    resized = _axes(given, scales, sizes, keep_aspect_ratio_policy)
    if crops:
        assert roi is not None
        ends = zip(resized, *np.split(roi, 2), strict=True)
        resized = [replace(along, start=float(s), end=float(e)) for along, s, e in ends]
    Y, inside = X, np.ones((1,) * X.ndim, bool)
    for axis, along in zip(chosen, resized, strict=True):
        places = along.places(coordinate_transformation_mode)
        if mode == "nearest":
            rounded = np.clip(_ROUND[nearest_mode](places), 0, along.size - 1)
            Y = np.take(Y, rounded.astype(np.int64), axis=axis)
        else:
            near = _near(mode, cubic_coeff_a, min(along.scale, 1.0) if antialias else 1.0)
            matrix = _matrix(places, along.size, *near, bool(exclude_outside))
            Y = np.moveaxis(np.moveaxis(Y, axis, -1) @ matrix.T, -1, axis)
        if crops:
            held = (places >= 0) & (places <= along.size - 1)
            inside = inside & held.reshape([-1 if k == axis else 1 for k in range(X.ndim)])
    return np.where(inside, Y, extrapolation_value) if crops else np.asarray(Y)


def _axes(
    given: Sequence[int], scales: Array | None, sizes: Array | None, policy: str
) -> list[_Axis]:
    if scales is not None and scales.size:
        return [
            _Axis(n, math.floor(np.float32(n) * np.float32(s)), float(s))
            for n, s in zip(given, scales, strict=True)
        ]
    assert sizes is not None
    ratios = [int(out) / n if n else 1.0 for out, n in zip(sizes, given, strict=True)]
    if policy == "stretch":
        return [_Axis(n, int(o), r) for n, o, r in zip(given, sizes, ratios, strict=True)]
    one = min(ratios) if policy == "not_larger" else max(ratios)
    return [_Axis(n, math.floor(one * n + 0.5), one) for n in given]


def _near(mode: str, a: float, scale: float) -> tuple[Callable[[Array], Array], int]:
    """Weights by the distance to a pixel, and how many pixels they reach; stretched by a scale."""

    def linear(s: Array) -> Array:
        return np.asarray(np.maximum(1 - np.abs(s * scale), 0))

    def cubic(s: Array) -> Array:
        s = np.abs(s * scale)
        near = ((a + 2) * s - (a + 3)) * s * s + 1
        far = ((a * s - 5 * a) * s + 8 * a) * s - 4 * a
        return np.asarray(np.where(s <= 1, near, np.where(s < 2, far, 0.0)))

    function, reach = (linear, 1) if mode == "linear" else (cubic, 2)
    return function, math.ceil(reach / scale)


def _matrix(
    places: Array, size: int, weight: Callable[[Array], Array], reach: int, exclude: bool
) -> Array:
    """[new, old]: what every new pixel takes of the old ones. Beyond the edges is the last pixel,
    or nothing."""
    floor = np.floor(places)
    found = np.zeros((len(places), size))
    rows = np.arange(len(places))
    for k in range(1 - reach, reach + 1):
        index = floor + k
        share = weight(places - index)
        if exclude:
            share = np.where((index >= 0) & (index < size), share, 0.0)
        np.add.at(found, (rows, np.clip(index, 0, size - 1).astype(np.int64)), share)
    return np.asarray(found / found.sum(axis=1, keepdims=True))
