"""Linearise once, apply many times: f(x) with its residuals, and the linear maps that read them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxjvp.graph.load import AnyModel
from onnxjvp.graph.regions import captured
from onnxjvp.passes.emit import End
from onnxjvp.passes.linearize import Program, program_of
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.states import add_states
from onnxjvp.rewrite.task import Count, Task


@dataclass(frozen=True)
class Linearized:
    """f(x) and what is left of x for the derivative, in three models.

    `primal` computes f(x) and the residuals (masks, slopes, indices, values that are multiplied);
    `jvp` takes residuals and directions to J u, `vjp` residuals and cotangents to Jᵀ v. What a map
    reads is an input of it under the name that it has in `primal`, where it is an output or an
    input; `report["residuals"]` lists these names.
    """

    primal: Rewritten
    jvp: Rewritten
    vjp: Rewritten


def linearize(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    directions: Count = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
    states: bool = False,
) -> Linearized:
    """Models that linearise at x once and then apply J and Jᵀ to any number of directions.

    Args:
      model, wrt, outputs, directions, opset, links, quantized: as for `jvp`; directions are those
        of both maps.
      states: as for `jvp`; outputs of `primal`.
    Returns:
      Three models, see `Linearized`. `runtime.LinearizedSession` runs them together.
    Raises: as `vjp`.
    Cost: primal: about 1 forward pass and the memory of the residuals; each product about 1.2.
    Source: the program of `jvp`, cut between residuals and linear nodes.
    """

    def cut() -> _Cut:
        task = Task(
            model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized
        )
        return _Cut(task, directions)

    # a task is spent by what it emits: the same model read thrice is cut in the same places
    return Linearized(cut().primal(states), cut().apply("jvp"), cut().apply("vjp"))


def _reached(values: Iterable[ir.Value], nodes: Iterable[ir.Node]) -> set[ir.Value]:
    """Values that depend on some, themselves included; nodes are in order."""
    found = set(values)
    for node in nodes:
        if any(v in found for v in (*node.inputs, *captured(node))):
            found.update(node.outputs)
    return found


def _is_size(value: ir.Value) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type in ("Shape", "Size")


class _Cut:
    """A linearised model, and where its linear maps read it."""

    def __init__(self, task: Task, directions: Count) -> None:
        self.task = task
        self.directions = directions
        self.count = task.count(directions)
        forwards = task.linearize()
        self.maps: dict[str, Program] = {
            "jvp": task.directed(forwards, self.count),
            "vjp": task.directed(transpose(task.op, forwards), self.count),
        }
        task.lower(held=True)
        self.maps = {k: program_of(task.op, p.seeds, p.outs) for k, p in self.maps.items()}
        graph = task.source.graph
        #: every value that depends on the inputs
        self.moving = _reached(graph.inputs, (*graph, *task.op.nodes))
        self.read = {kind: self._frontier(program) for kind, program in self.maps.items()}
        every = dict.fromkeys(v for values in self.read.values() for v in values)
        fed = set(task.source.inputs)
        outputs = {v: v.name or "" for v in graph.outputs}
        self.names = {
            v: v.name or "" if v in fed else outputs.get(v) or task.fresh(f"residual_{i}")
            for i, v in enumerate(every)
        }

    def _frontier(self, program: Program) -> list[ir.Value]:
        """What the map's nodes read and that depends on x, in order."""
        mapped = self._nodes(program)
        made = {v for node in mapped for v in node.outputs} | set(program.seeds)
        read = (v for node in mapped for v in (*node.inputs, *captured(node)) if v is not None)
        return [v for v in dict.fromkeys(read) if v in self.moving and v not in made]

    def _nodes(self, program: Program) -> list[ir.Node]:
        """The map's nodes: all that depends on a seed, were it on the number of directions only.

        What follows from sizes alone is computed again rather than held: buffers of zeros, ranges.
        """
        seeded = _reached(program.seeds, self.task.op.nodes)
        sized = self._sized(program)
        return [
            node
            for node in (*program.residuals, *program.nodes)
            if any(v in seeded or v in sized for v in node.outputs)
        ]

    def _sized(self, program: Program) -> set[ir.Value]:
        """Values that depend on x through the sizes of values only."""
        sized = set[ir.Value]()
        for node in program.residuals:
            read = [v for v in node.inputs if v is not None and v in self.moving]
            if read and all(v in sized or _is_size(v) for v in read) and node.op_type != "Shape":
                sized.update(node.outputs)
        return sized

    def primal(self, states: bool) -> Rewritten:
        """f(x) and every residual that one of the maps reads."""
        task = self.task
        held = add_states(task) if states else {}
        known = {*task.source.inputs, *task.source.graph.outputs}
        for value, name in self.names.items():
            if value not in known:
                task.add_output(name, value)
        return self._finish("primal", "residuals", **held)

    def apply(self, kind: str) -> Rewritten:
        """One of the maps, reading residuals in place of x."""
        task, program = self.task, self.maps[kind]
        stand_ins = {}
        for value in self.read[kind]:
            copy = ir.Value(shape=value.shape, type=value.type, name=f"?{self.names[value]}")
            stand_ins[value] = copy
        for node in self._nodes(program):
            for i, operand in enumerate(node.inputs):
                if operand is not None and operand in stand_ins:
                    node.replace_input_with(i, stand_ins[operand])
        task.source.graph.inputs.clear()
        task.source.graph.outputs.clear()
        for value, copy in stand_ins.items():
            task.take(End(self.names[value], copy, task.source.declared.get(value.name or "")))
        if kind == "jvp":
            task.add_seeds(program.seeds, self.count)
            for y, tangent in zip(task.outputs, program.outs, strict=True):
                assert tangent is not None
                task.add_result(y, "jvp", tangent, self.count)
        else:
            task.add_cotangents(program.seeds, self.count)
            for x, ct in task.reached(program):
                task.add_result(x, "vjp", ct, self.count)
        return self._finish("apply", kind)

    def _finish(self, emit_as: str, method: str, **more: Any) -> Rewritten:
        return self.task.finish(
            emit_as,
            layout="linearized",
            method=method,
            directions=self.directions,
            residuals=list(self.names.values()),
            **more,
        )
