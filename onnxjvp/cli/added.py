"""What a rewriting adds to a model, as a table."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from onnxjvp.cli import output

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten


def print_added(made: Mapping[str, Rewritten]) -> None:
    """The table of added inputs and outputs, of one model or of several told apart by name."""
    from onnxjvp.inspection import Tensor
    from onnxjvp.rewrite.card import meanings

    columns = ["added", "name", "what it is", "dtype", "shape"]
    rows: list[tuple[str, ...]] = []
    for part, rewritten in made.items():
        graph = rewritten.model.graph
        ends = {v.name or "": v for v in (*graph.inputs, *graph.outputs)}
        for what, name, meaning in meanings(rewritten.names, rewritten.report):
            tensor = Tensor.of(ends[name])
            cells = what, name, meaning, tensor.dtype, output.dims(tensor.shape)
            rows.append((part, *cells) if len(made) > 1 else cells)
    output.table(["model", *columns] if len(made) > 1 else columns, rows)


def describe(made: Sequence[Rewritten]) -> None:
    """How it was done, and what was left out."""
    report = made[0].report
    settings = ("emit", "layout", "method", "directions")
    known = [f"{key} {report[key]}" for key in settings if report.get(key) is not None]
    if len(made) == 1:
        output.line(", ".join(known))
    if "opset" in report:
        raised = f" (raised from {report['raised_from']})" if report["raised_from"] else ""
        after = ", ".join(str(one.report["nodes_after"]) for one in made)
        output.line(f"opset {report['opset']}{raised}")
        output.line(f"nodes {report['nodes_before']} before, {after} after")
    if "residuals" in report:
        count = len(report["residuals"])
        output.line(f"residuals {count}: outputs of the first model, inputs of the others")
    if report.get("given"):
        output.line(f"directions in the file: {', '.join(report['given'])}")
    for name, reason in _excluded(made).items():
        what = "variable" if name in report.get("wrt", ()) else "output"
        output.line(f"excluded: {what} {name}: {reason}")
    for cut in report.get("cuts", ()):
        output.line(f"derivative of zero on a live path: {cut}")


def _excluded(made: Sequence[Rewritten]) -> dict[str, str]:
    return {n: reason for one in made for n, reason in one.report.get("excluded", {}).items()}
