"""How a kernel moves over an image: strides, dilations, padding, at sizes known now or later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims, UnknownTypeError
from onnxjvp.graph.ops import Ops


@dataclass(frozen=True)
class Window:
    """How a kernel moves over the axes behind batch and channels, from `inner` to `outer`."""

    kernel: Dims
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    inner: Dims
    outer: Dims
    #: (before, behind) along each axis; None where that depends on a size known at run time
    pads: tuple[tuple[int, int], ...] | None
    #: whether what is left over of an automatic padding goes behind
    upper: bool = True
    #: rows of `inner` behind the last window, which an automatic padding counts too
    extra: tuple[int, ...] = ()

    @property
    def reach(self) -> Dims:
        """The span of a dilated kernel."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple(dims.simplest((k - 1) * d + 1) for k, d in pairs)

    @property
    def is_static(self) -> bool:
        return dims.is_static((*self.kernel, *self.inner, *self.outer))

    def along(self) -> Sequence[tuple[int, int, tuple[int, int]]]:
        """(stride, reach, pads) of every axis, of a kernel of known size."""
        assert self.pads is not None
        return list(zip(self.strides, map(known_int, self.reach), self.pads, strict=True))


def known_int(dim: Dim) -> int:
    assert isinstance(dim, int)
    return dim


def window(node: ir.Node, kernel: Dims, inner: Dims, outer: Dims) -> Window:
    """The window of a Conv or a pool."""
    n = len(kernel)
    strides = tuple(node.attributes.get_ints("strides") or (1,) * n)
    dilations = tuple(node.attributes.get_ints("dilations") or (1,) * n)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    free = Window(kernel, strides, dilations, inner, outer, None, auto != "SAME_LOWER")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        given = node.attributes.get_ints("pads") if auto == "NOTSET" else None
        return replace(free, pads=pairs(given or (0,) * 2 * n))
    totals = []
    for i, o, s, r in zip(inner, outer, strides, free.reach, strict=True):
        if isinstance(i, int) and isinstance(o, int) and isinstance(r, int):
            totals.append(max((o - 1) * s + r - i, 0))
        elif s == 1 and isinstance(r, int):
            totals.append(r - 1)
        else:
            return free
    return replace(free, pads=tuple(shared(total, free.upper) for total in totals))


def window_of_transpose(node: ir.Node, kernel: Dims, x: Dims, y: Dims) -> Window:
    """The window of the Conv from y to x that a ConvTranspose from x to y is the transpose of.

    Raises:
      UnknownTypeError: the output is larger than the kernel reaches; runtimes differ in what it is.
    """
    n = len(kernel)
    strides = tuple(node.attributes.get_ints("strides") or (1,) * n)
    dilations = tuple(node.attributes.get_ints("dilations") or (1,) * n)
    auto = node.attributes.get_string("auto_pad", "NOTSET")
    extra = tuple(node.attributes.get_ints("output_padding") or (0,) * n)
    free = Window(kernel, strides, dilations, y, x, None, auto == "SAME_UPPER", extra)
    shaped = "output_shape" in node.attributes
    if shaped and not free.is_static:
        return free
    if shaped:
        sizes = zip(*(map(known_int, d) for d in (x, y, free.reach)), strides, extra, strict=True)
        totals = [(i - 1) * s + e + r - o for i, o, r, s, e in sizes]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        if not dims.is_static(free.reach):
            return free
        reached = zip(map(known_int, free.reach), strides, extra, strict=True)
        totals = [e + r - s for r, s, e in reached]
    else:
        given = node.attributes.get_ints("pads") if auto == "NOTSET" else None
        return replace(free, pads=pairs(given or (0,) * 2 * n))
    # less than a stride more than it reaches is an output_padding, which a shape implies
    if any(total <= (-step if shaped else -1) for total, step in zip(totals, strides, strict=True)):
        raise UnknownTypeError("its output is larger than its kernel reaches")
    return replace(free, pads=tuple(shared(max(total, 0), free.upper) for total in totals))


def pairs(flat: Sequence[int]) -> tuple[tuple[int, int], ...]:
    n = len(flat) // 2
    return tuple(zip(flat[:n], flat[n:], strict=True))


def flat(pads: Sequence[tuple[int, int]]) -> list[int]:
    """As an attribute has them."""
    return [*(before for before, _ in pads), *(behind for _, behind in pads)]


def shared(total: int, upper: bool) -> tuple[int, int]:
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


# -- at run time -------------------------------------------------------------------------------


def begins(op: Ops, moves: Window) -> ir.Value:
    """The padding before each axis."""
    if moves.pads is not None:
        return op.ints([before for before, _ in moves.pads])
    total = all_padding(op, moves)
    half = op.Div(total, op.ints([2]))
    return half if moves.upper else op.Sub(total, half)


def all_padding(op: Ops, moves: Window) -> ir.Value:
    """The padding of each axis that makes the last window end with it; none that is negative."""
    reached = last_end(op, moves)
    if any(moves.extra):
        reached = op.Add(reached, op.ints(moves.extra))
    return op.Max(op.Sub(reached, op.as_tensor(moves.inner)), op.ints([0]))


def last_end(op: Ops, moves: Window) -> ir.Value:
    """Where the last window ends, in rows from where the first begins."""
    last = op.Mul(op.Sub(op.as_tensor(moves.outer), op.ints([1])), op.ints(moves.strides))
    return op.Add(last, op.as_tensor(moves.reach))


def around(op: Ops, moves: Window) -> ir.Value:
    """Pads, as Pad takes them, by which the windows cover an axis exactly; some may be negative."""
    begin = begins(op, moves)
    end = op.Sub(last_end(op, moves), op.Add(op.as_tensor(moves.inner), begin))
    return op.Concat(begin, end, axis=0)


def to_the_end(node: ir.Node, moves: Window) -> Window:
    """With ceil_mode the last window may reach beyond the padding: pad up to there."""
    if moves.pads is None or node.attributes.get_int("ceil_mode", 0) == 0 or not moves.is_static:
        return moves  # at run time, `around` says it
    padded = [
        (p[0], max(p[1], (known_int(o) - 1) * s + r - known_int(i) - p[0]))
        for i, o, (s, r, p) in zip(moves.inner, moves.outer, moves.along(), strict=True)
    ]
    return replace(moves, pads=tuple(padded))
