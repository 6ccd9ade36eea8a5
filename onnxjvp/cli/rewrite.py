"""`onnxjvp rewrite`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import AllowLinks, check_output, sizes
from onnxjvp.cli.verify import print_report
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten
    from onnxjvp.verification import Report

_FORMS = {"jvp": "J u", "u": "f_x(u)", "0": "f_x(0)", "s": "f_x(x - u)"}


class Emit(str, Enum):
    """What the new model computes."""

    CLONE = "clone"
    JVP = "jvp"


class Layout(str, Enum):
    """How a clone runs its lanes."""

    AUTO = "auto"
    STACKED = "stacked"
    SPLIT = "split"


class Method(str, Enum):
    """Which lanes a clone runs."""

    LANES = "lanes"
    SUBSTITUTE = "substitute"


def rewrite(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to rewrite.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write [default: MODEL.EMIT.onnx, beside it]."),
    ] = None,
    emit: Annotated[
        Emit, typer.Option(help="clone: f_x(u), f_x(0) and J u; jvp: J u alone.")
    ] = Emit.CLONE,
    wrt: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Input to differentiate in [default: all float ones]."),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Output to differentiate [default: all that can be]."),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(help="Of a clone: three streams, or one tripled batch [default: auto]."),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="Of a clone: run u and 0, or x - u alone [default: lanes]."),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Opset to write [default: the model's, at least 18].")
    ] = None,
    allow_links: AllowLinks = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing output.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Verify by numbers, and write nothing if that fails."),
    ] = False,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="With --check: size of a dynamic dimension."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Make a model that also computes Jacobian-vector products.

    The new model is an ordinary ONNX file with an input NAME_u, the direction, for every variable
    and the outputs listed when it is written. Nothing is written if anything is wrong.

    \b
    Examples:
      onnxjvp rewrite models/digits_cnn.onnx --check
      onnxjvp rewrite models/digits_cnn.onnx --emit jvp -o /tmp/cnn.jvp.onnx
      onnxjvp rewrite models/digits_cnn.onnx --layout stacked --wrt image --force
    """
    if emit is Emit.JVP and (layout is not None or method is not None):
        option = "--layout" if layout is not None else "--method"
        raise UsageError(
            f"{option} is a choice between clones, and --emit jvp makes none; leave {option} out, "
            "or pass --emit clone"
        )
    if dim and not check:
        raise UsageError("--dim sizes the inputs of --check; pass --check, or leave --dim out")
    known = sizes(dim or ())
    path = out if out is not None else model.with_name(f"{model.stem}.{emit.value}.onnx")
    check_output(path, force=force)
    with output.busy("loading onnx"):
        from onnxjvp.rewrite import clone, jvp
    with output.busy(f"rewriting {model}"):
        if emit is Emit.JVP:
            made = jvp(model, wrt, outputs, opset=opset, links=allow_links)
        else:
            made = clone(
                model,
                wrt,
                outputs,
                layout=(layout or Layout.AUTO).value,
                method=(method or Method.LANES).value,
                opset=opset,
                links=allow_links,
            )
    report = _verified(model, made, allow_links, known) if check else None
    passed = report is None or report.passed
    if passed:
        with output.busy(f"writing {path}"):
            made.save(path, force=force)
    if as_json:
        content = {**made.report, **made.names, "check": report and report.to_dict()}
        output.print_json({"model": str(model), "output": str(path), "written": passed, **content})
    else:
        _print(made)
        if report is not None:
            output.line()
            print_report(report)
        output.line()
        output.line(f"wrote {path}" if passed else f"wrote nothing to {path}: the check failed")
    if not passed:
        raise typer.Exit(1)


def _verified(
    model: Path, made: Rewritten, links: Path | None, dims: dict[str, int] | None
) -> Report:
    from onnxjvp.verification import verify

    with output.busy(f"verifying {model}"):
        return verify(model, made, links=links, dims=dims)


def _print(made: Rewritten) -> None:
    from onnxjvp.inspection import Tensor

    report = made.report
    ends = {v.name: v for v in (*made.model.graph.inputs, *made.model.graph.outputs)}

    def row(what: str, name: str, meaning: str) -> tuple[str, ...]:
        tensor = Tensor.of(ends[name])
        return what, name, meaning, tensor.dtype, output.dims(tensor.shape)

    rows = [row("input", seed, f"direction u of {x}") for x, seed in made.names["seeds"].items()]
    rows += [
        row("output", name, f"{_FORMS[form]} of {y}")
        for y, forms in made.names["results"].items()
        for form, name in forms.items()
    ]
    output.table(("added", "name", "what it is", "dtype", "shape"), rows)
    output.line()
    raised = f" (raised from {report['raised_from']})" if report["raised_from"] else ""
    output.line(f"emit {report['emit']}, layout {report['layout']}, method {report['method']}")
    output.line(f"opset {report['opset']}{raised}")
    output.line(f"nodes {report['nodes_before']} before, {report['nodes_after']} after")
    for name, reason in report["excluded"].items():
        output.line(f"excluded: output {name}: {reason}")
    for cut in report["cuts"]:
        output.line(f"derivative of zero on a live path: {cut}")
