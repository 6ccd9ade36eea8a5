"""The same model in float64: every floating-point type in it is replaced."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

Array = np.ndarray[Any, Any]

_NARROW = {TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT}
_NARROW_NAMES = {"tensor(float16)", "tensor(bfloat16)", "tensor(float)"}
_NARROW_DTYPES = {"float16", "bfloat16", "float32"}
#: integer attributes that name an element type; stash_type is left, no operator takes double there
_TYPE_ATTRIBUTES = {"to", "dtype", "output_dtype", "output_datatype", "softmax_precision"}


@dataclass(frozen=True)
class _Schema:
    """What widening asks of an operator's schema."""

    #: per operand and per result, whether it may be float32 or float16 but not double
    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]
    #: attributes whose default names such a type
    types: frozenset[str]


@functools.cache
def _schema(op_type: str, version: int, domain: str) -> _Schema | None:
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}

    def narrow(formal: onnx.defs.OpSchema.FormalParameter) -> bool:
        kinds = allowed.get(formal.type_str, {formal.type_str})
        return bool(kinds & _NARROW_NAMES) and "tensor(double)" not in kinds

    declared = schema.attributes
    types = {n for n in _TYPE_ATTRIBUTES & set(declared) if declared[n].default_value.i in _NARROW}
    inputs, outputs = (tuple(map(narrow, formals)) for formals in (schema.inputs, schema.outputs))
    return _Schema(inputs, outputs, frozenset(types))


@dataclass(frozen=True)
class _Schemas:
    versions: dict[str, int]
    beyond: frozenset[str]

    def of(self, node: NodeProto) -> _Schema | None:
        return _schema(node.op_type, self.versions.get(node.domain, 1), node.domain)


def to_double(model: ModelProto, *, beyond_schema: Collection[str] = ()) -> ModelProto:
    """A copy of the model that computes in float64 throughout; model-local functions are inlined.

    Where an operator's schema takes no double (the `scales` of Resize, quantisation), a Cast back
    to float32 feeds it, and what it makes is cast to float64 again; operators named in
    `beyond_schema` take double all the same, in a model that no longer is valid ONNX.
    """
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    double = ModelProto()
    double.CopyFrom(model)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    schemas = _Schemas(versions, frozenset(beyond_schema))
    taken = {name for graph in graphs(double.graph) for name in _names(graph)}
    fresh = (f"float64_{i}" for i in itertools.count())
    _widen_graph(double.graph, schemas, (name for name in fresh if name not in taken))
    return double


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """All nodes of a graph and of the graphs within it."""
    for inner in graphs(graph):
        yield from inner.node


def widened(array: Array) -> Array:
    """The array in float64 if it is float16, bfloat16 or float32, else as it is."""
    return array.astype(np.float64) if array.dtype.name in _NARROW_DTYPES else array


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                yield from graphs(inner)


def _names(graph: GraphProto) -> Iterator[str]:
    yield from (info.name for info in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output


def _widen_graph(graph: GraphProto, schemas: _Schemas, fresh: Iterator[str]) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _widen_tensor(sparse.values)
    for info in (*graph.input, *graph.output, *graph.value_info):
        _widen_type(info.type)
    widened_nodes = [made for node in graph.node for made in _widen_node(node, schemas, fresh)]
    del graph.node[:]
    graph.node.extend(widened_nodes)


def _widen_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _NARROW:
        name, array = tensor.name, onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array.astype(np.float64), name))


def _widen_type(kind: TypeProto) -> None:
    match kind.WhichOneof("value"):
        case "tensor_type" if kind.tensor_type.elem_type in _NARROW:
            kind.tensor_type.elem_type = TensorProto.DOUBLE
        case "sparse_tensor_type" if kind.sparse_tensor_type.elem_type in _NARROW:
            kind.sparse_tensor_type.elem_type = TensorProto.DOUBLE
        case "sequence_type":
            _widen_type(kind.sequence_type.elem_type)
        case "optional_type":
            _widen_type(kind.optional_type.elem_type)
        case "map_type":
            _widen_type(kind.map_type.value_type)


def _widen_node(node: NodeProto, schemas: _Schemas, fresh: Iterator[str]) -> Iterable[NodeProto]:
    """The node in float64, between the Casts that it needs."""
    schema = schemas.of(node)
    for attribute in node.attribute:
        _widen_attribute(attribute, schemas, fresh)
    _spell_out_types(node, schema)
    if schema is None or node.op_type in schemas.beyond:
        return [node]
    before, after = [], []
    for i, name in enumerate(node.input):
        if name and _is_narrow(schema.inputs, i):
            node.input[i] = next(fresh)
            before.append(_cast(name, node.input[i], TensorProto.FLOAT))
    for i, name in enumerate(node.output):
        if name and _is_narrow(schema.outputs, i):
            node.output[i] = next(fresh)
            after.append(_cast(node.output[i], name, TensorProto.DOUBLE))
    return [*before, node, *after]


def _widen_attribute(attribute: AttributeProto, schemas: _Schemas, fresh: Iterator[str]) -> None:
    if attribute.HasField("g"):
        _widen_graph(attribute.g, schemas, fresh)
    for graph in attribute.graphs:
        _widen_graph(graph, schemas, fresh)
    for tensor in (*([attribute.t] if attribute.HasField("t") else ()), *attribute.tensors):
        _widen_tensor(tensor)
    if attribute.HasField("sparse_tensor"):
        _widen_tensor(attribute.sparse_tensor.values)
    if attribute.HasField("tp"):
        _widen_type(attribute.tp)
    if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _NARROW:
        attribute.i = TensorProto.DOUBLE
    if attribute.name in {"value_float", "value_floats"}:
        numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        tensor = onnx.numpy_helper.from_array(np.asarray(numbers, np.float64))
        attribute.CopyFrom(onnx.helper.make_attribute("value", tensor))


def _spell_out_types(node: NodeProto, schema: _Schema | None) -> None:
    """Attributes whose default means float32."""
    present = {attribute.name for attribute in node.attribute}
    if node.op_type == "ConstantOfShape" and "value" not in present:
        zero = onnx.numpy_helper.from_array(np.zeros(1))
        node.attribute.append(onnx.helper.make_attribute("value", zero))
    for name in sorted((schema.types if schema else frozenset()) - present):
        node.attribute.append(onnx.helper.make_attribute(name, TensorProto.DOUBLE))


def _is_narrow(formals: Sequence[bool], index: int) -> bool:
    return formals[min(index, len(formals) - 1)]  # the last may stand for any number


def _cast(source: str, target: str, to: int) -> NodeProto:
    return onnx.helper.make_node("Cast", [source], [target], to=to)
