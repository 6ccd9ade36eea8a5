"""What a runtime runs fastest: the portable form rewritten for one target, after all passes."""

from __future__ import annotations

from collections.abc import Callable

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


def check(target: str) -> None:
    if target not in LOWERINGS:
        raise UsageError(f"there is no target {target!r}; choose {', '.join(LOWERINGS)}")
