"""Arguments that name files, arrays and sizes."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.rewrite import Rewritten
    from onnxjvp.runtime import Array, TensorSpec


def check_output(path: Path, *, force: bool) -> None:
    """Refuse, before any work, an output that could not be written after it."""
    if path.is_dir():
        raise UsageError(f"{str(path)!r} is a folder; give the name of a file with -o")
    if not path.parent.is_dir():
        raise UsageError(
            f"{str(path)!r} cannot be written: there is no folder {str(path.parent)!r}. Create it, "
            "or choose another place with -o"
        )
    if path.exists() and not force:
        raise UsageError(f"{str(path)!r} exists; pass --force to replace it, or -o another name")


def save_together(made: Mapping[Path, Rewritten], *, force: bool) -> list[Path]:
    """Write models to files: all of them, or everything stays as it is."""
    files = [file for path in made for file in (path, path.with_name(f"{path.name}.data"))]
    replaced = {file: file.with_name(f".{file.name}.old") for file in files if file.exists()}
    if replaced and not force:
        raise UsageError(f"{str(next(iter(replaced)))!r} exists; pass --force to replace it")
    done = False
    try:
        for file, old in replaced.items():
            file.replace(old)
        for path, rewritten in made.items():
            rewritten.save(path, force=False)
        done = True
    finally:
        if not done:
            for file in files:
                if file not in replaced or replaced[file].exists():
                    file.unlink(missing_ok=True)
        for file, old in replaced.items():
            if old.exists():
                old.unlink() if file.exists() else old.replace(file)
    return list(made)


def sizes(options: Sequence[str]) -> dict[str, int]:
    """Read --dim NAME=SIZE."""
    found: dict[str, int] = {}
    for option in options:
        name, _, size = option.partition("=")
        if not (name and size.isdecimal()):
            raise UsageError(
                f"--dim {option!r} is not NAME=SIZE, with a size of 0 or more; for example "
                "--dim batch=4"
            )
        if name in found:
            raise UsageError(f"--dim names {name!r} twice; give each dimension one size")
        found[name] = int(size)
    return found


def read_npz(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file, by name."""
    arrays = _read(path)
    if not isinstance(arrays, dict):
        raise UsageError(
            f"{str(path)!r} holds one array without a name; save it with numpy.savez, or pass "
            f"--input NAME={path}"
        )
    return arrays


def _read(path: Path) -> Array | dict[str, Array]:
    import numpy as np

    from onnxjvp.graph.files import is_file, what_is

    if not is_file(path):
        raise UsageError(
            f"{str(path)!r} {what_is(path)}; give an .npy or .npz file, or random:SEED"
        )
    _check_size(path)
    try:
        found = np.load(path, allow_pickle=False)
        if not isinstance(found, np.lib.npyio.NpzFile):
            return np.asarray(found)
        with found:
            return {name: found[name] for name in found.files}
    except (*_DAMAGED, zipfile.BadZipFile) as error:
        raise UsageError(
            f"{str(path)!r} cannot be read as an .npy or .npz file of plain numbers: {error}. "
            "Write it with numpy.save or numpy.savez"
        ) from error


#: what NumPy and zipfile raise for files that are not what they say
_DAMAGED = (OSError, ValueError, EOFError, TypeError, KeyError, NotImplementedError, zlib.error)
#: what compressed arrays may grow to, as a multiple of the file, before anything says how large
#: they may be
_GROWTH, _SMALL = 200, 1 << 30


def _check_size(path: Path) -> None:
    """Refuse an archive that says it is much larger inside than outside, before it is unpacked."""
    from onnxjvp.graph import limits

    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            inside = sum(entry.file_size for entry in archive.infolist())
    except (*_DAMAGED, zipfile.BadZipFile):
        return  # reading it says what is wrong
    limits.check_memory(inside, f"what {str(path)!r} unpacks to")
    if inside > max(_SMALL, _GROWTH * path.stat().st_size):
        raise UsageError(
            f"{str(path)!r} would unpack to {inside >> 20:,} MB, which is no file of arrays but a "
            "trap. If you trust it, unpack it, and write it with numpy.savez"
        )


def read_arrays(option: str, texts: Sequence[str]) -> dict[str, Array]:
    """Read an option NAME=FILE.npy or NAME=FILE.npz that may be given several times."""
    arrays: dict[str, Array] = {}
    for text in texts:
        name, _, file = text.partition("=")
        if not (name and file):
            raise UsageError(f"{option} {text!r} is not NAME=FILE.npy or NAME=FILE.npz")
        if name in arrays:
            raise UsageError(f"{option} names {name!r} twice; give each once")
        arrays[name] = _array_for(name, Path(file))
    return arrays


