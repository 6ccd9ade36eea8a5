"""Elementwise operators, products, windows and reductions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shape_functions.operands import (
    BOOL,
    INT64,
    integer,
    ints,
    operand,
    optional,
    unknown,
)
from onnxjvp.graph.shapes import Shapes, shape_function

# -- elementwise -------------------------------------------------------------------------------


@shape_function(
    """Abs Acos Acosh Asin Asinh Atan Atanh Ceil Celu Clip Cos Cosh CumSum Elu Erf Exp Floor Gelu
    Hardmax HardSigmoid HardSwish Identity InstanceNormalization LeakyRelu Log LogSoftmax
    LpNormalization LRN MeanVarianceNormalization Mish Neg Not PRelu Reciprocal Relu ReverseSequence
    RMSNormalization Round ScatterElements ScatterND Selu Shrink Sigmoid Sign Sin Sinh Softmax
    Softplus Softsign Sqrt Swish Tan Tanh ThresholdedRelu Trilu GroupNormalization"""
)
def same_as_first(s: Shapes, node: ir.Node) -> None:
    first = operand(node)
    s.put(node.outputs[0], dims.of(first), first.dtype, s.content(first) if _moves(node) else None)


def _moves(node: ir.Node) -> bool:
    return node.op_type == "Identity"


@shape_function("IsNaN IsInf")
def predicate(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node)), BOOL)


@shape_function("Cast")
def cast(s: Shapes, node: ir.Node) -> None:
    to = ir.DataType(integer(node, "to", 0))
    content = s.content(operand(node)) if to in (INT64, ir.DataType.INT32) else None
    s.put(node.outputs[0], dims.of(operand(node)), to, content)


@shape_function("CastLike")
def cast_like(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node)), operand(node, 1).dtype)


@shape_function("ai.onnx.ml::Scaler")
def scaler(s: Shapes, node: ir.Node) -> None:
    s.put(node.outputs[0], dims.of(operand(node)), ir.DataType.FLOAT)


@shape_function("ai.onnx.ml::ArrayFeatureExtractor")
def array_feature_extractor(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    rows = x[:-1] if len(x) > 1 else (1,)
    s.put(node.outputs[0], (*rows, dims.product(dims.of(operand(node, 1)))), operand(node).dtype)


@shape_function("Dropout")
def dropout(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    for mask in node.outputs[1:]:
        s.put(mask, dims.of(operand(node)), BOOL)


@shape_function("BatchNormalization")
def batch_normalization(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    for statistic in node.outputs[1:]:
        s.put(statistic, dims.of(operand(node, 3)), operand(node, 3).dtype)


@shape_function("LayerNormalization")
def layer_normalization(s: Shapes, node: ir.Node) -> None:
    same_as_first(s, node)
    shape = dims.of(operand(node))
    axis = integer(node, "axis", -1) % len(shape)
    for statistic in node.outputs[1:]:
        kept = shape[:axis] + (1,) * (len(shape) - axis)
        s.put(statistic, kept, ir.DataType(integer(node, "stash_type", 1)))


Arithmetic = Callable[[Dim, Dim], Dim]


def _truncated(a: Dim, b: Dim) -> Dim:
    if isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b) if b else 0
        return (quotient if (a < 0) == (b < 0) else -quotient) if b else dims.number()
    # expressions are rounded down, runtimes round towards 0
    exact = not isinstance(a, int) and dims.is_count(a) and dims.is_positive(b)
    return dims.computed(operator.floordiv, a, b) if exact else dims.number()


def _modulo(a: Dim, b: Dim) -> Dim:
    """With the sign of b; no matter, where none is negative."""
    if isinstance(a, int):
        return a % b if isinstance(b, int) and b > 0 else dims.number()
    return dims.computed(operator.mod, a, b) if dims.is_positive(b) else dims.number()


def _remainder(a: Dim, b: Dim) -> Dim:
    """With the sign of a: Mod of fmod = 1."""
    return _modulo(a, b) if dims.is_count(a) else dims.number()


def _extreme(choose: Callable[..., int]) -> Arithmetic:
    def extreme(a: Dim, b: Dim) -> Dim:
        if isinstance(a, int) and isinstance(b, int):
            return choose(a, b)
        return a if a == b else dims.number()

    return extreme


ARITHMETIC: dict[str, Arithmetic] = {
    "Add": functools.partial(dims.computed, operator.add),
    "Sub": functools.partial(dims.computed, operator.sub),
    "Mul": functools.partial(dims.computed, operator.mul),
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
    if dtype in (INT64, ir.DataType.INT32) and len(shape) < 2:
        content = _select(s, node) if node.op_type == "Where" else _arithmetic(s, node)
    s.put(node.outputs[0], shape, dtype, content)


def _arithmetic(s: Shapes, node: ir.Node) -> Dims | None:
    function = ARITHMETIC.get(node.op_type)
    if function is None or len(node.inputs) != 2:
        return None
    function = _remainder if integer(node, "fmod", 0) else function
    first, second = (s.content(v) for v in node.inputs)
    if first is None or second is None or not first or not second:
        return None
    size = max(len(first), len(second))
    first, second = (c * size if len(c) == 1 else c for c in (first, second))
    return tuple(dims.simplest(function(a, b)) for a, b in zip(first, second, strict=True))


def _select(s: Shapes, node: ir.Node) -> Dims | None:
    """Where(shape == -1, 1, shape): how exporters write Expand's shape."""
    equal = operand(node).producer()
    if equal is None or equal.op_type != "Equal":
        return None
    parts = [s.content(v) for v in (*equal.inputs, *node.inputs[1:])]
    size = max((len(p) for p in parts if p is not None), default=0)
    rows = [p * size if p is not None and len(p) == 1 else p for p in parts]
    if any(row is None or len(row) != size for row in rows):
        return None
    return tuple(_chosen(*parts) for parts in zip(*(r for r in rows if r), strict=True))


