"""The transpose of a program: from the cotangents of its outputs to those of its seeds."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.shapes import MISFITS, misfit
from onnxjvp.passes.linearize import Program, program_of
from onnxjvp.rules.transposes import TRANSPOSES


def transpose(op: Ops, program: Program) -> Program:
    """J as a program → Jᵀ as a program.

    Its seeds are the cotangents of the outputs that have a derivative, in order; its outs those of
    the program's seeds, in their shape. It shares the residuals. Broadcasting is undone in one
    place (`undo_broadcast`), and no rule is written twice: see `rules/transposes/`.
    Raises:
      UnsupportedOpError: the sizes that a node needs are known neither now nor at run time.
    Cost: linear in nodes.
    """
    ends = [v for v in program.outs if v is not None]
    seeds = [op.seed(v) for v in ends]
    cotangents: dict[ir.Value, ir.Value] = {}

    def add(value: ir.Value, ct: ir.Value) -> None:
        found = cotangents.get(value)
        cotangents[value] = ct if found is None else op.Add(found, ct)

    for end, seed in zip(ends, seeds, strict=True):
        add(end, seed)
    failed = []
    shorter = _shorter(program.nodes)
    for node in reversed(program.nodes):
        incoming = [cotangents.get(v) for v in node.outputs]
        if all(ct is None for ct in incoming):
            continue
        linear = shorter.get(node, node)
        try:
            for i, ct in TRANSPOSES[node.op_type](op, linear, incoming).items():
                value = linear.inputs[i]
                assert value is not None
                add(value, ct)
        except (UnknownTypeError, *MISFITS) as error:
            made_for = program.tangent_of.get(node.outputs[0])
            name = (made_for.name if made_for is not None else None) or "?"
            why = str(error) if isinstance(error, UnknownTypeError) else misfit(error)
            failed.append((name, node.op_type, why))
    if failed:
        lines = "\n".join(f"  {op_type} (for {name!r}): {why}" for name, op_type, why in failed)
        raise UnsupportedOpError(
            f"{len(failed)} operation(s) cannot be transposed:\n{lines}\n"
            "Export the model with the sizes that are missing",
            tuple(failed),
        )
    for node in shorter.values():
        node.resize_inputs(0)  # a node that is not recorded would still count as a reader
    found = [cotangents.get(seed) for seed in program.seeds]
    outs = [
        None if ct is None else op.expand_to(ct, seed)
        for ct, seed in zip(found, program.seeds, strict=True)
    ]
    return program_of(op, seeds, outs)


def _shorter(nodes: Sequence[ir.Node]) -> dict[ir.Node, ir.Node]:
    """Concat(a, b, c) as Concat(d, c) where d = Concat(a, b) is there already.

    In a DenseNet every layer reads all layers before it: cotangents then add up over whole stacks
    of layers, not layer by layer, of which there would be quadratically many.
    """
    seen: dict[tuple[object, ...], ir.Value] = {}
    found = {}
    for node in nodes:
        if node.op_type != "Concat":
            continue
        axis = node.attributes.get_int("axis", 0)
        for kept in range(len(node.inputs) - 1, 1, -1):
            stack = seen.get((axis, *node.inputs[:kept]))
            if stack is not None:
                rest = node.inputs[kept:]
                found[node] = ir.node("Concat", [stack, *rest], {"axis": axis})
                found[node].outputs[0].shape = node.outputs[0].shape
                found[node].outputs[0].type = node.outputs[0].type
                break
        seen.setdefault((axis, *node.inputs), node.outputs[0])
    return found
