"""Interleaved timing: every contender once a round, and ratios taken round by round.

So they hold while the machine's speed drifts. The order is drawn anew for each round: what ran
before leaves its mark on the caches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.errors import OnnxJvpError
from onnxjvp.runtime import Array, ModelLike, Session, TensorSpec

#: runs once and gives the seconds that it took
Timed = Callable[[], float]

#: of each runtime that is compared, onnxruntime and others alike
THREADS = os.cpu_count() or 1
WARM = 2
#: what other processes may take of the cores: more is told, since waiting threads distort ratios
TOLERATED = 0.2
STAT = Path("/proc/stat")


class DisagreementError(OnnxJvpError):
    """Contenders compute different functions, so that their times say nothing."""

    exit_code = 1


class Run:
    """A model in onnxruntime with its inputs; called, it runs once and gives the seconds.

    Args:
      model: as `Session` takes it.
      feeds: may also be set later, as an attribute.
    """

    def __init__(self, model: ModelLike, feeds: Mapping[str, Array] | None = None) -> None:
        self.session = Session(model, threads=THREADS)
        self.feeds = dict(feeds or {})

    def __call__(self) -> float:
        start = time.perf_counter()
        self.session.run(self.feeds)
        return time.perf_counter() - start

    def value(self, name: str) -> Array:
        """One output."""
        return self.session.run(self.feeds, [name])[name]


def draw(spec: TensorSpec, seed: int) -> Array:
    """Normal random values for an input or output, with dynamic dimensions of 1."""
    shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(spec.dtype)


def interleave(contenders: Mapping[str, Timed], rounds: int) -> tuple[dict[str, Array], float]:
    """Time contenders against each other.

    Args:
      rounds: how often each runs; two rounds more come first and do not count.
    Returns:
      Seconds of each contender, (rounds,), and the number of cores that other processes kept busy
      before or after, which should be 0: threads that wait for each other at every operator, as
      torch's do, come out many times slower else.
    """
    others = busy()
    rng = np.random.default_rng(0)
    names = list(contenders)
    seconds = {name: np.empty(rounds) for name in names}
    for i in range(-WARM, rounds):
        for name in rng.permutation(names):
            taken = contenders[name]()
            if i >= 0:
                seconds[name][i] = taken
    return seconds, max(others, busy())


def busy() -> float:
    """How many cores are at work while this process sleeps for a second (on Linux; else 0)."""
    if not STAT.exists():
        return 0.0
    before = _idle()
    time.sleep(1)
    return max(0.0, (os.cpu_count() or 1) - (_idle() - before))


def _idle() -> float:
    """Seconds that the cores have idled or waited for disks, all together."""
    _, _, _, _, idle, waiting, *_ = STAT.read_text(encoding="ascii").split()
    return (int(idle) + int(waiting)) / os.sysconf("SC_CLK_TCK")


def quartiles(above: Array, below: Array) -> tuple[float, float, float]:
    """Of the ratios, taken round by round: first quartile, median, third."""
    low, middle, high = np.quantile(above / below, [0.25, 0.5, 0.75])
    return float(low), float(middle), float(high)


def ratio(above: Array, below: Array, name: str) -> dict[str, Any]:
    """The cells of a table: the median of the ratios, and their quartiles."""
    low, middle, high = quartiles(above, below)
    return {name: middle, f"{name} quartiles": f"{low:.2f} to {high:.2f}"}


def geometric_means(
    rows: Sequence[Mapping[str, Any]], label: Mapping[str, Any], keys: Sequence[str]
) -> dict[str, Any]:
    """A last row of a table."""
    means = {key: float(np.exp(np.mean([np.log(row[key]) for row in rows]))) for key in keys}
    return {**label, **means}


def error(got: Array, want: Array) -> float:
    """The difference relative to what is wanted, in the Euclidean norm."""
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def agree(errors: Mapping[str, float], noise: float) -> str:
    """The errors in words.

    Args:
      errors: of each contender's result, relative.
      noise: how far a result moves when x is rounded otherwise: in a deep network with random
        weights some per cent, since activations within rounding of their kinks change sides.
    Raises:
      DisagreementError: rounding does not explain an error.
    """
    if wrong := {k: e for k, e in errors.items() if not e < max(1e-4, 5 * noise)}:
        raise DisagreementError(
            f"these are other functions' results: {wrong}; rounding x gives {noise}"
        )
    parts = [f"{name} {value:.0e}" for name, value in errors.items()]
    return ", ".join([*parts, f"rounding x {noise:.0e}"])
