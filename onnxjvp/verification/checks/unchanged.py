"""f(x) of the rewritten model is the original's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from onnxjvp.oracle import NoOracleError
from onnxjvp.verification.point import Values
from onnxjvp.verification.report import (
    IDENTITY,
    TOLERANCES,
    Array,
    Row,
    compare,
    not_applicable,
    notes,
)
from onnxjvp.verification.subject import Subject

_CHECK = "unchanged"
#: onnxruntime has no float16 kernels for most operators on CPU. It puts Casts around them, with
#: optimisations off too, and leaves out those between two such operators and around one that
#: stands between them, unless something else reads the value in float16, as a derivative may
_HALF = (
    "to float16's rounding: onnxruntime computes it in float32 on CPU, and what else reads a value "
    "decides where it rounds"
)


def unchanged(
    subject: Subject,
    found: Values,
    rounding_row: Callable[[str, Array, float], Row],
    in_float64: Callable[[], Values] | None,
) -> Iterator[Row]:
    """Rows on f(x): bit for bit; to rounding where that is no fair demand.

    Args:
      found: what the rewritten model makes in the runtime.
      rounding_row: (tensor, expected, tolerance) → the row that allows for rounding.
      in_float64: the rewritten model's values in float64, if it has any.
    """
    half = []
    for name, expected in subject.primal.items():
        coarse, whole = subject.is_half(name), expected.dtype.kind != "f"
        if name not in found:
            yield Row(_CHECK, name, "failed", "runtime", note="the output is missing")
            continue
        if whole or (subject.exact and not coarse):
            row = compare(_CHECK, name, "runtime", found[name], expected, 0.0)
        else:
            allowed = TOLERANCES[subject.dtype(name, expected).name].rounding
            row = rounding_row(name, expected, allowed)
        if coarse and subject.exact:
            half.append(name)
            row = replace(row, note=notes(row.note, _HALF))
            if whole and row.status == "failed":
                row = not_applicable(_CHECK, name, "runtime", _HALF)
        yield row
    if half and in_float64 is not None:
        yield from _in_float64(subject, half, in_float64())


def _in_float64(subject: Subject, names: list[str], found: Values) -> Iterator[Row]:
    """What float16 cannot tell: both models compute the same."""
    try:
        original = subject.original.run(subject.feeds, names)
    except NoOracleError:
        return
    for name in names:
        yield compare(_CHECK, name, "float64", found[name], original[name], IDENTITY)
