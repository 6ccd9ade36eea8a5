"""Where the blocks of a kernel are written: arrays of a .zarr file, or a .npy file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from onnxjvp.analysis.stores import zarr_module
from onnxjvp.errors import UsageError
from onnxjvp.runtime import Array

#: kernel → shape; the name of an only one is empty
Shapes = Mapping[str, tuple[int, ...]]


class Sink(Protocol):
    """Arrays [N1, N2, …] by name, which are filled block by block."""

    def write(self, name: str, rows: slice, columns: slice, block: Array) -> None: ...

    def read(self, name: str, rows: slice, columns: slice) -> Array | None:
        """What is there; None where it is torn."""

    def finish(self) -> None:
        """Every block is there."""


def check_place(out: Path) -> None:
    """Refuse, before any work, what could not be written after it.

    Raises:
      UsageError: another ending than .zarr or .npy, or no such folder.
      MissingDependencyError: zarr is not installed.
    """
    if out.suffix not in (".zarr", ".npy"):
        raise UsageError(f"{str(out)!r}: give a name that ends in .zarr or .npy")
    if out.suffix == ".zarr":
        zarr_module()
    if not out.parent.is_dir():
        raise UsageError(f"there is no folder {str(out.parent)!r}; create it, or choose another")


def create(out: Path, shapes: Shapes, dtype: np.dtype[Any], block: int) -> Sink:
    """New arrays, of which nothing is known yet (NaN in a .zarr file).

    A .zarr file that is there is replaced at once, a .npy file once the new one is complete.

    Raises:
      UsageError: several kernels in a .npy file, or a place that cannot be written.
    """
    try:
        if out.suffix == ".npy":
            (shape,) = _only(out, shapes)
            return _Npy.create(out, shape, dtype)
        return _Zarr.create(out, shapes, dtype, block)
    except OSError as error:
        raise UsageError(
            f"{str(out)!r} cannot be written: {error.strerror or error}. Choose another place "
            "with --out"
        ) from error


def reopen(out: Path, shapes: Shapes, dtype: np.dtype[Any]) -> Sink | None:
    """The arrays that `create` made, or None where they are gone or are others."""
    try:
        if out.suffix == ".npy":
            (shape,) = _only(out, shapes)
            return _Npy.reopen(out, shape, dtype)
        return _Zarr.reopen(out, shapes, dtype)
    except (OSError, ValueError, KeyError):
        return None


def present(out: Path) -> bool:
    """Whether there is anything of it, complete or not."""
    return out.exists() or _part(out).exists()


def _only(out: Path, shapes: Shapes) -> list[tuple[int, ...]]:
    if len(shapes) > 1:
        raise UsageError(
            f"{str(out)!r} holds one kernel, and there are {len(shapes)}; write a .zarr group"
        )
    return list(shapes.values())


class _Npy:
    def __init__(self, out: Path, path: Path, array: Array) -> None:
        self._out, self._path, self._array = out, path, array

    @classmethod
    def create(cls, out: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Npy:
        path = _part(out)
        array = np.lib.format.open_memmap(path, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk would otherwise kill the process later
            try:
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
            except OSError:
                path.unlink(missing_ok=True)
                raise
        return cls(out, path, array)

    @classmethod
    def reopen(cls, out: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> _Npy | None:
        path = _part(out) if _part(out).exists() else out
        array = np.lib.format.open_memmap(path, "r+")
        return cls(out, path, array) if (array.shape, array.dtype) == (shape, dtype) else None

    def write(self, name: str, rows: slice, columns: slice, block: Array) -> None:
        self._array[rows, columns] = block

    def read(self, name: str, rows: slice, columns: slice) -> Array:
        return np.array(self._array[rows, columns])

    def finish(self) -> None:
        self._array.flush()  # type: ignore[attr-defined]
        del self._array  # the map of a file, which some systems do not rename
        if self._path != self._out:
            self._path.replace(self._out)


def _part(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


class _Zarr:
    """An array, or a group of several. Chunks are blocks, so writers never share one.

    Numbers are not compressed: digits of a kernel hardly are, at the price of time.
    """

    def __init__(self, out: Path, arrays: Mapping[str, Any]) -> None:
        self._out, self._arrays = out, arrays

    @classmethod
    def create(cls, out: Path, shapes: Shapes, dtype: np.dtype[Any], block: int) -> _Zarr:
        zarr = zarr_module()
        if out.exists():
            shutil.rmtree(out)
        arrays = {}
        group = zarr.open_group(out, mode="w") if set(shapes) != {""} else None
        for name, shape in shapes.items():
            chunks = (min(block, shape[0]), min(block, shape[1]), *shape[2:])
            made = {"shape": shape, "dtype": dtype, "chunks": chunks}
            made |= {"fill_value": float("nan"), "compressors": None}
            if group is None:
                arrays[name] = zarr.create_array(out, **made)
            else:
                arrays[name] = group.create_array(_key(name), **made)
        return cls(out, arrays)

    @classmethod
    def reopen(cls, out: Path, shapes: Shapes, dtype: np.dtype[Any]) -> _Zarr | None:
        zarr = zarr_module()
        opened = zarr.open(out, mode="r+")
        arrays = {name: opened if name == "" else opened[_key(name)] for name in shapes}
        for name, shape in shapes.items():
            if (arrays[name].shape, arrays[name].dtype) != (shape, dtype):
                return None
        return cls(out, arrays)

    def write(self, name: str, rows: slice, columns: slice, block: Array) -> None:
        try:
            self._arrays[name][rows, columns] = block
        except OSError as error:
            raise UsageError(
                f"{str(self._out)!r} cannot be written: {error.strerror or error}. Blocks that are "
                "recorded as finished are kept: make room, and run this again to go on"
            ) from error

    def read(self, name: str, rows: slice, columns: slice) -> Array | None:
        try:
            return np.asarray(self._arrays[name][rows, columns])
        except (OSError, ValueError, RuntimeError):  # as zarr says that a chunk is too short
            return None

    def finish(self) -> None:
        pass


def _key(name: str) -> str:
    """A slash in a name would make groups within groups."""
    return quote(name, safe=":@+,= ")
