"""Kernels on a Dask cluster: two workers in processes of their own, one killed on the way."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from wine import MODEL, drawn

from onnxjvp.errors import UsageError
from onnxjvp.kernels.cluster import Queue
from onnxjvp.kernels.grid import Grid, Pair
from onnxjvp.kernels.sweep import sweep

OPTIONS = {"form": "trace", "method": "contraction"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="needs distributed: onnxjvp[cluster]")
    pytest.importorskip("zarr", reason="needs zarr: onnxjvp[zarr]")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as started:
        yield started


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", drawn(60))
    return tmp_path / "x.npy"


def read(out: Path) -> np.ndarray:
    import zarr  # noqa: PLC0415 - optional

    found = zarr.open(out, mode="r")[...]
    assert isinstance(found, np.ndarray)
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_a_worker_is_killed_on_the_way(cluster: Any, data: Path) -> None:
    alone = sweep(MODEL, data, out=data.with_name("alone.zarr"), block=4, **OPTIONS)
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        if not killed and done > total / 3:
            killed.append(next(iter(cluster.workers.values())).pid)
            os.kill(killed[0], signal.SIGKILL)

    done = sweep(
        MODEL,
        data,
        out=data.with_name("k.zarr"),
        block=4,
        cluster=cluster.scheduler_address,
        progress=progress,
        **OPTIONS,
    )
    assert killed
    assert (done.blocks, done.found, done.computed) == (120, 0, 120)
    np.testing.assert_array_equal(read(done.out), read(alone.out))
    # each block was recorded once
    assert len(done.out.with_name("k.zarr.manifest").read_text().splitlines()) == 1 + 120
    # and one process goes on where a cluster has ended, and the other way round
    assert sweep(MODEL, data, out=done.out, **OPTIONS).computed == 0


def test_a_cluster_goes_on(cluster: Any, data: Path) -> None:
    out, address = data.with_name("k.zarr"), cluster.scheduler_address

    def progress(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(MODEL, data, out=out, block=10, progress=progress, **OPTIONS)
    done = sweep(MODEL, data, out=out, cluster=address, **OPTIONS)
    assert (done.blocks, done.found + done.computed) == (21, 21)
    assert 0 < done.found < 21
    alone = sweep(MODEL, data, out=data.with_name("alone.zarr"), block=10, **OPTIONS)
    np.testing.assert_array_equal(read(out), read(alone.out))


def test_what_a_worker_raises_is_told(cluster: Any, data: Path) -> None:
    """Here that a file is gone when workers look for it."""
    out, moved = data.with_name("k.zarr"), data.with_name("y.npy")

    def progress(done: int, total: int) -> None:
        data.rename(moved)

    with pytest.raises(UsageError, match=r"x\.npy' does not exist"):
        sweep(
            *(MODEL, data),
            out=out,
            block=20,
            cluster=cluster.scheduler_address,
            progress=progress,
            **OPTIONS,
        )


def test_what_no_cluster_does(cluster: Any, data: Path) -> None:
    address = cluster.scheduler_address
    with pytest.raises(UsageError, match=r"ends in \.zarr"):
        sweep(MODEL, data, out=data.with_name("k.npy"), cluster=address, **OPTIONS)
    with pytest.raises(UsageError, match="give its path"):
        sweep(
            *(MODEL.read_bytes(), data),
            out=data.with_name("k.zarr"),
            cluster=address,
            **OPTIONS,
        )


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_pair_is_given_out_once(symmetric: bool) -> None:
    grid = Grid((40, 40), 4, symmetric)
    done: set[Pair] = {(0, 0), (2, 5), (9, 9)}
    queue = Queue(grid, done, 4, 2)
    given: dict[str, list[Pair]] = {"a": [], "b": [], "c": []}
    while queue:
        for worker, pairs in given.items():
            if (task := queue.take(worker)) is not None:
                pairs.append(task[0])
    every = [pair for pairs in given.values() for pair in pairs]
    assert len(every) == len(set(every))
    assert set(every) == set(grid.pairs()) - done
    assert queue.take("a") is None
    # a worker stays with its rows while there are some
    assert len({i for i, _ in given["a"][:8]}) <= 3
