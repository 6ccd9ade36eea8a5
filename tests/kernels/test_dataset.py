"""Data sets: files that are mapped, and what does not fit a model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxjvp.errors import UsageError
from onnxjvp.kernels.dataset import Samples, mapped, open_dataset
from onnxjvp.runtime import TensorSpec

RNG = np.random.default_rng(0)
X = RNG.standard_normal((7, 3, 5)).astype(np.float32)
IDS = RNG.integers(0, 9, (7, 4))
TABLE = RNG.standard_normal((2, 5)).astype(np.float32)
ARRAYS = {"x": X, "ids": IDS, "table": TABLE}
SPECS = (
    TensorSpec("x", np.dtype("float32"), ("batch", "n", 5)),
    TensorSpec("ids", np.dtype("int64"), (4, 4)),  # a model that takes four samples at once
    TensorSpec("table", np.dtype("float32"), (2, 5)),
)
SAMPLED = ("x", "ids")
zarr_only = pytest.mark.skipif(importlib.util.find_spec("zarr") is None, reason="needs zarr")


def saved(folder: Path, ending: str) -> Path:
    path = folder / f"data{ending}"
    if ending == ".zarr":
        import zarr  # noqa: PLC0415 - optional

        group = zarr.open_group(path, mode="w")
        for name, array in ARRAYS.items():
            group.create_array(name, data=array)
    elif ending == ".packed.npz":
        np.savez_compressed(path, **ARRAYS)
    else:
        np.savez(path, **ARRAYS)
    return path


@pytest.mark.parametrize("ending", [".npz", ".packed.npz", pytest.param(".zarr", marks=zarr_only)])
def test_several_inputs(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path, ending)
    data = open_dataset(SPECS, SAMPLED, Samples(path))
    assert data.samples == 7
    block = data.block(2, 5)
    assert set(block) == {"x", "ids", "table"}
    np.testing.assert_array_equal(block["x"], X[2:5])
    np.testing.assert_array_equal(block["ids"], IDS[2:5])
    np.testing.assert_array_equal(block["table"], TABLE)
    assert [block[name].dtype for name in ("x", "ids")] == [np.float32, np.int64]
    assert block["x"].flags.writeable  # a copy: nothing can happen to the file
    in_memory = open_dataset(SPECS, SAMPLED, Samples(given=ARRAYS))
    assert data.digest() == in_memory.digest()
    changed = ARRAYS | {"ids": np.where(IDS > 7, 0, IDS)}
    assert data.digest() != open_dataset(SPECS, SAMPLED, Samples(given=changed)).digest()


@pytest.mark.parametrize("order", ["C", "F"])
def test_files_are_mapped(tmp_path: Path, order: Any) -> None:
    array = np.asarray(X, order=order)
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", pad=np.arange(3, dtype=np.int8), x=array)
    for found in (mapped(tmp_path / "x.npy"), mapped(tmp_path / "x.npz")["x"]):
        assert isinstance(found, np.memmap)
        np.testing.assert_array_equal(found, X)


def test_one_file_and_arrays_beside_it(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "ids.npy", IDS)
    given = {"ids": tmp_path / "ids.npy", "table": TABLE}
    data = open_dataset(SPECS, SAMPLED, Samples(tmp_path / "x.npy", given))
    np.testing.assert_array_equal(data.block(6, 7)["x"], X[6:])
    np.testing.assert_array_equal(data.block(6, 7)["ids"], IDS[6:])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"x": X.astype(np.float64)}, ["x is float64", "float32"]),
        ({"x": X[:, :, :4]}, ["x has size 4 on axis 2", "5"]),
        ({"x": X[:5]}, ["number of samples", "'x': 5", "'ids': 7"]),
        ({"x": np.float32(1)}, ["'x'", "one number"]),
        ({"x": X[:0], "ids": IDS[:0]}, ["no sample"]),
        ({"ids": IDS.astype(np.int32)}, ["ids is int32", "int64"]),
        ({"ids": None}, ["input ids", "missing"]),
        ({"y": X}, ["'y'", "'x'"]),
    ],
    ids=str,
)
def test_what_does_not_fit(tmp_path: Path, changed: dict[str, Any], words: list[str]) -> None:
    arrays = {name: array for name, array in (ARRAYS | changed).items() if array is not None}
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(UsageError) as refused:
        open_dataset(SPECS, SAMPLED, Samples(tmp_path / "data.npz"))
    for word in words:
        assert word in str(refused.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = tmp_path / "whole.npy"
    np.save(whole, X)
    (tmp_path / "torn.npy").write_bytes(whole.read_bytes()[:-4])
    (tmp_path / "text.npy").write_text("1 2 3")
    np.save(tmp_path / "objects.npy", np.array([{}, []], object), allow_pickle=True)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "x.csv").write_text("1,2")
    cases = {
        "torn.npy": "cannot be read",
        "text.npy": "cannot be read",
        "objects.npy": "objects",
        "torn.npz": "cannot be read",
        "x.csv": "end in .npy, .npz, .zarr",
        "none.npy": "does not exist",
    }
    for name, words in cases.items():
        with pytest.raises(UsageError, match=words):
            mapped(tmp_path / name)


def test_one_array_for_two_inputs_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(UsageError, match="'x', 'ids'"):
        open_dataset(SPECS, SAMPLED, Samples(tmp_path / "x.npy", {"table": TABLE}))
