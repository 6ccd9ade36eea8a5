"""Linearise a model at its inputs into an explicit linear program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace

import onnx_ir as ir

import onnxjvp.rules  # noqa: F401  (fills the table of rules)
from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims, UnknownTypeError
from onnxjvp.graph.fixed import fix
from onnxjvp.graph.functions import NoBodyError, record_body, traced
from onnxjvp.graph.load import Source
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import FLOOR
from onnxjvp.graph.parameters import is_float
from onnxjvp.graph.regions import Region, regions
from onnxjvp.graph.sequences import WHY
from onnxjvp.graph.shapes import MISFITS, Shapes, misfit, opset_behind
from onnxjvp.passes.straight import REMEDY, as_reals, carriers, is_bypassed, refusal
from onnxjvp.rules.kinds import (
    Function,
    Linear,
    RefusedError,
    StraightThrough,
    Tangents,
    Zero,
    uncovered,
)
from onnxjvp.rules.refusals import REASONS
from onnxjvp.rules.registry import RULES, held_operands, rule_for, tangents_of


@dataclass(frozen=True)
class Liveness:
    """What depends on the variables and matters to the outputs."""

    regions: tuple[Region, ...]  # every region of the graph that the outputs need, in order
    live: frozenset[ir.Value]
    cuts: tuple[str, ...]  # nodes at which a live path ends in a derivative of zero
    expanded: tuple[str, ...]  # nodes that are differentiated through their bodies
    refused: tuple[tuple[str, str, str], ...]  # (node, operator, reason)
    _refused_regions: frozenset[Region]

    def is_hopeless(self, region: Region) -> bool:
        """Refused, or fed by a refused node whose type nobody knows: not worth a rule."""
        if region in self._refused_regions:
            return True
        known = (v is None or (v.dtype is not None and v.shape is not None) for v in region.inputs)
        return bool(self._refused_regions) and not all(known)


@dataclass(frozen=True)
class Flow:
    """What becomes of derivatives inside the bodies of a region."""

    live: tuple[ir.Value, ...]  # the region's outputs that have a derivative
    cuts: tuple[str, ...]
    refusal: str | None


#: operator → how derivatives flow from its live operands through its bodies
FLOWS: dict[str, Callable[[Region, Set[int]], Flow]] = {}


@dataclass
class Program:
    """A linear map from seeds to outs, as detached nodes.

    A node of `nodes` is linear in its operands that are in `linear`; its other operands are primal
    values or results of `residuals`, which depend on the primal alone. Both hold what the outs need
    and nothing else.
    """

    seeds: list[ir.Value]
    outs: list[ir.Value | None]  # None: zero
    nodes: list[ir.Node]
    residuals: list[ir.Node]
    linear: set[ir.Value]
    #: program value → the value of the model that it is the tangent of, or is made for
    tangent_of: dict[ir.Value, ir.Value] = field(default_factory=dict)


def program_of(op: Ops, seeds: Sequence[ir.Value], outs: Sequence[ir.Value | None]) -> Program:
    """The recorded nodes that lead from seeds to outs, sorted into linear ones and residuals."""
    needed = {v for v in outs if v is not None}
    kept = []
    for node in reversed(op.nodes):
        if any(v in needed for v in node.outputs):
            needed.update(v for v in node.inputs if v is not None)
            kept.append(node)
    kept.reverse()
    linear = [n for n in kept if any(v in op.linear for v in n.outputs)]
    residuals = [n for n in kept if not any(v in op.linear for v in n.outputs)]
    return Program(list(seeds), list(outs), linear, residuals, op.linear)


def replay(op: Ops, program: Program, seeds: Sequence[ir.Value]) -> list[ir.Value | None]:
    """The program's map applied to other seeds, sharing its residuals."""
    values = dict(zip(program.seeds, seeds, strict=True))
    for node in program.nodes:
        outputs = op.like(node, [v if v is None else values.get(v, v) for v in node.inputs])
        for old, new in zip(node.outputs, outputs, strict=True):
            new.shape = old.shape
            values[old] = new
    return [None if v is None else values[v] for v in program.outs]


def live_inputs(region: Region, live: Set[ir.Value]) -> set[int]:
    """The operands that a derivative flows in through."""
    rule = rule_for(region)
    ignored = {*(rule.ignores if isinstance(rule, Linear) else ()), *held_operands(region)}
    return {i for i, v in enumerate(region.inputs) if v in live and i not in ignored}


