"""The frozen network f_x, run on x, u and 0 (Fast JVP, §3).

`split` is two directions of the tangent program: f_x(u) = f(x) + J(u − x), f_x(0) = f(x) − J x.
`stacked` is the paper's: the lanes folded into one batch, every affine node run once over it with
its bias, every nonlinearity's state taken from the x lane and shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from onnxjvp.graph.bodies import REBUILT, reads, rebuilt
from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.functions import record_body
from onnxjvp.graph.load import Source
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.parameters import is_float
from onnxjvp.graph.regions import Region, captured
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.passes.linearize import (
    Liveness,
    analyse,
    live_inputs,
    name_of,
    push,
    refuse,
)
from onnxjvp.rules.kinds import Function, Linear, RefusedError, Zero, is_homogeneous
from onnxjvp.rules.leading import apply
from onnxjvp.rules.registry import rule_for


def stack(
    source: Source,
    op: Ops,
    outputs: Sequence[ir.Value],
    lanes: Mapping[ir.Value, Sequence[ir.Value]],
) -> tuple[StackedClone, Liveness]:
    """Run the frozen model over several lanes in one batch.

    Args:
      lanes: for every variable what it is in each lane; the first one is its value at x.
    Returns:
      The clone (read lanes of the outputs from it) and the liveness.
    Raises:
      UnsupportedOpError: nodes on a live path have no rule; all of them are listed.
    """
    wrt = list(lanes)
    liveness = analyse(source, wrt, outputs)
    clone = StackedClone(op, Lanes(op, len(lanes[wrt[0]])), liveness.live)
    for x, values in lanes.items():
        clone.stacks[x] = clone.lanes.stack(values, x)
        clone.primals[x] = x
    refused = list(liveness.refused)
    for region in liveness.regions:
        if liveness.is_hopeless(region):
            clone.stand_in(region)
            continue
        try:
            clone.run(region)
        except (RefusedError, UnknownTypeError) as error:
            refused.append((name_of(region), region.label, str(error)))
            clone.stand_in(region)
    refuse(refused, wrt)
    return clone, liveness


class StackedClone:
    """The frozen network, region by region, over stacks of lanes."""

    def __init__(self, op: Ops, lanes: Lanes, live: frozenset[ir.Value]) -> None:
        self.op = op
        self.lanes = lanes
        self.live = live
        self.stacks: dict[ir.Value, Stacked] = {}
        #: original value → its x lane, for values that the original nodes no longer compute
        self.primals: dict[ir.Value, ir.Value] = {}

    def lane(self, value: ir.Value, index: int) -> ir.Value:
        """A lane of a live value: 0 is x."""
        return self.primal(value) if index == 0 else self.lanes.lane(self.stacks[value], index)

    def primal(self, value: ir.Value) -> ir.Value:
        if value not in self.primals and value in self.stacks:
            self.primals[value] = self.lanes.lane(self.stacks[value], 0)
        return self.primals.get(value, value)

    def run(self, region: Region) -> None:
        live = live_inputs(region, self.live)
        rule = rule_for(region)
        if not live or rule is None or isinstance(rule, Zero) or not self._has_live(region):
            if any(v in self.stacks or v in self.primals for v in region.inputs):
                self._rerun(region)
            return
        operands: list[Operand] = [
            None if v is None else (self.stacks.get(v) if i in live else None) or self.primal(v)
            for i, v in enumerate(region.inputs)
        ]
        if isinstance(rule, Linear) and rule.is_affine(live):
            outputs: Sequence[Stacked | None] = apply(self.lanes, region.node, operands)
        else:
            frozen = self._rerun(region)
            if is_homogeneous(rule, region, live):
                outputs = self._pushed(frozen, region, operands)
            else:
                outputs = self._expanded(frozen, region, operands)
        for output, out in zip(region.outputs, outputs, strict=True):
            if out is not None and output in self.live:
                self.stacks[output] = Stacked(output, out.folded, out.unfolded)

    def _has_live(self, region: Region) -> bool:
        return any(v in self.live for v in region.outputs)

    def _rerun(self, region: Region) -> Region:
        """The region on x's lane; the same region reading and giving the new values."""
        inner: dict[ir.Value, ir.Value] = {}
        bound = [v for n in region.nodes if n.op_type not in REBUILT for v in captured(n)]
        if any(v in self.stacks or v in self.primals for v in bound):
            return self._written_out(region)
        for node in region.nodes:
            read = [v if v is None else inner.get(v) or self.primal(v) for v in reads(node)]
            new = rebuilt(self.op, node, read)
            for old, value in zip(node.outputs, new, strict=True):
                value.shape, value.type = old.shape, old.type
                if not old.name:
                    value.name = ""  # an optional output that was left out
            inner.update(zip(node.outputs, new, strict=True))
        outputs = tuple(inner[v] for v in region.outputs)
        self.primals.update(zip(region.outputs, outputs, strict=True))
        inputs = tuple(None if v is None else self.primal(v) for v in region.inputs)
        return Region(
            region.op_type, region.nodes, inputs, outputs, region.domain, region.attributes
        )

    def _written_out(self, region: Region) -> Region:
        """As `_rerun`, of a node whose graphs read values by name that are others on x's lane."""
        if not isinstance(rule_for(region), Function):
            raise RefusedError(
                "its body reads a value that the stacked layout moves; use --layout split"
            )
        inputs = tuple(None if v is None else self.primal(v) for v in region.inputs)
        found = record_body(self.op, replace(region, inputs=inputs))
        pairs = zip(found, region.outputs, strict=True)
        outputs = tuple(y if out is None else out for out, y in pairs)
        self.primals.update(zip(region.outputs, outputs, strict=True))
        return replace(region, inputs=inputs, outputs=outputs)

    def _pushed(
        self, frozen: Region, region: Region, operands: Sequence[Operand]
    ) -> list[Stacked | None]:
        """The tangent map of the frozen region, applied to every lane."""
        local: dict[ir.Value, Stacked] = {}
        tangents: list[ir.Value | None] = []
        for value, operand in zip(region.inputs, operands, strict=True):
            tangents.append(None)
            if value is not None and isinstance(operand, Stacked):
                tangents[-1] = seed = self.op.seed(value)
                local[seed] = operand
        start = len(self.op.nodes)
        results = push(self.op, frozen, tangents)
        self.over_lanes(self.op.nodes[start:], local)
        return [None if v is None else local[v] for v in results]

    def over_lanes(self, nodes: Sequence[ir.Node], stacks: dict[ir.Value, Stacked]) -> None:
        """Repeat over stacks the nodes that read one; the others stand as recorded."""
        for node in list(nodes):
            if not any(v in stacks for v in node.inputs if v is not None):
                continue
            operands = [v if v is None else stacks.get(v) or v for v in node.inputs]
            stacks.update(zip(node.outputs, apply(self.lanes, node, operands), strict=True))

    def _expanded(
        self, frozen: Region, region: Region, operands: Sequence[Operand]
    ) -> list[Stacked | None]:
        """y + J (v − h): the first-order expansion at the region's own input h."""
        op, offsets = self.op, list(operands)
        for i, operand in enumerate(operands):
            h = frozen.inputs[i]
            if isinstance(operand, Stacked) and h is not None:
                v = op.seed(h)
                start = len(op.nodes)
                # where v = h the offset is 0 even at infinities
                zero = op.const(0, like=h)
                difference = op.Where(op.Equal(v, h), zero, op.Sub(v, h))
                local = {v: operand}
                self.over_lanes(op.nodes[start:], local)
                offsets[i] = local[difference]
        tangents = self._pushed(frozen, region, offsets)
        results: list[Stacked | None] = []
        for y, tangent in zip(frozen.outputs, tangents, strict=True):
            if tangent is None:
                results.append(None)
                continue
            t = op.seed(y)
            local = {t: tangent}
            start = len(op.nodes)
            total = op.Add(t, y)
            self.over_lanes(op.nodes[start:], local)
            results.append(local[total])
        return results

    def stand_in(self, region: Region) -> None:
        """Behind a refused node: any stack of the right shape, so that the search goes on."""
        for output in region.outputs:
            if output in self.live and is_float(output) and output.shape is not None:
                self.stacks[output] = self.lanes.repeat(self.op.seed(output))
