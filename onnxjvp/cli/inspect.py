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
from onnxjvp.cli.choices import Target
from onnxjvp.cli.options import AllowLinks, AsJson, Treatment, Wrt

if TYPE_CHECKING:
    from onnxjvp.inspection import Fitness, Inspection, Tensor
    from onnxjvp.targets.lint import Finding

#: whose a finding is: see targets/lint.py
MODEL, ADDED = "model", "added"
#: rows of a list before it is cut short
SHOWN = 20
#: what of a model card is said in one line
SETTINGS = ("version", "emit", "layout", "method", "directions", "loss_of")
#: and in another
OPTIONS = ("target", "quantized", "shapes", "values", "dims", "opset", "raised_from", "versions")


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="The .onnx file to describe.")],
    wrt: Wrt = None,
    quantized: Treatment = None,
    target: Annotated[
        Target | None,
        typer.Option(help="Also name the nodes that this runtime cannot run, and why."),
    ] = None,
    allow_links: AllowLinks = None,
    as_json: AsJson = False,
) -> None:
    """Show what a model holds and whether it can be rewritten.

    Lists inputs, outputs, constants, trainable parameters, and every operator with the kind of its
    derivative rule or the reason why it is refused. Operators off the live paths, from what is
    differentiated in to the outputs, need no rule. Of a rewritten model it shows the model card: of
    what it was made, how, what was added, and how its check went.

    With --target, also every node that the runtime cannot run, with the reason and what would help:
    of the model as it is, and of what `rewrite --target` would write, for --emit jvp and vjp.

    \b
    Examples:
      onnxjvp inspect models/digits_cnn.onnx
      onnxjvp inspect models/digits_cnn.onnx --wrt params
      onnxjvp inspect models/digits_cnn.onnx --json
      onnxjvp inspect models/digits_cnn.onnx --target web
    """
    with output.busy("loading onnx"):
        from onnxjvp.inspection import inspect as describe
    with output.busy(f"reading {model}"):
        found = describe(
            model,
            wrt,
            links=allow_links,
            quantized=quantized and quantized.value,
            target=target and target.value,
        )
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
    _print_ends(found)
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
    if found.fitness is not None:
        output.line()
        _print_fitness(found.fitness)


def _print_fitness(fitness: Fitness) -> None:
    """What the runtime cannot run, in what order it would be met."""
    if fitness.runtime is None:
        output.line(f"target {fitness.target}: has no table; whatever runs ONNX runs it")
        return
    output.line(f"target {fitness.target}: {fitness.runtime}")
    _print_findings("the model as it is", fitness.model)
    for emit, findings in fitness.written.items():
        what = f"rewrite --target {fitness.target} --emit {emit}"
        if findings is None:
            output.line(f"  {what}: cannot be rewritten")
            continue
        for place, of in ((MODEL, "the model's own nodes"), (ADDED, "what it adds")):
            _print_findings(f"{what}, {of}", [f for f in findings if f.place == place])


def _print_findings(what: str, findings: Sequence[Finding]) -> None:
    if not findings:
        output.line(f"  {what}: all of it runs there")
        return
    output.line(f"  {what}: {len(findings)} {'nodes' if len(findings) > 1 else 'node'} cannot run")
    for finding in findings[:SHOWN]:
        output.line(f"    {finding}")
    if len(findings) > SHOWN:
        output.line(f"    … and {len(findings) - SHOWN} more (--json names them)")


def _print_ends(found: Inspection) -> None:
    """Inputs and outputs; of a rewritten model with what was added."""
    added = (found.rewritten or {}).get("added") or {}
    columns = ["", "name", "dtype", "shape", *(["what it is"] if added else [])]
    output.table(
        columns,
        [
            (what, t.name, t.dtype, output.dims(t.shape), added.get(t.name, ""))[: len(columns)]
            for what, tensors in (("input", found.inputs), ("output", found.outputs))
            for t in tensors
        ],
    )


def _print_rewritten(card: dict[str, Any]) -> None:
    """The model card: how it was made, of what, whether it was checked; and the one before it."""
    if "damaged" in card:
        output.line("written by onnxjvp, but its description of itself is damaged")
        return
    _print_card(card)
    while "before" in card:
        card = card["before"]
        output.line("before that:")
        _print_card(card)


def _print_card(card: dict[str, Any]) -> None:
    output.line(f"written by onnxjvp: {_said(card, SETTINGS)}")
    if with_what := _said(card, OPTIONS):
        output.line(f"with {with_what}")
    if source := card.get("source"):
        for file in (source, *source.get("data", ())):
            digest = f"sha256 {file['sha256']}" if "sha256" in file else "not hashed"
            output.line(f"made of {file['file']}, {file['bytes']:,} bytes, {digest}")
    if check := card.get("check"):
        worst = [f"worst error in {where} {found}" for where, found in check["worst"].items()]
        verdict = "passed" if check["passed"] else "failed"
        output.line(f"checked when written: {', '.join([verdict, check['oracle'], *worst])}")
    for what in ("seeds", "cotangents", "targets", "results", "given", "residuals"):
        if card.get(what):
            output.line(f"{what} {json.dumps(card[what], ensure_ascii=False)}")


def _said(card: dict[str, Any], keys: Sequence[str]) -> str:
    """What a card has under these keys; tables are spread out."""
    found = {key: card[key] for key in keys if card.get(key) not in (None, {}, [])}
    pairs = [(k, v) for key, held in found.items() for k, v in _spread(key, held)]
    return ", ".join(f"{key} {value}" for key, value in pairs)


def _spread(key: str, held: object) -> list[tuple[str, object]]:
    return list(held.items()) if isinstance(held, dict) else [(key, held)]


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