def _held(region: Region, live: Set[ir.Value]) -> list[str]:
    """Live operands that the node holds: a path is cut there, others may go on."""
    found = sorted(i for i in held_operands(region) if region.input(i) in live)
    label = f"{name_of(region)} ({region.label}"
    return [f"{label}, in operand {region.operand(i).name!r})" for i in found]


def analyse(source: Source, wrt: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> Liveness:
    """Which values have a tangent, and every node on the way that has no rule for it."""
    return analyse_nodes(source.graph, wrt, outputs, wrt)


def analyse_nodes(
    nodes: Iterable[ir.Node],
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    keep: Sequence[ir.Value],
) -> Liveness:
    """`analyse`, of nodes in order; values in `keep` do not disappear inside a region."""
    ordered = _needed(regions(nodes, keep=keep), outputs)
    live: set[ir.Value] = set(wrt)
    cuts, expanded = list[str](), list[str]()
    refused, hopeless = [], []
    wanted = {*outputs, *(v for region in ordered for v in region.inputs if v is not None)}
    for region in ordered:
        inputs = live_inputs(region, live)
        cuts += _held(region, live)
        if not inputs:
            continue
        floats = carriers(region, rule_for(region), inputs)
        bypassed = is_bypassed(region, rule_for(region), wanted)
        reason = None if bypassed else _refusal(region, inputs)
        by_body = isinstance(rule_for(region), Function)
        if reason is None and floats and (by_body or region.label in FLOWS):
            flow = _flow(region, inputs, by_body)
            reason, floats = flow.refusal, list(flow.live)
            cuts += flow.cuts
            if not floats and reason is None:
                continue
        if reason is not None:
            refused.append((name_of(region), region.label, reason))
            hopeless.append(region)
            floats = [v for v in region.outputs if is_float(v) or v.dtype is None]
        if reason is None and (not floats or isinstance(rule_for(region), Zero)):
            if region.label not in ("Shape", "Size"):
                cuts.append(f"{name_of(region)} ({region.label})")
            continue
        live.update(floats)
        if by_body:
            expanded.append(f"{name_of(region)} ({region.label})")
    said = tuple(cuts), tuple(expanded), tuple(refused)
    return Liveness(ordered, frozenset(live), *said, frozenset(hopeless))


def _flow(region: Region, inputs: Set[int], by_body: bool) -> Flow:
    try:
        return (_flow_through_body if by_body else FLOWS[region.label])(region, inputs)
    except MISFITS as error:
        return Flow((), (), misfit(error))


def _needed(every: Sequence[Region], outputs: Sequence[ir.Value]) -> tuple[Region, ...]:
    """The regions that the outputs depend on, in order."""
    needed, kept = set(outputs), []
    for region in reversed(every):
        if any(v in needed for v in region.outputs):
            needed.update(v for v in region.inputs if v is not None)
            needed.update(v for n in region.nodes for v in n.inputs if v is not None)
            kept.append(region)
    return tuple(reversed(kept))


def _refusal(region: Region, inputs: set[int]) -> str | None:
    rule = rule_for(region)
    if (reason := refusal(region, rule, inputs, name_of(region))) is not None:
        return reason
    outputs = [v for v in region.outputs if v.name]
    integers = outputs and all(v.dtype is not None and not is_float(v) for v in outputs)
    if integers and (rule is None or isinstance(rule, Function) or region.label in FLOWS):
        return None  # an operator that yields integers or booleans is piecewise constant
    if rule is None:
        known = region.node.meta.get(WHY) or REASONS.get(region.label)
        return str(known or "it has no derivative rule")
    if isinstance(rule, Zero):
        return None
    missing = uncovered(rule, inputs)
    if missing:
        names = ", ".join(repr(region.operand(i).name) for i in sorted(missing))
        return f"its rule gives no derivative in operand {names}, which depends on the input"
    if isinstance(rule, Linear) and rule.refuse is not None:
        return rule.refuse(region)
    if any(v.dtype is None for v in outputs):
        by_body = _flow_through_body(region, inputs) if isinstance(rule, Function) else None
        known = by_body.refusal if by_body is not None else None
        return known or "the dtype of its output cannot be inferred"
    if any(v.shape is None for v in outputs if is_float(v)):
        return "the rank of its output cannot be inferred"
    for value in region.inputs:
        if value is not None and (value.dtype is None or value.shape is None):
            return f"the type of its operand {value.name!r} cannot be inferred"
    return None


def name_of(region: Region) -> str:
    return region.node.name or region.outputs[0].name or "?"


def refuse(refused: Sequence[tuple[str, str, str]], wrt: Sequence[ir.Value]) -> None:
    """Raise one error for all refused nodes, if there are any."""
    if not refused:
        return
    lines = "\n".join(f"  {op} (node {name!r}): {reason}" for name, op, reason in refused)
    variables = ", ".join(repr(v.name) for v in wrt)
    rounds = any(isinstance(RULES.get(op), StraightThrough) for _, op, _ in refused)
    remedy = f"{REMEDY}. " if rounds else ""
    raise UnsupportedOpError(
        f"{len(refused)} node(s) that depend on {variables} cannot be differentiated:\n{lines}\n"
        f"{remedy}Leave that input out with --wrt, choose other outputs, or add a rule "
        "(docs/adding_an_op.md)",
        tuple(refused),
    )


def linearize(
    source: Source, op: Ops, wrt: Sequence[ir.Value], outputs: Sequence[ir.Value]
) -> tuple[Program, Liveness]:
    """The derivative of `outputs` in `wrt` at the point that the model runs on.

    Raises:
      UnsupportedOpError: nodes on a live path have no rule; all of them are listed.
    Cost: linear in nodes.
    """
    program, liveness, refused = linearize_nodes(source.graph, op, wrt, outputs, wrt)
    refuse(refused, wrt)
    return program, liveness


def linearize_nodes(
    nodes: Iterable[ir.Node],
    op: Ops,
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    keep: Sequence[ir.Value],
) -> tuple[Program, Liveness, list[tuple[str, str, str]]]:
    """`linearize`, of nodes in order; nodes that are refused are returned, not raised."""
    liveness = analyse_nodes(nodes, wrt, outputs, keep)
    seeds = [op.seed(v) for v in wrt]
    tangents: dict[ir.Value, ir.Value] = dict(zip(wrt, seeds, strict=True))
    tangent_of = dict(zip(seeds, wrt, strict=True))
    refused = [*liveness.refused, *push_along(op, liveness, tangents, tangent_of)]
    program = program_of(op, seeds, [tangents.get(v) for v in outputs])
    program.tangent_of.update(tangent_of)
    return program, liveness, refused


def _fix_swallowed(region: Region) -> None:
    """A group of nodes is a function that has its constants inside (the ½ of a Gelu)."""
    for node in region.nodes:
        for value in node.inputs:
            if value is not None and value not in region.inputs and is_float(value):
                fix(value)


def push_along(
    op: Ops,
    liveness: Liveness,
    tangents: dict[ir.Value, ir.Value],
    tangent_of: dict[ir.Value, ir.Value],
) -> list[tuple[str, str, str]]:
    """Fill in the tangents of all that is live, and what they are made for; returns refusals."""
    refused: list[tuple[str, str, str]] = []
    for region in liveness.regions:
        flowing = live_inputs(region, tangents.keys())
        if not flowing:
            continue
        incoming = [
            tangents[v] if v is not None and i in flowing else None
            for i, v in enumerate(region.inputs)
        ]
        start = len(op.nodes)
        if liveness.is_hopeless(region):
            results: Sequence[ir.Value | None] = _placeholders(op, region)
        else:
            try:
                results = push(op, region, incoming)
                _fix_swallowed(region)
            except (RefusedError, UnknownTypeError) as error:
                refused.append((name_of(region), region.label, str(error)))
                results = _placeholders(op, region)
            except MISFITS as error:
                refused.append((name_of(region), region.label, misfit(error)))
                results = _placeholders(op, region)
        for output, tangent in zip(region.outputs, results, strict=True):
            if tangent is None:
                continue
            # a variable inside the model is perturbed on top of what reaches it
            own = tangents.get(output)
            tangents[output] = tangent if own is None else op.Add(tangent, own)
            tangent_of.setdefault(tangents[output], output)
        made = (v for node in op.nodes[start:] for v in node.outputs if v in op.linear)
        tangent_of.update((v, region.outputs[0]) for v in made if v not in tangent_of)
    return refused


def _placeholders(op: Ops, region: Region) -> list[ir.Value | None]:
    """Stand-ins behind a refused node, so that later refusals are found in the same run."""
    ranked = (v if is_float(v) and v.shape is not None else None for v in region.outputs)
    return [None if v is None else op.seed(v) for v in ranked]


def push(op: Ops, region: Region, tangents: Tangents) -> list[ir.Value | None]:
    """Tangents of a region's outputs: the only place where kinds meet tangents."""
    rule = rule_for(region)
    count = len(region.outputs)
    live = {i for i, t in enumerate(tangents) if t is not None}
    carrying = carriers(region, rule, live)
    if not carrying:
        return [None] * count
    assert rule is not None
    if isinstance(rule, Function):
        results = list(_push_through_body(op, region, tangents))
    elif region.op_type in ("Cast", "CastLike") and not any(map(is_float, carrying)):
        results = [tangents[0]]  # from integers to integers
    else:
        results = list(tangents_of(op, rule, as_reals(op, region, rule, live), tangents))
    results += [None] * (count - len(results))
    for i, (output, tangent) in enumerate(zip(region.outputs, results, strict=True)):
        if output not in carrying or not output.name:
            results[i] = None
        elif tangent is not None:
            if tangent.shape is None:
                tangent.shape = output.shape  # its rank could be told from the primal alone
            _check(region, output, tangent)
            tangent.shape = _merged(dims.of(tangent), dims.of(output))
    return results


def _flow_through_body(region: Region, inputs: Set[int]) -> Flow:
    """Which outputs of a function have a derivative, by the rules of the operators in its body."""
    shapes = Shapes({"": opset_behind(region.node) or FLOOR})
    try:
        op, read, outs = traced(region, shapes)
    except (NoBodyError, UnknownTypeError) as error:
        return Flow((), (), str(error))
    for i, (y, end) in enumerate(zip(region.outputs, outs, strict=True)):
        if end is None and y.name and (y.dtype is None or is_float(y)):
            return Flow((), (), f"its output {i} is not defined")
    wrt = list(dict.fromkeys(v for i in sorted(inputs) if (v := read[i]) is not None))
    ends = [v for v in outs if v is not None]
    found = analyse_nodes(op.nodes, wrt, ends, [*wrt, *ends])
    reasons = [f"{label}: {why}" for _, label, why in found.refused]
    reached = [y for y, end in zip(region.outputs, outs, strict=True) if end in found.live]
    why = f"in its body: {'; '.join(reasons)}" if reasons else None
    cuts = () if reached or why else (f"{name_of(region)} ({region.label})",)
    return Flow(tuple(reached), cuts, why)


def _push_through_body(op: Ops, region: Region, tangents: Tangents) -> list[ir.Value | None]:
    """The body once more, for what its rules read, and its tangent; the node stays as it is."""
    inputs, found = list(region.inputs), dict[ir.Value, ir.Value]()
    for i, (value, tangent) in enumerate(zip(region.inputs, tangents, strict=True)):
        if value is not None and tangent is not None:
            # one value may be two operands, with a tangent each
            inputs[i] = own = value if found.get(value, tangent) is tangent else op.Identity(value)
            found[own] = tangent
    wrt, start = list(found), len(op.nodes)
    try:
        outs = record_body(op, replace(region, inputs=tuple(inputs)))
    except NoBodyError as error:
        raise RefusedError(str(error)) from error
    pairs = zip(outs, region.outputs, strict=True)
    ends = {end: y for end, y in pairs if end is not None and end not in inputs}
    liveness = analyse_nodes(op.nodes[start:], wrt, list(ends), [*wrt, *ends])
    refused = [*liveness.refused, *push_along(op, liveness, found, {})]
    if refused:
        raise RefusedError(f"in its body: {'; '.join(f'{n}: {why}' for _, n, why in refused)}")
    for node in op.nodes[start:]:  # what the node gives already need not be computed again
        for i, value in enumerate(node.inputs):
            if value in ends:
                node.replace_input_with(i, ends[value])
    return [None if end is None else found.get(end) for end in outs]


def _merged(tangent: Dims, primal: Dims) -> ir.Shape:
    """In the primal's symbols, so that equal sizes are known to be equal."""
    pairs = zip(tangent, primal, strict=True)
    return ir.Shape([t if isinstance(t, int) else p for t, p in pairs])


def _check(region: Region, primal: ir.Value, tangent: ir.Value) -> None:
    """The rule's promise: a tangent has the dtype and the shape of its primal."""
    dtype = primal.dtype if is_float(primal) else ir.DataType.FLOAT
    assert tangent.dtype == dtype, f"{region.label}: {tangent.dtype} for {primal.dtype}"
    found, wanted = dims.of(tangent), dims.of(primal)
    clash = len(found) != len(wanted) or any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for a, b in zip(found, wanted, strict=True)
    )
    assert not clash, f"{region.label}: tangent {found} for {wanted}"
