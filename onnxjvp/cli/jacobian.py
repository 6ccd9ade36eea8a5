"""`onnxjvp jacobian`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.choices import Mode
from onnxjvp.cli.files import check_output, read_inputs, sizes, write_npz
from onnxjvp.cli.options import (
    AllowLinks,
    AsJson,
    Dim,
    Force,
    Given,
    Inputs,
    Model,
    Outputs,
    Provider,
    Treatment,
    Wrt,
    picture,
)
from onnxjvp.cli.points import check_plot, input_specs
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.runtime import Array

    #: (output, variable) → its Jacobian: an array, the map of a file, or an array of a zarr group
    Jacobians = Mapping[tuple[str, str], Any]

#: elements that are read at once, of arrays that memory may not hold
_PIECE = 1 << 24


def jacobian(
    model: Model,
    given: Given = None,
    inputs: Inputs = None,
    dim: Dim = None,
    wrt: Wrt = None,
    outputs: Outputs = None,
    mode: Annotated[
        Mode, typer.Option(help="Along variables, along outputs, or what takes fewer passes.")
    ] = Mode.AUTO,
    block: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Directions in one pass [default: as memory allows]."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="File to write: .npy for one output and one variable, .npz for several, .zarr "
            "for what memory does not hold.",
        ),
    ] = None,
    affine: Annotated[
        bool, typer.Option("--affine", help="Add OUTPUT_0 = f_x(0) to the .npz file.")
    ] = False,
    plot: Annotated[Path | None, picture("Draw the matrix of one output and one variable")] = None,
    quantized: Treatment = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compute the Jacobian of a model at a point.

    Its rows and columns are the elements of the output and of the variable: an array of the shape
    [*output, *variable], named OUTPUT_jac_VARIABLE. Samples of a batch are elements like others,
    so give the batch the size 1 for the Jacobian of one sample. Needs onnxruntime.

    \b
    Examples:
      onnxjvp jacobian models/digits_cnn.onnx --input image=random:0 --dim batch=1
      onnxjvp jacobian models/digits_unet.onnx --input noisy=random:0 --dim batch=1 -o unet.npy
      onnxjvp jacobian models/digits_cnn.onnx --input image=random:0 --dim batch=1 \\
        --affine -o affine.npz
      onnxjvp jacobian models/diabetes_mlp.onnx --input features=random:0 --wrt 'layers.4.*'
    """
    known = sizes(dim or ())
    _check_places(out, plot, affine=affine, force=force)
    providers = [provider]
    with output.busy(f"loading {model}"):
        specs = input_specs(model, providers, allow_links)
    feeds = read_inputs(specs, given or (), inputs, known)
    treatment = None if quantized is None else quantized.value
    rows = None
    if plot is not None:
        rows = _rows_of_one_pair(model, wrt, outputs, allow_links, treatment)
    with output.progress(f"differentiating {model}") as progress:
        matrices, bias = _computed(
            affine,
            model,
            feeds,
            wrt,
            outputs,
            mode=mode.value,
            block=block,
            progress=progress,
            out=out if out is not None and out.suffix != ".npz" else None,
            providers=providers,
            links=allow_links,
            quantized=treatment,
        )
    if out is not None and out.suffix == ".npz":
        named = {f"{y}_jac_{x}": array for (y, x), array in matrices.items()}
        write_npz(out, named | {f"{y}_0": array for y, array in bias.items()})
    if plot is not None:
        from onnxjvp.analysis import heat_map

        ((y, x), array), *_ = matrices.items()
        heat_map(array, plot, rows=rows, output=y, variable=x)
    _report(model, matrices, [path for path in (out, plot) if path is not None], as_json=as_json)


def _check_places(out: Path | None, plot: Path | None, *, affine: bool, force: bool) -> None:
    """Refuse, before any work, what could not be written after it."""
    if affine and (out is None or out.suffix != ".npz"):
        raise UsageError("--affine adds arrays to an .npz file; name one with -o OUT.npz")
    if out is not None:
        if out.suffix not in (".npy", ".npz", ".zarr"):
            raise UsageError(f"{str(out)!r}: give a name that ends in .npy, .npz or .zarr")
        if out.suffix == ".zarr" and out.exists():
            raise UsageError(f"{str(out)!r} exists; remove it, or choose another name with -o")
        check_output(out, force=force)
    if plot is not None:
        check_plot(plot, out, force=force)


def _rows_of_one_pair(
    model: Path,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    links: Path | None,
    quantized: str | None,
) -> int:
    """How many axes are those of the only output; refused where there are more pairs than one."""
    from onnxjvp.rewrite import jvp

    made = jvp(model, wrt, outputs, links=links, quantized=quantized)
    ys, xs = made.report["outputs"], made.report["wrt"]
    if len(ys) * len(xs) > 1:
        raise UsageError(
            f"--plot draws one matrix, and there are the outputs {', '.join(ys)} and the "
            f"variables {', '.join(xs)}; choose with --outputs and --wrt"
        )
    (y,) = [v for v in made.model.graph.outputs if v.name == ys[0]]
    return len(y.shape or ())


def _computed(
    affine: bool, *arguments: Any, **options: Any
) -> tuple[Jacobians, Mapping[str, Array]]:
    from onnxjvp.analysis import affine_parameters, dense_jacobian

    if affine:
        return affine_parameters(*arguments, **options)
    return dense_jacobian(*arguments, **options), {}


def _report(model: Path, matrices: Jacobians, written: Sequence[Path], *, as_json: bool) -> None:
    rows = [(y, x, array, *_size_of(array)) for (y, x), array in matrices.items()]
    if as_json:
        found = [
            {
                "output": y,
                "variable": x,
                "dtype": str(array.dtype),
                "shape": list(array.shape),
                "norm": norm if math.isfinite(norm) else str(norm),
                "max": largest if math.isfinite(largest) else str(largest),
            }
            for y, x, array, norm, largest in rows
        ]
        content = {"model": str(model), "jacobians": found, "written": list(map(str, written))}
        output.print_json(content)
        return
    output.table(
        ("output", "variable", "dtype", "shape", "Frobenius norm", "largest |.|"),
        [
            (y, x, array.dtype, output.dims(array.shape), output.number(n), output.number(m))
            for y, x, array, n, m in rows
        ],
        right=("Frobenius norm", "largest |.|"),
    )
    for path in written:
        output.line(f"wrote {path}")


def _size_of(array: Any) -> tuple[float, float]:
    """The Frobenius norm and the largest magnitude, in float64."""
    import numpy as np

    squares, largest = 0.0, 0.0
    with np.errstate(all="ignore"):
        for piece in _pieces(array):
            magnitudes = np.abs(np.asarray(piece).astype(np.float64))
            squares += float(np.sum(magnitudes * magnitudes))
            largest = float(np.maximum(largest, magnitudes.max(initial=0.0)))
    return math.sqrt(squares), largest


def _pieces(array: Any) -> Iterator[Any]:
    if not array.shape:
        yield array[()]
        return
    rows = max(1, _PIECE // max(1, math.prod(array.shape[1:])))
    for start in range(0, array.shape[0], rows):
        yield array[start : start + rows]
