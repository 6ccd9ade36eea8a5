"""Samples on disk: an array per input of a model, mapped into memory, read a block at a time."""

from __future__ import annotations

import hashlib
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from onnxjvp.analysis.stores import zarr_module
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.kernels.method import Problem
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array, Session, TensorSpec, check_feeds

#: input → where its samples are: in memory, or in a file
Given = Mapping[str, Path | Array]
#: about so many bytes are read at once while a data set is hashed
_PIECE = 1 << 24
_KINDS = (".npy", ".npz", ".zarr")


@dataclass(frozen=True)
class Samples:
    """Where the samples of a model's inputs are."""

    #: of all inputs but those that are given by themselves
    file: Path | None = None
    given: Given = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """N samples of every input of a model, of which only what is asked for is read."""

    #: an array per input with an axis of samples (axis 0): anything that slices give arrays of
    arrays: Mapping[str, Any]
    #: inputs that all samples share
    shared: Mapping[str, Array]

    @property
    def samples(self) -> int:
        return int(next(iter(self.arrays.values())).shape[0])

    def block(self, start: int, stop: int) -> dict[str, Array]:
        """Samples start … stop, as a model takes them: a copy in memory."""
        taken = {name: np.array(array[start:stop]) for name, array in self.arrays.items()}
        return taken | dict(self.shared)

    def digest(self) -> str:
        """SHA-256 of names, types, shapes and elements, whatever files they come from.

        Cost: everything is read once.
        """
        found = hashlib.sha256()
        everything: dict[str, Any] = {**self.arrays, **self.shared}
        for name, array in sorted(everything.items()):
            found.update(f"{name}|{array.dtype.str}|{tuple(array.shape)}|".encode())
            for piece in _pieces(array):
                found.update(np.ascontiguousarray(piece).data.cast("B"))
        return found.hexdigest()


def open_dataset(
    inputs: Sequence[TensorSpec],
    sampled: Sequence[str],
    samples: Samples,
) -> Dataset:
    """Map the samples of a model's inputs.

    Args:
      inputs: what the model takes.
      sampled: the inputs with an axis of samples (axis 0); any number of samples fits, whatever
        the model takes at once.
      samples: its `file` is a .npy file or .zarr array, for the one sampled input that `given`
        leaves; or a .npz file or .zarr group with an array per input. A compressed .npz file is
        unpacked into a temporary one.
    Raises:
      UsageError: a file that cannot be read, an input without an array, arrays that are of
        another type or shape than the model takes, or that differ in their number of samples.
      MissingDependencyError: a .zarr file, and zarr is not installed.
    Cost: no sample is read, unless a file is compressed.
    """
    known = [spec.name for spec in inputs]
    found: dict[str, Any] = {
        name: array if isinstance(array, np.ndarray) else _one(name, Path(array))
        for name, array in samples.given.items()
    }
    if samples.file is not None:
        found |= _all(
            samples.file, [name for name in sampled if name not in found], known, set(found)
        )
    _check(inputs, sampled, found)
    return Dataset(
        {name: found[name] for name in known if name in sampled},
        {name: np.asarray(found[name][...]) for name in known if name not in sampled},
    )


def open_both(problem: Problem, data: Samples, other: Samples | None) -> tuple[Dataset, Dataset]:
    """The data sets of a kernel; inputs that all samples share need to be given once."""
    specs = input_specs(problem.model, problem.links)
    one = open_dataset(specs, problem.sampled, data)
    if other is None:
        return one, one
    shared = {name: data.given[name] for name in problem.shared if name in data.given}
    two = open_dataset(specs, problem.sampled, replace(other, given={**shared, **other.given}))
    return one, two


def input_specs(model: AnyModel | Rewritten, links: Path | None = None) -> tuple[TensorSpec, ...]:
    """What the model takes."""
    plain = model.model if isinstance(model, Rewritten) else model
    # a runtime may follow links by rules of its own
    loaded = plain if links is None else load(plain, links=links).model
    return Session(loaded, optimize=False).inputs


