"""A model at an older opset than its rules emit, for runtimes that have no newer kernels.

An operator's newer version mostly takes more dtypes, or says more by attributes and operands that
can be left out. Where none of that is used, the older version says the same. Axes of reductions
were attributes. Lowerings have written out by then what the opset does not have at all, and have
named the parts of every Split.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from onnxjvp.graph.shapes import constant

_REDUCTIONS = frozenset(
    [
        *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
        *("ReduceMin", "ReduceProd", "ReduceSumSquare"),
    ]
)


def obstacle(node: ir.Node, opset: int, older: int) -> str | None:
    """Why a node cannot be written at an older opset; None if it can."""
    if opset <= older or node.domain not in ("", "ai.onnx"):
        return None
    was, now = _schema(node.op_type, older), _schema(node.op_type, opset)
    if was is None:
        return f"opset {older} does not have it"
    if now is None or was.since_version == now.since_version:
        return None
    if node.op_type in _REDUCTIONS:
        return _axes_obstacle(node)
    if node.op_type == "Split" and (len(node.inputs) < 2 or node.inputs[1] is None):
        return "an older one wants to know the sizes of its parts"
    for i, value in enumerate(node.inputs):
        if value is not None and i >= len(was.inputs) and not _is_variadic(was):
            return f"operand {i} is newer than opset {older}"
    for name in _newer_attributes(node, was):
        if not _is_default(node.attributes[name], now):
            return f"{name} is newer than opset {older}"
    return None


def write_at(model: ir.Model, opset: int, older: int) -> None:
    """Change the nodes of a model, none of which has an obstacle, to an older opset."""
    for node in list(model.graph.all_nodes()):
        if node.domain in ("", "ai.onnx"):
            _write(node, opset, older)
    model.opset_imports[""] = older
    # older runtimes read no newer format either
    wanted = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", older)])
    model.ir_version = min(model.ir_version or wanted, wanted)
    for name, value in list(model.graph.initializers.items()):
        read = value.uses() or value.is_graph_input() or value.is_graph_output()
        if not read:  # axes, which are attributes now
            del model.graph.initializers[name]


def _write(node: ir.Node, opset: int, older: int) -> None:
    was, now = _schema(node.op_type, older), _schema(node.op_type, opset)
    if was is None or now is None or was.since_version == now.since_version:
        return
    if node.op_type in _REDUCTIONS:
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        node.resize_inputs(1)
        if axes is not None:
            node.attributes["axes"] = ir.AttrInt64s("axes", axes.reshape(-1).tolist())
    for name in _newer_attributes(node, was):
        del node.attributes[name]


def _axes_obstacle(node: ir.Node) -> str | None:
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    array = constant(axes)
    nothing = axes is None or (array is not None and array.size == 0)
    if nothing and bool(node.attributes.get_int("noop_with_empty_axes", 0)):
        return "an older one reduces over all axes where none are named"
    return None if axes is None or array is not None else "an older one wants its axes as numbers"


def _newer_attributes(node: ir.Node, was: Any) -> list[str]:
    return [name for name in node.attributes if name not in was.attributes]


def _is_default(attribute: ir.Attr, schema: Any) -> bool:
    known = schema.attributes.get(attribute.name)
    if known is None or not known.default_value.name:
        return False
    default = ir.serde.deserialize_attribute(known.default_value)
    return bool(default.value == attribute.value)


def _is_variadic(schema: Any) -> bool:
    option = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return bool(schema.inputs) and schema.inputs[-1].option == option


@cache
def _schema(name: str, opset: int) -> Any:  # the stubs of onnx lack what is asked of a schema
    try:
        return onnx.defs.get_schema(name, opset)
    except onnx.defs.SchemaError:
        return None
