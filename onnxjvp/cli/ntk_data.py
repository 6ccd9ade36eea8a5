"""The samples that `onnxjvp ntk` is given."""

# ruff: noqa: PLC0415  (NumPy is imported where it is used, so that --help is fast)
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxjvp.cli import output
from onnxjvp.cli.files import check_known, drawn, given_inputs, sizes
from onnxjvp.cli.points import input_specs
from onnxjvp.errors import UsageError

if TYPE_CHECKING:
    from onnxjvp.kernels.dataset import Samples


@dataclass(frozen=True)
class Data:
    """Where samples are, and the sizes that they give the model's symbolic dimensions."""

    rows: Samples
    #: None: those of the rows
    columns: Samples | None
    sizes: Mapping[str, int]


def read(
    model: Path,
    data: Path | None,
    other: Path | None,
    options: Sequence[str] | None,
    dim: Sequence[str] | None,
    provider: str,
    links: Path | None,
) -> Data:
    """What the options name, mapped and not read; inputs that are drawn are in memory."""
    from onnxjvp.kernels.dataset import Samples, mapped

    seeds, files = given_inputs(options or ())
    if dim and not seeds:
        raise UsageError(
            "--dim gives the sizes of inputs that are drawn, and none is; pass --input "
            "NAME=random:SEED, or leave --dim out"
        )
    with output.busy(f"loading {model}"):
        specs = input_specs(model, [provider], links)
    check_known(specs, (*seeds, *files))
    found = {name: _only(name, mapped(path)) for name, path in files.items()}
    feeds = {name: array for name, array in found.items() if array is not None}
    if data is not None:
        content = mapped(data)
        left = [spec.name for spec in specs if spec.name not in (*seeds, *files)]
        if isinstance(content, dict):
            feeds |= {name: array for name, array in content.items() if name not in feeds}
        elif len(left) == 1:
            feeds[left[0]] = content
        elif not left:
            raise UsageError(
                f"{str(data)!r} holds samples, and --input gives all inputs already; leave one of "
                "the two out"
            )
    arrays = drawn(specs, feeds, seeds, sizes(dim or ()))
    return Data(
        Samples(data, {**files, **arrays}),
        None if other is None else Samples(other),
        _sizes(model, specs, {**feeds, **arrays}, links),
    )


def check_not_read(
    written: Sequence[Path | None], read_too: Sequence[Path | None], options: Sequence[str]
) -> None:
    """Refuse, before any work, to write over what is read, or twice to one place."""
    places = [path.resolve() for path in written if path is not None]
    inputs = [*read_too, *given_inputs(options)[1].values()]
    for path in inputs:
        if path is not None and path.resolve() in places:
            raise UsageError(
                f"{str(path)!r} is read, and would be replaced by what is written; give another "
                "name for the output"
            )
    if len(set(places)) < len(places):
        raise UsageError("two outputs have the same name; give each its own")


def _only(name: str, found: Any) -> Any:
    """The array for an input; None where the file is refused later."""
    if not isinstance(found, dict):
        return found
    return found.get(name, next(iter(found.values())) if len(found) == 1 else None)


def _sizes(
    model: Path, specs: Sequence[Any], arrays: Mapping[str, Any], links: Path | None
) -> dict[str, int]:
    """Of the model's symbols; arrays that do not fit are refused later."""
    if not any(isinstance(dim, str) for spec in specs for dim in spec.shape[1:]):
        return {}
    from onnxjvp.kernels.problem import sizes_of

    ranks = {spec.name: len(spec.shape) for spec in specs}
    fitting = {name: a for name, a in arrays.items() if ranks.get(name) == len(a.shape)}
    return sizes_of(model, fitting, links=links)
