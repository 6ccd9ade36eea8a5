"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxjvp.cli.choices import Quantized


def _providers(incomplete: str) -> Iterable[str]:
    """What a shell offers; any other provider that onnxruntime has may be typed."""
    return [name for name in ("cpu", "cuda") if name.startswith(incomplete)]


Model = Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to differentiate.")]
Given = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="An input: NAME=FILE.npy, NAME=FILE.npz or NAME=random:SEED.",
    ),
]
Inputs = Annotated[
    Path | None,
    typer.Option(metavar="FILE.npz", help="Arrays for several inputs; --input goes first."),
]
Dim = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=SIZE", help="Size of a dynamic dimension of drawn inputs."),
]
Each = Annotated[
    bool, typer.Option("--each", help="Take the samples of the batch as points of their own.")
]
Wrt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="What to differentiate in, as for rewrite [default: all float inputs]."
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Output to differentiate [default: all that can be]."),
]
Treatment = Annotated[
    Quantized | None,
    typer.Option("--quantized", help="What becomes of quantised activations, as for rewrite."),
]
Provider = Annotated[
    str,
    typer.Option(metavar="cpu|cuda", autocompletion=_providers, help="Where the runtime works."),
]
AllowLinks = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        exists=True,
        file_okay=False,
        help="Follow links to external data that stay inside DIR.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def npz_file(content: str) -> Any:
    """-o of what is written into one .npz file."""
    return typer.Option("-o", "--output", metavar="OUT.npz", help=content)


def picture(content: str) -> Any:
    """--plot."""
    return typer.Option(metavar="FILE.png", help=f"{content} (needs matplotlib).")


Seed = Annotated[int, typer.Option(min=0, help="Of the random vectors drawn.")]
