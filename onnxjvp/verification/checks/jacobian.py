"""Whole Jacobians, times a direction, against differences."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxjvp.oracle import Derivative
from onnxjvp.verification.checks.base import Checks
from onnxjvp.verification.point import Values, as_long_as
from onnxjvp.verification.report import USABLE, Array, Row, compare, left_out, not_applicable


class Jacobian(Checks):
    """f(x), its Jacobian in each variable, and f_x(0)."""

    title = "jacobian · u = float64 differences"

    def _prepare(self) -> None:
        self._us: Values = {}
        self._slopes: dict[str, Derivative] = {}
        if self._truth is None:
            return
        for number, name in enumerate(self._contract.wrt):
            at = self._truth.at[name]
            rng = np.random.default_rng([self._subject.seed, number])
            self._us[name] = as_long_as(at, np.asarray(rng.standard_normal(at.shape)))
            along = {name: self._us[name]}
            self._slopes[name] = self._truth.along(along, self._contract.outputs)

    def _blocks(self) -> Iterator[tuple[str, str, str | None]]:
        """(output, variable, result); no result means zero."""
        for y in self._contract.outputs:
            for x in self._contract.wrt:
                yield y, x, self._contract.results.get(y, {}).get(f"jac_{x}")

    def differences(self) -> Iterator[Row]:
        where = self._engine.where
        for y, x, tensor in self._blocks():
            label = tensor or f"{y} in {x}"
            if self._truth is None:
                yield not_applicable(self.title, label, where, self._oracle)
                continue
            slope = self._slopes[x]
            judged = slope.within(y, USABLE)
            if judged.size and not judged.any():
                reason = "every element is at a kink, or J u is below the rounding of f(x)"
                yield not_applicable(self.title, label, where, reason)
                continue
            found = self._times(y, x, tensor, self._us[x])
            if isinstance(found, str):
                yield Row(self.title, label, "failed", where, note=found)
                continue
            yield compare(
                self.title,
                label,
                where,
                found,
                slope.value[y],
                self._against_differences(tensor or y),
                judged=judged,
                slack=np.where(judged, slope.error[y], 0.0),
                note=left_out(judged),
            )

    def _times(self, y: str, x: str, tensor: str | None, u: Array) -> Array | str:
        """The block times u; where the block has another shape, the note that says so."""
        like = self._engine("u")[y]
        if tensor is None:
            return np.zeros(like.shape)
        block, wanted = self._engine("u")[tensor], (*like.shape, *u.shape)
        if block.shape != wanted:
            return f"shape {block.shape} where {wanted} is expected"
        finite = np.where(np.isfinite(u), u, 0.0)
        return np.tensordot(block.astype(np.float64), finite, axes=u.ndim)

    def identities(self) -> Iterator[Row]:
        check, where = "f_x(0) = f(x) - J x", self._engine.where
        at = self._truth.at if self._truth else self._subject.known
        for y, forms in self._contract.results.items():
            if "0" not in forms:
                continue
            if not all(x in at for x in self._contract.wrt):
                reason = "the model computes a wrt tensor itself, so its x is not known"
                yield not_applicable(check, forms["0"], where, reason)
                continue
            value = self._engine("u")[y].astype(np.float64)
            blocks = [(x, tensor) for own, x, tensor in self._blocks() if own == y]
            products = [self._times(y, x, tensor, at[x]) for x, tensor in blocks]
            if wrong := [note for note in products if isinstance(note, str)]:
                yield Row(check, forms["0"], "failed", where, note=wrong[0])
                continue
            terms = tuple(p for p in products if not isinstance(p, str))
            yield compare(
                check,
                forms["0"],
                where,
                self._engine("u")[forms["0"]],
                np.asarray(value - sum(terms)),
                self._allowed(forms["0"]),
                terms=(value, *terms),
                judged=np.isfinite(value),
            )
