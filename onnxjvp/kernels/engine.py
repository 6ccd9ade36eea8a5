"""Blocks of a kernel computed and written, in this process or in a worker of a cluster."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.graph.load import AnyModel
from onnxjvp.kernels import sinks
from onnxjvp.kernels.dataset import Dataset, Samples, open_both
from onnxjvp.kernels.grid import Grid, Kept, Key, Pair
from onnxjvp.kernels.kernel import Block, Kernel, ntk
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array


@dataclass(frozen=True)
class Job:
    """All that a process needs to know to compute blocks; it can be sent to another one."""

    model: AnyModel | Rewritten
    #: arguments of `onnxjvp.ntk`
    options: Mapping[str, Any]
    data: Samples
    #: None: the kernel of the first data set with itself, which is symmetric
    other: Samples | None
    out: Path
    grid: Grid | None = None
    #: kernel → shape of what is written; the name of an only one is empty
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    dtype: str = ""
    #: blocks whose factors fit in memory
    held: int = 2


def opened(job: Job) -> tuple[Kernel, Dataset, Dataset]:
    """The kernel of a job and its data sets, in this process."""
    kernel = ntk(job.model, **job.options)
    one, two = open_both(kernel.problem, job.data, job.other)
    return kernel, one, two


class Engine:
    """Computes blocks of a job, and writes each to where it belongs."""

    def __init__(
        self, job: Job, kernel: Kernel, one: Dataset, two: Dataset, sink: sinks.Sink
    ) -> None:
        assert job.grid is not None
        self._grid = job.grid
        self._held = job.held
        self._kernel = kernel
        self._data = (one, two)
        self._sink = sink
        self._names = list(job.shapes)
        self.kept = Kept(self._factors, job.held)

    def compute_all(self, done: Collection[Pair], mark: Callable[[Pair, int], None]) -> None:
        """All pairs of blocks that are not done, in this process."""
        for panel in self._grid.panels(max(1, self._held - 1)):
            rows = {self._grid.keys(pair)[0] for pair in panel}
            for pair in panel:
                if pair not in done:
                    mark(pair, self.compute(pair, rows))

    def compute(self, pair: Pair, needed: Collection[Key]) -> int:
        """One pair of blocks, written; a check of what was written is returned."""
        ours, theirs = self._grid.keys(pair)
        needed = {ours, theirs, *needed}
        b = self.kept.get(theirs, needed)
        a = self.kept.get(ours, needed)
        check = 0
        for name, block in named(self._kernel, self._kernel.between(a, b)).items():
            for rows, columns, part in self._places(pair, block):
                self._sink.write(name, rows, columns, part)
            check = _check(block, check)
        return check

    def check(self, pair: Pair) -> int | None:
        """The check of what the file holds of a pair; None if it is torn, or its halves differ."""
        check = 0
        for name in self._names:
            rows, columns = self._grid.span(0, pair[0]), self._grid.span(1, pair[1])
            block = self._sink.read(name, rows, columns)
            if block is None:
                return None
            for there, across, part in self._places(pair, block):
                found = self._sink.read(name, there, across)
                if found is None or _check(found, 0) != _check(part, 0):
                    return None
            check = _check(block, check)
        return check

    def _places(self, pair: Pair, block: Array) -> list[tuple[slice, slice, Array]]:
        rows, columns = self._grid.span(0, pair[0]), self._grid.span(1, pair[1])
        places = [(rows, columns, block)]
        if self._grid.symmetric and pair[0] != pair[1]:
            places.append((columns, rows, _transposed(block)))
        return places

    def _factors(self, key: Key) -> Block:
        side, index = key
        span = self._grid.span(side, index)
        return self._kernel.factors(self._data[side].block(span.start, span.stop))


def named(kernel: Kernel, found: Array) -> dict[str, Array]:
    """Kernels by the names of their groups; an only one has none."""
    leading = kernel.shape(-1, -2).index(-1)
    return dict(zip(kernel.problem.groups, found, strict=True)) if leading else {"": found}


def _transposed(block: Array) -> Array:
    """Θ(x2, x1) of a block [n1, n2, …] of Θ(x1, x2)."""
    other: Array = block.swapaxes(0, 1)
    return other.swapaxes(2, 3) if block.ndim == 4 else other


def _check(block: Array, before: int) -> int:
    return zlib.crc32(np.ascontiguousarray(block).data.cast("B"), before)
