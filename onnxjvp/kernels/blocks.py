"""J_θ and its transpose at all samples of a data set, block by block of samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.runs import ROWS, picked, samples_of, taken, target_of
from onnxjvp.rewrite import linearize
from onnxjvp.runtime import Array, LinearizedSession, TensorSpec
from onnxjvp.runtime.linearized import Point

#: residuals of the samples that are linearised together, or of the vectors of one product
BLOCK_BYTES = 1 << 28
#: more vectors at once make no product of matrices faster
MOST_VECTORS = 256


@dataclass(frozen=True)
class Directions:
    """M directions in the parameters: 2^exponents · arrays [M, *shape]."""

    arrays: Mapping[str, Array]
    exponents: Array


class Blocks:
    """The Jacobian of all samples in the parameters, linearised once and held as far as it fits.

    Numbers are float64 outside and of the model's dtypes inside, scaled by powers of two so that
    small and large ones survive.

    Args:
      problem: whose parameters, outputs and rows.
      x: an array per input, N samples along axis 0 of the sampled ones; memory maps will do.
      block: samples that are linearised together; None takes as many as have residuals of about
        256 MiB. A model of a fixed number of samples takes just these.
      memory: bytes of residuals that may be held. Blocks beyond are linearised anew for every
        product.
    Raises: as `onnxjvp.linearize`; InputError where arrays do not fit the inputs.
    """

    def __init__(
        self, problem: Problem, x: Mapping[str, Array], *, block: int | None, memory: float
    ) -> None:
        self.problem = problem
        self.samples = samples_of(problem, x)
        if not self.samples:
            raise UsageError("there are no samples; give one or more")
        self._x = x
        self._memory, self._held = memory, 0
        #: why vectors go one at a time; None where they run together, or were never asked for
        self.single: str | None = None
        self._one = self._start(None)
        self._many: _Started | None = None
        size = problem.batch or min(block or self._fitting(), self.samples)
        self._places = _cut(self.samples, size)
        picks = picked(problem.rows)
        self._picks = picks if picks is not None and len(set(picks)) == len(picks) else None
        self._dtypes: dict[str, np.dtype[Any]] = {}
        #: float64 [N, K]: the rows of f(x)
        self.values = np.concatenate([self._values(i) for i in range(len(self._places))])
        specs = self._one.session.takes("jvp")
        self.parameters = {spec.name: spec for spec in specs}

    @property
    def dtypes(self) -> set[np.dtype[Any]]:
        """Those of the outputs and of the parameters."""
        return {*self._dtypes.values(), *(spec.dtype for spec in self.parameters.values())}

    @property
    def freedom(self) -> int:
        """How many numbers the parameters are."""
        return sum(_elements(spec) for spec in self.parameters.values())

    # -- products ------------------------------------------------------------------------------

    def together(self, count: int) -> int:
        """How many of so many vectors to give at once."""
        if count > 1 and self._many is None and self.single is None:
            try:
                self._many = self._start(ROWS)
            except UnsupportedOpError as error:
                self.single = str(error)
        if count == 1 or self._many is None:
            return 1
        self._go(self._one, 0)
        each = self._one.session.residual_bytes()
        each += sum(_elements(spec) * spec.dtype.itemsize for spec in self.parameters.values())
        return max(1, min(count, MOST_VECTORS, BLOCK_BYTES // max(each, 1)))

    def pull(self, vectors: Array) -> Directions:
        """Jᵀ v of vectors [M, N, K], as many as `together` says."""
        started = self._for(len(vectors))
        scaled, exponents = _scaled({"": vectors})
        total: dict[str, Array] = {}
        for i, place in enumerate(self._places):
            self._go(started, i)
            found = started.apply("vjp", self._cotangents(scaled[""][:, place]))
            if len(self._places) == 1:
                return Directions(found, exponents)
            for name, array in found.items():
                total[name] = total[name] + array if name in total else array.astype(np.float64)
        return Directions(total, exponents)

    def push(self, directions: Directions) -> Array:
        """J u: [M, N, K]."""
        count = len(directions.exponents)
        started = self._for(count)
        seeds, exponents = self._seeds(directions)
        found = np.empty((count, self.samples, self.problem.count))
        # backwards: the last block is the one that is linearised at
        for i, place in reversed(list(enumerate(self._places))):
            self._go(started, i)
            found[:, place] = self._rows(started.apply("jvp", seeds), place)
        return np.asarray(np.ldexp(found, exponents[:, None, None]))

    def push_at(self, x: Mapping[str, Array], directions: Directions) -> Array:
        """J(x) u at other samples x, for one direction: [N, K]."""
        seeds, exponents = self._seeds(directions)
        started, count = self._one, samples_of(self.problem, x)
        found = np.empty((1, count, self.problem.count))
        started.current = None
        for place in _cut(count, self._places[0].stop):
            started.session.at(self._batch(x, place))
            found[:, place] = self._rows(started.apply("jvp", seeds), place)
        return np.asarray(np.ldexp(found[0], exponents[0]))

    # -- where the sessions are linearised ---------------------------------------------------------

    def _start(self, directions: str | None) -> _Started:
        problem = self.problem
        linearized = linearize(
            *(problem.model, problem.params, list(problem.outputs)),
            directions=directions,
            links=problem.links,
            target=target_of(problem.providers),
        )
        session = LinearizedSession(linearized, providers=problem.providers)
        return _Started(session, several=directions is not None, points={}, current=None)

    def _for(self, count: int) -> _Started:
        if count == 1:
            return self._one
        assert self._many is not None
        return self._many

    def _go(self, started: _Started, i: int) -> dict[str, Array] | None:
        """Linearise at block i, unless that has been done; f(x) where it was computed."""
        if started.current == i:
            return None
        values = None
        if i in started.points:
            started.session.back(started.points[i])
        else:
            values = started.session.at(self._batch(self._x, self._places[i]))
            size = started.session.residual_bytes()
            if self._held + size <= self._memory:
                started.points[i] = started.session.kept()
                self._held += size
        started.current = i
        return values

    def _fitting(self) -> int:
        """How many samples have residuals of `BLOCK_BYTES`, as the first one shows."""
        self._one.session.at(self._batch(self._x, slice(0, 1)))
        return max(1, BLOCK_BYTES // max(self._one.session.residual_bytes(), 1))

    def _batch(self, x: Mapping[str, Array], place: slice) -> dict[str, Array]:
        """Some samples; the last one again where the model takes more."""
        size = self.problem.batch or place.stop - place.start
        which = np.minimum(np.arange(place.start, place.start + size), place.stop - 1)
        return taken(self.problem, x, which)

    # -- between vectors and tensors ---------------------------------------------------------------

    def _values(self, i: int) -> Array:
        found = self._go(self._one, i)
        assert found is not None
        place = self._places[i]
        size = self.problem.batch or place.stop - place.start
        for name, shape in self.problem.outputs.items():
            if found[name].shape != (size, *shape):
                raise UsageError(
                    f"the output {name!r} has the shape {list(found[name].shape)} for {size} "
                    f"samples, not {[size, *shape]}; give the sizes of its axes"
                )
            self._dtypes[name] = found[name].dtype
        whole = self._rows({name: y[None] for name, y in found.items()}, place)
        return np.asarray(whole[0])

    def _rows(self, outputs: Mapping[str, Array], place: slice) -> Array:
        """The rows of outputs [M, n, *shape]: float64 [M, n, K]."""
        parts = [outputs[name] for name in self.problem.outputs]
        flat = [part.reshape(*part.shape[:2], -1) for part in parts]
        joined = np.concatenate(flat, axis=2, dtype=np.float64)[:, : place.stop - place.start]
        if self._picks is not None:
            return np.asarray(joined[:, :, self._picks])
        return np.asarray(joined @ self.problem.rows.T)

    def _cotangents(self, vectors: Array) -> dict[str, Array]:
        """Vectors [M, n, K] as cotangents of the outputs; zero where a sample is there to pad."""
        count, samples, _ = vectors.shape
        size = self.problem.batch or samples
        elements = self.problem.rows.shape[1]
        whole = np.zeros((count, size, elements))
        if self._picks is None:
            whole[:, :samples] = vectors @ self.problem.rows
        else:
            whole[:, :samples, self._picks] = vectors
        found, start = dict[str, Array](), 0
        for name, shape in self.problem.outputs.items():
            stop = start + math.prod(shape)
            part = whole[:, :, start:stop].astype(self._dtypes[name])
            found[name] = part.reshape(count, size, *shape)
            start = stop
        return found

    def _seeds(self, directions: Directions) -> tuple[dict[str, Array], Array]:
        """Directions in the parameters' dtypes, zeros where there are none, and their scale."""
        scaled, exponents = _scaled(directions.arrays)
        seeds = {}
        for name, spec in self.parameters.items():
            if name in scaled:
                seeds[name] = scaled[name].astype(spec.dtype, copy=False)
            else:
                zeros = (len(directions.exponents), *_shape(spec))
                seeds[name] = np.zeros(zeros, spec.dtype)
        return seeds, exponents + directions.exponents


