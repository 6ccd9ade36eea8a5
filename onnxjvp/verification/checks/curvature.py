"""Products with symmetric matrices: the Hessian of a scalar, and Gauss–Newton's."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from onnxjvp.oracle import Derivative
from onnxjvp.verification.checks import pairing
from onnxjvp.verification.checks.adjoint import Scalar
from onnxjvp.verification.checks.base import Checks
from onnxjvp.verification.checks.forward import Forward
from onnxjvp.verification.checks.pairing import Group, Paired
from onnxjvp.verification.report import USABLE, Array, Row, compare, not_applicable
from onnxjvp.verification.truth import Truth


class Symmetric(Checks):
    """Products M u with a symmetric matrix over all variables together."""

    letter = "H"

    def identities(self) -> Iterator[Row]:
        yield from super().identities()
        check = f"<w, {self.letter} u> = <u, {self.letter} w>"
        one, other = self._form("w", "u"), self._form("u", "w")
        if one is None or other is None:
            yield Row(check, self._label(), "failed", self._engine.where, note="shapes of no u")
            return

        def row(slack: Array | None) -> Row:
            error = 0.0 if slack is None else slack
            found = Paired(one.total, one.magnitude, one.error + error)
            allowed, where = self._allowed_to_all(), self._engine.where
            return pairing.compare_pairs(check, self._label(), where, [found], [other], allowed)

        def slack() -> Array:
            return self._wobbling("w", "u") + self._wobbling("u", "w")

        yield self._with_rounding(row, slack)

    def _allowed_to_all(self) -> float:
        return max(self._allowed(tensor) for _, tensor in self._products())

    def _wobbling(self, left: str, right: str) -> Array:
        """What rounding does to a form."""
        parts = []
        for name, tensor in self._products():
            by, wobble = self._directions[left][name], self._wobble(tensor, right)
            single = self._subject.count is None
            parts.append(pairing.paired(*((a[None] if single else a) for a in (wobble, by))))
        return pairing.total(parts).magnitude

    def _label(self) -> str:
        tensors = dict(self._products())
        return Group(tuple(tensors), ()).label(tensors)

    def _form(self, left: str, right: str) -> Paired | None:
        """⟨left, M right⟩ for each direction; None where a product has the wrong shape."""
        parts = []
        for name, tensor in self._products():
            by, product = self._directions[left][name], self._engine(right)[tensor]
            if by.shape != product.shape:
                return None
            single = self._subject.count is None
            parts.append(pairing.paired(*((a[None] if single else a) for a in (product, by))))
        return pairing.total(parts)


class Hvp(Symmetric, Forward, Scalar):
    """The model of a gradient, and products H u with the scalar's Hessian."""

    title = "hvp = float64 differences of grad"

    def _grads(self) -> dict[str, str]:
        """Variable → its gradient, which the Hessian's product is the derivative of."""
        return self._contract.grads

    def _consult(self) -> Truth:
        return self._consult_about([self._loss(), *self._grads().values()])

    def _moved(self) -> dict[str, str]:
        grads = self._grads()
        return {tensor: grads[name] for name, tensor in self._products()}

    def _prepare(self) -> None:
        super()._prepare()
        self._groups: list[Group] = []
        if self._truth is not None:
            grads = self._grads()
            self._groups = pairing.groups(
                self._truth, list(grads), [self._loss()], self._subject.seed, tensors=grads
            )

    def differences(self) -> Iterator[Row]:
        yield from super().differences()
        yield from self._of_grad(self._groups, self._grads())

    def _computed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        yield from super()._computed()
        for tensor in self._grads().values():
            yield tensor, ()


