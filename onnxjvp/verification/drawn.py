"""Inputs drawn at random: where they are the reason that nothing can be said, it is said so.

Integers are drawn as 0 and 1: often no step of a loop, the same row for every index, the same
category for every word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.runtime import TensorSpec
from onnxjvp.runtime.messages import first_line
from onnxjvp.verification.point import Values
from onnxjvp.verification.report import Array, Report, Row


@dataclass(frozen=True)
class Drawn:
    """The original's inputs that nobody gave."""

    names: tuple[str, ...]
    #: those of them that are integers or booleans
    whole: tuple[str, ...]

    @classmethod
    def among(cls, specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> Drawn:
        left = [spec for spec in specs if spec.name not in given]
        whole = tuple(spec.name for spec in left if spec.dtype.kind != "f")
        return cls(tuple(spec.name for spec in left), whole)

    @property
    def _remedy(self) -> str:
        why = f"Integers are drawn as 0 and 1 ({', '.join(self.whole)}). " if self.whole else ""
        return (
            f"{why}Give `onnxjvp verify` arrays that the model is made for: --inputs FILE.npz, or "
            "inputs={...} in Python."
        )

    def original(self, run: Callable[[Values], Values], feeds: Values) -> Values:
        """The original at the point.

        Raises:
          UsageError: it does not run there, and inputs were drawn. InvalidModelError: the same,
            and none was.
        """
        try:
            return run(feeds)
        except InvalidModelError as error:
            if not self.names:
                raise
            raise UsageError(
                f"The original model itself does not run on inputs drawn at random "
                f"({', '.join(self.names)}), so nothing can be compared. {self._remedy} "
                f"onnxruntime says: {_gist(error)}."
            ) from error

    def rewritten(self, run: Callable[[Values], Values]) -> Callable[[Values], Values]:
        """The run of the rewritten model; a failure says that the original ran."""

        def told(values: Values) -> Values:
            try:
                return run(values)
            except InvalidModelError as error:
                where = "at these inputs" if not self.whole else "at the inputs drawn"
                text = f"The rewritten model does not run {where}, where the original does."
                says = f"onnxruntime says: {_gist(error)}."
                if not self.whole:
                    raise InvalidModelError(f"{text} {says}") from error
                raise UsageError(
                    f"{text} A count or size of 0 may be why: onnxruntime's Scan takes no "
                    f"sequence without steps. {self._remedy} {says}"
                ) from error

        return told

    def judge(self, report: Report, primal: Values, undefined: Sequence[str]) -> Report:
        """The report, with a word on the point where that explains that there is no oracle.

        Args:
          primal: the original's outputs.
          undefined: results that are no finite numbers, where differences do not settle either.
        Raises:
          UsageError: checks failed, all by values that are no finite numbers, at a drawn point
            where the original's outputs are none or no derivative exists.
        """
        missing = report.oracle.startswith("no oracle")
        if not self.names or (report.passed and not missing):
            return report
        reason = _not_finite(primal)
        if not reason and undefined:
            reason = (
                f"{', '.join(undefined)} is not finite, and differences of the original do not "
                "settle: it seems to have no derivative there (as a norm has none at 0)"
            )
        if report.passed:
            more = reason or ("integers were drawn as 0 and 1" if self.whole else "")
            hint = f"{more}. {self._remedy}" if reason else more
            return replace(report, oracle=f"{report.oracle}; {hint}") if hint else report
        if not reason or not all(_infinite(row) for row in report.rows if row.status == "failed"):
            return report
        raise UsageError(
            f"There is no verdict at inputs drawn at random ({', '.join(self.names)}): {reason}. "
            f"{self._remedy}"
        )


def _infinite(row: Row) -> bool:
    return row.absolute is not None and not np.isfinite(row.absolute)


def _not_finite(primal: Values) -> str:
    for name, y in primal.items():
        if y.dtype.kind == "f" and (count := int(np.count_nonzero(~np.isfinite(y)))):
            return (
                f"the original's own {name} has {count} values of {y.size} there that are no "
                "finite numbers"
            )
    return ""


def _gist(error: InvalidModelError) -> str:
    cause = error.__cause__
    return first_line(cause) if isinstance(cause, Exception) else str(error)
