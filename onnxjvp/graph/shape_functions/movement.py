"""Operators that move elements, and those that compute with shapes."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shape_functions.operands import INT64, integer, ints, operand, optional, unknown
from onnxjvp.graph.shapes import Shapes, constant, shape_function

# -- movement ----------------------------------------------------------------------------------


@shape_function("Reshape")
def reshape(s: Shapes, node: ir.Node) -> None:
    x, target = dims.of(operand(node)), s.content(operand(node, 1))
    if target is None:
        rank = dims.of(operand(node, 1))[0]
        s.put(
            node.outputs[0], unknown(rank) if isinstance(rank, int) else None, operand(node).dtype
        )
        return
    copies = not integer(node, "allowzero", 0)
    out = [x[i] if d == 0 and copies else d for i, d in enumerate(target)]
    if -1 in out:
        at = out.index(-1)
        rest = dims.product(d for i, d in enumerate(out) if i != at)
        out[at] = dims.quotient(dims.product(x), rest)
    s.put(node.outputs[0], out, operand(node).dtype, s.content(operand(node)))


def _rearranged(
    s: Shapes, value: ir.Value, move: Callable[[np.ndarray], np.ndarray]
) -> Dims | None:
    """The content of a value whose elements are moved: tables of pads are, in torch's exports."""
    content, shape = s.content(value), dims.static(value)
    if content is None or shape is None:
        return None
    places = move(np.arange(len(content)).reshape(shape))
    return tuple(content[i] for i in places.reshape(-1))


