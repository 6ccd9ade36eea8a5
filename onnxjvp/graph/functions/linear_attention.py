"""The body of LinearAttention: attention as a recurrence over a state, a Scan."""

from __future__ import annotations

import math

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.functions.normalization import narrowed, widened
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, dim
from onnxjvp.graph.regions import Region
from onnxjvp.graph.scans import Step, Track

#: rule → whether the state decays, and whether what it holds of a key is taken off the value
RULES = {
    "linear": (False, False),
    "gated": (True, False),
    "delta": (False, True),
    "gated_delta": (True, True),
}


@body("LinearAttention com.microsoft::LinearAttention", shapes=True)
def _linear_attention(op: Ops, region: Region) -> Outs:
    """ONNX LinearAttention-27: S ← e^g S + k wᵀ, w = v or β (v − (e^g S)ᵀ k); o = scale · Sᵀ q.

    All in float32 at least. The queries of a group share the state of a head, and are the rows of
    one product.
    """
    heads, group = _heads(region)
    q, k, v = (region.operand(i) for i in range(3))
    past, decay, beta = _optional(region)
    query, key, value = _split(op, q, heads, group), _split(op, k, heads), _split(op, v, heads)
    start = _zeros(op, key, value) if past is None else widened(op, past)
    step, along = Step(op), Track(1)
    state = step.state(start)
    key, row = step.slice(key, along), step.unsqueeze(step.slice(value, along), 2)
    if decay is not None:
        gate = step.slice(op.Exp(_split(op, decay, heads)), along)
        state = step.Mul(state, step.unsqueeze(gate, 3))
        state.shape = start.shape  # it has a decay for every number of a key, or one a head
    if beta is not None:
        held = step.MatMul(step.unsqueeze(key, 2), state)
        rate = step.unsqueeze(step.slice(widened(op, beta), along), 2, 3)
        row = step.Mul(rate, step.Sub(row, held))
    state = step.Add(state, step.Mul(step.unsqueeze(key, 3), row))
    state.shape = start.shape
    read = step.MatMul(step.slice(query, along), state)
    present, rows = step.finish([state], [(read, along)])
    y = op.Mul(rows, _scale(op, region, query))
    y = op.Reshape(y, op.Concat(op.ints([0, 0]), op.count(y, [2, 3, 4]), axis=0))
    y.shape = ir.Shape([dim(q, 0), dim(q, 1), dims.product([group, dim(v, 2)])])
    return [narrowed(op, y, q), narrowed(op, present, past or q)]


def _heads(region: Region) -> tuple[int, int]:
    """How many heads have a state, and how many queries share each."""
    heads, queries = region.attr_int("kv_num_heads", 0), region.attr_int("q_num_heads", 0)
    if heads < 1 or queries < 1 or queries % heads:
        raise NoBodyError(f"{queries} heads of queries cannot share {heads} states")
    if region.attr_int("state_window", 0):
        raise NoBodyError("it gives the states of several steps (state_window)")
    return heads, queries // heads


def _optional(region: Region) -> list[ir.Value | None]:
    """The past state, and the decay and the rate as the update rule wants them."""
    rule = region.attr_string("update_rule", "gated_delta")
    if rule not in RULES:
        raise NoBodyError(f"update_rule {rule!r} is not defined")
    for name, wanted, i in zip(("decay", "beta"), RULES[rule], (4, 5), strict=True):
        if wanted != (region.input(i) is not None):
            raise NoBodyError(f"update_rule {rule!r} {'needs' if wanted else 'takes no'} {name}")
    return [region.input(i) for i in (3, 4, 5)]


def _split(op: Ops, x: ir.Value, *parts: int) -> ir.Value:
    """[B, T, H·D] → [B, T, *parts, D], in float32 at least."""
    count, width = math.prod(parts), dim(x, 2)
    size = op.ints([width // count]) if isinstance(width, int) else None
    size = size or op.Div(op.sizes(x, [2]), op.ints([count]))
    split = op.Reshape(widened(op, x), op.Concat(op.ints([0, 0, *parts]), size, axis=0))
    split.shape = ir.Shape([dim(x, 0), dim(x, 1), *parts, dims.quotient(width, count)])
    return split


def _zeros(op: Ops, key: ir.Value, value: ir.Value) -> ir.Value:
    """[B, heads, Dk, Dv]."""
    shape = [*(dim(key, i) for i in (0, 2, 3)), dim(value, 3)]
    sizes = op.Concat(op.sizes(key, [0, 2, 3]), op.sizes(value, [3]), axis=0)
    start = op.zeros(key.dtype, sizes)
    start.shape = ir.Shape(shape)
    return start


def _scale(op: Ops, region: Region, query: ir.Value) -> ir.Value:
    """What is read is multiplied by it: as given, or 1/√Dk."""
    if given := region.attr_float("scale", 0.0):
        return op.const(given, like=query)
    return op.Reciprocal(op.Sqrt(narrowed(op, op.sizes(query, [4]), query)))
