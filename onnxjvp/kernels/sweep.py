"""A kernel of data sets that memory does not hold: block by block, to a file, resumable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.kernels import sinks
from onnxjvp.kernels.dataset import Dataset, Given, Samples
from onnxjvp.kernels.engine import Engine, Job, named, opened
from onnxjvp.kernels.grid import Grid, Pair
from onnxjvp.kernels.kernel import Kernel
from onnxjvp.kernels.manifest import WHAT, Manifest, differences, model_digest, versions
from onnxjvp.rewrite import Rewritten

#: samples of a block, and bytes of what a pair of blocks gives, at most where the caller does not
#: say: a block is a chunk of the file, what a kill can cost, and the least that progress shows
MOST_SAMPLES = 256
_CHUNK_BYTES = 1 << 26
Progress = Callable[[int, int], object]
#: where samples are: one file, files and arrays by input, or both
Data = Path | str | Given | Samples


@dataclass(frozen=True)
class Swept:
    """What a sweep has done."""

    out: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtype: str
    #: samples of a block
    block: int
    #: pairs of blocks: all of them, those that were there already, those that were computed
    blocks: int
    found: int
    computed: int
    #: how often the factors of a block were computed; None on a cluster
    factors: int | None
    seconds: float
    #: what a reader of the kernel should know
    notes: tuple[str, ...] = ()


def sweep(
    model: AnyModel | Rewritten,
    x1: Data,
    x2: Data | None = None,
    *,
    out: Path | str,
    block: int | None = None,
    force: bool = False,
    cluster: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Swept:
    """The kernel of data sets, written block by block as blocks are finished.

    A sweep that was ended, however roughly, goes on where it was when it is called again: blocks
    that are recorded as finished (in OUT.manifest) and are whole in the file are not computed
    again. Of a symmetric kernel one half is computed and both are written.

    Args:
      model, options: as for `onnxjvp.ntk`.
      x1, x2: a .npy, .npz or .zarr file with samples along axis 0, which is mapped and not read;
        a mapping of inputs to arrays or such files; or both, as `Samples`. x2 None means x1.
      out: a path that ends in .zarr (chunks are blocks; a group with an array per kernel where
        there are several) or .npy (one kernel; appears under its name once it is complete).
      block: samples of a block; None takes what fits the budget, at most 256, and what a sweep
        that goes on was begun with.
      force: begin anew, replacing what is there.
      cluster: the address of a Dask scheduler whose workers compute the blocks and write them.
        They have to see the files of model, data and `out` under the same paths.
      progress: called with the pairs of samples that are done, and all of them.
    Raises:
      UsageError: `out` was begun with another model, data, options, block or versions (all that
        differ are named); data that do not fit the model; a place that cannot be written.
      MissingDependencyError: zarr, or with `cluster` distributed, is not installed.
    Cost: per block of data one `Kernel.factors`, again for every panel of blocks that the budget
      holds; per pair of blocks one `Kernel.between`.
    """
    started = time.perf_counter()
    job = Job(
        str(Path(model).absolute()) if isinstance(model, Path | str) else model,
        options,
        _located(x1),
        None if x2 is None else _located(x2),
        Path(out).absolute(),
    )
    sinks.check_place(job.out)
    _check_not_read(job)
    if cluster is not None:
        from onnxjvp.kernels import cluster as remote  # noqa: PLC0415 - distributed is optional

        remote.check(job)
    manifest = None if force else _begun(job)
    try:
        kernel, one, two, job = _planned(job, block, manifest)
        header = _header(job, kernel, one, two)
        sink, manifest = _opened(job, header, manifest, force)
        assert job.grid is not None
        engine = Engine(job, kernel, one, two, sink)
        total = sum(map(job.grid.size, job.grid.pairs()))
        # what a crash of the machine has taken is not there, whatever the record says
        whole = {pair for pair, check in manifest.done.items() if engine.check(pair) == check}
        count = len(whole)
        done = sum(map(job.grid.size, whole))

        def mark(pair: Pair, check: int) -> None:
            nonlocal done
            assert job.grid is not None
            assert manifest is not None
            manifest.mark(pair, check)
            whole.add(pair)
            done += job.grid.size(pair)
            if progress is not None:
                progress(done, total)

        if progress is not None:
            progress(done, total)
        if cluster is not None:
            remote.compute(cluster, job, header, whole, mark)
        else:
            engine.compute_all(whole, mark)
        sink.finish()
    finally:
        if manifest is not None:
            manifest.close()
    return Swept(
        job.out,
        job.shapes,
        job.dtype,
        job.grid.block,
        len(whole),
        count,
        len(whole) - count,
        engine.kept.computed if cluster is None else None,
        time.perf_counter() - started,
        kernel.problem.notes,
    )


# -- what is to be computed --------------------------------------------------------------------


def _located(data: Data) -> Samples:
    """With paths that hold in any process."""
    if isinstance(data, Path | str):
        return Samples(Path(data).absolute())
    samples = data if isinstance(data, Samples) else Samples(given=data)
    given = {
        name: found if isinstance(found, np.ndarray) else Path(found).absolute()
        for name, found in samples.given.items()
    }
    return Samples(None if samples.file is None else samples.file.absolute(), given)


def _check_not_read(job: Job) -> None:
    """Refuse to write over what is read."""
    for samples in (job.data, job.other):
        given = () if samples is None else (samples.file, *samples.given.values())
        if any(isinstance(path, Path) and path.resolve() == job.out.resolve() for path in given):
            raise UsageError(
                f"{str(job.out)!r} holds the samples, and the kernel would replace it; choose "
                "another name for the kernel"
            )


def _begun(job: Job) -> Manifest | None:
    """The record of a sweep that is there."""
    path = record_of(job.out)
    if path.exists() and sinks.present(job.out):
        return Manifest(path)
    if job.out.exists():
        raise UsageError(
            f"{str(job.out)!r} exists, and no {path.name} says how it was made; choose another "
            "name, or pass --force to replace it"
        )
    return None


def record_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.manifest")


def _planned(
    job: Job, block: int | None, begun: Manifest | None
) -> tuple[Kernel, Dataset, Dataset, Job]:
    """The job with its grid, shapes and what memory holds."""
    options = dict(job.options)
    if begun is not None and options.get("method", "auto") == "auto":
        options["method"] = begun.header["options"]["method"]  # whatever the budget is now
    job = replace(job, options=options)
    kernel, one, two = opened(job)
    job = replace(job, options=options | {"method": kernel.method.name})
    single = kernel.factors(one.block(0, 1))
    probe = named(kernel, kernel.between(single, single))
    if begun is not None and block is None:
        block = int(begun.header["block"])
    if block is None:
        block = _block_for(kernel, sum(array.nbytes for array in probe.values()))
    elif block > 1 and kernel.method.cost(block, block).memory > kernel.memory:
        raise UsageError(
            f"two blocks of {block} samples do not fit in {kernel.memory / 2**30:.3g} GiB, which "
            f"hold {kernel.samples_per_block()}; raise --memory, or begin anew with another --block"
        )
    grid = Grid((one.samples, two.samples), block, job.other is None)
    shapes = {name: (one.samples, two.samples, *array.shape[2:]) for name, array in probe.items()}
    (dtype,) = {str(array.dtype) for array in probe.values()}
    spare = kernel.memory - kernel.method.cost(block, block).memory
    held = 2 + int(max(0.0, spare) // max(1, single.nbytes * block))
    job = replace(job, grid=grid, shapes=shapes, dtype=dtype, held=min(held, sum(grid.blocks)))
    return kernel, one, two, job


def _block_for(kernel: Kernel, pair_bytes: int) -> int:
    """As many samples as fit, up to what makes a fair chunk."""
    block = kernel.samples_per_block()
    while (
        2 * block <= MOST_SAMPLES
        and kernel.method.cost(2 * block, 2 * block).memory <= kernel.memory
    ):
        block *= 2
    while block > 1 and block * block * pair_bytes > _CHUNK_BYTES:
        block //= 2
    return block


def _header(job: Job, kernel: Kernel, one: Dataset, two: Dataset) -> dict[str, Any]:
    """What has to be the same when a sweep goes on."""
    assert job.grid is not None
    problem = kernel.problem
    rows = hashlib.sha256(np.ascontiguousarray(problem.rows).data.cast("B")).hexdigest()
    return {
        "what": WHAT,
        "model": model_digest(job.model),
        "data": {"x1": one.digest(), "x2": None if job.other is None else two.digest()},
        "options": {
            "params": list(problem.params),
            "outputs": {name: list(shape) for name, shape in problem.outputs.items()},
            "groups": {name: list(members) for name, members in problem.groups.items()},
            "form": problem.form,
            "rows": rows,
            "method": kernel.method.name,
            "accumulate": problem.accumulate,
            "providers": None if problem.providers is None else list(problem.providers),
        },
        "versions": versions(),
        "block": job.grid.block,
        "arrays": {name: list(shape) for name, shape in job.shapes.items()},
        "dtype": job.dtype,
    }


def _opened(
    job: Job, header: Mapping[str, Any], begun: Manifest | None, force: bool
) -> tuple[sinks.Sink, Manifest]:
    """Where blocks go, and the record; begun anew unless a sweep goes on."""
    assert job.grid is not None
    dtype = np.dtype(job.dtype)
    if begun is not None:
        if found := differences(begun.header, header):
            raise UsageError(
                f"{str(job.out)!r} was begun otherwise: {'; '.join(found)}. Choose another name, "
                "or begin anew with --force"
            )
        sink = sinks.reopen(job.out, job.shapes, dtype)
        if sink is not None:
            return sink, begun
        begun.close()
    if force:
        _check_replaceable(job.out)
    record = record_of(job.out)
    record.unlink(missing_ok=True)  # it says nothing of the new arrays
    sink = sinks.create(job.out, job.shapes, dtype, job.grid.block)
    return sink, Manifest.begin(record, header)


def _check_replaceable(out: Path) -> None:
    names = ("zarr.json", ".zarray", ".zgroup")
    if out.is_dir() and not any((out / name).is_file() for name in names):
        raise UsageError(f"{str(out)!r} is a folder that zarr did not write; choose another name")
