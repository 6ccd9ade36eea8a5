"""`onnxjvp ops`."""

# ruff: noqa: PLC0415  (ONNX is imported where it is used, so that --help is fast)
from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from onnxjvp.cli import output
from onnxjvp.cli.options import AsJson
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.coverage import Operator


def ops(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Operators, or patterns such as 'Reduce*'."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="KIND", help="Only operators of that kind.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the operators, and what becomes of each.

    Those of other domains have them in their names: ai.onnx.ml::Scaler. Kinds are explained in
    docs/ops.md, which holds the same list.

    \b
    Examples:
      onnxjvp ops
      onnxjvp ops Conv 'Reduce*' 'com.microsoft::*'
      onnxjvp ops --kind refused
    """
    with output.busy("loading onnx"):
        from onnxjvp.coverage import counts, operators
    every = operators()
    found = _chosen(every, names, kind)
    if as_json:
        output.print_json(
            {"counts": counts(every), "operators": [operator.to_dict() for operator in found]}
        )
        return
    output.table(
        ("operator", "kind", "in", "versions", "types"),
        [
            (
                o.name,
                o.kind,
                ", ".join(o.operands),
                "" if o.versions is None else f"{o.versions[0]} to {o.versions[1]}",
                " ".join(o.types),
            )
            for o in found
        ],
    )
    output.line()
    for o in found if len(found) <= SPOKEN or kind else ():
        output.line(f"{o.name}: {o.note}{f'; {o.kink}' if o.kink else ''}")
    if not (names or kind):
        for domain, kinds in counts(every).items():
            listed = ", ".join(f"{count} {what}" for what, count in kinds.items())
            output.line(f"{domain}: {sum(kinds.values())} operators: {listed}")


#: so many operators at most are described in words as well
SPOKEN = 12


def _chosen(
    every: Sequence[Operator], names: Sequence[str] | None, kind: str | None
) -> list[Operator]:
    kinds = sorted({o.kind for o in every})
    if kind is not None and kind not in kinds:
        raise UsageError(f"there is no kind {kind!r}; choose {', '.join(kinds)}")
    for name in names or ():
        if not any(fnmatch.fnmatchcase(o.name, name) for o in every):
            raise UsageError(
                f"no operator {name!r} is known; names are as in ONNX, with other domains in "
                "front: ai.onnx.ml::Scaler"
            )
    return [
        o
        for o in every
        if (kind is None or o.kind == kind)
        and (not names or any(fnmatch.fnmatchcase(o.name, name) for name in names))
    ]
