"""`onnxjvp spectrum`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.choices import SpectrumMethod, Values
from onnxjvp.cli.files import write_npz
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
    npz_file,
    picture,
)
from onnxjvp.cli.points import check_npz, check_plot, plain, read_points, require_all

if TYPE_CHECKING:
    from onnxjvp.analysis import Spectrum


def spectrum(
    model: Model,
    given: Given = None,
    inputs: Inputs = None,
    dim: Dim = None,
    each: Each = False,
    k: Annotated[int, typer.Option("-k", min=1, metavar="K", help="How many values.")] = 6,
    values: Annotated[
        Values, typer.Option(help="Singular values, or eigenvalues of a square Jacobian.")
    ] = Values.SINGULAR,
    method: Annotated[
        SpectrumMethod,
        typer.Option(
            help="The fastest known; the paper's alternating (its Alg. 4) and subspace (Alg. 2); "
            "the whole matrix; or one of SciPy's."
        ),
    ] = SpectrumMethod.AUTO,
    tol: Annotated[
        float | None,
        typer.Option(
            help="Residuals allowed, over the largest value [default: 1e-5, or what products in "
            "the model's dtype permit]."
        ),
    ] = None,
    products: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Products allowed [default: 200 a value]."),
    ] = None,
    seed: Seed = 0,
    wrt: Wrt = None,
    outputs: Outputs = None,
    out: Annotated[Path | None, npz_file("File for values, residuals and vectors.")] = None,
    plot: Annotated[
        Path | None, picture("Draw values, convergence, and vectors that are images")
    ] = None,
    quantized: Treatment = None,
    provider: Provider = "cpu",
    allow_links: AllowLinks = None,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Compute the largest singular values or eigenvalues of the Jacobian at a point.

    The first singular value is how much a small step of the input moves the output at the most, and
    the first right vector along which step. Samples of a batch are elements of one Jacobian, unless
    --each takes them one by one. A residual says how far J v is from the value times the vector:
    a singular value of J lies within. Exit code 1 if residuals stay above --tol. Needs onnxruntime
    and scipy.

    \b
    Examples:
      onnxjvp spectrum models/digits_unet.onnx --input noisy=random:0 --dim batch=1 -k 4
      onnxjvp spectrum models/digits_unet.onnx --input noisy=random:0 --dim batch=1 -k 4 \\
        --values eigen
      onnxjvp spectrum models/digits_cnn.onnx --input image=random:0 --dim batch=3 --each \\
        -k 2 -o spectra.npz
    """
    if out is not None:
        check_npz(out, force=force)
    if plot is not None:
        check_plot(plot, out, force=force)
    points = read_points(model, given, inputs, dim, provider, allow_links, each=each)
    with output.progress(f"products with {model}") as progress:
        from onnxjvp.analysis import spectrum as compute
        from onnxjvp.analysis.found import PATIENCE

        found = compute(
            model,
            points,
            k,
            wrt,
            outputs,
            kind=values.value,
            method=method.value,
            tol=tol,
            products=products,
            seed=seed,
            progress=_told(progress, products or PATIENCE * k),
            providers=[provider],
            links=allow_links,
            quantized=None if quantized is None else quantized.value,
        )
    if out is not None:
        write_npz(out, _arrays(found))
    if plot is not None:
        from onnxjvp.analysis.charts import spectrum_chart

        spectrum_chart(found, plot)
    _report(model, found, [path for path in (out, plot) if path is not None], as_json=as_json)


def _told(
    progress: Callable[[int, int], object] | None, allowed: int
) -> Callable[[int, float], object] | None:
    """A bar shows products of those allowed; nobody knows how many it will take."""
    if progress is None:
        return None
    return lambda products, residual: progress(products, allowed)


def _arrays(found: Sequence[Spectrum]) -> dict[str, Any]:
    """values, residuals, NAME_right and NAME_left; of several points POINT/values and so on."""
    arrays: dict[str, Any] = {}
    for i, one in enumerate(found):
        lead = f"{i}/" if len(found) > 1 else ""
        arrays |= {f"{lead}values": one.values, f"{lead}residuals": one.residuals}
        arrays |= {f"{lead}{name}_right": vectors for name, vectors in one.right.items()}
        arrays |= {f"{lead}{name}_left": vectors for name, vectors in one.left.items()}
    return arrays


def _report(
    model: Path, found: Sequence[Spectrum], written: Sequence[Path], *, as_json: bool
) -> None:
    open_ = [one for one in found if not one.converged]
    if as_json:
        content = {
            "model": str(model),
            "spectra": [_content(one) for one in found],
            "converged": not open_,
            "written": list(map(str, written)),
        }
        output.print_json(content)
        if open_:
            raise typer.Exit(1)
        return
    several = len(found) > 1
    rows = [
        (*((i,) if several else ()), n + 1, *_cells(one, n))
        for i, one in enumerate(found)
        for n in range(len(one.values))
    ]
    name = "eigenvalue" if found[0].kind == "eigen" else "singular value"
    columns = ("number", name, "residual", "error of the value")
    head = ("sample", *columns) if several else columns
    output.table(head, rows, right=head)
    output.line()
    for i, one in enumerate(found):
        lead = f"sample {i}: " if several else ""
        rows_, columns_ = one.shape
        note = "" if len(one.values) >= one.wanted else f", which has {len(one.values)} values"
        output.line(
            f"{lead}Jacobian of {rows_} x {columns_}{note}; {one.method}: {one.pushed} products "
            f"J u, {one.pulled} products J^T v, exact to {one.rounding:.1e}"
        )
    for path in written:
        output.line(f"wrote {path}")
    require_all(found)


def _cells(one: Spectrum, n: int) -> tuple[str, str, str]:
    value = one.values[n]
    shown = f"{value.real:.6g}"
    if value.imag:
        shown = f"{value.real:.6g} {'-' if value.imag < 0 else '+'} {abs(value.imag):.6g}i"
    return shown, f"{one.residuals[n]:.1e}", f"{one.errors[n]:.1e}"


def _content(one: Spectrum) -> dict[str, Any]:
    values = [
        {"real": plain(v.real), "imaginary": plain(v.imag)} if one.kind == "eigen" else plain(v)
        for v in one.values
    ]
    return {
        "kind": one.kind,
        "method": one.method,
        "shape": list(one.shape),
        "values": values,
        "residuals": [plain(r) for r in one.residuals],
        "errors": [plain(e) for e in one.errors],
        "tolerance": plain(one.tolerance),
        "rounding": plain(one.rounding),
        "converged": one.converged,
        "reason": one.reason,
        "pushed": one.pushed,
        "pulled": one.pulled,
        "history": [[step.products, plain(step.residual)] for step in one.history],
    }
