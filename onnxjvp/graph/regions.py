"""Regions: what a rule applies to, one node or a group that is one function.

Some derivatives belong to a group: SiLU written as Mul(x, Sigmoid(x)) has one slope, and a Gelu of
five nodes costs one product instead of five when it is differentiated whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.shapes import constant


@dataclass(frozen=True, eq=False)
class Region:
    """One node, or a recognised group, with the values that enter and leave it."""

    op_type: str
    nodes: tuple[ir.Node, ...]
    inputs: tuple[ir.Value | None, ...]
    outputs: tuple[ir.Value, ...]
    domain: str = ""
    attributes: Mapping[str, ir.Attr] = field(default_factory=dict)

    @property
    def node(self) -> ir.Node:
        """The last node: the only one unless this is a group."""
        return self.nodes[-1]

    @property
    def label(self) -> str:
        return f"{self.domain}::{self.op_type}" if self.domain else self.op_type

    def input(self, index: int) -> ir.Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def operand(self, index: int) -> ir.Value:
        """An input that the operator requires."""
        value = self.input(index)
        assert value is not None
        return value

    def attr_int(self, name: str, default: int) -> int:
        found = self.attributes.get(name)
        return default if found is None else found.as_int()

    def attr_float(self, name: str, default: float) -> float:
        found = self.attributes.get(name)
        # attributes are float32 in the format, defaults too, whatever the model's dtype
        return float(np.float32(default)) if found is None else found.as_float()

    def attr_string(self, name: str, default: str) -> str:
        found = self.attributes.get(name)
        return default if found is None else found.as_string()


def captured(node: ir.Node) -> list[ir.Value]:
    """Values of the outer graph that the bodies of a control-flow node read."""
    found: dict[ir.Value, None] = {}
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            bodies: Iterable[ir.Graph] = [attribute.as_graph()]
        elif attribute.type == ir.AttributeType.GRAPHS:
            bodies = attribute.as_graphs()
        else:
            continue
        for body in bodies:
            inner = {v for n in body.all_nodes() for v in n.outputs}
            for graph in (body, *body.subgraphs()):
                inner.update((*graph.inputs, *graph.initializers.values()))
            for n in body.all_nodes():
                found.update((v, None) for v in n.inputs if v is not None and v not in inner)
            found.update((v, None) for v in body.outputs if v not in inner)
    return list(found)


#: reductions of a scattering that are functions of their own
_SCATTERS = {"mul": "ScatterProduct", "max": "ScatterExtreme", "min": "ScatterExtreme"}


def of_node(node: ir.Node) -> Region:
    inputs = (*node.inputs, *captured(node))
    op_type = node.op_type
    if op_type == "BatchNormalization" and node.attributes.get_int("training_mode", 0) == 1:
        op_type = "TrainingBatchNormalization"  # another function, under the same name
    elif op_type in ("ScatterElements", "ScatterND"):
        op_type = _SCATTERS.get(node.attributes.get_string("reduction", "none"), op_type)
    return Region(op_type, (node,), inputs, tuple(node.outputs), node.domain, node.attributes)


def regions(graph: Iterable[ir.Node], keep: Collection[ir.Value] = ()) -> list[Region]:
    """A graph's nodes in order, with every recognised group as one region at its last node.

    Args:
      keep: values that must not disappear inside a group, because something happens at them.
    """
    groups: dict[ir.Node, Region] = {}
    taken: set[ir.Node] = set()
    for node in graph:
        for matcher in MATCHERS.get(node.op_type, ()) if _is_standard(node) else ():
            region = matcher(node)
            if region is not None and _is_whole(region, keep) and not taken & set(region.nodes):
                groups[node] = region
                taken |= set(region.nodes)
                break
    return [
        groups.get(node) or of_node(node) for node in graph if node in groups or node not in taken
    ]


def _is_whole(region: Region, keep: Collection[ir.Value]) -> bool:
    """Whether nothing outside reads a value from the middle, and y has the shape of x."""
    inside = {v for n in region.nodes for v in (*n.inputs, *n.outputs)} - set(region.inputs)
    if (inside - set(region.outputs)) & set(keep):
        return False
    x, y = region.operand(0), region.outputs[0]
    if x.shape is None or y.shape is None or x.shape.dims != y.shape.dims:
        return False  # constants of a higher rank than x, say
    members = set(region.nodes)
    for node in region.nodes[:-1]:
        for value in node.outputs:
            if value.is_graph_output() or any(user not in members for user in value.consumers()):
                return False
    return True


# -- matching ----------------------------------------------------------------------------------

Matcher = Callable[[ir.Node], "Region | None"]
MATCHERS: dict[str, list[Matcher]] = {}


def matcher(last: str) -> Callable[[Matcher], Matcher]:
    """Register a matcher for groups whose last node has the operator `last`."""

    def register(function: Matcher) -> Matcher:
        MATCHERS.setdefault(last, []).append(function)
        return function

    return register


def _made_by(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    if node is None or node.op_type != op_type or not _is_standard(node):
        return None
    return node


def _is_standard(node: ir.Node) -> bool:
    return node.domain in ("", "ai.onnx")


def _scalar(value: ir.Value | None) -> float | None:
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def _near(value: ir.Value | None, target: float) -> bool:
    scalar = _scalar(value)
    return scalar is not None and abs(scalar - target) <= 2e-3 * abs(target)


def _by_scalar(node: ir.Node | None, target: float) -> ir.Value | None:
    """The other operand of a Mul or Add by (about) `target`."""
    if node is None or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if _near(second, target):
        return first
    return second if _near(first, target) else None


def _pairs(node: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    first, second = node.inputs[0], node.inputs[1]
    return [(first, second), (second, first)]


@matcher("Mul")
def gated(node: ir.Node) -> Region | None:
    """x · Sigmoid(x) is SiLU, x · HardSigmoid(x) with alpha 1/6 is HardSwish."""
    for x, gate in _pairs(node):
        for inner, name in (("Sigmoid", "SiLU"), ("HardSigmoid", "HardSwish")):
            made = _made_by(gate, inner)
            if made is None or made.inputs[0] is not x:
                continue
            alpha = made.attributes.get_float("alpha", 0.2)
            beta = made.attributes.get_float("beta", 0.5)
            if name == "HardSwish" and not (abs(alpha - 1 / 6) < 1e-6 and beta == 0.5):
                continue
            return Region(name, (made, node), (x,), tuple(node.outputs))
    return None


@matcher("Mul")
def gelu_written_out(node: ir.Node) -> Region | None:
    """½ x (1 + erf(x/√2)) in any order of its products."""
    for half_x, bracket in _gelu_factors(node):
        add = _made_by(bracket, "Add")
        erf = _made_by(_by_scalar(add, 1.0), "Erf")
        if add is None or erf is None or erf.inputs[0] is None:
            continue
        scaled = erf.inputs[0].producer()
        if scaled is None or not _is_standard(scaled):
            continue
        if scaled.op_type == "Div" and _near(scaled.inputs[1], 2**0.5):
            x = scaled.inputs[0]
        elif scaled.op_type == "Mul":
            x = _by_scalar(scaled, 0.5**0.5)
        else:
            continue
        halving = half_x(x)
        if x is None or halving is None:
            continue
        members = {scaled, erf, add, *halving}
        return _group("Gelu", node, members, x)
    return None


HalfFinder = Callable[[ir.Value | None], "set[ir.Node] | None"]


def _gelu_factors(node: ir.Node) -> list[tuple[HalfFinder, ir.Value | None]]:
    """How the product x · ½ · bracket may be grouped: (x·½)·b, (x·b)·½, x·(b·½)."""
    found: list[tuple[HalfFinder, ir.Value | None]] = []

    def halved(value: ir.Value | None) -> HalfFinder:
        def find(x: ir.Value | None) -> set[ir.Node] | None:
            inner = _made_by(value, "Mul")
            return {inner} if inner is not None and _by_scalar(inner, 0.5) is x else None

        return find

    for first, second in _pairs(node):
        found.append((halved(first), second))
        half_bracket = _made_by(second, "Mul")
        if half_bracket is not None and (inner := _by_scalar(half_bracket, 0.5)) is not None:
            found.append((_is_x(first, {half_bracket}), inner))
    product = _made_by(_by_scalar(node, 0.5), "Mul")
    if product is not None:
        for first, second in _pairs(product):
            found.append((_is_x(first, {product}), second))
    return found


def _is_x(value: ir.Value | None, members: set[ir.Node]) -> HalfFinder:
    return lambda x: members if value is x else None


def _group(name: str, last: ir.Node, members: set[ir.Node], x: ir.Value) -> Region:
    """A region of one input; members in the order of the graph (each after its producers)."""
    ordered: list[ir.Node] = []

    def visit(node: ir.Node) -> None:
        for value in node.inputs:
            producer = None if value is None else value.producer()
            if producer in members and producer not in ordered:
                visit(producer)
        ordered.append(node)

    visit(last)
    return Region(name, tuple(ordered), (x,), tuple(last.outputs))


@matcher("Add")
def layer_norm_written_out(node: ir.Node) -> Region | None:
    """scale · (x − mean) / √(var + ε) + bias over the last axis."""
    for scaled, bias in _pairs(node):
        mul = _made_by(scaled, "Mul")
        if mul is None:
            continue
        for normalised, scale in _pairs(mul):
            div = _made_by(normalised, "Div")
            if div is None or _scalar(scale) is not None:
                continue
            core = _centred_over_deviation(div)
            if core is None or constant(scale) is None or constant(bias) is None:
                continue
            x, members, epsilon = core
            if any(v is None or v.shape is None or len(v.shape) != 1 for v in (scale, bias)):
                continue
            group = _group("LayerNormalization", node, {*members, div, mul}, x)
            attributes = {"epsilon": ir.AttrFloat32("epsilon", epsilon)}
            return Region(
                group.op_type,
                group.nodes,
                (x, scale, bias),
                group.outputs,
                attributes=attributes,
            )
    return None


def _centred_over_deviation(div: ir.Node) -> tuple[ir.Value, set[ir.Node], float] | None:
    """(x − mean(x)) / √(mean((x − mean(x))²) + ε), and its nodes."""
    centred = _made_by(div.inputs[0], "Sub")
    root = _made_by(div.inputs[1], "Sqrt")
    shifted = _made_by(root.inputs[0] if root else None, "Add")
    if centred is None or root is None or shifted is None:
        return None
    for variance, epsilon in _pairs(shifted):
        mean_square = _made_by(variance, "ReduceMean")
        square = None if mean_square is None else mean_square.inputs[0]
        squaring = None if square is None else square.producer()
        small = _scalar(epsilon)
        if mean_square is None or squaring is None or small is None or small > 0.1:
            continue
        by_power = squaring.op_type == "Pow" and _near(squaring.inputs[1], 2.0)
        by_self = squaring.op_type == "Mul" and squaring.inputs[0] is squaring.inputs[1]
        base = squaring.inputs[0]
        twin = None if base is None else base.producer()
        mean = _made_by(centred.inputs[1], "ReduceMean")
        x = centred.inputs[0]
        if not (by_power or by_self) or mean is None or x is None or twin is None:
            continue
        if not (_is_standard(squaring) and _is_standard(twin)):
            continue
        # torch's older exporter writes the subtraction once, others twice
        same = twin is centred or (
            twin.op_type == "Sub" and list(twin.inputs) == [x, mean.outputs[0]]
        )
        if not same or mean.inputs[0] is not x:
            continue
        if not (_over_last(mean) and _over_last(mean_square)):
            continue
        return x, {centred, twin, root, shifted, mean_square, squaring, mean}, small
    return None


def _over_last(node: ir.Node) -> bool:
    axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    x = node.inputs[0]
    if axes is None or x is None or x.shape is None or node.attributes.get_int("keepdims", 1) != 1:
        return False
    return axes.reshape(-1).tolist() in ([-1], [len(x.shape) - 1])
