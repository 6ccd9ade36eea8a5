"""If: the derivative of the branch that is taken.

The condition is piecewise constant. The tangent of an If is an If with the same condition, whose
bodies hold the branch once more, for its residuals, and then its tangent; the branch that is not
taken is never run, so that what is undefined in it does no harm. It is linear in the tangents that
the bodies read, its transpose is the If of the transposed bodies, and over several directions it is
the If of bodies over several directions. A branch that does not reach what the other one reaches
gives zeros there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph import dims
from onnxjvp.graph.bodies import REBUILT, Body, Operands, inside, record
from onnxjvp.graph.branches import BRANCHES, bodies, bodies_of
from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region, captured
from onnxjvp.graph.shapes import constant
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.passes.linearize import (
    FLOWS,
    Flow,
    analyse_nodes,
    linearize_nodes,
    program_of,
)
from onnxjvp.passes.transpose import transpose
from onnxjvp.rules.kinds import RefusedError, Tangents
from onnxjvp.rules.leading import apply, leading
from onnxjvp.rules.registry import pushed
from onnxjvp.rules.transposes.table import Cotangents, jointly, linear_operands

#: operators that give other numbers when they are run once more
RANDOM = frozenset({"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"}) | {
    "RandomUniform",
    "RandomUniformLike",
}

# -- what flows --------------------------------------------------------------------------------


def flow(region: Region, live: Set[int]) -> Flow:
    """Which outputs of an If have a derivative in its live operands, in either branch."""
    reached: dict[ir.Value, None] = {}
    cuts: list[str] = []
    reasons: list[str] = []
    for name, body in zip(BRANCHES, bodies(region.node), strict=True):
        read = inside(region.node, body)
        wrt = [read[i - 1] for i in sorted(live)]
        found = analyse_nodes(body, wrt, body.outputs, to_keep(read, wrt))
        cuts += found.cuts
        reasons += listed(found.refused)
        reasons += unrepeatable(body)
        for output, end in zip(region.outputs, body.outputs, strict=True):
            if end not in found.live or not output.name:
                continue
            reached[output] = None
            if end.shape is None or output.shape is None or len(end.shape) != len(output.shape):
                reasons.append(f"the rank of {end.name!r} in {name} is not that of {output.name!r}")
    return Flow(
        tuple(reached), tuple(cuts), f"in its branches: {'; '.join(reasons)}" if reasons else None
    )


FLOWS["If"] = flow


def listed(refused: Iterable[tuple[str, str, str]]) -> list[str]:
    return [f"{op_type} (node {name!r}): {why}" for name, op_type, why in refused]


def to_keep(read: Iterable[ir.Value], wrt: Sequence[ir.Value]) -> list[ir.Value]:
    """Values of the graph around that are no part of a region inside; constants can be."""
    return [*wrt, *(v for v in read if constant(v) is None)]


def unrepeatable(body: ir.Graph) -> Iterator[str]:
    """What keeps a body from being run once more beside itself."""
    for node in body.all_nodes():
        if node.op_type in RANDOM or (node.op_type == "Dropout" and _in_training(node)):
            yield f"{node.op_type} (node {node.name!r}): it draws random numbers"
    yield from _bound(body, set())


def _bound(body: ir.Graph, around: Set[ir.Value]) -> Iterator[str]:
    """Loops whose bodies read what the branch, or the graph around it, computes."""
    around = around | {*body.initializers.values()}
    for node in body:
        if node.op_type in REBUILT and not node.domain:
            for inner in bodies_of(node):
                yield from _bound(inner, around)
        elif any(v.producer() or v in around or constant(v) is None for v in captured(node)):
            yield f"{node.op_type} (node {node.name!r}): its body reads values around it"


def _in_training(dropout: ir.Node) -> bool:
    if len(dropout.inputs) < 3 or dropout.inputs[2] is None:
        return False
    mode = constant(dropout.inputs[2])
    return mode is None or bool(mode.any())


# -- tangents ----------------------------------------------------------------------------------


@pushed("If", args=None, source="ONNX If-16; piecewise: the derivative of the branch taken")
def tangent(op: Ops, region: Region, tangents: Tangents) -> list[ir.Value | None]:
    operands, found = Operands(), []
    flowing = [(i, operands.add(t)) for i, t in enumerate(tangents[1:]) if t is not None]
    for body in bodies(region.node):
        arm = Body(op, operands)
        read = inside(region.node, body)
        values = {
            v: arm.read(x) for v, x in zip(read, region.inputs[1:], strict=True) if x is not None
        }
        wrt = [values[read[i]] for i, _ in flowing]
        assert len(set(wrt)) == len(wrt), "a value is read under two names"
        keep = to_keep(list(values.values()), wrt)
        primal = arm.copy(body, values)
        # nodes in no graph have no outputs of it, which do not disappear inside a region either
        program, _, refused = linearize_nodes(list(arm.nodes), arm, wrt, primal, [*keep, *primal])
        if refused:
            raise RefusedError(f"in its branches: {'; '.join(listed(refused))}")
        arm.inputs.update(zip((k for _, k in flowing), program.seeds, strict=True))
        found.append((arm, primal, program.outs))
    reached = [
        j
        for j in range(len(region.outputs))
        if region.outputs[j].name and any(outs[j] is not None for _, _, outs in found)
    ]
    if not reached:
        return []
    arms = [
        (arm, [or_zeros(arm, outs[j], primal[j]) for j in reached]) for arm, primal, outs in found
    ]
    made = dict(zip(reached, record(op, region.inputs[0], arms), strict=True))
    return [made.get(j) for j in range(len(region.outputs))]


def or_zeros(op: Ops, value: ir.Value | None, like: ir.Value) -> ir.Value:
    if value is not None:
        return value
    if dims.static(like) is not None:
        return op.zeros_like(like)
    try:  # nothing need be computed for its shape alone
        size = op.as_tensor(dims.of(like))
    except UnknownTypeError:
        size = op.shape_of(like)
    out = op.zeros(like.dtype, size)
    out.shape = like.shape
    return out


# -- the transpose -----------------------------------------------------------------------------


@jointly("If")
def transposed(op: Ops, node: ir.Node, cotangents: Cotangents) -> dict[int, ir.Value]:
    operands, found = Operands(), []
    linear = linear_operands(op, node)
    flowing = {
        i: operands.add(op.expand_to(ct, node.outputs[i]))
        for i, ct in enumerate(cotangents)
        if ct is not None
    }
    for body in bodies(node):
        arm = Body(op, operands)
        values = {}
        for k, (name, actual) in enumerate(zip(body.inputs, node.inputs[1:], strict=True), start=1):
            assert actual is not None
            values[name] = arm.seed(name) if k in linear else arm.read(actual)
        seeds = [values[body.inputs[k - 1]] for k in linear]
        ends = [v if v in arm.linear else None for v in arm.copy(body, values)]
        program = program_of(arm, seeds, [ends[i] for i in flowing])
        try:
            backwards = transpose(arm, program)
        except UnsupportedOpError as error:
            raise UnknownTypeError(
                "; ".join(f"{kind}: {why}" for _, kind, why in error.nodes)
            ) from error
        live = [k for i, k in flowing.items() if ends[i] is not None]
        arm.inputs.update(zip(live, backwards.seeds, strict=True))
        found.append((arm, seeds, backwards.outs))
    reached = [j for j in range(len(linear)) if any(outs[j] is not None for _, _, outs in found)]
    if not reached:
        return {}
    arms = [
        (arm, [or_zeros(arm, outs[j], seeds[j]) for j in reached]) for arm, seeds, outs in found
    ]
    return dict(zip((linear[j] for j in reached), record(op, node.inputs[0], arms), strict=True))


# -- many directions ---------------------------------------------------------------------------


@leading("If")
def over_stacks(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    condition = operands[0]
    if isinstance(condition, Stacked):
        return None  # every lane goes its own way
    shared, arms = Operands(), []
    for body in bodies(node):
        arm = Body(lanes.op, shared)
        size = None if isinstance(lanes.count, int) else arm.read(lanes.size)
        inner = Lanes(arm, lanes.count, size)
        stacks: dict[ir.Value, Stacked] = {}
        values: dict[ir.Value, ir.Value] = {}
        for name, operand in zip(inside(node, body), operands[1:], strict=False):
            if isinstance(operand, Stacked):
                stacks[name] = Stacked(name, unfolded=arm.read(lanes.unfold(operand)))
            elif operand is not None:
                values[name] = arm.read(operand)
        arms.append((arm, over_lanes(inner, arm, body, stacks, values)))
    outputs = record(lanes.op, condition, arms)
    return [lanes.unfolded(y, out) for y, out in zip(node.outputs, outputs, strict=True)]


def over_lanes(
    lanes: Lanes,
    arm: Body,
    body: ir.Graph,
    stacks: dict[ir.Value, Stacked],
    values: dict[ir.Value, ir.Value],
) -> list[ir.Value]:
    """The outputs of a body over all lanes, [K, *shape]; what no stack enters runs once."""
    for node in body:
        if any(v in stacks for v in node.inputs if v is not None):
            read: list[Operand] = [
                None if v is None else stacks.get(v) or values.get(v, v) for v in node.inputs
            ]
            try:
                stacks.update(zip(node.outputs, apply(lanes, node, read), strict=True))
            except RefusedError as error:
                raise RefusedError(f"in its branches: {node.op_type}: {error}") from error
        else:
            arm.copy_node(node, values)
    ends = []
    for end in body.outputs:
        stack = stacks.get(end) or lanes.repeat(values.get(end, end))
        ends.append(lanes.unfold(stack))
    return ends
