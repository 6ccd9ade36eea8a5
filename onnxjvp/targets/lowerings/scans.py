"""Scans: steps that can run, and bodies that read nothing of the graph around where none may."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.bodies import Outs, reads, there
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.scans import Step, Steps, enter, length_of
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering
from onnxjvp.targets.step_limits import counts


@lowering("Scan")
def scan(low: Lowering, node: ir.Node) -> Made:
    """What a body reads of the graph around becomes a state that stays as it is; where no slice
    is read, the results are summed with slices of zeros.
    """
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
    if not counts(node):
        outs = _stepping(low.op, step, outs, length_of(node))
    Lowering(step, low.runtime).all()
    ends = list(zip(outs[n:], steps.given, strict=True))
    made = step.finish([*outs[:n], *passed], ends)
    return [*made[:n], *made[n + len(passed) :]]


def _stepping(op: Ops, step: Step, outs: Outs, length: Dim) -> list[ir.Value]:
    """Values of a step, which depend on a slice: of zeros whose sign leaves −0 as it is."""
    zero = op.const(-0.0, like=ir.DataType.FLOAT)
    slice_ = step.slice(op.Expand(zero, op.as_tensor((length,))))

    def with_slice(value: ir.Value) -> ir.Value:
        assert value.dtype is not None
        part = slice_ if value.dtype == slice_.dtype else step.Cast(slice_, to=int(value.dtype))
        return step.Or(value, part) if value.dtype == ir.DataType.BOOL else step.Add(value, part)

    return [with_slice(value) for value in outs]
