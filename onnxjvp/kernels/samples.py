"""Refusing models whose output for one sample depends on the other samples, or on chance.

A kernel of a sample with another one means nothing there. What can be told from the file is
told here: operators that mix along an axis of samples, training modes, random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.equations import read
from onnxjvp.graph.load import Source
from onnxjvp.graph.regions import captured
from onnxjvp.graph.shapes import constant

_RANDOM = frozenset(
    (
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    )
)
REMEDY = (
    "A neural tangent kernel needs outputs that depend on their own sample alone. Export the "
    "model in evaluation mode, or choose outputs that do"
)


def refuse_mixing(
    source: Source, outputs: Sequence[ir.Value], batch: Dim | None, sampled: Sequence[str]
) -> None:
    """Raise for every operator, on the way to the outputs, that mixes samples or draws numbers.

    Args:
      batch: the symbol of the axis of samples; None where it is a number: then what mixes along
        an axis cannot be told from others of the same size.
      sampled: names of the inputs with an axis of samples.
    Raises:
      UnsupportedOpError: listing all of them. What mixes samples by other means (a Loop over them,
        indices computed from data) is not found.
    """
    nodes = _needed(source.graph, outputs)
    moving = _moving(nodes, [v for v in source.inputs if v.name in sampled])
    refused = []
    for node in nodes:
        for inner in (node, *inside(node)):
            reason = draws(inner)
            if reason is None and batch is not None and (inner is not node or node in moving):
                reason = _mixes(source, inner, batch)
            if reason is not None:
                refused.append((inner.name or inner.outputs[0].name or "?", inner.op_type, reason))
    if refused:
        lines = "\n".join(f"  {op} (node {name!r}): {reason}" for name, op, reason in refused)
        raise UnsupportedOpError(
            f"the samples of a batch are not independent of each other, or of chance:\n{lines}\n"
            f"{REMEDY}",
            tuple(refused),
        )


def _needed(graph: ir.Graph, outputs: Sequence[ir.Value]) -> list[ir.Node]:
    """The nodes that the outputs depend on, in order."""
    wanted, kept = set(outputs), []
    for node in reversed(graph):
        if any(v in wanted for v in node.outputs):
            wanted.update(v for v in (*node.inputs, *captured(node)) if v is not None)
            kept.append(node)
    return kept[::-1]


def _moving(nodes: Sequence[ir.Node], inputs: Sequence[ir.Value]) -> set[ir.Node]:
    """Nodes that read what depends on the samples' values, not only on how many there are."""
    moved, found = set(inputs), set()
    for node in nodes:
        if node.op_type in ("Shape", "Size"):
            continue
        if any(v in moved for v in (*node.inputs, *captured(node))):
            moved.update(node.outputs)
            found.add(node)
    return found


def inside(node: ir.Node) -> Iterator[ir.Node]:
    """The nodes of its bodies, and of theirs."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from attribute.as_graph().all_nodes()
        elif attribute.type == ir.AttributeType.GRAPHS:
            for body in attribute.as_graphs():
                yield from body.all_nodes()


def draws(node: ir.Node) -> str | None:
    """Why the node's results are those of a training run."""
    if node.op_type in _RANDOM and not node.domain:
        return "it draws random numbers"
    if node.op_type == "BatchNormalization" and node.attributes.get_int("training_mode", 0) != 0:
        return "it is in training mode, and normalises by the statistics of the batch"
    if node.op_type == "Dropout" and not node.domain and len(node.inputs) > 2:
        mode = constant(node.inputs[2])
        if node.inputs[2] is not None and (mode is None or mode.any()):
            return "it may be in training mode, and then draws a mask"
    return None


# -- what mixes along an axis ------------------------------------------------------------------


def _mixes(source: Source, node: ir.Node, batch: Dim) -> str | None:
    if node.domain:
        return None
    for i, axes in _mixed_axes(source, node):
        value = node.inputs[i]
        if value is None or value.shape is None:
            continue
        for axis in axes:
            if _grows(value.shape.dims[axis], batch):
                return f"it mixes along axis {axis} of {value.name!r}, which holds the samples"
    return None


def _grows(dim: Dim, batch: Dim) -> bool:
    assert not isinstance(batch, int)
    return not isinstance(dim, int) and bool(dim.free_symbols() & batch.free_symbols())


def _mixed_axes(source: Source, node: ir.Node) -> Iterator[tuple[int, Sequence[int]]]:
    """(operand, axes along which one element of the output reads many of the operand's)."""
    shape = _shape(node, 0)
    if shape is None:
        return
    rank, op_type = len(shape), node.op_type
    if op_type.startswith("Reduce"):
        yield 0, _reduced(source, node, rank)
    elif op_type in _ALONG:
        axis = node.attributes.get_int("axis", _ALONG[op_type])
        if -rank <= axis < rank:
            yield 0, (axis % rank,)
    elif op_type in ("LayerNormalization", "RMSNormalization"):
        yield 0, range(node.attributes.get_int("axis", -1) % rank, rank)
    elif op_type == "MeanVarianceNormalization":
        axes = node.attributes.get("axes")
        yield 0, tuple(axes.as_ints()) if axes is not None else (0, 2, 3)
    elif op_type in ("CumSum", "CumProd"):
        yield 0, tuple(a % rank for a in source.shapes.ints(node.inputs[1]) or ())
    elif op_type in _CONTRACTIONS:
        yield from _CONTRACTIONS[op_type](node, rank)


#: operators that read all elements along one axis, and its default
_ALONG = {
    **{"Softmax": -1, "LogSoftmax": -1, "Hardmax": -1, "LpNormalization": -1, "TopK": -1},
    **{"ArgMax": 0, "ArgMin": 0},
}


def _shape(node: ir.Node, index: int) -> Dims | None:
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None or value.shape is None else dims.of(value)


def _reduced(source: Source, node: ir.Node, rank: int) -> Sequence[int]:
    """The axes of a reduction; none where a run alone can tell them."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    if given is None:
        keep = node.attributes.get_int("noop_with_empty_axes", 0)
        return () if keep else range(rank)
    axes = source.shapes.ints(given)
    if axes is None:
        return ()
    if not axes:
        return () if node.attributes.get_int("noop_with_empty_axes", 0) else range(rank)
    return [axis % rank for axis in axes]


def _matmul(node: ir.Node, rank: int) -> Iterator[tuple[int, Sequence[int]]]:
    yield 0, (rank - 1,)


def _gemm(node: ir.Node, rank: int) -> Iterator[tuple[int, Sequence[int]]]:
    del rank
    yield 0, (0 if node.attributes.get_int("transA", 0) else 1,)


def _einsum(node: ir.Node, rank: int) -> Iterator[tuple[int, Sequence[int]]]:
    del rank
    shapes = [_shape(node, i) for i in range(len(node.inputs))]
    if any(shape is None for shape in shapes):
        return
    text = node.attributes["equation"].as_string()
    equation = read(text, [len(shape) for shape in shapes if shape is not None])
    for i, term in enumerate(equation.operands):
        yield i, [a for a, letter in enumerate(term) if letter not in equation.result]


def _over_time(node: ir.Node, rank: int) -> Iterator[tuple[int, Sequence[int]]]:
    del rank
    yield 0, (1 if node.attributes.get_int("layout", 0) else 0,)


_CONTRACTIONS: dict[str, Callable[[ir.Node, int], Iterator[tuple[int, Sequence[int]]]]] = {
    **{"MatMul": _matmul, "Gemm": _gemm, "Einsum": _einsum},
    **{"RNN": _over_time, "GRU": _over_time, "LSTM": _over_time},
}