def _pieces(array: Any) -> Iterator[Array]:
    if not array.shape:
        yield np.asarray(array[...]).reshape(1)
        return
    bytes_of_row = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64)))
    rows = max(1, _PIECE // bytes_of_row)
    for start in range(0, array.shape[0], rows):
        yield np.asarray(array[start : start + rows])


# -- files -------------------------------------------------------------------------------------


def _one(name: str, path: Path) -> Any:
    """The array of a file for one input: of several the one of that name."""
    found = mapped(path)
    if not isinstance(found, dict):
        return found
    if name not in found and len(found) != 1:
        held = ", ".join(map(repr, found)) or "no array"
        raise UsageError(f"{str(path)!r} holds no array {name!r} but {held}; rename the array")
    return found[name] if name in found else next(iter(found.values()))


def _all(path: Path, left: Sequence[str], known: Sequence[str], given: set[str]) -> dict[str, Any]:
    """The arrays of the file with a data set."""
    found = mapped(path)
    if isinstance(found, dict):
        if unknown := [name for name in found if name not in known]:
            raise UsageError(
                f"{str(path)!r} holds {', '.join(map(repr, unknown))}, and the model has the "
                f"inputs {', '.join(map(repr, known))}; name the arrays after inputs"
            )
        return {name: array for name, array in found.items() if name not in given}
    if len(left) != 1:
        names = ", ".join(map(repr, left)) or "none"
        raise UsageError(
            f"{str(path)!r} holds one array, and the inputs that want samples are {names}; give "
            "an .npz file or a .zarr group with an array per input"
        )
    return {left[0]: found}


def mapped(path: Path) -> Any:
    """The array of a file, or its arrays by name, mapped and not read.

    Raises: UsageError, MissingDependencyError.
    """
    if path.suffix not in _KINDS:
        raise UsageError(f"{str(path)!r}: data are in files that end in {', '.join(_KINDS)}")
    if not path.exists():
        raise UsageError(f"{str(path)!r} does not exist; give a file with samples")
    try:
        if path.suffix == ".zarr":
            return _zarr(path)
        if path.suffix == ".npz":
            return _npz(path)
        with path.open("rb") as file:
            return _npy(file, file)
    except (OSError, ValueError, KeyError, EOFError, struct.error, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read as samples: {error}. Write it with numpy.save, "
            "numpy.savez or zarr, as arrays of plain numbers"
        ) from error


def _npy(header: BinaryIO, content: BinaryIO) -> Array:
    """The array of a .npy file, whose header begins where `header` stands."""
    version = np.lib.format.read_magic(header)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(
            f"it is of version {version[0]}.{version[1]}, which plain numbers never are"
        )
    shape, by_columns, dtype = readers[version](header)
    if dtype.hasobject:
        raise ValueError("it holds Python objects")
    if 0 in shape:  # nothing to map
        return np.zeros(shape, dtype)
    order = "F" if by_columns else "C"
    array: Array = np.memmap(content, dtype, "r", header.tell(), shape, order)  # type: ignore[call-overload]
    return array


def _npz(path: Path) -> dict[str, Array]:
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
        return {m.filename.removesuffix(".npy"): _member(path, archive, m) for m in members}


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Array:
    """Where it is not compressed, the file itself is mapped."""
    if member.compress_type != zipfile.ZIP_STORED:
        with archive.open(member) as packed, tempfile.TemporaryFile() as file:
            shutil.copyfileobj(packed, file)
            file.seek(0)
            return _npy(file, file)  # the map keeps the file alive
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)  # of the local header: its two lengths end it
        name, extra = struct.unpack("<HH", file.read(4))
        file.seek(member.header_offset + 30 + name + extra)
        return _npy(file, file)


def _zarr(path: Path) -> Any:
    zarr = zarr_module()
    opened = zarr.open(path, mode="r")
    if isinstance(opened, zarr.Array):
        return opened
    return dict(opened.arrays())


# -- what a model takes ------------------------------------------------------------------------


def _check(inputs: Sequence[TensorSpec], sampled: Sequence[str], found: Mapping[str, Any]) -> None:
    flat = [name for name in sampled if name in found and not found[name].shape]
    if flat:
        raise UsageError(f"the array for {flat[0]!r} is one number; axis 0 has to be samples")
    specs = [
        replace(spec, shape=(None, *spec.shape[1:])) if spec.name in sampled else spec
        for spec in inputs
    ]
    # arrays that are not read have to look like arrays
    shapes = {
        name: np.broadcast_to(np.zeros((), array.dtype), array.shape)
        for name, array in found.items()
    }
    check_feeds(specs, shapes)
    counts = {name: int(found[name].shape[0]) for name in sampled}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise UsageError(f"the inputs differ in their number of samples ({each})")
    if 0 in counts.values():
        raise UsageError("the data set holds no sample; give at least one")
