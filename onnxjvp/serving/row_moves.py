"""How rows move: operators that reorder, join, cut and pick elements."""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir
import sympy

from onnxjvp.serving.row_rules import _first, _need_shared, _same, one_layout, rule
from onnxjvp.serving.row_state import Context, Dependent, Rows, State


@rule("Transpose")
def transposed(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    order = node.attributes.get("perm")
    perm = list(reversed(range(len(sizes)))) if order is None else list(order.as_ints())
    return [replace(rows, axis=[p % len(sizes) for p in perm].index(rows.axis))]


@rule("Reshape Flatten Squeeze Unsqueeze")
def reshaped(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    if any(context.rows(value) for value in node.inputs[1:]):
        raise Dependent("its sizes depend on the samples")
    made = context.certain(node.outputs[0])
    growing = [axis for axis, size in enumerate(made) if context.grows(size)]
    if len(growing) != 1:
        raise Dependent("it puts the samples on no axis of their own")
    (axis,) = growing
    if sympy.expand(sympy.Mul(*sizes) - sympy.Mul(*made)) != 0:
        raise Dependent("how many elements it has is not known")
    if rows.outer is None:
        slices = (sizes[: rows.axis], made[:axis]), (sizes[rows.axis + 1 :], made[axis + 1 :])
        if len(sizes) > 1 and any(sympy.Mul(*old) != sympy.Mul(*new) for old, new in slices):
            raise Dependent("it moves equal slices to where they are no slices")
        return [replace(rows, axis=axis)]
    before = sympy.Mul(rows.outer, *sizes[: rows.axis])
    after = sympy.Mul(rows.inner, *sizes[rows.axis + 1 :])
    outer = _exactly(before, sympy.Mul(*made[:axis]))
    inner = _exactly(after, sympy.Mul(*made[axis + 1 :]))
    return [replace(rows, axis=axis, outer=outer, inner=inner)]


def _exactly(total: sympy.Expr, part: sympy.Expr) -> sympy.Expr:
    """total / part, which has to be a whole number whatever the symbols are."""
    quotient = sympy.cancel(total / part)
    if sympy.denom(quotient) != 1:
        raise Dependent("it splits or joins the samples in a way that is not followed")
    return quotient


@rule("Concat")
def joined(context: Context, node: ir.Node) -> list[State]:
    values = [v for v in node.inputs if v is not None]
    found = [context.rows(v) for v in values]
    rank = len(context.dims(node.outputs[0]))
    axis = node.attributes["axis"].as_int() % rank
    live = [rows for rows in found if rows is not None]
    if len(live) != len(values) or len({rows.axis for rows in live}) > 1:
        raise Dependent("what it joins does not all have a row for each sample")
    if axis != live[0].axis:
        return [one_layout(live)]
    inner = {rows.inner for rows in live if rows.outer is not None}
    if len(inner) != 1 or any(rows.refers for rows in live):
        raise Dependent("it joins samples that are in different order")
    (size,) = inner
    # every part has to hold whole turns of the samples: what follows it is shifted otherwise
    outers = [_exactly(context.dims(v)[axis], context.batch * size) for v in values]
    return [Rows(axis, sympy.Add(*outers), size)]


@rule("Split")
def split(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    if any(context.rows(value) for value in node.inputs[1:]):
        raise Dependent("its sizes depend on the samples")
    if node.attributes.get_int("axis", 0) % len(sizes) != rows.axis:
        _need_shared(context, *node.inputs[1:])
        return _same(node, rows)
    if rows.outer is None:
        return _same(node, rows)
    found: list[State] = []
    for value in node.outputs:
        size = context.dims(value)[rows.axis]
        found.append(replace(rows, outer=_exactly(size, context.batch * rows.inner)))
    return found


@rule("Slice")
def sliced(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    starts = context.source.shapes.ints(node.inputs[1])
    axes = context.source.shapes.ints(given)
    if given is None and starts is not None:
        axes = tuple(range(len(starts)))
    if axes is None or any(axis % len(sizes) == rows.axis for axis in axes):
        raise Dependent("it cuts along the axis of samples, or one that is not known")
    return [rows]


@rule("Pad")
def padded(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    pads = context.source.shapes.ints(node.inputs[1])
    given = node.inputs[3] if len(node.inputs) > 3 else None
    axes = tuple(range(len(sizes))) if given is None else context.source.shapes.ints(given)
    if pads is None or axes is None:
        raise Dependent("what it pads is not known")
    for index, axis in enumerate(axes):
        if axis % len(sizes) == rows.axis and (pads[index] or pads[index + len(axes)]):
            raise Dependent("it pads along the axis of samples")
    return [rows]


@rule("Expand Tile")
def expanded(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    if any(context.rows(value) for value in node.inputs[1:]):
        raise Dependent("its sizes depend on the samples")
    made = context.certain(node.outputs[0])
    axis = len(made) - len(sizes) + rows.axis
    if made[axis] != sizes[rows.axis]:
        raise Dependent("it repeats along the axis of samples")
    if any(context.grows(size) for i, size in enumerate(made) if i != axis):
        raise Dependent("it repeats a sample as often as there are samples")
    return [replace(rows, axis=axis)]


@rule("Gather")
def gathered(context: Context, node: ir.Node) -> list[State]:
    data, indices = node.inputs
    assert data is not None and indices is not None
    sizes, chosen = context.dims(data), context.dims(indices)
    axis = node.attributes.get_int("axis", 0) % len(sizes)
    rows, which = context.rows(data), context.rows(indices)
    if rows is None and which is not None and which.refers is None:
        _need_shared(context, data)
        return [replace(which, axis=axis + which.axis)]
    if rows is not None and which is None and rows.axis != axis:
        _need_shared(context, indices)
        return [replace(rows, axis=rows.axis + (len(chosen) - 1 if axis < rows.axis else 0))]
    if rows and which and rows.axis == axis and which.refers == (rows.outer, rows.inner):
        return [replace(which, axis=axis + which.axis, refers=rows.refers)]
    raise Dependent("it picks samples by an index")


@rule("GatherElements")
def picked(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    which = context.rows(node.inputs[1])
    axis = node.attributes.get_int("axis", 0) % len(sizes)
    _, size = (context.dims(v)[rows.axis : rows.axis + 1] for v in node.inputs if v is not None)
    if which is None or axis == rows.axis or which.axis != rows.axis or size[0] != sizes[rows.axis]:
        raise Dependent("it picks samples by an index")
    return [one_layout([rows, which])]


@rule("ScatterElements")
def scattered(context: Context, node: ir.Node) -> list[State]:
    values = [v for v in node.inputs if v is not None]
    found = [rows for v in values if (rows := context.rows(v)) is not None]
    if len(found) != 3 or len({rows.axis for rows in found}) != 1:
        raise Dependent("what it scatters does not all have a row for each sample")
    data, which, updates = found
    sizes = context.dims(values[0])
    axis = node.attributes.get_int("axis", 0) % len(sizes)
    if axis != data.axis and which.refers is None:
        if len({context.dims(v)[data.axis] for v in values}) > 1:
            raise Dependent("it scatters into some of the samples")
        return [one_layout(found)]
    if len(sizes) == 1 and which.refers is not None and data.refers is None:
        moved = one_layout([replace(which, refers=None), updates])
        into = Rows(0, *which.refers)
        one_layout([data, into])
        if moved.outer is None or which.outer is None:
            raise Dependent("its indices are in an order that is not followed")
        return [into]
    raise Dependent("it puts elements among the samples by an index")


@rule("OneHot")
def one_hot(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    axis = node.attributes.get_int("axis", -1) % (len(sizes) + 1)
    return [replace(rows, axis=rows.axis + (axis <= rows.axis))]