def read_inputs(
    specs: Sequence[TensorSpec],
    options: Sequence[str],
    bundle: Path | None,
    dims: Mapping[str, int],
) -> dict[str, Array]:
    """Arrays for a model's inputs from --inputs, --input (which goes first) and --dim."""
    feeds = {} if bundle is None else read_npz(bundle)
    seeds, files = given_inputs(options)
    for name in (*seeds, *files):
        feeds.pop(name, None)
    feeds |= {name: _array_for(name, path) for name, path in files.items()}
    if dims and not seeds:
        raise UsageError(
            "--dim gives the sizes of inputs that are drawn, and none is; pass --input "
            "NAME=random:SEED, or leave --dim out"
        )
    _check_names(specs, {*feeds, *seeds})
    return feeds | drawn(specs, feeds, seeds, dims)


def given_inputs(options: Sequence[str]) -> tuple[dict[str, int], dict[str, Path]]:
    """Read --input: the seeds of inputs that are drawn, and the files of the others."""
    seeds: dict[str, int] = {}
    files: dict[str, Path] = {}
    for option in options:
        name, _, value = option.partition("=")
        if not (name and value):
            raise UsageError(
                f"--input {option!r} is not NAME=FILE.npy, NAME=FILE.npz or NAME=random:SEED"
            )
        if name in seeds or name in files:
            raise UsageError(f"--input names {name!r} twice; give each input once")
        if value.startswith("random:"):
            seeds[name] = _seed(option, value.removeprefix("random:"))
        else:
            files[name] = Path(value)
    return seeds, files


def _seed(option: str, text: str) -> int:
    if not text.isdecimal():
        raise UsageError(
            f"--input {option!r}: {text!r} is not a seed; give a number of 0 or more, such as "
            "random:0"
        )
    return int(text)


def _array_for(name: str, path: Path) -> Array:
    """The array of an .npy file; of an .npz file the one of that name, or its only one."""
    found = _read(path)
    if not isinstance(found, dict):
        return found
    if name not in found and len(found) != 1:
        held = ", ".join(map(repr, found)) or "no array"
        raise UsageError(f"{str(path)!r} holds no array {name!r} but {held}; rename the array")
    return found[name] if name in found else next(iter(found.values()))


def check_known(specs: Sequence[TensorSpec], given: Iterable[str]) -> None:
    """Refuse names that are no inputs."""
    known = [spec.name for spec in specs]
    if unknown := sorted(set(given) - set(known)):
        raise UsageError(
            f"the model has no input {', '.join(map(repr, unknown))}; it takes "
            f"{', '.join(map(str, specs)) or 'none'}"
        )


def _check_names(specs: Sequence[TensorSpec], given: set[str]) -> None:
    check_known(specs, given)
    missing = [spec for spec in specs if spec.name not in given]
    if missing:
        options = " ".join(f"--input {spec.name}=random:0" for spec in missing)
        raise UsageError(
            f"the model's inputs {', '.join(map(str, missing))} are missing; give arrays with "
            f"--input NAME=FILE.npy or --inputs FILE.npz, or draw them: {options}"
        )


def drawn(
    specs: Sequence[TensorSpec],
    feeds: Mapping[str, Array],
    seeds: Mapping[str, int],
    dims: Mapping[str, int],
) -> dict[str, Array]:
    """Random arrays, in sizes that suit the arrays given."""
    from onnxjvp.runtime import random_feeds

    drawable = [spec for spec in specs if spec.dtype.kind in "fiub" or spec.name in seeds]
    symbols = {dim for spec in drawable for dim in spec.shape if isinstance(dim, str)}
    settled = {
        dim: size
        for spec in specs
        if spec.name in feeds and feeds[spec.name].ndim == len(spec.shape)
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str) and dim in symbols
    }
    return {
        name: random_feeds(drawable, seed, settled | dict(dims))[name]
        for name, seed in seeds.items()
    }


def write_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays under any names, all of them or nothing."""
    import numpy as np

    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder) / "arrays.npz"
            with zipfile.ZipFile(temporary, "w") as archive:  # savez has names of its own
                for name, array in arrays.items():
                    plain = array.astype(str) if array.dtype.kind == "O" else array
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array(file, plain, allow_pickle=False)
            temporary.replace(path)
    except OSError as error:
        raise UsageError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. Choose another place "
            "with -o"
        ) from error