@shape_function("Flatten")
def flatten(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    axis = integer(node, "axis", 1)
    axis += len(x) if axis < 0 else 0
    s.put(node.outputs[0], (dims.product(x[:axis]), dims.product(x[axis:])), operand(node).dtype)


@shape_function("Transpose")
def transpose(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    perm = ints(node, "perm") or tuple(reversed(range(len(x))))
    content = _rearranged(s, operand(node), lambda table: table.transpose(perm))
    s.put(node.outputs[0], [x[p] for p in perm], operand(node).dtype, content)


@shape_function("Squeeze")
def squeeze(s: Shapes, node: ir.Node) -> None:
    x, axes = dims.of(operand(node)), optional(node, 1)
    if axes is None:
        dropped = {i for i, d in enumerate(x) if d == 1}
        if not dims.is_static(x):
            s.put(node.outputs[0], None, operand(node).dtype)
            return
    else:
        found = s.ints(axes)
        if found is None:
            s.put(node.outputs[0], None, operand(node).dtype)
            return
        dropped = {a % len(x) for a in found}
    out = [d for i, d in enumerate(x) if i not in dropped]
    s.put(node.outputs[0], out, operand(node).dtype, s.content(operand(node)))


@shape_function("Unsqueeze")
def unsqueeze(s: Shapes, node: ir.Node) -> None:
    x, axes = list(dims.of(operand(node))), s.ints(operand(node, 1))
    if axes is None:
        s.put(node.outputs[0], None, operand(node).dtype)
        return
    rank = len(x) + len(axes)
    for axis in sorted(a % rank for a in axes):
        x.insert(axis, 1)
    s.put(node.outputs[0], x, operand(node).dtype, s.content(operand(node)))


@shape_function("Expand")
def expand(s: Shapes, node: ir.Node) -> None:
    x, target = dims.of(operand(node)), s.content(operand(node, 1))
    if target is not None:
        out: Dims | None = dims.broadcast_all(x, target)
    else:
        length = dims.of(operand(node, 1))[0]
        out = unknown(max(length, len(x))) if isinstance(length, int) else None
    s.put(node.outputs[0], out, operand(node).dtype)


@shape_function("Tile")
def tile(s: Shapes, node: ir.Node) -> None:
    x, repeats = dims.of(operand(node)), s.content(operand(node, 1))
    out = unknown(len(x))
    if repeats is not None:
        out = tuple(dims.simplest(d * r) for d, r in zip(x, repeats, strict=True))
    s.put(node.outputs[0], out, operand(node).dtype)


@shape_function("Concat")
def concat(s: Shapes, node: ir.Node) -> None:
    shapes = [dims.of(v) for v in node.inputs if v is not None]
    axis = integer(node, "axis", 0) % len(shapes[0])
    out = list(shapes[0])
    for i in range(len(out)):
        static = [x[i] for x in shapes if isinstance(x[i], int)]
        out[i] = static[0] if static else out[i]
    out[axis] = 0
    for shape in shapes:
        out[axis] = dims.simplest(dims.computed(operator.add, out[axis], shape[axis]))
    parts = [s.content(v) for v in node.inputs]
    content: Dims | None = ()
    for part in parts:
        content = None if content is None or part is None else content + part
    s.put(node.outputs[0], out, operand(node).dtype, content if len(out) == 1 else None)


@shape_function("Split")
def split(s: Shapes, node: ir.Node) -> None:
    x, count = dims.of(operand(node)), len(node.outputs)
    axis = integer(node, "axis", 0) % len(x)
    sizes: Sequence[Dim] | None
    if optional(node, 1) is not None:
        sizes = s.content(node.inputs[1])
    elif isinstance(total := x[axis], int):
        size = -(-total // count)
        sizes = [max(0, min(size, total - i * size)) for i in range(count)]
    else:  # the last piece takes what is left
        piece = dims.simplest((total + (count - 1)) // count)
        sizes = [*(piece,) * (count - 1), dims.simplest(total - piece * (count - 1))]
    rest = s.content(operand(node)) if len(x) == 1 else None
    for i, output in enumerate(node.outputs):
        size_i = dims.fresh() if sizes is None else sizes[i]
        known = size_i if isinstance(size_i, int) else None
        content = None if rest is None or known is None else rest[:known]
        rest = None if rest is None or known is None else rest[known:]
        s.put(output, (*x[:axis], size_i, *x[axis + 1 :]), operand(node).dtype, content)


def _sliced(size: Dim, start: int, end: int, step: int) -> Dim:
    if isinstance(size, int):
        return len(range(*slice(start, end, step).indices(size)))
    if step != 1:
        return dims.fresh()
    low: Dim = start if start >= 0 else size + start
    huge = end > 1 << 30
    high: Dim = size if huge else (end if end >= 0 else size + end)
    if (start < 0 and not huge) or (end >= 0 and not huge):
        return dims.fresh()  # depends on whether the symbol is that large
    length = dims.simplest(high - low)
    return length if dims.is_count(length) else dims.fresh()  # nothing is left of a small one


@shape_function("Slice")
def slice_(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    starts, ends = s.ints(operand(node, 1)), s.ints(operand(node, 2))
    named, stepped = optional(node, 3), optional(node, 4)
    count = dims.of(operand(node, 1))[0]
    if isinstance(count, int) and count > len(x):
        raise ValueError(f"{count} positions for {len(x)} axes")
    if named is not None:
        axes = s.ints(named)
    else:
        axes = tuple(range(count)) if isinstance(count, int) else None
    if axes is None:
        s.put(node.outputs[0], unknown(len(x)), operand(node).dtype)
        return
    steps = s.ints(stepped) if stepped is not None else (1,) * len(axes)
    out, content = list(x), None
    if starts is None or ends is None or steps is None:
        for axis in axes:
            out[axis % len(x)] = dims.fresh()
    else:
        at = [slice(None)] * len(x)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            out[axis % len(x)] = _sliced(x[axis % len(x)], start, end, step)
            at[axis % len(x)] = slice(start, end, step)
        content = _rearranged(s, operand(node), lambda table: table[tuple(at)])
    s.put(node.outputs[0], out, operand(node).dtype, content)


@shape_function("Gather")
def gather(s: Shapes, node: ir.Node) -> None:
    x, indices = dims.of(operand(node)), dims.of(operand(node, 1))
    axis = integer(node, "axis", 0) % len(x)
    content, picked = s.content(operand(node)), s.ints(operand(node, 1))
    if content is not None and picked is not None and len(x) == 1:
        inside = all(-len(content) <= p < len(content) for p in picked)
        content = tuple(content[p] for p in picked) if inside else None
    else:
        content = None
    s.put(node.outputs[0], x[:axis] + indices + x[axis + 1 :], operand(node).dtype, content)


@shape_function("GatherElements")
def gather_elements(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node, 1)), operand(node).dtype)


@shape_function("Pad")
def pad(s: Shapes, node: ir.Node) -> None:
    x, pads = dims.of(operand(node)), s.content(operand(node, 1))
    named = optional(node, 3)
    axes = s.ints(named) if named is not None else tuple(range(len(x)))
    out = list(unknown(len(x)))
    if pads is not None and axes is not None:
        out = list(x)
        for i, axis in enumerate(axes):
            both, k = pads[i] + pads[i + len(axes)], axis % len(x)
            out[k] = dims.simplest(dims.computed(operator.add, x[k], both))
    s.put(node.outputs[0], out, operand(node).dtype)


@shape_function("DepthToSpace SpaceToDepth")
def depth_space(s: Shapes, node: ir.Node) -> None:
    n, c, *space = dims.of(operand(node))
    b = integer(node, "blocksize", 1)
    if node.op_type == "DepthToSpace":
        out = (n, dims.quotient(c, b * b), *(dims.simplest(d * b) for d in space))
    else:
        out = (n, dims.simplest(c * b * b), *(dims.quotient(d, b) for d in space))
    s.put(node.outputs[0], out, operand(node).dtype)


@shape_function("Resize")
def resize(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    axes = ints(node, "axes") or tuple(range(len(x)))
    sizes, scales = s.content(optional(node, 3)), constant(optional(node, 2))
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    out = list(x)
    for i, axis in enumerate(axes):
        a = axis % len(x)
        if sizes is not None and policy == "stretch":
            out[a] = sizes[i]
        elif scales is not None and scales.size and float(scales[i]).is_integer():
            out[a] = dims.simplest(x[a] * int(scales[i]))
        elif scales is not None and scales.size and isinstance(size := x[a], int):
            out[a] = int(size * float(scales[i]))
        else:
            out[a] = dims.fresh()
    s.put(node.outputs[0], out, operand(node).dtype)


# -- shapes as data ----------------------------------------------------------------------------


@shape_function("Shape")
def shape(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    start, end = integer(node, "start", 0), integer(node, "end", len(x))
    content = x[slice(start, end)]
    s.put(node.outputs[0], (len(content),), INT64, content)


@shape_function("Size")
def size(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], (), INT64, (dims.product(dims.of(operand(node))),))


@shape_function("ConstantOfShape")
def constant_of_shape(s: Shapes, node: ir.Node) -> None:
    target = s.content(operand(node))
    length = dims.of(operand(node))[0]
    out = target if target is not None else unknown(length) if isinstance(length, int) else None
    fill = node.attributes.get("value")
    tensor = None if fill is None else fill.as_tensor()
    dtype = ir.DataType.FLOAT if tensor is None else tensor.dtype
    content = None
    if dtype in (INT64, ir.DataType.INT32) and tensor is not None and out is not None:
        count = dims.product(out)
        if len(out) < 2 and isinstance(count, int) and count <= 64:
            content = (int(tensor.numpy().reshape(-1)[0]),) * count
    s.put(node.outputs[0], out, dtype, content)


@shape_function("Range")
def range_(s: Shapes, node: ir.Node) -> None:
    parts = [s.content(v) for v in node.inputs]
    length: Dim = dims.fresh()
    if all(p is not None and len(p) == 1 for p in parts):
        start, limit, delta = (p[0] for p in parts if p)
        if isinstance(start, int) and isinstance(limit, int) and isinstance(delta, int) and delta:
            length = max(0, -(-(limit - start) // delta))
        elif delta == 1 and dims.is_count(steps := dims.computed(operator.sub, limit, start)):
            length = dims.simplest(steps)
    s.put(node.outputs[0], (length,), operand(node).dtype)
