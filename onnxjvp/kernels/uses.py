"""Where a linear program in the parameters meets the samples: the uses of every parameter.

A parameter's tangent moves through nodes that know no sample (transposed, reshaped, cut in pieces)
to the nodes that use it. There the program is cut: what comes before says which parameter an
element of the weight is, what comes after is a VJP to the outputs of these nodes, and never to
parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shapes import constant
from onnxjvp.passes.linearize import Program

#: nodes that only move elements, each to one place
_MOVES = frozenset(
    (
        *("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"),
        *("Transpose", "Slice", "Split", "Concat", "Gather"),
    )
)
#: nodes whose results have the elements of their operand in its places
_COPIES = frozenset(("Identity", "Cast", "Neg", "Mul", "Div"))
#: sums of values that broadcast: each is used as it is, whatever the others are
_SUMS = frozenset(("Add", "Sub"))


@dataclass(frozen=True)
class Place:
    """A node that uses a weight: operand `index` of it, made of parameters alone."""

    node: ir.Node
    index: int
    #: the weight is so many times its parameters' elements
    scale: float = 1.0
    #: the node reads nothing that depends on the inputs
    fixed: bool = False

    @property
    def weight(self) -> ir.Value:
        value = self.node.inputs[self.index]
        assert value is not None
        return value

    @property
    def out(self) -> ir.Value:
        return self.node.outputs[0]


@dataclass(frozen=True)
class Uses:
    """A program, cut where it uses parameters."""

    #: every use, with the parameters (positions among the seeds) that its weight is made of
    places: tuple[tuple[Place, frozenset[int]], ...]
    #: the nodes between uses and outputs
    beyond: tuple[ir.Node, ...]
    #: parameters (positions among the seeds) that are not used in ways that are known, and why
    lost: dict[int, str]


def uses(program: Program, moving: set[ir.Value]) -> Uses:
    """Cut a program in the parameters.

    Args:
      program: its seeds are the parameters' tangents.
      moving: values that depend on the model's inputs.
    """
    made_of = {seed: frozenset([i]) for i, seed in enumerate(program.seeds)}
    scales = dict.fromkeys(program.seeds, 1.0)
    places, beyond = [], []
    lost: dict[int, str] = {}
    for node in program.nodes:
        linear = {i: v for i, v in enumerate(node.inputs) if v is not None and v in program.linear}
        pure = {i: v for i, v in linear.items() if v in made_of}
        if len(pure) < len(linear):
            beyond.append(node)
        if not pure:
            continue
        parameters = frozenset[int]().union(*(made_of[v] for v in pure.values()))
        factor = _factor(node, linear, moving) if len(pure) == len(linear) else None
        known = {scales[v] for v in pure.values()}
        if factor is not None and len(known) == 1:
            made_of.update((v, parameters) for v in node.outputs)
            scales.update(dict.fromkeys(node.outputs, known.pop() * factor))
        elif len(node.outputs) > 1:
            _lose(lost, parameters, f"{node.op_type} uses it in several places at once")
        elif len(linear) > 1 and node.op_type not in _SUMS:
            _lose(lost, parameters, f"{node.op_type} joins it with what depends on the sample")
        else:
            fixed = len(pure) == len(linear) and moving.isdisjoint(v for v in node.inputs if v)
            places += [(Place(node, i, scales[v], fixed), made_of[v]) for i, v in pure.items()]
    for out in program.outs:
        if out is not None and out in made_of:
            _lose(lost, made_of[out], "it is an output as it is")
    return Uses(tuple(places), tuple(beyond), lost)


def _lose(lost: dict[int, str], parameters: frozenset[int], why: str) -> None:
    for i in parameters:
        lost.setdefault(i, why)


def _factor(node: ir.Node, linear: dict[int, ir.Value], moving: set[ir.Value]) -> float | None:
    """By how much a node multiplies elements that it moves, whatever the sample; or None."""
    if node.domain or any(
        v.shape is None or not dims.is_static(v.shape.dims) for v in node.outputs
    ):
        return None
    if node.op_type == "Neg":
        return -1.0
    others = [v for i, v in enumerate(node.inputs) if v is not None and i not in linear]
    known = [None if v in moving else constant(v) for v in others]
    if any(array is None for array in known):
        return None
    if node.op_type in ("Mul", "Div") and known[0] is not None and known[0].size == 1:
        keeps = dims.of(node.outputs[0]) == dims.of(next(iter(linear.values())))
        number = float(known[0].reshape(()))
        if not keeps or (node.op_type == "Div" and 1 in linear):
            return None
        return number if node.op_type == "Mul" else 1.0 / number
    if node.op_type == "Concat" and others:
        return None  # what is no parameter's has no place among the elements
    if node.op_type == "Gather" and (known[0] is None or _repeats(node, linear, known[0])):
        return None  # two places of one element: there are cross terms between them
    return 1.0 if node.op_type in _MOVES else None


def _repeats(node: ir.Node, linear: dict[int, ir.Value], indices: np.ndarray) -> bool:
    """Whether a Gather takes something more than once."""
    shape = dims.of(linear[0])
    size = shape[node.attributes.get_int("axis", 0)]
    assert isinstance(size, int)
    return len(np.unique(indices % size)) < indices.size


def origins(
    program: Program, weights: Sequence[ir.Value], offsets: Sequence[int]
) -> list[np.ndarray]:
    """For every element of some weights, which element of which parameter it is.

    Args:
      weights: values made of parameters by moves.
      offsets: per seed, the number of its first element among those of all parameters.
    Returns:
      Per weight, int64 numbers of elements, in its shape; -1 for zeros that were put in.
    Cost: the size of the parameters that the weights are made of.
    """
    needed = set(weights)
    chain: list[ir.Node] = []
    for node in reversed(program.nodes):
        if any(v in needed for v in node.outputs):
            needed.update(v for v in node.inputs if v is not None)
            chain.append(node)
    known: dict[ir.Value, np.ndarray] = {}
    for seed, offset in zip(program.seeds, offsets, strict=True):
        if seed in needed:
            shape = dims.static(seed)
            assert shape is not None
            size = int(np.prod(shape, dtype=np.int64))
            known[seed] = np.arange(offset, offset + size, dtype=np.int64).reshape(shape)
    for node in reversed(chain):
        _move(node, known)
    return [known[w] for w in weights]


def _move(node: ir.Node, known: dict[ir.Value, np.ndarray]) -> None:
    """One node on the numbers of elements."""
    if node.op_type in _COPIES:
        known[node.outputs[0]] = next(known[v] for v in node.inputs if v in known)
        return
    feeds = {
        f"in{i}": known[v] if v in known else _content(v)
        for i, v in enumerate(node.inputs)
        if v is not None
    }
    found = ReferenceEvaluator(_alone(node)).run(None, feeds)
    known.update((v, np.asarray(a)) for v, a in zip(node.outputs, found, strict=True))


def _content(value: ir.Value) -> np.ndarray:
    found = constant(value)
    assert found is not None, value.name
    return found


def _alone(node: ir.Node) -> object:
    """A model of that node, on integers."""
    integers = ir.TensorType(ir.DataType.INT64)
    inputs = [
        None if v is None else ir.Value(name=f"in{i}", type=integers)
        for i, v in enumerate(node.inputs)
    ]
    copy = ir.node(node.op_type, inputs, dict(node.attributes), num_outputs=len(node.outputs))
    for i, out in enumerate(copy.outputs):
        out.name, out.type = f"out{i}", integers
    given = [v for v in inputs if v is not None]
    graph = ir.Graph(given, copy.outputs, nodes=[copy], opset_imports={"": 18}, name="move")
    return ir.to_proto(ir.Model(graph, ir_version=10))


def sample_axis(shape: Dims, batch: Dim) -> tuple[int, Dim] | None:
    """The axis of samples of a value, and how many rows of it each sample has; None: there is none.

    An axis of the batch's size is the one; where axis 0 is a multiple of it, samples follow each
    other there.
    """
    exact = [axis for axis, size in enumerate(shape) if size == batch]
    if exact:
        return exact[0], 1
    if shape and not isinstance(batch, int) and not isinstance(shape[0], int):
        rows = dims.quotient(shape[0], batch)
        if isinstance(rows, int):
            return 0, rows
    if shape and isinstance(batch, int) and isinstance(shape[0], int) and shape[0] % batch == 0:
        return 0, shape[0] // batch
    return None
