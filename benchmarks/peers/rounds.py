"""Interleaved timing, from `onnxjvp.benchmark.timing`; here it says aloud when others interfere."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from onnxjvp.benchmark import timing
from onnxjvp.benchmark.timing import (
    THREADS,
    TOLERATED,
    WARM,
    Array,
    Run,
    Timed,
    agree,
    busy,
    draw,
    error,
    geometric_means,
    ratio,
)

__all__ = [
    "THREADS",
    "WARM",
    "Array",
    "Run",
    "Timed",
    "agree",
    "busy",
    "draw",
    "error",
    "geometric_means",
    "interleave",
    "ratio",
]


def interleave(contenders: Mapping[str, Timed], rounds: int) -> tuple[dict[str, Array], float]:
    """As `timing.interleave`, with a warning on stderr."""
    seconds, others = timing.interleave(contenders, rounds)
    if others > TOLERATED:
        print(f"WARNING: other processes kept {others:.1f} cores busy", file=sys.stderr, flush=True)
    return seconds, others
