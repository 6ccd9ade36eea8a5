"""Derivatives of integers that stand for real numbers: the straight-through estimator.

Where it is not asked for no integer has a derivative, and none of this changes anything.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import onnx_ir as ir

from onnxjvp.graph.ops import Ops
from onnxjvp.graph.parameters import is_float
from onnxjvp.graph.quantized import QUANTISED, counterpart, is_code, passes_straight_through
from onnxjvp.graph.regions import Region
from onnxjvp.rules.kinds import Elementwise, Function, Rule, StraightThrough, Zero
from onnxjvp.rules.registry import entered

#: what a user can do about nodes that round
REMEDY = (
    "Take the straight-through estimator with --quantized straight-through (in Python "
    'quantized="straight-through"), or differentiate the model as it was before it was quantised'
)


def carriers(region: Region, rule: Rule | None, inputs: Set[int]) -> list[ir.Value]:
    """The outputs that have a derivative if these operands have one."""
    if isinstance(rule, StraightThrough):
        if passes_straight_through(region.node):
            return [region.outputs[0]]  # scales and zero points that a node chooses are held
        return [v for v in region.outputs[1:] if is_float(v)]
    types = {region.operand(i).dtype for i in inputs if is_code(region.operand(i))}
    reached = entered(region, inputs)
    if types and region.op_type in ("Cast", "CastLike"):
        return [v for v in reached if is_float(v) or is_code(v)]
    return [v for v in reached if is_float(v) or v.dtype in types]


def is_bypassed(region: Region, rule: Rule | None, wanted: Set[ir.Value]) -> bool:
    """Whether nothing that is asked for needs what a region rounds."""
    return isinstance(rule, StraightThrough) and region.outputs[0] not in wanted


def refusal(region: Region, rule: Rule | None, inputs: Set[int], name: str) -> str | None:
    """Why quantised values cannot be differentiated through a region."""
    if isinstance(rule, StraightThrough) and not passes_straight_through(region.node):
        return f"the derivative is zero almost everywhere through node {name!r}, which rounds"
    if region.label in QUANTISED and (reason := counterpart(region.node)[1]) is not None:
        return reason
    codes = [region.operand(i) for i in inputs if is_code(region.operand(i))]
    if codes and any(a.type == ir.AttributeType.GRAPH for a in region.attributes.values()):
        return f"the quantised value {codes[0].name!r} enters its body, where it has no derivative"
    bare = rule is None or isinstance(rule, Function)
    if codes and bare and any(is_code(v) or is_float(v) for v in region.outputs):
        return f"it has no derivative rule, and reads the quantised value {codes[0].name!r}"
    return None


def as_reals(op: Ops, region: Region, rule: Rule, inputs: Set[int]) -> Region:
    """The region on the numbers that its integers are, in float32, where a live one is among them.

    Indices and sizes stay integers. What no rule reads is not kept.
    """
    if isinstance(rule, StraightThrough) or not any(is_code(region.operand(i)) for i in inputs):
        return region
    carrying = carriers(region, rule, inputs)
    args = None if isinstance(rule, Elementwise | Zero) else rule.args
    data = range(len(region.inputs)) if args is None else args

    def real(value: ir.Value) -> ir.Value:
        return op.Cast(value, to=int(ir.DataType.FLOAT))

    return replace(
        region,
        inputs=tuple(
            real(v) if v is not None and i in data and is_code(v) else v
            for i, v in enumerate(region.inputs)
        ),
        outputs=tuple(real(v) if v in carrying and is_code(v) else v for v in region.outputs),
    )
