"""Conditions of If that sizes decide: `x.shape[1] == 1`, as exporters write a squeeze."""

from __future__ import annotations

import operator
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.branches import is_if, normalise
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.shapes import Shapes, constant

_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "Equal": operator.eq,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
}
#: what is known of conditions, so that each is looked at once
_Known = dict[ir.Value | None, bool | None]
#: how long a chain of operators may be from a size to a condition
_DEEPEST = 50
#: operators that pass a single element on
_COPIES = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def decide(model: ir.Model, shapes: Shapes) -> bool:
    """Inline the branches that the inferred sizes choose; whether there were any.

    Every value is the same to the last bit. Cost: linear in nodes.
    """
    decided, known = False, _Known()
    for node in model.graph.all_nodes():
        if not is_if(node) or constant(node.inputs[0]) is not None or node.graph is None:
            continue
        taken = _truth(shapes, node.inputs[0], known)
        if taken is None:
            continue
        chosen = ir.node("Constant", [], {"value": ir.tensor(np.array(taken))})
        chosen.outputs[0].name = f"{node.outputs[0].name}/condition"
        chosen.outputs[0].type, chosen.outputs[0].shape = (
            ir.TensorType(ir.DataType.BOOL),
            ir.Shape(()),
        )
        node.graph.insert_before(node, chosen)
        node.replace_input_with(0, chosen.outputs[0])
        decided = True
    if decided:
        normalise(model)
    return decided


def _truth(shapes: Shapes, value: ir.Value | None, known: _Known, depth: int = 0) -> bool | None:
    """What a boolean of one element is, where sizes tell it."""
    if value not in known:
        known[value] = None if depth > _DEEPEST else _made_truth(shapes, value, known, depth)
    return known[value]


def _made_truth(shapes: Shapes, value: ir.Value | None, known: _Known, depth: int) -> bool | None:
    made = None if value is None else value.producer()
    if made is None or made.domain:
        return None
    if made.op_type == "Cast":
        number = _number(shapes, made.inputs[0])
        if number is not None:
            return bool(number)
        return _truth(shapes, made.inputs[0], known, depth + 1)
    if made.op_type in _COPIES:
        return _truth(shapes, made.inputs[0], known, depth + 1)
    if made.op_type in _COMPARISONS:
        a, b = (_number(shapes, v) for v in made.inputs)
        return None if a is None or b is None else _COMPARISONS[made.op_type](a, b)
    if made.op_type not in ("Not", "And", "Or"):
        return None
    parts = [_truth(shapes, v, known, depth + 1) for v in made.inputs]
    if made.op_type == "Not":
        return None if parts[0] is None else not parts[0]
    least = made.op_type == "Or"  # one of them is enough
    if least in parts:
        return least
    return None if None in parts else not least


def _number(shapes: Shapes, value: ir.Value | None) -> int | None:
    content: Dims | None = shapes.content(value)
    if content is None or len(content) != 1 or not isinstance(content[0], int):
        return None
    return content[0]
