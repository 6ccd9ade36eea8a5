"""Pictures of spectra and of estimates."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.analysis.functionals import Estimate
from onnxjvp.analysis.pictures import new_figure, save_figure
from onnxjvp.analysis.sampling import running
from onnxjvp.analysis.spectra import VALUES, Spectrum
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: vectors that are shown as images, and the smallest image
_SHOWN, _PIXELS = 8, 4
#: as many points of a trajectory are drawn
_POINTS = 2000


def spectrum_chart(
    found: Spectrum | Sequence[Spectrum], path: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Draw values with their errors, and residuals over products used; vectors that are images.

    Eigenvalues are drawn in the complex plane, unless all are real. The second panel is the left
    half of the paper's Fig. 4. Below are the first vectors of every variable (and output) that is
    an image: [.., 1 or 3, height, width] or [.., height, width, 1 or 3], with leading axes of size
    1; of several points, those of the first.

    Args:
      found: what `onnxjvp.spectrum` returns.
      path: the picture to write; its ending says in which format. An existing file is replaced.
      title: None says what it is.
    Returns: the path.
    Raises: MissingDependencyError, UsageError: as `heat_map`.
    """
    each = [found] if isinstance(found, Spectrum) else list(found)
    first = each[0]
    rows = _image_rows(first)
    figure = new_figure((11, 4.5 + 1.4 * len(rows)))
    heights = [3.4, *[1.0] * len(rows)]
    panels, *strips = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    values, history = panels.subplots(1, 2)
    _values(values, each)
    _history(history, each)
    shape = f"{first.shape[0]} × {first.shape[1]}"
    panels.suptitle(title or f"{VALUES[first.kind]}s of a Jacobian, {shape}, by {first.method}")
    for strip, (name, images) in zip(strips, rows, strict=True):
        _images(strip, name, images)
    return save_figure(figure, Path(path))


def estimate_chart(
    found: Estimate | Sequence[Estimate], path: str | os.PathLike[str], *, title: str | None = None
) -> Path:
    """Draw what an estimate was after every draw, with its band: the right half of Fig. 4.

    Values that take no draws are one line.

    Args, Returns, Raises: as `spectrum_chart`.
    """
    each = [found] if isinstance(found, Estimate) else list(found)
    if not all(math.isfinite(one.value) for one in each):
        raise UsageError("an estimate that is not finite cannot be drawn")
    figure = new_figure((8, 5))
    axes = figure.add_subplot()
    seen = []
    for i, one in enumerate(each):
        colour = f"C{i % 10}"
        if len(one.draws) > 2:
            seen.append(_trajectory(axes, one, colour))
        axes.axhline(one.value, color=colour, linewidth=0.8, linestyle="--")
    if seen:
        bottom, top = min(low for low, _ in seen), max(high for _, high in seen)
        margin = 0.1 * (top - bottom) or 1.0
        axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlabel("samples")
    axes.set_ylabel(each[0].kind)
    axes.set_title(title or _told(each))
    return save_figure(figure, Path(path))


def _told(each: Sequence[Estimate]) -> str:
    one = each[0]
    shape = f"{one.shape[0]} × {one.shape[1]}"
    if len(each) > 1:
        return f"{one.kind} of {len(each)} Jacobians, {shape}, by {one.method}, bands of 95 %"
    return (
        f"{one.kind} of a Jacobian, {shape}, by {one.method}: {one.value:.5g} "
        f"({one.low:.5g} to {one.high:.5g})"
    )


def _trajectory(axes: Any, one: Estimate, colour: str) -> tuple[float, float]:
    """Draws it; returns what should be seen of it."""
    counts, *lines = running(one.draws)
    shown = np.unique(np.linspace(0, len(counts) - 1, _POINTS).astype(int))
    means, low, high = (line[shown] + one.offset for line in lines)
    if one.squared:
        means, low, high = (np.sqrt(np.maximum(line, 0)) for line in (means, low, high))
    axes.plot(counts[shown], means, color=colour, linewidth=1.2)
    axes.fill_between(counts[shown], low, high, color=colour, alpha=0.2, linewidth=0)
    late = shown >= min(9, len(counts) - 1)  # bands of a few draws are as wide as one likes
    return float(low[late].min()), float(high[late].max())


def _values(axes: Any, each: Sequence[Spectrum]) -> None:
    plane = any(np.iscomplexobj(one.values) for one in each)
    for i, one in enumerate(each):
        colour = f"C{i % 10}"
        if plane:
            axes.plot(one.values.real, np.imag(one.values), "o", color=colour, markersize=5)
            continue
        at = np.arange(1, len(one.values) + 1)
        axes.errorbar(at, one.values, one.errors, fmt="o-", color=colour, markersize=4, capsize=2)
    if plane:
        axes.axhline(0, color="0.8", linewidth=0.8)
        axes.axvline(0, color="0.8", linewidth=0.8)
        axes.set_aspect("equal", "datalim")
        axes.set_xlabel("real part")
        axes.set_ylabel("imaginary part")
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("number")
        axes.set_ylabel(VALUES[each[0].kind])
    axes.set_title("values")


def _history(axes: Any, each: Sequence[Spectrum]) -> None:
    for i, one in enumerate(each):
        products = [step.products for step in one.history]
        # one that is 0 stands at the bottom of a logarithmic axis
        residuals = [max(step.residual, one.rounding, 1e-300) for step in one.history]
        axes.semilogy(products, residuals, "o-", color=f"C{i % 10}", markersize=3)
    if each[0].tolerance:
        axes.axhline(each[0].tolerance, color="0.5", linestyle="--", linewidth=0.8)
    axes.set_xlabel("products used")
    axes.set_ylabel("worst residual")
    axes.set_title("convergence (dashed: what was asked for)")


def _image_rows(one: Spectrum) -> list[tuple[str, Array]]:
    """The vectors that are images: what they are, and [k, height, width (, 3)]."""
    rows = []
    sides: list[tuple[str, Mapping[str, Array]]] = [("right", one.right), ("left", one.left)]
    for side, tensors in sides:
        for name, vectors in tensors.items():
            images = as_images(vectors.real)
            if images is not None:
                rows.append((f"{side}, {name}", images[:_SHOWN]))
    return rows


def as_images(vectors: Array) -> Array | None:
    """[k, 1, …, 3, h, w] or [k, 1, …, h, w, 3] → [k, h, w, 3]; of one channel, or none, [k, h, w].

    None where they are no images.
    """
    shape = vectors.shape[1:]
    while len(shape) > 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) == 3 and shape[0] in (1, 3):
        images = np.moveaxis(vectors.reshape(-1, *shape), 1, -1)
    elif len(shape) == 3 and shape[2] in (1, 3):
        images = vectors.reshape(-1, *shape)
    else:
        return None
    if min(images.shape[1:3]) < _PIXELS:
        return None
    return np.asarray(images[..., 0] if images.shape[3] == 1 else images)


def _images(strip: Any, name: str, images: Array) -> None:
    """Vectors side by side, each scaled to its largest element; of colours, grey is 0."""
    every = strip.subplots(1, _SHOWN)
    for i, axes in enumerate(every):
        axes.set_axis_off()
        if i < len(images):
            limit = float(np.abs(images[i]).max()) or 1.0
            if images.ndim == 4:
                axes.imshow(0.5 + images[i] / (2 * limit), interpolation="nearest")
            else:
                axes.imshow(
                    images[i], cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest"
                )
            axes.set_title(f"{i + 1}", fontsize=8)
    strip.suptitle(f"vectors on the {name}", fontsize=9)
