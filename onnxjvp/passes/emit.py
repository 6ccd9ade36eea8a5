"""Attach recorded nodes to a source's graph and make it a model of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.branches import bodies_of, is_if
from onnxjvp.graph.fixed import remember
from onnxjvp.graph.load import Source
from onnxjvp.graph.ops import MADE, Ops
from onnxjvp.graph.regions import captured
from onnxjvp.graph.runtime_nodes import put_back
from onnxjvp.passes.bodies import open_all

#: the newest IR version that released runtimes read
NEWEST_IR_VERSION = 13
#: operators whose results have sizes that onnxruntime's inference does not follow
LOSING_SHAPES = frozenset(
    ["Reshape", "Expand", "Pad", "Slice", "Split", "ConvTranspose", "ScatterElements", "Tile"]
)


@dataclass(frozen=True)
class End:
    """An input or an output of the model to be: its name, its value, its shape as declared."""

    name: str
    value: ir.Value
    declared: ir.Shape | None


def emit(
    source: Source,
    op: Ops,
    seeds: Sequence[End],
    outputs: Sequence[End],
    *,
    judge: Callable[[Iterable[ir.Node]], None] | None = None,
) -> ir.Model:
    """The source's model with more inputs, and with exactly these outputs, in this order.

    The recorded nodes come after the original ones, but for those that these read; what no output
    needs is removed. Consumes the source and the builder.

    Args:
      judge: is shown all that is left, while it knows its dtypes; may raise.
    """
    graph = source.graph
    prefix = _new_prefix(taken_names(graph))
    open_all(op.nodes)
    graph.extend(op.nodes)
    if not _in_order(graph):  # a target may have made the model's own nodes read recorded ones
        graph.sort()
    results: list[ir.Value] = []
    for end in outputs:
        results.append(_as_output(graph, end, results))
    graph.outputs.clear()
    for seed in seeds:
        graph.inputs.append(seed.value)
    _remove_dead(graph, results)
    _name_recorded(graph, prefix)
    graph.outputs.extend(results)
    if judge is not None:
        judge(graph)
    recorded = {v for n in op.nodes for v in n.outputs}
    _forget_inferred(graph, results, recorded)
    by_name = {v.name: v for n in graph for v in n.outputs if v.name}
    for end, value in zip((*seeds, *outputs), (*(s.value for s in seeds), *results), strict=True):
        _rename(value, end.name, prefix, by_name)
        value.shape = end.declared or (None if value.shape is None else _writable(value.shape))
    for value in graph.inputs:
        value.shape = source.declared.get(value.name or "", value.shape)
    put_back(_with_bodies(graph))
    remember(source.model)
    source.model.ir_version = _ir_version(source.model)
    return source.model


def taken_names(graph: ir.Graph) -> set[str]:
    values = itertools.chain(
        graph.inputs, graph.initializers.values(), *(n.outputs for n in graph.all_nodes())
    )
    return {v.name for v in values if v.name} | {n.name for n in graph.all_nodes() if n.name}


def _new_prefix(names: set[str]) -> str:
    """A prefix that no name of the model starts with, so that rewrites compose."""
    heads = {name.split("/", 1)[0] for name in names}
    return next(f"{p}/" for p in _prefixes() if p not in heads)


def _prefixes() -> Iterator[str]:
    return (f"onnxjvp{n or ''}" for n in itertools.count())


def _in_order(graph: ir.Graph) -> bool:
    """Whether every value is made before it is read. `sort` takes shared bodies for cycles."""
    late = {v for node in graph for v in node.outputs}
    for node in graph:
        if not late.isdisjoint(v for v in (*node.inputs, *captured(node)) if v is not None):
            return False
        late.difference_update(node.outputs)
    return True


def _as_output(graph: ir.Graph, end: End, used: Sequence[ir.Value]) -> ir.Value:
    """The value itself where it can bear the output's name, else an Identity of it."""
    value = end.value
    if value not in used:
        if value.name == end.name:
            return value
        if value.producer() is not None and value not in graph.outputs:
            return value
    node = ir.node("Identity", [value])
    node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
    node.outputs[0].name = f"{MADE}{end.name}"
    graph.append(node)
    return node.outputs[0]


