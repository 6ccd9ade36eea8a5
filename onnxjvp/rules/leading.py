"""How a node meets a leading axis: whether it acts row by row on axis 0, and how its axes shift.

One entry per operator, read by whatever runs several values at once. An entry returns None where
it cannot say; the node then runs once per lane, which is always right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.graph.ops import dim, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.graph.stacked import Lanes, Operand, Stacked

Leading = Callable[[Lanes, ir.Node, Sequence[Operand]], "list[Stacked] | None"]
LEADING: dict[str, Leading] = {}


def leading(names: str) -> Callable[[Leading], Leading]:
    def register(function: Leading) -> Leading:
        for name in names.split():
            assert name not in LEADING, name
            LEADING[name] = function
        return function

    return register


def apply(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    """The node over stacks of values, in as few nodes as its operator allows."""
    function = None if node.domain else LEADING.get(node.op_type)
    stacks = None if function is None else function(lanes, node, operands)
    return lanes.lane_by_lane(node, operands) if stacks is None else stacks


def _only_first(operands: Sequence[Operand]) -> Stacked | None:
    """The first operand, if it is the only stack."""
    first, *rest = operands
    alone = isinstance(first, Stacked) and not any(isinstance(v, Stacked) for v in rest)
    return first if alone and isinstance(first, Stacked) else None


def _axis(node: ir.Node, default: int, n: int) -> int:
    return node.attributes.get_int("axis", default) % n


@leading(
    """Add Sub Mul Div Sum Max Min Mean Pow PRelu Where Equal Greater Less GreaterOrEqual
    LessOrEqual And Or Not Neg Identity Cast Relu LeakyRelu Abs Sign Sqrt Exp Log Reciprocal Erf
    Tanh Sigmoid Clip"""
)
def broadcasting(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    out = node.outputs[0]
    n = rank(out)

    def by_row(operand: Operand) -> bool:
        if operand is None:
            return True
        if isinstance(operand, Stacked):
            return rank(operand.like) == n and (n == 0 or dim(operand.like, 0) == dim(out, 0))
        return rank(operand) < n or n == 0 or dim(operand, 0) == 1

    if all(map(by_row, operands)):
        return lanes.on_folded(node, operands)
    aligned: list[Operand] = []
    for operand in operands:
        if isinstance(operand, Stacked) and rank(operand.like) < n:
            new = range(1, 1 + n - rank(operand.like))
            aligned.append(lanes.op.unsqueeze(lanes.unfold(operand), *new))
        else:
            aligned.append(operand)
    return lanes.on_unfolded(node, aligned)


@leading(
    """Conv ConvTranspose AveragePool GlobalAveragePool MaxPool BatchNormalization DepthToSpace
    SpaceToDepth"""
)
def batched(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """Axis 0 of the first operand is a batch by the operator's definition."""
    return lanes.on_folded(node, operands) if _only_first(operands) else None


