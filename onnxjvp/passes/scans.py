"""Scan: the derivative of a recurrence is a recurrence, linear in states of its own.

The tangent of a Scan is a Scan over its tangents' states. Each step runs the step of the original
once more, for its residuals, on the states that a first Scan (the tape) has kept; so the second one
is linear in all its states. The transpose takes the same slices from the other end, over the
transposed step, and adds up what flows to values that every step reads. Over several directions
states and slices have a leading axis, inside the body and around it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph.bodies import Outs, leading_to, reads, there
from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region, captured
from onnxjvp.graph.scans import Step, Steps, Track, enter, sized_like
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.passes.branches import listed, or_zeros, over_lanes, to_keep, unrepeatable
from onnxjvp.passes.linearize import (
    FLOWS,
    Flow,
    Liveness,
    analyse_nodes,
    linearize_nodes,
    program_of,
)
from onnxjvp.passes.transpose import transpose
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.leading import leading
from onnxjvp.rules.registry import pushed
from onnxjvp.rules.transposes.table import Cotangents, jointly, linear_operands

#: an end beyond every size, for Slice
LAST = np.iinfo(np.int64).max

# -- what flows --------------------------------------------------------------------------------


def flow(region: Region, live: Set[int]) -> Flow:
    """Which states and which slices of the results depend on what is live."""
    steps = Steps.of(region.node)
    reasons = list(unrepeatable(steps.body))
    if any(v.dtype is None or v.shape is None for v in steps.body.outputs):
        reasons.append("the types of its results are not known")
    states, found = _settled(region, steps, live)
    reasons += listed(found.refused)
    ends = zip(region.outputs, steps.body.outputs, strict=True)
    reached = [
        output
        for i, (output, end) in enumerate(ends)
        if (i in states if i < steps.states else end in found.live) and output.name
    ]
    reason = f"in its body: {'; '.join(reasons)}" if reasons else None
    return Flow(tuple(reached), found.cuts, reason)


FLOWS["Scan"] = flow


def _settled(region: Region, steps: Steps, live: Set[int]) -> tuple[set[int], Liveness]:
    """The states that become live in some step, and what is live inside then."""
    read = _inside(region, steps)
    states = {i for i in live if i < steps.states}
    while True:
        wrt = [read[i] for i in sorted(states | set(live))]
        found = analyse_nodes(steps.body, wrt, steps.body.outputs, to_keep(read, wrt))
        more = {i for i, v in enumerate(steps.body.outputs[: steps.states]) if v in found.live}
        if more <= states:
            return states, found
        states |= more


def _inside(region: Region, steps: Steps) -> list[ir.Value]:
    """What the body calls the operands of its Scan, and then what it reads of graphs around."""
    return [*steps.body.inputs, *captured(region.node)]


# -- tangents ----------------------------------------------------------------------------------


#: of a body, given the builder that it has been copied into, what is live there, what it ends in,
#: what no region may swallow, and what stands for its values: seeds for what is live, tangents of
#: the ends, and what else every step is to give out
Inside = Callable[
    [Ops, Sequence[ir.Value], Outs, Sequence[ir.Value], Mapping[ir.Value, ir.Value]],
    tuple[Sequence[ir.Value], Sequence[ir.Value | None], Outs],
]


@pushed("Scan", args=None, source="ONNX Scan-16; a Scan over the tangents of its states")
def tangent(op: Ops, region: Region, tangents: Tangents) -> list[ir.Value | None]:
    return through(op, region, tangents, linearized)[0]


def linearized(
    step: Ops,
    wrt: Sequence[ir.Value],
    primal: Outs,
    keep: Sequence[ir.Value],
    values: Mapping[ir.Value, ir.Value],
) -> tuple[Sequence[ir.Value], Sequence[ir.Value | None], Outs]:
    """The tangents of a body's results, and nothing else."""
    program, _, refused = linearize_nodes(list(step.nodes), step, wrt, primal, [*keep, *primal])
    if refused:
        raise RefusedError(f"in its body: {'; '.join(listed(refused))}")
    return program.seeds, program.outs, []


