"""Files as they are: what a runtime needs to know of one, without the packages that read graphs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import google.protobuf.message
import onnx

from onnxjvp.errors import InvalidModelError, LimitError, UsageError
from onnxjvp.graph import limits, prescan


def shown(model: object) -> str:
    """A model's name in messages."""
    return f"{os.fspath(model)!r}" if isinstance(model, str | os.PathLike) else "the model given"


def parse(model: str | os.PathLike[str] | bytes) -> onnx.ModelProto:
    """The message in a file, or in its bytes.

    Raises:
      UsageError: no such file. InvalidModelError: it is no ONNX.
    """
    if isinstance(model, bytes):
        content = model
    else:
        path = Path(model)
        if not is_file(path):
            raise UsageError(
                f"{os.fspath(model)!r} {what_is(path)}; give the path of an .onnx file"
            )
        try:
            content = _content(path)
        except OSError as error:
            raise UsageError(f"{os.fspath(model)!r} cannot be read: {error.strerror}") from error
    prescan.check(content, shown(model))
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except google.protobuf.message.DecodeError as error:
        raise InvalidModelError(
            f"{shown(model)} is not an ONNX file, or is truncated ({len(content)} bytes): "
            f"{error}. Give the .onnx file that an exporter wrote"
        ) from error
    return proto


def is_file(path: Path) -> bool:
    """Whether it is an ordinary file: no folder, pipe or device. No name is an error."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or has a zero in it
        return False


def what_is(path: Path) -> str:
    """What is there in place of a file."""
    try:
        if path.is_dir():
            return "is a folder"
        return "is no ordinary file" if path.exists() else "does not exist"
    except (OSError, ValueError):
        return "is no name that a file can have"


def _content(path: Path) -> bytes:
    most = limits.current().file_bytes
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise limits.beyond("file_bytes", size, f"the bytes of {str(path)!r}")
        # the bytes, the message, and what is made of it
        limits.check_memory(3 * size, f"reading {str(path)!r}")
        return file.read(size)


def refuse_data_outside(path: str | os.PathLike[str]) -> None:
    """Raise InvalidModelError for a file that is beyond a limit, or whose data leaves its folder.

    For files that go to a runtime as they are. Links are the runtime's to judge.
    """
    try:
        proto = parse(path)
    except LimitError:
        raise
    except InvalidModelError:
        return  # not a protobuf: another format of the runtime's, or an error that it reports
    limits.check(proto, shown(path))
    folder = Path(path).resolve().parent
    for tensor in (*_tensors(proto.graph.node), *_held(proto.graph)):
        for entry in tensor.external_data:
            if entry.key == "location":
                inside(tensor.name, folder, entry.value)
    for function in proto.functions:
        for tensor in _tensors(function.node):
            if tensor.external_data:
                raise InvalidModelError(
                    f"function {function.name!r} has a constant in an external file, which is "
                    "refused. Inline the model's functions first (onnx.inliner)"
                )


def _held(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor that nodes have among their attributes, in bodies as well."""
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _held(graph)
                yield from _tensors(graph.node)


def inside(name: str, folder: Path, location: str) -> Path:
    """The path of external data, which must not leave the folder of the model."""
    path = Path(os.path.normpath(folder / location))
    if "\0" in location:
        raise InvalidModelError(
            f"tensor {name!r} keeps its data in {location!r}, which is no name that a file can "
            "have. Export the model again"
        )
    if not path.is_relative_to(folder):
        raise InvalidModelError(
            f"tensor {name!r} keeps its data in {location!r}, outside the model's folder; that is "
            "refused. Put the data file beside the model"
        )
    return path


def is_placeholder(name: str | None) -> bool:
    """Whether a dimension's name is some exporter's word for "unknown": two need not be equal."""
    return not name or not re.search(r"[^\W\d]", name) or name in ("None", "unk", "unknown")
