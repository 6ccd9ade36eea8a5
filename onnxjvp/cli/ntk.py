"""`onnxjvp ntk`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote

import typer

from onnxjvp.cli import ntk_data, output
from onnxjvp.cli import ntk_report as report
from onnxjvp.cli.choices import KernelForm, KernelGroups, KernelMethod
from onnxjvp.cli.files import sizes
from onnxjvp.cli.ntk_data import Data
from onnxjvp.cli.ntk_operator import Wanted
from onnxjvp.cli.options import AllowLinks, AsJson, Dim, Force, Model, Outputs, Provider
from onnxjvp.cli.points import check_plot
from onnxjvp.errors import NotConvergedError, UsageError

if TYPE_CHECKING:
    from onnxjvp.kernels.kernel import Kernel


def ntk(
    model: Model,
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA",
            help="Samples along axis 0: .npy or .zarr, with several inputs .npz or a .zarr group.",
        ),
    ] = None,
    other: Annotated[
        Path | None,
        typer.Argument(
            metavar="DATA2", help="The samples of the columns [default: those of the rows]."
        ),
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="An input that is not in DATA: NAME=FILE.npy, .npz, .zarr, or NAME=random:SEED.",
        ),
    ] = None,
    dim: Dim = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--out",
            "--output",
            metavar="OUT",
            help="File to write block by block: .zarr, or .npy for a small one.",
        ),
    ] = None,
    params: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Parameters, by name or glob [default: trainable ones]."),
    ] = None,
    outputs: Outputs = None,
    form: Annotated[
        KernelForm, typer.Option(help="Pairs of outputs: all, (o, o), or the mean of these.")
    ] = KernelForm.FULL,
    trace: Annotated[bool, typer.Option("--trace", help="The pseudo-NTK: --form trace.")] = False,
    diagonal: Annotated[bool, typer.Option("--diagonal", help="--form diagonal.")] = False,
    logit: Annotated[
        int | None, typer.Option(metavar="N", help="The kernel of one element of the outputs.")
    ] = None,
    sum_logits: Annotated[
        bool, typer.Option("--sum-logits", help="The kernel of the sum of the outputs' elements.")
    ] = False,
    group_by: Annotated[
        KernelGroups | None, typer.Option(help="A kernel for each, instead of one over all.")
    ] = None,
    method: Annotated[KernelMethod, typer.Option(help="How it is computed.")] = KernelMethod.AUTO,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What may be held at once, beside the weights.")
    ] = "4GB",
    block: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Samples in a block [default: as memory allows]."),
    ] = None,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show the methods' costs, the choice, every structure."),
    ] = False,
    eigs: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="The largest eigenvalues, without forming it."),
    ] = None,
    cond: Annotated[
        bool, typer.Option("--cond", help="The condition number, without forming it.")
    ] = False,
    solve: Annotated[
        Path | None,
        typer.Option(
            metavar="TARGETS.npy", help="Kernel regression onto [samples, outputs], likewise."
        ),
    ] = None,
    ridge: Annotated[float, typer.Option(min=0.0, help="Added to the diagonal for --solve.")] = 0.0,
    solution: Annotated[
        Path | None,
        typer.Option(metavar="ALPHA.npy", help="File for the coefficients that --solve finds."),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw the kernel and its spectrum (needs matplotlib)."
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Of a Dask scheduler whose workers compute blocks."),
    ] = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compute the neural tangent kernel of a model on data.

    Entry (i, j) is J J^T of samples i and j, with J the Jacobian of all outputs in the parameters:
    an array [N1, N2, O, O]; [N1, N2, O] with --diagonal; [N1, N2] with --trace, --logit and
    --sum-logits. With --out it is written block by block, and may be larger than memory; a run
    that was killed goes on where it was when it is called again, and --force begins anew. Needs
    onnxruntime; --eigs, --cond and --solve need scipy, .zarr files zarr, --cluster distributed.

    \b
    Examples:
      onnxjvp ntk models/digits_cnn.onnx digits.npy --trace --out kernel.npy
      onnxjvp ntk models/digits_cnn.onnx --explain
      onnxjvp ntk models/digits_cnn.onnx --input image=random:0 --dim batch=4 --sum-logits --eigs 2
    """
    chosen = _form(form, trace=trace, diagonal=diagonal)
    if logit is not None and sum_logits:
        raise UsageError("--logit and --sum-logits are two kernels; choose one")
    wanted = Wanted(eigs, cond, solve, ridge, solution)
    wanted.check(chosen, group_by is not None, other is not None, force=force)
    if out is None and (cluster is not None or block is not None):
        option = "--block" if cluster is None else "--cluster"
        raise UsageError(f"{option} is for a kernel in a file; name one with --out OUT.zarr")
    ntk_data.check_not_read((out, solution, plot), (model, data, other, solve), given or ())
    options: dict[str, Any] = {
        "params": params,
        "outputs": outputs,
        "groups": group_by and group_by.value,
        "form": chosen,
        "logit": "sum" if sum_logits else logit,
        "method": method.value,
        "memory": memory,
        "links": allow_links,
        "providers": [provider],
    }
    if data is None and not given:
        if not explain:
            raise UsageError(
                "there is no data; name a file with samples, draw them with --input "
                "NAME=random:SEED, or pass --explain alone"
            )
        if out or plot or wanted:
            raise UsageError(
                "--explain without data computes nothing else; name a file with samples, draw "
                "them with --input NAME=random:SEED, or leave --out, --plot, --eigs, --cond and "
                "--solve out"
            )
        said = _explained(model, {**options, "sizes": sizes(dim or ())})
        report.show({"model": str(model), **said}, as_json=as_json)
        return
    if plot is not None:
        check_plot(plot, out, force=force)
    samples = ntk_data.read(model, data, other, given, dim, provider, allow_links)
    options["sizes"] = samples.sizes
    found: dict[str, Any] = {"model": str(model)}
    if explain:
        found |= _explained(model, options)
    if wanted:
        found |= wanted.computed(model, samples.rows, options)
    kernels: Mapping[str, Any] = {}
    if out is not None:
        kernels, found["kernel"] = _swept(
            *(model, samples, out, options), block=block, cluster=cluster, force=force
        )
    elif plot is not None or not (explain or wanted):
        kernels, found["kernel"] = _in_memory(model, samples, options)
    wanted.save(found)
    if plot is not None:
        from onnxjvp.kernels.pictures import plot as draw

        with output.busy(f"drawing {plot}"):
            found["picture"] = draw(kernels, plot, symmetric=other is None)
    found["written"] = [str(path) for path in (out, solution, plot) if path is not None]
    report.show(found, as_json=as_json)
    if reasons := wanted.failed(found):
        raise NotConvergedError("; ".join(reasons)) if not as_json else typer.Exit(1)


