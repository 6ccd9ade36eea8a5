"""Files as they are: what a runtime needs to know of one, without the packages that read graphs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import google.protobuf.message
import onnx

from onnxjvp.errors import InvalidModelError, UsageError


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
        if not path.is_file():
            kind = "is a folder" if path.is_dir() else "does not exist"
            raise UsageError(f"{os.fspath(model)!r} {kind}; give the path of an .onnx file")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{os.fspath(model)!r} cannot be read: {error.strerror}") from error
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except google.protobuf.message.DecodeError as error:
        raise InvalidModelError(
            f"{shown(model)} is not an ONNX file, or is truncated ({len(content)} bytes): "
            f"{error}. Give the .onnx file that an exporter wrote"
        ) from error
    return proto


def refuse_data_outside(path: str | os.PathLike[str]) -> None:
    """Raise InvalidModelError for a file whose external data leaves its folder.

    For files that go to a runtime as they are. Links are the runtime's to judge.
    """
    try:
        proto = parse(path)
    except InvalidModelError:
        return  # not a protobuf: another format of the runtime's, or an error that it reports
    folder = Path(path).resolve().parent
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                inside(tensor.name, folder, entry.value)


def inside(name: str, folder: Path, location: str) -> Path:
    """The path of external data, which must not leave the folder of the model."""
    path = Path(os.path.normpath(folder / location))
    if not path.is_relative_to(folder):
        raise InvalidModelError(
            f"tensor {name!r} keeps its data in {location!r}, outside the model's folder; that is "
            "refused. Put the data file beside the model"
        )
    return path


def is_placeholder(name: str | None) -> bool:
    """Whether a dimension's name is some exporter's word for "unknown": two need not be equal."""
    return not name or not re.search(r"[^\W\d]", name) or name in ("None", "unk", "unknown")
