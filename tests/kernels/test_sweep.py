"""Kernels of data sets, block by block: what is written, what a sweep that goes on computes."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import MODELS
from wine import MODEL, NAME, drawn

from onnxjvp.errors import UsageError
from onnxjvp.kernels.engine import named
from onnxjvp.kernels.grid import Grid, Kept
from onnxjvp.kernels.kernel import Kernel, ntk
from onnxjvp.kernels.manifest import Manifest
from onnxjvp.kernels.sweep import Swept, sweep

#: contraction is the quickest to make of so small a model
METHOD = {"method": "contraction"}
zarr_only = pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="needs zarr")
ENDINGS = [".npy", pytest.param(".zarr", marks=zarr_only)]
Sweep = Callable[..., Swept]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", drawn(11))
    return tmp_path / "x.npy"


def read(out: Path) -> dict[str, np.ndarray]:
    if out.suffix == ".npy":
        return {"": np.load(out)}
    import zarr  # noqa: PLC0415 - optional

    found = zarr.open(out, mode="r")
    if isinstance(found, zarr.Array):
        return {"": found[...]}
    return {name: array[...] for name, array in found.arrays()}


def close(found: np.ndarray, expected: np.ndarray) -> None:
    """To the rounding of float32 in products of other sizes."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# -- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "two", "options"),
    [
        (".npy", False, {"form": "full"}),
        (".npy", True, {"form": "full"}),
        (".npy", True, {"form": "diagonal"}),
        (".npy", False, {"logit": "sum"}),
        pytest.param(".zarr", False, {"form": "full"}, marks=zarr_only),
        pytest.param(".zarr", True, {"form": "trace"}, marks=zarr_only),
        pytest.param(".zarr", False, {"form": "diagonal", "groups": "module"}, marks=zarr_only),
    ],
    ids=str,
)
def test_blocks_are_those_of_the_kernel(
    data: Path, ending: str, two: bool, options: dict[str, Any]
) -> None:
    """Both halves of a symmetric one, blocks at the edges too."""
    out, x2 = data.with_name(f"k{ending}"), drawn(6, 1) if two else None
    other = None if x2 is None else {NAME: x2}
    done = sweep(MODEL, data, other, out=out, block=4, **options, **METHOD)
    kernel = ntk(MODEL, **options, **METHOD)
    expected = named(kernel, kernel({NAME: drawn(11)}, other))
    found = read(out)
    assert set(found) == set(expected)
    for name, array in expected.items():
        close(found[name], array)
    assert (done.blocks, done.found, done.computed) == ((6, 0, 6))
    assert done.factors == (5 if two else 3)


@zarr_only
def test_a_chunk_is_a_block(data: Path) -> None:
    import zarr  # noqa: PLC0415 - optional

    out = data.with_name("k.zarr")
    sweep(MODEL, data, out=out, block=4, **METHOD)
    array = zarr.open(out, mode="r")
    assert (array.shape, array.chunks) == ((11, 11, 3, 3), (4, 4, 3, 3))


def test_blocks_suit_the_memory(data: Path) -> None:
    """A budget that holds no two blocks of two samples."""
    method = {"method": "structured"}
    memory = int(ntk(MODEL, **method).method.cost(2, 2).memory) - 1
    options: dict[str, Any] = method | {"memory": memory}
    done = sweep(MODEL, data, out=data.with_name("k.npy"), **options)
    assert (done.block, done.blocks) == (1, 66)
    close(read(done.out)[""], ntk(MODEL, **METHOD)({NAME: drawn(11)}))
    with pytest.raises(UsageError, match="two blocks of 4 samples do not fit"):
        sweep(MODEL, data, out=data.with_name("l.npy"), block=4, **options)


# -- going on ----------------------------------------------------------------------------------


class EndedError(Exception):
    pass


