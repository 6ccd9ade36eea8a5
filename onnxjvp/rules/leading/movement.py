"""Operators that move elements."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import dim, rank
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.rules.leading.table import axis_of, given, known_axes, leading, only, shifted

# -- shapes ------------------------------------------------------------------------------------


@leading("Reshape Flatten Squeeze Unsqueeze")
def reshaping(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """The stack is one block of memory: reshape it from one form to the other."""
    data, out = only(operands), node.outputs[0]
    if data is None:
        return None
    viewed = lanes.viewed(data, out)
    if viewed is not None:
        return [viewed]
    by = given(operands, 1)
    if node.op_type == "Flatten":
        return _flattened(lanes, node, data)
    if not isinstance(by, ir.Value):
        return None
    if node.op_type != "Reshape":
        n = rank(data.like) if node.op_type == "Squeeze" else rank(out)
        return lanes.on_unfolded(node, [data, shifted(lanes, by, n)])
    return _reshaped(lanes, node, data, by)


def _flattened(lanes: Lanes, node: ir.Node, data: Stacked) -> list[Stacked]:
    n = rank(data.like)
    axis = node.attributes.get_int("axis", 1)
    axis += n if axis < 0 else 0
    if axis == 0:  # one row in every lane: a row for each lane
        return lanes.on_folded(node, [lanes.unfold(data)], axis=1)
    return lanes.on_folded(node, [data], axis=axis)


def _reshaped(lanes: Lanes, node: ir.Node, data: Stacked, target: ir.Value) -> list[Stacked] | None:
    """Reshape to sizes that are known only at run time."""
    op, out = lanes.op, node.outputs[0]
    content = op.shapes.content(target)
    copies = not node.attributes.get_int("allowzero", 0)
    explicit = None if content is not None and -1 in content else 1
    if copies and (content is None or 0 in content):
        # 0 copies the axis at its own index, which has moved
        target = _with_copies(lanes, data, target, rank(out))
        explicit = 1 if content is not None and -1 not in content else None
    unfolded = op.Reshape(
        lanes.unfold(data), op.Concat(lanes.size, target, axis=0), allowzero=explicit
    )
    return [lanes.unfolded(out, unfolded)]


def _with_copies(lanes: Lanes, data: Stacked, target: ir.Value, n: int) -> ir.Value:
    """The target of a Reshape to rank n, its zeros replaced by the sizes that they stand for."""
    op, own = lanes.op, rank(data.like)
    sizes = lanes.shape_of(lanes.unfold(data), 1, 1 + min(n, own))
    if n > own:
        sizes = op.Concat(sizes, op.ints([0] * (n - own)), axis=0)
    return op.Where(op.Equal(target, op.ints([0])), sizes, target)


@leading("Transpose")
def transpose(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    n = rank(node.outputs[0])
    listed = node.attributes.get_ints("perm")
    perm = list(reversed(range(n))) if listed is None else list(listed)
    if perm and perm[0] == 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, perm=[0, *(p + 1 for p in perm)])


@leading("Expand")
def expand(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data, shape = lanes.op, only(operands), operands[1]
    length = dim(shape, 0) if isinstance(shape, ir.Value) else None
    if data is None or not isinstance(shape, ir.Value) or not isinstance(length, int):
        return None
    n = rank(node.outputs[0])
    wide = op.unsqueeze(lanes.unfold(data), *range(1, 1 + n - rank(data.like)))
    target = op.Concat(op.ints([1] * (1 + n - length)), shape, axis=0)
    return lanes.on_unfolded(node, [wide, target])


@leading("Tile")
def tile(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data, repeats = only(operands), operands[1]
    if data is None or not isinstance(repeats, ir.Value):
        return None
    return lanes.on_unfolded(node, [data, lanes.op.Concat(lanes.op.ints([1]), repeats, axis=0)])


# -- parts -------------------------------------------------------------------------------------


@leading("Concat")
def concat(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    axis = axis_of(node, 0, rank(node.outputs[0]))
    stacks = [lanes.repeat(v) if isinstance(v, ir.Value) else v for v in operands]
    if axis > 0:
        return lanes.on_folded(node, stacks)
    return lanes.on_unfolded(node, stacks, axis=1)


@leading("Split")
def split(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    axis = axis_of(node, 0, rank(node.outputs[0]))
    if only(operands) is None:
        return None
    if axis > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axis=1)


@leading("Slice")
def slice_(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data, starts = lanes.op, only(operands), operands[1]
    if data is None or not isinstance(starts, ir.Value):
        return None
    n, axes = rank(data.like), given(operands, 3)
    if axes is None:
        length = dim(starts, 0)
        if not isinstance(length, int):
            return None
        axes = op.ints(range(length))
    assert isinstance(axes, ir.Value)
    known = known_axes(axes, n)
    if known is not None and 0 not in known:
        return lanes.on_folded(node, operands)
    moved = shifted(lanes, axes, n)
    return lanes.on_unfolded(node, [data, *operands[1:3], moved, *operands[4:]])


@leading("Pad")
def pad(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data, pads = lanes.op, only(operands), operands[1]
    if data is None or not isinstance(pads, ir.Value):
        return None
    n, axes = rank(data.like), given(operands, 3)
    assert not isinstance(axes, Stacked)
    known = tuple(range(n)) if axes is None else known_axes(axes, n)
    sizes = op.shapes.ints(pads)
    if known is not None and sizes is not None:
        touched = {a for a, *ends in zip(known, *_halves(sizes), strict=True) if any(ends)}
        if 0 not in touched:
            return lanes.on_folded(node, operands)
    if axes is None and sizes is not None:
        before, after = _halves(sizes)
        return lanes.on_unfolded(node, [data, op.ints([0, *before, 0, *after]), *operands[2:3]])
    moved = shifted(lanes, op.ints(range(n)) if axes is None else axes, n)
    return lanes.on_unfolded(node, [data, pads, given(operands, 2), moved])


def _halves(pads: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
    return pads[: len(pads) // 2], pads[len(pads) // 2 :]


# -- by index ----------------------------------------------------------------------------------


@leading("Gather")
def gather(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data = only(operands)
    if data is None:
        return None
    axis = axis_of(node, 0, rank(data.like))
    if axis > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axis=1)


@leading("GatherElements")
def gather_elements(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    data, indices = only(operands), operands[1]
    if data is None or not isinstance(indices, ir.Value):
        return None
    axis = axis_of(node, 0, rank(data.like))
    return lanes.on_unfolded(node, [data, lanes.repeat(indices)], axis=axis + 1)


@leading("GatherND")
def gather_nd(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data, indices = only(operands), operands[1]
    if data is None or not isinstance(indices, ir.Value):
        return None
    batch = node.attributes.get_int("batch_dims", 0)
    return lanes.on_unfolded(node, [data, lanes.repeat(indices)], batch_dims=batch + 1)


@leading("ScatterElements")
def scatter_elements(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    if isinstance(operands[1], Stacked):
        return None
    axis = axis_of(node, 0, rank(node.outputs[0]))
    # never folded: indices may have fewer rows than the data
    stacks = [lanes.repeat(v) if isinstance(v, ir.Value) else v for v in operands]
    return lanes.on_unfolded(node, stacks, axis=axis + 1)


@leading("ScatterND")
def scatter_nd(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """With the lanes on the last axis, the indices serve all of them as they are."""
    op, (data, indices, updates), out = lanes.op, operands, node.outputs[0]
    if not isinstance(indices, ir.Value):
        return None

    def lanes_last(operand: Operand) -> ir.Value:
        assert operand is not None
        stack = lanes.repeat(operand) if isinstance(operand, ir.Value) else operand
        n = rank(stack.like)
        return op.Transpose(lanes.unfold(stack), perm=[*range(1, n + 1), 0])

    (moved,) = op.like(node, [lanes_last(data), indices, lanes_last(updates)])
    n = rank(out)
    return [lanes.unfolded(out, op.Transpose(moved, perm=[n, *range(n)]))]


@leading("ReverseSequence")
def reverse_sequence(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    """Its batch and time are axes 0 and 1 by definition, so the lanes go behind them."""
    op, data = lanes.op, only(operands)
    if data is None:
        return None
    tail = range(3, rank(data.like) + 1)
    behind = op.Transpose(lanes.unfold(data), perm=[1, 2, 0, *tail])
    (reversed_,) = op.like(node, [behind, *(_value(v) for v in operands[1:])])
    return [lanes.unfolded(node.outputs[0], op.Transpose(reversed_, perm=[2, 0, 1, *tail]))]


def _value(operand: Operand) -> ir.Value | None:
    assert not isinstance(operand, Stacked)
    return operand
