"""Where a model is verified: its inputs, and the directions that its seeds take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.runtime import TensorSpec, check_feeds, random_feeds
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.report import Array

Values = dict[str, Array]

#: J(a u + b w) is compared with a J u + b J w; a is negative, to tell u from |u|
MIX = (-1.75, 0.625)


@dataclass(frozen=True)
class Point:
    """Inputs x, and for each wrt name the directions u, w and a u + b w."""

    feeds: Values
    #: values at the point of the wrt tensors; one that is computed inside the model has none
    at: Values
    #: "u", "w" or "mix" → wrt name → array. w is x itself where that is known.
    directions: dict[str, Values]

    @property
    def w_is_x(self) -> bool:
        return len(self.at) == len(self.directions["w"])

    def seeded(self, contract: Contract, direction: str, dtypes: Mapping[str, Any]) -> Values:
        """Feeds of the rewritten model, with a direction in its seeds."""
        seeds = {
            contract.seeds[name]: array.astype(dtypes[contract.seeds[name]])
            for name, array in self.directions[direction].items()
        }
        return self.feeds | seeds


def choose_point(
    contract: Contract,
    specs: Sequence[TensorSpec],
    original: ir.Model,
    given: Mapping[str, Array],
    seed: int,
    dims: Mapping[str, int] | None,
) -> Point:
    """Draw what is not given.

    Args:
      specs: the rewritten model's inputs, seeds among them.
    """
    known = _sizes(specs, given) | dict(dims or {})
    seeds = set(contract.seeds.values())
    plain = [spec for spec in specs if spec.name not in seeds]
    feeds = random_feeds(plain, seed, known) | dict(given)
    check_feeds(plain, feeds)
    at = {}
    for name in contract.seeds:
        initializer = original.graph.initializers.get(name)
        if name in feeds:
            at[name] = feeds[name].astype(np.float64)
        elif initializer is not None and initializer.const_value is not None:
            at[name] = initializer.const_value.numpy().astype(np.float64)
    by_name = {spec.name: spec for spec in specs}
    shaped = {
        name: replace(by_name[seed_name], shape=at[name].shape)
        if name in at
        else by_name[seed_name]
        for name, seed_name in contract.seeds.items()
    }
    symbols = {dim for spec in shaped.values() for dim in spec.shape}
    sizes = {dim: size for dim, size in _sizes(plain, feeds).items() if dim in symbols}
    first, second = (random_feeds(list(shaped.values()), n, sizes) for n in (seed, seed + 1))
    u, w = {}, {}
    for name, spec in shaped.items():
        u[name] = _direction(first[spec.name], at.get(name))
        w[name] = at.get(name, second[spec.name].astype(np.float64))
    mix = {name: MIX[0] * u[name] + MIX[1] * w[name] for name in u}
    return Point(feeds, at, {"u": u, "w": w, "mix": mix})


def _sizes(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> dict[str, int]:
    """Sizes that arrays settle for symbolic dimensions."""
    return {
        dim: size
        for spec in specs
        if spec.name in given and np.ndim(given[spec.name]) == len(spec.shape)
        for dim, size in zip(spec.shape, np.shape(given[spec.name]), strict=True)
        if isinstance(dim, str)
    }


def _direction(drawn: Array, at: Array | None) -> Array:
    """As long as the point where that is not zero, and exact in the seed's dtype."""
    numbers = np.ones(1) if at is None else at[np.isfinite(at)]
    length = float(np.sqrt(np.mean(np.square(numbers)))) if numbers.size else 0.0
    return (drawn * (length or 1.0)).astype(drawn.dtype).astype(np.float64)
