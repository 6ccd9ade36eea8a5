"""The checks of `verify`.

The oracle knows no derivative rule. Without one (random nodes, operators that cannot be run in
float64) the identities are still checked, in the runtime, and every row says so.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnx
import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.load import load
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle import (
    RANDOM,
    Derivative,
    Evaluator,
    NoOracleError,
    directional_derivative,
    random_nodes,
)
from onnxjvp.runtime import ModelLike, Session
from onnxjvp.verify.contract import Contract
from onnxjvp.verify.point import MIX, Point, Values, choose_point
from onnxjvp.verify.report import (
    AMPLIFIED,
    DIFFERENCES,
    IDENTITY,
    TOLERANCES,
    Array,
    Report,
    Row,
    Where,
    compare,
    not_applicable,
)


class HasProto(Protocol):
    """What a rewriting returns."""

    def proto(self) -> onnx.ModelProto: ...


def verify(
    model: ModelLike | HasProto,
    rewritten: ModelLike | HasProto,
    *,
    inputs: Mapping[str, Array] | None = None,
    seed: int = 0,
    providers: Sequence[str] | None = None,
    tolerance: float | None = None,
    dims: Mapping[str, int] | None = None,
) -> Report:
    """Check a rewritten model against the model that was given to the rewriting.

    Five checks, each on every tensor that it concerns:

    - unchanged: f(x) is the original's, bit for bit with the runtime's optimisations off (to
      rounding in the stacked layout, after a change of opset, and on other devices than the CPU).
    - jvp = float64 differences: the rewritten model made double, against central differences of
      the original made double; elements at kinks are left out and counted. The float64 evaluation
      is trusted only if its f(x) is the runtime's.
    - runtime = float64: the rewritten model in the runtime against itself in float64.
    - clone identity: f_x(u) - f_x(0) = J u and f_x(x) = f(x), or f(x) - f_x(x - u) = J u.
    - linear in u: J(a u + b w) = a J u + b J w.

    Args:
      model: the original; any model that a rewriting takes, or a rewriting's result.
      rewritten: the file, model or result of the rewriting.
      inputs: arrays for the original's inputs; those left out are drawn at random.
      seed: of the inputs and directions drawn.
      providers: the runtime's, as in `Session`.
      tolerance: allowed to the runtime's derivatives in place of the table for its dtype.
      dims: sizes of symbolic dimensions, for inputs that are drawn.
    Raises:
      UsageError: the rewritten model has no metadata, or a name in `dims` is unknown.
      InputError: `inputs` do not fit the model.
      InvalidModelError: a model cannot be loaded or run.
    Cost: in float64, 6 to 11 evaluations of the original and 3 of the rewritten model.
    """
    before, after = _unwrapped(model), _unwrapped(rewritten)
    original, changed = load(before).model, load(after).model
    contract = Contract.read(changed)
    random = bool(random_nodes(skeleton(original).graph))
    if random:
        before, after = _seeded(original), _seeded(changed)
    session = Session(after, providers=providers, optimize=False)
    contract.check(session)
    point = choose_point(contract, session.inputs, original, inputs or {}, seed, dims)
    dtypes = {spec.name: spec.dtype for spec in session.inputs}

    def run_again(feeds: Values) -> Values:
        return Session(after, providers=providers, optimize=False).run(feeds)

    # equal seeds draw equal numbers in the first run of a session only
    run = run_again if random else session.run
    runtime = _Engine("runtime", run, contract, point, dtypes)
    primal = Session(before, providers=providers, optimize=False).run(point.feeds)
    derivative, precise, oracle = _consult_oracle(before, after, contract, point, primal)
    on_cpu = session.providers == ("CPUExecutionProvider",)
    exact = on_cpu and contract.layout != "stacked" and contract.raised_from is None
    checks = _Checks(contract, runtime, precise, derivative, oracle, tolerance)
    rows = (
        *checks.unchanged(primal, exact),
        *checks.against_differences(),
        *checks.runtime_against_float64(),
        *checks.identities(point.w_is_x),
        *checks.linear(),
    )
    return Report(rows, oracle)


class _Engine:
    """The rewritten model at the point, evaluated once for each direction."""

    def __init__(
        self,
        where: Where,
        run: Callable[[Values], Values],
        contract: Contract,
        point: Point,
        dtypes: Mapping[str, Any],
    ) -> None:
        self.where: Where = where
        self._run, self._contract, self._point, self._dtypes = run, contract, point, dtypes
        self._values: dict[str, Values] = {}

    def __call__(self, direction: str) -> Values:
        if direction not in self._values:
            feeds = self._point.seeded(self._contract, direction, self._dtypes)
            self._values[direction] = self._run(feeds)
        return self._values[direction]

    def nudged(self, dtype: np.dtype[Any]) -> Values:
        """Values along u where x is off by some units in the last place of a dtype."""
        key = f"nudged by {dtype}"
        if key not in self._values:
            feeds = self._point.seeded(self._contract, "u", self._dtypes)
            feeds |= self._point.nudged(float(np.finfo(dtype).eps))
            self._values[key] = self._run(feeds)
        return self._values[key]


class _Checks:
    """The rows of each check."""

    def __init__(
        self,
        contract: Contract,
        runtime: _Engine,
        precise: _Engine | None,
        derivative: Derivative | None,
        oracle: str,
        tolerance: float | None,
    ) -> None:
        self._results = contract.results
        self._by_subtraction = contract.layout == "stacked"
        self._runtime, self._precise, self._derivative = runtime, precise, derivative
        self._engine = precise or runtime
        self._oracle, self._tolerance = oracle, tolerance

    def unchanged(self, primal: Values, exact: bool) -> Iterator[Row]:
        found = self._runtime("u")
        for name, expected in primal.items():
            if name not in found:
                yield Row("unchanged", name, "failed", "runtime", note="the output is missing")
                continue
            floating = expected.dtype.kind == "f" and not exact
            allowed = TOLERANCES[expected.dtype.name].rounding if floating else 0.0
            yield compare("unchanged", name, "runtime", found[name], expected, allowed)

    def against_differences(self) -> Iterator[Row]:
        check, where = "jvp = float64 differences", self._engine.where
        for name, tensors in self._results.items():
            jvp = tensors["jvp"]
            if self._derivative is None:
                yield not_applicable(check, jvp, where, self._oracle)
                continue
            judged = ~self._derivative.kinks[name]
            if judged.size and not judged.any():
                reason = "every element is at a kink, or J u is below the rounding of f(x)"
                yield not_applicable(check, jvp, where, reason)
                continue
            left_out = int(judged.size - judged.sum())
            yield compare(
                check,
                jvp,
                where,
                self._engine("u")[jvp],
                self._derivative.value[name],
                DIFFERENCES if self._precise else self._allowed(jvp),
                judged=judged,
                slack=np.where(judged, self._derivative.error[name], 0.0),
                note=f"{left_out} of {judged.size} elements at kinks, left out" if left_out else "",
            )

    def runtime_against_float64(self) -> Iterator[Row]:
        check = "runtime = float64"
        for tensors in self._results.values():
            for kind, tensor in tensors.items():
                if self._precise is None:
                    yield not_applicable(check, tensor, "runtime", self._no_float64())
                    continue
                # the digits that J u has fewer than the terms of a subtraction are lost by design
                subtracted = kind == "jvp" and self._by_subtraction
                terms = tuple(tensors.values()) if subtracted else (tensor,)
                yield self._rounded(check, tensor, terms, self._precise)

    def _rounded(self, check: str, tensor: str, terms: tuple[str, ...], precise: _Engine) -> Row:
        """Allow what the table does, or a multiple of what rounding the input does by itself.

        A deep network's derivative jumps at kinks that lie within the rounding of its inputs.
        """
        found, values = self._runtime("u")[tensor], precise("u")
        scales = tuple(values[term] for term in terms)

        def row(tolerance: float, note: str = "") -> Row:
            return compare(
                check,
                tensor,
                "runtime",
                found,
                values[tensor],
                tolerance,
                terms=scales,
                by_norm=True,
                note=note,
            )

        allowed = self._tolerance or TOLERANCES[found.dtype.name].runtime
        first = row(allowed)
        if first.status == "passed" or self._tolerance is not None:
            return first
        nudged = precise.nudged(found.dtype)[tensor]
        moved = compare(
            check, tensor, "float64", nudged, values[tensor], 0.0, terms=scales, by_norm=True
        ).relative
        if moved is None or AMPLIFIED * moved <= allowed:
            return first
        return row(AMPLIFIED * moved, f"rounding the inputs alone moves it by {moved:.1e}")

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

    def _no_float64(self) -> str:
        if self._derivative is None:
            return self._oracle
        return "the rewritten model cannot be evaluated in float64"


def _consult_oracle(
    before: ModelLike, after: ModelLike, contract: Contract, point: Point, primal: Values
) -> tuple[Derivative | None, _Engine | None, str]:
    """The derivative, the rewritten model in float64, and what the oracle is."""
    try:
        derivative = _differences(before, contract, point, primal)
    except NoOracleError as error:
        return None, None, f"no oracle: {error}"
    try:
        doubles = dict.fromkeys(contract.seeds.values(), np.float64)
        precise = _Engine("float64", Evaluator(after).run, contract, point, doubles)
        precise("u")
    except NoOracleError:
        return derivative, None, "float64 differences"
    return derivative, precise, "float64 differences"


def _differences(before: ModelLike, contract: Contract, point: Point, primal: Values) -> Derivative:
    evaluator = Evaluator(before)
    inside = [name for name in contract.seeds if name not in point.at]
    x = point.feeds | point.at
    if inside:
        x |= evaluator.run(point.feeds, inside)
    derivative = directional_derivative(
        evaluator.run, x, point.directions["u"], list(contract.results), target=DIFFERENCES
    )
    for name in contract.results:
        found, expected = primal[name], derivative.primal[name]
        allowed = TOLERANCES[found.dtype.name].rounding
        row = compare("", name, "runtime", found, expected, allowed)
        if row.status == "failed":
            raise NoOracleError(
                f"{name} in float64 differs from the runtime's by {row.relative or np.inf:.1e}, "
                f"more than {allowed:.0e}"
            )
    return derivative


def _seeded(model: ir.Model) -> ir.Model:
    """The model with a seed in every random node, the same for the same output name."""
    model = model.clone()
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM and "seed" not in node.attributes:
            kind = ir.AttributeType.INT if node.op_type == "Dropout" else ir.AttributeType.FLOAT
            number = zlib.crc32((node.outputs[0].name or "").encode()) % 1000
            seed = number if kind == ir.AttributeType.INT else float(number)
            node.attributes["seed"] = ir.Attr("seed", kind, seed)
    return model


def _unwrapped(model: ModelLike | HasProto) -> ModelLike:
    if isinstance(model, (str, os.PathLike, bytes, onnx.ModelProto, ir.Model)):
        return model
    if isinstance(inner := getattr(model, "model", None), ir.Model):
        return inner  # of any size
    if not callable(getattr(model, "proto", None)):
        raise UsageError(
            f"verify takes a path, bytes, a ModelProto, an onnx_ir.Model or the result of a "
            f"rewriting, not {type(model).__name__}."
        )
    return model.proto()
