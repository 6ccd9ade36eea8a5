"""Charts of results, where matplotlib is installed: NAME.png and NAME.svg beside the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from record import RESULTS

Row = Mapping[str, Any]

#: what `bars` draws, and its colours
BARS = {
    "jvp": "tab:blue",
    "clone": "tab:cyan",
    "K=16": "tab:green",
    "onnx-ad": "tab:orange",
    "onnx-ad K=16": "tab:olive",
    "torch jvp": "tab:red",
    "jax jvp": "tab:purple",
}
TICKS = (0.5, 1, 2, 3, 5, 10, 20, 50)
ABSENT = (np.nan,) * 3


def bars(name: str, rows: Sequence[Row]) -> None:
    """Of `speed.py`: time over the plain forward, a panel per size and batch."""
    parts = list(dict.fromkeys((row["size"], row["batch"]) for row in rows))
    panels = [[r for r in rows if (r["size"], r["batch"]) == part] for part in parts]
    tall = 1.5 + 0.8 * max(map(len, panels))
    if (figure := _figure(6.5 * len(parts), tall)) is None:
        return
    height = 0.85 / len(BARS)
    for axes, part, chosen in zip(
        figure.subplots(1, len(parts), squeeze=False)[0], parts, panels, strict=True
    ):
        for i, (form, colour) in enumerate(BARS.items()):
            spreads = [r.get("over forward", {}).get(form, ABSENT) for r in chosen]
            low, middle, high = np.array(spreads, float).T
            axes.barh(
                np.arange(len(chosen)) + (i - len(BARS) / 2 + 0.5) * height,
                middle,
                height,
                xerr=(middle - low, high - middle),
                error_kw={"lw": 0.6},
                color=colour,
                label=form,
            )
        axes.set_xlim(left=0.4)
        _logarithmic(axes, "x")
        axes.axvline(1, color="black", lw=0.8)
        axes.axvline(2, color="black", lw=0.8, ls=":")
        axes.set_yticks(range(len(chosen)), [r["model"] for r in chosen])
        axes.invert_yaxis()
        axes.set_title(f"{part[0]}, batch {part[1]}")
    figure.supxlabel("time over onnxruntime's plain forward; K=16 per direction")
    _legend(figure)
    _save(figure, name)


def lines(name: str, rows: Sequence[Row], forms: Sequence[str]) -> None:
    """Of `kinks.py`: time over the plain operator by size, a panel per batch and form."""
    panels = [(batch, form) for form in forms for batch in dict.fromkeys(r["batch"] for r in rows)]
    if (figure := _figure(5.5 * len(panels) / len(forms), 3.8 * len(forms))) is None:
        return
    grid = figure.subplots(len(forms), -(-len(panels) // len(forms)), squeeze=False, sharey=True)
    for axes, (batch, form) in zip(grid.flat, panels, strict=True):
        for kind in dict.fromkeys(row["operator"] for row in rows):
            chosen = [r for r in rows if (r["operator"], r["batch"]) == (kind, batch)]
            axes.plot(
                [row["size"] for row in chosen],
                [row[form] for row in chosen],
                marker="o",
                label=kind,
            )
        axes.set_xscale("log")
        sizes = sorted({row["size"] for row in rows})
        axes.set_xticks(sizes, list(map(str, sizes)))
        _logarithmic(axes, "y")
        axes.axhline(1, color="tab:red", lw=0.8)
        axes.set_title(f"{form}, batch {batch}")
    figure.supxlabel("side of the image; for Gemm the width")
    figure.supylabel("time over the plain operator")
    _legend(figure)
    _save(figure, name)


def growth(rows: Sequence[Row]) -> None:
    """Of `kernels.py --growth`: operations per entry over the width, a panel per O."""
    outputs = list(dict.fromkeys(row["O"] for row in rows))
    if (figure := _figure(4 * len(outputs), 3.5)) is None:
        return
    panels = figure.subplots(1, len(outputs), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, outputs, strict=True):
        chosen = [row for row in rows if row["O"] == count]
        widths = [row["W"] for row in chosen]
        for method in ("contraction", "products", "structured"):
            axes.loglog(widths, [row[method] for row in chosen], marker="o", label=method)
        axes.set_title(f"O = {count}")
        axes.set_xlabel("W")
    panels[0].set_ylabel("operations per entry")
    _legend(figure)
    _save(figure, "kernel_growth")


def _figure(width: float, height: float) -> Any:
    """A figure that draws into memory; None, said aloud, without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - optional
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        print('no chart: pip install "onnxjvp[plot]", and run this again with --render')
        return None
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _logarithmic(axes: Any, axis: str) -> None:
    axes.set(**{f"{axis}scale": "log"})
    axes.autoscale_view()
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    ticks = [tick for tick in TICKS if min(low, 1) <= tick <= high]
    axes.set(**{f"{axis}ticks": ticks, f"{axis}ticklabels": [f"{tick:g}" for tick in ticks]})
    axes.minorticks_off()


def _legend(figure: Any) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4)


def _save(figure: Any, name: str) -> None:
    for suffix in (".png", ".svg"):
        figure.savefig(RESULTS / f"{name}{suffix}", dpi=110)
