"""Raise a model to the lowest opset that the rules read, without touching its weights."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxjvp.errors import InvalidModelError, UsageError

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


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model with its weights as inputs: what onnx's C++ passes can take at any size."""
    bare = model.clone()
    graph = bare.graph
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        outside = isinstance(tensor, ir.ExternalTensor)
        if tensor is not None and (outside or tensor.nbytes > SMALL_BYTES):
            del graph.initializers[name]
            value.type = value.type or ir.TensorType(tensor.dtype)
            value.shape = value.shape or ir.Shape(tensor.shape.numpy())
            value.const_value = None
            if value not in graph.inputs:
                graph.inputs.append(value)
    return ir.to_proto(bare)


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
        proto = onnx.version_converter.convert_version(skeleton(model), target)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise InvalidModelError(
            f"the model's opset {current} could not be raised to {target} by onnx's version "
            f"converter: {str(error).strip()}. Export it again with opset {FLOOR} or newer"
        ) from error
    raised = ir.from_proto(proto)
    if current < 11:
        _repair(raised, model)
    return _with_weights(raised, model)


def _repair(raised: ir.Model, original: ir.Model) -> None:
    """What onnx's converter gets wrong on the way to opset 11.

    Resize and Upsample sampled at x/scale; the converter leaves out the attribute that says so.
    Attributes of Clip and Pad become constants that are float32 in models of any dtype.
    """
    dtypes = _dtypes(onnx.shape_inference.infer_shapes(skeleton(original)).graph)
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


def _dtypes(graph: onnx.GraphProto) -> dict[str, int]:
    """The dtype of every value, of those in bodies as well."""
    found: dict[str, int] = {}
    for node in graph.node:
        for attribute in node.attribute:
            found.update(_dtypes(attribute.g))
    typed = (*graph.value_info, *graph.input, *graph.output)
    found.update((v.name, v.type.tensor_type.elem_type) for v in typed)
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