def _remove_dead(graph: ir.Graph, outputs: Sequence[ir.Value]) -> None:
    needed = dict.fromkeys(outputs)  # ordered: what is written must not depend on hashes
    for node in reversed(list(graph)):
        if any(v in needed for v in node.outputs):
            needed.update(dict.fromkeys(v for v in node.inputs if v is not None))
            needed.update(dict.fromkeys(captured(node)))
        else:
            # a removed node would still count as a user of its inputs
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
            graph.remove(node)
    for name, value in list(graph.initializers.items()):
        if value not in needed and not value.is_graph_input():
            del graph.initializers[name]
    for value in needed:
        if value.producer() is None and value.const_value is not None and value.graph is None:
            graph.initializers.add(value)


def _with_bodies(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes of a graph and those of the bodies inside it."""
    for node in graph:
        yield node
        for body in bodies_of(node):
            yield from _with_bodies(body)


def _name_recorded(graph: ir.Graph, prefix: str) -> None:
    """Names for what the builder made: they all start with MADE."""
    nodes = list(_with_bodies(graph))
    every = [v for n in nodes for v in n.outputs]
    every += [v for n in nodes for body in bodies_of(n) for v in body.inputs]
    made = [v for v in every if v.name and v.name.startswith(MADE)]
    made += [v for v in graph.initializers.values() if v.name and v.name.startswith(MADE)]
    for i, value in enumerate(made):
        producer = value.producer()
        if producer is None:
            kind = "slice" if value.const_value is None else "constant"
            value.name = f"{prefix}{kind}_{i}"
        else:
            value.name = f"{prefix}{producer.op_type}_{i}"
            producer.name = producer.name or value.name


def _rename(value: ir.Value, name: str, prefix: str, by_name: dict[str, ir.Value]) -> None:
    if value.name == name:
        return
    if (other := by_name.pop(name, None)) is not None:
        other.name = f"{prefix}{name}"  # replaced as an output, but still read inside
        by_name[f"{prefix}{name}"] = other
    by_name.pop(value.name or "", None)
    value.name = name
    by_name[name] = value


def _forget_inferred(
    graph: ir.Graph, results: Sequence[ir.Value], recorded: Collection[ir.Value]
) -> None:
    """Inside the model, types are the runtime's to infer; those of foreign operators it may need.

    What was recorded says its shape where a runtime would lose count of it: behind a Reshape, say,
    where two values that a product meets would no longer be known to have one shape.
    """
    nodes = list(_with_bodies(graph))
    for value in (v for n in nodes for body in bodies_of(n) for v in body.inputs):
        value.shape = None if value.shape is None else _writable(value.shape)
    # onnxruntime wants the rank of what a step gives, and infers what a branch gives
    given = {v for n in nodes if not is_if(n) for body in bodies_of(n) for v in body.outputs}
    for value in (v for n in nodes for v in n.outputs if v not in results):
        producer = value.producer()
        if value.is_graph_output():  # of a body
            known = value.shape if value in given else None
            value.shape = None if known is None else _writable(known)
            continue
        named = value.shape is not None and all(map(dims.is_named, value.shape.dims))
        if value in recorded and named and producer is not None:
            if producer.op_type in LOSING_SHAPES:
                continue
            value.type, value.shape = None, None
        elif producer is not None and not producer.domain:
            value.type, value.shape = None, None
        elif value.shape is not None:
            value.shape = _writable(value.shape)


def _writable(shape: ir.Shape) -> ir.Shape:
    return ir.Shape([d if dims.is_named(d) else None for d in shape.dims])


def _ir_version(model: ir.Model) -> int:
    opsets = [onnx.helper.make_opsetid(d, v) for d, v in model.opset_imports.items()]
    needed = onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    # parameters that are not inputs need IR 4, and subgraphs without doubt IR 8
    return min(max(model.ir_version, needed, 8), NEWEST_IR_VERSION)
