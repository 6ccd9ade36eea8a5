"""A model written into the repositories that servers load."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnxjvp.errors import UsageError
from onnxjvp.serving import openinference, triton
from onnxjvp.serving.folders import Files, refuse_existing, write_folders
from onnxjvp.serving.interface import Interface, interface, named, parts
from onnxjvp.serving.limits import Limits


@dataclass(frozen=True)
class Packaged:
    """What was written."""

    name: str
    interface: Interface
    #: server → the model's folder in its repository
    folders: Mapping[str, Path]
    #: Triton's max_batch_size; None where nothing was written for it
    max_batch: int | None


def package(
    model: Path,
    *,
    triton_repository: Path | None = None,
    mlserver_repository: Path | None = None,
    name: str | None = None,
    version: int = 1,
    options: triton.Options | None = None,
    limits: Limits | None = None,
    force: bool = False,
    links: Path | None = None,
) -> Packaged:
    """Write a model, rewritten or not, into one or two repositories, all of it or nothing.

    Args:
      model: an .onnx file; it is copied with its external data, byte for byte.
      triton_repository, mlserver_repository: folders; made if they do not exist.
      name: of the model on the server, and of its folder; None means the file's.
      version: a number from 1.
      options: how Triton runs it. limits: what MLServer allows a request.
      force: replace the model's folder if there is one.
      links: a folder inside which links to external data may lead.
    Raises:
      UsageError: nothing to write, a name that cannot be served, a folder that exists, a limit of
        a dimension that no input has.
      InvalidModelError: no valid model, or one that cannot be served.
    """
    chosen = named(name, model)
    roots = {"triton": triton_repository, "mlserver": mlserver_repository}
    folders = {server: root / chosen for server, root in roots.items() if root is not None}
    if not folders:
        raise UsageError("nothing is written; give --triton DIR, --mlserver DIR or both")
    if len({folder.resolve() for folder in folders.values()}) < len(folders):
        raise UsageError("--triton and --mlserver are the same folder; give two")
    refuse_existing(list(folders.values()), force=force)
    options, limits = options or triton.Options(), limits or Limits()
    ends = interface(model, links=links)
    _check_dims(limits, ends)
    pieces = parts(model)
    made: dict[Path, Files] = {}
    if "triton" in folders:
        made[folders["triton"]] = triton.files(chosen, ends, pieces, version, options)
    if "mlserver" in folders:
        made[folders["mlserver"]] = openinference.files(chosen, ends, pieces, version, limits)
    write_folders(made, force=force)
    if mlserver_repository is not None:
        _write_settings(mlserver_repository / "settings.json")
    batch = triton.batch_of(ends, options) if "triton" in folders else None
    return Packaged(chosen, ends, folders, batch)


def _check_dims(limits: Limits, model: Interface) -> None:
    known = sorted({d for tensor in model.inputs for d in tensor.shape if isinstance(d, str)})
    if unknown := sorted(limits.dims.keys() - set(known)):
        raise UsageError(
            f"--max-dim names {unknown[0]!r}; the dimensions of the inputs that have a name are "
            f"{', '.join(map(repr, known)) or 'none'}"
        )


def _write_settings(path: Path) -> None:
    """Settings of the server, where the repository has none; those of its owner stay."""
    if path.exists():
        return
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder) / path.name
        temporary.write_text(openinference.server_settings(), encoding="utf-8")
        temporary.replace(path)
