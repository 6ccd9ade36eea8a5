"""`onnxjvp package`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import sizes
from onnxjvp.cli.options import AllowLinks, AsJson, Force

if TYPE_CHECKING:
    from onnxjvp.serving.repository import Packaged


def package(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to serve.")],
    triton: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model repository of Triton's.")
    ] = None,
    mlserver: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A model repository of MLServer's.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name on the server [default: the file's].")
    ] = None,
    model_version: Annotated[int, typer.Option(min=1, help="The model's version.")] = 1,
    max_batch: Annotated[
        int,
        typer.Option(
            min=0, help="Triton: samples run at once where they are independent; 0: never join."
        ),
    ] = 32,
    instances: Annotated[
        int, typer.Option(min=1, help="Triton: copies of the model; MLServer: concurrent runs.")
    ] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads within one operator.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="Triton: run on GPUs.")] = False,
    seconds: Annotated[
        int, typer.Option(min=1, help="Triton: of waiting; MLServer: of running; then an error.")
    ] = 30,
    max_input: Annotated[
        int, typer.Option(metavar="BYTES", min=1, help="MLServer: of a request's arrays.")
    ] = 16 << 20,
    max_output: Annotated[
        int, typer.Option(metavar="BYTES", min=1, help="MLServer: of a reply's arrays.")
    ] = 64 << 20,
    max_dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="MLServer: the most that a dimension may be."),
    ] = None,
    force: Force = False,
    allow_links: AllowLinks = None,
    as_json: AsJson = False,
) -> None:
    """Write MODEL, rewritten or not, into a model repository that a server loads.

    A folder NAME in DIR holds the model with its external data and what the server has to know:
    all of it or nothing. Triton joins the requests of several clients into one batch only where it
    is proven that every output depends on its own sample alone; the reason is printed where it is
    not. `python -m onnxjvp.serving DIR` serves a repository of MLServer's.

    \b
    Examples:
      onnxjvp package models/digits_cnn.onnx --triton served
      onnxjvp package models/digits_cnn.onnx --mlserver repository --name digits --max-dim batch=64
    """
    caps = sizes(max_dim or ())
    with output.busy(f"reading {model}"):
        from onnxjvp.serving.limits import Limits
        from onnxjvp.serving.repository import package as write
        from onnxjvp.serving.triton import Options

        made = write(
            model,
            triton_repository=triton,
            mlserver_repository=mlserver,
            name=name,
            version=model_version,
            options=Options(
                max_batch=max_batch,
                timeout=seconds * 1_000_000,
                instances=instances,
                threads=threads,
                gpu=gpu,
            ),
            limits=Limits(
                input_bytes=max_input,
                output_bytes=max_output,
                dims=caps,
                seconds=seconds,
                threads=threads,
                concurrency=instances,
            ),
            force=force,
            links=allow_links,
        )
    if as_json:
        output.print_json(_json(model, made))
        return
    ends = (("input", made.interface.inputs), ("output", made.interface.outputs))
    output.table(
        ("", "name", "datatype", "shape"),
        [(what, t.name, t.datatype, output.dims(t.shape)) for what, ts in ends for t in ts],
    )
    if made.max_batch:
        output.line(f"requests are joined along {made.interface.rows.axis}, to {made.max_batch}")
    elif made.max_batch is not None:
        reason = made.interface.rows.reason or "--max-batch 0"
        output.line(f"requests are not joined: {reason}")
    for folder in made.folders.values():
        output.line(f"wrote {folder}")


def _json(model: Path, made: Packaged) -> dict[str, Any]:
    ends = made.interface
    return {
        "model": str(model),
        "name": made.name,
        "inputs": [asdict(tensor) for tensor in ends.inputs],
        "outputs": [asdict(tensor) for tensor in ends.outputs],
        "max_batch_size": made.max_batch,
        "independent_along": ends.rows.axis,
        "reason": ends.rows.reason,
        "written": {server: str(folder) for server, folder in made.folders.items()},
    }
