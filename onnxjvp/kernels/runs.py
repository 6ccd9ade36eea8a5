"""Gradients of rows of outputs at one sample: what contraction and products both start from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.kernels.flops import Flops, flops
from onnxjvp.kernels.footprint import peak
from onnxjvp.kernels.method import Problem
from onnxjvp.rewrite import Rewritten, vjp
from onnxjvp.runtime import Array, Session

#: the number of rows or directions, as a dimension; hardly a model has one of that name
ROWS = "onnxjvp_rows"
#: in the arrays of factors that hold samples, beside these: which of the problem's rows were chosen
CHOSEN = "onnxjvp.rows"

#: bytes that the values of one run may take, where nobody says
BUDGET = float(1 << 30)
#: bytes of gradients that are not worth a count
_FEW = 1 << 26


def target_of(providers: Sequence[str] | None) -> str:
    """What models are written for, to run on these providers."""
    on_cpu = all(name.lower().startswith("cpu") for name in providers or ())
    return "cpu" if on_cpu else "portable"


def sizes_for(problem: Problem, samples: int) -> dict[str, int]:
    """Sizes of the model's symbols, where it is run on so many samples."""
    axis = {} if problem.axis is None else {problem.axis: samples}
    return {**problem.sizes, **axis}


def samples_of(problem: Problem, x: Mapping[str, Array]) -> int:
    """How many samples the arrays hold."""
    return len(x[problem.sampled[0]])


def at_sample(problem: Problem, x: Mapping[str, Array], i: int) -> dict[str, Array]:
    """Sample i alone; as often as the model takes samples at once."""
    return taken(problem, x, np.full(problem.batch or 1, i))


def taken(problem: Problem, x: Mapping[str, Array], which: Array) -> dict[str, Array]:
    """Some of the samples, with the inputs that all share."""
    chosen = {name: np.ascontiguousarray(x[name][which]) for name in problem.sampled}
    return chosen | {name: x[name] for name in problem.shared}


def picked(rows: Array) -> Array | None:
    """The element that each row picks, if every one is a row of the identity."""
    at = np.argmax(rows, axis=1)
    plain = (np.count_nonzero(rows, axis=1) == 1) & (rows[np.arange(len(rows)), at] == 1)
    return at if plain.all() else None


class Gradients:
    """J_θᵀ of rows of outputs at single samples, by one run per sample.

    Where the model takes several samples at once it is given one of them in every place, and the
    rows are those of the first.

    Args:
      problem: whose parameters and outputs.
      budget: bytes that the values of one run may take, about; one row is always computed.
    Raises: as `onnxjvp.vjp` and `Session`.
    """

    def __init__(self, problem: Problem, budget: float | None = None) -> None:
        self._problem = problem
        self._budget = BUDGET if budget is None else budget
        self._peak: float | None = None
        #: why rows go one at a time; None where they run together
        self.single: str | None = None
        try:
            self.rewritten = self._rewrite(ROWS)
        except UnsupportedOpError as error:
            self.rewritten = self._rewrite(None)  # raises in its turn where one is impossible, too
            self.single = str(error)
        self._flops: Flops | None = None
        results = self.rewritten.names["results"]
        #: parameter → what the model calls its gradient
        self.results: dict[str, str] = {
            name: results[name]["vjp"] for name in problem.params if name in results
        }
        self._cotangents: Mapping[str, str] = self.rewritten.names["cotangents"]
        self._session = Session(self.rewritten.model, providers=problem.providers)
        self._dtypes = {spec.name: spec.dtype for spec in self._session.inputs}
        made = {spec.name: spec for spec in self._session.outputs}
        lead = 1 if self.single is None else 0
        #: dtype and shape of every parameter that the outputs depend on
        self.dtypes = {name: made[result].dtype for name, result in self.results.items()}
        self.shapes = {
            name: tuple(d for d in made[result].shape[lead:] if isinstance(d, int))
            for name, result in self.results.items()
        }

    def _rewrite(self, count: str | None) -> Rewritten:
        problem = self._problem
        return vjp(
            *(problem.model, problem.params, list(problem.outputs)),
            cotangents=count,
            links=problem.links,
            target=target_of(problem.providers),
        )

    def at(
        self,
        x: Mapping[str, Array],
        i: int,
        rows: Array,
        params: Sequence[str] | None = None,
    ) -> Iterator[tuple[slice, dict[str, Array]]]:
        """The gradients of every row, at sample i, as many rows at a time as memory holds.

        Args:
          rows: [K, O].
          params: which parameters; None means all.
        Returns:
          which rows, and [rows, *shape] per parameter, in its dtype; parameters that no output
          depends on are left out.
        """
        feeds = at_sample(self._problem, x, i)
        wanted = [name for name in params or self.results if name in self.results]
        step = self.together(len(rows))
        for start in range(0, len(rows), step):
            part = slice(start, min(start + step, len(rows)))
            found = self._run(feeds, rows[part], [self.results[name] for name in wanted])
            yield part, {name: found[self.results[name]] for name in wanted}

    def _run(self, feeds: Mapping[str, Array], rows: Array, outputs: list[str]) -> dict[str, Array]:
        if self.single is None:
            return self._session.run({**feeds, **self._fed(rows)}, outputs)
        (row,) = rows
        found = self._session.run({**feeds, **self._fed(row)}, outputs)
        return {name: array[None] for name, array in found.items()}

    def together(self, count: int) -> int:
        """How many of so many rows one run takes."""
        if self.single is not None:
            return 1
        if count * self.bytes_of(self.results) <= _FEW:
            return count
        if self._peak is None:
            sizes = {**sizes_for(self._problem, self._problem.batch or 1), ROWS: 1}
            self._peak = peak(self.rewritten.model, sizes, default=self._problem.batch or 1)
        return max(1, min(count, int(self._budget // max(self._peak, 1))))

    def bytes_of(self, params: Iterable[str]) -> int:
        """What the gradients of one row in some parameters take."""
        return sum(math.prod(self.shapes[p]) * self.dtypes[p].itemsize for p in params)

    def flops(self, count: int) -> float:
        """Operations of one call of `at` with so many rows."""
        if self._flops is None:
            self._flops = flops(self.rewritten)
        sizes = sizes_for(self._problem, self._problem.batch or 1)
        if self.single is not None:
            return count * self._flops.at(sizes, default=1)
        return self._flops.at({**sizes, ROWS: count}, default=1)

    def _fed(self, rows: Array) -> dict[str, Array]:
        """Rows [K, O], or one [O], as cotangents of the first sample."""
        lead, batch = rows.shape[:-1], self._problem.batch or 1
        fed, start = dict[str, Array](), 0
        for name, shape in self._problem.outputs.items():
            size = math.prod(shape)
            seed = self._cotangents[name]
            place = np.zeros((*lead, batch, size), self._dtypes[seed])
            place[..., 0, :] = rows[..., start : start + size]
            fed[seed] = place.reshape(*lead, batch, *shape)
            start += size
        return fed
