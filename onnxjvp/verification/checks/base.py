"""What every kind of rewritten model is checked for, and the order of the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from onnxjvp.oracle import NoOracleError
from onnxjvp.verification.checks.unchanged import unchanged
from onnxjvp.verification.engines import Engine, Precise
from onnxjvp.verification.point import AFFINE_MIX, MIX, Values, as_long_as, draw, mixed
from onnxjvp.verification.precision import Dtype
from onnxjvp.verification.report import (
    AMPLIFIED,
    DIFFERENCES,
    DRAWS,
    IDENTITY,
    TOLERANCES,
    UNITS,
    Array,
    Report,
    Row,
    compare,
    distance,
    not_applicable,
    notes,
    unless_vacuous,
)
from onnxjvp.verification.subject import Subject
from onnxjvp.verification.truth import Truth

#: of K directions, so many are compared with differences; the others must do as these do
JUDGED = 3
_ROUNDED = "rounding moves its terms"


class Checks:
    """The rows of a kind of rewritten model.

    Directions are named: "u" and "w" at random, "mix" their combination, "rolled" those of "u",
    each in the next one's place and times a number of its own, and "none" zero.
    """

    #: what the results are linear in
    argument = "u"

    def __init__(self, subject: Subject) -> None:
        self._subject, self._contract = subject, subject.contract
        #: name of a set → wrt or output name → array, those in the file among them
        self._directions: dict[str, Values] = {}
        self._truth: Truth | None = None
        self._oracle, self._mute = "float64 differences", False
        try:
            self._truth = self._consult()
            self._prepare()
        except NoOracleError as error:
            self._truth, self._oracle = None, f"no oracle: {error}"
            self._prepare()
        self._runtime = self._in_runtime()
        self._precise = self._in_float64()
        self._engine: Engine = self._precise or self._runtime

    def report(self) -> Report:
        differences, oracle = tuple(self.differences()), self._oracle
        if self._truth and all(row.status == "not applicable" for row in differences):
            self._mute = True
            oracle = f"no oracle: {differences[0].note}; give other inputs"
        rows = (
            *self.unchanged(),
            *differences,
            *self.runtime_against_float64(),
            *self.identities(),
            *self.linear(),
            *self.one_by_one(),
        )
        return Report(rows, oracle)

    def undefined(self) -> list[str]:
        """Results that are no finite numbers, once it is reported that no differences settle."""
        values = self._engine("u")
        tensors = [t for forms in self._contract.results.values() for t in forms.values()]
        return [t for t in tensors if self._mute and not np.isfinite(values[t]).all()]

    # -- what a kind says ----------------------------------------------------------------------

    def _consult(self) -> Truth:
        """What the derivative should be; NoOracleError if nobody can say."""
        contract, subject = self._contract, self._subject
        primal = {name: subject.primal[name] for name in contract.outputs}
        return Truth(
            subject.original, subject.feeds, contract.wrt, contract.outputs, primal, subject.dtype
        )

    def _prepare(self) -> None:
        """Draw directions, and measure what differences say; once more without a truth."""
        raise NotImplementedError

    def differences(self) -> Iterator[Row]:
        """At least one row."""
        raise NotImplementedError

    def identities(self) -> Iterator[Row]:
        yield from ()

    def _products(self) -> Iterator[tuple[str, str]]:
        """Results that are linear in the directions, each behind the name it belongs to."""
        for name, forms in self._contract.results.items():
            yield name, forms[self._contract.form]

    # -- directions ----------------------------------------------------------------------------

    def _draw_directions(self, at: Mapping[str, Array], shapes: Mapping[str, Any]) -> None:
        """All sets, for the inputs that take them.

        Args:
          at: values as long as which directions are; w is them where all are known.
          shapes: of single directions, by name; those that neither names are the input's own.
        """
        subject, count = self._subject, self._subject.count
        lead = () if count is None else (count,)
        specs = {}
        for name, end in self._contract.ends.items():
            spec = subject.specs[end]
            known = np.shape(at[name]) if name in at else shapes.get(name)
            shape = self._contract.shape(spec) if known is None else known
            specs[name] = replace(spec, shape=(*lead, *shape))
        first, second = (
            draw(specs, seed, subject.sizes) for seed in (subject.seed, subject.seed + 1)
        )
        u = self._aimed({name: as_long_as(at.get(name), array) for name, array in first.items()})
        w = {name: second[name].astype(np.float64) for name in u}
        if self._knows_all(at):
            w = {name: np.broadcast_to(at[name], u[name].shape) for name in u}
        self._factors = np.random.default_rng([subject.seed, 7]).uniform(0.5, 2.0, count or 1)
        self._factors[::2] *= -1.0
        none = {name: np.zeros_like(array) for name, array in u.items()}
        baked = subject.baked
        sets = {"u": u, "w": w, "none": none}
        if count is not None:
            sets["rolled"] = {name: self._rolled(array) for name, array in u.items()}
        sets["mix"] = mixed(u, w, AFFINE_MIX if baked else MIX)
        self._directions = {key: values | baked for key, values in sets.items()}

    def _aimed(self, u: Values) -> Values:
        """The directions drawn, turned to where differences can tell something."""
        return u

    def _knows_all(self, at: Mapping[str, Array]) -> bool:
        """Whether w, by which a frozen network is brought back to x, can be x itself."""
        return not self._subject.baked and all(name in at for name in self._contract.ends)

    def _rolled(self, array: Array) -> Array:
        """Row k of the result is row k − 1 times the factor of k."""
        factors = self._factors.reshape(-1, *(1,) * (array.ndim - 1))
        return np.asarray(np.roll(array, 1, axis=0) * factors)

    def _rows(self) -> list[int | None]:
        """Directions that differences are taken along; [None] where they have no axis."""
        count = self._subject.count
        return [None] if count is None else list(range(min(count, JUDGED)))

    def _row(self, direction: str, k: int | None) -> Values:
        chosen = self._directions[direction]
        return chosen if k is None else {name: array[k] for name, array in chosen.items()}

    def _judged_of_all(self) -> str:
        count = self._subject.count
        return f"{JUDGED} of {count} directions" if count and count > JUDGED else ""

    # -- engines -------------------------------------------------------------------------------

    def _ends(self) -> dict[str, Values]:
        """By the inputs that take them."""
        ends = self._contract.ends
        return {
            key: {ends[name]: array for name, array in chosen.items() if name in ends}
            for key, chosen in (self._directions or {"u": {}}).items()
        }

    def _in_runtime(self) -> Engine:
        dtypes = {name: spec.dtype for name, spec in self._subject.specs.items()}
        return Engine("runtime", self._subject.run, self._subject.feeds, self._ends(), dtypes)

    def _in_float64(self) -> Precise | None:
        if self._truth is None:
            return None
        try:
            precise = Precise(self._subject.rewritten, self._subject.feeds, self._ends())
            precise("u")
        except NoOracleError:
            return None
        return precise

    # -- checks of every kind ------------------------------------------------------------------

    def unchanged(self) -> Iterator[Row]:
        precise = self._precise
        yield from unchanged(
            self._subject,
            self._runtime("u"),
            partial(self._runtime_row, "unchanged", terms=(), by_norm=False),
            None if precise is None else partial(precise, "u"),
        )

    def runtime_against_float64(self) -> Iterator[Row]:
        check = "runtime = float64"
        for tensor, terms in self._computed():
            if self._precise is None:
                yield not_applicable(check, tensor, "runtime", self._no_float64())
                continue
            expected = self._precise("u")[tensor]
            allowed = self._subject.tolerance or TOLERANCES[self._dtype(tensor).name].runtime
            yield self._runtime_row(check, tensor, expected, allowed, terms, by_norm=True)

    def _computed(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """What the model computes beside f(x), and terms whose difference it is taken as."""
        for forms in self._contract.results.values():
            for tensor in forms.values():
                yield tensor, ()

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

        A deep network's derivative jumps at kinks that lie within the rounding of its values. One
        draw of errors may miss a kink that the next one crosses, so that there are several.
        """
        found, precise = self._runtime("u")[tensor], self._precise
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

        best = row(allowed)
        if precise is None or self._subject.tolerance is not None:
            return best
        alone, every = (False, "the inputs and weights alone"), (True, "every value")
        for number, (inside, what) in enumerate([alone] * DRAWS + [every] * DRAWS):
            if best.status == "passed":
                break
            noisy = precise.noisy("u", self._dtype(tensor), inside=inside, draw=number)[tensor]
            moved = distance(noisy, expected, scales, by_norm=by_norm)
            if AMPLIFIED * moved > allowed:
                allowed = AMPLIFIED * moved
                best = row(allowed, f"rounding {what} moves it by {moved:.1e}")
        return unless_vacuous(best)

    def _with_rounding(self, row: Callable[[Array | None], Row], slack: Callable[[], Array]) -> Row:
        """An identity's row; where it fails, what rounding does to its terms is allowed too.

        A result that is nothing but rounding (a saturated Softmax's derivative) obeys no identity.

        Args:
          row: the slack → the row.
          slack: what rounding in float64 does, element by element.
        """
        first = row(None)
        if first.status != "failed" or self._precise is None:
            return first
        second = row(slack())
        return unless_vacuous(replace(second, note=notes(second.note, _ROUNDED)))

    def _wobble(self, tensor: str, *directions: str) -> Array:
        """What rounding at every step does in float64 to a tensor, in the worst direction."""
        assert self._precise is not None
        double = np.dtype(np.float64)
        parts = [
            np.abs(self._precise.noisy(d, double, inside=True)[tensor] - self._precise(d)[tensor])
            for d in directions
        ]
        return np.asarray(AMPLIFIED * np.max(parts, axis=0))

    def linear(self) -> Iterator[Row]:
        check, where = f"linear in {self.argument}", self._engine.where
        baked = self._subject.baked
        by, note = (AFFINE_MIX, "along what is not in the file") if baked else (MIX, "")
        if not self._contract.ends and not baked:
            return
        for name, tensor in self._products():
            if not self._contract.ends:
                reason = "all directions are in the file"
                yield not_applicable(check, tensor, where, reason)
                continue
            u, w, mix = (self._engine(d)[tensor].astype(np.float64) for d in ("u", "w", "mix"))
            row = partial(
                self._identity,
                check,
                name,
                tensor,
                mix,
                by[0] * u + by[1] * w,
                (by[0] * u, by[1] * w),
                note,
            )
            yield self._with_rounding(row, partial(self._wobble, tensor, "u", "w", "mix"))

    def _identity(
        self,
        check: str,
        name: str,
        tensor: str,
        found: Array,
        expected: Array,
        terms: tuple[Array, ...],
        note: str,
        slack: Array | None,
    ) -> Row:
        return compare(
            check,
            tensor,
            self._engine.where,
            found,
            expected,
            self._allowed(tensor),
            terms=terms,
            judged=self._finite(name, found),
            slack=slack,
            note=note,
        )

    def one_by_one(self) -> Iterator[Row]:
        """Of K directions each gives what it gives alone, in whatever place.

        Exchange and scale them: if some other direction entered row k, or row k were a map of its
        own, row k would not be row k − 1 times its factor.
        """
        if self._subject.count is None or not self._contract.ends:
            return
        check, argument = "row k is direction k's", self.argument
        for name, tensor in self._products():
            u, rolled = (self._engine(d)[tensor].astype(np.float64) for d in ("u", "rolled"))
            if self._subject.baked:  # what they add stays where it is
                none = self._engine("none")[tensor].astype(np.float64)
                u, rolled = u - none, rolled - none
            if u.shape[:1] != self._factors.shape:
                note = f"shape {u.shape} has no axis of {self._factors.size} for {argument}"
                yield Row(check, tensor, "failed", self._engine.where, note=note)
                continue
            expected = self._rolled(u)
            row = partial(self._identity, check, name, tensor, rolled, expected, (u,), "")
            yield self._with_rounding(row, partial(self._wobble, tensor, "u", "rolled"))

    # -- tolerances ----------------------------------------------------------------------------

    def _dtype(self, tensor: str) -> Dtype:
        return self._subject.dtype(tensor, self._runtime("u")[tensor])

    def _finite(self, name: str, like: Array) -> Array:
        """Where the value that a result belongs to is a number, if that has the result's shape."""
        at = self._truth.at if self._truth else self._subject.known
        value = self._engine("u").get(name, at.get(name))
        if value is None or like.shape[like.ndim - value.ndim :] != value.shape:
            return np.ones(like.shape, bool)
        return np.broadcast_to(np.isfinite(value), like.shape)

    def _allowed(self, tensor: str) -> float:
        """For an identity between values of the engine in use."""
        if self._precise is not None:
            return IDENTITY
        return self._subject.tolerance or TOLERANCES[self._dtype(tensor).name].runtime

    def _against_differences(self, tensor: str) -> float:
        """In float64 too, the constants of the file are rounded to its own dtype."""
        if self._precise is None:
            return self._allowed(tensor)
        rounding = float(np.finfo(self._dtype(tensor)).eps)
        return max(DIFFERENCES, UNITS * rounding)

    def _misfit(self, check: str, name: str, tensor: str) -> Row | None:
        """The row that fails because a tensor has not the shape of what it belongs to."""
        found, like, count = self._engine("u")[tensor], self._engine("u")[name], self._subject.count
        wanted = like.shape if count is None else (count, *like.shape)
        if found.shape == wanted:
            return None
        note = f"shape {found.shape} where {wanted} is expected"
        return Row(check, tensor, "failed", self._engine.where, note=note)

    def _no_float64(self) -> str:
        if self._truth is None:
            return self._oracle
        return "the rewritten model cannot be evaluated in float64"
