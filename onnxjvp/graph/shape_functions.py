"""The shape functions of operators that move or compute dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shapes import Shapes, constant, shape_function

BOOL, INT64 = ir.DataType.BOOL, ir.DataType.INT64


def _in(node: ir.Node, index: int = 0) -> ir.Value:
    value = node.inputs[index]
    assert value is not None
    return value


def _optional(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _unknown(rank: int) -> Dims:
    return tuple(dims.fresh() for _ in range(rank))


def _int(node: ir.Node, name: str, default: int) -> int:
    return node.attributes.get_int(name, default)


def _ints(node: ir.Node, name: str) -> tuple[int, ...] | None:
    found = node.attributes.get_ints(name)
    return None if found is None else tuple(found)


# -- elementwise -------------------------------------------------------------------------------


@shape_function(
    """Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Clip Cos Cosh CumSum Elu Erf Exp Floor Gelu
    Hardmax HardSigmoid HardSwish Identity InstanceNormalization LeakyRelu Log LogSoftmax
    LpNormalization LRN MeanVarianceNormalization Mish Neg Not PRelu Reciprocal Relu ReverseSequence
    RMSNormalization Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax
    Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu GroupNormalization"""
)
def same_as_first(s: Shapes, node: ir.Node) -> None:
    first = _in(node)
    s.put(node.outputs[0], dims.of(first), first.dtype, s.content(first) if _moves(node) else None)


def _moves(node: ir.Node) -> bool:
    return node.op_type == "Identity"


@shape_function("IsNaN IsInf")
def predicate(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(_in(node)), BOOL)


@shape_function("Cast")
def cast(s: Shapes, node: ir.Node) -> None:
    to = ir.DataType(_int(node, "to", 0))
    content = s.content(_in(node)) if to in (INT64, ir.DataType.INT32) else None
    s.put(node.outputs[0], dims.of(_in(node)), to, content)


@shape_function("CastLike")
def cast_like(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(_in(node)), _in(node, 1).dtype)


@shape_function("ai.onnx.ml::Scaler")
def scaler(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(_in(node)), ir.DataType.FLOAT)


@shape_function("ai.onnx.ml::ArrayFeatureExtractor")
def array_feature_extractor(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    rows = x[:-1] if len(x) > 1 else (1,)
    s.put(node.outputs[0], (*rows, dims.product(dims.of(_in(node, 1)))), _in(node).dtype)


@shape_function("Dropout")
def dropout(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    for mask in node.outputs[1:]:
        s.put(mask, dims.of(_in(node)), BOOL)


@shape_function("BatchNormalization")
def batch_normalization(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    for statistic in node.outputs[1:]:
        s.put(statistic, dims.of(_in(node, 3)), _in(node, 3).dtype)


@shape_function("LayerNormalization")
def layer_normalization(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    shape = dims.of(_in(node))
    axis = _int(node, "axis", -1) % len(shape)
    for statistic in node.outputs[1:]:
        kept = shape[:axis] + (1,) * (len(shape) - axis)
        s.put(statistic, kept, ir.DataType(_int(node, "stash_type", 1)))


Arithmetic = Callable[[Dim, Dim], Dim]


def _truncated(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return int(a / b) if b else dims.fresh()
    return dims.fresh() if isinstance(a, int) or b == 0 else a // b


def _modulo(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        return a % b if b > 0 else dims.fresh()
    return dims.fresh() if isinstance(a, int) or b == 0 else a % b


def _extreme(choose: Callable[..., int]) -> Arithmetic:
    def extreme(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return choose(a, b)
        return a if a == b else dims.fresh()

    return extreme


ARITHMETIC: dict[str, Arithmetic] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Div": _truncated,
    "Mod": _modulo,
    "Max": _extreme(max),
    "Min": _extreme(min),
}


@shape_function(
    """Add Sub Mul Div Pow Sum Max Min Mean Mod And Or Xor BitShift BitwiseAnd BitwiseOr BitwiseXor
    Equal Less LessOrEqual Greater GreaterOrEqual Where"""
)
def broadcasting(s: Shapes, node: ir.Node) -> None:
    operands = [v for v in node.inputs if v is not None]
    shape = dims.broadcast_all(*(dims.of(v) for v in operands))
    logical = node.op_type in ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
    dtype = BOOL if logical else operands[1 if node.op_type == "Where" else 0].dtype
    content = None
    if dtype in (INT64, ir.DataType.INT32):
        content = _select(s, node) if node.op_type == "Where" else _arithmetic(s, node)
    s.put(node.outputs[0], shape, dtype, content)


def _arithmetic(s: Shapes, node: ir.Node) -> Dims | None:
    function = ARITHMETIC.get(node.op_type)
    if function is None or len(node.inputs) != 2:
        return None
    first, second = (s.content(v) for v in node.inputs)
    if first is None or second is None or not first or not second:
        return None
    size = max(len(first), len(second))
    first, second = (c * size if len(c) == 1 else c for c in (first, second))
    return tuple(dims.simplest(function(a, b)) for a, b in zip(first, second, strict=True))


def _select(s: Shapes, node: ir.Node) -> Dims | None:
    """Where(shape == -1, 1, shape): how exporters write Expand's shape."""
    equal = _in(node).producer()
    if equal is None or equal.op_type != "Equal":
        return None
    parts = [s.content(v) for v in (*equal.inputs, *node.inputs[1:])]
    size = max((len(p) for p in parts if p is not None), default=0)
    rows = [p * size if p is not None and len(p) == 1 else p for p in parts]
    if any(row is None or len(row) != size for row in rows):
        return None
    # dimensions are never negative, so a symbol never equals the -1 of such a comparison
    return tuple(t if a == b else f for a, b, t, f in zip(*(r for r in rows if r), strict=True))


