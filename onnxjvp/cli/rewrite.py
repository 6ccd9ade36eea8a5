"""`onnxjvp rewrite`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.added import describe, print_added
from onnxjvp.cli.choices import Emit, Layout, Method, Mode, Names, Quantized, Target
from onnxjvp.cli.emits import CASADI, Request
from onnxjvp.cli.files import check_output, sizes
from onnxjvp.cli.options import AllowLinks, AsJson, Force, Outputs
from onnxjvp.cli.verify import print_report
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten
    from onnxjvp.verification import Report


def rewrite(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to rewrite.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write [default: MODEL.EMIT.onnx, beside it]."),
    ] = None,
    emit: Annotated[
        Emit | None, typer.Option(help="What the new model computes, see above [default: clone].")
    ] = None,
    wrt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to differentiate in: float inputs, parameters, inner values, patterns such "
            "as 'conv*.weight', or params for every trainable parameter [default: all float "
            "inputs].",
        ),
    ] = None,
    outputs: Outputs = None,
    directions: Annotated[
        str | None,
        typer.Option(
            metavar="K",
            help="So many directions (vjp: cotangents) at once, or a name for a dynamic number: "
            "directions and results are [K, ...] [default: one, without that axis].",
        ),
    ] = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE.npy",
            help="clone, jvp: a direction that goes into the file, instead of an input for it.",
        ),
    ] = None,
    select: Annotated[
        str | None,
        typer.Option(metavar="'y[:, 3]'", help="grad, hvp: elements of an output to add up."),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="grad, hvp: sum, squared_norm, squared_error or cross_entropy of an output; ggn: "
            "squared_error (its default) or cross_entropy.",
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option(help="jacobian: along variables, or along outputs [default: auto]."),
    ] = None,
    layout: Annotated[
        Layout | None,
        typer.Option(help="clone: three streams, or one tripled batch [default: auto]."),
    ] = None,
    method: Annotated[
        Method | None,
        typer.Option(help="clone: run u and 0, or x - u alone [default: lanes]."),
    ] = None,
    target: Annotated[
        Target | None,
        typer.Option(
            help="The runtime to write for; what web, mobile, openvino or tensorrt cannot run is "
            "refused by name [default: portable, for all of them]."
        ),
    ] = None,
    quantized: Annotated[
        Quantized | None,
        typer.Option(
            help="Pass rounding over where activations are quantised [default: refuse them]."
        ),
    ] = None,
    names: Annotated[
        Names | None,
        typer.Option(help="casadi: four files with CasADi's names and matrices; needs -o."),
    ] = None,
    no_second_order: Annotated[
        bool,
        typer.Option("--no-second-order", help="casadi: three files, without that for Hessians."),
    ] = False,
    emit_states: Annotated[
        bool,
        typer.Option(
            "--emit-states",
            help="clone, jvp, vjp, linearize: an output NODE_state for each node that compares: "
            "the code of the region of x.",
        ),
    ] = False,
    opset: Annotated[
        int | None, typer.Option(help="Opset to write [default: the model's, at least 18].")
    ] = None,
    allow_links: AllowLinks = None,
    force: Force = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Verify by numbers, and write nothing if that fails."),
    ] = False,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZE", help="With --check or casadi: size of a dynamic dimension."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a model that also computes derivatives.

    The new model is an ordinary ONNX file with the inputs and outputs of the old one, and those
    listed when it is written. Nothing is written if anything is wrong. With x the variables, u a
    direction, v a cotangent and J the Jacobian of the outputs, --emit is one of

    \b
      clone      f_x(u), f_x(0) and J u: the network frozen at x
      jvp        J u
      vjp        J^T v
      grad       the gradient of one number: an output, --select or --loss
      jacobian   J itself, and f_x(0)
      linearize  f(x) with what J needs of it; J u; J^T v: files OUT.primal.onnx and so on
      hvp        H u, the Hessian of that number times a direction
      ggn        G u, the Gauss-Newton matrix times a direction

    \b
    Examples:
      onnxjvp rewrite models/digits_cnn.onnx --check
      onnxjvp rewrite models/digits_cnn.onnx --emit jvp --wrt 'head.*' --directions K
      onnxjvp rewrite models/digits_cnn.onnx --emit grad --wrt params --loss cross_entropy
      onnxjvp rewrite models/wine_mlp.onnx --emit jacobian --outputs probabilities
      onnxjvp rewrite models/diabetes_mlp.onnx --names casadi --dim batch=1 -o f.onnx
    """
    if names and emit:
        raise UsageError("--names casadi makes files of its own; leave --emit out")
    if dim and not (check or names):
        raise UsageError(
            "--dim gives sizes to --check and to --names casadi; pass one of them, or leave --dim "
            "out"
        )
    options = {
        "--outputs": outputs,
        "--directions": directions,
        "--direction": direction,
        "--select": select,
        "--loss": loss,
        "--mode": mode and mode.value,
        "--layout": layout and layout.value,
        "--method": method and method.value,
        "--target": target and target.value,
        "--quantized": quantized and quantized.value,
        "--no-second-order": False if no_second_order else None,
        "--emit-states": True if emit_states else None,
        "--dim": dim if names else None,
    }
    given = {option: value for option, value in options.items() if value is not None}
    kind = CASADI if names else (emit or Emit.CLONE).value
    request = Request(model, kind, wrt, given, out, opset, allow_links)
    if check:
        request.check_verifiable()
    known = sizes(dim or ())
    paths = request.paths()
    for path in paths.values():
        check_output(path, force=force)
    with output.busy("loading onnx"):
        import onnxjvp.rewrite  # noqa: F401
    with output.busy(f"rewriting {model}"):
        made = request.make()
    report = _verified(model, made[""], allow_links, known) if check else None
    passed = report is None or report.passed
    if passed:
        for each in made.values():
            each.record(model, None if report is None else report.summary())
        with output.busy("writing"):
            request.save(made, force=force)
    written = {str(paths[part]): rewritten for part, rewritten in made.items()}
    if as_json:
        output.print_json(_content(model, written, report))
    else:
        _print(written, report)
    if not passed:
        raise typer.Exit(1)


def _verified(model: Path, made: Rewritten, links: Path | None, dims: dict[str, int]) -> Report:
    from onnxjvp.verification import verify

    with output.busy(f"verifying {model}"):
        return verify(model, made, links=links, dims=dims)


def _content(
    model: Path, made: Mapping[str, Rewritten], report: Report | None
) -> dict[str, object]:
    """What --json prints: of several files, a list."""
    files = [{"output": path, **one.report, **one.names} for path, one in made.items()]
    return {
        "model": str(model),
        "written": report is None or report.passed,
        **(files[0] if len(files) == 1 else {"files": files}),
        "check": report and report.to_dict(),
    }


def _print(made: Mapping[str, Rewritten], report: Report | None) -> None:
    print_added({Path(path).name: one for path, one in made.items()})
    output.line()
    describe(list(made.values()))
    if report is not None:
        output.line()
        print_report(report)
    output.line()
    failed = report is not None and not report.passed
    for path in made:
        output.line(f"wrote nothing to {path}: the check failed" if failed else f"wrote {path}")
