"""What a runtime runs fastest: the portable form rewritten for one target, after all passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.ops import Ops
from onnxjvp.targets import cpu

#: target → what is done to the recorded nodes, in place
LOWERINGS: dict[str, Callable[[Ops], None]] = {
    "portable": lambda op: None,
    "cpu": cpu.lower,
}


def lower(op: Ops, target: str) -> None:
    """Rewrite what was recorded for a target; the model's own nodes stay as they are.

    Raises:
      UsageError: no such target.
    """
    check(target)
    LOWERINGS[target](op)
    op.nodes[:] = in_order(op.nodes)


def in_order(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Every node behind those that it reads: what a lowering reads may have been recorded later."""
    members, placed = set(nodes), dict[ir.Node, None]()
    for node in nodes:
        waiting = [node]
        while waiting:
            top = waiting[-1]
            makers = (None if v is None else v.producer() for v in top.inputs)
            before = [n for n in makers if n in members and n is not None and n not in placed]
            if before and top not in placed:
                waiting.extend(before)
            else:
                placed.setdefault(waiting.pop())
    return list(placed)


def check(target: str) -> None:
    if target not in LOWERINGS:
        raise UsageError(f"there is no target {target!r}; choose {', '.join(LOWERINGS)}")
