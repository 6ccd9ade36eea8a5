"""`onnxjvp fix`."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.files import check_output, read_arrays, sizes
from onnxjvp.cli.options import AllowLinks, AsJson, Force
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.runtime import Array


def fix(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to fix.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="File to write [default: MODEL.fixed.onnx]."),
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AxBxC", help="The sizes of an input."),
    ] = None,
    dim: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=SIZE", help="The size of a dynamic dimension of inputs."),
    ] = None,
    value: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER|FILE.npy", help="An input that becomes a constant of the model."
        ),
    ] = None,
    force: Force = False,
    allow_links: AllowLinks = None,
    as_json: AsJson = False,
) -> None:
    """Write MODEL with sizes of its inputs, or inputs themselves, made constants.

    Branches that they decide are inlined, and values inside get the ranks and sizes that
    derivatives need. f(x) of the inputs that are left is unchanged.

    \b
    Examples:
      onnxjvp fix models/digits_cnn.onnx --dim batch=1
      onnxjvp fix models/digits_cnn.onnx --shape image=4x1x8x8 -o four.onnx
    """
    target = out or model.with_suffix(".fixed.onnx")
    shapes, values, dims = _shapes(shape or ()), _values(value or ()), sizes(dim or ())
    if not (shapes or values or dims):
        raise UsageError("nothing is fixed; give --shape, --dim or --value")
    check_output(target, force=force)
    with output.busy(f"reading {model}"):
        from onnxjvp.rewrite import fix as fixed

        made = fixed(model, shapes, values, dims=dims, links=allow_links)
        made.record(model)
        made.save(target, force=force)
    if as_json:
        output.print_json({"model": str(model), "output": str(target), **made.report})
        return
    for kind, found in (("input", made.model.graph.inputs), ("output", made.model.graph.outputs)):
        for each in found:
            dtype = "?" if each.dtype is None else str(each.dtype.numpy())
            named = [d if isinstance(d, int) else str(d) for d in each.shape or ()]
            output.line(
                f"{kind:6}  {output.printable(each.name or '')}  {dtype}{output.dims(named)}"
            )
    output.line(f"wrote {target}")


def _shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """NAME=AxBxC; an empty one is a scalar's."""
    found = {}
    for text in texts:
        name, equals, shape = text.partition("=")
        parts = shape.split("x") if shape else []
        if not (name and equals) or name in found or not all(p.isdecimal() for p in parts):
            raise UsageError(
                f"--shape {text!r} is not NAME=AxBxC, such as --shape image=1x3x224x224"
            )
        found[name] = tuple(map(int, parts))
    return found


def _values(texts: Sequence[str]) -> dict[str, Array]:
    import numpy as np

    numbers, files = dict[str, float](), []
    for text in texts:
        name, _, number = text.partition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            files.append(text)
    read = read_arrays("--value", files)
    if twice := sorted(read.keys() & numbers.keys()):
        raise UsageError(f"--value names {twice[0]!r} twice; give each once")
    return read | {name: np.array(number) for name, number in numbers.items()}
