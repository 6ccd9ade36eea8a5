"""The rows of each check."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxjvp.oracle import Derivative
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.engines import Engine, Precise
from onnxjvp.verification.point import MIX, Values
from onnxjvp.verification.report import (
    AMPLIFIED,
    DIFFERENCES,
    IDENTITY,
    TOLERANCES,
    UNITS,
    USABLE,
    Array,
    Row,
    compare,
    not_applicable,
)


class Checks:
    """The rows of each check."""

    def __init__(
        self,
        contract: Contract,
        runtime: Engine,
        precise: Precise | None,
        derivative: Derivative | None,
        oracle: str,
        tolerance: float | None,
    ) -> None:
        self._results = contract.results
        self._by_subtraction = contract.layout == "stacked"
        self._runtime, self._precise, self._derivative = runtime, precise, derivative
        self._engine: Engine = precise or runtime
        self._oracle, self._tolerance = oracle, tolerance

    def unchanged(self, primal: Values, exact: bool) -> Iterator[Row]:
        found = self._runtime("u")
        for name, expected in primal.items():
            if name not in found:
                yield Row("unchanged", name, "failed", "runtime", note="the output is missing")
            elif exact or expected.dtype.kind != "f":
                yield compare("unchanged", name, "runtime", found[name], expected, 0.0)
            else:
                allowed = TOLERANCES[expected.dtype.name].rounding
                yield self._runtime_row("unchanged", name, expected, allowed, (), by_norm=False)

    def against_differences(self) -> Iterator[Row]:
        check, where = "jvp = float64 differences", self._engine.where
        for name, tensors in self._results.items():
            jvp = tensors["jvp"]
            if self._derivative is None:
                yield not_applicable(check, jvp, where, self._oracle)
                continue
            judged = self._derivative.within(name, USABLE)
            if judged.size and not judged.any():
                reason = "every element is at a kink, or J u is below the rounding of f(x)"
                yield not_applicable(check, jvp, where, reason)
                continue
            value, error = self._derivative.value[name], self._derivative.error[name]
            yield compare(
                check,
                jvp,
                where,
                self._engine("u")[jvp],
                value,
                self._against_differences(jvp),
                judged=judged,
                slack=np.where(judged, error, 0.0),
                note=_left_out(judged),
            )

    def runtime_against_float64(self) -> Iterator[Row]:
        check = "runtime = float64"
        for tensors in self._results.values():
            for kind, tensor in tensors.items():
                if self._precise is None:
                    yield not_applicable(check, tensor, "runtime", self._no_float64())
                    continue
                expected, dtype = self._precise("u")[tensor], self._runtime("u")[tensor].dtype
                allowed = self._tolerance or TOLERANCES[dtype.name].runtime
                # the digits that J u has fewer than the terms of a subtraction are lost by design
                subtracted = kind == "jvp" and self._by_subtraction
                terms = tuple(tensors.values()) if subtracted else ()
                yield self._runtime_row(check, tensor, expected, allowed, terms, by_norm=True)

    def _runtime_row(
        self,
        check: str,
        tensor: str,
        expected: Array,
        allowed: float,
        terms: tuple[str, ...],
        *,
        by_norm: bool,
    ) -> Row:
        """Allow what is given, or what rounding the inputs and weights would do by itself.

        A deep network's derivative jumps at kinks that lie within the rounding of its values.
        """
        found = self._runtime("u")[tensor]
        precise = self._precise
        scales = tuple(precise("u")[term] for term in terms) if precise else ()

        def row(tolerance: float, note: str = "") -> Row:
            return compare(
                check,
                tensor,
                "runtime",
                found,
                expected,
                tolerance,
                terms=scales,
                by_norm=by_norm,
                note=note,
            )

        first = row(allowed)
        if first.status == "passed" or precise is None or self._tolerance is not None:
            return first
        moved = precise.moved(tensor, terms, found.dtype, by_norm=by_norm)
        if AMPLIFIED * moved <= allowed:
            return first
        note = f"rounding the inputs and weights alone moves it by {moved:.1e}"
        return row(AMPLIFIED * moved, note)

    def identities(self, w_is_x: bool) -> Iterator[Row]:
        """J u from the frozen network's values, and its value at x."""
        values, where = self._engine("u"), self._engine.where
        for name, tensors in self._results.items():
            jvp = tensors["jvp"]
            if "s" in tensors:
                check, minuend, subtrahend = "f(x) - f_x(x - u) = J u", name, tensors["s"]
            elif "u" in tensors:
                check, minuend, subtrahend = "f_x(u) - f_x(0) = J u", tensors["u"], tensors["0"]
            else:
                continue
            one, other = values[minuend], values[subtrahend]
            allowed, judged = self._allowed(jvp), np.isfinite(values[name])
            yield compare(
                check,
                jvp,
                where,
                one - other,
                values[jvp],
                allowed,
                terms=(one, other),
                judged=judged,
            )
            if "u" not in tensors:
                continue
            check = "f_x(x) = f(x)"
            if not w_is_x:
                reason = "the model computes a wrt tensor itself, so its x is not known"
                yield not_applicable(check, tensors["u"], where, reason)
                continue
            at_x = self._engine("w")
            yield compare(
                check,
                tensors["u"],
                where,
                at_x[tensors["u"]],
                at_x[name],
                allowed,
                terms=(at_x[tensors["0"]],),
                judged=judged,
            )

    def linear(self) -> Iterator[Row]:
        for name, tensors in self._results.items():
            jvp = tensors["jvp"]
            u, w, mix = (self._engine(d)[jvp].astype(np.float64) for d in ("u", "w", "mix"))
            terms = (MIX[0] * u, MIX[1] * w)
            yield compare(
                "linear in u",
                jvp,
                self._engine.where,
                mix,
                terms[0] + terms[1],
                self._allowed(jvp),
                terms=terms,
                judged=np.isfinite(self._engine("u")[name]),
            )

    def _allowed(self, tensor: str) -> float:
        """For an identity between values of the engine in use."""
        if self._precise is not None:
            return IDENTITY
        dtype = self._runtime("u")[tensor].dtype.name
        return self._tolerance or TOLERANCES[dtype].runtime

    def _against_differences(self, tensor: str) -> float:
        """In float64 too, the constants of the file are rounded to its own dtype."""
        if self._precise is None:
            return self._allowed(tensor)
        rounding = float(np.finfo(self._runtime("u")[tensor].dtype).eps)
        return max(DIFFERENCES, UNITS * rounding)

    def _no_float64(self) -> str:
        if self._derivative is None:
            return self._oracle
        return "the rewritten model cannot be evaluated in float64"


def _left_out(judged: Array) -> str:
    count = int(judged.size - judged.sum())
    return f"{count} of {judged.size} elements at kinks, left out" if count else ""
