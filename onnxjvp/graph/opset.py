"""Raise a model to the lowest opset that the rules read, without touching its weights."""

from __future__ import annotations

import itertools
from typing import cast

import onnx
import onnx_ir as ir

from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.graph import guards
from onnxjvp.graph.old_scans import raise_scans

#: rules and shape functions read the operators as they are from this opset on
FLOOR = 18
#: initialisers up to this many bytes stay in a skeleton: adapters and inference read their values
SMALL_BYTES = 1024


def opset_of(model: ir.Model) -> int:
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx"))
    if version is None:
        raise InvalidModelError(
            "the model imports no standard operators (opset imports: "
            f"{dict(model.opset_imports)}); declare the opset of domain '' that it was exported for"
        )
    return version


def declare_standard(model: ir.Model) -> None:
    """A model of ai.onnx.ml alone imports no standard operators, which rules emit all the same."""
    used = {node.domain for node in model.graph.all_nodes()} | model.opset_imports.keys()
    if used.isdisjoint({"", "ai.onnx"}):
        model.opset_imports[""] = FLOOR


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model with its weights as inputs: what onnx's C++ passes can take at any size."""
    graph = model.graph
    inputs = {value: value for value in graph.inputs}
    small = []
    for value in graph.initializers.values():
        tensor = value.const_value
        outside = isinstance(tensor, ir.ExternalTensor)
        if tensor is not None and (outside or tensor.nbytes > SMALL_BYTES):
            inputs[value] = ir.Value(
                name=value.name,
                type=value.type or ir.TensorType(tensor.dtype),
                shape=value.shape or ir.Shape(tensor.shape.numpy()),
                doc_string=value.doc_string,
            )
        else:
            small.append(value)
    # a view: a copy of the graph would take longer than writing it
    view = ir.GraphView(
        list(inputs.values()),
        graph.outputs,
        nodes=graph,
        initializers=small,
        doc_string=graph.doc_string,
        opset_imports=graph.opset_imports,
        name=graph.name,
        metadata_props=graph.metadata_props,
    )
    bare = ir.Model(
        cast(ir.Graph, view),  # which it serves as, says its docstring
        ir_version=model.ir_version,
        producer_name=model.producer_name,
        producer_version=model.producer_version,
        domain=model.domain,
        model_version=model.model_version,
        doc_string=model.doc_string,
        functions=list(model.functions.values()),
        metadata_props=model.metadata_props,
    )
    try:
        return ir.serde.serialize_model(bare)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InvalidModelError(
            f"the model cannot be written as ONNX: {error.__cause__ or error}. Export it again"
        ) from error


def at_opset(model: ir.Model, wanted: int | None) -> ir.Model:
    """The model at opset `wanted`, at least the floor; the model itself where it is there already.

    Converts through onnx's version converter on the skeleton (weights inside, VGG16 takes 3 GB).
    """
    current = opset_of(model)
    target = max(current, FLOOR) if wanted is None else wanted
    if target < max(current, FLOOR):
        raise UsageError(
            f"cannot write opset {target}: the model has opset {current} and the rules emit opset "
            f"{FLOOR} or newer; ask for at least {max(current, FLOOR)}"
        )
    if target > onnx.defs.onnx_opset_version():
        raise UsageError(
            f"cannot write opset {target}: the installed onnx {onnx.__version__} knows opsets up "
            f"to {onnx.defs.onnx_opset_version()}"
        )
    if target == current:
        return model
    try:
        bare = raise_scans(skeleton(model)) if current == 8 else skeleton(model)
        raised = ir.from_proto(_converted(bare, current, target))
        _show_gemms(raised)
        if current < 11:
            _repair(raised, model)
    except (*_CONVERTER, ValueError, TypeError, IndexError) as error:
        raise InvalidModelError(
            f"the model's opset {current} could not be raised to {target} by onnx's version "
            f"converter: {str(error).strip()}. Export it again with opset {FLOOR} or newer"
        ) from error
    if current < 13:
        _coerce_hardmax(raised)
    return _with_weights(raised, model)


#: what onnx's converter raises, whose exceptions have no common base class
_CONVERTER = (
    RuntimeError,
    onnx.version_converter.ConvertError,
    onnx.shape_inference.InferenceError,
    onnx.checker.ValidationError,
)
#: from this opset on Gemm broadcasts its last operand, as it did before where `broadcast` was 1
_GEMM_BROADCASTS = 7
_HIDDEN = "onnxjvp.hidden"


