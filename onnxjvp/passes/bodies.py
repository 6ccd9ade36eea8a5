"""Closed Ifs, Scans and Loops made what ONNX has: their bodies read the graphs around them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.bodies import leading_to, there
from onnxjvp.graph.branches import BRANCHES, bodies, is_if
from onnxjvp.graph.loops import is_loop
from onnxjvp.graph.ops import MADE
from onnxjvp.graph.scans import INVARIANTS, is_scan
from onnxjvp.graph.shapes import SMALL, constant


def open_all(nodes: Sequence[ir.Node]) -> None:
    """Make closed nodes, in place, the operators that ONNX has."""
    for node in nodes:
        if is_if(node) and len(node.inputs) > 1:
            actual = [there(v) for v in node.inputs[1:]]
            for name, body in zip(BRANCHES, bodies(node), strict=True):
                values = dict(zip(body.inputs, actual, strict=True))
                node.attributes[name] = ir.AttrGraph(name, _opened(body, values))
            node.resize_inputs(1)
        elif (is_scan(node) or is_loop(node)) and INVARIANTS in node.attributes:
            _open_steps(node, len(node.inputs) - node.attributes.get_int(INVARIANTS, 0))


def _open_steps(node: ir.Node, count: int) -> None:
    body = node.attributes["body"].as_graph()
    values: dict[ir.Value, ir.Value] = {}
    for name, actual in zip(body.inputs, node.inputs, strict=True):
        values[name] = there(actual)
        if len(values) <= count:
            values[name] = ir.Value(name=name.name, type=name.type, shape=_writable(name))
    inputs = [values[v] for v in body.inputs[:count]]
    node.attributes["body"] = ir.AttrGraph("body", _opened(body, values, inputs))
    del node.attributes[INVARIANTS]
    node.resize_inputs(count)


def _writable(value: ir.Value) -> ir.Shape | None:
    return value.shape if value.shape is not None and dims.is_static(value.shape.dims) else None


def _opened(
    body: ir.Graph, values: dict[ir.Value, ir.Value], inputs: Sequence[ir.Value] = ()
) -> ir.Graph:
    """A copy of a body with fewer inputs. Bodies can be shared by nodes, and are never changed."""
    nodes: list[ir.Node] = []
    for node in leading_to(list(body), body.outputs):
        for value in node.inputs:
            if value is not None and value not in values and _is_size(value):
                nodes.append(_constant_node(value))
                values[value] = nodes[-1].outputs[0]
        read = [v if v is None else values.get(v, v) for v in node.inputs]
        copied = ir.Node(
            node.domain,
            node.op_type,
            read,
            node.attributes.values(),
            num_outputs=len(node.outputs),
        )
        for old, new in zip(node.outputs, copied.outputs, strict=True):
            new.name, new.type, new.shape = old.name, old.type, old.shape
            values[old] = new
        nodes.append(copied)
    open_all(nodes)
    return ir.Graph(inputs, [values[v] for v in body.outputs], nodes=nodes, name=body.name)


def _is_size(value: ir.Value) -> bool:
    """Whether it is a constant that onnx's inference has to see inside a body to tell sizes."""
    return value.dtype == ir.DataType.INT64 and (
        constant(value) is not None and dims.product(dims.of(value)) in range(SMALL + 1)
    )


def _constant_node(value: ir.Value) -> ir.Node:
    array = constant(value)
    assert array is not None
    made = ir.node("Constant", [], {"value": ir.tensor(array)})
    made.outputs[0].name = f"{MADE}{value.name}"
    return made