def end_after(pairs: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done >= pairs:
            raise EndedError

    return progress


@pytest.mark.parametrize("ending", ENDINGS)
def test_nothing_is_computed_twice(
    data: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, pairs = data.with_name(f"k{ending}"), []
    between = Kernel.between
    monkeypatch.setattr(
        Kernel, "between", lambda *a: (pairs.append(a[1].samples * a[2].samples), between(*a))[1]
    )
    with pytest.raises(EndedError):
        sweep(MODEL, data, out=out, block=4, progress=end_after(30), **METHOD)
    assert out.exists() == (ending == ".zarr")  # a .npy file appears when it is complete
    assert sum(pairs) - 1 == 32  # the one is a probe of the shapes
    pairs.clear()
    done = sweep(MODEL, data, out=out, **METHOD)
    assert (done.block, done.found, done.computed) == (4, 2, 4)
    assert sum(pairs) - 1 == 16 + 12 + 12 + 9
    close(read(out)[""], ntk(MODEL, **METHOD)({NAME: drawn(11)}))
    again = sweep(MODEL, data, out=out, **METHOD)
    assert (again.found, again.computed) == (6, 0)


@pytest.mark.parametrize("ending", ENDINGS)
def test_blocks_that_are_not_whole_are_computed_again(data: Path, ending: str) -> None:
    out = data.with_name(f"k{ending}")
    sweep(MODEL, data, out=out, block=4, **METHOD)
    before = read(out)[""]
    if ending == ".zarr":
        chunk = out / "c" / "2" / "0" / "0" / "0"  # the mirror image of a block
        chunk.write_bytes(chunk.read_bytes()[:100])
        (out / "c" / "1" / "1" / "0" / "0").unlink()
    else:
        array = np.lib.format.open_memmap(out, "r+")
        array[9, 0] = array[5, 5] = 0
        array.flush()
    done = sweep(MODEL, data, out=out, **METHOD)
    assert (done.found, done.computed) == (4, 2)
    np.testing.assert_array_equal(read(out)[""], before)


def test_a_line_that_a_kill_has_cut_is_dropped(data: Path) -> None:
    out = data.with_name("k.npy")
    sweep(MODEL, data, out=out, block=4, **METHOD)
    record = out.with_name("k.npy.manifest")
    record.write_text(record.read_text()[:-4])
    done = sweep(MODEL, data, out=out, **METHOD)
    assert (done.found, done.computed) == (5, 1)
    assert sweep(MODEL, data, out=out, **METHOD).computed == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"form": "trace"}, ["form", '"full"', '"trace"']),
        ({"block": 3}, ["block was 4 and is 3"]),
        ({"params": ["coefficient*"]}, ["params", "intercepts"]),
        ({"logit": 1}, ["rows"]),
        ({"method": "products"}, ["method", "contraction", "products"]),
        ({"x1": {NAME: drawn(11, 2)}}, ["data x1"]),
        ({"x2": {NAME: drawn(11)}}, ["data x2"]),
        ({"model": MODELS / "diabetes_mlp.onnx", "x1": {NAME: drawn(11)[:, :10]}}, ["model was"]),
    ],
    ids=lambda given: "" if isinstance(given, list) else ",".join(given),
)
def test_another_kernel_is_not_mixed_in(
    data: Path, changed: dict[str, Any], words: list[str]
) -> None:
    out = data.with_name("k.npy")
    wanted = {"model": MODEL, "x1": data, "out": out, "block": 4, **METHOD}
    sweep(**wanted)
    before = read(out)[""]
    with pytest.raises(UsageError) as refused:
        sweep(**(wanted | changed))
    for word in (*words, "--force"):
        assert word in str(refused.value)
    np.testing.assert_array_equal(read(out)[""], before)


@pytest.mark.parametrize("ending", ENDINGS)
def test_force_begins_anew(data: Path, ending: str) -> None:
    out = data.with_name(f"k{ending}")
    sweep(MODEL, data, out=out, block=4, **METHOD)
    done = sweep(MODEL, data, out=out, force=True, form="trace", **METHOD)
    assert (done.blocks, done.found, done.computed) == (1, 0, 1)
    assert read(out)[""].shape == (11, 11)
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    # of nothing a record says nothing
    assert sweep(MODEL, data, out=out, form="diagonal", **METHOD).computed == 1


def test_other_versions_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = data.with_name("k.npy")
    sweep(MODEL, data, out=out, **METHOD)
    monkeypatch.setattr("onnxjvp.kernels.sweep.versions", lambda: {"onnxruntime": "0.1"})
    with pytest.raises(UsageError, match="versions onnxruntime was"):
        sweep(MODEL, data, out=out, **METHOD)


# -- places ------------------------------------------------------------------------------------


@zarr_only
def test_folders_that_zarr_did_not_write_are_left_alone(data: Path) -> None:
    out = data.with_name("k.zarr")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="says how it was made"):
        sweep(MODEL, data, out=out, **METHOD)
    with pytest.raises(UsageError, match="zarr did not write"):
        sweep(MODEL, data, out=out, force=True, **METHOD)
    assert (out / "notes.txt").read_text() == "mine"


def test_two_processes_do_not_share_an_output(data: Path) -> None:
    out = data.with_name("k.npy")
    sweep(MODEL, data, out=out, **METHOD)
    with (
        Manifest(data.with_name("k.npy.manifest")),
        pytest.raises(UsageError, match="another process"),
    ):
        sweep(MODEL, data, out=out, **METHOD)


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("k.txt", {}, ".zarr or .npy"),
        ("no/k.npy", {}, "no folder"),
        ("k.npy", {"groups": "module"}, "holds one kernel"),
    ],
)
def test_bad_places(data: Path, out: str, options: dict[str, Any], words: str) -> None:
    before = sorted(data.parent.iterdir())
    with pytest.raises(UsageError, match=words):
        sweep(MODEL, data, out=data.parent / out, **options, **METHOD)
    assert sorted(data.parent.iterdir()) == before


# -- order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("held", [2, 3, 4, 9, 20])
def test_factors_are_reused(symmetric: bool, held: int) -> None:
    """Once per row, and once per column of every panel but where panels meet."""
    grid = Grid((35, 35 if symmetric else 23), 4, symmetric)
    rows, columns = grid.blocks
    kept = Kept(lambda key: object(), held)  # type: ignore[arg-type,return-value]
    seen, width = [], max(1, held - 1)
    panels = list(grid.panels(width))
    for panel in panels:
        needed = {grid.keys(pair)[0] for pair in panel}
        for pair in panel:
            ours, theirs = grid.keys(pair)
            kept.get(theirs, {ours, theirs, *needed})
            kept.get(ours, {ours, theirs, *needed})
            seen.append(pair)
            assert len(kept._factors) <= held
    every = {(i, j) for i in range(rows) for j in range(columns) if i <= j or not symmetric}
    assert len(seen) == len(every)
    assert set(seen) == every
    if symmetric:
        most = sum(rows - start for start in range(0, rows, width))
    else:
        most = rows + len(panels) * columns - (len(panels) - 1)
    assert kept.computed <= most
    if held >= rows + (0 if symmetric else columns):
        assert kept.computed == rows + (0 if symmetric else columns)
