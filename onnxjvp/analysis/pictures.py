"""Pictures of Jacobians."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onnxjvp.errors import MissingDependencyError, UsageError
from onnxjvp.runtime import Array

#: no more cells than this along an axis: finer ones are not seen
MOST_CELLS = 2000


def heat_map(
    array: ArrayLike,
    path: str | os.PathLike[str],
    *,
    rows: int | None = None,
    title: str | None = None,
    output: str = "output",
    variable: str = "variable",
) -> Path:
    """Draw a Jacobian: elements of the output downwards, elements of the variable to the right.

    Colours diverge from 0 to both sides, up to the largest magnitude; elements that are not finite
    are grey. Where there are more than 2000 elements along an axis, a cell shows the largest in
    magnitude of several, so that none is averaged away.

    Args:
      array: [*shape of y, *shape of x], as of `dense_jacobian`.
      path: the picture to write, complete or not at all; its ending says in which format (.png,
        .pdf, .svg, …). An existing file is replaced.
      rows: how many leading axes are those of the output; None does for one axis of each.
      title: None says what it is, and of which shape.
      output, variable: the names for the axes.
    Returns: the path.
    Raises:
      MissingDependencyError: matplotlib is not installed.
      UsageError: no elements or complex ones, a shape without `rows`, an unknown format, or a
        place that cannot be written.
    Cost: memory for a picture of the cells, whatever the Jacobian's size; each element is read
      twice.
    """
    matrix = _matrix(array, rows)
    figure = new_figure()
    axes = figure.add_subplot()
    image = draw_cells(axes, matrix)
    shape = " × ".join(map(str, np.shape(array)))
    axes.set_title(f"Jacobian of {output} in {variable} [{shape}]" if title is None else title)
    axes.set_xlabel(f"{variable}, element (row-major)")
    axes.set_ylabel(f"{output}, element (row-major)")
    figure.colorbar(image, label=f"∂ {output} / ∂ {variable}")
    return save_figure(figure, Path(path))


def draw_cells(axes: Any, matrix: Array, size: tuple[int, int] | None = None) -> Any:
    """The elements of a matrix as colours; returns the image, for a colour bar.

    Args:
      size: the rows and columns that the matrix stands for, where it has been `reduced` already.
    """
    cells = reduced(reduced(matrix, 0), 1)
    finite = np.abs(cells[np.isfinite(cells)])
    limit = float(finite.max(initial=0)) or 1.0
    rows, columns = matrix.shape if size is None else size
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
    return axes.imshow(
        np.ma.masked_invalid(cells),
        cmap=_colours(),
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows - 0.5, -0.5),
    )


def _matrix(array: ArrayLike, rows: int | None) -> Array:
    """The view [outputs, inputs]."""
    found: Array = array if isinstance(array, np.ndarray) else np.asarray(array)
    if found.dtype.kind not in "fiub":
        raise UsageError(f"a picture of {found.dtype} cannot be drawn; give real numbers")
    if rows is None:
        if found.ndim != 2:
            raise UsageError(
                f"of the axes of {list(found.shape)}, say how many belong to the output (rows=…)"
            )
        rows = 1
    if not 0 <= rows <= found.ndim:
        raise UsageError(f"{rows} of {found.ndim} axes cannot belong to the output")
    if not found.size:
        raise UsageError(f"a Jacobian of shape {list(found.shape)} has no element to draw")
    return found.reshape(math.prod(found.shape[:rows]), -1)


def reduced(matrix: Array, axis: int, most: int | None = None) -> Array:
    """At most so many cells along the axis: of several elements the largest in magnitude."""
    size = matrix.shape[axis]
    most = MOST_CELLS if most is None else most
    if size <= most:
        return np.asarray(matrix)
    starts = np.linspace(0, size, most, endpoint=False).astype(np.intp)
    high = np.maximum.reduceat(matrix, starts, axis=axis)
    low = np.minimum.reduceat(matrix, starts, axis=axis)
    return np.where(np.abs(low) > np.abs(high), low, high)


def new_figure(size: tuple[float, float] = (8, 6)) -> Any:
    """A figure that draws into memory, whatever screen there is."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError as error:
        raise MissingDependencyError(
            'A picture needs matplotlib, which is not installed: pip install "onnxjvp[plot]".'
        ) from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _colours() -> Any:
    from matplotlib import colormaps  # noqa: PLC0415 - optional

    return colormaps["RdBu_r"].with_extremes(bad="0.6")


def save_figure(figure: Any, path: Path) -> Path:
    """Write a picture, complete or not at all.

    Raises: UsageError for an unknown format, or a place that cannot be written.
    """
    kind = path.suffix.removeprefix(".").lower()
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise UsageError(f"{str(path)!r}: a picture ends in one of {', '.join(sorted(known))}")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / path.name
            figure.savefig(temporary, dpi=150, format=kind)
            temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{str(path)!r} cannot be written: {reason}. Choose another place"
        ) from error
    return path
