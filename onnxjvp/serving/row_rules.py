"""How operators treat rows: an allow-list. Anything that isn't here is no proof."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import onnx_ir as ir
import sympy

from onnxjvp.graph.equations import read
from onnxjvp.graph.regions import captured
from onnxjvp.kernels.samples import draws as drawn_by
from onnxjvp.kernels.samples import inside
from onnxjvp.serving.row_sizes import are_known, of_counts
from onnxjvp.serving.row_state import Context, Dependent, Plain, Rows, State

Rule = Callable[[Context, ir.Node], list[State]]
_RULES: dict[str, Rule] = {}

#: one element of the result from the elements at its place, after broadcasting
POINTWISE = """Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr
BitwiseXor Cast CastLike Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater
GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean
Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh
Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor"""
#: operand 0 has its samples on axis 0, and every other operand is shared
IMAGES = """AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool
GlobalLpPool GlobalMaxPool GroupNormalization InstanceNormalization LRN LpPool MaxPool
SpaceToDepth"""
#: operators that read all elements along one axis, and its default
ALONG = {
    **{"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1, "TopK": -1},
    **{"ArgMax": 0, "ArgMin": 0},
}
#: operators that move elements: indices stay the indices that they are
MOVING = frozenset(
    (
        *("Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "ScatterElements"),
        *("Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    )
)


def rule(names: str) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        for name in names.split():
            assert name not in _RULES, name
            _RULES[name] = function
        return function

    return register


def draws(node: ir.Node) -> str | None:
    """Why a node's results are those of chance or of a training run; None if they are not."""
    return next(filter(None, map(drawn_by, (node, *inside(node)))), None)


def apply(context: Context, node: ir.Node) -> list[State]:
    """The states of a node's outputs, of which an operand has rows or is a count.

    Raises:
      Dependent: no rule, or it mixes samples.
    """
    label = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if captured(node):
        raise Dependent("what happens to samples inside it is not followed")
    live = [rows for _, rows in context.live(node)]
    if label in ("Shape", "Size"):
        return [Plain.SIZE if live or are_known(context, node) else Plain.COUNT]
    if not live:
        return of_counts(context, node, label)
    for value in node.inputs:
        if value is not None and context.state(value) is Plain.COUNT:
            raise Dependent(f"{value.name!r} depends on the batch")
    if label not in MOVING and any(rows.refers for rows in live):
        raise Dependent("it computes with indices that count over the whole batch")
    if label not in _RULES:
        raise Dependent("no rule says that it keeps samples apart")
    return _RULES[label](context, node)


# -- aligned operands --------------------------------------------------------------------------


def one_layout(found: Sequence[Rows]) -> Rows:
    """What all have in common, axes apart; Dependent if they differ.

    Equal slices fit any layout, but are no indices: an index of one sample is not that of others.
    """
    certain = [rows for rows in found if rows.outer is not None]
    if any(rows.refers != found[0].refers for rows in found):
        raise Dependent("it puts indices that count over the whole batch beside others")
    if not certain:
        return found[0]
    if len({(rows.outer, rows.inner) for rows in certain}) > 1:
        raise Dependent("its operands have the samples in different order")
    return certain[0]


def aligned(
    context: Context, node: ir.Node, operands: Sequence[ir.Value | None], rank: int
) -> tuple[int, Rows]:
    """Where rows of broadcast operands meet in a result of that rank: the axis, from the end.

    Raises:
      Dependent: at different places, or an operand without rows has a size there that isn't 1.
    """
    values = [v for v in operands if v is not None]
    live = [(v, rows) for v in values if (rows := context.rows(v)) is not None]
    places = {rows.axis - len(context.dims(v)) for v, rows in live}
    if len(places) != 1:
        raise Dependent("its operands have the samples on different axes")
    (place,) = places
    if len({context.dims(v)[place] for v, _ in live}) > 1:
        raise Dependent("its operands have different numbers of rows")
    for value in values:
        if context.rows(value) is None:
            _need_shared(context, value)
            if context.size_at(value, place) != 1:
                raise Dependent(f"{value.name!r} has an element for every place in the batch")
    if -place > rank:
        raise Dependent("the axis of samples is lost")
    return place, one_layout([rows for _, rows in live])


def _need_shared(context: Context, *values: ir.Value | None) -> None:
    for value in values:
        if context.state(value) is not Plain.SHARED:
            raise Dependent(f"{value.name if value else ''!r} depends on the batch")