def _converted(bare: onnx.ModelProto, current: int, target: int) -> onnx.ModelProto:
    """By onnx's converter, which raises no old Gemm whose sizes are symbols: those it is not shown.

    It is shown them first, since behind what it does not know it knows no shapes.
    """
    hidden = guards.hide(bare)
    try:
        found = onnx.version_converter.convert_version(bare, target)
    except _CONVERTER:
        if current >= _GEMM_BROADCASTS or not _hide_gemms(bare):
            raise
        found = onnx.version_converter.convert_version(bare, target)
    guards.show(found, hidden)
    return found


def _hide_gemms(bare: onnx.ModelProto) -> bool:
    found = [n for n in bare.graph.node if n.op_type == "Gemm" and n.domain in ("", "ai.onnx")]
    for node in found:
        node.domain = _HIDDEN
        kept = [a for a in node.attribute if a.name != "broadcast"]
        del node.attribute[:]
        node.attribute.extend(kept)
    bare.opset_import.append(onnx.helper.make_opsetid(_HIDDEN, 1))
    return bool(found)


def _show_gemms(raised: ir.Model) -> None:
    for node in raised.graph:
        if node.domain == _HIDDEN:
            node.domain = ""
    raised.opset_imports.pop(_HIDDEN, None)


def _repair(raised: ir.Model, original: ir.Model) -> None:
    """What onnx's converter gets wrong on the way to opset 11.

    Resize and Upsample sampled at x/scale; the converter leaves out the attribute that says so.
    Attributes of Clip and Pad become constants that are float32 in models of any dtype.
    """
    bare = skeleton(original)
    guards.hide(bare)
    dtypes = _dtypes(onnx.shape_inference.infer_shapes(bare).graph)
    for node in raised.graph.all_nodes():
        if node.op_type == "Resize":
            node.attributes.add(ir.AttrString("coordinate_transformation_mode", "asymmetric"))
            node.attributes.add(ir.AttrString("nearest_mode", "floor"))
        elif node.op_type in ("Clip", "Pad"):
            wanted = ir.DataType(dtypes.get(node.outputs[0].name or "", ir.DataType.FLOAT))
            for value in node.inputs[1:]:
                made = None if value is None else value.producer()
                if value is None or made is None or made.op_type != "Constant":
                    continue
                tensor = ir.convenience.get_const_tensor(value)
                if tensor is not None and tensor.dtype == ir.DataType.FLOAT != wanted:
                    array = tensor.numpy().astype(wanted.numpy())
                    made.attributes.clear()
                    made.attributes.add(ir.AttrTensor("value", ir.tensor(array)))


def _coerce_hardmax(raised: ir.Model) -> None:
    """Before opset 13 it acted on all from its axis (1) on, which onnx's converter forgets."""
    taken = {value.name for node in raised.graph.all_nodes() for value in node.outputs}
    names = (f"hardmax_{i}" for i in itertools.count())
    for node in list(raised.graph.all_nodes()):
        if node.op_type != "Hardmax" or node.domain or node.graph is None:
            continue
        x, axis = node.inputs[0], node.attributes.get_int("axis", 1)
        shape = ir.node("Shape", [x])
        rows = ir.node("Flatten", [x], {"axis": axis})
        hardest = ir.node("Hardmax", rows.outputs, {"axis": -1})
        added = [shape, rows, hardest]
        for new in added:
            new.outputs[0].name = next(name for name in names if name not in taken)
        node.graph.insert_before(node, added)
        node.op_type = "Reshape"
        node.attributes.clear()
        node.attributes.add(ir.AttrInt64("allowzero", 1))
        node.resize_inputs(2)
        node.replace_input_with(0, hardest.outputs[0])
        node.replace_input_with(1, shape.outputs[0])


def _dtypes(graph: onnx.GraphProto) -> dict[str, int]:
    """The dtype of every value, of those in bodies as well."""
    found: dict[str, int] = {}
    for node in graph.node:
        for attribute in node.attribute:
            found.update(_dtypes(attribute.g))
    typed = (*graph.value_info, *graph.input, *graph.output)
    known = ((v.name, v.type.tensor_type.elem_type) for v in typed)
    found.update((name, dtype) for name, dtype in known if dtype)
    return found


def _with_weights(raised: ir.Model, original: ir.Model) -> ir.Model:
    """Put the original's tensors back in place of the inputs that stood for them."""
    inputs = {value.name: value for value in raised.graph.inputs}
    kept_as_input = {value.name for value in original.graph.inputs}
    for name, value in original.graph.initializers.items():
        placeholder = inputs.get(name)
        if placeholder is None or value.const_value is None:
            continue
        if name not in kept_as_input:
            raised.graph.inputs.remove(placeholder)
        if name not in raised.graph.initializers:
            placeholder.const_value = value.const_value
            raised.graph.register_initializer(placeholder)
    raised.metadata_props.update(original.metadata_props)
    return raised
