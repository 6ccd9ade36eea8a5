"""What the steps of an RNN with kinks compare: what its function is applied to, with 0 or alpha."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.scans import Step
from onnxjvp.rules.cell_functions import activations
from onnxjvp.rules.cells import Direction, directions
from onnxjvp.rules.comparisons import Along, Comparisons, Sides, above, compares
from onnxjvp.rules.kinds import RefusedError
from onnxjvp.rules.recurrent import added_to_gates, gates

_DEFAULT = ("Tanh",)
#: functions that are affine on either side of one number, off whose value the side is read
_KINKED = frozenset({"Relu", "LeakyRelu", "ThresholdedRelu"})
_SMOOTH = frozenset({"Tanh", "Sigmoid", "Softsign", "Softplus", "ScaledTanh"})


def _names(region: Region) -> set[str]:
    return {f.name for f in activations(region, _DEFAULT)}


def _is_affine(region: Region, live: set[int]) -> bool:
    """In the sequence, the biases and the first state; or in the weights of a sequence that is."""
    return _names(region) <= _KINKED and 2 not in live and not {0, 1} <= live


@compares("RNN", affine=_is_affine)
def rnn(op: Ops, region: Region) -> Comparisons | None:
    """A mask [T, directions, N, H], False in rows that have ended."""
    names = _names(region)
    if names <= _SMOOTH:
        return None
    if not names <= _KINKED or "clip" in region.attributes:
        raise RefusedError(
            f"what its steps compare is known of {', '.join(sorted(_KINKED))} without clip only"
        )
    nothing = [None] * len(region.inputs)
    masks = [_mask(op, one) for one in directions(op, region, nothing, _DEFAULT)]

    def sides(to: Along) -> Sides:
        every = directions(op, region, to.operands, _DEFAULT)
        found = [_sides(op, one, mask) for one, mask in zip(every, masks, strict=True)]
        return _together(op, [m for m, _ in found]), _together(op, [r for _, r in found])

    return Comparisons(_together(op, masks), sides)


def _edge(one: Direction) -> float:
    (f,) = one.activations
    return f.alpha if f.name == "ThresholdedRelu" else 0.0


def _mask(op: Ops, one: Direction) -> ir.Value:
    mask = op.Greater(one.y, op.const(_edge(one), like=one.y))
    return mask if one.on is None else op.And(mask, one.on)


def _sides(op: Ops, one: Direction, mask: ir.Value) -> Sides:
    """Of the operand of the function at every step, [T, N, H], whose tangent the states carry."""
    (f,) = one.activations
    before = one.before(op, one.first_h, one.y)
    operand = gates(op, one, before)
    slope = one.where_on(op, f.slope(op, one.y, None))
    added = added_to_gates(op, one, before)
    step = Step(op)
    h = step.state(one.start(op, one.tangent.h), linear=True)
    t = step.MatMul(h, step.read(one.weights_r))
    if added is not None:
        t = step.Add(t, step.slice(added, one.track))
    after = one.kept(step, step.Mul(step.slice(slope, one.track), t), h)
    *_, rate = step.finish([after], [(t, one.track)])
    p = op.Sub(operand, op.const(_edge(one), like=operand))
    margin, rate = above(op, mask, p, rate)
    return one.where_on(op, margin, float("inf")), one.where_on(op, rate)


def _together(op: Ops, parts: list[ir.Value]) -> ir.Value:
    wide = [op.unsqueeze(part, 1) for part in parts]
    return wide[0] if len(wide) == 1 else op.Concat(*wide, axis=1)
