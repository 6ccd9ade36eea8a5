"""The operator If in a normal form: no branch that is never taken, no parameters inside bodies."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxjvp.errors import InvalidModelError
from onnxjvp.graph import dims
from onnxjvp.graph.shapes import Shapes, constant, shape_function

#: the bodies of If, in the order in which they are dealt with
BRANCHES = ("then_branch", "else_branch")


def is_if(node: ir.Node) -> bool:
    return node.op_type == "If" and not node.domain


def bodies(node: ir.Node) -> tuple[ir.Graph, ir.Graph]:
    """The bodies of an If."""
    then, otherwise = (node.attributes[name].as_graph() for name in BRANCHES)
    return then, otherwise


def bodies_of(node: ir.Node) -> list[ir.Graph]:
    """The bodies of any node."""
    graphs = (a for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH)
    return [a.as_graph() for a in graphs]


#: of an input of a body: "dtype" or "shape", which the file leaves out, and some runtimes want
UNDECLARED = "onnxjvp.undeclared"


def undeclared(model: ir.Model) -> dict[str, str]:
    """By name: what a file leaves out of the inputs of bodies, before anything is inferred."""
    values = (v for node in model.graph.all_nodes() for b in bodies_of(node) for v in b.inputs)
    return {
        v.name or "": "dtype" if v.dtype is None else "shape"
        for v in values
        if v.dtype is None or v.shape is None
    }


def mark_undeclared(model: ir.Model, found: dict[str, str]) -> None:
    """Note it on the inputs of these names, whatever an adapter between opsets made of them."""
    for value in (v for n in model.graph.all_nodes() for b in bodies_of(n) for v in b.inputs):
        value.meta.pop(UNDECLARED, None)  # of the file that this one was made of
        if value.name in found:
            value.meta[UNDECLARED] = found[value.name]


def check_bodies(model: ir.Model) -> None:
    """Both branches of an If give what it gives: onnx's checker counts none of it.

    Raises:
      InvalidModelError: branches are missing, have inputs, or another number of outputs.
    """
    for node in model.graph.all_nodes():
        if not is_if(node):
            continue
        found = [node.attributes.get(name) for name in BRANCHES]
        graphs = [a.as_graph() for a in found if a and a.type == ir.AttributeType.GRAPH]
        count = len(node.outputs)
        if len(graphs) != 2 or any(len(g.outputs) != count or g.inputs for g in graphs):
            raise InvalidModelError(
                f"node {node.name!r} (If) has {count} outputs, which are not those of two branches "
                f"without inputs ({', '.join(str(len(g.outputs)) for g in graphs) or 'none'}). "
                "Export the model again, or repair it"
            )


@shape_function("If")
def _if(shapes: Shapes, node: ir.Node) -> None:
    """What both branches agree on; where their ranks differ, what is declared stays."""
    condition = node.inputs[0]
    if condition is not None and condition.dtype not in (None, ir.DataType.BOOL):
        raise ValueError(f"its condition is {condition.dtype}")
    for output, *ends in zip(node.outputs, *(body.outputs for body in bodies(node)), strict=True):
        first, second = ends
        if None not in (first.dtype, second.dtype) and first.dtype != second.dtype:
            raise ValueError(f"its branches give {first.dtype} and {second.dtype}")
        if output.dtype is None and first.dtype == second.dtype and first.type is not None:
            output.type = first.type
        if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
            continue
        pairs = zip(first.shape.dims, second.shape.dims, strict=True)
        shapes.put(output, [a if a == b else dims.fresh() for a, b in pairs])


def normalise(model: ir.Model) -> None:
    """Inline branches that are always taken, and move parameters out of all others.

    An If whose condition is a constant becomes the nodes of its branch. Float initialisers and
    Constant nodes of other bodies become those of the main graph, under their own names where no
    other value has them, else under NODE/BRANCH/NAME; integers stay, since onnx's inference loses
    sight of sizes that come from outside a body. Bodies of Loop and Scan stay as they are.
    Every value is the same to the last bit.
    Cost: linear in nodes.
    """
    if any(is_if(node) for node in model.graph):
        _Normal(model).settle(model.graph, None)


class _Normal:
    def __init__(self, model: ir.Model) -> None:
        self.root = model.graph
        self.names = Counter(v.name for graph in model.graphs() for v in _defined(graph))

    def settle(self, graph: ir.Graph, anchor: ir.Node | None) -> None:
        """Bring the Ifs of a graph into form; parameters go before `anchor`, or before the If."""
        for node in list(graph):
            if not is_if(node):
                continue
            place = anchor or node
            condition = constant(node.inputs[0])
            if condition is None or condition.size != 1:
                for branch, body in zip(BRANCHES, bodies(node), strict=True):
                    self.settle(body, place)
                    self._lift(body, place, f"{_label(node)}/{branch}")
                continue
            taken, dropped = bodies(node)[:: 1 if condition.all() else -1]
            self.names -= Counter(v.name for g in _graphs(dropped) for v in _defined(g))
            for unused in dropped.all_nodes():
                _detach(unused)
            self.settle(taken, place)
            self._inline(graph, node, taken)

    def _inline(self, graph: ir.Graph, node: ir.Node, body: ir.Graph) -> None:
        prefix = f"{_label(node)}/{BRANCHES[bodies(node).index(body)]}"
        ends = list(body.outputs)
        body.outputs.clear()  # an initialiser that is an output as well could not be moved
        for value in list(body.initializers.values()):
            self._move(value, body, graph, prefix)
        for value in _defined(body):
            self._name_apart(value, prefix)
        nodes = list(body)
        body.remove(nodes)
        for output, end in zip(node.outputs, ends, strict=True):
            copied = ir.node("Identity", [end])
            copied.outputs[0].shape, copied.outputs[0].type = output.shape, output.type
            name, output.name = output.name, None
            copied.outputs[0].name = name
            ir.convenience.replace_all_uses_with(output, copied.outputs[0], True)
            nodes.append(copied)
        graph.insert_before(node, nodes)
        _detach(node)
        graph.remove(node)

    def _lift(self, body: ir.Graph, place: ir.Node, prefix: str) -> None:
        held = [v for v in body.initializers.values() if _is_lifted(v)]
        made = [n for n in body if n.op_type == "Constant" and _is_lifted(n.outputs[0])]
        moved = [*held, *(n.outputs[0] for n in made)]
        for i, end in enumerate(body.outputs):
            if end in moved:
                copied = ir.node("Identity", [end])
                copied.outputs[0].shape, copied.outputs[0].type = end.shape, end.type
                copied.outputs[0].name = self._fresh(f"{prefix}/{end.name}")
                body.append(copied)
                body.outputs[i] = copied.outputs[0]
        for value in held:
            self._move(value, body, self.root, prefix)
        for node in made:
            body.remove(node)
            self.root.insert_before(place, node)
            self._name_apart(node.outputs[0], prefix)

    def _move(self, value: ir.Value, body: ir.Graph, graph: ir.Graph, prefix: str) -> None:
        del body.initializers[value.name or ""]
        self._name_apart(value, prefix)
        graph.initializers.add(value)

    def _name_apart(self, value: ir.Value, prefix: str) -> None:
        """A name of its own for a value whose name stands for others in other bodies."""
        if value.name and self.names[value.name] > 1:  # all of them but one in the main graph
            if value.const_value is not None and value.producer() is None:
                value.const_value = _own(value.const_value)  # it would be renamed for the caller
            value.name = self._fresh(f"{prefix}/{value.name}")

    def _fresh(self, name: str) -> str:
        while self.names[name]:
            name += "_"
        self.names[name] += 1
        return name


def _detach(node: ir.Node) -> None:
    """A node that goes would still count as a user of what it reads."""
    for i in range(len(node.inputs)):
        node.replace_input_with(i, None)


def _label(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or "If"


def _defined(graph: ir.Graph) -> list[ir.Value]:
    """Values that a graph itself defines."""
    made = (v for node in graph for v in node.outputs)
    every = (*graph.inputs, *graph.initializers.values(), *made)
    return list(dict.fromkeys(v for v in every if v.name))


def _graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    yield graph
    yield from graph.subgraphs()


def _is_lifted(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and not (
        tensor.dtype.is_integer() or tensor.dtype == ir.DataType.BOOL
    )


def _own(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same tensor under a name that can be changed."""
    if isinstance(tensor, ir.TensorProtoTensor):
        proto = onnx.TensorProto()
        proto.CopyFrom(tensor.raw)
        return ir.TensorProtoTensor(proto)
    return copy.copy(tensor)
