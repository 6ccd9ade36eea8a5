"""What verification finds: rows, tolerances, and how two arrays are compared."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]
Where = Literal["float64", "runtime"]


@dataclass(frozen=True)
class Tolerance:
    """Relative errors allowed to a dtype."""

    #: the same numbers, added up in another order
    rounding: float
    #: a derivative, or a frozen value, after many operators
    runtime: float


#: by the dtype of the tensor
TOLERANCES = {
    "float16": Tolerance(rounding=1e-2, runtime=5e-2),
    "float32": Tolerance(rounding=1e-5, runtime=1e-3),
    "float64": Tolerance(rounding=1e-10, runtime=1e-8),
}
#: the runtime may be off by this many times what inputs and weights cause that are themselves off
#: by this many units in the last place
AMPLIFIED, UNITS = 4.0, 8.0
#: how often such errors are drawn before a result counts as wrong
DRAWS = 4
#: J u in float64 against differences in float64; at least UNITS of the file's dtype
DIFFERENCES = 1e-6
#: elements where the differences' own error exceeds this share of the largest are not judged
USABLE = 1e-3
#: identities between values in float64
IDENTITY = 1e-9


@dataclass(frozen=True)
class Row:
    """One check of one tensor."""

    check: str
    tensor: str
    status: Literal["passed", "failed", "not applicable"]
    #: where the rewritten model was evaluated
    where: Where
    #: largest |found − expected|
    absolute: float | None = None
    #: `absolute` over the largest magnitude among the terms compared, or over 1 where they are all
    #: zero; in "runtime = float64" the 2-norm of the error over the largest of the terms' 2-norms,
    #: as rounding may move a few values inside the model across a kink
    relative: float | None = None
    #: largest `relative` that passes; against differences, with their own error on top
    tolerance: float | None = None
    #: index of the worst element
    index: tuple[int, ...] | None = None
    #: what a reader must know: why it does not apply, how many elements were left out
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `verify` found."""

    rows: tuple[Row, ...]
    #: "float64 differences", or "no oracle: " and the reason
    oracle: str

    @property
    def passed(self) -> bool:
        """No check failed, and at least one was made."""
        found = {row.status for row in self.rows}
        return "failed" not in found and "passed" in found

    def summary(self) -> dict[str, Any]:
        """For a model card: the verdict, and the worst error of each engine, rounded up."""
        status = [row.status for row in self.rows]
        worst = {
            where: _rounded_up(max(found))
            for where in ("float64", "runtime")
            if (found := [r.relative for r in self.rows if r.where == where and r.relative])
        }
        counts = {each: status.count(each) for each in dict.fromkeys(status)}
        return {"passed": self.passed, "oracle": self.oracle, "checks": counts, "worst": worst}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which has no infinity and no NaN: those become strings."""
        rows = [{key: _plain(value) for key, value in asdict(row).items()} for row in self.rows]
        return {"passed": self.passed, "oracle": self.oracle, "rows": rows}


def not_applicable(check: str, tensor: str, where: Where, reason: str) -> Row:
    return Row(check, tensor, "not applicable", where, note=reason)


def unless_vacuous(row: Row) -> Row:
    """A row that would pass a result of zeros is no check."""
    if row.status != "passed" or row.tolerance is None or row.tolerance < 1.0:
        return row
    return not_applicable(row.check, row.tensor, row.where, f"{row.note}: nothing but rounding")


def notes(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def left_out(judged: Array) -> str:
    """A note on elements that are not judged."""
    count = int(judged.size - judged.sum())
    return f"{count} of {judged.size} elements at kinks, left out" if count else ""


def compare(
    check: str,
    tensor: str,
    where: Where,
    found: Array,
    expected: Array,
    tolerance: float,
    *,
    terms: tuple[Array, ...] = (),
    by_norm: bool = False,
    judged: Array | None = None,
    slack: Array | None = None,
    note: str = "",
) -> Row:
    """The row that compares two arrays.

    Args:
      terms: arrays whose magnitudes, beside that of `expected`, set the scale.
      by_norm: judge the 2-norm of the error, not its largest element.
      judged: mask of the elements to compare; None means all.
      slack: error of `expected` itself, element by element. The largest is allowed on top of the
        tolerance: an element's own is an estimate, and all share the kinks of what they read.
    """
    shape = expected.shape if judged is None else judged.shape
    if not found.shape == expected.shape == shape:
        note = f"shape {found.shape} where {shape} is expected"
        return Row(check, tensor, "failed", where, tolerance=tolerance, note=note)
    error = _errors(found, expected)
    if judged is not None:
        # a NaN on both sides agrees only where the model's own output is no number
        error = np.where(judged, np.where(np.isnan(found), np.inf, error), 0.0)
    size = _norm if by_norm else _largest
    scale = max(size(_finite(term)) for term in (expected, *terms)) or 1.0
    absolute = float(error.max(initial=0.0))
    relative = absolute / scale
    if slack is not None:
        tolerance += _largest(slack) / scale
    passed = bool(np.all(error <= tolerance * scale))
    if by_norm:
        relative = _norm(error) / scale
        passed = relative <= tolerance
    worst = np.unravel_index(int(error.argmax()), error.shape) if error.size else ()
    return Row(
        check,
        tensor,
        "passed" if passed else "failed",
        where,
        absolute=absolute,
        relative=relative,
        tolerance=tolerance,
        index=tuple(int(i) for i in worst),
        note=note,
    )


def distance(
    found: Array, expected: Array, terms: tuple[Array, ...] = (), *, by_norm: bool = False
) -> float:
    """The relative error that `compare` finds; infinite where shapes differ."""
    row = compare("", "", "float64", found, expected, 0.0, terms=terms, by_norm=by_norm)
    return math.inf if row.relative is None else row.relative


def _errors(found: Array, expected: Array) -> Array:
    """|found − expected|: 0 for equal infinities and for two NaN, infinite for one NaN."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        error = np.where(same, 0.0, np.abs(a - b))
    return np.where(np.isnan(error), np.inf, error)


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0).astype(np.float64)


def _largest(values: Array) -> float:
    return float(np.abs(values).max(initial=0.0))


def _norm(values: Array) -> float:
    """2-norm, scaled so that it neither overflows nor underflows."""
    largest = _largest(values)
    if largest == 0.0 or not math.isfinite(largest):
        return largest
    return largest * float(np.sqrt(np.sum(np.square(values / largest))))


def _rounded_up(value: float) -> float | str:
    """To one digit: the others depend on the machine."""
    if not math.isfinite(value):
        return str(value)
    digit, exponent = f"{value:e}".split("e")
    return float(f"{math.ceil(float(digit))}e{exponent}")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
