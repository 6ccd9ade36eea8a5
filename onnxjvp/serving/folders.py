"""Folders written whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from onnxjvp.errors import UsageError

#: path inside a folder → its text, or the file that it is a copy of
Files = Mapping[str, str | Path]


def write_folders(made: Mapping[Path, Files], *, force: bool) -> None:
    """Write folders: all are there with all of their files, or everything is as before.

    Args:
      force: replace folders that exist, with all that is in them.
    Raises:
      UsageError: a folder exists and `force` is false, or a place cannot be written.
    """
    refuse_existing(made, force=force)
    with contextlib.ExitStack() as undo:
        try:
            staged = {folder: _staged(folder, files, undo) for folder, files in made.items()}
            for folder, place in staged.items():
                if folder.exists():
                    folder.replace(place / "old")
                    undo.callback(_put_back, place / "old", folder)
                (place / "new").replace(folder)
                undo.callback(folder.replace, place / "undone")
        except OSError as error:
            where = error.filename or next(iter(made))
            raise UsageError(
                f"{str(where)!r} cannot be written: {error.strerror or error}. Choose another place"
            ) from error
        # what was replaced goes with the temporary folders; nothing is undone
        kept = undo.pop_all()
        for place in staged.values():
            shutil.rmtree(place, ignore_errors=True)
        del kept


def _staged(folder: Path, files: Files, undo: contextlib.ExitStack) -> Path:
    """A temporary folder beside the new one, which holds it as `new`."""
    for missing in reversed([p for p in (folder.parent, *folder.parents) if not p.exists()]):
        missing.mkdir(exist_ok=True)
        undo.callback(_remove_empty, missing)
    place = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    undo.callback(shutil.rmtree, place, ignore_errors=True)
    for name, content in files.items():
        path = place / "new" / PurePosixPath(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, path)
        else:
            path.write_text(content, encoding="utf-8")
    return place


def _put_back(old: Path, folder: Path) -> None:
    old.replace(folder)


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def refuse_existing(folders: Mapping[Path, object] | list[Path], *, force: bool) -> None:
    """Before any work: UsageError for what must not be replaced."""
    for folder in folders:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{str(folder)!r} is no folder; choose another place or name")
        if folder.exists() and not force:
            raise UsageError(
                f"{str(folder)!r} exists; pass --force to replace it and all in it, or another "
                "--name"
            )
