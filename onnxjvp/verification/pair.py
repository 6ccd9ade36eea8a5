"""Verify a rewritten model against its original.

The oracle knows no derivative rule. Without one (random nodes, operators that cannot be run in
float64) the identities are still checked, in the runtime, and every row says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnx
import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.load import load
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle import random_nodes
from onnxjvp.runtime import ModelLike, Session
from onnxjvp.verification.checks import Checks
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.engines import Engine, consult_oracle, seeded
from onnxjvp.verification.point import Values, choose_point
from onnxjvp.verification.report import Array, Report


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
    links: Path | None = None,
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
      links: a folder inside which links to external data may lead.
    Raises:
      UsageError: the rewritten model has no metadata, or a name in `dims` is unknown.
      InputError: `inputs` do not fit the model.
      InvalidModelError: a model cannot be loaded or run.
    Cost: in float64, 6 to 11 evaluations of the original and 3 of the rewritten model.
    """
    before, after = _unwrapped(model), _unwrapped(rewritten)
    original, changed = load(before, links=links).model, load(after, links=links).model
    if links is not None:
        before, after = original, changed  # a runtime may follow links by rules of its own
    contract = Contract.read(changed)
    random = bool(random_nodes(skeleton(original).graph))
    if random:
        before, after = seeded(original), seeded(changed)
    session = Session(after, providers=providers, optimize=False)
    contract.check(session)
    point = choose_point(contract, session.inputs, original, inputs or {}, seed, dims)
    dtypes = {spec.name: spec.dtype for spec in session.inputs}

    def run_again(feeds: Values) -> Values:
        return Session(after, providers=providers, optimize=False).run(feeds)

    # equal seeds draw equal numbers in the first run of a session only
    run = run_again if random else session.run
    runtime = Engine("runtime", run, contract, point, dtypes)
    primal = Session(before, providers=providers, optimize=False).run(point.feeds)
    derivative, precise, oracle = consult_oracle(before, after, contract, point, primal)
    on_cpu = session.providers == ("CPUExecutionProvider",)
    exact = on_cpu and contract.layout != "stacked" and contract.raised_from is None
    checks = Checks(contract, runtime, precise, derivative, oracle, tolerance)
    differences = tuple(checks.against_differences())
    if derivative is not None and not any(row.status != "not applicable" for row in differences):
        oracle = f"no oracle: {differences[0].note}; give other inputs"
    rows = (
        *checks.unchanged(primal, exact),
        *differences,
        *checks.runtime_against_float64(),
        *checks.identities(point.w_is_x),
        *checks.linear(),
    )
    return Report(rows, oracle)


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
