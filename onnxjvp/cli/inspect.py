"""`onnxjvp inspect`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxjvp.cli import output
from onnxjvp.cli.choices import Quantized
from onnxjvp.cli.files import AllowLinks

if TYPE_CHECKING:
    from onnxjvp.inspection import Inspection, Tensor

#: rows of a list before it is cut short
SHOWN = 20


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to describe.")],
    wrt: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What to differentiate in, as for rewrite [default: all float inputs].",
        ),
    ] = None,
    quantized: Annotated[
        Quantized | None,
        typer.Option(help="What becomes of quantised activations, as for rewrite."),
    ] = None,
    allow_links: AllowLinks = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a model holds and whether it can be rewritten.

    Lists inputs, outputs, constants, trainable parameters, and every operator with the kind of its
    derivative rule or the reason why it is refused. Operators off the live paths, from what is
    differentiated in to the outputs, need no rule. Of a rewritten model it says what was added.

    \b
    Examples:
      onnxjvp inspect models/digits_cnn.onnx
      onnxjvp inspect models/digits_cnn.onnx --wrt params
      onnxjvp inspect models/digits_cnn.onnx --json
    """
    with output.busy("loading onnx"):
        from onnxjvp.inspection import inspect as describe
    with output.busy(f"reading {model}"):
        found = describe(model, wrt, links=allow_links, quantized=quantized and quantized.value)
    if as_json:
        output.print_json({"model": str(model), **found.to_dict()})
    else:
        _print(model, found)


def _print(model: Path, found: Inspection) -> None:
    output.line(str(model))
    raised = f" (read as {found.raised_to})" if found.raised_to else ""
    opsets = ", ".join(f"{domain} {version}" for domain, version in found.opsets.items())
    output.line(f"opset {opsets}{raised}, IR version {found.ir_version}")
    output.line(f"producer {found.producer or 'not named'}")
    if found.functions:
        output.line(f"functions {found.functions}, inlined below")
    if found.rewritten is not None:
        _print_rewritten(found.rewritten)
    output.line()
    output.table(
        ("", "name", "dtype", "shape"),
        [
            (what, tensor.name, tensor.dtype, output.dims(tensor.shape))
            for what, tensors in (("input", found.inputs), ("output", found.outputs))
            for tensor in tensors
        ],
    )
    if found.constants:
        output.line()
        _print_constants(found)
    if found.trainable:
        output.line()
        _print_trainable(found.trainable)
    output.line()
    output.table(
        ("operator", "count", "nodes", "kind"),
        [(row.op_type, row.count, row.nodes, row.kind) for row in found.operators],
        right=("count", "nodes"),
    )
    for row in found.operators:
        if row.reason is not None:
            output.line(f"refused: {row.op_type}: {row.reason}; nodes {', '.join(row.names)}")
    for cut in found.cuts:
        output.line(f"derivative of zero on a live path: {cut}")
    for name, reason in found.excluded.items():
        output.line(f"excluded: output {name}: {reason}")
    output.line()
    if found.obstacle is None:
        output.line(f"can be rewritten, differentiating in {_few(found.wrt)}")
    else:
        output.line(f"cannot be rewritten: {found.obstacle}")


def _print_rewritten(description: dict[str, Any]) -> None:
    if "damaged" in description:
        output.line("written by onnxjvp, but its description of itself is damaged")
        return
    settings = ("version", "emit", "layout", "method", "directions", "loss_of")
    words = [f"{key} {description[key]}" for key in settings if description.get(key) is not None]
    output.line(f"written by onnxjvp: {', '.join(words)}")
    for what in ("seeds", "cotangents", "targets", "results", "given", "residuals"):
        if description.get(what):
            output.line(f"{what} {json.dumps(description[what], ensure_ascii=False)}")


def _print_trainable(tensors: Sequence[Tensor]) -> None:
    """The first few by name, and how many there are in all."""
    rows = [(t.name, t.dtype, output.dims(t.shape), _elements(t)) for t in tensors]
    if len(rows) > SHOWN:
        others = rows[SHOWN - 1 :]
        more = f"… and {len(others)} more (--json names them)"
        rows[SHOWN - 1 :] = [(more, "", "", sum(row[-1] for row in others))]
    total = ("all", "", f"{len(tensors)} tensors", sum(map(_elements, tensors)))
    output.table(
        ("trainable parameter", "dtype", "shape", "elements"),
        [(*cells, f"{elements:,}") for *cells, elements in [*rows, total]],
        right=("elements",),
    )


def _elements(tensor: Tensor) -> int:
    return math.prod(dim for dim in tensor.shape or () if isinstance(dim, int))


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, … ({len(names)} in all)"


def _print_constants(found: Inspection) -> None:
    rows = [(c.place, c.dtype, (c.tensors, c.elements, c.bytes)) for c in found.constants]
    totals = tuple(sum(column) for column in zip(*(amounts for *_, amounts in rows), strict=True))
    output.table(
        ("constants", "dtype", "tensors", "elements", "bytes"),
        [
            (place, dtype, *(f"{amount:,}" for amount in amounts))
            for place, dtype, amounts in [*rows, ("all", "", totals or (0, 0, 0))]
        ],
        right=("tensors", "elements", "bytes"),
    )
