"""The record of a sweep, beside what it writes: of what it is, and which blocks are finished."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxjvp._version import __version__
from onnxjvp.errors import UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.kernels.grid import Pair
from onnxjvp.rewrite import Rewritten

_PIECE = 1 << 24


class Manifest:
    """A file of JSON lines: the first says of what the sweep is, each other one [i, j, crc].

    A line is written after its block, in one call; one that a kill has cut short is dropped. While
    it is open no other process can open it.

    Raises:
      UsageError: it is open elsewhere, or was not written by this class.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _as_usage_error(path):
            self._file = path.open("r+b")
        try:
            _lock(self._file.fileno(), path)
            lines = self._file.read().split(b"\n")
            end = sum(len(line) + 1 for line in lines[:-1])
            self._file.truncate(end)
            self._file.seek(end)
            self.header, self.done = _parsed(path, lines[:-1])
        except BaseException:
            self._file.close()
            raise

    @classmethod
    def begin(cls, path: Path, header: Mapping[str, Any]) -> Manifest:
        """A new one, in the place of any other."""
        temporary = path.with_name(f".{path.name}.new")
        with _as_usage_error(path):
            temporary.write_text(json.dumps(header) + "\n")
            temporary.replace(path)
        return cls(path)

    def mark(self, pair: Pair, check: int) -> None:
        """A block is where it belongs."""
        with _as_usage_error(self.path):
            self._file.write(json.dumps([*pair, check]).encode() + b"\n")
            self._file.flush()
        self.done[pair] = check

    def close(self) -> None:
        with _as_usage_error(self.path):  # what a full disk has not taken yet
            self._file.close()

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _parsed(path: Path, lines: list[bytes]) -> tuple[dict[str, Any], dict[Pair, int]]:
    try:
        header, *blocks = (json.loads(line) for line in lines)
        done = {(i, j): check for i, j, check in blocks}
        if header.get("what") == WHAT:
            return header, done
    except (ValueError, TypeError, AttributeError):
        pass
    raise UsageError(f"{str(path)!r} is no record of a sweep; move it away, or pass --force")


class _as_usage_error:  # noqa: N801 - reads as a function
    """Turns what the file system refuses into an error of ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise UsageError(
                f"{str(self._path)!r} cannot be written: {error.strerror or error}. Choose another "
                "place with --out"
            ) from error


def _lock(file: int, path: Path) -> None:
    """Until the file is closed, or the process is gone."""
    if sys.platform == "win32":
        return
    import fcntl  # noqa: PLC0415 - not on every system

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(
            f"another process computes what {str(path)!r} records; wait for it, or end it"
        ) from error


# -- what has to be the same -------------------------------------------------------------------

WHAT = "onnxjvp ntk sweep, 1"


def versions() -> dict[str, str]:
    """Of all that the numbers depend on."""
    found = {"onnxjvp": __version__, "numpy": np.__version__, "onnx": onnx.__version__}
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            found["onnxruntime"] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def differences(begun: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What two headers disagree on, each with both values."""
    old, new = dict(_flat("", begun)), dict(_flat("", wanted))
    return [
        f"{key} was {_shown(old.get(key))} and is {_shown(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key)
    ]


def _flat(prefix: str, content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(f"{prefix}{key} ", value)
        else:
            yield prefix + key, value


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def model_digest(model: AnyModel | Rewritten) -> str:
    """SHA-256 of a model: its file and the files with its weights, or its bytes."""
    found = hashlib.sha256()
    if isinstance(model, Rewritten):
        model = model.model
    if isinstance(model, str | os.PathLike):
        path = Path(model)
        _add_file(found, path)
        proto = onnx.load(path, load_external_data=False)
        for name in sorted(_external(proto)):
            _add_file(found, path.parent / name)
        return found.hexdigest()
    if isinstance(model, ir.Model):
        for name, value in model.graph.initializers.items():
            if isinstance(value.const_value, ir.ExternalTensor):
                found.update(name.encode() + value.const_value.tobytes())
        model = ir.to_proto(model)
    content = model if isinstance(model, bytes) else model.SerializeToString(deterministic=True)
    found.update(content)
    return found.hexdigest()


def _external(proto: onnx.ModelProto) -> set[str]:
    """Files that tensors are kept in."""
    tensors = onnx.external_data_helper._get_all_tensors(proto)
    return {
        entry.value
        for tensor in tensors
        if onnx.external_data_helper.uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }


def _add_file(found: Any, path: Path) -> None:
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                found.update(piece)
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
