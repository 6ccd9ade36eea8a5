"""What onnx's C++ must not be shown, since it takes the process with it.

Its shape inference trusts what it computes: a pool over too small an image has a negative size, of
which a Slice then ends the process, and so do attributes beyond the lists that they point into. No
exception says so. What can be told from a node alone is refused here; positions of a Slice are
hidden, for its size is worked out again by `shape_functions`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir as ir

from onnxjvp.errors import InvalidModelError
from onnxjvp.graph import limits

_PREFIX = "onnxjvp.hidden."
#: Slice takes positions as operands, and Expand of earlier opsets adds axes one by one
_SLICE_FROM, _EXPAND_FROM = 10, 13
_FROM_ONE = ("group", "strides", "dilations", "kernel_shape", "blocksize")
#: what exporters compute shapes with, and makes no negative size of others
_ON_SHAPES = frozenset(
    (
        *("Constant", "Identity", "Cast", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze"),
        *("Size", "Add", "Sub", "Mul", "Div", "Mod", "Neg", "Abs", "Min", "Max", "Where", "Equal"),
        *("Less", "Greater", "Not", "And", "Or", "Floor", "Ceil", "Sqrt"),
    )
)
_AXES = ("axis", "axes", "batch_dims", "perm")
_CHECKED = frozenset((*_AXES, *_FROM_ONE, "num_scan_inputs", "num_outputs"))


def check_nodes(nodes: Iterable[ir.Node]) -> None:
    """Refuse nodes that crash onnx's inference, whatever their operands are.

    Raises:
      InvalidModelError: axes beyond those of any tensor; a Split into other than its outputs.
    """
    for node in nodes:
        if node.domain not in ("", "com.microsoft"):
            continue  # what its attributes mean is not known
        for name in node.attributes:
            if name in _CHECKED:
                _check_numbers(node, name, _ints(node, name))
        if node.op_type == "Einsum" and not _is_equation(node):
            raise _wrong(node, "its equation is none, or one of other operands")
        if node.op_type == "Constant" and not node.domain and len(node.attributes) != 1:
            raise _wrong(node, f"it has {len(node.attributes)} attributes, not one")


def _is_equation(node: ir.Node) -> bool:
    """Letters, one ellipsis a term, and a term for each operand; onnx may never end on others."""
    found = node.attributes.get("equation")
    if found is None or found.is_ref() or found.type != ir.AttributeType.STRING:
        return False
    if not isinstance(found.value, str):
        return False  # bytes that are no UTF-8
    left, arrow, right = found.value.replace(" ", "").partition("->")
    terms = left.split(",")
    bare = [term.replace("...", "", 1) for term in (*terms, *([right] if arrow else []))]
    plain = all(not term or (term.isalpha() and term.isascii()) for term in bare)
    return plain and len(terms) == len(node.inputs)


def _check_numbers(node: ir.Node, name: str, numbers: list[int]) -> None:
    """Refuse an attribute that points beyond what there is."""
    most = limits.current().rank
    if name in _AXES:
        low = 0 if name == "batch_dims" else -most
        if beyond := [axis for axis in numbers if not low <= axis <= most]:
            raise _wrong(node, f"{name} is {beyond[0]}, and no tensor has such an axis")
    elif name in _FROM_ONE:
        if any(number < 1 for number in numbers):
            raise _wrong(node, f"{name} is {numbers}")
        if name == "kernel_shape":
            limits.check_constant(math.prod(numbers), f"the kernel of node {node.name!r}")
    elif node.op_type == "Scan" and name == "num_scan_inputs":
        if not all(0 < number <= len(node.inputs) for number in numbers):
            raise _wrong(node, f"it scans {numbers[0]} of {len(node.inputs)} operands")
    elif node.op_type == "Split" and numbers != [len(node.outputs)]:
        raise _wrong(node, f"it has {len(node.outputs)} outputs, not num_outputs of them")


def _ints(node: ir.Node, name: str) -> list[int]:
    found = node.attributes.get(name)
    if found is None or found.is_ref():
        return []
    if found.type == ir.AttributeType.INT:
        return [found.as_int()]
    return list(found.as_ints()) if found.type == ir.AttributeType.INTS else []


def _wrong(node: ir.Node, why: str) -> InvalidModelError:
    return InvalidModelError(
        f"node {node.name!r} ({node.op_type}) is no valid node: {why}. Export the model again, or "
        "repair it"
    )


def hide(model: onnx.ModelProto) -> dict[str, str]:
    """Put inputs of the graph in the place of positions; returns what each stands for.

    Those of what is made of shapes alone stay, since no size is negative there.
    """
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    hidden: dict[str, str] = {}
    graph = model.graph
    safe = {v.name for v in graph.input} | {v.name for v in graph.initializer}
    for node in _nodes(graph):
        standard = node.domain in ("", "ai.onnx")
        expanded = node.op_type == "Expand" and opset < _EXPAND_FROM
        sliced = node.op_type == "Slice" and opset >= _SLICE_FROM
        sliced = sliced and not safe.issuperset(node.input[:1])
        if standard and (sliced or expanded) and len(node.input) > 1:
            name = f"{_PREFIX}{len(hidden)}"
            hidden[name], node.input[1] = node.input[1], name
        if standard and (node.op_type == "Shape" or _is_safe(node, safe)):
            safe.update(node.output)
        else:  # another branch may have the same name for something else
            safe.difference_update(node.output)
        safe.difference_update(v.name for body in _bodies(node) for v in body.input)
    for name in hidden:
        graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [None]))
    return hidden


def _is_safe(node: onnx.NodeProto, safe: set[str]) -> bool:
    return node.op_type in _ON_SHAPES and all(not name or name in safe for name in node.input)


def show(model: onnx.ModelProto, hidden: dict[str, str]) -> None:
    """Undo `hide`."""
    for node in _nodes(model.graph) if hidden else ():
        for i, name in enumerate(node.input):
            if name in hidden:
                node.input[i] = hidden[name]
    kept = [value for value in model.graph.input if value.name not in hidden]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in _bodies(node):
            yield from _nodes(body)


def forget_nonsense(model: ir.Model) -> None:
    """Sizes below 0, some exporters' word for unknown, become unknown ones; so do types of none."""
    for graph in model.graphs():
        made = (v for node in graph for v in node.outputs)
        for value in (*graph.inputs, *made, *graph.outputs):
            if value.type is not None and value.dtype == ir.DataType.UNDEFINED:
                value.type = None
            if value.shape is None or isinstance(value.type, ir.SequenceType | ir.OptionalType):
                continue
            if any(isinstance(d, int) and d < 0 for d in value.shape.dims):
                value.shape = ir.Shape(
                    [None if isinstance(d, int) and d < 0 else d for d in value.shape.dims]
                )
