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

from onnxjvp.graph.load import load
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle import (
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
    drawing = {node.op_type for node in random_nodes(skeleton(original).graph)}
    if drawing:
        # sessions draw the same numbers only where seeds are equal and no run came before
        before, after = _seeded(original), _seeded(changed)

    run_before = _runner(before, providers, fresh=False)
    session = Session(after, providers=providers, optimize=False)
    run_after = _runner(after, providers, fresh=True) if drawing else session.run
    point = choose_point(contract, session.inputs, original, inputs or {}, seed, dims)
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    runtime = _Engine("runtime", run_after, contract, point, dtypes)

    primal = run_before(point.feeds)
    exact = contract.layout != "stacked" and contract.raised_from is None and not providers
    rows = [*_unchanged(primal, runtime("u"), exact=exact)]
    derivative, precise, oracle = _oracle(before, after, contract, point, primal, session)
    engine = precise or runtime
    checker = _Checker(contract, engine, tolerance)
    rows += checker.against_differences(derivative, oracle)
    rows += checker.runtime(runtime, precise, oracle)
    rows += checker.identity(point.w_is_x)
    rows += checker.linear()
    return Report(tuple(rows), oracle)