def _form(form: KernelForm, *, trace: bool, diagonal: bool) -> str:
    """The one that --form or its short forms name."""
    short = [name for name, asked in (("trace", trace), ("diagonal", diagonal)) if asked]
    if form is not KernelForm.FULL:
        short.append(form.value)
    if len(set(short)) > 1:
        raise UsageError(f"both {' and '.join(short)} are asked for; choose one form")
    return short[0] if short else form.value


def _kernel(model: Path, options: Mapping[str, Any]) -> Kernel:
    from onnxjvp.kernels.kernel import ntk as make

    with output.busy(f"rewriting {model}"):
        return make(model, **options)


def _explained(model: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    kernel = _kernel(model, options)
    return {"explain": kernel.explain(), "notes": list(kernel.problem.notes)}


# -- the kernel --------------------------------------------------------------------------------


def _swept(
    model: Path,
    samples: Data,
    out: Path,
    options: Mapping[str, Any],
    *,
    block: int | None,
    cluster: str | None,
    force: bool,
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    """Written block by block; the arrays by name, and what was done."""
    from onnxjvp.kernels.dataset import mapped
    from onnxjvp.kernels.sweep import sweep

    with output.progress(f"kernel of {model}", "pairs") as progress:
        swept = sweep(
            *(model, samples.rows, samples.columns),
            out=out,
            block=block,
            force=force,
            cluster=cluster,
            progress=progress,
            **options,
        )
    found = mapped(out)
    given = found if isinstance(found, dict) else {"": found}
    by_name = {unquote(key): array for key, array in given.items()}
    arrays = {name: by_name[name] for name in swept.shapes}
    said = {
        "arrays": [report.described(name, array) for name, array in arrays.items()],
        "block": swept.block,
        "blocks": swept.blocks,
        "found": swept.found,
        "computed": swept.computed,
        "factors": swept.factors,
        "seconds": swept.seconds,
        "notes": list(swept.notes),
    }
    return arrays, said


def _in_memory(
    model: Path, samples: Data, options: Mapping[str, Any]
) -> tuple[Mapping[str, Any], dict[str, Any]]:
    from onnxjvp.kernels.dataset import open_both
    from onnxjvp.kernels.engine import named

    kernel = _kernel(model, options)
    one, two = open_both(kernel.problem, samples.rows, samples.columns)
    _check_size(kernel, one.samples, two.samples)
    with output.busy(f"kernel of {model}"):
        x2 = None if samples.columns is None else two.block(0, two.samples)
        arrays = named(kernel, kernel(one.block(0, one.samples), x2))
    said = [report.described(name, array) for name, array in arrays.items()]
    return arrays, {"arrays": said, **kernel.report}


def _check_size(kernel: Kernel, n1: int, n2: int) -> None:
    """Refuse, before any work, a kernel that would not fit into the memory that may be taken."""
    shape = kernel.shape(n1, n2)
    size = 8 * math.prod(shape)
    if size > kernel.memory:
        raise UsageError(
            f"the kernel {list(shape)} takes {report.size(size)}, more than --memory "
            f"({report.size(kernel.memory)}); write it block by block with --out OUT.zarr, "
            "choose --trace or --diagonal, or raise --memory"
        )