@dataclass
class _Started:
    """A linearised model, the blocks that it holds, and at which one it is."""

    session: LinearizedSession
    several: bool
    points: dict[int, Point]
    current: int | None

    def apply(self, kind: str, seeds: Mapping[str, Array]) -> dict[str, Array]:
        """The product with seeds [M, *shape], M = 1 unless it takes several."""
        product = self.session.jvp if kind == "jvp" else self.session.vjp
        if self.several:
            return product(seeds)
        found = product({name: array[0] for name, array in seeds.items()})
        return {name: array[None] for name, array in found.items()}


def _elements(spec: TensorSpec) -> int:
    return math.prod(_shape(spec))


def _shape(spec: TensorSpec) -> tuple[int, ...]:
    """Parameters have no dynamic sizes."""
    return tuple(d for d in spec.shape if isinstance(d, int))


def _cut(samples: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, samples)) for i in range(0, samples, size)]


def _scaled(arrays: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """Arrays [M, …] whose largest element, of all together, is about 1, and what that took.

    A power of two is taken out, which rounds nothing.
    """
    largest = [np.abs(a).reshape(len(a), -1).max(axis=1, initial=0) for a in arrays.values()]
    _, exponents = np.frexp(np.max(largest, axis=0).astype(np.float64))
    return {
        name: np.ldexp(a, -exponents.reshape(-1, *(1,) * (a.ndim - 1)))
        for name, a in arrays.items()
    }, exponents
