"""What a model takes: descriptions of tensors, checks of arrays, random arrays."""

from __future__ import annotations

import difflib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxjvp.errors import InputError, UsageError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: a dimension is a size, a symbol, or None where nothing is known."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        dims = ", ".join("?" if dim is None else str(dim) for dim in self.shape)
        return f"{self.name}: {self.dtype}[{dims}]"


def check_feeds(
    inputs: Sequence[TensorSpec], feeds: Mapping[str, Array], role: str = "input"
) -> None:
    """Raises InputError, listing every problem, if the arrays do not fit the inputs.

    Args:
      role: what the arrays are to the model, for the message.
    """
    known = [spec.name for spec in inputs]
    problems = [no_such(role, name, known) for name in feeds if name not in known]
    sizes: dict[str, tuple[int, str]] = {}
    for spec in inputs:
        if spec.name in feeds:
            problems += _misfits(spec, feeds[spec.name], sizes)
        else:
            problems.append(f"{role} {spec} is missing")
    if problems:
        raise InputError(f"The arrays do not fit the model's {role}s: {'; '.join(problems)}.")


def _misfits(spec: TensorSpec, value: Array, sizes: dict[str, tuple[int, str]]) -> Iterable[str]:
    """Problems of one array; `sizes` maps each symbol to its size and the input that set it."""
    if not isinstance(value, np.ndarray):
        return [f"{spec.name} is a {type(value).__name__}, not a NumPy array"]
    problems = []
    if value.dtype != spec.dtype and spec.dtype.kind != "O":
        problems.append(f"{spec.name} is {value.dtype}, the model takes {spec.dtype}")
    if value.ndim != len(spec.shape):
        return [*problems, f"{spec.name} has shape {value.shape}, the model takes {spec}"]
    for axis, (size, dim) in enumerate(zip(value.shape, spec.shape, strict=True)):
        if isinstance(dim, int) and size != dim:
            problems.append(f"{spec.name} has size {size} on axis {axis}, the model takes {dim}")
        elif isinstance(dim, str):
            first, owner = sizes.setdefault(dim, (size, spec.name))
            if size != first:
                problems.append(
                    f"{spec.name} has size {size} on axis {axis}, but {dim} is {first} in {owner}"
                )
    return problems


def random_feeds(
    inputs: Sequence[TensorSpec],
    seed: int,
    dims: Mapping[str, int] | None = None,
    *,
    default: int = 8,
) -> dict[str, Array]:
    """Reproducible random inputs: standard normal floats, integers 0 and 1, booleans.

    Args:
      inputs: the inputs to draw, such as `Session.inputs`.
      seed: equal seeds give equal arrays; each input has its own stream.
      dims: sizes of symbolic dimensions, or of "INPUT:AXIS" where a dimension has no name.
        Those not given are 2 on a first axis, else `default`.
      default: size of other dynamic axes.
    Raises:
      UsageError: `dims` names a dimension that no input has, or an input holds strings.
    """
    sizes = dict(dims or {})
    symbols = [dim for spec in inputs for dim in spec.shape if isinstance(dim, str)]
    symbols += [
        f"{spec.name}:{axis}"
        for spec in inputs
        for axis, dim in enumerate(spec.shape)
        if dim is None
    ]
    if unknown := [name for name in sizes if name not in symbols]:
        raise UsageError("; ".join(no_such("dimension", name, symbols) for name in unknown))

    def size(name: str, dim: int | str | None, axis: int) -> int:
        if isinstance(dim, int):
            return dim
        guess = 2 if axis == 0 else default
        return sizes.setdefault(f"{name}:{axis}" if dim is None else dim, guess)

    feeds = {}
    for spec in inputs:
        shape = tuple(size(spec.name, dim, axis) for axis, dim in enumerate(spec.shape))
        feeds[spec.name] = _draw(spec, shape, seed)
    return feeds


def _draw(spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    try:
        if spec.dtype.kind == "f":
            return np.asarray(rng.standard_normal(shape)).astype(spec.dtype)
        if spec.dtype.kind in "iub":
            return np.asarray(rng.integers(0, 2, shape)).astype(spec.dtype)
    except ValueError as error:  # more axes or elements than NumPy has
        raise UsageError(f"Input {spec.name} cannot be drawn at random: {error}.") from error
    raise UsageError(f"Input {spec} cannot be drawn at random: give an array for it.")


def no_such(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(known) or 'none'}"
    return f"the model has no {what} {name!r}; {hint}"
