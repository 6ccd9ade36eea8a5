"""Where the blocks of a Jacobian are written: memory, a .npy file, a zarr group, or the caller's.

Files appear under their names once they are complete.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np

from onnxjvp.errors import MissingDependencyError, UsageError
from onnxjvp.runtime import Array

#: (output, variable), by name
Pair = tuple[str, str]
#: (output, variable, shape, dtype) → anything with shape that elements can be assigned to
Factory = Callable[[str, str, tuple[int, ...], np.dtype[Any]], Any]
#: a chunk of a zarr array is at least this large, where its array is
_CHUNK_BYTES = 1 << 20


class Store(Protocol):
    """Arrays that are written block by block."""

    def create(self, pair: Pair, shape: tuple[int, ...], dtype: np.dtype[Any], along: range) -> Any:
        """An array of zeros to write to.

        Args:
          along: the axes that are written piece by piece; the others are always written whole.
        """

    def finish(self) -> Mapping[Pair, Any]:
        """The complete arrays, in their final place."""


@contextmanager
def opened(out: str | os.PathLike[str] | Factory | None) -> Iterator[Store]:
    """The store that `out` of `dense_jacobian` stands for; what is incomplete is removed."""
    if out is None:
        yield _Given(_zeros)
    elif callable(out):
        yield _Given(out)
    else:
        path = Path(out)
        kind = _KINDS.get(path.suffix)
        if kind is None:
            raise UsageError(f"{str(path)!r}: give a name that ends in {' or '.join(_KINDS)}")
        if path.is_dir():
            raise UsageError(f"{str(path)!r} is a folder already; remove it, or give another name")
        try:
            with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
                yield kind(path, Path(folder) / path.name)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(
                f"{str(path)!r} cannot be written: {reason}. Choose another place"
            ) from error


def boxes(start: int, stop: int, shape: tuple[int, ...]) -> Iterator[tuple[slice, tuple[Any, ...]]]:
    """Elements start … stop of a row-major array, as slices of the range and boxes of indices."""
    inner = math.prod(shape[1:])
    if not shape or (start % inner == 0 and stop % inner == 0):
        yield slice(0, stop - start), ((slice(start // inner, stop // inner),) if shape else ())
        return
    for i in range(start // inner, -(-stop // inner)):
        low, high = max(start, i * inner), min(stop, (i + 1) * inner)
        for part, index in boxes(low - i * inner, high - i * inner, shape[1:]):
            first = low - start
            yield slice(part.start + first, part.stop + first), (i, *index)


# -- kinds of store ----------------------------------------------------------------------------


def _zeros(_: str, __: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    try:
        return np.zeros(shape, dtype)
    except MemoryError as error:
        size = math.prod(shape) * dtype.itemsize / 2**30
        raise UsageError(
            f"the Jacobian takes {size:.3g} GiB, which memory does not hold; write it to a .npy or "
            ".zarr file, or use products"
        ) from error


class _Given:
    """Arrays of the caller's, and what becomes of them is the caller's, too."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._arrays: dict[Pair, Any] = {}

    def create(self, pair: Pair, shape: tuple[int, ...], dtype: np.dtype[Any], along: range) -> Any:
        del along
        self._arrays[pair] = self._factory(*pair, shape, dtype)
        return self._arrays[pair]

    def finish(self) -> Mapping[Pair, Any]:
        return self._arrays


class _Npy:
    """One .npy file, for one output and one variable."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path, self._temporary = path, temporary
        self._pair: Pair | None = None
        self._array: Any = None

    def create(self, pair: Pair, shape: tuple[int, ...], dtype: np.dtype[Any], along: range) -> Any:
        del along
        if self._pair is not None:
            raise UsageError(
                f"a .npy file holds one array, and there are those of {self._pair} and {pair}; "
                "choose one output and one variable, or write a .zarr group"
            )
        self._pair = pair
        self._array = np.lib.format.open_memmap(self._temporary, "w+", dtype, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk would otherwise kill the process later
            with self._temporary.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, self._temporary.stat().st_size)
        return self._array

    def finish(self) -> Mapping[Pair, Any]:
        assert self._pair is not None
        self._array.flush()
        self._array = None  # the map of a file, which some systems do not rename
        self._temporary.replace(self._path)
        return {self._pair: np.load(self._path, mmap_mode="r", allow_pickle=False)}


class _Zarr:
    """A zarr group with an array per output and variable, called OUTPUT_jac_VARIABLE."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self._zarr = zarr_module()
        self._path, self._temporary = path, temporary
        self._group = self._zarr.open_group(temporary, mode="w")
        self._names: dict[Pair, str] = {}

    def create(self, pair: Pair, shape: tuple[int, ...], dtype: np.dtype[Any], along: range) -> Any:
        # a slash in a name would make groups within groups
        self._names[pair] = quote(f"{pair[0]}_jac_{pair[1]}", safe=":@+,= ")
        array = self._group.create_array(
            self._names[pair], shape=shape, dtype=dtype, chunks=_chunks(shape, dtype, along)
        )
        array.attrs.update({"output": pair[0], "variable": pair[1]})
        return array

    def finish(self) -> Mapping[Pair, Any]:
        self._temporary.rename(self._path)
        group = self._zarr.open_group(self._path, mode="r")
        return {pair: group[name] for pair, name in self._names.items()}


_KINDS: dict[str, Callable[[Path, Path], Store]] = {".npy": _Npy, ".zarr": _Zarr}


def _chunks(shape: tuple[int, ...], dtype: np.dtype[Any], along: range) -> tuple[int, ...]:
    """Whole axes where blocks are whole, and enough of the others to make a file worth its name."""
    chunks = [max(1, n) for n in shape]
    size = dtype.itemsize * math.prod(n for i, n in enumerate(chunks) if i not in along)
    for axis in reversed(along):
        chunks[axis] = min(chunks[axis], max(1, -(-_CHUNK_BYTES // size)))
        size *= chunks[axis]
    return tuple(chunks)


def zarr_module() -> Any:
    """Raises MissingDependencyError if zarr is not installed."""
    try:
        import zarr  # noqa: PLC0415 - it is optional
    except ImportError as error:
        raise MissingDependencyError(
            "A .zarr file needs zarr, which is not installed: "
            'pip install "onnxjvp[zarr]"; a .npy file needs nothing.'
        ) from error
    return zarr