def through(
    op: Ops, region: Region, tangents: Tangents, look: Inside
) -> tuple[list[ir.Value | None], list[ir.Value]]:
    """A Scan over the tangents of the states: tangents of the outputs, and what else is given."""
    steps = Steps.of(region.node)
    live = {i for i, t in enumerate(tangents) if t is not None}
    states, _ = _settled(region, steps, live)
    names, step = _inside(region, steps), Step(op)
    values: dict[ir.Value, ir.Value] = {}
    kept: dict[int, ir.Value] = {}  # what a step finds of the states, which the tape will hold
    for i, (name, actual) in enumerate(zip(names, region.inputs, strict=True)):
        if i < steps.states:
            values[name] = kept[i] = step.seed(name, linear=False)
        elif actual is not None:
            values[name] = enter(step, steps, i, actual)
    wrt = [values[names[i]] for i in sorted(states | live)]
    assert len(set(wrt)) == len(wrt), "a value is read under two names"
    keep = to_keep(list(values.values()), wrt)
    step.local.update(wrt)
    primal = step.copy(steps.body, values)
    seeds, outs, more = look(step, wrt, primal, keep, values)
    for i, seed in zip(sorted(states | live), seeds, strict=True):
        actual = tangents[i] if i in live else or_zeros(op, None, like=there(region.inputs[i]))
        enter(step, steps, i, there(actual), seed)
    following = [or_zeros(step, outs[i], primal[i]) for i in sorted(states)]
    reached = [
        j
        for j in range(steps.states, len(region.outputs))
        if outs[j] is not None and region.outputs[j].name
    ]
    given = [(there(outs[j]), steps.given[j - steps.states]) for j in reached]
    given += [(v, Track()) for v in more]
    _play(op, region, steps, step, kept, [*following, *(v for v, _ in given)])
    found = list(step.finish(following, given))
    made = dict(zip([*sorted(states), *reached], found, strict=False))
    return [made.get(j) for j in range(len(region.outputs))], found[len(made) :]


def _play(
    op: Ops,
    region: Region,
    steps: Steps,
    step: Step,
    kept: dict[int, ir.Value],
    outs: Sequence[ir.Value],
) -> None:
    """Give a step slices of a tape of the states that it reads."""
    ends = [*outs, *step.sources(outs)]
    read = {v for node in leading_to(step.nodes, ends) for v in reads(node)}
    wanted = [i for i, v in kept.items() if v in read]
    tape = _tape(op, region, steps, wanted)
    for i, (whole, track) in zip(wanted, tape, strict=True):
        step.slice(whole, track, kept[i])


def _tape(
    op: Ops, region: Region, steps: Steps, wanted: Sequence[int]
) -> list[tuple[ir.Value, Track]]:
    """What every step finds of some states."""
    found = {i: _given_out(op, region, steps, i) for i in wanted}
    missing = [i for i in wanted if found[i] is None]
    if missing:
        step = Step(op)
        values = {
            name: enter(step, steps, i, actual)
            for i, (name, actual) in enumerate(
                zip(_inside(region, steps), region.inputs, strict=True)
            )
            if actual is not None
        }
        before = [values[steps.body.inputs[i]] for i in missing]
        outs = step.copy(steps.body, values)
        made = step.finish(outs[: steps.states], [(v, Track()) for v in before])
        found.update((i, (v, Track())) for i, v in zip(missing, made[steps.states :], strict=True))
    return [whole for i in wanted if (whole := found[i]) is not None]


def _given_out(op: Ops, region: Region, steps: Steps, index: int) -> tuple[ir.Value, Track] | None:
    """What every step finds of a state that the Scan gives out after every step.

    That is its first value, and then all but the last of those given out.
    """
    state = _copied(steps.body.outputs[index])
    ends = zip(region.outputs, steps.body.outputs, strict=True)
    for (output, end), track in zip(list(ends)[steps.states :], steps.given, strict=True):
        if _copied(end) is not state or not output.name:
            continue
        at = op.ints([track.axis])
        start = op.unsqueeze(region.operand(index), track.axis)
        if track.backwards:
            rest = op.Slice(output, op.ints([1]), op.ints([LAST]), at)
            parts = [rest, start]
        else:
            rest = op.Slice(output, op.ints([0]), op.ints([-1]), at)
            parts = [start, rest]
        whole = op.Concat(*parts, axis=track.axis)
        whole.shape = output.shape
        return whole, track
    return None


def _copied(value: ir.Value) -> ir.Value:
    """What a value is a copy of."""
    made = value.producer()
    while made is not None and made.op_type == "Identity":
        value = there(made.inputs[0])
        made = value.producer()
    return value


# -- the transpose -----------------------------------------------------------------------------


