"""`onnxjvp verify`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import read_npz, sizes
from onnxjvp.cli.options import AllowLinks, AsJson, Provider

if TYPE_CHECKING:
    from onnxjvp.verification import Report


def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The original .onnx file.")],
    rewritten: Annotated[
        Path, typer.Argument(metavar="REWRITTEN", help="The file that `rewrite` made of it.")
    ],
    seed: Annotated[int, typer.Option(min=0, help="Of the inputs and directions drawn.")] = 0,
    inputs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz",
            help="Arrays for the model's inputs, targets and labels [default: drawn].",
        ),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZE", help="Size of a dynamic dimension, as far as it is drawn."
        ),
    ] = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    as_json: AsJson = False,
) -> None:
    """Check a rewritten model against its original, by numbers alone.

    f(x) must be unchanged, every product must agree with differences of the original in float64
    and be linear in its direction, and a clone must be affine; each row of the table is one check.
    Exit code 1 if one fails. Where the model cannot be evaluated in float64 the table says "no
    oracle".

    \b
    Examples:
      onnxjvp verify models/digits_cnn.onnx models/digits_cnn.clone.onnx
      onnxjvp verify models/digits_cnn.onnx models/digits_cnn.clone.onnx --seed 7 --dim batch=4
      onnxjvp verify models/digits_cnn.onnx models/digits_cnn.clone.onnx --inputs digits.npz
    """
    known = sizes(dim or ())
    with output.busy("loading onnx"):
        from onnxjvp.verification import verify as check
    arrays = None if inputs is None else read_npz(inputs)
    with output.busy(f"verifying {rewritten}"):
        report = check(
            model,
            rewritten,
            inputs=arrays,
            seed=seed,
            providers=[provider],
            dims=known,
            links=allow_links,
        )
    same = _is_source(model, rewritten)
    if as_json:
        content = {"model": str(model), "rewritten": str(rewritten), "made_of_model": same}
        output.print_json({**content, **report.to_dict()})
    else:
        print_report(report)
        if same is False:
            output.line(
                f"note: by its model card {rewritten} was made of another file than {model}"
            )
    if not report.passed:
        raise typer.Exit(1)


def _is_source(model: Path, rewritten: Path) -> bool | None:
    """Whether the model is the file that the card of the rewritten one names; None if none."""
    import onnx_ir as ir

    from onnxjvp.rewrite.card import is_source, read_card

    card = read_card(ir.load(rewritten)) or {}
    while card.get("emit") == "fix" and "before" in card:  # sizes only, as for `verify` itself
        card = card["before"]
    return is_source(model, card)


def print_report(report: Report) -> None:
    """The table of checks, the oracle and the verdict."""
    columns = ["check", "tensor", "in", "worst error", "tolerance", "worst index", "verdict"]
    rows = [
        [
            row.check,
            row.tensor,
            row.where,
            output.number(row.relative),
            output.number(row.tolerance),
            "" if row.index is None else list(row.index),
            row.status,
        ]
        for row in report.rows
    ]
    if any(row.note for row in report.rows):
        columns.append("note")
        rows = [[*cells, row.note] for cells, row in zip(rows, report.rows, strict=True)]
    output.table(columns, rows, right=("worst error", "tolerance"))
    output.line()
    known = not report.oracle.startswith("no oracle")
    output.line(f"oracle: {report.oracle}" if known else report.oracle)
    count = sum(row.status == "failed" for row in report.rows)
    output.line("verified" if report.passed else f"not verified: {count} check(s) failed")
