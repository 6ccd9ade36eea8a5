"""Comparisons as arrays: codes, and what is lost first along a line."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxjvp.errors import InputError, UnsupportedOpError
from onnxjvp.runtime import Array


@dataclass(frozen=True)
class Layer:
    """The comparisons of one node at a point.

    Attributes:
      node, operator: which node; `units` is how many comparisons (windows, choices) it has.
      margin: how far the closest of its comparisons is from changing, in the units of what is
        compared, of those that are not met exactly; infinity where there is none. unit: the index
        of that one, in the code.
      tied: how many units are met exactly: x lies on their boundary, or equal numbers (zeros behind
        a Relu, in one window) are of equal tangents too.
    """

    node: str
    operator: str
    units: int
    margin: float
    unit: tuple[int, ...] | None
    tied: int


@dataclass(frozen=True)
class Region:
    """A region, by a point inside.

    Attributes:
      code: what every comparison came to, by node: masks, steps, indices of what was chosen.
      digest: SHA-256 of the code, in hexadecimal; equal codes of one model have equal ones.
      layers: the nodes that compare, in the order of the graph.
    """

    code: dict[str, Array]
    digest: str
    layers: tuple[Layer, ...]

    @property
    def units(self) -> int:
        return sum(layer.units for layer in self.layers)


@dataclass(frozen=True)
class Boundary:
    """Where a region ends along a direction.

    Attributes:
      distance: the smallest t > 0 such that x + t u is in another region, or 0 if x lies on the
        boundary that u leads across; infinity: there is none.
      length: t ‖u‖, over all variables.
      node, operator, unit: the comparison that changes first, None if none does. `unit` is its
        index in the code of its node; of TopK the place in the order that is lost.
      margin, rate: of that comparison; distance = margin / −rate.
    """

    distance: float
    length: float
    node: str | None = None
    operator: str | None = None
    unit: tuple[int, ...] | None = None
    margin: float = math.inf
    rate: float = 0.0


@dataclass(frozen=True)
class Difference:
    """A node whose code differs between two points: in how many of how many units."""

    node: str
    operator: str
    units: int
    of: int


@dataclass(frozen=True)
class Compared:
    """The comparisons of one node as arrays.

    `margins` and `rates` are float64 [rivals, units]; `shape` is that of the units.
    """

    node: str
    operator: str
    code: Array
    shape: tuple[int, ...]
    margins: Array
    rates: Array

    def unit(self, place: int) -> tuple[int, ...]:
        """Which unit an element of margins belongs to."""
        index = place % self.margins.shape[1]
        return tuple(int(i) for i in np.unravel_index(index, self.shape))


def arrays_of(state: Mapping[str, Any], values: Mapping[str, Array]) -> Compared:
    code, margins, rates = (np.asarray(values[state[k]]) for k in ("output", "margin", "rate"))
    margins, rates = wide = [np.asarray(a, np.float64) for a in np.broadcast_arrays(margins, rates)]
    if any(np.isnan(a).any() for a in wide):
        raise InputError(
            f"what {state['node']} ({state['operator']}) compares is not a number, or moves by "
            "what is none: regions are of finite inputs"
        )
    rivals = state["rivals"]
    shape = margins.shape if rivals == "apart" else code.shape
    count = math.prod(shape)
    if not count or not margins.size:
        flat = [np.zeros((0, count)) for _ in wide]
    elif rivals == "behind":
        flat = [a.reshape(count, -1).T for a in wide]
    else:
        flat = [a.reshape(-1, count) for a in wide]
    return Compared(state["node"], state["operator"], code, shape, *flat)


def described(compared: Sequence[Compared]) -> Region:
    layers = []
    for one in compared:
        ahead = np.where(one.margins > 0, one.margins, np.inf)
        place = int(np.argmin(ahead)) if ahead.size else 0
        least = float(ahead.flat[place]) if ahead.size else math.inf
        unit = one.unit(place) if math.isfinite(least) else None
        tied = int(np.sum(np.any(one.margins <= 0, axis=0)))
        layers.append(Layer(one.node, one.operator, int(one.code.size), least, unit, tied))
    code = {one.node: one.code for one in compared}
    return Region(code, digest(compared), tuple(layers))


def differences_between(a: Region, b: Region) -> list[Difference]:
    """The nodes whose codes differ between two regions of one model."""
    found = []
    for one, other in zip(a.layers, b.layers, strict=True):
        code, against = a.code[one.node], b.code[one.node]
        alike = code.shape == against.shape
        count = int(np.sum(code != against)) if alike else max(code.size, against.size)
        if count:
            found.append(Difference(one.node, one.operator, count, other.units))
    return found


def digest(compared: Sequence[Compared]) -> str:
    """SHA-256 of all codes, with their nodes and shapes."""
    found = hashlib.sha256()
    for one in compared:
        code = one.code
        # 0.0 and -0.0 are one number
        plain = code.astype("<f8") + 0.0 if code.dtype.kind == "f" else code.astype("<i8")
        found.update(f"{one.node}\0{code.shape}\0".encode())
        found.update(np.ascontiguousarray(plain).tobytes())
    return found.hexdigest()


def crossing(compared: Sequence[Compared], sign: int, exponent: int, size: float) -> Boundary:
    """The comparison that is lost first, along the direction or against it."""
    best = Boundary(math.inf, math.inf)
    for one in compared:
        if not one.margins.size:
            continue
        rates = sign * one.rates
        times = np.full(rates.shape, np.inf)
        np.divide(np.maximum(one.margins, 0), -rates, out=times, where=rates < 0)
        place = int(np.argmin(times))
        if not math.isfinite(times.flat[place]):
            continue
        with np.errstate(over="ignore", under="ignore"):
            t, rate = (
                float(np.ldexp(value.flat[place], power))
                for value, power in ((times, -exponent), (rates, exponent))
            )
        if t < best.distance:
            margin, unit = float(one.margins.flat[place]), one.unit(place)
            best = Boundary(t, t * size, one.node, one.operator, unit, margin, rate)
    return best


def by_sample(compared: Sequence[Compared], count: int) -> list[list[Compared]]:
    """The comparisons of a batch, sample by sample.

    Raises: UnsupportedOpError for a node whose units are not those of samples along axis 0.
    """
    for one in compared:
        if not one.shape or one.shape[0] != count or one.code.shape[:1] != (count,):
            raise UnsupportedOpError(
                f"the units of {one.node} ({one.operator}), {list(one.shape)}, are not those of "
                f"{count} samples; take samples one at a time"
            )
    return [[_sample(one, i, count) for one in compared] for i in range(count)]


def _sample(one: Compared, i: int, count: int) -> Compared:
    rivals = one.margins.shape[0]
    margins, rates = (a.reshape(rivals, count, -1)[:, i] for a in (one.margins, one.rates))
    shape = (1, *one.shape[1:])
    return Compared(one.node, one.operator, one.code[i : i + 1], shape, margins, rates)


def alike(a: Sequence[Compared], b: Sequence[Compared], tolerance: float) -> bool:
    """Whether codes are equal, and margins and rates up to a share of the largest of a node."""
    for one, other in zip(a, b, strict=True):
        if one.code.shape != other.code.shape or not np.array_equal(one.code, other.code):
            return False
        for left, right in ((one.margins, other.margins), (one.rates, other.rates)):
            finite = left[np.isfinite(left)]
            allowed = tolerance * float(np.max(np.abs(finite), initial=0.0))
            if not np.allclose(left, right, rtol=0, atol=allowed):
                return False
    return True
