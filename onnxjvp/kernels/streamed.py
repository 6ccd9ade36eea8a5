"""A kernel of two blocks whose factors do not fit the memory, not even those of one sample.

Some rows of one block are held, as many as fit; all rows of the other are computed beside them, a
few at a time, and let go. That is done again for the next rows of the first: J is run back
1 + (parts - 1) / 2 times for each row of a block with itself, and never stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.structured import Structured
from onnxjvp.runtime import Array

#: the share of the memory in which rows are computed; the others are held in the rest
COMPUTED = 0.2


def share(kept: float, running: float, rows: int, memory: float) -> tuple[int, int]:
    """How many rows are computed at once, and how many are held: the latter so many times.

    Args:
      kept, running: bytes for one sample and all `rows`: of its factors, and of computing these.
    """
    working = running + kept  # the runtime's values, and the copies that it gives out
    computed = min(rows, max(1, int(rows * COMPUTED * memory / working)))
    free = memory - working * computed / rows
    return computed, computed * max(1, int(free * rows / kept) // computed)


def streamed(
    problem: Problem,
    method: Structured,
    x1: Mapping[str, Array],
    x2: Mapping[str, Array] | None = None,
) -> Array:
    """`method.product` of all rows of two blocks, or of one with itself.

    Returns: [groups, K, N1, K, N2].
    Cost: of x2, the factors once for every part of the rows of x1; of x1, once.
    """
    count, few, held = problem.count, method.rows, method.held or method.rows
    out: Array | None = None
    for start in range(0, count, held):
        ours = slice(start, min(start + held, count))
        kept = method.factors(x1, ours)
        for first in range(0 if x2 is not None else start, count, few):
            theirs = slice(first, min(first + few, count))
            found = method.product(kept, method.factors(x1 if x2 is None else x2, theirs))
            if out is None:
                groups, _, n1, _, n2 = found.shape
                out = np.empty((groups, count, n1, count, n2), found.dtype)
            out[:, ours, :, theirs] = found
            if x2 is None:
                out[:, theirs, :, ours] = found.transpose(0, 3, 4, 1, 2)
        del kept  # before the next are there
    assert out is not None, "a problem has rows"
    return out
