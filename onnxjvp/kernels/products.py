"""NTK-vector products: columns of Θ as J(x1) (J(x2)ᵀ v), without any J."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.kernels.flops import Flops, flops
from onnxjvp.kernels.independence import Independence
from onnxjvp.kernels.method import Cost, Factors, Problem
from onnxjvp.kernels.runs import (
    CHOSEN,
    ROWS,
    Gradients,
    picked,
    samples_of,
    sizes_for,
    taken,
    target_of,
)
from onnxjvp.rewrite import Linearized, jvp, linearize
from onnxjvp.runtime import Array, LinearizedSession


class Products:
    """Θ(x1, x2), one sample of x2 after the other: a VJP there, then JVPs at all samples of x1.

    Factors are the samples alone. x1 is linearised once for all samples of x2.

    Args:
      problem: what to compute.
      budget: about what bytes the values of one run may take; rows go in parts that fit.
    Raises: as `onnxjvp.linearize` and `LinearizedSession`; the first block of samples, as
      `refuse_dependent`.
    Cost: K VJPs for every sample of x2, and K JVPs for every pair and group of parameters.
    Source: Novak et al. 2022, §3.3.
    """

    name = "products"

    def __init__(self, problem: Problem, *, budget: float | None = None) -> None:
        self.problem = problem
        self.exceptions: Mapping[str, str] = {}
        self._independence = Independence(problem)
        self._gradients = Gradients(problem, budget)
        #: why directions go one at a time; None where they run together
        self.single = self._gradients.single
        self._linearized = self._linearize()
        self._session = LinearizedSession(self._linearized, providers=problem.providers)
        self._flops: tuple[Flops, Flops] | None = None
        self._picks = picked(problem.rows)

    def _linearize(self) -> Linearized:
        problem = self.problem

        def rewritten(count: str | None) -> Linearized:
            return linearize(
                *(problem.model, list(self._gradients.results), list(problem.outputs)),
                directions=count,
                links=problem.links,
                target=target_of(problem.providers),
            )

        self._together = True
        try:
            return rewritten(ROWS)
        except UnsupportedOpError as error:
            self._together, self.single = False, self.single or str(error)
            return rewritten(None)

    # -- the method's contract -----------------------------------------------------------------

    def factors(self, x: Mapping[str, Array], rows: slice = slice(None)) -> Factors:
        self._independence.check(x)
        chosen = np.arange(self.problem.count)[rows]
        return Factors(samples_of(self.problem, x), {**x, CHOSEN: chosen}, len(chosen))

    def product(self, a: Factors, b: Factors) -> Array:
        ours, theirs = a.arrays[CHOSEN], b.arrays[CHOSEN]
        groups, n1, n2 = len(self.problem.groups), a.samples, b.samples
        shape: dict[str, tuple[int, ...]] = {
            "full": (len(ours), n1, len(theirs), n2),
            "diagonal": (len(ours), n1, n2),
            "trace": (n1, n2),
        }
        total = np.zeros((groups, *shape[self.problem.form]), self.problem.accumulate)
        places = self._places(n1)
        if len(places) == 1:
            self._session.at(self._batch(a, places[0]))
        for j in range(n2):
            for part, gradients in self._gradients.at(b.arrays, j, self.problem.rows[theirs]):
                for place in places:
                    if len(places) > 1:
                        self._session.at(self._batch(a, place))
                    for g, names in enumerate(self.problem.groups.values()):
                        tangents = self._along(gradients, names)[:, : place.stop - place.start]
                        self._put(total[g], place, j, tangents, ours, part)
        return total

    def cost(self, n1: int, n2: int) -> Cost:
        problem = self.problem
        count, groups = problem.count, len(problem.groups)
        primal, along = self._counted(problem.batch or n1)
        places = self._places(n1)
        along *= groups
        linearised = 1 if len(places) == 1 else n2
        total = n2 * self._gradients.flops(count) + len(places) * (linearised * primal + n2 * along)
        gradients = self._gradients.bytes_of(self._gradients.results)
        pairs = n1 * n2 * {"full": count * count, "diagonal": count, "trace": 1}[problem.form]
        kernel = groups * pairs * np.dtype(problem.accumulate).itemsize
        rows = self._gradients.together(count)
        return Cost(total, float(rows * gradients + kernel))

    def models(self) -> Mapping[str, ir.Model]:
        linearized = self._linearized
        return {
            "gradients": self._gradients.rewritten.model,
            "primal": linearized.primal.model,
            "tangents": linearized.jvp.model,
        }

    def _counted(self, samples: int) -> tuple[float, float]:
        """The operations of f at so many samples, and of J u there for all rows."""
        problem, count = self.problem, self.problem.count
        if self._flops is None:
            # the map of tangents alone is fed with sizes, and does not say what they are
            whole = jvp(
                *(problem.model, list(self._gradients.results), list(problem.outputs)),
                directions=ROWS if self._together else None,
                links=problem.links,
            )
            self._flops = flops(self._linearized.primal), flops(whole)
        sizes = sizes_for(problem, samples)
        primal = self._flops[0].at(sizes, default=samples)
        along = self._flops[1].at({**sizes, ROWS: count}, default=samples) - primal
        return primal, along if self._together else count * along

    # -- parts ---------------------------------------------------------------------------------

    def _places(self, samples: int) -> list[slice]:
        """Which samples are linearised at together: all, or as many as the model takes."""
        size = self.problem.batch or samples
        return [slice(i, min(i + size, samples)) for i in range(0, samples, size)]

    def _batch(self, block: Factors, place: slice) -> dict[str, Array]:
        """Samples of a block; the last one again where the model takes more."""
        size = self.problem.batch or place.stop - place.start
        which = np.minimum(np.arange(place.start, place.start + size), place.stop - 1)
        return taken(self.problem, block.arrays, which)

    def _along(self, gradients: Mapping[str, Array], names: Sequence[str]) -> Array:
        """J(x1) along the gradients in some of the parameters: [K, N1, O]."""
        directions = {
            name: rows if name in names else np.zeros_like(rows) for name, rows in gradients.items()
        }
        if self._together:
            found = self._session.jvp(directions)
        else:
            count = len(next(iter(gradients.values())))
            runs = [
                self._session.jvp({name: rows[k] for name, rows in directions.items()})
                for k in range(count)
            ]
            found = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
        parts = [found[name] for name in self.problem.outputs]
        return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)

    def _put(
        self, total: Array, place: slice, j: int, tangents: Array, ours: Array, part: slice
    ) -> None:
        """What the rows of the first block make of tangents [rows, N, O], into the kernel.

        Args:
          place, j: which samples of the first block, and which one of the second.
          part: which rows of the second block the tangents are along.
        """
        if self.problem.form == "full":
            if self._picks is None:
                found = np.matmul(tangents, self.problem.rows[ours].T)
            else:
                found = tangents[:, :, self._picks[ours]]
            total[:, place, part, j] = found.transpose(2, 1, 0)
            return
        if self._picks is None:
            found = np.einsum("ko,kno->kn", self.problem.rows[ours[part]], tangents)
        else:
            found = tangents[np.arange(len(tangents)), :, self._picks[ours[part]]]
        if self.problem.form == "diagonal":
            total[part, place, j] = found
        else:
            total[place, j] += found.sum(axis=0, dtype=total.dtype)