@jointly("Scan")
def transposed(op: Ops, node: ir.Node, cotangents: Cotangents) -> dict[int, ir.Value]:
    """The steps from the last to the first. What every step reads gets a sum over all of them."""
    steps, step = Steps.of(node), Step(op)
    linear = linear_operands(op, node)
    inner = sorted({*range(steps.states), *linear})  # where a tangent flows, every state has one
    values: dict[ir.Value, ir.Value] = {}
    for i, (name, actual) in enumerate(zip(steps.body.inputs, node.inputs, strict=True)):
        if i in inner:
            values[name] = step.seed(name)
        elif i < steps.states + len(steps.taken):
            inside = step.slice(there(actual), _turned(steps.taken[i - steps.states]))
            values[name] = sized_like(inside, name)
        else:
            values[name] = step.read(there(actual))
    seeds = [values[steps.body.inputs[i]] for i in inner]
    ends = [v if v in step.linear else None for v in step.copy(steps.body, values)]
    flowing = [
        j
        for j, end in enumerate(ends)
        if end is not None and (j < steps.states or cotangents[j] is not None)
    ]
    try:
        backwards = transpose(step, program_of(step, seeds, [ends[j] for j in flowing]))
    except UnsupportedOpError as error:
        raise UnknownTypeError("; ".join(f"{k}: {why}" for _, k, why in error.nodes)) from error
    pulled = dict(zip(inner, zip(seeds, backwards.outs, strict=True), strict=True))
    named = dict(zip(flowing, backwards.seeds, strict=True))
    for j, (ct, output) in enumerate(zip(cotangents, node.outputs, strict=True)):
        full = None if ct is None else op.expand_to(ct, output)
        if j < steps.states:
            step.state(or_zeros(op, full, output), named.get(j))
        elif j in named:
            step.slice(there(full), _turned(steps.given[j - steps.states]), named[j])
    return _summed(op, node, steps, step, pulled)


def _summed(
    op: Ops,
    node: ir.Node,
    steps: Steps,
    step: Step,
    pulled: dict[int, tuple[ir.Value, ir.Value | None]],
) -> dict[int, ir.Value]:
    """The Scan of a transposed step, and which of its results is whose cotangent."""
    following = [or_zeros(step, pulled[j][1], pulled[j][0]) for j in range(steps.states)]
    owners, given = list(range(steps.states)), []
    for i, (seed, ct) in pulled.items():
        if i < steps.states or ct is None:
            continue
        if i < steps.states + len(steps.taken):
            given.append((i, (ct, _turned(steps.taken[i - steps.states]))))
        else:
            total = step.state(or_zeros(op, None, there(node.inputs[i])), seed)
            following.append(step.Add(total, ct))
            owners.append(i)
    made = step.finish(following, [end for _, end in given])
    found = dict(zip([*owners, *(i for i, _ in given)], made, strict=True))
    return {i: ct for i, ct in found.items() if node.inputs[i] in op.linear}


def _turned(track: Track) -> Track:
    return Track(track.axis, not track.backwards)


# -- many directions ---------------------------------------------------------------------------


@leading("Scan")
def over_stacks(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    steps, step = Steps.of(node), Step(lanes.op)
    size = None if isinstance(lanes.count, int) else step.read(lanes.size)
    inner = Lanes(step, lanes.count, size)
    stacks: dict[ir.Value, Stacked] = {}
    values: dict[ir.Value, ir.Value] = {}
    # every state may differ by lane after a step
    first = [
        v if isinstance(v, Stacked) else lanes.repeat(there(v)) for v in operands[: steps.states]
    ]
    entering = zip(steps.body.inputs, [*first, *operands[steps.states :]], strict=True)
    for i, (name, operand) in enumerate(entering):
        if not isinstance(operand, Stacked):
            values[name] = enter(step, steps, i, there(operand))
            continue
        whole = lanes.unfold(operand)
        if steps.states <= i < steps.states + len(steps.taken):
            inside = step.slice(whole, _behind(steps.taken[i - steps.states]))
        else:
            inside = enter(step, steps, i, whole)
        inside.shape = ir.Shape(inner.unfolded_dims(name))
        stacks[name] = Stacked(name, unfolded=inside)
    ends = over_lanes(inner, step, steps.body, stacks, values)
    given = zip(ends[steps.states :], map(_behind, steps.given), strict=True)
    outputs = step.finish(ends[: steps.states], list(given))
    return [lanes.unfolded(y, out) for y, out in zip(node.outputs, outputs, strict=True)]


def _behind(track: Track) -> Track:
    """The same axis behind that of the lanes."""
    return Track(track.axis + 1, track.backwards)
