"""Shapes of a whole model: ours where there is a function, onnx's, and what the file declares."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

import onnxjvp.graph.functions
import onnxjvp.graph.shape_functions  # noqa: F401  (these fill the table of shape functions)
from onnxjvp.errors import InvalidModelError
from onnxjvp.graph import dims, guards, limits
from onnxjvp.graph.branches import BRANCHES, is_if
from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.loops import Fed, changes, fed, forgotten, is_loop
from onnxjvp.graph.opset import skeleton
from onnxjvp.graph.scans import is_scan, slices
from onnxjvp.graph.shapes import MISFITS, Shapes, constant

#: what onnx's inference raises for nodes that make no sense, its own and C++'s
ONNX_INFERENCE = (onnx.shape_inference.InferenceError, RuntimeError, LookupError, ValueError)
#: what a shape function meets in a node that contradicts its operands
BAD_NODE = (*MISFITS, UnknownTypeError)


def infer(model: ir.Model) -> Shapes:
    """Write a dtype and dimensions onto every value of a model, bodies of If,
    Scan and Loop included.

    Raises:
      InvalidModelError: nodes that do not fit their operands.
    Cost: linear in nodes; no weight is read.
    """
    shapes = Shapes(dict(model.opset_imports))
    inferred = _inferred(model)
    _infer_graph(shapes, model.graph, inferred)
    return shapes


def _infer_graph(
    shapes: Shapes,
    graph: ir.Graph,
    inferred: onnx.GraphProto,
    inside: bool = False,
    given: Fed = (),
) -> None:
    for value in (*graph.inputs, *graph.initializers.values()):
        if value.const_value is not None:
            value.shape = ir.Shape(value.const_value.shape.numpy())
            value.dtype = value.const_value.dtype
        elif value.shape is not None:
            value.shape = ir.Shape([_dim(d) for d in value.shape.dims])
    for value, (shape, dtype) in zip(graph.inputs, given, strict=False):
        value.shape = None
        shapes.put(value, shape, dtype)
    types = {v.name: v.type for v in (*inferred.value_info, *inferred.output)}
    twins = {node.output[0]: node for node in inferred.node if node.output}
    for node in graph:
        for output in node.outputs:
            _declare(output, types.get(output.name or ""))
        try:
            _infer_bodies(shapes, node, twins)
        except BAD_NODE as error:
            raise _misfit(node, error) from error
        _infer_node(shapes, node, inside)


def _infer_bodies(shapes: Shapes, node: ir.Node, twins: dict[str, onnx.NodeProto]) -> None:
    if is_if(node):
        twin = {a.name: a.g for a in twins[node.outputs[0].name or ""].attribute}
        for branch in BRANCHES:
            _infer_graph(shapes, node.attributes[branch].as_graph(), twin[branch], inside=True)
    elif (found := _fed(node)) is not None:
        twin = {a.name: a.g for a in twins[node.outputs[0].name or ""].attribute}
        _infer_steps(shapes, node, twin["body"], found)


def _infer_steps(shapes: Shapes, node: ir.Node, inferred: onnx.GraphProto, first: Fed) -> None:
    """The body of a Scan or a Loop. What a turn of a Loop changes of a size is not known."""
    body, changed = node.attributes["body"].as_graph(), set[tuple[int, int]]()
    while True:
        shapes.turns += 1  # loops within loops that change sizes multiply
        if shapes.turns > limits.current().turns:
            raise limits.beyond("turns", shapes.turns, "readings of the bodies of loops")
        _infer_graph(shapes, body, inferred, inside=True, given=first)
        more = changes(node, first) - changed if is_loop(node) else None
        if not more:
            return
        changed |= more
        first = forgotten(first, more)
        for value in (v for inner in body.all_nodes() for v in inner.outputs):
            value.shape = None


def _fed(node: ir.Node) -> Fed | None:
    """The types of what the body of a Scan or a Loop is fed, where they are known."""
    if is_scan(node):
        return slices(node)
    return fed(node) if is_loop(node) else None


def _infer_node(shapes: Shapes, node: ir.Node, inside: bool) -> None:
    if node.op_type == "Constant" and (array := constant(node.outputs[0])) is not None:
        shapes.put(node.outputs[0], array.shape, ir.DataType.from_numpy(array.dtype))
        return
    declared = [output.shape for output in node.outputs]
    try:
        shapes.infer(node)
    except BAD_NODE as error:
        if inside:
            return  # exporters leave such nodes in branches that are never taken
        raise _misfit(node, error) from error
    for output, shape in zip(node.outputs, declared, strict=True):
        # what a file says of its shapes is not always true: it serves only where ours end
        output.shape = shape if output.shape is None else output.shape


def _misfit(node: ir.Node, error: Exception) -> InvalidModelError:
    shown = ", ".join("none" if v is None else str(v.shape) for v in node.inputs)
    return InvalidModelError(
        f"node {node.name!r} ({node.op_type}) does not fit its operands ({shown}): {error}. Export "
        "the model again, or repair it"
    )


def _inferred(model: ir.Model) -> onnx.GraphProto:
    """The graph with what onnx's inference says of every value.

    It is strict, so that nodes must fit their operands. Shapes that the file declares for results
    are left out: exporters write wrong ones, and onnx itself miscounts the windows of some pools.
    Its data propagation is off: it allocates whatever a file tells it to.
    """
    bare = skeleton(model)
    _forget_declared(bare.graph)
    guards.hide(bare)
    try:
        proto = onnx.shape_inference.infer_shapes(bare, strict_mode=True)
    except ONNX_INFERENCE as error:
        if not _is_beyond_inference(str(error)):
            raise InvalidModelError(
                f"the model's nodes or shapes contradict each other: {str(error).strip()}. Export "
                "the model again, or repair it"
            ) from error
        try:
            proto = onnx.shape_inference.infer_shapes(bare)
        except ONNX_INFERENCE as worse:
            raise InvalidModelError(
                f"the model's nodes or shapes contradict each other: {str(worse).strip()}. Export "
                "the model again, or repair it"
            ) from worse
    return proto.graph


def _forget_declared(graph: onnx.GraphProto) -> None:
    foreign = {v for node in graph.node if node.domain for v in node.output}
    declared = [v for v in graph.value_info if v.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(declared)
    for output in graph.output:
        if output.name not in foreign and output.type.HasField("tensor_type"):
            output.type.tensor_type.ClearField("shape")
    for node in graph.node:
        if node.op_type in ("If", "Scan", "Loop") and not node.domain:
            for attribute in node.attribute:
                _forget_declared(attribute.g)


def _is_beyond_inference(message: str) -> bool:
    """Whether strict inference failed for want of a type, or inside an operator's definition."""
    found = re.search(r"op_type:(\w+)", message)
    if "expected to have type" in message or found is None:
        return True
    return message.count("op_type:") > 1 or not onnx.defs.has(found[1])


def _declare(value: ir.Value, proto: onnx.TypeProto | None) -> None:
    """The type that onnx infers; where it infers no shape, the shape that the file declares."""
    if value.shape is not None:
        value.shape = ir.Shape([_dim(d) for d in value.shape.dims])
    if proto is None or not proto.HasField("tensor_type"):
        return
    if proto.tensor_type.elem_type:
        value.dtype = ir.DataType(proto.tensor_type.elem_type)
    if proto.tensor_type.HasField("shape"):
        value.shape = ir.Shape(
            [
                _dim(d.dim_value) if d.HasField("dim_value") else dims.symbol(d.dim_param)
                for d in proto.tensor_type.shape.dim
            ]
        )


def _dim(dim: dims.Dim) -> dims.Dim:
    """As declared, but -1 (some exporters' word for unknown) is an unknown."""
    if isinstance(dim, int):
        return dim if dim >= 0 else dims.fresh()
    return dims.symbol(dim.value)
