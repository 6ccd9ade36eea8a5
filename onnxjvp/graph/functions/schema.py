"""Bodies that ONNX itself gives: an operator's definition in its schema.

Taken are definitions without control flow and without randomness, at the newest opset that they are
given for up to the model's. Operators in them may have changed between the two: `UNCHANGED` names
those that did so in the types they take alone; a definition with any other is not used.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region
from onnxjvp.graph.shapes import constant, opset_behind

#: definitions that are no way to a derivative: random, quantising, or with a rule-less loop
EXCLUDED = frozenset({"Bernoulli", "DynamicQuantizeLinear", "Range", "SequenceMap"})
#: operators whose newer versions take more types (or say more) and else mean the same since 12
UNCHANGED = {
    *("Add", "Cast", "CastLike", "Concat", "Constant", "Div", "Elu", "Equal", "Identity", "Mul"),
    *("NegativeLogLikelihoodLoss", "Pad", "Reshape", "Shape", "Size", "Softplus", "Squeeze"),
    *("Sub", "Transpose", "Unsqueeze", "Where"),
}


def has_definition(node: ir.Node) -> bool:
    """Whether ONNX defines the operator by a function, for some operands at least."""
    schema = _schema(node)
    if schema is None or node.op_type in EXCLUDED:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def record_definition(op: Ops, region: Region) -> Sequence[ir.Value | None] | None:
    """Record ONNX's definition on a region's inputs; None where there is none for these."""
    schema = _schema(region.node)
    function = None if schema is None else _definition(schema, region)
    if schema is None or function is None:
        return None
    values: dict[str, ir.Value | None] = {"": None}
    for i, formal in enumerate(function.input):
        values[formal] = region.input(i)
    given = _attributes(schema, function, region)
    for proto in function.node:
        if any(a.HasField("g") or a.graphs for a in proto.attribute):
            return None
        _record(op, proto, values, given)
    return [values.get(formal) for formal in function.output]


def _schema(node: ir.Node) -> Any:  # the stubs of onnx lack what is asked of a schema
    opset = opset_behind(node)
    if node.domain not in ("", "ai.onnx") or opset is None:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return None


def _definition(schema: Any, region: Region) -> onnx.FunctionProto | None:
    version = opset_behind(region.node)
    assert version is not None
    for given in _up_to(version, schema.function_opset_versions):
        function = _parsed(schema.get_function_with_opset_version(given))
        return function if _means_the_same(function, version) else None
    for given in _up_to(version, schema.context_dependent_function_opset_versions):
        node, types = _as_proto(region)
        try:
            content = schema.get_context_dependent_function_with_opset_version(given, node, types)
        except RuntimeError:  # how onnx says that it has none for these operands
            return None
        function = _parsed(content)
        # without nodes: onnx writes none where a size that it needs is not static
        return function if function.node and _means_the_same(function, version) else None
    return None


def _up_to(version: int, given: Sequence[int]) -> list[int]:
    return sorted((v for v in given if v <= version), reverse=True)


def _parsed(content: bytes) -> onnx.FunctionProto:
    function = onnx.FunctionProto()
    function.ParseFromString(content)
    return function


def _means_the_same(function: onnx.FunctionProto, version: int) -> bool:
    """Whether the function's operators are at the model's opset what they are at its own."""
    (own,) = (entry.version for entry in function.opset_import if entry.domain == "")
    return all(
        proto.op_type in UNCHANGED
        or (proto.op_type == "ReduceMean" and not any(a.name == "axes" for a in proto.attribute))
        or _since(proto.op_type, own) == _since(proto.op_type, version)
        for proto in function.node
    )


@functools.cache
def _since(op_type: str, version: int) -> int:
    return int(onnx.defs.get_schema(op_type, version, "").since_version)


def _as_proto(region: Region) -> tuple[bytes, list[bytes]]:
    """The node, and the types of its operands, as onnx reads them."""
    inputs = list(region.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    node = onnx.NodeProto(op_type=region.op_type)
    node.input.extend("" if v is None else f"x{i}" for i, v in enumerate(inputs))
    node.output.extend(f"y{i}" if v.name else "" for i, v in enumerate(region.outputs))
    node.attribute.extend(ir.serde.serialize_attribute(a) for a in region.attributes.values())
    types = [
        b"" if v is None else ir.serde.serialize_value(_typed(v)).type.SerializeToString()
        for v in inputs
    ]
    return node.SerializeToString(), types


def _typed(value: ir.Value) -> ir.Value:
    return ir.Value(name="x", shape=value.shape, type=value.type)


def _attributes(schema: Any, function: onnx.FunctionProto, region: Region) -> dict[str, ir.Attr]:
    """What the function's references to attributes stand for."""
    found = {
        name: ir.serde.deserialize_attribute(a.default_value)
        for name, a in schema.attributes.items()
        if a.default_value.name
    }
    found |= {a.name: ir.serde.deserialize_attribute(a) for a in function.attribute_proto}
    return found | dict(region.attributes)


def _record(
    op: Ops, proto: onnx.NodeProto, values: dict[str, ir.Value | None], given: dict[str, ir.Attr]
) -> None:
    """One node of a function; what is known of integers without running it becomes a constant."""
    attributes = {}
    for attribute in proto.attribute:
        if not attribute.ref_attr_name:
            attributes[attribute.name] = ir.serde.deserialize_attribute(attribute)
        elif attribute.ref_attr_name in given:
            attributes[attribute.name] = _renamed(given[attribute.ref_attr_name], attribute.name)
    operands = [values[name] for name in proto.input]
    if proto.op_type == "Constant":
        values[proto.output[0]] = _constant(op, attributes)
        return
    outputs = op.emit(proto.op_type, operands, attributes, len(proto.output))
    for name, output in zip(proto.output, outputs, strict=True):
        values[name] = _folded(op, proto, operands, output)


def _renamed(attribute: ir.Attr, name: str) -> ir.Attr:
    return ir.Attr(name, attribute.type, attribute.value)


def _constant(op: Ops, attributes: dict[str, ir.Attr]) -> ir.Value:
    node = ir.node("Constant", [], attributes)
    array = constant(node.outputs[0])
    assert array is not None
    return op.const(array, ir.DataType.from_numpy(array.dtype))


def _folded(
    op: Ops, proto: onnx.NodeProto, operands: Sequence[ir.Value | None], output: ir.Value
) -> ir.Value:
    ints = op.shapes.ints(output)
    if ints is not None and output.dtype is not None and output.shape is not None:
        shape = [d for d in output.shape.dims if isinstance(d, int)]
        return op.const(np.array(ints).reshape(shape), output.dtype)
    source = None if not operands else constant(operands[0])
    if proto.op_type in ("Cast", "CastLike") and source is not None and output.dtype is not None:
        return op.const(source, output.dtype)
    if (
        proto.op_type in ("Identity", "Cast", "CastLike")
        and operands[0] is not None
        and (operands[0].dtype == output.dtype)
    ):
        return operands[0]
    return output
