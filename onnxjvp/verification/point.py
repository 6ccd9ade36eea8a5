"""Where a model is verified: its inputs, and directions drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxjvp.runtime import TensorSpec, check_feeds, random_feeds
from onnxjvp.verification.report import Array

Values = dict[str, Array]

#: J(a u + b w) is compared with a J u + b J w; a is negative, to tell u from |u|
MIX = (-1.75, 0.625)
#: with a + b = 1 directions that are in the file stay what they are
AFFINE_MIX = (-1.75, 2.75)


def draw_inputs(
    specs: Sequence[TensorSpec], given: Mapping[str, Array], seed: int, sizes: Mapping[str, int]
) -> Values:
    """Inputs of the original: what is given, and what is not at random.

    Raises:
      UsageError: a name in `sizes` is no dimension. InputError: what is given does not fit.
    """
    feeds = random_feeds(specs, seed, known_sizes(specs, given) | dict(sizes)) | dict(given)
    check_feeds(specs, feeds)
    return feeds


def known_sizes(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> dict[str, int]:
    """Sizes that arrays settle for symbolic dimensions."""
    return {
        dim: size
        for spec in specs
        if spec.name in given and np.ndim(given[spec.name]) == len(spec.shape)
        for dim, size in zip(spec.shape, np.shape(given[spec.name]), strict=True)
        if isinstance(dim, str)
    }


def draw(specs: Mapping[str, TensorSpec], seed: int, sizes: Mapping[str, int]) -> Values:
    """A standard normal array per name, for the input that stands beside it."""
    symbols = {dim for spec in specs.values() for dim in spec.shape}
    wanted = {dim: size for dim, size in sizes.items() if dim in symbols}
    drawn = random_feeds(list(specs.values()), seed, wanted)
    return {name: drawn[spec.name] for name, spec in specs.items()}


def as_long_as(at: Array | None, drawn: Array) -> Array:
    """As long as the point where that is not zero, and exact in the dtype drawn."""
    numbers = np.ones(1) if at is None else at[np.isfinite(at)]
    length = float(np.sqrt(np.mean(np.square(numbers)))) if numbers.size else 0.0
    return (drawn * (length or 1.0)).astype(drawn.dtype).astype(np.float64)


def mixed(u: Mapping[str, Array], w: Mapping[str, Array], by: tuple[float, float]) -> Values:
    return {name: by[0] * u[name] + by[1] * w[name] for name in u}
