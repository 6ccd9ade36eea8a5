"""Products J u, alone or in a clone, against differences along u."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxjvp.oracle import Derivative
from onnxjvp.verification.checks.base import Checks
from onnxjvp.verification.report import USABLE, Array, Row, compare, left_out, not_applicable, notes


class Forward(Checks):
    """Results that are directional derivatives of other values."""

    title = "jvp = float64 differences"

    def _prepare(self) -> None:
        truth = self._truth
        self._draw_directions(truth.at if truth else self._subject.known, {})
        moved = list(self._moved().values())
        self._slopes: list[Derivative] = []
        if truth is not None:
            self._slopes = [truth.along(self._row("u", k), moved) for k in self._rows()]

    def _moved(self) -> dict[str, str]:
        """Result → the value whose derivative it should be."""
        return {tensor: name for name, tensor in self._products()}

    def differences(self) -> Iterator[Row]:
        where = self._engine.where
        for tensor, name in self._moved().items():
            if self._truth is None:
                yield not_applicable(self.title, tensor, where, self._oracle)
                continue
            judged = self._joined([d.within(name, USABLE) for d in self._slopes])
            if judged.size and not judged.any():
                reason = "every element is at a kink, or J u is below the rounding of f(x)"
                yield not_applicable(self.title, tensor, where, reason)
                continue
            error = self._joined([d.error[name] for d in self._slopes])
            yield compare(
                self.title,
                tensor,
                where,
                self._first_rows(self._engine("u")[tensor]),
                self._joined([d.value[name] for d in self._slopes]),
                self._against_differences(tensor),
                judged=judged,
                slack=np.where(judged, error, 0.0),
                note=notes(left_out(judged), self._judged_of_all()),
            )

    def _joined(self, parts: list[Array]) -> Array:
        return parts[0] if self._subject.count is None else np.stack(parts)

    def _first_rows(self, found: Array) -> Array:
        """The rows that are judged, if there is an axis for all of them."""
        fits = self._subject.count is not None and found.shape[:1] == (self._subject.count,)
        return found[: len(self._slopes)] if fits else found


class Jvp(Forward):
    """f(x) and J u."""


class Clone(Forward):
    """The frozen network: J u beside f_x(u) and f_x(0), or beside f_x(x − u)."""

    def _computed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        # the digits that J u has fewer than the terms of a subtraction are lost by design
        subtracted = self._contract.layout == "stacked"
        for forms in self._contract.results.values():
            for form, tensor in forms.items():
                yield tensor, tuple(forms.values()) if subtracted and form == "jvp" else ()

    def identities(self) -> Iterator[Row]:
        """J u from the frozen network's values, and its value at x."""
        values, where = self._engine("u"), self._engine.where
        for name, forms in self._contract.results.items():
            jvp = forms["jvp"]
            if "s" in forms:
                check, minuend, subtrahend = "f(x) - f_x(x - u) = J u", name, forms["s"]
            elif "u" in forms:
                check, minuend, subtrahend = "f_x(u) - f_x(0) = J u", forms["u"], forms["0"]
            else:
                continue
            lanes = [t for form, t in forms.items() if form != "0"]
            if misfit := next(filter(None, (self._misfit(check, name, t) for t in lanes)), None):
                yield misfit
                continue
            one, other = values[minuend], values[subtrahend]
            yield compare(
                check,
                jvp,
                where,
                one - other,
                values[jvp],
                self._allowed(jvp),
                terms=(one, other),
                judged=self._finite(name, values[jvp]),
            )
            if "u" in forms:
                yield self._at_x(name, forms)

    def _at_x(self, name: str, forms: dict[str, str]) -> Row:
        check, tensor, where = "f_x(x) = f(x)", forms["u"], self._engine.where
        if self._subject.baked:
            return not_applicable(check, tensor, where, "a direction is in the file")
        if not self._knows_all(self._truth.at if self._truth else self._subject.known):
            reason = "the model computes a wrt tensor itself, so its x is not known"
            return not_applicable(check, tensor, where, reason)
        at_x = self._engine("w")
        found = at_x[tensor]
        return compare(
            check,
            tensor,
            where,
            found,
            np.broadcast_to(at_x[name], found.shape),
            self._allowed(forms["jvp"]),
            terms=(at_x[forms["0"]],),
            judged=self._finite(name, found),
        )
