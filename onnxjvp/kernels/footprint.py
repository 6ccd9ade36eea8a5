"""The memory that a model's values take at once, told from its file; amounts of memory in words."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.load import load
from onnxjvp.graph.regions import captured

#: nodes whose results share their operand's memory in the runtimes
_VIEWS = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))


def peak(model: ir.Model, sizes: Mapping[str, int] | None = None, default: int = 1) -> float:
    """Bytes of inputs and values that are held at once, if nodes run in the file's order.

    Weights are not counted, nor what a kernel needs for itself; values of unknown rank are not.

    Args:
      sizes: of the symbols; `default` for those that are not given.
    Cost: linear in nodes, after loading the model.
    """
    source = load(model)
    last: dict[ir.Value, int] = {}
    nodes = list(source.graph)
    root: dict[ir.Value, ir.Value] = {}

    def owner(value: ir.Value) -> ir.Value:
        return root.get(value, value)

    for i, node in enumerate(nodes):
        if node.op_type in _VIEWS and node.inputs[0] is not None:
            root[node.outputs[0]] = owner(node.inputs[0])
        for value in (*node.inputs, *captured(node)):
            if value is not None:
                last[owner(value)] = i
    kept = {owner(v) for v in (*source.graph.outputs, *source.graph.initializers.values())}
    held = sum(_bytes(v, sizes or {}, default) for v in source.inputs)
    most = held
    for i, node in enumerate(nodes):
        made = [v for v in node.outputs if owner(v) is v and not _is_constant(node)]
        held += sum(_bytes(v, sizes or {}, default) for v in made)
        most = max(most, held)
        read = {owner(v) for v in (*node.inputs, *captured(node)) if v is not None}
        done = {v for v in (*read, *made) if last.get(v, i) == i and v not in kept}
        held -= sum(_bytes(v, sizes or {}, default) for v in done if not v.is_graph_input())
    return most


def _is_constant(node: ir.Node) -> bool:
    return node.op_type == "Constant"


def _bytes(value: ir.Value, sizes: Mapping[str, int], default: int) -> float:
    if value.shape is None or value.dtype is None or _constant(value):
        return 0.0
    volume = math.prod(_size(dim, sizes, default) for dim in value.shape.dims)
    return float(volume * value.dtype.itemsize)


def _constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and _is_constant(producer))


def _size(dim: dims.Dim, sizes: Mapping[str, int], default: int) -> int:
    if isinstance(dim, int):
        return dim
    known = {name: sizes.get(name, default) for name in dim.free_symbols()}
    found = dim.evaluate(known)
    return found if isinstance(found, int) else default


_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def parse_bytes(given: int | str) -> int:
    """A number of bytes, or a text such as "4GB", "512 MiB" (units of 1024).

    Raises: UsageError: anything else.
    """
    if isinstance(given, int) and given > 0:
        return given
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", str(given), re.IGNORECASE)
    size = int(float(match[1]) * (1 << _UNITS[match[2].upper()])) if match else 0
    if size <= 0:
        raise UsageError(f"{given!r} is no amount of memory; write it as 4GB or 512MB")
    return size
