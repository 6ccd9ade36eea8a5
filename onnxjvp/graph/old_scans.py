"""Scan of opset 8, which runs over a batch: as a Scan of opset 9 over the batch, of a Scan.

onnx's converter makes it a Scan over the first axis, and drops the batch.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from onnxjvp.errors import InvalidModelError

_STANDARD = ("", "ai.onnx")
#: what stands for the domain of nodes that onnx's converter is not to change
_HIDDEN = "onnxjvp.scans"
#: operators that say something else in opset 9; the converter does not look into bodies
_CHANGED = {"BatchNormalization", "Upsample"}


def raise_scans(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of opset 8 at opset 9, where it has Scans; else the model as it is.

    Raises:
      InvalidModelError: sequences of several lengths, or a body with operators that changed.
      RuntimeError: onnx's converter fails.
    """
    for outer in model.graph.node:
        if inner := next((n for n in _inside(outer) if n.op_type == "Scan"), None):
            raise _refusal(inner, "inside another node")
    if not any(n.op_type == "Scan" and n.domain in _STANDARD for n in model.graph.node):
        return model
    hidden = onnx.ModelProto()
    hidden.CopyFrom(model)
    for node in hidden.graph.node:
        if node.op_type == "Scan" and node.domain in _STANDARD:
            _nest(node)
    hidden.opset_import.append(onnx.helper.make_opsetid(_HIDDEN, 1))
    raised = onnx.version_converter.convert_version(hidden, 9)
    for node in raised.graph.node:
        if node.domain == _HIDDEN:
            node.domain = node.attribute[0].g.node[0].domain = ""
    kept = [entry for entry in raised.opset_import if entry.domain != _HIDDEN]
    del raised.opset_import[:]
    raised.opset_import.extend(kept)
    return raised


def _inside(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield inner
            yield from _inside(inner)


def _refusal(node: onnx.NodeProto, why: str) -> InvalidModelError:
    return InvalidModelError(
        f"node {node.name or node.output[0]!r} is a Scan of opset 8, which runs over a batch, "
        f"{why}. Export the model again with opset 9 or newer"
    )


def _nest(node: onnx.NodeProto) -> None:
    """Make a Scan over a batch two Scans; in place."""
    name = node.name or node.output[0]
    attributes = {a.name: a for a in node.attribute}
    body, count = attributes["body"].g, attributes["num_scan_inputs"].i
    if node.input[0]:
        raise _refusal(node, "with sequences of several lengths, which later ones do not have")
    if changed := sorted(_CHANGED & {inner.op_type for inner in _inside(node)}):
        raise _refusal(node, f"with {', '.join(changed)} inside, which say something else later")
    states = len(body.input) - count
    taken = [_of_batch(v, name, i >= states) for i, v in enumerate(body.input)]
    given = [_of_batch(v, name, i >= states) for i, v in enumerate(body.output)]
    inner = onnx.helper.make_node(
        "Scan",
        [v.name for v in taken],
        [v.name for v in given],
        name=f"{name}/steps",
        domain=_HIDDEN,
        num_scan_inputs=count,
        body=body,
    )
    if "directions" in attributes:
        directions = list(attributes["directions"].ints)
        inner.attribute.append(onnx.helper.make_attribute("scan_input_directions", directions))
    step = onnx.helper.make_graph([inner], f"{name}/batch", taken, given)
    outer = onnx.helper.make_node(
        "Scan",
        node.input[1:],
        node.output,
        name=name,
        domain=_HIDDEN,
        body=step,
        num_scan_inputs=len(taken),
    )
    node.CopyFrom(outer)


def _of_batch(value: onnx.ValueInfoProto, name: str, is_sequence: bool) -> onnx.ValueInfoProto:
    """What one of the batch is called: a state, or slices with an axis for the steps."""
    found = onnx.ValueInfoProto()
    found.CopyFrom(value)
    found.name = f"{name}/batch/{value.name}"
    kind = found.type.tensor_type
    if is_sequence and kind.HasField("shape"):
        sizes = list(kind.shape.dim)
        del kind.shape.dim[:]
        kind.shape.dim.add()
        kind.shape.dim.extend(sizes)
    return found
