"""Blocks of a kernel on the workers of a Dask cluster.

Workers write the blocks themselves, and send back a check of a few bytes: a kernel is far larger
than what it is computed from, and would have to pass through one process otherwise. So they have to
see the files of model, data and output. The record is kept by the caller alone.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.errors import MissingDependencyError, OnnxJvpError, UsageError
from onnxjvp.kernels import sinks
from onnxjvp.kernels.engine import Engine, Job, opened
from onnxjvp.kernels.grid import Grid, Key, Pair
from onnxjvp.kernels.manifest import differences, model_digest, versions

#: blocks that a worker has at once: one is computed, the other one waits for it
_AHEAD = 2
#: bytes of arrays that are sent along with every block, where samples are in no file
_MOST_SENT = 1 << 20
#: seconds to wait for a scheduler, and for a worker where there is none (left)
PATIENCE = 60.0


def check(job: Job) -> None:
    """Refuse, before any work, what no cluster can do.

    Raises:
      MissingDependencyError: distributed is not installed.
      UsageError: a model, samples or an output that are no files of the kind that it takes.
    """
    _distributed()
    if not isinstance(job.model, str):
        raise UsageError("workers load the model from its file; give its path")
    sent = [a for samples in (job.data, job.other) if samples for a in samples.given.values()]
    if sum(array.nbytes for array in sent if isinstance(array, np.ndarray)) > _MOST_SENT:
        raise UsageError("workers read samples from files; save the arrays, and give the files")
    if job.out.suffix != ".zarr":
        raise UsageError(
            f"{str(job.out)!r}: workers write at once to a .zarr file, whose chunks are files of "
            "their own; give a name that ends in .zarr"
        )


def compute(
    address: str,
    job: Job,
    header: Mapping[str, Any],
    done: Collection[Pair],
    mark: Callable[[Pair, int], None],
) -> None:
    """All pairs of blocks that are not done, on the workers of a cluster.

    What a worker that dies was doing is done by another one.

    Args:
      address: of the scheduler, such as "tcp://host:8786".
      header: of the record, which workers compare with what they see.
      mark: called with each pair, and the check of what was written.
    Raises:
      UsageError: no such scheduler, no worker for a minute, workers that see other files or have
        other versions, or a block at which worker after worker died.
      OnnxJvpError: whatever a worker raised.
    """
    distributed = _distributed()
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"no Dask scheduler answers at {address!r}: {error}") from error
    with client, client.as_current():
        try:
            _Calls(distributed, client, job, header).run(done, mark)
        except (OSError, distributed.CancelledError) as error:
            raise UsageError(
                f"the cluster at {address!r} is gone: {error}. Run this again to go on"
            ) from error


class _Calls:
    """Who computes what."""

    def __init__(self, distributed: Any, client: Any, job: Job, header: Mapping[str, Any]) -> None:
        assert job.grid is not None
        self._distributed, self._client = distributed, client
        self._job, self._grid = job, job.grid
        self._wanted = {name: header[name] for name in ("model", "data", "versions", "options")}
        #: future → its pair, and the worker that it was meant for
        self._running: dict[Any, tuple[Pair, str]] = {}

    def run(self, done: Collection[Pair], mark: Callable[[Pair, int], None]) -> None:
        queue = Queue(self._grid, done, self._job.held, len(self._workers()))
        while queue or self._running:
            for worker in self._workers():
                self._feed(worker, queue)
            finished, _ = self._wait()
            for future in finished:
                pair, _ = self._running.pop(future)
                mark(pair, self._result(future, pair))

    def _workers(self) -> list[str]:
        """Those that are there now."""
        end = time.monotonic() + PATIENCE
        while not (found := list(self._client.nthreads())):
            if time.monotonic() > end:
                raise UsageError(
                    f"the cluster has had no worker for {PATIENCE:.0f} s; start some, and run this "
                    "again to go on"
                )
            time.sleep(0.2)
        return found

    def _feed(self, worker: str, queue: Queue) -> None:
        busy = sum(meant == worker for _, meant in self._running.values())
        while busy < _AHEAD and (task := queue.take(worker)) is not None:
            pair, rows = task
            future = self._client.submit(
                run_block,
                *(self._job, self._wanted, pair, rows),
                workers=[worker],
                allow_other_workers=True,  # which is what becomes of those of one that dies
                pure=False,
            )
            self._running[future] = (pair, worker)
            busy += 1

    def _wait(self) -> tuple[set[Any], set[Any]]:
        """Those that have ended; none after a second, so that new workers get their share."""
        try:
            found: tuple[set[Any], set[Any]] = self._distributed.wait(
                list(self._running), timeout=1, return_when="FIRST_COMPLETED"
            )
        except self._distributed.TimeoutError:
            return set(), set()
        return found

    def _result(self, future: Any, pair: Pair) -> int:
        try:
            return int(future.result())
        except OnnxJvpError:
            raise
        except ImportError as error:
            raise UsageError(
                f"a worker lacks a package: {error}. Install on all workers what is installed here"
            ) from error
        except self._distributed.KilledWorker as error:
            raise UsageError(
                f"worker after worker died at the block {pair}: {error}. Give workers more memory, "
                "or a smaller --memory or --block"
            ) from error


class Queue:
    """The pairs that are left, in panels of rows of which each worker takes one.

    So a worker needs the factors of few blocks. One that has no panel left helps at another's end.
    """

    def __init__(self, grid: Grid, done: Collection[Pair], held: int, workers: int) -> None:
        rows = max(1, min(held - 1, -(-grid.blocks[0] // (2 * workers))))
        left = [[pair for pair in panel if pair not in done] for panel in grid.panels(rows)]
        self._panels = [deque(panel) for panel in left if panel]
        self._rows = [{grid.keys(pair)[0] for pair in panel} for panel in left if panel]
        self._free = deque(range(len(self._panels)))
        self._owned: dict[str, int] = {}

    def __bool__(self) -> bool:
        return any(self._panels)

    def take(self, worker: str) -> tuple[Pair, set[Key]] | None:
        """A pair for a worker, with the blocks that it will need again."""
        own = self._owned.get(worker)
        if own is None or not self._panels[own]:
            while self._free and not self._panels[self._free[0]]:
                self._free.popleft()
            if not self._free:
                return self._helped()
            own = self._owned[worker] = self._free.popleft()
        return self._panels[own].popleft(), self._rows[own]

    def _helped(self) -> tuple[Pair, set[Key]] | None:
        longest = max(range(len(self._panels)), key=lambda k: len(self._panels[k]))
        if not self._panels[longest]:
            return None
        return self._panels[longest].pop(), self._rows[longest]


# -- on a worker -------------------------------------------------------------------------------

_lock = threading.Lock()
#: of this process: the last job, and what computes its blocks
_engine: tuple[str, Engine] | None = None


def run_block(job: Job, wanted: Mapping[str, Any], pair: Pair, rows: Collection[Key]) -> int:
    """Compute a pair of blocks in this process, which keeps its sessions and factors.

    One at a time: the runtime uses all cores for one.
    """
    global _engine  # noqa: PLW0603 - sessions live as long as the process
    with _lock:
        key = json.dumps([str(job.out), asdict(job.grid) if job.grid else None, wanted])
        if _engine is None or _engine[0] != key:
            _engine = None  # before the next one takes memory
            _engine = (key, _started(job, wanted))
        return _engine[1].compute(pair, rows)


def _started(job: Job, wanted: Mapping[str, Any]) -> Engine:
    assert isinstance(job.model, str)
    if not Path(job.model).is_file():
        raise UsageError(f"a worker does not see {job.model!r}; put model, data and output where "
                         "all workers see them")  # fmt: skip
    kernel, one, two = opened(job)
    data = {"x1": one.digest(), "x2": None if job.other is None else two.digest()}
    seen = {"model": model_digest(job.model), "data": data, "versions": versions()}
    if found := differences({name: wanted[name] for name in seen}, seen):
        raise UsageError(f"a worker sees something else: {'; '.join(found)}")
    sink = sinks.reopen(job.out, job.shapes, np.dtype(job.dtype))
    if sink is None:
        raise UsageError(f"a worker does not see {str(job.out)!r}; put the output where all do")
    return Engine(job, kernel, one, two, sink)


def _distributed() -> Any:
    try:
        import distributed  # noqa: PLC0415 - it is optional
    except ImportError as error:
        raise MissingDependencyError(
            "--cluster needs Dask's distributed, which is not installed: "
            'pip install "onnxjvp[cluster]"'
        ) from error
    return distributed
