"""Loop: run once more for a tape of its states, and then differentiated as a Scan over the tape.

How often a Loop turns is known when it has run. So its tangent is a Scan, which is what transposes
and what runs over several directions; the condition is piecewise constant. A state that every turn
gives as it found it (some exporters pass weights so) is no state.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import onnx_ir as ir

from onnxjvp.graph.bodies import leading_to, reads, there
from onnxjvp.graph.loops import Turn, Turns, enter
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.parameters import is_float
from onnxjvp.graph.regions import Region, captured
from onnxjvp.graph.scans import Step, Track
from onnxjvp.passes.branches import listed, or_zeros, to_keep, unrepeatable
from onnxjvp.passes.linearize import FLOWS, Flow, Liveness, analyse_nodes
from onnxjvp.passes.scans import Inside, linearized
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import pushed

# -- what flows --------------------------------------------------------------------------------


def flow(region: Region, live: Set[int]) -> Flow:
    """Which states and which slices of the results depend on what is live."""
    turns = Turns.of(region.node)
    reasons = list(unrepeatable(turns.body))
    read = _inside(region, turns)
    if any(v.dtype is None or v.shape is None for v in (*read[2:], *turns.body.outputs)):
        reasons.append("the types of its values are not known")
    wrt, found = _settled(region, turns, live)
    reasons += listed(found.refused)
    reached = [
        output
        for i, (output, end) in enumerate(zip(region.outputs, turns.body.outputs[1:], strict=True))
        if (2 + i in wrt if i < turns.states else end in found.live) and output.name
    ]
    reason = f"in its body: {'; '.join(reasons)}" if reasons else None
    return Flow(tuple(reached), found.cuts, reason)


FLOWS["Loop"] = flow


def _settled(region: Region, turns: Turns, live: Set[int]) -> tuple[set[int], Liveness]:
    """The operands that become live in some turn, and what is live inside then."""
    read, wrt = _inside(region, turns), set(live)
    while True:
        values = [read[i] for i in sorted(wrt)]
        found = analyse_nodes(turns.body, values, turns.body.outputs, to_keep(read, values))
        ends = turns.body.outputs[1 : 1 + turns.states]
        more = {2 + i for i, v in enumerate(ends) if v in found.live and is_float(v)}
        if more <= wrt:
            return wrt, found
        wrt |= more


def _inside(region: Region, turns: Turns) -> list[ir.Value]:
    """What the body calls the operands of its Loop, and then what it reads of graphs around."""
    return [*turns.body.inputs, *captured(region.node)]


# -- tangents ----------------------------------------------------------------------------------


@pushed("Loop", args=None, source="ONNX Loop-16; a Scan over the tangents of its states")
def tangent(op: Ops, region: Region, tangents: Tangents) -> list[ir.Value | None]:
    return through(op, region, tangents, linearized)[0]


def through(
    op: Ops, region: Region, tangents: Tangents, look: Inside
) -> tuple[list[ir.Value | None], list[ir.Value]]:
    """As `through` of scans.py: a Scan over the turns that a tape has kept."""
    turns, step = Turns.of(region.node), Step(op)
    live = {i for i, t in enumerate(tangents) if t is not None}
    wrt = sorted(_settled(region, turns, live)[0])
    names = _inside(region, turns)
    moving = [2 + i for i in range(turns.states) if not turns.is_kept(i)]
    values: dict[ir.Value, ir.Value] = {}
    for i, (name, actual) in enumerate(zip(names, region.inputs, strict=True)):
        if i < 2 or i in moving:
            values[name] = step.seed(name, linear=False)  # what the tape will hold
        elif actual is not None:
            values[name] = step.read(actual)
    chosen = [values[names[i]] for i in wrt]
    assert len(set(chosen)) == len(chosen), "a value is read under two names"
    keep = to_keep(list(values.values()), chosen)
    step.local.update(chosen)
    primal = step.copy(turns.body, values)
    seeds, found, more = look(step, chosen, primal, keep, values)
    states = [i for i in wrt if i in moving]
    for i, seed in zip(wrt, seeds, strict=True):
        start = tangents[i] if i in live else or_zeros(op, None, there(region.inputs[i]))
        if i in moving:
            step.state(there(start), seed)
        else:
            step.invariant(there(start), seed)
    outs = found[1:]
    following = [or_zeros(step, outs[i - 2], primal[i - 1]) for i in states]
    given = [
        j
        for j in range(turns.states, len(region.outputs))
        if outs[j] is not None and region.outputs[j].name
    ]
    ends = [*((there(outs[j]), Track()) for j in given), *((v, Track()) for v in more)]
    _play(op, region, turns, step, values, [*following, *(v for v, _ in ends)])
    results = list(step.finish(following, ends))
    made = dict(zip([*(i - 2 for i in states), *given], results, strict=False))
    others = results[len(made) :]
    made.update((i - 2, there(tangents[i])) for i in live - {*moving} if i < 2 + turns.states)
    return [made.get(j) for j in range(len(region.outputs))], others


def _play(
    op: Ops,
    region: Region,
    turns: Turns,
    step: Step,
    values: dict[ir.Value, ir.Value],
    outs: Sequence[ir.Value],
) -> None:
    """Give a step slices of a tape of what it reads; the tape's length is the number of turns."""
    ends = [*outs, *step.sources(outs)]
    read = {v for node in leading_to(step.nodes, ends) for v in reads(node)}
    names = _inside(region, turns)
    turn = Turn(op, *region.inputs[:2])
    here = {names[0]: turn.number, names[1]: turn.condition}
    for i, (name, actual) in enumerate(zip(names, region.inputs, strict=True)):
        if i >= 2 and actual is not None:
            here[name] = enter(turn, turns, i, actual)
    wanted = [
        name
        for i, name in enumerate(names[: 2 + turns.states])
        if i == 0 or (values[name] in read and not (i >= 2 and turns.is_kept(i - 2)))
    ]
    before = [here[name] for name in wanted]
    following = turn.copy(turns.body, here)[: 1 + turns.states]
    tape = turn.finish(following, [(v, Track()) for v in before])[turns.states :]
    for name, whole in zip(wanted, tape, strict=True):
        step.slice(whole, Track(), values[name])
