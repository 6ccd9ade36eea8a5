"""Pictures of kernels: a heat map, and the spectrum beside it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.analysis.pictures import draw_cells, new_figure, save_figure
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: rows of the largest matrix whose eigenvalues are drawn, and that is drawn with all its outputs
MOST_ROWS = 4000
#: numbers that are read at once
_PIECE = 1 << 24


def plot(
    kernel: Any, path: str | os.PathLike[str], *, symmetric: bool, title: str | None = None
) -> int:
    """Draw a kernel and, where it is symmetric and small enough, its eigenvalues.

    Args:
      kernel: [N1, N2], [N1, N2, O] (their mean over outputs is drawn) or [N1, N2, O, O] (drawn as
        [N1 O, N2 O], or the mean of the diagonal blocks where that has more than 4000 rows or
        columns): an array, or an array of a zarr file.
      path: the picture to write, complete or not at all; its ending says in which format.
      symmetric: x2 is x1.
    Returns: how many eigenvalues are drawn: none if there are more than 4000, or some elements are
      not finite.
    Raises:
      MissingDependencyError: matplotlib is not installed.
      UsageError: an array of another shape, an unknown format, or a place that cannot be written.
    Cost: the array is read once; memory for [N1, N2], or the matrix if it is drawn as a whole; for
      the spectrum a dense eigenvalue problem.
    """
    matrix = matrix_of(kernel)
    spectrum = symmetric and len(matrix) <= MOST_ROWS and bool(np.isfinite(matrix).all())
    figure = new_figure((14 if spectrum else 8, 6))
    axes = figure.add_subplot(1, 2 if spectrum else 1, 1)
    image = draw_cells(axes, matrix)
    shape = " × ".join(map(str, kernel.shape))
    axes.set_title(title or f"neural tangent kernel [{shape}]")
    axes.set_xlabel("x2, sample and output" if _is_whole(kernel, matrix) else "x2, sample")
    axes.set_ylabel("x1, sample and output" if _is_whole(kernel, matrix) else "x1, sample")
    figure.colorbar(image)
    if spectrum:
        _draw_spectrum(figure.add_subplot(1, 2, 2), matrix)
    save_figure(figure, Path(path))
    return len(matrix) if spectrum else 0


def matrix_of(kernel: Any) -> Array:
    """The matrix that is drawn of a kernel."""
    if len(kernel.shape) not in (2, 3, 4) or not all(kernel.shape):
        raise UsageError(f"an array of shape {list(kernel.shape)} is no kernel that can be drawn")
    n1, n2, *outputs = kernel.shape
    if len(outputs) == 2 and max(n1, n2) * outputs[0] <= MOST_ROWS:
        whole = np.asarray(kernel[...]).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(whole).reshape(n1 * outputs[0], n2 * outputs[1])
    rows = max(1, _PIECE // max(1, int(np.prod(kernel.shape[1:], dtype=np.int64))))
    pieces = [np.asarray(kernel[start : start + rows]) for start in range(0, n1, rows)]
    if len(outputs) == 2:
        pieces = [np.trace(piece, axis1=2, axis2=3) / outputs[0] for piece in pieces]
    elif outputs:
        pieces = [piece.mean(axis=2) for piece in pieces]
    return np.concatenate(pieces)


def _is_whole(kernel: Any, matrix: Array) -> bool:
    return len(kernel.shape) == 4 and matrix.shape != kernel.shape[:2]


def _draw_spectrum(axes: Any, matrix: Array) -> None:
    """Eigenvalues by size; those that rounding has made negative by their magnitude."""
    values = np.linalg.eigvalsh((matrix + matrix.T) / 2)[::-1]
    index = np.arange(1, len(values) + 1)
    above = values > 0
    axes.semilogy(index[above], values[above], ".", label="positive")
    if (values < 0).any():
        axes.semilogy(
            index[values < 0], -values[values < 0], ".", color="0.6", label="negative, |λ|"
        )
        axes.legend()
    axes.set_title(f"spectrum: trace {np.trace(matrix):.4g}, largest {values[0]:.4g}")
    axes.set_xlabel("number")
    axes.set_ylabel("eigenvalue")
