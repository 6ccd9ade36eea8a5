"""RNN, GRU, LSTM: the gates of all steps at once, and a Scan for what is left of the recurrence.

The original stays one fused node. Its Y holds the hidden state after every step, so one product
gives the gates of all steps, hence all slopes; another gives what inputs, weights and biases add to
each step's tangent. Only dh ← slope · (R dh + what is added) runs step by step, in a Scan. That has
rules of its own: nothing here knows of transposition or of second derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.scans import Step
from onnxjvp.rules.cells import Direction, add_up, directions, product, split
from onnxjvp.rules.kinds import Tangents
from onnxjvp.rules.registry import pushed


@pushed(
    "RNN", args=(0, 1, 2, 3, 5), source="ONNX RNN-14; dh ← f' · (R dh + dR h + dW x + W dx + db)"
)
def rnn_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    found = [_rnn(op, one) for one in directions(op, region, tangents, ("Tanh",))]
    return _together(op, region, found)


def _rnn(op: Ops, one: Direction) -> list[ir.Value | None]:
    (f,) = one.activations
    before = one.before(op, one.first_h, one.y)
    a = None if f.clip is None else gates(op, one, before)
    slope = one.where_on(op, f.slope(op, one.y, a))
    added = added_to_gates(op, one, before)
    step = Step(op)
    h = step.state(one.start(op, one.tangent.h), linear=True)
    t = step.MatMul(h, step.read(one.weights_r))
    if added is not None:
        t = step.Add(t, step.slice(added, one.track))
    t = step.Mul(step.slice(slope, one.track), t)
    return _finish(op, one, step, [one.kept(step, t, h)])


# -- GRU ---------------------------------------------------------------------------------------


@pushed(
    "GRU",
    args=(0, 1, 2, 3, 5),
    source="ONNX GRU-14; dh ← z dh + (h − n) dz + (1 − z) dn, the gates' tangents from R dh",
)
def gru_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    gated = _gru_reset_after if region.attr_int("linear_before_reset", 0) else _gru_reset_before
    every = directions(op, region, tangents, ("Sigmoid", "Tanh"))
    return _together(op, region, [gated(op, one) for one in every])


def _gru_reset_after(op: Ops, one: Direction) -> list[ir.Value | None]:
    """n = g(W x + r · q), q = R h + its bias: all that a step adds can be summed beforehand."""
    f, g = one.activations
    before = one.before(op, one.first_h, one.y)
    of_x = _plus(op, op.MatMul(one.x, one.weights_w), one.primal.wb)
    of_h = _plus(op, op.MatMul(before, one.weights_r), one.primal.rb)
    xz, xr, xn = split(op, of_x, 3)
    hz, hr, q = split(op, of_h, 3)
    az, ar = op.Add(xz, hz), op.Add(xr, hr)
    z, r = f.value(op, az), f.value(op, ar)
    an = op.Add(xn, op.Mul(r, q))
    n = g.value(op, an)
    new = op.Mul(_complement(op, z), g.slope(op, n, an))
    to_z = op.Mul(op.Sub(before, n), f.slope(op, z, az))
    to_r = op.Mul(new, op.Mul(q, f.slope(op, r, ar)))
    slopes = one.where_on(op, op.Concat(to_z, to_r, op.Mul(new, r), axis=-1))
    from_h = _plus_t(op, product(op, before, one.tangent.r), one.tangent.rb)
    from_x = _of_x(op, one)
    parts: list[ir.Value] = []
    if from_h is not None:
        parts += split(op, op.Mul(slopes, from_h), 3)
    if from_x is not None:
        of_input = one.where_on(op, op.Concat(to_z, to_r, new, axis=-1))
        parts += split(op, op.Mul(of_input, from_x), 3)
    step = Step(op)
    h = step.state(one.start(op, one.tangent.h), linear=True)
    t = step.MatMul(h, step.read(one.weights_r))
    gates = split(step, step.Mul(step.slice(slopes, one.track), t), 3)
    carried = step.Mul(step.slice(one.where_on(op, z, 1), one.track), h)
    sums = [carried, *gates]
    if parts:
        sums.append(step.slice(op.add_all(parts), one.track))
    return _finish(op, one, step, [step.add_all(sums)])


def _gru_reset_before(op: Ops, one: Direction) -> list[ir.Value | None]:
    """n = g(W x + R (r · h)): two products in a row in every step."""
    f, g = one.activations
    before = one.before(op, one.first_h, one.y)
    size = one.size
    cut = {"axis": -1}
    r_gates, r_new = _cut(op, one.weights_r, [2 * size, size], **cut)
    of_x = _plus(op, op.MatMul(one.x, one.weights_w), _sum(op, one.primal.wb, one.primal.rb))
    x_gates, xn = _cut(op, of_x, [2 * size, size], **cut)
    a = op.Add(x_gates, op.MatMul(before, r_gates))
    gates = f.value(op, a)
    gate_slopes = f.slope(op, gates, a)
    z, r = split(op, gates, 2)
    z_slope, r_slope = split(op, gate_slopes, 2)
    reset = op.Mul(r, before)
    an = op.Add(xn, op.MatMul(reset, r_new))
    n = g.value(op, an)
    new = one.where_on(op, op.Mul(_complement(op, z), g.slope(op, n, an)))
    to_z, to_r = op.Mul(op.Sub(before, n), z_slope), op.Mul(before, r_slope)
    slopes = one.where_on(op, op.Concat(to_z, to_r, axis=-1))
    b_gates, b_new = _gru_added(op, one, before, reset)
    step = Step(op)
    h = step.state(one.start(op, one.tangent.h), linear=True)
    t = step.MatMul(h, step.read(r_gates))
    if b_gates is not None:
        t = step.Add(t, step.slice(b_gates, one.track))
    dz, dr = split(step, step.Mul(step.slice(slopes, one.track), t), 2)
    inner = step.Add(step.Mul(step.slice(r, one.track), h), dr)
    dn = step.MatMul(inner, step.read(r_new))
    if b_new is not None:
        dn = step.Add(dn, step.slice(b_new, one.track))
    carried = step.Mul(step.slice(one.where_on(op, z, 1), one.track), h)
    sums = [carried, dz, step.Mul(step.slice(new, one.track), dn)]
    return _finish(op, one, step, [step.add_all(sums)])


def _gru_added(op: Ops, one: Direction, before: ir.Value, reset: ir.Value) -> list[ir.Value | None]:
    """What is added to both gates and to the new state, where a step adds anything."""
    sizes = [2 * one.size, one.size]
    total = _plus_t(op, _of_x(op, one), one.tangent.rb)
    both: list[ir.Value | None] = [None, None]
    if total is not None:
        both = list(_cut(op, total, sizes, axis=-1)) if total.shape is not None else both
    if one.tangent.r is not None:
        weights = _cut(op, one.tangent.r, sizes, axis=-1)
        for k, (read, weight) in enumerate(zip((before, reset), weights, strict=True)):
            both[k] = add_up(op, [both[k], op.MatMul(read, weight)])
    return [None if v is None else one.at_every_step(op, v) for v in both]


# -- LSTM --------------------------------------------------------------------------------------


@pushed(
    "LSTM",
    args=(0, 1, 2, 3, 5, 6, 7),
    source="ONNX LSTM-14; dc ← f dc + c df + g di + i dg, dh ← h(c) do + o h' dc",
)
def lstm_push(op: Ops, region: Region, tangents: Tangents) -> Sequence[ir.Value | None]:
    every = directions(op, region, tangents, ("Sigmoid", "Tanh", "Tanh"), unclipped=2)
    coupled = region.attr_int("input_forget", 0) != 0
    return _together(op, region, [_lstm(op, one, coupled) for one in every])


def _lstm(op: Ops, one: Direction, coupled: bool) -> list[ir.Value | None]:
    f, g, last = one.activations
    before = one.before(op, one.first_h, one.y)
    ai, ao, af, ag = split(op, gates(op, one, before), 4)
    new = g.value(op, ag)
    pi, po, pf = [None] * 3 if one.primal.p is None else split(op, one.primal.p, 3)
    if pi is not None and po is not None and pf is not None:
        after = _peeping_cells(op, one, ((ai, pi), (af, pf)), new, coupled)
        c = one.before(op, one.first_c, after)
        ai, af = (op.Add(a, op.Mul(p, c)) for a, p in ((ai, pi), (af, pf)))
        ao = op.Add(ao, op.Mul(po, after))
    i = f.value(op, ai)
    forget = _complement(op, i) if coupled else f.value(op, af)
    if one.primal.p is None:
        after = _cells(op, one, forget, op.Mul(i, new))
        c = one.before(op, one.first_c, after)
    o, shown = f.value(op, ao), last.value(op, after)
    gained = op.Sub(new, c) if coupled else new
    to_i, to_g = op.Mul(gained, f.slope(op, i, ai)), op.Mul(i, g.slope(op, new, ag))
    to_o = op.Mul(shown, f.slope(op, o, ao))
    to_f = op.zeros_like(i) if coupled else op.Mul(c, f.slope(op, forget, af))
    # through the peepholes a cell moves its own gates
    keep = op.add_all([forget, *_peeping(op, ((to_i, pi), (to_f, pf)))])
    show = op.add_all([op.Mul(o, last.slope(op, shown, after)), *_peeping(op, ((to_o, po),))])
    slopes = one.where_on(op, op.Concat(to_i, to_o, to_f, to_g, axis=-1))
    added = _plus_t(op, added_to_gates(op, one, before), _peepholes(op, one, c, after))
    return _lstm_steps(op, one, slopes, keep, show, added)


def _lstm_steps(
    op: Ops,
    one: Direction,
    slopes: ir.Value,
    keep: ir.Value,
    show: ir.Value,
    added: ir.Value | None,
) -> list[ir.Value | None]:
    """dc ← keep · dc + Σ slopes · (R dh + added), dh ← its gate + show · dc."""
    step = Step(op)
    h = step.state(one.start(op, one.tangent.h), linear=True)
    c = step.state(one.start(op, one.tangent.c), linear=True)
    t = step.MatMul(h, step.read(one.weights_r))
    if added is not None:
        t = step.Add(t, step.slice(added, one.track))
    i, o, f, g = split(step, step.Mul(step.slice(slopes, one.track), t), 4)
    kept = step.Mul(step.slice(one.where_on(op, keep, 1), one.track), c)
    c = step.add_all([kept, i, f, g])
    shown = step.Mul(step.slice(one.where_on(op, show), one.track), c)
    return _finish(op, one, step, [one.kept(step, step.Add(o, shown), h), c])


def _cells(op: Ops, one: Direction, forget: ir.Value, gained: ir.Value) -> ir.Value:
    """The cells after every step [T, N, H], which the node itself gives of the last step only."""
    step = Step(op)
    c = step.state(one.first_c)
    kept = step.Mul(step.slice(one.where_on(op, forget, 1), one.track), c)
    c = step.Add(kept, step.slice(one.where_on(op, gained), one.track))
    return step.finish([c], [(c, one.track)])[1]


def _peeping_cells(
    op: Ops,
    one: Direction,
    gates: Sequence[tuple[ir.Value, ir.Value]],
    new: ir.Value,
    coupled: bool,
) -> ir.Value:
    """The same, where two gates read the cell before."""
    f, step = one.activations[0], Step(op)
    c = step.state(one.first_c)
    ai, af = (step.Add(step.slice(a, one.track), step.Mul(step.read(p), c)) for a, p in gates)
    i = f.value(step, ai)
    forget = _complement(step, i) if coupled else f.value(step, af)
    after = step.Add(step.Mul(forget, c), step.Mul(i, step.slice(new, one.track)))
    after = one.kept(step, after, c)
    return step.finish([after], [(after, one.track)])[1]


def _peeping(op: Ops, pairs: Sequence[tuple[ir.Value, ir.Value | None]]) -> list[ir.Value]:
    return [op.Mul(slope, p) for slope, p in pairs if p is not None]


def _peepholes(op: Ops, one: Direction, c: ir.Value, after: ir.Value) -> ir.Value | None:
    """What the tangent of P adds to the gates, [T, N, 4·H]."""
    if one.tangent.p is None:
        return None
    pi, po, pf = split(op, one.tangent.p, 3)
    parts = [op.Mul(pi, c), op.Mul(po, after), op.Mul(pf, c), op.zeros_like(c)]
    return op.Concat(*parts, axis=-1)


# -- what they share ---------------------------------------------------------------------------


def gates(op: Ops, one: Direction, before: ir.Value) -> ir.Value:
    """What the gates of all steps are applied to, [T, N, G·H], without peepholes."""
    both = op.Add(op.MatMul(one.x, one.weights_w), op.MatMul(before, one.weights_r))
    return _plus(op, both, _sum(op, one.primal.wb, one.primal.rb))


def added_to_gates(op: Ops, one: Direction, before: ir.Value) -> ir.Value | None:
    """What all but the states before adds to the tangents of the gates of each step."""
    total = add_up(op, [_of_x(op, one), product(op, before, one.tangent.r)])
    total = _plus_t(op, total, one.tangent.rb)
    return None if total is None else one.at_every_step(op, total)


def _of_x(op: Ops, one: Direction) -> ir.Value | None:
    terms = [
        product(op, one.tangent.x, one.weights_w),
        product(op, one.x, one.tangent.w),
    ]
    return _plus_t(op, add_up(op, terms), one.tangent.wb)


def _plus(op: Ops, value: ir.Value, bias: ir.Value | None) -> ir.Value:
    return value if bias is None else op.Add(value, bias)


def _plus_t(op: Ops, value: ir.Value | None, bias: ir.Value | None) -> ir.Value | None:
    return add_up(op, [value, bias])


def _sum(op: Ops, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    return add_up(op, [a, b])


def _complement(op: Ops, y: ir.Value) -> ir.Value:
    return op.Sub(op.const(1, like=y), y)


def _cut(op: Ops, value: ir.Value, sizes: Sequence[int], axis: int) -> Sequence[ir.Value]:
    return op.emit("Split", (value, op.ints(sizes)), {"axis": axis}, len(sizes))


def _finish(
    op: Ops, one: Direction, step: Step, states: Sequence[ir.Value]
) -> list[ir.Value | None]:
    """The tangents of Y [T, N, H] and of the states after the last step [N, H], one direction's."""
    if not one.is_read:
        return [None, *step.finish(states)]
    *last, y = step.finish(states, [(states[0], one.track)])
    return [one.where_on(op, y), *last]


def _together(
    op: Ops, region: Region, found: Sequence[Sequence[ir.Value | None]]
) -> Sequence[ir.Value | None]:
    """The tangents of a node's outputs from those of its directions."""
    layout = region.attr_int("layout", 0)
    ys, *last = zip(*found, strict=True)
    y = _stacked(op, ys, 1)
    if y is not None and layout:
        y = op.Transpose(y, perm=[2, 0, 1, 3])
    return [y, *(_stacked(op, states, layout) for states in last)][: len(region.outputs)]


def _stacked(op: Ops, parts: Sequence[ir.Value | None], axis: int) -> ir.Value | None:
    wide = [op.unsqueeze(part, axis) for part in parts if part is not None]
    if not wide:
        return None
    return wide[0] if len(wide) == 1 else op.Concat(*wide, axis=axis)