@leading("Gemm")
def gemm(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    if _only_first(operands) is None or node.attributes.get_int("transA", 0) == 1:
        return None
    bias = operands[2] if len(operands) > 2 else None
    if isinstance(bias, ir.Value) and rank(bias) == 2 and dim(bias, 0) != 1:
        return None
    return lanes.on_folded(node, operands)


@leading("MatMul")
def matmul(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    a, b = operands
    if isinstance(a, Stacked) and isinstance(b, ir.Value):
        if rank(b) <= 2 <= rank(a.like) and rank(node.outputs[0]) == rank(a.like):
            return lanes.on_folded(node, operands)
        other, stack = b, a
    elif isinstance(b, Stacked) and isinstance(a, ir.Value):
        other, stack = a, b
    else:
        return None
    if rank(other) < 2 or rank(stack.like) < max(2, rank(other)):
        return None  # a batch of the other operand would have to meet the lanes' axis
    new = range(1, 1 + rank(node.outputs[0]) - rank(stack.like))
    wide = lanes.op.unsqueeze(lanes.unfold(stack), *new)
    return lanes.on_unfolded(node, [wide, b] if stack is a else [a, wide])


@leading("Reshape Flatten Squeeze Unsqueeze")
def reshaping(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    """The stack is one block of memory: reshape it from folded to folded."""
    op, data, out = lanes.op, _only_first(operands), node.outputs[0]
    if data is None:
        return None
    folded = lanes.folded_dims(out)
    whole = op.reshape_to(lanes.fold(data), folded)
    if whole is not None:
        return [Stacked(out, folded=whole)]
    target = operands[1] if node.op_type == "Reshape" else None
    if not isinstance(target, ir.Value):
        return None
    content = op.shapes.content(target)
    if content is None or 0 in content:  # 0 copies the axis at its own index, which has moved
        return None
    shape = op.Concat(op.ints([lanes.count]), target, axis=0)
    explicit = 1 if -1 not in content else None  # then a 0 at run time is a size, not a copy
    unfolded = op.Reshape(lanes.fold(data), shape, allowzero=explicit)
    unfolded.shape = ir.Shape(lanes.unfolded_dims(out))
    return [Stacked(out, unfolded=unfolded)]


@leading("Transpose")
def transpose(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    n = rank(node.outputs[0])
    given = node.attributes.get_ints("perm")
    perm = list(reversed(range(n))) if given is None else list(given)
    if perm and perm[0] == 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, perm=[0, *(p + 1 for p in perm)])


@leading("Concat")
def concat(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked]:
    axis = _axis(node, 0, rank(node.outputs[0]))
    stacks = [lanes.repeat(v) if isinstance(v, ir.Value) else v for v in operands]
    if axis > 0:
        return lanes.on_folded(node, stacks)
    return lanes.on_unfolded(node, stacks, axis=1)


@leading("Split")
def split(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    axis = _axis(node, 0, rank(node.outputs[0]))
    if _only_first(operands) is None:
        return None
    if axis > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axis=1)


@leading("Gather")
def gather(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data = _only_first(operands)
    if data is None:
        return None
    axis = _axis(node, 0, rank(data.like))
    if axis > 0:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, operands, axis=1)


@leading("GatherElements")
def gather_elements(
    lanes: Lanes, node: ir.Node, operands: Sequence[Operand]
) -> list[Stacked] | None:
    data, indices = _only_first(operands), operands[1]
    if data is None or not isinstance(indices, ir.Value):
        return None
    axis = _axis(node, 0, rank(data.like))
    same = lanes.unfold(lanes.repeat(indices))
    return lanes.on_unfolded(node, [data, same], axis=axis + 1)


@leading("Slice")
def slice_(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data = lanes.op, _only_first(operands)
    starts = node.inputs[1]
    if data is None or starts is None:
        return None
    given = node.inputs[3] if len(node.inputs) > 3 else None
    if given is not None:
        axes = op.shapes.ints(given)
    else:
        count = dim(starts, 0)
        axes = tuple(range(count)) if isinstance(count, int) else None
    if axes is None:
        return None
    axes = tuple(a % rank(data.like) for a in axes)
    if 0 not in axes:
        return lanes.on_folded(node, operands)
    shifted = op.ints([a + 1 for a in axes])
    return lanes.on_unfolded(node, [data, operands[1], operands[2], shifted, *operands[4:]])


@leading("Pad")
def pad(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data = lanes.op, _only_first(operands)
    pads = op.shapes.ints(node.inputs[1])
    if data is None or pads is None or (len(operands) > 3 and operands[3] is not None):
        return None
    n = rank(data.like)
    if pads[0] == pads[n] == 0:
        return lanes.on_folded(node, operands)
    wide = op.ints([0, *pads[:n], 0, *pads[n:]])
    return lanes.on_unfolded(node, [data, wide, *operands[2:3]])


@leading("ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd")
def reduce(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data = lanes.op, _only_first(operands)
    if data is None:
        return None
    n = rank(data.like)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = op.shapes.ints(given) if given is not None else ()
    if axes is None:
        return None
    if not axes:
        if node.attributes.get_int("noop_with_empty_axes", 0):
            return lanes.on_folded(node, operands)
        axes = tuple(range(n))
    axes = tuple(a % n for a in axes)
    if 0 not in axes:
        return lanes.on_folded(node, operands)
    return lanes.on_unfolded(node, [data, op.ints([a + 1 for a in axes])])


@leading("Expand")
def expand(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    op, data, shape = lanes.op, _only_first(operands), operands[1]
    n = rank(node.outputs[0])
    if data is None or not isinstance(shape, ir.Value) or dim(shape, 0) != n:
        return None
    new = range(1, 1 + n - rank(data.like))
    wide = op.unsqueeze(lanes.unfold(data), *new)
    target = op.Concat(op.ints([lanes.count]), shape, axis=0)
    return lanes.on_unfolded(node, [wide, target])


@leading("Tile")
def tile(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data, repeats = _only_first(operands), operands[1]
    if data is None or not isinstance(repeats, ir.Value):
        return None
    return lanes.on_unfolded(node, [data, lanes.op.Concat(lanes.op.ints([1]), repeats, axis=0)])


@leading("Resize")
def resize(lanes: Lanes, node: ir.Node, operands: Sequence[Operand]) -> list[Stacked] | None:
    data = _only_first(operands)
    if data is None or dim(data.like, 0) != dim(node.outputs[0], 0):
        return None
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return None
    axes = node.attributes.get_ints("axes")
    if axes is not None and 0 not in [a % rank(data.like) for a in axes]:
        return lanes.on_folded(node, operands)
    if axes is not None:
        return None
    sizes = operands[3] if len(operands) > 3 else None
    if isinstance(sizes, ir.Value):
        grown = lanes.op.Mul(sizes, lanes.op.ints([lanes.count] + [1] * (rank(data.like) - 1)))
        return lanes.on_folded(node, [*operands[:3], grown])
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if scales is None or float(scales[0]) != 1:
        return None
    return lanes.on_folded(node, operands)
