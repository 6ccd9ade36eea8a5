"""Limits of operators that go by steps: RNN, GRU, LSTM, Scan, Loop."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.graph.bodies import leading_to, reads
from onnxjvp.graph.branches import UNDECLARED, bodies_of
from onnxjvp.graph.scans import INVARIANTS, Steps
from onnxjvp.graph.shapes import constant
from onnxjvp.targets.limits import Complaint, limit


@limit
def forwards(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """forwards: an RNN whose layout is 0 and whose gates are not coupled."""
    for name in ("layout", "input_forget"):
        if node.attributes.get_int(name, 0):
            return f"{name} {node.attributes.get_int(name, 0)} is not there", f"set {name} to 0"
    return None


@limit
def closed(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """closed: a body that reads nothing of the graph around it but constants."""
    read = [v for v in _read_outside(node) if constant(v) is None]
    held = node.attributes.get_int(INVARIANTS, 0) or 0
    read += [v for v in node.inputs[len(node.inputs) - held :] if v is not None]
    if not read:
        return None
    return f"its body reads {read[0].name!r} of the graph around it", "pass it on as a state"


@limit
def flat(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """flat: steps without bodies of their own that read what the step computes."""
    inner = [n for body in bodies_of(node) for n in body if bodies_of(n)]
    nested = [n for n in inner if any(constant(v) is None for v in _read_outside(n))]
    if not nested:
        return None
    return f"a {nested[0].op_type} in its body reads what the body computes", "write it without"


@limit
def counted(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """counted: a Scan some of whose slices its states need, or results that are read."""
    if counts(node):
        return None
    return "no slice is read in its body, and one step is all it makes there", "write a Loop"


def counts(node: ir.Node) -> bool:
    """Whether a Scan reads a slice for anything but results that nothing reads."""
    steps = Steps.of(node)
    results = zip(node.outputs[steps.states :], steps.body.outputs[steps.states :], strict=True)
    ends = [*steps.body.outputs[: steps.states]]
    ends += [inner for v, inner in results if v.uses() or v.is_graph_output() or node.graph is None]
    read = {*ends}.union(*(reads(n) for n in leading_to(list(steps.body), ends)))
    taken = _slices(steps)
    return not taken or any(v in read for v in taken)


@limit
def declared(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """declared: in the file, the dtypes of a Scan's slices, and dtype and shape of the number of a
    Loop's turn; as in any file that is written here.
    """
    if node.op_type == "Scan":
        inputs, wanted = _slices(Steps.of(node)), ["dtype"]
    else:
        inputs, wanted = node.attributes["body"].as_graph().inputs[:1], ["dtype", "shape"]
    lacking = [v for v in inputs if v.meta.get(UNDECLARED) in wanted]
    if not lacking:
        return None
    what = f"its body's input {lacking[0].name!r} has no {lacking[0].meta[UNDECLARED]} in the file"
    return what, "declare it (what onnxjvp writes does)"


def _slices(steps: Steps) -> Sequence[ir.Value]:
    return steps.body.inputs[steps.states : steps.states + len(steps.taken)]


@limit
def whole(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """whole(i): operand i, the lengths of the rows of an RNN, is left out."""
    (i,) = numbers
    if i >= len(node.inputs) or node.inputs[i] is None:
        return None
    return "rows that end early give wrong results there", "leave sequence_lens out"


@limit
def gates(node: ir.Node, numbers: Sequence[int]) -> Complaint | None:
    """gates: an RNN with the plain functions, without clip or peepholes."""
    if "clip" in node.attributes:
        return "clip gives wrong results there", "leave clip out"
    if node.op_type == "LSTM" and len(node.inputs) > 7 and node.inputs[7] is not None:
        return "peepholes are not there", "leave them out"
    used = node.attributes.get_strings("activations") or ()
    odd = [name for name in used if name.lower() not in ("sigmoid", "tanh", "relu")]
    return (f"the function {odd[0]} is not there", "write the steps out") if odd else None


def _read_outside(node: ir.Node) -> list[ir.Value]:
    from onnxjvp.graph.regions import captured  # noqa: PLC0415  (a cycle)

    return list(captured(node))
