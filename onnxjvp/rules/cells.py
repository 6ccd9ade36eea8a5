"""What one direction of a recurrent operator reads: weights, first states, masks, tangents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region
from onnxjvp.graph.scans import Step, Track
from onnxjvp.rules.cell_functions import Activation, activations
from onnxjvp.rules.kinds import RefusedError, Tangents


@dataclass(frozen=True)
class Operands:
    """What one direction reads, primal values or tangents: in time order of storage."""

    x: ir.Value | None  # [T, N, I]
    w: ir.Value | None  # [I, G·H]
    r: ir.Value | None  # [H, G·H]
    wb: ir.Value | None  # [G·H]
    rb: ir.Value | None  # [G·H]
    h: ir.Value | None  # [N, H]
    c: ir.Value | None  # [N, H]
    p: ir.Value | None  # [3·H]


@dataclass(frozen=True)
class Direction:
    """One direction of a recurrent node: its weights and their tangents, and how it runs."""

    region: Region
    track: Track
    primal: Operands
    tangent: Operands
    y: ir.Value  # [T, N, H]
    on: ir.Value | None  # [T, N, 1], where a row has not ended; None: nowhere
    on_before: ir.Value | None  # the same, of the step before
    is_read: bool  # whether anything reads Y
    activations: Sequence[Activation]

    @property
    def x(self) -> ir.Value:
        return _there(self.primal.x)

    @property
    def weights_w(self) -> ir.Value:
        return _there(self.primal.w)

    @property
    def weights_r(self) -> ir.Value:
        return _there(self.primal.r)

    @property
    def first_h(self) -> ir.Value:
        return _there(self.primal.h)

    @property
    def first_c(self) -> ir.Value:
        return _there(self.primal.c)

    @property
    def size(self) -> int:
        """H.

        Raises:
          RefusedError: neither an attribute nor a shape tells it.
        """
        size = dim(self.y, 2)
        if not isinstance(size, int):
            raise RefusedError("its hidden size is not known")
        return size

    def start(self, op: Ops, tangent: ir.Value | None) -> ir.Value:
        """The tangent of a first state, [N, H]."""
        return zeros_below(op, self.y) if tangent is None else tangent

    def at_every_step(self, op: Ops, value: ir.Value) -> ir.Value:
        """[T, N, ·] of a value that may be the same at all of them."""
        if rank(value) == 3:
            return value
        shape = (*dims.of(self.y)[:2], dim(value, rank(value) - 1))
        out = op.Expand(value, op.as_tensor(shape))
        out.shape = ir.Shape(shape)
        return out

    def kept(self, step: Step, after: ir.Value, before: ir.Value) -> ir.Value:
        """A state after a step: the one before it in rows that have ended."""
        if self.on is None:
            return after
        return step.Where(step.slice(self.on, self.track), after, before)

    def before(self, op: Ops, first: ir.Value, values: ir.Value) -> ir.Value:
        """What each step finds: a first state [N, H], then the states [T, N, H] after each step."""
        axes = op.ints([0])
        start = op.unsqueeze(first, 0)
        if not self.track.backwards:
            rest = op.Slice(values, op.ints([0]), op.ints([-1]), axes)
            out = op.Concat(start, rest, axis=0)
        else:
            rest = op.Slice(values, op.ints([1]), op.ints([LAST]), axes)
            out = op.Concat(rest, start, axis=0)
            if self.on_before is not None:
                out = op.Where(self.on_before, out, start)
        out.shape = values.shape
        return out

    def where_on(self, op: Ops, value: ir.Value, other: float = 0) -> ir.Value:
        """The value [T, N, ·], and a number in rows that have ended."""
        return value if self.on is None else op.Where(self.on, value, op.const(other, like=value))


#: how many gates the weights of an operator hold
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
#: an end beyond every size, for Slice
LAST = np.iinfo(np.int64).max


def directions(
    op: Ops, region: Region, tangents: Tangents, default: Sequence[str], unclipped: int = 99
) -> list[Direction]:
    """The directions of a node, in order.

    Raises:
      RefusedError: an activation that has no rule.
    """
    functions = activations(region, default, unclipped)
    count = len(functions) // len(default)
    backwards = {1: [region.attr_string("direction", "forward") == "reverse"]}
    layout = region.attr_int("layout", 0)
    y, x = region.outputs[0], region.operand(0)
    is_read = _is_read(region.node)
    on = _rows_on(op, region, x, layout)
    primal = _apart(op, region, [region.input(i) for i in range(8)], count, layout)
    live = _apart(op, region, [*tangents, *[None] * 8][:8], count, layout)
    turned = op.Transpose(y, perm=[1, 2, 0, 3]) if layout else y
    ys = [_there(part) for part in _each(op, turned, 1, count)]
    return [
        Direction(
            region,
            Track(0, back),
            _filled(op, primal[d], ys[d]),
            live[d],
            ys[d],
            None if on is None else on[0],
            None if on is None else on[1],
            is_read,
            functions[d * len(default) : (d + 1) * len(default)],
        )
        for d, back in enumerate(backwards.get(count, [False, True]))
    ]


def _is_read(node: ir.Node) -> bool:
    """Whether Y is more than what the node was made to give for its slopes."""
    y = node.outputs[0]
    return node.graph is None or y.is_graph_output() or bool(y.uses())


def _rows_on(op: Ops, region: Region, x: ir.Value, layout: int) -> tuple[ir.Value, ir.Value] | None:
    """Where rows have not ended at a step, and at the step behind it, both [T, N, 1]."""
    lens = region.input(4)
    if lens is None:
        return None
    length = op.Squeeze(op.sizes(x, [1 if layout else 0]), op.ints([0]))
    zero, one = (op.const(np.int64(k), ir.DataType.INT64) for k in (0, 1))
    at = op.unsqueeze(op.Range(zero, length, one), 1, 2)
    ends = op.unsqueeze(op.Cast(lens, to=int(ir.DataType.INT64)), 0, 2)
    return op.Less(at, ends), op.Less(op.Add(at, one), ends)


def _each(
    op: Ops, value: ir.Value | None, axis: int, count: int, width: Dim | None = None
) -> list[ir.Value | None]:
    """A value per direction, without their axis; `width` is the next size, where it is known."""
    if value is None:
        return [None] * count
    parts = [value] if count == 1 else _split(op, value, 2, axis)
    found = [op.Squeeze(part, op.ints([axis])) for part in parts]
    if width is not None:
        for part in found:
            part.shape = ir.Shape((width, *dims.of(part)[1:]))
    return list(found)


def _apart(
    op: Ops, region: Region, values: Sequence[ir.Value | None], count: int, layout: int
) -> list[Operands]:
    x, w, r, b, _, h, c, p = values
    if x is not None and layout:
        x = op.Transpose(x, perm=[1, 0, 2])
    size = dim(region.outputs[0], 3)
    gates = GATES[region.op_type] * size if isinstance(size, int) else None
    ws, rs = ([_turned(op, u) for u in _each(op, v, 0, count, gates)] for v in (w, r))
    hs, cs = (_each(op, v, layout, count) for v in (h, c))
    ps = _each(op, p, 0, count, None if gates is None else 3 * size)
    wbs, rbs = [], []
    for both in _each(op, b, 0, count, None if gates is None else 2 * gates):
        wb, rb = (None, None) if both is None else _split(op, both, 2, 0)
        wbs.append(wb)
        rbs.append(rb)
    return [Operands(x, *row) for row in zip(ws, rs, wbs, rbs, hs, cs, ps, strict=True)]


def _turned(op: Ops, matrix: ir.Value | None) -> ir.Value | None:
    return None if matrix is None else op.Transpose(matrix, perm=[1, 0])


def _filled(op: Ops, found: Operands, y: ir.Value) -> Operands:
    """With zeros for a first state that is left out."""
    zeros = zeros_below(op, y) if found.h is None or found.c is None else None
    h, c = (zeros if v is None else v for v in (found.h, found.c))
    return Operands(found.x, found.w, found.r, found.wb, found.rb, h, c, found.p)


def _there(value: ir.Value | None) -> ir.Value:
    assert value is not None
    return value


def zeros_below(op: Ops, y: ir.Value) -> ir.Value:
    """[N, H] from [T, N, H]. They wait for no value of y: sizes are read where they come in."""
    shape = dims.of(y)[1:]
    out = op.zeros(y.dtype, op.as_tensor(shape))
    out.shape = ir.Shape(shape)
    return out


def _split(op: Ops, value: ir.Value, count: int, axis: int) -> Sequence[ir.Value]:
    return op.emit("Split", (value,), {"axis": axis, "num_outputs": count}, count)


def split(op: Ops, value: ir.Value, count: int) -> Sequence[ir.Value]:
    """The gates of a value [·, G·H]."""
    return _split(op, value, count, -1)


def add_up(op: Ops, parts: Sequence[ir.Value | None]) -> ir.Value | None:
    known = [v for v in parts if v is not None]
    return op.add_all(known) if known else None


def product(op: Ops, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    return None if a is None or b is None else op.MatMul(a, b)