# -- products ----------------------------------------------------------------------------------


@shape_function("MatMul")
def matmul(s: Shapes, node: ir.Node) -> None:
    a, b = dims.of(_in(node)), dims.of(_in(node, 1))
    batch = dims.broadcast_all(a[:-2], b[:-2])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    s.put(node.outputs[0], batch + rows + columns, _in(node).dtype)


@shape_function("Gemm")
def gemm(s: Shapes, node: ir.Node) -> None:
    a, b = dims.of(_in(node)), dims.of(_in(node, 1))
    rows = a[1 if _int(node, "transA", 0) else 0]
    columns = b[0 if _int(node, "transB", 0) else 1]
    s.put(node.outputs[0], (rows, columns), _in(node).dtype)


def _window(node: ir.Node, size: Dims, kernel: Sequence[Dim], *, ceil: bool = False) -> Dims:
    """Spatial dimensions after a sliding window (ONNX Conv-22, MaxPool-22)."""
    rank = len(size)
    strides = _ints(node, "strides") or (1,) * rank
    dilations = _ints(node, "dilations") or (1,) * rank
    pads = _ints(node, "pads") or (0,) * (2 * rank)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    out: list[Dim] = []
    for i in range(rank):
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            out.append(dims.simplest((size[i] + (strides[i] - 1)) // strides[i]))
            continue
        padding = 0 if auto_pad == "VALID" else pads[i] + pads[rank + i]
        room = size[i] + padding - (kernel[i] - 1) * dilations[i] - 1
        if ceil:
            out.append(_ceil_window(room, size[i] + pads[i], strides[i]))
        else:
            out.append(dims.simplest(room // strides[i] + 1))
    return tuple(out)


def _ceil_window(room: Dim, start: Dim, stride: int) -> Dim:
    if not isinstance(room, int) or not isinstance(start, int):
        return dims.fresh()
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= start else count


@shape_function("Conv")
def conv(s: Shapes, node: ir.Node) -> None:
    x, w = dims.of(_in(node)), dims.of(_in(node, 1))
    s.put(node.outputs[0], (x[0], w[0], *_window(node, x[2:], w[2:])), _in(node).dtype)


@shape_function("MaxPool AveragePool LpPool")
def pool(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    kernel = _ints(node, "kernel_shape") or ()
    out = x[:2] + _window(node, x[2:], kernel, ceil=bool(_int(node, "ceil_mode", 0)))
    s.put(node.outputs[0], out, _in(node).dtype)
    for indices in node.outputs[1:]:
        s.put(indices, out, INT64)


@shape_function("GlobalAveragePool GlobalMaxPool GlobalLpPool")
def global_pool(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    s.put(node.outputs[0], x[:2] + (1,) * (len(x) - 2), _in(node).dtype)


# -- movement ----------------------------------------------------------------------------------


@shape_function("Reshape")
def reshape(s: Shapes, node: ir.Node) -> None:
    x, target = dims.of(_in(node)), s.content(_in(node, 1))
    if target is None:
        rank = dims.of(_in(node, 1))[0]
        s.put(node.outputs[0], _unknown(rank) if isinstance(rank, int) else None, _in(node).dtype)
        return
    copies = not _int(node, "allowzero", 0)
    out = [x[i] if d == 0 and copies else d for i, d in enumerate(target)]
    if -1 in out:
        at = out.index(-1)
        rest = dims.product(d for i, d in enumerate(out) if i != at)
        out[at] = dims.quotient(dims.product(x), rest)
    s.put(node.outputs[0], out, _in(node).dtype, s.content(_in(node)) if len(out) < 2 else None)


@shape_function("Flatten")
def flatten(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    axis = _int(node, "axis", 1)
    axis += len(x) if axis < 0 else 0
    s.put(node.outputs[0], (dims.product(x[:axis]), dims.product(x[axis:])), _in(node).dtype)


@shape_function("Transpose")
def transpose(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    perm = _ints(node, "perm") or tuple(reversed(range(len(x))))
    content = s.content(_in(node)) if len(x) < 2 else None
    s.put(node.outputs[0], [x[p] for p in perm], _in(node).dtype, content)


@shape_function("Squeeze")
def squeeze(s: Shapes, node: ir.Node) -> None:
    x, axes = dims.of(_in(node)), _optional(node, 1)
    if axes is None:
        dropped = {i for i, d in enumerate(x) if d == 1}
        if not dims.is_static(x):
            s.put(node.outputs[0], None, _in(node).dtype)
            return
    else:
        found = s.ints(axes)
        if found is None:
            s.put(node.outputs[0], None, _in(node).dtype)
            return
        dropped = {a % len(x) for a in found}
    out = [d for i, d in enumerate(x) if i not in dropped]
    s.put(node.outputs[0], out, _in(node).dtype, s.content(_in(node)))


@shape_function("Unsqueeze")
def unsqueeze(s: Shapes, node: ir.Node) -> None:
    x, axes = list(dims.of(_in(node))), s.ints(_in(node, 1))
    if axes is None:
        s.put(node.outputs[0], None, _in(node).dtype)
        return
    rank = len(x) + len(axes)
    for axis in sorted(a % rank for a in axes):
        x.insert(axis, 1)
    s.put(node.outputs[0], x, _in(node).dtype, s.content(_in(node)))


@shape_function("Expand")
def expand(s: Shapes, node: ir.Node) -> None:
    x, target = dims.of(_in(node)), s.content(_in(node, 1))
    if target is not None:
        out: Dims | None = dims.broadcast_all(x, target)
    else:
        length = dims.of(_in(node, 1))[0]
        out = _unknown(max(length, len(x))) if isinstance(length, int) else None
    s.put(node.outputs[0], out, _in(node).dtype)


@shape_function("Tile")
def tile(s: Shapes, node: ir.Node) -> None:
    x, repeats = dims.of(_in(node)), s.content(_in(node, 1))
    out = _unknown(len(x))
    if repeats is not None:
        out = tuple(dims.simplest(d * r) for d, r in zip(x, repeats, strict=True))
    s.put(node.outputs[0], out, _in(node).dtype)


@shape_function("Concat")
def concat(s: Shapes, node: ir.Node) -> None:
    shapes = [dims.of(v) for v in node.inputs if v is not None]
    axis = _int(node, "axis", 0) % len(shapes[0])
    out = list(shapes[0])
    for i in range(len(out)):
        static = [x[i] for x in shapes if isinstance(x[i], int)]
        out[i] = static[0] if static else out[i]
    out[axis] = 0
    for shape in shapes:
        out[axis] = dims.simplest(out[axis] + shape[axis])
    parts = [s.content(v) for v in node.inputs]
    content: Dims | None = ()
    for part in parts:
        content = None if content is None or part is None else content + part
    s.put(node.outputs[0], out, _in(node).dtype, content if len(out) == 1 else None)


@shape_function("Split")
def split(s: Shapes, node: ir.Node) -> None:
    x, count = dims.of(_in(node)), len(node.outputs)
    axis = _int(node, "axis", 0) % len(x)
    sizes: Sequence[Dim] | None
    if _optional(node, 1) is not None:
        sizes = s.content(node.inputs[1])
    elif isinstance(total := x[axis], int):
        size = -(-total // count)
        sizes = [max(0, min(size, total - i * size)) for i in range(count)]
    else:
        sizes = [dims.quotient(x[axis], count)] * count
    for i, output in enumerate(node.outputs):
        size_i = dims.fresh() if sizes is None else sizes[i]
        s.put(output, (*x[:axis], size_i, *x[axis + 1 :]), _in(node).dtype)


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
    return dims.simplest(high - low)


@shape_function("Slice")
def slice_(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    starts, ends = s.ints(_in(node, 1)), s.ints(_in(node, 2))
    named, stepped = _optional(node, 3), _optional(node, 4)
    axes = s.ints(named) if named is not None else tuple(range(len(starts or ())))
    if axes is None:
        s.put(node.outputs[0], _unknown(len(x)), _in(node).dtype)
        return
    steps = s.ints(stepped) if stepped is not None else (1,) * len(axes)
    out, content = list(x), s.content(_in(node))
    if starts is None or ends is None or steps is None:
        for axis in axes:
            out[axis % len(x)] = dims.fresh()
        content = None
    else:
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            out[axis % len(x)] = _sliced(x[axis % len(x)], start, end, step)
            content = None if content is None else content[slice(start, end, step)]
    s.put(node.outputs[0], out, _in(node).dtype, content)


@shape_function("Gather")
def gather(s: Shapes, node: ir.Node) -> None:
    x, indices = dims.of(_in(node)), dims.of(_in(node, 1))
    axis = _int(node, "axis", 0) % len(x)
    content, picked = s.content(_in(node)), s.ints(_in(node, 1))
    if content is not None and picked is not None and len(x) == 1:
        inside = all(-len(content) <= p < len(content) for p in picked)
        content = tuple(content[p] for p in picked) if inside else None
    else:
        content = None
    s.put(node.outputs[0], x[:axis] + indices + x[axis + 1 :], _in(node).dtype, content)


@shape_function("GatherElements")
def gather_elements(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(_in(node, 1)), _in(node).dtype)


@shape_function("Pad")
def pad(s: Shapes, node: ir.Node) -> None:
    x, pads = dims.of(_in(node)), s.content(_in(node, 1))
    named = _optional(node, 3)
    axes = s.ints(named) if named is not None else tuple(range(len(x)))
    out = list(_unknown(len(x)))
    if pads is not None and axes is not None:
        out = list(x)
        for i, axis in enumerate(axes):
            out[axis % len(x)] = dims.simplest(x[axis % len(x)] + pads[i] + pads[i + len(axes)])
    s.put(node.outputs[0], out, _in(node).dtype)


@shape_function("DepthToSpace SpaceToDepth")
def depth_space(s: Shapes, node: ir.Node) -> None:
    n, c, *space = dims.of(_in(node))
    b = _int(node, "blocksize", 1)
    if node.op_type == "DepthToSpace":
        out = (n, dims.quotient(c, b * b), *(dims.simplest(d * b) for d in space))
    else:
        out = (n, dims.simplest(c * b * b), *(dims.quotient(d, b) for d in space))
    s.put(node.outputs[0], out, _in(node).dtype)


@shape_function("Resize")
def resize(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    axes = _ints(node, "axes") or tuple(range(len(x)))
    sizes, scales = s.content(_optional(node, 3)), constant(_optional(node, 2))
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
    s.put(node.outputs[0], out, _in(node).dtype)


# -- reductions --------------------------------------------------------------------------------


@shape_function(
    """ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSumSquare"""
)
def reduce(s: Shapes, node: ir.Node) -> None:
    x, operand = dims.of(_in(node)), _optional(node, 1)
    axes = s.ints(operand) if operand is not None else _ints(node, "axes") or ()
    keep = bool(_int(node, "keepdims", 1))
    if axes is None:
        s.put(node.outputs[0], _unknown(len(x)) if keep else None, _in(node).dtype)
        return
    if not axes:
        axes = () if _int(node, "noop_with_empty_axes", 0) else tuple(range(len(x)))
    gone = {a % len(x) for a in axes} if x else set()
    out = [1 if i in gone else d for i, d in enumerate(x) if keep or i not in gone]
    contents = s.content(_in(node))
    content = None
    if node.op_type == "ReduceProd" and contents is not None and len(x) == 1 and 0 in gone:
        content = (dims.product(contents),)
    s.put(node.outputs[0], out, _in(node).dtype, content)


@shape_function("ArgMax ArgMin")
def arg_extreme(s: Shapes, node: ir.Node) -> None:
    x = list(dims.of(_in(node)))
    axis = _int(node, "axis", 0) % len(x)
    x[axis : axis + 1] = [1] if _int(node, "keepdims", 1) else []
    s.put(node.outputs[0], x, INT64)


# -- shapes as data ----------------------------------------------------------------------------


@shape_function("Shape")
def shape(s: Shapes, node: ir.Node) -> None:
    x = dims.of(_in(node))
    start, end = _int(node, "start", 0), _int(node, "end", len(x))
    content = x[slice(start, end)]
    s.put(node.outputs[0], (len(content),), INT64, content)


@shape_function("Size")
def size(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], (), INT64, (dims.product(dims.of(_in(node))),))


@shape_function("ConstantOfShape")
def constant_of_shape(s: Shapes, node: ir.Node) -> None:
    target = s.content(_in(node))
    length = dims.of(_in(node))[0]
    out = target if target is not None else _unknown(length) if isinstance(length, int) else None
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
        elif delta == 1:
            length = dims.simplest(limit - start)
    s.put(node.outputs[0], (length,), _in(node).dtype)
