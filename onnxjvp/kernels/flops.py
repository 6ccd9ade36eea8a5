"""Floating-point operations of a model, counted from its file.

A multiplication and an addition are one each. Moving data is free.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, UnknownTypeError
from onnxjvp.graph.equations import read
from onnxjvp.graph.functions import BODIES, NoBodyError, traced
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.graph.loops import is_loop
from onnxjvp.graph.opset import FLOOR
from onnxjvp.graph.regions import of_node
from onnxjvp.graph.scans import Steps, is_scan
from onnxjvp.graph.shapes import Shapes, opset_behind
from onnxjvp.rewrite import Rewritten


@dataclass(frozen=True)
class NodeFlops:
    """What one node takes in one run of the model, all turns of the loops around it together."""

    node: str
    op_type: str
    flops: Dim


@dataclass(frozen=True)
class Flops:
    """The operations of a model, by node, in the model's own symbols."""

    nodes: tuple[NodeFlops, ...]
    #: nodes whose operations are not all known, each with the reason; they are counted too low
    unknown: Mapping[str, str]

    def at(self, sizes: Mapping[str, int] | None = None, default: int | None = None) -> float:
        """The sum, for sizes of the symbols.

        Args:
          default: the size of symbols that are not given.
        Raises:
          KeyError: a symbol that is not given, and there is no default.
        """
        return sum(self.by_operator(sizes, default).values())

    def by_operator(
        self, sizes: Mapping[str, int] | None = None, default: int | None = None
    ) -> dict[str, float]:
        """The sum for every operator, the largest first. Arguments as for `at`."""
        known: dict[Dim, float] = {}
        found: dict[str, float] = {}
        for each in self.nodes:
            if each.flops not in known:
                known[each.flops] = _number(each.flops, sizes or {}, default)
            found[each.op_type] = found.get(each.op_type, 0.0) + known[each.flops]
        return dict(sorted(found.items(), key=lambda item: -item[1]))


def flops(model: AnyModel | Rewritten, *, links: Path | None = None) -> Flops:
    """Count the floating-point operations of a model.

    Products of matrices, convolutions and recurrent layers count two operations for every
    multiplication with an addition; what is computed element by element counts one for every
    element of the result (a softmax 5 and a normalisation 8), a reduction one for every element
    that it reads. Moving, casting and comparing shapes are free. Of an If the larger branch
    counts; bodies of loops count as often as they run, once where that is not known.

    Args:
      model, links: as for `onnxjvp.jvp`.
    Raises: as `onnxjvp.jvp` for the model.
    Cost: linear in nodes; the model is not run.
    """
    source = load(model.model if isinstance(model, Rewritten) else model, links=links)
    counter = _Counter(source.shapes)
    nodes = counter.nodes(source.graph, 1)
    return Flops(tuple(nodes), counter.unknown)


def count(
    model: AnyModel | Rewritten,
    sizes: Mapping[str, int] | None = None,
    *,
    default: int | None = None,
    links: Path | None = None,
) -> float:
    """The floating-point operations of a model for sizes of its symbols: `flops` and `Flops.at`."""
    return flops(model, links=links).at(sizes, default)


def of_a_product(model: AnyModel, default: int) -> float:
    """The operations of an average product of matrices or convolution; 0 where there is none."""
    counted = flops(model)
    products = [node for node in counted.nodes if node.op_type in _PRODUCTS]
    return Flops(tuple(products), {}).at(default=default) / max(1, len(products))


def _number(amount: Dim, sizes: Mapping[str, int], default: int | None) -> float:
    if isinstance(amount, int):
        return float(amount)
    free = amount.free_symbols()
    missing = [name for name in free if name not in sizes]
    if missing and default is None:
        raise KeyError(f"the size of {', '.join(sorted(missing))} is not given")
    value = amount.evaluate({name: sizes.get(name, default or 0) for name in free})
    assert isinstance(value, int), amount
    return float(value)


class _Counter:
    def __init__(self, shapes: Shapes) -> None:
        self._shapes = shapes
        self.unknown: dict[str, str] = {}

    def nodes(self, graph: Iterable[ir.Node], turns: Dim) -> list[NodeFlops]:
        return [found for node in graph for found in self._node(node, turns)]

    def _node(self, node: ir.Node, turns: Dim) -> Iterator[NodeFlops]:
        name = node.name or node.outputs[0].name or "?"
        try:
            if is_scan(node) or is_loop(node):
                body, times = self._turns(node)
                yield from self.nodes(body, dims.product((turns, times)))
            elif node.op_type == "If":
                yield from self._branches(node, turns)
            elif of_node(node).label in BODIES and node.op_type not in _EACH:
                shapes = Shapes({"": opset_behind(node) or FLOOR})
                yield from self.nodes(traced(of_node(node), shapes)[0].nodes, turns)
            else:
                amount = dims.product((turns, _amount(node)))
                if amount != 0:
                    yield NodeFlops(name, node.op_type, amount)
        except (UnknownTypeError, NoBodyError) as error:
            self.unknown[name] = str(error)

    def _turns(self, node: ir.Node) -> tuple[ir.Graph, Dim]:
        body = node.attributes["body"].as_graph()
        if is_scan(node):
            steps = Steps.of(node)
            value = node.inputs[steps.states]
            assert value is not None
            return body, dims.of(value)[steps.taken[0].axis]
        times = self._shapes.content(node.inputs[0])
        if times is None or len(times) != 1:
            name = node.name or node.outputs[0].name or "?"
            self.unknown[name] = "how often it runs is known at run time only; it counts once"
            return body, 1
        return body, times[0]

    def _branches(self, node: ir.Node, turns: Dim) -> list[NodeFlops]:
        """Those of the branch that takes more, any symbol taken for 8."""
        names = ("then_branch", "else_branch")
        both = [self.nodes(node.attributes[name].as_graph(), turns) for name in names]
        return max(both, key=lambda found: Flops(tuple(found), {}).at(default=8))