def _chosen(a: Dim, b: Dim, if_equal: Dim, otherwise: Dim) -> Dim:
    """A size is never the -1 of such a comparison; it may be any other number."""
    if a == b:
        return if_equal
    difference = dims.computed(operator.sub, a, b)
    differs = dims.is_positive(difference) or dims.is_positive(
        dims.computed(operator.mul, difference, -1)
    )
    return otherwise if differs or if_equal == otherwise else dims.number()


# -- products ----------------------------------------------------------------------------------


@shape_function("MatMul")
def matmul(s: Shapes, node: ir.Node) -> None:
    a, b = dims.of(operand(node)), dims.of(operand(node, 1))
    batch = dims.broadcast_all(a[:-2], b[:-2])
    rows = a[-2:-1] if len(a) > 1 else ()
    columns = b[-1:] if len(b) > 1 else ()
    s.put(node.outputs[0], batch + rows + columns, operand(node).dtype)


@shape_function("Gemm")
def gemm(s: Shapes, node: ir.Node) -> None:
    a, b = dims.of(operand(node)), dims.of(operand(node, 1))
    rows = a[1 if integer(node, "transA", 0) else 0]
    columns = b[0 if integer(node, "transB", 0) else 1]
    s.put(node.outputs[0], (rows, columns), operand(node).dtype)


def _window(node: ir.Node, size: Dims, kernel: Sequence[Dim], *, ceil: bool = False) -> Dims:
    """Spatial dimensions after a sliding window (ONNX Conv-22, MaxPool-22)."""
    rank = len(size)
    strides = ints(node, "strides") or (1,) * rank
    dilations = ints(node, "dilations") or (1,) * rank
    pads = ints(node, "pads") or (0,) * (2 * rank)
    auto_pad = node.attributes.get_string("auto_pad", "NOTSET")
    out: list[Dim] = []
    for i in range(rank):
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            out.append(dims.simplest((size[i] + (strides[i] - 1)) // strides[i]))
            continue
        padding = 0 if auto_pad == "VALID" else pads[i] + pads[rank + i]
        room = _room(size[i], padding, kernel[i], dilations[i])
        if ceil:
            out.append(_ceil_window(room, size[i] + pads[i], strides[i]))
        else:
            out.append(_steps(room, strides[i]))
    return tuple(out)


@functools.lru_cache(maxsize=1024)
def _room(size: Dim, padding: int, kernel: Dim, dilation: int) -> Dim:
    """The last place where a window starts."""
    return size + padding - (kernel - 1) * dilation - 1


@functools.lru_cache(maxsize=1024)
def _steps(room: Dim, stride: int) -> Dim:
    return dims.simplest(room // stride + 1)


def _ceil_window(room: Dim, start: Dim, stride: int) -> Dim:
    if not isinstance(room, int) or not isinstance(start, int):
        return dims.fresh()
    count = -(-room // stride) + 1
    return count - 1 if (count - 1) * stride >= start else count


@shape_function("Conv")
def conv(s: Shapes, node: ir.Node) -> None:
    x, w = dims.of(operand(node)), dims.of(operand(node, 1))
    s.put(node.outputs[0], (x[0], w[0], *_window(node, x[2:], w[2:])), operand(node).dtype)


@shape_function("MaxPool AveragePool LpPool")
def pool(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    kernel = ints(node, "kernel_shape") or ()
    out = x[:2] + _window(node, x[2:], kernel, ceil=bool(integer(node, "ceil_mode", 0)))
    s.put(node.outputs[0], out, operand(node).dtype)
    for indices in node.outputs[1:]:
        s.put(indices, out, INT64)


@shape_function("GlobalAveragePool GlobalMaxPool GlobalLpPool")
def global_pool(s: Shapes, node: ir.Node) -> None:
    x = dims.of(operand(node))
    s.put(node.outputs[0], x[:2] + (1,) * (len(x) - 2), operand(node).dtype)


# -- reductions --------------------------------------------------------------------------------


@shape_function(
    """ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceSumSquare"""
)
def reduce(s: Shapes, node: ir.Node) -> None:
    x, named = dims.of(operand(node)), optional(node, 1)
    axes = s.ints(named) if named is not None else ints(node, "axes") or ()
    keep = bool(integer(node, "keepdims", 1))
    if axes is None:
        s.put(node.outputs[0], unknown(len(x)) if keep else None, operand(node).dtype)
        return
    if not axes:
        axes = () if integer(node, "noop_with_empty_axes", 0) else tuple(range(len(x)))
    gone = {a % len(x) for a in axes} if x else set()
    out = [1 if i in gone else d for i, d in enumerate(x) if keep or i not in gone]
    contents = s.content(operand(node))
    content = None
    if node.op_type == "ReduceProd" and contents is not None and len(x) == 1 and 0 in gone:
        content = (dims.product(contents),)
    s.put(node.outputs[0], out, operand(node).dtype, content)


@shape_function("ArgMax ArgMin")
def arg_extreme(s: Shapes, node: ir.Node) -> None:
    x = list(dims.of(operand(node)))
    axis = integer(node, "axis", 0) % len(x)
    x[axis : axis + 1] = [1] if integer(node, "keepdims", 1) else []
    s.put(node.outputs[0], x, INT64)