def _first(context: Context, node: ir.Node) -> tuple[ir.Value, Rows, tuple[sympy.Expr, ...]]:
    """The first operand, which has to be the only one with rows."""
    value = node.inputs[0]
    rows = context.rows(value)
    if value is None or rows is None:
        raise Dependent("its samples are not in its first operand")
    return value, rows, context.dims(value)


def _same(node: ir.Node, rows: Rows) -> list[State]:
    return [rows] * len(node.outputs)


@rule(POINTWISE)
def pointwise(context: Context, node: ir.Node) -> list[State]:
    if node.op_type == "CastLike":
        return _same(node, _first(context, node)[1])
    rank = len(context.dims(node.outputs[0]))
    place, rows = aligned(context, node, node.inputs, rank)
    return _same(node, replace(rows, axis=rank + place))


@rule("QuantizeLinear DequantizeLinear ai.onnx.ml::Scaler")
def per_axis(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    axis = node.attributes.get_int("axis", 1) if not node.domain else len(sizes) - 1
    if sizes and axis % len(sizes) == rows.axis:
        raise Dependent("its scales are along the axis of samples")
    if not node.domain and any(len(context.dims(v)) > 1 for v in node.inputs[1:] if v is not None):
        raise Dependent("its scales are in blocks")
    return _same(node, rows)


@rule(IMAGES)
def images(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    if rows.axis != 0:
        raise Dependent(f"its samples are on axis {rows.axis}, not 0")
    found: list[State] = [rows]
    if node.op_type == "MaxPool" and len(node.outputs) > 1:
        if rows.outer is None:
            raise Dependent("its samples are all the same")
        within = sympy.Mul(rows.inner, *sizes[1:])
        found.append(replace(rows, refers=(rows.outer, within)))
    return (found + _same(node, rows))[: len(node.outputs)]


@rule("Resize")
def resize(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    made = context.certain(node.outputs[0])
    _need_shared(context, *node.inputs[1:3])
    cropped = node.attributes.get_string("coordinate_transformation_mode", "")
    if cropped == "tf_crop_and_resize":
        raise Dependent("it cuts a region out, of which the samples may be an axis")
    if rows.axis != 0 or made[0] != sizes[0] or any(map(context.grows, made[1:])):
        raise Dependent("it resizes the axis of samples")
    return [rows]


# -- axes that are read as a whole -------------------------------------------------------------


@rule(" ".join(ALONG))
def along(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    axis = node.attributes.get_int("axis", ALONG[node.op_type]) % len(sizes)
    if axis == rows.axis:
        raise Dependent(f"it reads along axis {axis}, which holds the samples")
    dropped = node.op_type in ("ArgMax", "ArgMin") and not node.attributes.get_int("keepdims", 1)
    return _same(node, replace(rows, axis=rows.axis - int(dropped and axis < rows.axis)))


@rule("LayerNormalization RMSNormalization")
def normalised(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    if rows.axis >= node.attributes.get_int("axis", -1) % len(sizes):
        raise Dependent("it normalises over the samples")
    for value in node.inputs[1:]:
        if value is not None and context.size_at(value, rows.axis - len(sizes)) != 1:
            raise Dependent("its scale has an element for every place in the batch")
    return _same(node, rows)


@rule(
    """ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd
    ReduceSum ReduceSumSquare"""
)
def reduced(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = () if given is None else context.source.shapes.ints(given)
    if axes is None:
        raise Dependent("its axes are not known")
    noop: int = node.attributes.get_int("noop_with_empty_axes", 0)
    if not axes and noop:
        return [rows]
    over = {axis % len(sizes) for axis in axes} or set(range(len(sizes)))
    if rows.axis in over:
        raise Dependent(f"it adds up along axis {rows.axis}, which holds the samples")
    if node.attributes.get_int("keepdims", 1):
        return [rows]
    return [replace(rows, axis=rows.axis - sum(axis < rows.axis for axis in over))]


@rule("CumSum CumProd")
def cumulated(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    axes = context.source.shapes.ints(node.inputs[1])
    if axes is None or any(axis % len(sizes) == rows.axis for axis in axes):
        raise Dependent("it adds up along the axis of samples, or one that is not known")
    return [rows]


@rule("Trilu")
def triangle(context: Context, node: ir.Node) -> list[State]:
    _, rows, sizes = _first(context, node)
    _need_shared(context, *node.inputs[1:])
    if rows.axis >= len(sizes) - 2:
        raise Dependent("it cuts a triangle out of the axis of samples")
    return [rows]


# -- products ----------------------------------------------------------------------------------


@rule("MatMul")
def matmul(context: Context, node: ir.Node) -> list[State]:
    a, b = node.inputs
    assert a is not None and b is not None
    (n, m), rank = (len(context.dims(v)) for v in (a, b)), len(context.dims(node.outputs[0]))
    first, second = context.rows(a), context.rows(b)
    if min(n, m) < 2:
        if first is None or n < 2 or first.axis == n - 1:
            raise Dependent("it adds up over the samples")
        _need_shared(context, b)
        return [first]
    if first is not None and first.axis == n - 2:
        _need_shared(context, b)
        return [replace(first, axis=rank - 2)]
    if second is not None and second.axis == m - 1:
        _need_shared(context, a)
        return [replace(second, axis=rank - 1)]
    if (first and first.axis == n - 1) or (second and second.axis == m - 2):
        raise Dependent("it adds up over the samples")
    place, rows = aligned(context, node, (a, b), rank)
    return [replace(rows, axis=rank + place)]


@rule("Gemm")
def gemm(context: Context, node: ir.Node) -> list[State]:
    a, b, c = (*node.inputs, None)[:3]
    found = []
    for index, (value, flag) in enumerate(((a, "transA"), (b, "transB"))):
        rows = context.rows(value)
        if rows is None:
            _need_shared(context, value)
        elif (rows.axis == index) == bool(node.attributes.get_int(flag, 0)):
            raise Dependent("it adds up over the samples")
        else:
            found.append(replace(rows, axis=index))
    if len(found) != 1:
        raise Dependent("it multiplies samples by samples")
    (rows,) = found
    if c is None:
        return [rows]
    if (bias := context.rows(c)) is None:
        _need_shared(context, c)
        if context.size_at(c, rows.axis - 2) != 1:
            raise Dependent("its bias has an element for every place in the batch")
        return [rows]
    if bias.axis - len(context.dims(c)) != rows.axis - 2:
        raise Dependent("its bias has the samples on another axis")
    return [replace(one_layout([rows, bias]), axis=rows.axis)]


@rule("Einsum")
def einsum(context: Context, node: ir.Node) -> list[State]:
    operands = [v for v in node.inputs if v is not None]
    ranks = [len(context.dims(v)) for v in operands]
    equation = read(node.attributes["equation"].as_string(), ranks)
    letters, found = set(), []
    for value, term in zip(operands, equation.operands, strict=True):
        if (rows := context.rows(value)) is not None:
            letters.add(term[rows.axis])
            found.append(rows)
    if len(letters) != 1:
        raise Dependent("its operands have the samples on different axes")
    (letter,) = letters
    for value, term in zip(operands, equation.operands, strict=True):
        if context.rows(value) is None:
            _need_shared(context, value)
            if letter in term:
                raise Dependent(f"{value.name!r} has an element for every place in the batch")
        elif list(term).count(letter) != 1:
            raise Dependent("it takes a diagonal of the samples")
    if letter not in equation.result:
        raise Dependent("it adds up over the samples")
    return [replace(one_layout(found), axis=list(equation.result).index(letter))]


@rule("RNN GRU LSTM")
def recurrent(context: Context, node: ir.Node) -> list[State]:
    if node.attributes.get_int("layout", 0):
        raise Dependent("of its layouts only 0 is followed")
    _, rows, _ = _first(context, node)
    x, w, r, b, lengths, *states = (*node.inputs, None, None, None, None)[:7]
    del x
    _need_shared(context, w, r, b, *node.inputs[7:])
    found = [rows]
    for value, axis in ((lengths, 0), *((state, 1) for state in states)):
        if value is None:
            continue
        other = context.rows(value)
        if other is None or other.axis != axis:
            raise Dependent(f"{value.name!r} has no row for each sample")
        found.append(other)
    if rows.axis != 1:
        raise Dependent("its samples are not on axis 1")
    common = one_layout(found)
    made: list[State] = [replace(common, axis=axis) for axis in (2, 1, 1)]
    return made[: len(node.outputs)]
