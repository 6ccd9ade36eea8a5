"""Whether the samples of a batch are independent: a proof from the graph, not from a run.

Every value is followed from the inputs on. It is *shared* (the same whatever the batch holds), a
*count* (a function of the number of samples; a *size* where inference can be trusted with it), or
has *rows*: an axis of o · B · i elements, of which those at (·, b, ·) depend on sample b alone.
An operator keeps rows only by a rule of `row_rules`; whatever has no rule, or mixes them, leaves
the value unknown, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir
import sympy

from onnxjvp.graph import dims
from onnxjvp.graph.load import Source
from onnxjvp.graph.regions import captured
from onnxjvp.serving import row_moves as _moves  # noqa: F401 - its rules join the table
from onnxjvp.serving import row_rules
from onnxjvp.serving.row_state import Context, Dependent, Plain, Rows, State, Unknown


@dataclass(frozen=True)
class Separable:
    """The verdict: `axis` is the symbol of axis 0, or None with the reason why there is none."""

    axis: str | None
    reason: str | None = None


def separable(source: Source) -> Separable:
    """Whether every input and output is a row per sample on axis 0, and rows are independent.

    Args:
      source: a loaded model.
    Returns:
      The symbol that all have on axis 0, if they do and a proof was found. No proof is not a proof
      of the contrary: control flow, indices computed from data and operators outside the standard
      are not followed.
    Cost: linear in nodes.
    """
    symbol = _common_axis(source)
    if isinstance(symbol, Separable):
        return symbol
    states = _follow(source, dims.expression(symbol))
    for value in source.graph.outputs:
        state = states[value]
        if isinstance(state, Unknown):
            return Separable(None, f"output {value.name!r}: {state.reason}")
        if not _is_row_per_sample(state):
            return Separable(None, f"output {value.name!r} is not one row per sample")
    return Separable(str(symbol))


def _common_axis(source: Source) -> ir.SymbolicDim | Separable:
    """The symbol that every input and output has on axis 0, and on no other."""
    found: ir.SymbolicDim | None = None
    for what, values in (("input", source.inputs), ("output", list(source.graph.outputs))):
        for value in values:
            shown = f"{what} {value.name!r}"
            if value.shape is None or not len(value.shape):
                return Separable(None, f"{shown} has no axis of samples")
            first, *others = dims.of(value)
            if isinstance(first, int):
                return Separable(None, f"{shown} has the fixed size {first} on axis 0")
            if not _is_symbol(first):
                return Separable(None, f"{shown} has no name for the size of axis 0")
            if found is None:
                found = first
            if first != found:
                return Separable(None, f"{shown} has {first} on axis 0, and others have {found}")
            if any(_has(other, found) for other in others):
                return Separable(None, f"{shown} has {found} on several axes")
    return found or Separable(None, "the model has no inputs")


def _is_symbol(dim: ir.SymbolicDim) -> bool:
    expression = dims.expression(dim)
    return bool(expression.is_Symbol) and not str(expression).startswith("?")


def _has(dim: dims.Dim, symbol: ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and bool(
        dims.expression(dim).free_symbols & dims.expression(symbol).free_symbols
    )


def _is_row_per_sample(state: State) -> bool:
    if not isinstance(state, Rows) or state.axis != 0 or state.refers is not None:
        return False
    return state.outer is None or (state.outer, state.inner) == (1, 1)


def _follow(source: Source, batch: sympy.Expr) -> Mapping[ir.Value, State]:
    one = sympy.Integer(1)
    states: dict[ir.Value, State] = {value: Rows(0, one, one) for value in source.inputs}
    sizes = [dims.expression(d) for v in source.inputs for d in dims.of(v)]
    symbols = frozenset(symbol for size in sizes for symbol in size.free_symbols)
    context = Context(source, batch, states, symbols)
    for node in source.graph:
        for value, state in zip(node.outputs, _after(context, node), strict=True):
            states[value] = state
    return states


def _after(context: Context, node: ir.Node) -> list[State]:
    """What becomes of a node's outputs."""
    label = f"{node.op_type} (node {node.name or node.outputs[0].name!r})"
    read = [v for v in (*node.inputs, *captured(node)) if v is not None]
    met = [context.states.get(v, Plain.SHARED) for v in read]
    for state in met:
        if isinstance(state, Unknown):
            return [state] * len(node.outputs)
    try:
        if (reason := row_rules.draws(node)) is not None:
            raise Dependent(reason)
        if all(state is Plain.SHARED for state in met):
            return [Plain.SHARED] * len(node.outputs)
        found = row_rules.apply(context, node)
    except Dependent as refusal:
        return [Unknown(f"{label}: {refusal}")] * len(node.outputs)
    return [_settled(context, label, v, s) for v, s in zip(node.outputs, found, strict=True)]


def _settled(context: Context, label: str, value: ir.Value, state: State) -> State:
    try:
        return context.settled(value, state)
    except Dependent as refusal:
        return Unknown(f"{label}: {refusal}")
