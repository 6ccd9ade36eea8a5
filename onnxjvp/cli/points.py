"""The points that commands work at."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxjvp.cli import output
from onnxjvp.cli.files import check_output, read_inputs, sizes
from onnxjvp.errors import MissingDependencyError, NotConvergedError, UsageError

if TYPE_CHECKING:
    from onnxjvp.analysis import Estimate, Spectrum
    from onnxjvp.runtime import Array

PICTURES = (".png", ".pdf", ".svg")


def read_points(
    model: Path,
    given: Sequence[str] | None,
    inputs: Path | None,
    dim: Sequence[str] | None,
    provider: str,
    links: Path | None,
    *,
    each: bool,
) -> list[dict[str, Array]]:
    """The point that the options give, or one for every sample of its batch."""
    known = sizes(dim or ())
    with output.busy(f"loading {model}"):
        specs = input_specs(model, [provider], links)
    feeds = read_inputs(specs, given or (), inputs, known)
    if not each:
        return [feeds]
    from onnxjvp.analysis import samples

    return samples(feeds)


def input_specs(model: Path, providers: Sequence[str], links: Path | None) -> Sequence[Any]:
    """What the model takes."""
    from onnxjvp.graph.load import load
    from onnxjvp.runtime import Session

    # a runtime may follow links by rules of its own
    loaded = model if links is None else load(model, links=links).model
    return Session(loaded, providers=providers, optimize=False).inputs


def check_npz(out: Path, *, force: bool) -> None:
    """Refuse, before any work, a file that could not be written after it."""
    if out.suffix != ".npz":
        raise UsageError(f"{str(out)!r}: give a name that ends in .npz")
    check_output(out, force=force)


def require_all(found: Sequence[Spectrum | Estimate]) -> None:
    """Raises: NotConvergedError with what every point is short of."""
    told = []
    for i, one in enumerate(found):
        try:
            one.require()
        except NotConvergedError as error:
            told.append(f"sample {i}: {error}" if len(found) > 1 else str(error))
    if told:
        raise NotConvergedError("; ".join(told))


def check_plot(plot: Path, out: Path | None, *, force: bool) -> None:
    """Refuse, before any work, a picture that could not be drawn after it."""
    if out is not None and plot.resolve() == out.resolve():
        raise UsageError(f"--plot and -o both name {str(plot)!r}; give two names")
    check_output(plot, force=force)
    if plot.suffix not in PICTURES:
        raise UsageError(f"{str(plot)!r}: give a name that ends in {', '.join(PICTURES)}")
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingDependencyError(
            '--plot needs matplotlib, which is not installed: pip install "onnxjvp[plot]"'
        )


def plain(value: float) -> float | str:
    """For JSON, which lacks infinity and NaN."""
    return float(value) if math.isfinite(value) else str(float(value))
