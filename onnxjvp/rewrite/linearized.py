"""Linearise once, apply many times: f(x) with its residuals, and the linear maps that read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxjvp.graph.load import AnyModel
from onnxjvp.graph.regions import captured
from onnxjvp.passes.emit import End
from onnxjvp.passes.linearize import Program
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.task import Count, Task


@dataclass(frozen=True)
class Linearized:
    """f(x) and what is left of x for the derivative, in three models.

    `primal` computes f(x) and the residuals (masks, slopes, indices, values that are multiplied);
    `jvp` takes residuals and directions to J u, `vjp` residuals and cotangents to Jᵀ v. Residuals
    are outputs of the one and inputs of the others under the same names (`names["residuals"]`);
    inputs of the model that a map reads itself are its inputs too.
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
) -> Linearized:
    """Models that linearise at x once and then apply J and Jᵀ to any number of directions.

    Args:
      model, wrt, outputs, directions, opset, links: as for `jvp`; directions are those of both
        maps.
    Returns:
      Three models, see `Linearized`. `runtime.LinearizedSession` runs them together.
    Raises: as `vjp`.
    Cost: primal: about 1 forward pass and the memory of the residuals; each product about 1.2.
    Source: the program of `jvp`, cut between residuals and linear nodes.
    """

    def cut() -> _Cut:
        return _Cut(Task(model, wrt, outputs, opset=opset, links=links), directions)

    # a task is spent by what it emits: the same model read thrice is cut in the same places
    return Linearized(cut().primal(), cut().apply("jvp"), cut().apply("vjp"))


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
        self.read = {kind: self._frontier(program) for kind, program in self.maps.items()}
        every = dict.fromkeys(v for values in self.read.values() for v in values)
        fed = set(task.source.graph.inputs)
        outputs = {v: v.name or "" for v in task.source.graph.outputs}
        self.names = {
            v: v.name or "" if v in fed else outputs.get(v) or task.fresh(f"residual_{i}")
            for i, v in enumerate(every)
        }

    def _frontier(self, program: Program) -> list[ir.Value]:
        """What the map's nodes read and that depends on x, in order."""
        moving = self._moving()
        read = (
            v
            for node in program.nodes
            for v in (*node.inputs, *captured(node))
            if v is not None and v not in program.linear and v in moving
        )
        return list(dict.fromkeys(read))

    def _moving(self) -> set[ir.Value]:
        """Every value that depends on the inputs, as far as it is not linear in a seed."""
        graph = self.task.source.graph
        moving = {v for v in graph.inputs if v.name not in graph.initializers}
        for node in (*graph, *self.task.op.nodes):
            if any(v in moving for v in (*node.inputs, *captured(node))):
                moving.update(node.outputs)
        return moving

    def primal(self) -> Rewritten:
        """f(x) and every residual that one of the maps reads."""
        task = self.task
        known = {*task.source.graph.inputs, *task.source.graph.outputs}
        for value, name in self.names.items():
            if value not in known:
                task.add_output(name, value)
        return self._finish("primal", "residuals")

    def apply(self, kind: str) -> Rewritten:
        """One of the maps, reading residuals in place of x."""
        task, program = self.task, self.maps[kind]
        stand_ins = {}
        for value in self.read[kind]:
            copy = ir.Value(shape=value.shape, type=value.type, name=f"?{self.names[value]}")
            stand_ins[value] = copy
        for node in program.nodes:
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

    def _finish(self, emit_as: str, method: str) -> Rewritten:
        return self.task.finish(
            emit_as,
            layout="linearized",
            method=method,
            directions=self.directions,
            residuals=list(self.names.values()),
        )
