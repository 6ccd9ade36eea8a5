"""`onnxjvp run`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import check_output, read_inputs, sizes, write_npz
from onnxjvp.cli.options import AsJson, Dim, Force, Given, Inputs, Provider

if TYPE_CHECKING:
    from onnxjvp.runtime import Array


def run(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to run.")],
    given: Given = None,
    inputs: Inputs = None,
    dim: Dim = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT.npz", help="File to write.")
    ] = None,
    provider: Provider = "cpu",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Run a model, rewritten or not, on given or random inputs.

    Needs onnxruntime, which the extra `onnxjvp[cpu]` or `onnxjvp[gpu]` installs.

    \b
    Examples:
      onnxjvp run models/digits_cnn.onnx --input image=random:0
      onnxjvp run models/digits_cnn.onnx --input image=digits.npy -o logits.npz
      onnxjvp run models/digits_cnn.clone.onnx --input image=random:0 --input image_u=random:1 \\
        --dim batch=4
    """
    known = sizes(dim or ())
    if out is not None:
        check_output(out, force=force)
    with output.busy(f"loading {model}"):
        from onnxjvp.runtime import Session

        session = Session(model, providers=[provider])
    feeds = read_inputs(session.inputs, given or (), inputs, known)
    with output.busy(f"running {model}"):
        results = session.run(feeds)
    if out is not None:
        write_npz(out, results)
    rows = [(name, array, _statistics(array)) for name, array in results.items()]
    if as_json:
        found = [
            {
                "name": name,
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                **{key: x if math.isfinite(x) else str(x) for key, x in statistics.items()},
            }
            for name, array, statistics in rows
        ]
        output.print_json({"model": str(model), "outputs": found, "written": out and str(out)})
        return
    output.table(
        ("output", "dtype", "shape", "min", "mean", "max", "norm"),
        [
            (
                name,
                array.dtype,
                output.dims(array.shape),
                *(output.number(statistics.get(key)) for key in ("min", "mean", "max", "norm")),
            )
            for name, array, statistics in rows
        ],
        right=("min", "mean", "max", "norm"),
    )
    if out is not None:
        output.line(f"wrote {out}")


def _statistics(array: Array) -> dict[str, float]:
    """Of numbers, in float64; the norm is the 2-norm of all elements."""
    import numpy as np

    if array.dtype.kind not in "fiub" or array.size == 0:
        return {}
    with np.errstate(all="ignore"):
        x = array.astype(np.float64)
        return {
            "min": float(x.min()),
            "mean": float(x.mean()),
            "max": float(x.max()),
            "norm": float(np.sqrt(np.sum(x * x))),
        }
