"""The body of FlexAttention, whose attributes are graphs that change scores and probabilities."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.bodies import there
from onnxjvp.graph.branches import bodies_of
from onnxjvp.graph.functions.attention import repeated, scale_of
from onnxjvp.graph.functions.normalization import DOUBLE, FLOAT, narrowed
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region, captured
from onnxjvp.graph.shapes import constant


@body("ai.onnx.preview::FlexAttention", shapes=True)
def _flex_attention(op: Ops, region: Region) -> Outs:
    """FlexAttention-1: prob_mod(Softmax(score_mod(scale · Q Kᵀ))) V, from the scores on in
    `softmax_precision`, which is float32 or the operands' double.
    """
    q, k, v = (region.operand(i) for i in range(3))
    k, v = repeated(op, k, q), repeated(op, v, q)
    precise = DOUBLE if q.dtype == DOUBLE else FLOAT
    wide = op.const(0, like=ir.DataType(region.attr_int("softmax_precision", int(precise))))
    given = region.attr_float("scale", 1.0) if "scale" in region.attributes else None
    scale = scale_of(op, region, q) if given is None else op.const(given, like=q)
    products = op.MatMul(op.Mul(q, scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    scores = _modified(op, region, "score_mod", narrowed(op, products, wide))
    chances = _modified(op, region, "prob_mod", op.Softmax(scores, axis=-1))
    return [narrowed(op, op.MatMul(chances, narrowed(op, v, wide)), q)]


def _modified(op: Ops, region: Region, name: str, x: ir.Value) -> ir.Value:
    """What the graph under that name makes of a value; graphs may read what is around them."""
    if name not in region.attributes:
        return x
    graph, node = region.attributes[name].as_graph(), region.node
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise NoBodyError(f"its {name} takes or gives more than one value")
    around = zip(captured(node), region.inputs[len(node.inputs) :], strict=True)
    values = {inner: there(value) for inner, value in around}
    values[graph.inputs[0]] = x
    for value in graph.initializers.values():
        values[value] = _constant(op, value)
    for inner in graph:
        if bodies_of(inner):
            raise NoBodyError(f"its {name} has the control flow {inner.op_type}")
        _record(op, inner, values)
    y = values[graph.outputs[0]]
    if y.shape is not None and (y.dtype, len(y.shape)) != (x.dtype, len(dims.of(x))):
        raise NoBodyError(f"its {name} changes the type of what it is given")
    return y


def _record(op: Ops, node: ir.Node, values: dict[ir.Value, ir.Value]) -> None:
    if node.op_type == "Constant" and constant(node.outputs[0]) is not None:
        values[node.outputs[0]] = _constant(op, node.outputs[0])
        return
    read = [None if v is None else values[v] for v in node.inputs]
    made = op.emit(node.op_type, read, dict(node.attributes), len(node.outputs), node.domain)
    values.update(zip(node.outputs, made, strict=True))


def _constant(op: Ops, value: ir.Value) -> ir.Value:
    array = constant(value)
    assert array is not None
    return op.const(array, ir.DataType.from_numpy(array.dtype))
