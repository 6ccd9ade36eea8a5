"""What a rewriting adds to a model, as a table."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from onnxjvp.cli import output

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten

#: form of a result → what it is; the tensor to which it belongs comes behind
_FORMS = {
    "jvp": "J u of",
    "u": "f_x(u) of",
    "0": "f_x(0) of",
    "s": "f_x(x - u) of",
    "vjp": "J^T v in",
    "grad": "gradient in",
    "hvp": "H u, Hessian times direction, in",
    "ggn": "G u, Gauss-Newton times direction, in",
    "fwd": "forward derivative of",
    "adj": "adjoint derivative in",
    "fwd_adj": "derivative of the adjoint in",
}
_JACOBIAN = "jac_"


def print_added(made: Mapping[str, Rewritten]) -> None:
    """The table of added inputs and outputs, of one model or of several told apart by name."""
    from onnxjvp.inspection import Tensor

    columns = ["added", "name", "what it is", "dtype", "shape"]
    rows: list[tuple[str, ...]] = []
    for part, rewritten in made.items():
        graph = rewritten.model.graph
        ends = {v.name or "": v for v in (*graph.inputs, *graph.outputs)}
        for what, name, meaning in _added(rewritten):
            tensor = Tensor.of(ends[name])
            cells = what, name, meaning, tensor.dtype, output.dims(tensor.shape)
            rows.append((part, *cells) if len(made) > 1 else cells)
    output.table(["model", *columns] if len(made) > 1 else columns, rows)


def _added(made: Rewritten) -> Iterator[tuple[str, str, str]]:
    """Input or output, its name, and what it is."""
    loss = made.report.get("loss_of") or ""
    one = made.report.get("directions") is None and made.report["emit"] != "casadi"
    plural = "" if one else "s"
    for x, seed in made.names["seeds"].items():
        of = f"adj_{x}" if seed == f"fwd_adj_{x}" else x
        yield "input", seed, f"direction{plural} u of {of}"
    for y, ct in made.names["cotangents"].items():
        yield "input", ct, f"cotangent{plural} v of {y}"
    compared = "labels" if loss.startswith("cross_entropy ") else "target"
    for y, name in made.names.get("targets", {}).items():
        yield "input", name, f"{compared} of {y}"
    for of, forms in made.names["results"].items():
        for form, name in forms.items():
            x = form.removeprefix(_JACOBIAN)
            meaning = f"{_FORMS[form]} {of}" if x == form else f"Jacobian of {of} in {x}"
            yield "output", name, meaning
    if loss not in ("", made.report.get("loss")):
        yield "output", str(made.report["loss"]), loss


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
