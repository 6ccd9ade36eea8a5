"""Steps of random models: rows of the op tables, of whatever has a rule or a body; and rounding."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from cases import CURRENT
from helpers import normal
from onnx import NodeProto, TensorProto, helper
from onnx.parser import parse_node
from op_case import OpCase
from random_models import Draw, SkipError, constant_ints

#: without what tells nothing in float64, or whose values are in an order that nobody says
ROWS = [
    case
    for case in CURRENT
    if not (case.single or case.random or case.by_dtype)
    and not any(part in case.body for part in ("float16", "sorted=0"))
]


@cache
def _rows_of(opset: int) -> dict[str, list[OpCase]]:
    """The rows that an opset takes, by their last operator."""
    found: dict[str, list[OpCase]] = {}
    for case in ROWS:
        if case.opset <= opset:
            last = _parsed(case)[-1]
            found.setdefault(f"{last.domain}::{last.op_type}", []).append(case)
    return found


@cache
def _parsed(case: OpCase) -> list[NodeProto]:
    text = case.body.replace("FLOAT", str(TensorProto.DOUBLE))
    return [parse_node(line.strip()) for line in text.strip().splitlines()]


def row(d: Draw) -> object:
    """A row of the tables between values that are there; every operator is as likely."""
    rows = _rows_of(d.opset)
    case = d.rng.choice(rows[d.rng.choice(sorted(rows))])
    names = {name: _operand(d, case, name) for name in case.inputs}
    names |= {name: d.param(np.asarray(value)) for name, value in case.params.items()}
    prefix = d.fresh()
    nodes = [_renamed(node, names, prefix) for node in _parsed(case)]
    outputs = [prefix + name for name in case.outputs]
    d.keep(nodes, outputs, dead=[prefix + name for name in case.excluded])
    # onnxruntime writes the running statistics over constants, and the next run reads those
    d.evaluated |= bool(case.evaluated) or "training_mode=1" in case.body
    d.no_runtime |= bool(case.no_runtime)
    return outputs


def _operand(d: Draw, case: OpCase, name: str) -> str:
    """An input of the row: one of the model's own, or a live value, brought to its shape."""
    given = case.inputs[name]
    if isinstance(given, np.ndarray):
        return d.feed(given) if d.rng.random() < 0.5 else d.param(given)
    shape = tuple(case.sizes[size] if isinstance(size, str) else size for size in given)
    draw = case.draws.get(name, case.draw)
    drawn = np.asarray(draw(d.numbers, shape), np.float64)
    if d.rng.random() < 0.3:
        return d.input_of(drawn, given)
    found = _shaped(d, shape)
    if draw is normal and d.rng.random() < 0.5:
        return found
    # a little around a point that the row draws, so that it stays where the operator is defined
    (bounded,) = d.add("Tanh", found)
    (little,) = d.add("Mul", bounded, d.param(np.array(0.1)))
    return d.add("Add", d.param(drawn), little)[0]


def _shaped(d: Draw, shape: tuple[int, ...]) -> str:
    """A live value of this shape, cut or repeated."""
    size = math.prod(shape)
    if not size:
        raise SkipError
    same = [name for name, value in d.live.items() if value.shape == shape]
    if same and d.rng.random() < 0.7:
        return d.rng.choice(same)
    (flat,) = d.add("Reshape", d.pick(), constant_ints(d, -1))
    there = d.value(flat).size
    if there < size:
        (flat,) = d.add("Tile", flat, constant_ints(d, -(-size // there)))
    if d.value(flat).size > size:
        bounds = [constant_ints(d, n) for n in (0, size, 0)]
        (flat,) = d.add("Slice", flat, *bounds)
    return d.add("Reshape", flat, constant_ints(d, *shape))[0]


def _renamed(node: NodeProto, names: Mapping[str, str], prefix: str) -> NodeProto:
    """The node under the names of the model, the graphs within it too."""
    made = NodeProto()
    made.CopyFrom(node)
    _rename(made, names, prefix)
    return made


def _rename(node: NodeProto, names: Mapping[str, str], prefix: str) -> None:
    def new(name: str) -> str:
        return name and names.get(name, prefix + name)

    node.input[:] = [new(name) for name in node.input]
    node.output[:] = [new(name) for name in node.output]
    for attribute in node.attribute:
        if attribute.HasField("g"):
            graph = attribute.g
            for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                info.name = new(info.name)
            for inner in graph.node:
                _rename(inner, names, prefix)


def rounding(d: Draw) -> object:
    """To eight bits and back, as quantised models do between any two operators."""
    a = d.pick()
    step, zero = d.rng.choice([0.01, 0.05, 0.3]), d.rng.choice([0, 20])
    scale, point = d.param(np.array(step)), d.param(np.array(zero, np.int8))
    code, back = d.fresh(), d.fresh()
    nodes = [
        helper.make_node("QuantizeLinear", [a, scale, point], [code]),
        helper.make_node("DequantizeLinear", [code, scale, point], [back]),
    ]
    level = np.rint(d.value(a) / d.value(scale)) + zero
    inside = (level >= -128) & (level <= 127)
    d.keep(nodes, [back])
    added = d.value(back) - d.value(a) * inside
    slope, shift, part = d.param(inside.astype(np.float64)), d.param(added), d.fresh()
    d.params[shift] = added  # in full: values on a kink stay on it
    d.smooth[code] = []
    d.smooth[back] = [
        helper.make_node("Mul", [a, slope], [part]),
        helper.make_node("Add", [part, shift], [back]),
    ]
    return back
