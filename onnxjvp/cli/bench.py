"""`onnxjvp bench`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.choices import Target
from onnxjvp.cli.files import read_arrays, read_npz, sizes
from onnxjvp.cli.options import AsJson, Inputs, Outputs, Provider, Wrt

if TYPE_CHECKING:
    from onnxjvp.benchmark.table import Row, Table


class Family(str, Enum):
    """Forms that can be chosen."""

    JVP = "jvp"
    DIRECTIONS = "directions"
    VJP = "vjp"
    SPLIT = "split"
    STACKED = "stacked"
    APPLY = "apply"


def bench(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file.")],
    wrt: Wrt = None,
    outputs: Outputs = None,
    only: Annotated[
        list[Family] | None,
        typer.Option(metavar="FORM", help="Forms to time, see above [default: all]."),
    ] = None,
    target: Annotated[
        list[Target] | None,
        typer.Option(
            metavar="portable|cpu|cuda",
            help="What forms are written for [default: portable, and cpu or cuda as the provider].",
        ),
    ] = None,
    directions: Annotated[
        list[int] | None,
        typer.Option(metavar="K", min=1, help="So many directions at once [default: 4, 16]."),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="NAME=FILE.npy", help="An input [default: drawn]."),
    ] = None,
    inputs: Inputs = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=SIZE",
            help="Size of a dynamic dimension of drawn inputs [default: 1 in front, else 8].",
        ),
    ] = None,
    provider: Provider = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of the runtime [default: its own choice].")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds to time [default: what --seconds holds].")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="For all rounds together; 5 rounds run in any case.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Time and memory of a model's derivatives, beside its plain forward pass.

    Every form is made, loaded into a process of its own and compared; then all run in turns, an
    order drawn anew each round, with inputs and outputs that stay where the model computes. The
    ratios are of one direction, over the forward pass of the same round: their median and
    quartiles. MB are the most that a process took while it loaded the file, and while it ran, less
    what one without a model takes. Needs room in memory for all forms at once; --only chooses.

    A form that cannot be made is listed with the reason. Exit code 1 if one gives wrong results.

    \b
      jvp         J u
      directions  J u for K directions at once
      vjp         J^T v
      split       the clone, in three streams
      stacked     the clone, in one tripled batch
      apply       J u and J^T v at a point where the model was linearised before

    \b
    Examples:
      onnxjvp bench models/digits_cnn.onnx --seconds 1
      onnxjvp bench models/digits_cnn.onnx --only jvp --only vjp --target cpu --dim batch=8
    """
    known = sizes(dim or ())
    arrays = {} if inputs is None else read_npz(inputs)
    arrays |= read_arrays("--input", given or ())
    with output.busy("loading onnx"):
        from onnxjvp.benchmark.forms import FAMILIES
        from onnxjvp.benchmark.table import DIRECTIONS
        from onnxjvp.benchmark.table import bench as measure
    with output.progress(f"timing {model}") as told:
        found = measure(
            model,
            wrt=wrt,
            outputs=outputs,
            targets=None if target is None else [t.value for t in target],
            families=FAMILIES if only is None else [family.value for family in only],
            directions=DIRECTIONS if directions is None else directions,
            inputs=arrays,
            dims=known,
            provider=provider,
            threads=threads,
            rounds=rounds,
            seconds=seconds,
            told=told,
        )
    if as_json:
        output.print_json({"model": str(model), **found.to_dict()})
    else:
        _print(found)
    if not found.passed:
        raise typer.Exit(1)


def _print(found: Table) -> None:
    columns = ["form", "target", "ms", "x forward", "quartiles", "MB to load", "MB to run"]
    cells = [_cells(row) for row in found.rows]
    device = any(row.device_bytes is not None for row in found.rows)
    if device:
        columns.append("MB on device")
        cells = [
            [*line, _megabytes(row.device_bytes)]
            for line, row in zip(cells, found.rows, strict=True)
        ]
    columns += ["file MB", "nodes"]
    cells = [
        [*line, _megabytes(row.file_bytes), "" if row.nodes is None else row.nodes]
        for line, row in zip(cells, found.rows, strict=True)
    ]
    output.table(columns, cells, right=columns[2:])
    for row in found.rows:
        if row.problem is not None:
            output.line(f"{row.form} {row.target} {row.status}: {row.problem}")
    output.line()
    fed = ", ".join(f"{name} {shape}" for name, shape in found.inputs.items())
    threads = found.threads or "as it chooses"
    output.line(f"inputs: {fed}; runtime: {found.provider}, threads: {threads}")
    rounds = f"{found.rounds} interleaved round{'' if found.rounds == 1 else 's'}"
    output.line(f"medians of {rounds}, runs in a row: {found.runs}")
    if found.disturbed:
        output.line(
            f"other processes kept {found.others:.1f} cores busy: the figures say little; "
            "repeat this on an idle machine"
        )


def _cells(row: Row) -> list[object]:
    low, middle, high = row.ratio or (None, None, None)
    return [
        row.form,
        row.target or "",
        row.status if row.problem is not None else _milliseconds(row.milliseconds),
        "" if middle is None else f"{middle:.2f}",
        "" if middle is None else f"{low:.2f} to {high:.2f}",
        _megabytes(row.loading_bytes),
        _megabytes(row.running_bytes),
    ]


def _milliseconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:.1f}" if count < 1e8 else f"{count / 1e6:.0f}"
