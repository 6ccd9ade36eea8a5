"""Write a model: all of it or nothing, weights by reference where that is possible."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph.wire import stream

#: a protobuf file can't be larger than 2 GiB; beyond this the weights go into a file of their own
INLINE_LIMIT = 1_900_000_000
#: tensors smaller than this stay in the model file
EXTERNAL_FROM = 1024


def save(model: ir.Model, path: str | os.PathLike[str], *, force: bool = True) -> Path:
    """Write `model` to `path`, through temporary files that are renamed once complete.

    A process that is killed, or a disk that is full, leaves what was there, or where there is a
    data file, at the very end, nothing; and at most a hidden folder `.<name>.…` beside it.
    Weights that lie in external files of the same folder are referred to, not copied; those of
    another folder, and models over 2 GiB, get a data file `<name>.data` beside the model.

    Raises:
      UsageError: the file exists and `force` is false, or the place cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; give a file name ending in .onnx")
    if path.exists() and not force:
        raise UsageError(f"{str(path)!r} exists; pass --force to replace it, or -o another name")
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            _write(model, Path(folder) / path.name, path, force)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{str(path)!r} cannot be written: {reason}. Choose another place with -o"
        ) from error
    return path


def _write(model: ir.Model, temporary: Path, final: Path, force: bool) -> None:
    tensors = [
        v.const_value
        for graph in model.graphs()
        for v in graph.initializers.values()
        if v.const_value is not None
    ]
    foreign = [
        t for t in tensors if isinstance(t, ir.ExternalTensor) and not _lies_beside(t, final)
    ]
    inline = sum(t.nbytes for t in tensors if not isinstance(t, ir.ExternalTensor))
    if not foreign and inline <= INLINE_LIMIT:
        with temporary.open("wb") as file:
            stream(model, file)
    else:
        data = f"{final.name}.data"
        if (final.parent / data).exists() and not force:
            raise UsageError(
                f"the weights would go to {str(final.parent / data)!r}, which exists; pass --force "
                "to replace it, or -o another name"
            )
        ir.save(model, temporary, external_data=data, size_threshold_bytes=EXTERNAL_FROM)
        # two files cannot be renamed at once: an old model must not be left with new weights
        final.unlink(missing_ok=True)
        (temporary.parent / data).replace(final.parent / data)
    temporary.replace(final)


def _lies_beside(tensor: ir.ExternalTensor, final: Path) -> bool:
    """Whether the relative location means the same file from the new model's folder."""
    base = tensor.base_dir
    return bool(base) and Path(base).resolve() == final.parent.resolve()
