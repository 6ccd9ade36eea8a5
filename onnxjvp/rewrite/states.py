"""What a linearisation holds, as outputs: the code of the region of x, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.passes.linearize import analyse, push_along, refuse
from onnxjvp.passes.states import Found, State, boundaries_of, states_of
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.task import Task


def add_states(task: Task, reading: Mapping[ir.Value, ir.Value] | None = None) -> dict[str, Any]:
    """An output NODE_state for every node that compares, on a path to the outputs.

    Args:
      task: whose outputs have been chosen.
      reading: values that stand for those of the model.
    Returns: what the report says of them.
    Raises: UnsupportedOpError for nodes of which nobody knows what they compare; UsageError where
      none compares.
    """
    liveness = analyse(task.source, task.variables, task.outputs)
    found = states_of(task.op, liveness, task.variables, task.outputs, reading or {})
    _refuse_unknown(found)
    if not found.states:
        raise UsageError(
            "the model compares nothing on the way to these outputs, so there is no state to give "
            "out; leave --emit-states (states=True) out"
        )
    named = [(state, _code(task, state)) for state in found.states]
    task.name_states({state.node: output for state, output in named})
    return {"comparisons": [_described(state, output) for state, output in named]}


def boundaries(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    first_order: bool = False,
    links: Path | None = None,
) -> Rewritten:
    """A model that computes f(x), the code of the region of x, and where the region ends along u.

    Args:
      model, wrt, links: as for `jvp`.
      outputs: names of outputs, of any type; None means all that have a derivative, or all.
      first_order: let comparisons through whose operands are not affine; rates are then those of
        their tangents, and boundaries estimates.
    Returns:
      A model with an input `x_u` per variable and, per node that compares, outputs NODE_state (an
      element per unit), NODE_margin (at least 0, in units of what is compared) and NODE_rate (the
      same, along u): along x + t u a comparison changes at t = margin / −rate where the rate is
      negative. `report["comparisons"]` lists them in the order of the graph, `report["smooth"]` the
      smooth nodes on the way.
    Raises: as `jvp`; UnsupportedOpError for smooth nodes that a comparison depends on, and for
      nodes of which nobody knows what they compare.
    Cost: about 2 forward passes, and the memory of two activations for every comparison.
    Source: Balestriero & Baraniuk 2021, §2: regions are where no state changes.
    """
    task = Task(model, wrt, outputs, links=links)
    task.leave_out_rounded()
    liveness = analyse(task.source, task.variables, task.outputs)
    refuse(liveness.refused, task.variables)
    if outputs is None and any(v in liveness.live for v in task.outputs):
        task.keep_differentiable(liveness)
    liveness = analyse(task.source, task.variables, task.outputs)
    op = task.op
    seeds = [op.seed(v) for v in task.variables]
    tangents = dict(zip(task.variables, seeds, strict=True))
    refuse(push_along(op, liveness, tangents, {}), task.variables)
    found = boundaries_of(op, liveness, task.variables, task.outputs, tangents)
    _refuse_unknown(found)
    if not first_order:
        _refuse_bent(found)
    task.add_seeds(seeds)
    described = []
    for state in found.states:
        assert state.sides is not None
        more = _described(state, _code(task, state))
        for kind, value in zip(("margin", "rate"), state.sides, strict=True):
            more[kind] = task.fresh(f"{state.node}_{kind}")
            task.add_output(more[kind], value)
        described.append({**more, "rivals": state.rivals, "after": list(state.after)})
    return task.finish(
        "boundaries",
        layout="tangent",
        method="tangent",
        directions=None,
        comparisons=described,
        smooth=found.smooth,
    )


def _code(task: Task, state: State) -> str:
    name = task.fresh(f"{state.node}_state")
    task.add_output(name, state.code)
    return name


def _described(state: State, output: str) -> dict[str, Any]:
    return {"node": state.node, "operator": state.operator, "output": output}


def _refuse_unknown(found: Found) -> None:
    if found.refused:
        lines = "\n".join(f"  {op} (node {name!r}): {why}" for name, op, why in found.refused)
        raise UnsupportedOpError(
            f"the regions of {len(found.refused)} node(s) cannot be told:\n{lines}\n"
            "Choose other outputs with --outputs, or leave inputs out with --wrt",
            tuple(found.refused),
        )


def _refuse_bent(found: Found) -> None:
    """Comparisons behind smooth nodes are not met where a straight line says."""
    bent = [state for state in found.states if state.after]
    if not bent:
        return
    sources = list(dict.fromkeys(name for state in bent for name in state.after))
    first = ", ".join(f"{state.node} ({state.operator})" for state in bent[:5])
    more = f" and {len(bent) - 5} more" if len(bent) > 5 else ""
    raise UnsupportedOpError(
        f"the network is not piecewise affine: {first}{more} compare what comes from "
        f"{', '.join(sources)}. Choose other outputs with --outputs, or take boundaries of the "
        "first-order expansion with --first-order",
        tuple((state.node, state.operator, "behind a smooth node") for state in bent),
    )
