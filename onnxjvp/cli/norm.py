"""`onnxjvp norm`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.choices import NormMethod, Number, Probe
from onnxjvp.cli.options import (
    AllowLinks,
    AsJson,
    Dim,
    Each,
    Force,
    Given,
    Inputs,
    Model,
    Outputs,
    Provider,
    Seed,
    Treatment,
    Wrt,
    picture,
)
from onnxjvp.cli.points import check_plot, plain, read_points, require_all

if TYPE_CHECKING:
    from onnxjvp.analysis import Estimate


def norm(
    model: Model,
    given: Given = None,
    inputs: Inputs = None,
    dim: Dim = None,
    each: Each = False,
    kind: Annotated[
        Number,
        typer.Option(
            help="Norms of J, its trace, log det(I + J^T J) or of a symmetric I + J, the Frobenius "
            "norm of its inverse, its condition number."
        ),
    ] = Number.FROBENIUS,
    method: Annotated[
        NormMethod,
        typer.Option(help="What serves the kind: the whole matrix, random draws, or iteration."),
    ] = NormMethod.AUTO,
    rtol: Annotated[
        float | None,
        typer.Option(
            help="Stop where the band of 95 % is so wide, over the value [default: 0.05; 1e-4 of "
            "spectral and condition]."
        ),
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Draw just so many random vectors.")
    ] = None,
    most: Annotated[
        int, typer.Option(min=128, metavar="N", help="Random vectors before it gives up.")
    ] = 10_000,
    probe: Annotated[
        Probe | None, typer.Option(help="What random vectors are drawn from [default: rademacher].")
    ] = None,
    seed: Seed = 0,
    wrt: Wrt = None,
    outputs: Outputs = None,
    plot: Annotated[
        Path | None, picture("Draw the estimate after every draw, with its band")
    ] = None,
    quantized: Treatment = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Estimate a norm of the Jacobian at a point, or another number of it.

    Small matrices are computed as a whole. Of large ones random vectors are drawn, at least 128,
    until the band that holds the value with 95 % is narrow enough. Samples of a batch are elements
    of one Jacobian, unless --each takes them one by one. Exit code 1 if the band stays wider than
    --rtol. Needs onnxruntime and scipy.

    \b
    Examples:
      onnxjvp norm models/digits_unet.onnx --input noisy=random:0 --dim batch=1
      onnxjvp norm models/digits_unet.onnx --input noisy=random:0 --dim batch=1 --samples 100
      onnxjvp norm models/digits_cnn.onnx --input image=random:0 --dim batch=3 --each \\
        --kind spectral
    """
    if plot is not None:
        check_plot(plot, None, force=force)
    points = read_points(model, given, inputs, dim, provider, allow_links, each=each)
    with output.progress(f"products with {model}") as progress:
        from onnxjvp.analysis import norm as compute

        found = compute(
            model,
            points,
            kind.value,
            wrt,
            outputs,
            method=method.value,
            rtol=rtol,
            samples=samples,
            most=most,
            probe=None if probe is None else probe.value,
            seed=seed,
            progress=progress,
            providers=[provider],
            links=allow_links,
            quantized=None if quantized is None else quantized.value,
        )
    if plot is not None:
        from onnxjvp.analysis.charts import estimate_chart

        estimate_chart(found, plot)
    _report(model, found, plot, as_json=as_json)


def _report(model: Path, found: Sequence[Estimate], plot: Path | None, *, as_json: bool) -> None:
    open_ = [one for one in found if not one.converged]
    if as_json:
        content = {
            "model": str(model),
            "estimates": [_content(one) for one in found],
            "converged": not open_,
            "written": [] if plot is None else [str(plot)],
        }
        output.print_json(content)
        if open_:
            raise typer.Exit(1)
        return
    several = len(found) > 1
    columns = ("value", "error", "from", "to", "samples", "products")
    rows = [
        (
            *((i,) if several else ()),
            f"{one.value:.6g}",
            f"{one.error:.1e}",
            f"{one.low:.6g}",
            f"{one.high:.6g}",
            one.samples,
            one.pushed + one.pulled,
        )
        for i, one in enumerate(found)
    ]
    head = ("sample", *columns) if several else columns
    output.table(head, rows, right=head)
    output.line()
    rows_, columns_ = found[0].shape
    output.line(f"{found[0].kind} of a Jacobian of {rows_} x {columns_}, by {found[0].method}")
    for i, one in enumerate(found):
        if one.note:
            output.line(f"sample {i}: {one.note}" if several else one.note)
    if plot is not None:
        output.line(f"wrote {plot}")
    require_all(found)


def _content(one: Estimate) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "method": one.method,
        "shape": list(one.shape),
        "value": plain(one.value),
        "error": plain(one.error),
        "low": plain(one.low),
        "high": plain(one.high),
        "samples": one.samples,
        "pushed": one.pushed,
        "pulled": one.pulled,
        "converged": one.converged,
        "reason": one.reason,
        "note": one.note,
    }
