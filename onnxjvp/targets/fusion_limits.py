"""Limits of operators that a runtime fuses with others, and gets wrong where sizes are broadcast.

A fused node has the shape of its data. What a constant of the pattern adds to that shape is lost.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.branches import bodies_of
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.limits import Complaint, limit


@limit
def level(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """level: constants with no more axes than what they meet; a fusion (of a Gelu, a norm) loses
    these axes.
    """
    if missing_axes(node) is None or not _has_neighbours(node):
        return None
    return "a constant gives it more axes, which fusions there lose", "give x these axes before"


def _has_neighbours(node: ir.Node) -> bool:
    """Whether there is anything that a node could be fused with."""
    makers = [v for v in node.inputs if v is not None and v.producer() is not None]
    return bool(node.outputs[0].uses()) or not all(map(is_fixed, makers))


def missing_axes(node: ir.Node) -> int | None:
    """How many axes the result has, where constants alone have as many."""
    values = [v for v in node.inputs if v is not None and v.shape is not None]
    ranks = [len(v.shape) for v in values if v.shape is not None]
    if len(values) < len(node.inputs) or len(set(ranks)) < 2:
        return None
    wide = [v for v, n in zip(values, ranks, strict=True) if n == max(ranks)]
    others = [v for v in values if v not in wide]
    return max(ranks) if all(map(is_fixed, wide)) and not all(map(is_fixed, others)) else None


@limit
def even(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """even: constants that repeat no axis of what they meet; a fusion (of a Swish, a Relu with
    slopes, a norm) loses the copies.
    """
    if copies(node) is None or not _has_neighbours(node):
        return None
    return "a constant repeats what it meets, which fusions there lose", "repeat x before (Tile)"


def copies(node: ir.Node) -> tuple[int, list[int]] | None:
    """Which one of two operands a constant repeats, and how often along each axis."""
    if len(node.inputs) != 2:
        return None
    for i in range(2):
        x, c = node.inputs[i], node.inputs[1 - i]
        repeats = [] if x is None or c is None else _repeats(x.shape, c.shape)
        if x is None or max(repeats, default=1) == 1 or not is_fixed(c) or is_fixed(x):
            continue
        return None if node.op_type == "Mul" and _is_centred(x) else (i, repeats)
    return None


def _is_centred(value: ir.Value) -> bool:
    """Whether a value is (x − m) / s, whose weight is heeded whatever its size."""
    top = None
    if (node := value.producer()) is not None and node.op_type == "Div":
        top = None if node.inputs[0] is None else node.inputs[0].producer()
    return top is not None and top.op_type == "Sub"


def _repeats(shape: ir.Shape | None, other: ir.Shape | None) -> list[int]:
    """How often a shape is repeated along each axis by another one of no more axes."""
    if shape is None or other is None or len(other) > len(shape):
        return []
    wide = [1] * (len(shape) - len(other)) + list(other.dims)
    pairs = zip(shape.dims, wide, strict=True)
    return [d if n == 1 and isinstance(d, int) else 1 for n, d in pairs]


@limit
def scalar(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """scalar: in x · Sigmoid(c · x), a single c that is computed has no axes."""
    if single_factor(node) is None:
        return None
    return "a Swish wants its factor without axes there", "make the factor a constant, or a scalar"


def single_factor(node: ir.Node) -> int | None:
    """Which operand of a product is the single number c of x · Sigmoid(c · x), and has axes."""
    if len(node.inputs) != 2:
        return None
    gates = [u.node.outputs[0] for u in node.outputs[0].uses() if u.node.op_type == "Sigmoid"]
    swishes = [u.node for gate in gates for u in gate.uses() if u.node.op_type == "Mul"]
    for i in range(2):
        c, x = node.inputs[i], node.inputs[1 - i]
        shape = None if c is None else c.shape
        if shape is None or len(shape) == 0 or any(d != 1 for d in shape.dims):
            continue
        if any(x in swish.inputs for swish in swishes) and not is_fixed(c):
            return i
    return None


@limit
def normed(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """normed: a weight or bias of a normalisation written out that is as long as what is
    normalised; fused into one, another length fails.
    """
    for x, c in (node.inputs, reversed(node.inputs)) if len(node.inputs) == 2 else ():
        repeats = [] if x is None or c is None else _repeats(x.shape, c.shape)
        if repeats and repeats[-1] > 1 and _is_normalised(x) and constant(c) is not None:
            return "fused with the normalisation before it, it fails there", "repeat x before it"
    return None


def _is_normalised(value: ir.Value | None) -> bool:
    """Whether a value is (x − m) / √(v + ε), or that times a weight, and nothing else reads it."""
    chain = ("Div", "Sqrt", "Add", "ReduceMean")
    node = _maker(value, "Mul")
    if node is not None:  # times a weight
        value = next((v for v in node.inputs if _maker(v, "Div") is not None), None)
    for i, op_type in enumerate(chain):
        node = _maker(value, op_type)
        if node is None:
            return False
        value = next((v for v in node.inputs if _maker(v, (*chain, "")[i + 1]) is not None), None)
    return True


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of a value that one other node reads, if it is of that operator."""
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != op_type:
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def is_fixed(value: ir.Value | None) -> bool:
    """Whether a runtime can tell a value before a run: constants, and what is made of them."""
    waiting, seen = [value], {value}
    while waiting:
        value = waiting.pop()
        if value is None or constant(value) is not None:
            continue
        node = value.producer()
        if node is None or not node.inputs or bodies_of(node):
            return False
        waiting += [v for v in node.inputs if v not in seen]
        seen.update(node.inputs)
    return True