class Ggn(Symmetric):
    """Products with Gauss–Newton's matrix G = Jᵀ H J."""

    letter = "G"
    title = "<w, G u> = <J w, H J u>"

    def _prepare(self) -> None:
        truth, outputs = self._truth, self._contract.outputs
        self._draw_directions(truth.at if truth else self._subject.known, {})
        self._slopes: list[Derivative] = []
        self._groups: list[Group] = []
        if truth is not None:
            self._slopes = [truth.along(self._row("u", k), outputs) for k in self._rows()]
            seed = self._subject.seed + 2
            tensors = dict(self._products())
            self._groups = pairing.groups(truth, self._contract.wrt, outputs, seed, tensors=tensors)

    def differences(self) -> Iterator[Row]:
        tensors, where = dict(self._products()), self._engine.where
        if self._truth is None:
            for tensor in tensors.values():
                yield not_applicable(self.title, tensor, where, self._oracle)
            return
        if self._contract.loss not in _CURVATURES:
            reason = f"this version does not know the loss {self._contract.loss!r}"
            for tensor in tensors.values():
                yield not_applicable(self.title, tensor, where, reason)
            return
        for group in self._groups:
            label, own = group.label(tensors), [n for n in group.names if n in tensors]
            expected = [self._expected(probe.slope) for probe in group.probes]
            products = {name: self._rows_of(tensors[name]) for name in own}
            wrong = [n for n in own if products[n].shape[1:] != self._truth.at[n].shape]
            if wrong:
                note = f"shape {products[wrong[0]].shape[1:]} is not that of {wrong[0]}"
                yield Row(self.title, tensors[wrong[0]], "failed", where, note=note)
                continue
            yield pairing.compare_pairs(
                self.title,
                label,
                where,
                [pairing.across(products, probe.u) for probe in group.probes],
                expected,
                self._against_differences(tensors[own[0]]),
                self._judged_of_all(),
                usable=USABLE,
            )

    def _rows_of(self, tensor: str) -> Array:
        found = self._engine("u")[tensor]
        return found[None] if self._subject.count is None else found[: len(self._slopes)]

    def _expected(self, along_w: Derivative) -> Paired:
        """⟨J w, H J u⟩ for each u, with what the differences' errors can do to it."""
        assert self._truth is not None and self._contract.loss is not None
        curvature = _CURVATURES[self._contract.loss]
        parts = []
        for name in self._contract.outputs:
            y, jw = self._truth.primal[name], along_w.value[name]
            curved = np.stack([curvature(y, d.value[name]) for d in self._slopes])
            bound = np.stack([_BOUNDS[self._contract.loss](y, d.error[name]) for d in self._slopes])
            exact = pairing.paired(curved, jw)
            error = pairing.paired(bound, np.abs(jw) + along_w.error[name]).magnitude
            error = error + pairing.paired(curved, along_w.error[name]).magnitude
            parts.append(Paired(exact.total, exact.magnitude, error))
        return pairing.total(parts)

    def identities(self) -> Iterator[Row]:
        yield from super().identities()
        check, where = "<u, G u> >= 0", self._engine.where
        form = self._form("u", "u")
        if form is None:
            return  # the row on symmetry has failed
        if not form.magnitude.any():
            yield not_applicable(check, self._label(), where, "G u is zero")
            return

        def row(slack: Array | None) -> Row:
            return compare(
                check,
                self._label(),
                where,
                np.minimum(form.total, 0.0),
                np.zeros_like(form.total),
                self._allowed_to_all(),
                terms=(form.magnitude,),
                slack=slack,
            )

        yield self._with_rounding(row, lambda: self._wobbling("u", "u"))


def _identity(_: Array, t: Array) -> Array:
    return t


def _covariance(y: Array, t: Array) -> Array:
    """(diag(p) − p pᵀ) t with p = softmax(y), along the last axis."""
    p = _softmax(y)
    return np.asarray(p * (t - np.sum(p * t, axis=-1, keepdims=True)))


def _covariance_bound(y: Array, error: Array) -> Array:
    """The same with no signs: what errors in t can do."""
    p = _softmax(y)
    return np.asarray(p * (error + np.sum(p * error, axis=-1, keepdims=True)))


def _softmax(y: Array) -> Array:
    exponentials = np.exp(y - y.max(axis=-1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=-1, keepdims=True))


#: second derivatives of the losses in an output y
_CURVATURES = {"squared_error": _identity, "cross_entropy": _covariance}
_BOUNDS = {"squared_error": _identity, "cross_entropy": _covariance_bound}
