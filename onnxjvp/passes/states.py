"""What a linearisation holds: every comparison that its rules froze, by the node that makes it.

A network is piecewise affine as long as every live node is affine where no comparison changes. What
comes after a smooth node is not, and its comparisons are met elsewhere than where their tangents
say; nodes of which nobody knows what they compare are not let through at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

import onnxjvp.rules.choices
import onnxjvp.rules.recurrent_comparisons  # noqa: F401  (both fill the table of comparisons)
from onnxjvp.graph.bodies import Body, Operands, Outs, inside, record
from onnxjvp.graph.branches import BRANCHES, bodies
from onnxjvp.graph.functions import NoBodyError, record_body
from onnxjvp.graph.loops import Turns
from onnxjvp.graph.ops import MADE, Ops, rank
from onnxjvp.graph.regions import Region
from onnxjvp.graph.scans import Steps
from onnxjvp.passes import loops, scans
from onnxjvp.passes.branches import to_keep
from onnxjvp.passes.linearize import (
    Liveness,
    analyse_nodes,
    live_inputs,
    name_of,
    push_along,
)
from onnxjvp.rules.comparisons import COMPARISONS, Along, Comparisons, Sides
from onnxjvp.rules.kinds import Function, RefusedError, Tangents
from onnxjvp.rules.pieces import is_affine, unknown
from onnxjvp.rules.registry import held_operands, rule_for

Through = Callable[
    [Ops, Region, Tangents, scans.Inside], tuple[list[ir.Value | None], list[ir.Value]]
]
#: operators whose bodies run step by step
_STEPPED: dict[str, tuple[Through, Callable[[ir.Node], Steps | Turns]]] = {
    "Scan": (scans.through, Steps.of),
    "Loop": (loops.through, Turns.of),
}


@dataclass(frozen=True)
class State:
    """The comparisons of one node."""

    node: str
    operator: str
    code: ir.Value
    #: margins and rates, where they were asked for
    sides: Sides | None
    rivals: str
    #: smooth nodes that its operands depend on, so that rates are those of the first order
    after: tuple[str, ...] = ()


@dataclass
class Found:
    """All comparisons of a model, in order, and what keeps it from being piecewise affine."""

    states: list[State] = field(default_factory=list)
    #: smooth nodes on a live path
    smooth: list[str] = field(default_factory=list)
    #: (node, operator, why) of nodes whose comparisons cannot be told
    refused: list[tuple[str, str, str]] = field(default_factory=list)


def states_of(
    op: Ops,
    liveness: Liveness,
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    reading: Mapping[ir.Value, ir.Value],
) -> Found:
    """The codes of all comparisons, without their margins.

    Args:
      reading: values that stand for those of the model.
    """
    search = _Search(op, None, reading)
    search.through(liveness, dict.fromkeys(wrt, ()), outputs)
    return search.found


def boundaries_of(
    op: Ops,
    liveness: Liveness,
    wrt: Sequence[ir.Value],
    outputs: Sequence[ir.Value],
    tangents: Mapping[ir.Value, ir.Value],
) -> Found:
    """All comparisons, with margins and rates along the tangents."""
    search = _Search(op, tangents, {})
    search.through(liveness, dict.fromkeys(wrt, ()), outputs)
    return search.found


class _Search:
    """One walk over the regions of a graph or a body.

    Args:
      tangents: of all that is live; None: codes alone.
      lead: what the names of nodes inside start with.
    """

    def __init__(
        self,
        op: Ops,
        tangents: Mapping[ir.Value, ir.Value] | None,
        reading: Mapping[ir.Value, ir.Value],
        lead: str = "",
        known: Mapping[ir.Value, str] | None = None,
    ) -> None:
        self.op, self.tangents, self.reading, self.lead = op, tangents, reading, lead
        self.found = Found()
        #: names of nodes that were copied, by their first output
        self.known = known or {}
        self.named: dict[ir.Value, str] = {}
        self._taken: set[str] = set()
        self._numbers = itertools.count(1)
        #: live value → the smooth nodes that it comes from
        self.bent: dict[ir.Value, tuple[str, ...]] = {}
        #: what the outputs depend on; other results of a body are nobody's
        self.needed: set[ir.Value] = set()

    def through(
        self,
        liveness: Liveness,
        wrt: Mapping[ir.Value, tuple[str, ...]],
        ends: Iterable[ir.Value],
    ) -> None:
        self.bent.update(wrt)
        self.needed.update(ends)
        self.needed.update(v for r in liveness.regions for v in r.inputs if v is not None)
        for region in liveness.regions:
            live = live_inputs(region, self.bent.keys())
            held = {i for i in held_operands(region) if region.input(i) in self.bent}
            if region.label == "Range" and region.input(1) in self.bent:
                live.add(1)
            if not live and not held:
                continue
            operands = sorted(live | held)
            bends = [name for i in operands for name in self.bent[region.operand(i)]]
            before = tuple(dict.fromkeys(bends))
            try:
                after = self._meet(region, live, held, before)
            except (RefusedError, NoBodyError) as error:
                self._refuse(region, str(error))
                after = before
            for output in region.outputs:
                if output in liveness.live:
                    self.bent[output] = after

    def _meet(
        self, region: Region, live: set[int], held: set[int], before: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Note what a region compares; the smooth nodes that its outputs come from."""
        rule, name = rule_for(region), self._name(region)
        if held and region.label not in ("Dropout", "Pad"):  # they do not read it
            self._refuse(region, "an operand that it holds moves in jumps, which are not known")
        if region.label == "If":
            return self._branches(region, live, before)
        if region.label in _STEPPED:
            return self._steps(region, live, before)
        entry = COMPARISONS.get(region.label)
        if entry is not None:
            compared = entry.compare(self.op, self._read(region))
            if compared is not None:
                self._note(region, compared, before)
            smooth = not entry.affine(region, live)
            return self._smooth(name, region, before) if smooth else before
        if isinstance(rule, Function):
            return self._body(region, before)
        if (reason := unknown(region, live)) is not None:
            self._refuse(region, reason)
            return before
        return before if is_affine(region, live) else self._smooth(name, region, before)

    def _note(self, region: Region, compared: Comparisons, after: tuple[str, ...]) -> None:
        sides = None
        if self.tangents is not None:
            operands, outputs = (
                [None if v is None else self.tangents.get(v) for v in values]
                for values in (region.inputs, region.outputs)
            )
            sides = compared.sides(Along(operands, outputs))
        name, label = self._name(region), region.label
        self.found.states.append(State(name, label, compared.code, sides, compared.rivals, after))

    def _smooth(self, name: str, region: Region, before: tuple[str, ...]) -> tuple[str, ...]:
        said = f"{name} ({region.label})"
        self.found.smooth.append(said)
        return (*before, said)

    def _refuse(self, region: Region, reason: str) -> None:
        self.found.refused.append((self._name(region), region.label, reason))

    def _name(self, region: Region) -> str:
        if region.outputs[0] in self.named:
            return self.named[region.outputs[0]]
        name = self.known.get(region.outputs[0]) or name_of(region)
        if name.startswith(MADE):  # of a body that was recorded
            name = f"{region.op_type}_{next(self._numbers)}"
        while name in self._taken:  # ONNX lets nodes share a name
            name += "_"
        self._taken.add(name)
        self.named[region.outputs[0]] = f"{self.lead}{name}"
        return self.named[region.outputs[0]]

    def _read(self, region: Region) -> Region:
        if not self.reading:
            return region
        inputs = tuple(None if v is None else self.reading.get(v, v) for v in region.inputs)
        outputs = tuple(self.reading.get(v, v) for v in region.outputs)
        return replace(region, inputs=inputs, outputs=outputs)

    def _wanted(
        self, region: Region, ends: Sequence[ir.Value | None], start: int = 0
    ) -> list[ir.Value]:
        """Of what a body ends in, from `start` on, what anyone depends on."""
        pairs = list(zip(ends[::-1], region.outputs[::-1], strict=False))[: len(ends) - start]
        return [v for v, y in pairs[::-1] if v is not None and y in self.needed]

    def _adopt(self, inner: _Search) -> None:
        self.found.smooth += inner.found.smooth
        self.found.refused += inner.found.refused

    # -- nodes that are functions of others ----------------------------------------------------

    def _body(self, region: Region, before: tuple[str, ...]) -> tuple[str, ...]:
        """What the operators in the body of a function compare."""
        op, read = self.op, self._read(region)
        wrt = {
            new: old
            for old, new in zip(region.inputs, read.inputs, strict=True)
            if old is not None and new is not None and old in self.bent
        }
        start = len(op.nodes)
        outs = record_body(op, read)
        ends = self._wanted(region, outs)
        kept = [*wrt, *(v for v in outs if v is not None)]
        liveness = analyse_nodes(op.nodes[start:], list(wrt), ends, kept)
        tangents = None
        if self.tangents is not None:
            tangents = {new: self.tangents[old] for new, old in wrt.items()}
            push_along(op, liveness, tangents, {})
        inner = _Search(op, tangents, {}, f"{self._name(region)}/")
        inner.through(liveness, {new: self.bent[old] for new, old in wrt.items()}, ends)
        self._adopt(inner)
        self.found.states += inner.found.states
        bends = (name for end in ends for name in inner.bent.get(end, ()))
        return tuple(dict.fromkeys([*before, *bends]))

    # -- branches ------------------------------------------------------------------------------

    def _branches(self, region: Region, live: set[int], before: tuple[str, ...]) -> tuple[str, ...]:
        """What the branch that is taken compares; of the other one there are no units."""
        read = self._read(region)
        operands, arms, bends = Operands(), [], list(before)
        for name, body in zip(BRANCHES, bodies(region.node), strict=True):
            arm = Body(self.op, operands)
            lead = f"{self._name(region)}/{name}/"
            inner, ends = self._arm(arm, region, read, body, live, lead)
            self._adopt(inner)
            arms.append((arm, inner.found.states))
            bends += [name for end in ends for name in inner.bent.get(end, ())]
        states = [state for _, own in arms for state in own]
        if states:
            outs = [(arm, _values(arm, states, own)) for arm, own in arms]
            made = list(record(self.op, read.inputs[0], outs))
            for state in states:
                count = 1 if state.sides is None else 3
                code, *sides = made[:count]
                del made[:count]
                known = None if state.sides is None else (sides[0], sides[1])
                self.found.states.append(replace(state, code=code, sides=known))
        return tuple(dict.fromkeys(bends))

    def _arm(
        self,
        arm: Body,
        region: Region,
        read: Region,
        body: ir.Graph,
        live: set[int],
        lead: str,
    ) -> tuple[_Search, list[ir.Value]]:
        names = inside(region.node, body)
        pairs = zip(names, read.inputs[1:], strict=True)
        values = {v: arm.read(x) for v, x in pairs if x is not None}
        outer = {values[names[i - 1]]: region.operand(i) for i in sorted(live)}
        tangents = None
        if self.tangents is not None:
            found = self.tangents
            tangents = {v: arm.input(arm.operands.add(found[x])) for v, x in outer.items()}
        keep = to_keep(list(values.values()), list(outer))
        outs = arm.copy(body, values)
        ends = self._wanted(region, outs)
        liveness = analyse_nodes(list(arm.nodes), list(outer), ends, [*keep, *outs])
        if tangents is not None:
            push_along(arm, liveness, tangents, {})
        known = _named_nodes(body, values)
        inner = _Search(arm, tangents, {}, lead, known)
        inner.through(liveness, {v: self.bent[x] for v, x in outer.items()}, ends)
        return inner, ends

    # -- recurrences ---------------------------------------------------------------------------

    def _steps(self, region: Region, live: set[int], before: tuple[str, ...]) -> tuple[str, ...]:
        """What every step compares, with the steps as the first axis of units."""
        searches: list[_Search] = []
        through, form = _STEPPED[region.label]

        def look(
            step: Ops,
            wrt: Sequence[ir.Value],
            primal: Outs,
            keep: Sequence[ir.Value],
            values: Mapping[ir.Value, ir.Value],
        ) -> tuple[Sequence[ir.Value], Sequence[ir.Value | None], Outs]:
            fixed = len(primal) - len(region.outputs) + form(region.node).states
            ends = [*primal[:fixed], *self._wanted(region, primal, fixed)]
            liveness = analyse_nodes(list(step.nodes), wrt, ends, [*keep, *primal])
            seeds = [step.seed(v) for v in wrt]
            tangents = dict(zip(wrt, seeds, strict=True))
            if self.tangents is not None:
                push_along(step, liveness, tangents, {})
            body = region.node.attributes["body"].as_graph()
            known = _named_nodes(body, values)
            carried = None if self.tangents is None else tangents
            inner = _Search(step, carried, {}, f"{self._name(region)}/", known)
            inner.through(liveness, dict.fromkeys(wrt, before), ends)
            searches.append(inner)
            more = [v for state in inner.found.states for v in (state.code, *(state.sides or ()))]
            outs = [None if carried is None else carried.get(v) for v in primal]
            return seeds, outs, more

        read, found = self._read(region), self.tangents or {}
        along = [
            None if i not in live else found.get(region.operand(i), read.operand(i))
            for i in range(len(region.inputs))
        ]
        _, made = through(self.op, read, along, look)
        (inner,) = searches
        self._adopt(inner)
        after = tuple(dict.fromkeys([*before, *inner.found.smooth]))  # through its states
        for state in inner.found.states:
            code, *sides = made[: 1 if state.sides is None else 3]
            del made[: 1 + len(sides)]
            if state.rivals == "before":  # [T, rivals, …]
                sides = [_exchanged(self.op, v) for v in sides]
            both = (sides[0], sides[1]) if sides else None
            self.found.states.append(replace(state, code=code, sides=both, after=after))
        return after


def _named_nodes(body: ir.Graph, values: Mapping[ir.Value, ir.Value]) -> dict[ir.Value, str]:
    """By the first outputs of their copies, what nodes of a body are called, or give."""
    named = ((n.outputs[0], n.name or n.outputs[0].name) for n in body)
    return {values[v]: name for v, name in named if name and v in values}


def _exchanged(op: Ops, value: ir.Value) -> ir.Value:
    return op.Transpose(value, perm=[1, 0, *range(2, rank(value))])


def _values(arm: Body, states: Sequence[State], own: Sequence[State]) -> list[ir.Value]:
    """What a branch gives of all states: its own, and nothing of those of the other one."""

    def empty(value: ir.Value) -> ir.Value:
        assert value.dtype is not None and value.shape is not None
        return arm.const(np.zeros((0,) * len(value.shape)), value.dtype)

    mine = {id(state) for state in own}
    return [
        value if id(state) in mine else empty(value)
        for state in states
        for value in (state.code, *(state.sides or ()))
    ]
