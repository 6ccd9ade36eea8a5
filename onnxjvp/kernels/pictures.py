"""Pictures of kernels: a heat map of each, and its spectrum beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.analysis.pictures import MOST_CELLS, draw_cells, new_figure, reduced, save_figure
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: rows of the largest matrix that is drawn with all its outputs and its eigenvalues; several
#: kernels share what these take
MOST_ROWS = 4000
#: kernels in one picture
MOST_KERNELS = 12
#: cells along an axis of a matrix that is drawn beside others: finer ones are not seen
_FEW_CELLS = 600
#: numbers that are read at once
_PIECE = 1 << 24
#: characters in a line of a title, and lines of a name
_LINE, _LINES = 48, 2


@dataclass(frozen=True)
class Picture:
    """What is drawn, and what is not.

    Attributes:
      eigenvalues: how many are drawn, by the name of the kernel.
      reasons: why none are drawn of a kernel.
      left_out: names of kernels that are not drawn.
    """

    eigenvalues: Mapping[str, int]
    reasons: Mapping[str, str]
    left_out: tuple[str, ...] = ()


def plot(kernels: Mapping[str, Any], path: str | os.PathLike[str], *, symmetric: bool) -> Picture:
    """Draw kernels and, where they are symmetric and small enough, their eigenvalues.

    Args:
      kernels: name → [N1, N2], [N1, N2, O] (the mean over outputs is drawn) or [N1, N2, O, O]
        (drawn as [N1 O, N2 O], or the mean of the diagonal blocks where that has more than 4000
        rows or columns): arrays, or arrays of a zarr file. Of more than 12 those of the largest
        Frobenius norm are drawn, in their order.
      path: the picture to write, complete or not at all; its ending says in which format.
      symmetric: x2 is x1.
    Raises:
      MissingDependencyError: matplotlib is not installed.
      UsageError: an array of another shape, an unknown format, or a place that cannot be written.
    Cost: arrays are read once, and once more where there are more than 12; memory for the cells
      that are drawn, and for a matrix of 4000 rows; a dense eigenvalue problem for each spectrum.
    """
    kept = _largest(kernels)
    most = int(MOST_ROWS / len(kept) ** (1 / 3))
    across = 1 if len(kept) <= 3 else 2  # kernels beside each other
    down, each = -(-len(kept) // across), 2 if symmetric else 1
    width, height = (7, 6) if len(kept) == 1 else (5.5, 4.4)
    figure = new_figure((max(8, width * each * across), height * down))
    eigenvalues, reasons = dict[str, int](), dict[str, str]()
    for n, (name, kernel) in enumerate(kept.items()):
        places = [figure.add_subplot(down, each * across, each * n + k + 1) for k in range(each)]
        matrix, whole = matrix_of(kernel, most)
        cells = _cells(kernel) if matrix is None else matrix
        if len(kept) > 1:
            cells = reduced(reduced(cells, 0, _FEW_CELLS), 1, _FEW_CELLS)
        figure.colorbar(draw_cells(places[0], cells, _size(kernel, whole)))
        _label(places[0], _title(name, kernel), "sample and output" if whole else "sample")
        reason = _why_not(matrix, symmetric, most)
        eigenvalues[name] = 0
        if matrix is not None and not reason:
            eigenvalues[name] = _draw_spectrum(places[1], matrix)
        else:
            reasons[name] = reason
            for empty in places[1:]:
                empty.set_axis_off()
                empty.text(0.5, 0.5, "\n".join(_wrapped(reason)), ha="center", va="center")
    save_figure(figure, Path(path))
    return Picture(eigenvalues, reasons, tuple(name for name in kernels if name not in kept))


# -- what is drawn of a kernel -----------------------------------------------------------------


def matrix_of(kernel: Any, most: int = MOST_ROWS) -> tuple[Array | None, bool]:
    """The matrix that is drawn of a kernel, and whether it has all outputs.

    Returns: None where it would have more rows or columns than `most`.
    """
    if len(kernel.shape) not in (2, 3, 4) or not all(kernel.shape):
        raise UsageError(f"an array of shape {list(kernel.shape)} is no kernel that can be drawn")
    n1, n2, *outputs = kernel.shape
    if len(outputs) == 2 and max(n1, n2) * outputs[0] <= most:
        whole = np.asarray(kernel[...]).transpose(0, 2, 1, 3)
        return np.ascontiguousarray(whole).reshape(_size(kernel, True)), True
    if max(n1, n2) > most:
        return None, False
    return np.concatenate([piece for _, piece in _means(kernel)]), False


def _means(kernel: Any, step: int = 1) -> Iterator[tuple[int, Array]]:
    """Rows of the mean over pairs of equal outputs: the first row's number, and a few of them.

    Args:
      step: how many rows stay together.
    """
    rows = _PIECE // math.prod(kernel.shape[1:]) // step * step
    for start in range(0, kernel.shape[0], max(rows, step)):
        piece = np.asarray(kernel[start : start + max(rows, step)])
        if piece.ndim == 4:
            piece = np.trace(piece, axis1=2, axis2=3) / piece.shape[2]
        yield start, piece.mean(axis=2) if piece.ndim == 3 else piece


def _cells(kernel: Any) -> Array:
    """The mean over pairs of equal outputs in at most 2000 x 2000 cells, never held as a whole."""
    step = -(-kernel.shape[0] // MOST_CELLS)
    found = []
    for _, piece in _means(kernel, step):
        across = reduced(piece, 1)
        found.append(reduced(across, 0, -(-len(across) // step)))
    return np.concatenate(found)


def _size(kernel: Any, whole: bool) -> tuple[int, int]:
    """Rows and columns of what is drawn."""
    n1, n2, *outputs = kernel.shape
    return (n1 * outputs[0], n2 * outputs[1]) if whole else (n1, n2)


def _largest(kernels: Mapping[str, Any]) -> Mapping[str, Any]:
    """The kernels that fit in a picture: those of the largest norm."""
    if len(kernels) <= MOST_KERNELS:
        return kernels
    norms = {name: _square(kernel) for name, kernel in kernels.items()}
    best = sorted(norms, key=lambda name: norms[name], reverse=True)[:MOST_KERNELS]
    return {name: kernel for name, kernel in kernels.items() if name in best}


def _square(kernel: Any) -> float:
    """The Frobenius norm, squared; what is not finite goes first."""
    rows = max(1, _PIECE // max(1, math.prod(kernel.shape[1:])))
    total = 0.0
    for start in range(0, kernel.shape[0], rows):
        piece = np.asarray(kernel[start : start + rows]).astype(np.float64)
        total += float(np.vdot(piece, piece))
    return total if math.isfinite(total) else math.inf


def _why_not(matrix: Array | None, symmetric: bool, most: int) -> str:
    """Why a kernel has no spectrum in the picture."""
    if not symmetric:
        return "the samples of the columns are others than those of the rows"
    if matrix is None:
        return f"it has more than {most} rows"
    if not np.isfinite(matrix).all():
        return "some elements are not finite"
    return "" if matrix.any() else "it is zero"


# -- drawing -----------------------------------------------------------------------------------


def _title(name: str, kernel: Any) -> str:
    shape = " × ".join(map(str, kernel.shape))
    return "\n".join([*_wrapped(name or "neural tangent kernel"), f"[{shape}]"])


def _wrapped(text: str) -> list[str]:
    """Lines of a name that a title has room for, the middle left out."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    room = _LINE * _LINES
    if len(text) > room:
        text = f"{text[: room // 2 - 1]}…{text[-room // 2 :]}"
    return [text[start : start + _LINE] for start in range(0, len(text), _LINE)]


def _label(axes: Any, title: str, what: str) -> None:
    axes.set_title(title, parse_math=False)  # a name may hold a dollar
    axes.set_xlabel(f"x2, {what}")
    axes.set_ylabel(f"x1, {what}")


def _draw_spectrum(axes: Any, matrix: Array) -> int:
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
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f"spectrum: trace {np.trace(matrix):.4g}, largest {values[0]:.4g}")
    axes.set_xlabel("number")
    axes.set_ylabel("eigenvalue")
    return len(values)
