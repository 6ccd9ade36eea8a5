"""Products with the transposed Jacobian, and gradients: inner products with differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from onnxjvp.verification.checks import pairing
from onnxjvp.verification.checks.base import Checks
from onnxjvp.verification.checks.losses import parse
from onnxjvp.verification.checks.pairing import Group
from onnxjvp.verification.point import Values
from onnxjvp.verification.report import (
    IDENTITY,
    TOLERANCES,
    USABLE,
    Array,
    Row,
    compare,
    left_out,
    not_applicable,
)
from onnxjvp.verification.truth import Truth

#: a small output's cotangents are at most so many times those of a large one
_LIFT = 100.0


class Vjp(Checks):
    """f(x) and Jᵀ ct."""

    argument = "ct"
    title = "<ct, J u> = <vjp, u>"

    def _prepare(self) -> None:
        self._groups: list[Group] = []
        self._used: Values = {}
        if self._truth is not None:
            outputs = self._contract.outputs
            self._groups = pairing.groups(
                self._truth,
                self._contract.wrt,
                outputs,
                self._subject.seed,
                tensors=dict(self._products()),
            )
            self._used = {name: self._settled(name) for name in outputs}
        shapes = {name: self._subject.primal[name].shape for name in self._contract.outputs}
        self._draw_directions({}, shapes)

    def _settled(self, name: str) -> Array:
        """Elements that differences tell along every direction that tells of the output at all.

        One along which nothing moves it, or nothing but rounding does, has its error in the sum.
        """
        slopes = [probe.slope for group in self._groups for probe in group.probes]
        telling = [slope for slope in slopes if not slope.kinks[name].all()] or slopes
        settled = ~np.any([slope.kinks[name] for slope in telling], axis=0)
        if settled.any():
            return np.asarray(settled)
        return np.asarray(np.all([slope.within(name, USABLE) for slope in slopes], axis=0))

    def _aimed(self, u: Values) -> Values:
        """Zero where differences do not settle; outputs alike in weight; ⟨ct, J u⟩ not near 0."""
        if not self._groups:
            return u
        slope = self._groups[0].probes[0].slope
        seen = {name: np.where(self._used[name], slope.value[name], 0.0) for name in u}
        sizes = {name: float(np.abs(value).max(initial=0.0)) for name, value in seen.items()}
        top, aimed = max(sizes.values()), {}
        for name, drawn in u.items():
            ct = np.where(self._used[name], drawn, 0.0)
            first = ct if self._subject.count is None else ct[:1]
            first[...] = np.copysign(first, seen[name])
            lift = min(top / sizes[name], _LIFT) if sizes[name] else 1.0
            dtype = self._subject.specs[self._contract.cotangents[name]].dtype
            aimed[name] = (ct * lift).astype(dtype).astype(np.float64)
        return aimed

    def differences(self) -> Iterator[Row]:
        tensors, where = dict(self._products()), self._engine.where
        if self._truth is None:
            for tensor in tensors.values():
                yield not_applicable(self.title, tensor, where, self._oracle)
            return
        judged = np.concatenate([used.reshape(-1) for used in self._used.values()])
        one = self._subject.count is None
        cts = self._directions["u"]
        products = {name: self._engine("u")[tensor] for name, tensor in tensors.items()}
        if one:
            cts, products = ({n: a[None] for n, a in each.items()} for each in (cts, products))
        for group in self._groups:
            label = group.label(tensors)
            if judged.size and not judged.any():
                reason = "every element is at a kink, or J u is below the rounding of f(x)"
                yield not_applicable(self.title, label, where, reason)
                continue
            if misfit := self._shapes(group, tensors):
                yield misfit
                continue
            own = {name: products[name] for name in group.names if name in tensors}
            yield pairing.compare_pairs(
                self.title,
                label,
                where,
                [pairing.across(own, probe.u) for probe in group.probes],
                [pairing.along(cts, probe.slope, self._used) for probe in group.probes],
                self._against_differences(tensors[group.names[0]]),
                left_out(judged),
                usable=USABLE,
            )

    def _shapes(self, group: Group, tensors: Mapping[str, str]) -> Row | None:
        assert self._truth is not None
        lead = () if self._subject.count is None else (self._subject.count,)
        for name in group.names:
            if name in tensors:
                found = self._engine("u")[tensors[name]].shape
                wanted = (*lead, *self._truth.at[name].shape)
                if found != wanted:
                    note = f"shape {found} where {wanted} is expected"
                    where = self._engine.where
                    return Row(self.title, tensors[name], "failed", where, note=note)
        return None


class Scalar(Checks):
    """What a model with a loss is checked for."""

    title_of_grad = "<grad, u> = float64 differences"

    def _consult_about(self, outputs: Sequence[str]) -> Truth:
        """Values that only the rewritten model has: its loss is a value, not a derivative."""
        subject = self._subject
        loss = parse(self._contract.loss_of, subject.primal)
        trusted = [loss.output] if loss else list(subject.primal)
        return Truth(
            subject.rewritten,
            subject.feeds,
            self._contract.wrt,
            outputs,
            runtime={name: subject.primal[name] for name in trusted},
            dtype=subject.dtype,
        )

    def _loss(self) -> str:
        assert self._contract.loss is not None
        return self._contract.loss

    def _computed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from super()._computed()
        if self._loss() not in self._subject.primal:
            yield self._loss(), ()

    def identities(self) -> Iterator[Row]:
        """The scalar is what it is said to be."""
        check, where = "loss = what it is of", self._engine.where
        values, loss = self._engine("u"), parse(self._contract.loss_of, self._subject.primal)
        if loss is None or loss.output not in values:
            reason = f"nothing is known about {self._contract.loss_of!r}"
            yield not_applicable(check, self._loss(), where, reason)
            return
        extra = {n: a for n, a in self._subject.feeds.items() if n in self._subject.extra}
        terms = loss.terms(values[loss.output].astype(np.float64), extra)
        found = values[self._loss()].astype(np.float64)
        precise = self._precise is not None
        dtype = self._dtype(self._loss()).name
        yield compare(
            check,
            self._loss(),
            where,
            found.sum(),
            terms.sum(),
            IDENTITY if precise else TOLERANCES[dtype].rounding,
            terms=(np.abs(terms).sum(),),
            note="" if found.size == 1 else f"shape {found.shape} is not one number",
        )

    def _of_grad(self, groups: Sequence[Group], tensors: Mapping[str, str]) -> Iterator[Row]:
        """Rows on gradients: name of variable → tensor."""
        check, where, loss = self.title_of_grad, self._engine.where, self._loss()
        if self._truth is None:
            for tensor in tensors.values():
                yield not_applicable(check, tensor, where, self._oracle)
            return
        one = {loss: np.ones((1, *self._truth.primal[loss].shape))}
        for group in groups:
            label, own = group.label(tensors), [n for n in group.names if n in tensors]
            probes = [p for p in group.probes if p.slope.within(loss, USABLE).all()]
            if not probes:
                reason = "the loss is at a kink, or its slope is below its rounding"
                yield not_applicable(check, label, where, reason)
                continue
            found = {name: self._engine("u")[tensors[name]] for name in own}
            shapes = {name: self._truth.at[name].shape for name in own}
            if wrong := [name for name in own if found[name].shape != shapes[name]]:
                note = f"shape {found[wrong[0]].shape} where {shapes[wrong[0]]} is expected"
                yield Row(check, tensors[wrong[0]], "failed", where, note=note)
                continue
            used = {loss: np.ones(one[loss].shape[1:], bool)}
            yield pairing.compare_pairs(
                check,
                label,
                where,
                [pairing.across({n: a[None] for n, a in found.items()}, p.u) for p in probes],
                [pairing.along(one, p.slope, used) for p in probes],
                self._against_differences(tensors[own[0]]),
                usable=USABLE,
            )


class Grad(Scalar):
    """f(x), a scalar of it, and its gradient."""

    def _consult(self) -> Truth:
        return self._consult_about([self._loss()])

    def _prepare(self) -> None:
        self._groups: list[Group] = []
        if self._truth is not None:
            self._groups = pairing.groups(
                self._truth,
                self._contract.wrt,
                [self._loss()],
                self._subject.seed,
                tensors=dict(self._products()),
            )

    def differences(self) -> Iterator[Row]:
        yield from self._of_grad(self._groups, dict(self._products()))