# -- one node ----------------------------------------------------------------------------------

_PRODUCTS = frozenset(("MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"))
#: what is only moved, copied, or about shapes
_FREE = frozenset(
    (
        *("Cast", "CastLike", "Compress", "Concat", "Constant", "ConstantOfShape", "DepthToSpace"),
        *("Expand", "EyeLike", "Flatten", "Gather", "GatherElements", "GatherND", "Identity"),
        *("NonZero", "OneHot", "Pad", "Range", "Reshape", "ReverseSequence", "Shape", "Size"),
        *("Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu", "Unsqueeze"),
        *("SequenceConstruct", "SequenceAt", "ConcatFromSequence", "SplitToSequence", "Unique"),
    )
)
#: operations for every element of the result, where that is not one
_EACH = {
    **{"Softmax": 5, "LogSoftmax": 5, "Gelu": 5, "Erf": 1, "HardSwish": 4, "Mish": 4, "Elu": 2},
    **{"LayerNormalization": 8, "InstanceNormalization": 8, "GroupNormalization": 8},
    **{"RMSNormalization": 5, "SimplifiedLayerNormalization": 5, "BatchNormalization": 2},
    **{"MeanVarianceNormalization": 8, "LpNormalization": 4, "LRN": 8, "Swish": 2},
    **{"LeakyRelu": 1, "QuickGelu": 2, "FastGelu": 8, "Clip": 1, "HardSigmoid": 2},
}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def _amount(node: ir.Node) -> Dim:
    op_type = node.op_type
    if op_type in _FREE:
        return 0
    if op_type in _FORMULAS:
        return _FORMULAS[op_type](node)
    if op_type.startswith("Reduce"):
        return _elements(node.inputs[0])
    if op_type.startswith("Scatter"):
        return _elements(node.inputs[2])
    made = node.outputs[0]
    if made.dtype is not None and not made.dtype.is_floating_point():
        return 0  # sizes, indices, masks
    return dims.product((_EACH.get(op_type, 1), _elements(made)))


def _elements(value: ir.Value | None) -> Dim:
    assert value is not None
    return dims.product(dims.of(value))


def _shape(node: ir.Node, index: int) -> Sequence[Dim]:
    value = node.inputs[index]
    assert value is not None
    return dims.of(value)


def _sum(*amounts: Dim) -> Dim:
    total: Dim = 0
    for amount in amounts:
        total = amount if total == 0 else total + amount
    return total


def _matmul(node: ir.Node) -> Dim:
    return dims.product((2, _elements(node.outputs[0]), _shape(node, 0)[-1]))


def _gemm(node: ir.Node) -> Dim:
    inner = _shape(node, 0)[0 if node.attributes.get_int("transA", 0) else 1]
    made = _elements(node.outputs[0])
    bias = made if len(node.inputs) > 2 and node.inputs[2] is not None else 0
    return _sum(dims.product((2, made, inner)), bias)


def _conv(node: ir.Node) -> Dim:
    made = _elements(node.outputs[0])
    bias = made if len(node.inputs) > 2 and node.inputs[2] is not None else 0
    return _sum(dims.product((2, made, *_shape(node, 1)[1:])), bias)


def _conv_transpose(node: ir.Node) -> Dim:
    bias = len(node.inputs) > 2 and node.inputs[2] is not None
    products = dims.product((2, *_shape(node, 0), *_shape(node, 1)[1:]))
    return _sum(products, _elements(node.outputs[0]) if bias else 0)


def _einsum(node: ir.Node) -> Dim:
    shapes = [tuple(_shape(node, i)) for i in range(len(node.inputs))]
    text = node.attributes["equation"].as_string()
    equation = read(text, [len(shape) for shape in shapes])
    summed = any(letter not in equation.result for term in equation.operands for letter in term)
    # for every element: the product of all operands, and a sum where an axis goes
    each = len(shapes) - 1 + summed
    return dims.product((each, *equation.sizes(shapes).values()))


def _recurrent(node: ir.Node) -> Dim:
    """Products with the inputs and the states, and about 10 operations for an element of a gate."""
    steps, batch, size = _shape(node, 0)
    directions, _, hidden = _shape(node, 2)
    gates = _GATES[node.op_type]
    row = _sum(dims.product((2, size)), dims.product((2, hidden)), 10)
    return dims.product((steps, batch, directions, gates, hidden, row))


def _pool(node: ir.Node) -> Dim:
    window = node.attributes.get_ints("kernel_shape") or [1]
    return dims.product((_elements(node.outputs[0]), *window))


def _whole(node: ir.Node) -> Dim:
    return _elements(node.inputs[0])


_FORMULAS: dict[str, Callable[[ir.Node], Dim]] = {
    **{"MatMul": _matmul, "FusedMatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum},
    **{"Conv": _conv, "ConvTranspose": _conv_transpose},
    **{"RNN": _recurrent, "GRU": _recurrent, "LSTM": _recurrent},
    **{"MaxPool": _pool, "AveragePool": _pool, "LpPool": _pool},
    **{"GlobalAveragePool": _whole, "GlobalMaxPool": _whole, "GlobalLpPool": _whole},
    **{"CumSum": _whole, "CumProd": _whole},
}
