"""Verify a rewritten model against its original.

The oracle knows no derivative rule. Without one (random nodes, operators that cannot be run in
float64) the identities are still checked, in the runtime, and every row says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.load import load
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle import random_nodes
from onnxjvp.runtime import ModelLike, Session, TensorSpec, check_feeds, random_feeds
from onnxjvp.verification.checks import CHECKS
from onnxjvp.verification.checks.losses import parse
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.drawn import Drawn
from onnxjvp.verification.engines import seeded
from onnxjvp.verification.point import Values, draw_inputs, known_sizes
from onnxjvp.verification.precision import narrowest
from onnxjvp.verification.report import Array, Report
from onnxjvp.verification.subject import Subject


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

    Each check is made on every tensor that it concerns. Of all models:

    - unchanged: f(x) is the original's, bit for bit with the runtime's optimisations off (to
      rounding in the stacked layout, where products share their weight, after a change of opset,
      on other devices than the CPU, and in float16, which onnxruntime rounds there where other
      values let it: those are compared in float64 too).
    - runtime = float64: the rewritten model in the runtime against itself in float64.
    - linear in u, or in ct: J(a u + b w) = a J u + b J w.
    - row k is direction k's, where there are K directions: each gives what it gives alone.

    Against central differences of a model made double; elements at kinks are left out and counted,
    and the float64 evaluation is trusted only if its f(x) is the runtime's. With K directions the
    first 3 are compared.

    - jvp, clone: J u, element by element.
    - vjp: <ct, J u> = <vjp, u> along random u, with ct zero where J u does not settle.
    - grad: <grad, u> is the loss's derivative along random u.
    - hvp: H u is the gradient's derivative, the gradient is checked as above.
    - ggn: <w, G u> = <J w, H J u>, with H from its definition.
    - jacobian: its product with a random u.

    Identities: f_x(u) - f_x(0) = J u and f_x(x) = f(x), or f(x) - f_x(x - u) = J u, of a clone;
    f_x(0) = f(x) - J x beside a Jacobian; <w, H u> = <u, H w>; <u, G u> >= 0; a loss is what its
    name says of the outputs.

    Tolerances are those of the narrowest float dtype that the original rounds to on the way to an
    output, or the tensor's own.

    Args:
      model: the original; any model that a rewriting takes, or a rewriting's result.
      rewritten: the file, model or result of the rewriting.
      inputs: arrays for the original's inputs, and for targets and labels that the rewriting added;
        those left out are drawn at random.
      seed: of the inputs and directions drawn.
      providers: the runtime's, as in `Session`.
      tolerance: allowed to the runtime's derivatives in place of the table for its dtype.
      dims: sizes of symbolic dimensions, for inputs that are drawn; a dynamic number of directions
        is 3 unless it is named here.
      links: a folder inside which links to external data may lead.
    Raises:
      UsageError: the rewritten model has no metadata, is half of a model that was linearised once,
        or a name in `dims` is unknown; at inputs that were drawn a model does not run, or all that
        fails are values that are no numbers, where the original's are none or nothing settles.
      InputError: `inputs` do not fit the model.
      InvalidModelError: a model cannot be loaded or run.
    Cost: in float64, of the original: 1 evaluation and 4 to 10 per direction compared (up to 3 for
      jvp and clone, 3 or 4 for vjp and grad, up to 7 for hvp and ggn); 3 or 4 of the rewritten one.
    """
    before, after = _unwrapped(model), _unwrapped(rewritten)
    original, changed = load(before, links=links).model, load(after, links=links).model
    if links is not None:
        before, after = original, changed  # a runtime may follow links by rules of its own
    contract = Contract.read(changed, original)
    random = bool(random_nodes(skeleton(original).graph))
    if random:
        before, after = seeded(original), seeded(changed)
    session = Session(after, providers=providers, optimize=False)
    contract.check(session)
    baked = {x: _constant(changed, name) for x, name in contract.given.items()}
    sizes = dict(dims or {})
    count = contract.count(sizes, baked.values())

    own = {v.name for v in original.graph.inputs}
    plain = [spec for spec in session.inputs if spec.name in own]
    ends = set(contract.ends.values())
    extra = [s for s in session.inputs if s.name not in own and s.name not in ends]
    added = {spec.name for spec in extra}
    given = {name: array for name, array in (inputs or {}).items() if name not in added}
    feeds = draw_inputs(plain, given, seed, sizes)
    drawn = Drawn.among(plain, given)
    primal = drawn.original(Session(before, providers=providers, optimize=False).run, feeds)
    more = _draw_extra(contract, extra, inputs or {}, primal, seed)

    def run_again(values: Values) -> Values:
        return Session(after, providers=providers, optimize=False).run(values)

    on_cpu = session.providers == ("CPUExecutionProvider",)
    subject = Subject(
        contract=contract,
        before=before,
        after=after,
        feeds=feeds | more,
        extra=frozenset(more),
        primal=primal,
        # equal seeds draw equal numbers in the first run of a session only
        run=drawn.rewritten(run_again if random else session.run),
        specs={spec.name: spec for spec in session.inputs},
        known=_known(contract, original, feeds),
        baked=baked,
        count=count,
        sizes=known_sizes(plain, feeds),
        seed=seed,
        tolerance=tolerance,
        exact=on_cpu
        and contract.layout != "stacked"
        and not contract.shared
        and contract.raised_from is None,
        narrowest=narrowest(original.graph),
        sources=_sources(contract, primal),
    )
    checks = CHECKS[contract.emit](subject)
    with np.errstate(invalid="ignore"):  # infinities are told by the rows
        report = checks.report()
    return drawn.judge(report, primal, checks.undefined())


def _draw_extra(
    contract: Contract,
    specs: Sequence[TensorSpec],
    given: Mapping[str, Array],
    primal: Values,
    seed: int,
) -> Values:
    """Inputs that the rewriting added and that are no directions: targets, labels of classes."""
    loss = parse(contract.loss_of, primal)
    found = {}
    for number, spec in enumerate(specs):
        if spec.name in given:
            found[spec.name] = given[spec.name]
        elif loss is None:
            found |= random_feeds([spec], seed)
        else:
            rng = np.random.default_rng([seed, number])
            found[spec.name] = loss.extra(primal[loss.output], spec.dtype, rng)
    check_feeds(specs, found)
    return found


def _sources(contract: Contract, primal: Values) -> tuple[str, ...]:
    """Outputs of the original that the results are derivatives of, or of a scalar of."""
    if loss := parse(contract.loss_of, primal):
        return (loss.output,)
    return tuple(name for name in contract.outputs if name in primal) or tuple(primal)


def _known(contract: Contract, original: ir.Model, feeds: Values) -> Values:
    """Variables whose value needs no evaluation, in float64."""
    known = {name: feeds[name] for name in contract.wrt if name in feeds}
    produced = {v.name: v for node in original.graph for v in node.outputs}
    for name in contract.wrt:
        value = original.graph.initializers.get(name, produced.get(name))
        tensor = None if value is None else ir.convenience.get_const_tensor(value)
        if name not in known and tensor is not None:
            known[name] = tensor.numpy()
    return {name: array.astype(np.float64) for name, array in known.items()}


def _constant(model: ir.Model, name: str) -> Array:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


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
