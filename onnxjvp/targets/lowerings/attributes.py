"""Attributes said another way."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import rank
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering, operand


@lowering("Einsum")
def with_an_arrow(low: Lowering, node: ir.Node) -> Made:
    """With an arrow, and behind it what ONNX says that is left."""
    text = (node.attributes.get_string("equation", "") or "").replace(" ", "")
    if "->" in text:
        return None
    letters = sorted(c for c in set(text) if c.isalpha() and text.count(c) == 1)
    result = ("..." if "..." in text else "") + "".join(letters)
    return low.op.like(node, list(node.inputs), equation=f"{text}->{result}")


@lowering("Resize")
def axes_from_the_front(low: Lowering, node: ir.Node) -> Made:
    """Axes counted from the front."""
    axes = node.attributes.get_ints("axes") or ()
    if all(axis >= 0 for axis in axes):
        return None
    n = rank(operand(node, 0))
    return low.op.like(node, list(node.inputs), axes=[axis % n for axis in axes])
