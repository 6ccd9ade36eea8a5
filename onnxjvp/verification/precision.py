"""How precisely a model computes its outputs: the narrowest dtype on the way to each.

An output says little of it: a float32 model may cast what it returns to float64, or run its middle
in float16.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.regions import captured

Dtype = np.dtype[Any]

_FLOATS: dict[ir.DataType, Dtype] = {
    ir.DataType.FLOAT16: np.dtype(np.float16),
    ir.DataType.FLOAT: np.dtype(np.float32),
    ir.DataType.DOUBLE: np.dtype(np.float64),
}
#: operators that round nothing: float16 weights that a float32 model stores are as good as others
_MOVES = {
    *("Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "Identity"),
    *("Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
}


def narrower(dtypes: Iterable[Dtype | None]) -> Dtype | None:
    """The narrowest float dtype among some; None where there is none."""
    return min((d for d in dtypes if d is not None), key=lambda d: d.itemsize, default=None)


def narrowest(graph: ir.Graph) -> dict[str, Dtype]:
    """Output → the narrowest float dtype that a result on the way to it is rounded to.

    Cost: linear in nodes. The graph is one of `load`, where every value has its dtype.
    """
    found: dict[ir.Value, Dtype | None] = {}
    for node in graph:
        read = (v for v in (*node.inputs, *captured(node)) if v is not None)
        reached = narrower((*map(found.get, read), *_inside(node)))
        for value in node.outputs:
            found[value] = narrower((reached, _rounded_to(value)))
    outputs = ((value.name or "", found.get(value)) for value in graph.outputs)
    return {name: dtype for name, dtype in outputs if dtype is not None}


def _inside(node: ir.Node) -> Iterator[Dtype | None]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from map(_rounded_to, inner.outputs)


def _rounded_to(value: ir.Value) -> Dtype | None:
    node = value.producer()
    if node is None or value.dtype is None or (not node.domain and node.op_type in _MOVES):
        return None
    return _FLOATS.get(value.dtype)
