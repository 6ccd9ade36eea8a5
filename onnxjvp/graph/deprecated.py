"""Operators that onnx's checker turns away at an opset at which runtimes run them all the same.

GroupNormalization of opset 18 to 20 has a scale and a bias for each group; from 21 on it has them
for each channel, and onnx calls the older one deprecated, in files of its own opset too. A runtime
has no kernel for it: it runs ONNX's definition. So that takes the node's place, with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx
import onnx_ir as ir

#: where the definitions stand until they are inlined
DOMAIN = "onnxjvp.deprecated"
#: operator → first opset, and the one behind the last, of what is deprecated
_DEPRECATED = {"GroupNormalization": (18, 21)}


def define(model: ir.Model) -> None:
    """Turn such nodes into calls of functions of the model's own, which inlining then replaces."""
    places: list[tuple[dict[str, int], Iterable[ir.Node]]] = [
        (model.opset_imports, list(model.graph.all_nodes()))
    ]
    places += [(f.opset_imports, list(f.all_nodes())) for f in model.functions.values()]
    for imports, nodes in places:
        opset = imports.get("", imports.get("ai.onnx", 0))
        for node in nodes:
            first, end = _DEPRECATED.get(node.op_type, (0, 0))
            if node.domain in ("", "ai.onnx") and first <= opset < end:
                name = f"{node.op_type}_{len(model.functions)}"
                function = _definition(node, name, first, opset)
                if function is None:
                    continue  # onnx's checker says what is wrong with it
                model.functions[function.identifier()] = function
                model.opset_imports[DOMAIN] = imports[DOMAIN] = 1
                node.domain, node.op_type = DOMAIN, function.name
                node.attributes.clear()


def _definition(node: ir.Node, name: str, first: int, opset: int) -> ir.Function | None:
    """ONNX's of the first opset, whose operators mean the same up to the last; in X's dtype.

    None for a node whose attributes or operands are not those of the operator.
    """
    if any(attribute.is_ref() for attribute in node.attributes.values()):
        return None
    schema: Any = onnx.defs.get_schema(node.op_type, first)
    proto = onnx.NodeProto(op_type=node.op_type, input=_names(schema.inputs))
    proto.output.extend(_names(schema.outputs))
    proto.attribute.extend(ir.serde.serialize_attribute(a) for a in node.attributes.values())
    single = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None).SerializeToString()
    found = onnx.FunctionProto()
    found.ParseFromString(
        schema.get_context_dependent_function_with_opset_version(
            first, proto.SerializeToString(), [single] * len(proto.input)
        )
    )
    if not found.opset_import:
        return None
    found.name, found.domain = name, DOMAIN
    found.opset_import[0].version = opset
    del found.attribute[:]
    for inner in found.node:
        if inner.op_type == "Cast":  # to float32, by the types that it was asked for
            inner.op_type = "CastLike"
            inner.input.append(found.input[0])
            del inner.attribute[:]
    return ir.serde.deserialize_function(found)


def _names(formals: Iterable[Any]) -> list[str]:
    return [formal.name for formal in formals]
