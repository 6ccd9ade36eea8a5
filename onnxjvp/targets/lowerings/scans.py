"""Scans: steps that can run, and bodies that read nothing of the graph around where none may."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.bodies import reads, there
from onnxjvp.graph.scans import Step, Steps, enter
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering


@lowering("Scan")
def scan(low: Lowering, node: ir.Node) -> Made:
    """What a body reads of the graph around becomes a state that stays as it is."""
    passes = low.problem(node) is not None
    steps, step = Steps.of(node), Step(low.op)
    read = reads(node)
    names = [*steps.body.inputs, *read[len(node.inputs) :]]
    values: dict[ir.Value, ir.Value] = {}
    passed = []
    for i, (name, actual) in enumerate(zip(names, read, strict=True)):
        assert name is not None
        is_invariant = i >= steps.states + len(steps.taken) and constant(actual) is None
        if passes and is_invariant:
            values[name] = step.state(there(actual))
            passed.append(values[name])
        else:
            values[name] = enter(step, steps, i, there(actual))
    outs, n = step.copy(steps.body, values), steps.states
    Lowering(step, low.runtime).all()
    ends = list(zip(outs[n:], steps.given, strict=True))
    made = step.finish([*outs[:n], *passed], ends)
    return [*made[:n], *made[n + len(passed) :]]
