"""`onnxjvp ntk`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import ntk_report as report
from onnxjvp.cli import output
from onnxjvp.cli.choices import KernelForm, KernelGroups, KernelMethod
from onnxjvp.cli.files import check_known, check_output, drawn, given_inputs, sizes
from onnxjvp.cli.options import AllowLinks, AsJson, Dim, Force, Model, Outputs, Provider
from onnxjvp.cli.points import check_plot, input_specs
from onnxjvp.errors import NotConvergedError, UsageError

if TYPE_CHECKING:
    from onnxjvp.kernels.dataset import Dataset, Samples
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
    wanted = _Wanted(eigs, cond, solve, ridge, solution)
    wanted.check(chosen, group_by is not None, other is not None, force=force)
    if plot is not None:
        if group_by is not None:
            raise UsageError("--plot draws one kernel; leave --group-by out, or choose --params")
        check_plot(plot, out, force=force)
    if cluster is not None and out is None:
        raise UsageError("--cluster writes to a file; name one with --out OUT.zarr")
    options = {
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
        _only_explain(model, options, as_json=as_json)
        return
    samples, others = _samples(model, data, other, given, dim, provider, allow_links)
    found: dict[str, Any] = {"model": str(model)}
    if explain:
        found["explain"] = _kernel(model, options).explain()
    kernel = None
    if out is not None:
        kernel, found["kernel"] = _swept(
            *(model, samples, others, out, options), block=block, cluster=cluster, force=force
        )
    elif plot is not None or not (explain or wanted):
        kernel, found["kernel"] = _in_memory(model, samples, others, options)
    if wanted:
        found |= wanted.computed(model, samples, options)
    if plot is not None:
        from onnxjvp.kernels.pictures import plot as draw

        found["eigenvalues drawn"] = draw(kernel, plot, symmetric=other is None)
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


def _samples(
    model: Path,
    data: Path | None,
    other: Path | None,
    options: Sequence[str] | None,
    dim: Sequence[str] | None,
    provider: str,
    links: Path | None,
) -> tuple[Samples, Samples | None]:
    """Where samples are; those that are drawn are in memory."""
    from onnxjvp.kernels.dataset import Samples, mapped

    seeds, files = given_inputs(options or ())
    with output.busy(f"loading {model}"):
        specs = input_specs(model, [provider], links)
    check_known(specs, (*seeds, *files))
    feeds = {name: found for name, path in files.items() if not _many(found := mapped(path))}
    if data is not None:
        found = mapped(data)
        feeds |= found if _many(found) else {}
    arrays = drawn(specs, feeds, seeds, sizes(dim or ()))
    return Samples(data, {**files, **arrays}), None if other is None else Samples(other)


def _many(found: object) -> bool:
    return isinstance(found, dict)


def _kernel(model: Path, options: Mapping[str, Any]) -> Kernel:
    from onnxjvp.kernels.kernel import ntk as make

    with output.busy(f"rewriting {model}"):
        return make(model, **options)


def _only_explain(model: Path, options: Mapping[str, Any], *, as_json: bool) -> None:
    kernel = _kernel(model, options)
    report.show({"model": str(model), "explain": kernel.explain()}, as_json=as_json)


# -- the kernel --------------------------------------------------------------------------------


def _swept(
    model: Path,
    samples: Samples,
    others: Samples | None,
    out: Path,
    options: Mapping[str, Any],
    *,
    block: int | None,
    cluster: str | None,
    force: bool,
) -> tuple[Any, dict[str, Any]]:
    """Written block by block; the array (of several kernels the last one), and what was done."""
    from onnxjvp.kernels.dataset import mapped
    from onnxjvp.kernels.sweep import sweep

    with output.progress(f"kernel of {model}", "pairs") as progress:
        swept = sweep(
            *(model, samples, others),
            out=out,
            block=block,
            force=force,
            cluster=cluster,
            progress=progress,
            **options,
        )
    found = mapped(out)
    arrays = found if isinstance(found, dict) else {"": found}
    said = {
        "arrays": [report.described(name, array) for name, array in arrays.items()],
        "block": swept.block,
        "blocks": swept.blocks,
        "found": swept.found,
        "computed": swept.computed,
        "factors": swept.factors,
        "seconds": swept.seconds,
    }
    return list(arrays.values())[-1], said


def _in_memory(
    model: Path, samples: Samples, others: Samples | None, options: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    from onnxjvp.kernels.dataset import open_both
    from onnxjvp.kernels.engine import named

    kernel = _kernel(model, options)
    one, two = open_both(kernel.problem, samples, others)
    with output.busy(f"kernel of {model}"):
        x2 = None if others is None else _all(two)
        arrays = named(kernel, kernel(_all(one), x2))
    said = [report.described(name, array) for name, array in arrays.items()]
    return list(arrays.values())[-1], {"arrays": said, **kernel.report}


def _all(data: Dataset) -> dict[str, Any]:
    return data.block(0, data.samples)


# -- without forming it ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Wanted:
    """What is asked of the kernel as an operator."""

    eigs: int | None
    cond: bool
    solve: Path | None
    ridge: float
    solution: Path | None

    def __bool__(self) -> bool:
        return self.eigs is not None or self.cond or self.solve is not None

    def check(self, form: str, grouped: bool, two: bool, *, force: bool) -> None:
        """Refuse, before any work, what has no answer."""
        if self.solve is None and (self.solution is not None or self.ridge):
            raise UsageError("--ridge and --solution belong to --solve TARGETS.npy")
        if self.solution is not None:
            if self.solution.suffix != ".npy":
                raise UsageError(f"{str(self.solution)!r}: give a name that ends in .npy")
            check_output(self.solution, force=force)
        if not self:
            return
        which = "--eigs, --cond and --solve"
        if form != "full":
            raise UsageError(
                f"{which} work with the kernel of all outputs, of one (--logit N) or of their sum "
                f"(--sum-logits), and not with the form {form}"
            )
        if grouped or two:
            option = "--group-by" if grouped else "DATA2"
            raise UsageError(f"{which} work with one symmetric kernel; leave {option} out")

    def computed(self, model: Path, samples: Samples, options: Mapping[str, Any]) -> dict[str, Any]:
        """The answers."""
        from onnxjvp.kernels.dataset import open_both
        from onnxjvp.kernels.operator import ntk_operator
        from onnxjvp.kernels.problem import problem

        links = options["links"]
        kept = {
            name: options[name] for name in ("params", "outputs", "logit", "memory", "providers")
        }
        chosen = problem(model, kept["params"], kept["outputs"], links=links)
        x = _all(open_both(chosen, samples, None)[0])
        with output.busy(f"linearising {model}"):
            operator = ntk_operator(model, x, links=links, **kept)
        found: dict[str, Any] = {"operator": list(operator.shape)}
        with output.busy(f"products with the kernel of {model}"):
            if self.eigs is not None:
                found["eigs"] = operator.top(self.eigs)
            if self.cond:
                found["cond"] = operator.condition()
            if self.solve is not None:
                found["solve"] = self._solved(operator)
        return found

    def _solved(self, operator: Any) -> Any:
        import numpy as np

        from onnxjvp.kernels.dataset import mapped

        assert self.solve is not None
        targets = mapped(self.solve)
        if isinstance(targets, dict):
            raise UsageError(f"{str(self.solve)!r} holds several arrays; give a .npy file")
        found = operator.solve(np.asarray(targets[...]), ridge=self.ridge)
        if self.solution is not None:
            report.save(self.solution, found.alpha)
        return found

    def failed(self, found: Mapping[str, Any]) -> list[str]:
        """Why answers are not as exact as they were to be; a bound of a condition number is one."""
        kept = [found[name] for name in ("eigs", "solve") if name in found]
        return [one.reason for one in kept if one.reason]
