"""Many directions at once: a linear program over K seeds, and K results.

`fold` runs every node once, over all directions; `unroll` runs the program once per direction.
Both share the residuals, which depend on the primal alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.dims import Dim, UnknownTypeError
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.stacked import Lanes, Operand, Stacked
from onnxjvp.passes.linearize import Program, program_of, replay
from onnxjvp.rules.kinds import RefusedError
from onnxjvp.rules.leading import apply

#: operators that a CPU runtime runs in a blocked layout of its own
WINDOWS = frozenset({"Conv", "ConvTranspose", "AveragePool", "GlobalAveragePool", "MaxPool"})
#: unrolling more directions than this makes files that are slow to load
MOST_UNROLLED = 64


def batch(
    op: Ops, program: Program, count: Dim, how: str = "auto", *, size: ir.Value | None = None
) -> Program:
    """The program over `count` directions: seeds and outs are [K, *shape], outs of None stay None.

    Args:
      count: K, at least 1, or a symbol: then K is read off the first seed at run time.
      how: "fold", "unroll", or "auto" (`cheapest` chooses).
      size: K at run time as an int64 tensor of one element, where that is known already.
    Returns:
      A program of its own, which shares the residuals of `program`. No value of it is the tangent
      of a value of the model, so its `tangent_of` is empty.
    Raises:
      UnsupportedOpError: nodes run on one direction at a time only, and K is a symbol; all of them
        are listed.
      UsageError: K is no positive number, or a symbol and to be unrolled.
    Cost: fold: linear in nodes; unroll: K times the nodes.
    """
    assert how in ("auto", "fold", "unroll"), how
    if isinstance(count, int) and count < 1:
        raise UsageError(f"the number of directions has to be at least 1, not {count}")
    if how == "auto":
        how = cheapest(program, count)
    seeds = [op.seed(seed, (count,)) for seed in program.seeds]
    if how == "fold":
        outs = _folded(op, program, Lanes(op, count, size or _size(op, count, seeds)), seeds)
    elif isinstance(count, int):
        outs = _unrolled(op, program, count, seeds)
    else:
        raise UsageError(
            f"{count} directions cannot be unrolled: their number is known only at run time"
        )
    return program_of(op, seeds, outs)


def cheapest(program: Program, count: Dim) -> str:
    """Fold or unroll, by what they cost on a CPU.

    Folding runs each node once over K times the data: fewer, larger products of matrices, a file
    of constant size, and the only way for a K known at run time. But values move between
    [K·N, …] and [K, N, …] wherever a mask meets them. Around convolutions and pools that costs
    more than it saves: the runtime keeps their values in a blocked layout, which every Reshape
    undoes. Those programs are unrolled, as long as the file stays of a size that loads quickly.
    One direction gains nothing from folding.
    """
    if not isinstance(count, int):
        return "fold"
    windows = any(node.op_type in WINDOWS for node in program.nodes)
    return "unroll" if count == 1 or (windows and count <= MOST_UNROLLED) else "fold"


# -- unrolled ----------------------------------------------------------------------------------


def _unrolled(
    op: Ops, program: Program, count: int, seeds: Sequence[ir.Value]
) -> list[ir.Value | None]:
    lanes = Lanes(op, count)
    stacks = [Stacked(like, unfolded=u) for like, u in zip(program.seeds, seeds, strict=True)]
    runs = [replay(op, program, [lanes.lane(s, i) for s in stacks]) for i in range(count)]
    return [
        None if out is None else _together(op, lanes, out, [run[i] for run in runs])
        for i, out in enumerate(program.outs)
    ]


def _together(op: Ops, lanes: Lanes, like: ir.Value, values: Sequence[ir.Value | None]) -> ir.Value:
    rows = [op.unsqueeze(v, 0) for v in values if v is not None]
    out = rows[0] if len(rows) == 1 else op.Concat(*rows, axis=0)
    out.shape = ir.Shape(lanes.unfolded_dims(like))
    return out


# -- folded ------------------------------------------------------------------------------------


def _folded(
    op: Ops, program: Program, lanes: Lanes, seeds: Sequence[ir.Value]
) -> list[ir.Value | None]:
    stacks = {like: Stacked(like, unfolded=u) for like, u in zip(program.seeds, seeds, strict=True)}
    refused: list[tuple[str, str, str]] = []
    for i, node in enumerate(program.nodes):
        if not any(v in stacks for v in node.inputs if v is not None):
            continue  # it leads to no output
        operands: list[Operand] = [None if v is None else stacks.get(v) or v for v in node.inputs]
        try:
            outputs: Sequence[Stacked] = apply(lanes, node, operands)
        except (RefusedError, UnknownTypeError) as error:
            refused.append((_made_for(program, i), node.op_type, str(error)))
            outputs = _stand_ins(op, node, lanes.count)
        stacks.update(zip(node.outputs, outputs, strict=False))
    _refuse(refused, lanes.count)
    return [None if out is None else lanes.unfold(stacks[out]) for out in program.outs]


def _size(op: Ops, count: Dim, seeds: Sequence[ir.Value]) -> ir.Value | None:
    """K at run time, where it is a symbol: the leading size of a seed."""
    if isinstance(count, int):
        return None
    size = op.Shape(seeds[0], start=0, end=1)
    op.linear.discard(size)  # it depends on how many directions there are, not on what they hold
    return size


def _made_for(program: Program, index: int) -> str:
    """The name of the node of the model that a node of the program belongs to, if it can be told.

    The nodes of one rule stand together, and the last one gives the tangent of a value.
    """
    for node in program.nodes[index:]:
        for value in node.outputs:
            primal = program.tangent_of.get(value)
            producer = None if primal is None else primal.producer()
            if producer is not None:
                return producer.name or producer.outputs[0].name or "?"
    return "?"


def _stand_ins(op: Ops, node: ir.Node, count: Dim) -> list[Stacked]:
    """Behind a refused node: any stacks of the right shapes, so that the search goes on."""
    ranked = [v for v in node.outputs if v.shape is not None and v.dtype is not None]
    return [Stacked(v, unfolded=op.seed(v, (count,))) for v in ranked]


def _refuse(refused: Sequence[tuple[str, str, str]], count: Dim) -> None:
    if not refused:
        return
    lines = "\n".join(f"  {op} (node {name!r}): {reason}" for name, op, reason in refused)
    raise UnsupportedOpError(
        f"{len(refused)} node(s) cannot run on {count} directions, a number known only at run "
        f"time:\n{lines}\nGive a number of directions instead",
        tuple(refused),
    )
