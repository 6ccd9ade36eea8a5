"""Structured derivatives: VJPs to the nodes that use parameters, never to the parameters.

Θ = Σ over pairs of uses of  G₁ (∂y₁/∂θ) (∂y₂/∂θ)ᵀ G₂ᵀ, with G = ∂f/∂y and the primitive Jacobians
∂y/∂θ taken by their structure (`structures.py`), contracted in the cheapest order (`plan.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.kernels import flops, footprint
from onnxjvp.kernels.contraction import Contraction
from onnxjvp.kernels.cut import Seed, cut, whole
from onnxjvp.kernels.independence import Independence
from onnxjvp.kernels.method import Cost, Factors, Problem
from onnxjvp.kernels.pairs import Pair
from onnxjvp.kernels.plan import Term
from onnxjvp.kernels.runs import samples_of, taken
from onnxjvp.runtime import Array, Session, spins_for_a_time

#: bytes of values below which the runtime plans memory
PLANNED = 1 << 28
#: microseconds that threads spin between two operators of a kernel that is computed in one run,
#: about what waking them takes: networks of 10 dense layers take 0.75 to 0.85 × the time, and
#: where others keep all cores busy up to 1.5 ×, as if there was one thread
SPINNING = 50
#: operations of an average product from which on waking a thread is nothing beside them
AWAKE = 1e8
#: operations of an average product below which a second thread wakes too late to be of use, where
#: it sleeps and where it spins
ALONE, ALONE_SPINNING = 1e7, 2e6
#: bytes of cotangents that are not made anew for the next run
SEEDS = 1 << 22
#: what starts the names of arrays that belong to parameters without structure
REST = "rest/"
#: how far a sample's factors may differ, relatively, when it runs among others and alone
TOLERANCE = 1e-3


class Structured:
    """Structured derivatives, and Jacobian contraction for parameters whose uses have no structure.

    Args:
      problem: what to compute.
      rows: how many rows `factors` takes at once; None: all of the problem's.
      samples: how many a block is expected to have; the forms of terms are chosen for it.
      held: how many rows of a block are held at once, a multiple of `rows`, where those of one
        sample do not all fit the memory (`streamed`).
    Raises: as `onnxjvp.vjp` and `Session`.
    Cost: of a block, a VJP per row to the outputs of nodes that use parameters; of a pair of
      blocks, what `cost` counts.
    Source: Novak et al. 2022, §3.4 and App. E.
    """

    name = "structured"

    def __init__(
        self,
        problem: Problem,
        *,
        rows: int | None = None,
        samples: int = 8,
        held: int | None = None,
    ) -> None:
        self.problem, self.held = problem, held
        self.rows = problem.count if rows is None else rows
        self._cut = cut(problem, self.rows, samples)
        self.exceptions: Mapping[str, str] = self._cut.exceptions
        #: what every term is made of
        self.terms: Sequence[Term] = self._cut.terms
        self._samples = samples
        self._factors: Session | None = None
        #: by the samples and rows of both blocks
        self._products: dict[tuple[tuple[int, int], tuple[int, int]], Pair] = {}
        self._wholes: dict[tuple[int, int], tuple[Session, tuple[Seed, ...]]] = {}
        #: the rows of the last sweep, behind what asked for them
        self._last: tuple[Any, dict[str, Array]] | None = None
        others = tuple(name for name in problem.params if name in self.exceptions)
        self._rest = Contraction(_only(problem, others)) if others else None
        #: why samples run one at a time; None where they run together
        self.single: str | None = "the model takes one sample" if problem.batch == 1 else None
        self._trusted = problem.batch == 1
        self._independence = Independence(problem)

    # -- the method's contract -----------------------------------------------------------------

    def factors(self, x: Mapping[str, Array], rows: slice = slice(None)) -> Factors:
        samples, chosen = samples_of(self.problem, x), self.problem.rows[rows]
        self._check_samples(x)
        step = self.problem.batch or (1 if self.single else samples)
        parts = [
            self._rows(x, np.minimum(np.arange(start, start + step), samples - 1), chosen)
            for start in range(0, samples, step)
        ]
        found = {}
        for name, axis in self._cut.axes.items():
            arrays = [part[name] for part in parts]
            whole = arrays[0] if axis is None or len(arrays) == 1 else np.concatenate(arrays, axis)
            if axis is not None and whole.shape[axis] > samples:
                whole = np.ascontiguousarray(whole.take(np.arange(samples), axis))
            found[name] = whole
        if self._rest is not None:
            rest = self._rest.factors(x, rows).arrays
            found.update((REST + name, array) for name, array in rest.items())
        return Factors(samples, found, rows=len(chosen))

    def product(self, a: Factors, b: Factors) -> Array:
        mine = ({k: v for k, v in f.arrays.items() if not k.startswith(REST)} for f in (a, b))
        total = self._pair(a, b).run(*mine)
        total = _trimmed(total, self.problem.form, a.rows, b.rows)
        if self._rest is not None:
            total = total + self._rest.product(*(_rest_of(f) for f in (a, b)))
        return total

    def cost(self, n1: int, n2: int) -> Cost:
        each, alone, together = self._counted
        pairs = n1 * n2 / self._samples**2
        contracted = sum(term.pairing for term in self.terms) * pairs
        kept = sum(term.kept for term in self.terms) * (n1 + n2) / self._samples
        largest = max((term.largest for term in self.terms), default=0) * pairs
        kernel = n1 * n2 * self.rows ** (2 if self.problem.form == "full" else 1)
        running = alone + (together - alone) * (max(n1, n2) - 1)
        memory = max(4.0 * kept + 4.0 * largest + 8.0 * kernel, 4.0 * kept / 2 + running)
        total = Cost((n1 + n2) * each + contracted, memory)
        if self._rest is None:
            return total
        rest = self._rest.cost(n1, n2)
        return Cost(total.flops + rest.flops, total.memory + rest.memory)

    @functools.cached_property
    def _counted(self) -> tuple[float, float, float]:
        """Operations of the factors of a sample; the memory of one sample, and of two."""
        batch, model = self.problem.batch or 1, self._cut.model
        peaks = [footprint.peak(model, default=size) for size in (batch, 2 * batch)]
        return flops.count(model, default=batch) / batch, peaks[0], peaks[1]

    def models(self) -> Mapping[str, ir.Model]:
        products = {f"product {a} x {b}": p.model for ((a, _), (b, _)), p in self._products.items()}
        rest = {} if self._rest is None else self._rest.models()
        return {"factors": self._cut.model, **products, **{REST + k: m for k, m in rest.items()}}

    def described(self) -> list[dict[str, Any]]:
        """Per term: parameters, structures, form, uses, and its share of the operations."""
        total = sum(term.flops for term in self.terms) or 1.0
        return [
            {
                "parameters": [self._cut.names[i] for i in sorted(term.parameters)],
                "structure": list(term.structures) or ["none"],
                "form": "outer" if term.outer else "inner",
                "uses": len(term.sides),
                "share": term.flops / total,
            }
            for term in self.terms
        ]

    # -- factors -------------------------------------------------------------------------------

    def _rows(self, x: Mapping[str, Array], which: Array, rows: Array) -> dict[str, Array]:
        """Of any number of rows, some at a time; nothing is held twice."""
        starts = range(0, len(rows), self.rows)
        whole: dict[str, Array] = {}
        for start in starts:
            found = self._run(x, which, rows[start : start + self.rows])
            if len(starts) == 1:
                return found
            for name, array in found.items():
                axis = self._cut.rows[name]
                if name not in whole and axis is not None:
                    shape = list(array.shape)
                    shape[axis] *= len(starts)
                    whole[name] = np.empty(shape, array.dtype)
                if axis is None:
                    whole[name] = array
                else:
                    place = (slice(None),) * axis + (slice(start, start + self.rows),)
                    whole[name][place] = array
            del found, array
        return whole

    def _run(self, x: Mapping[str, Array], which: Array, rows: Array) -> dict[str, Array]:
        feeds = taken(self.problem, x, which)
        each = np.broadcast_to(self._padded(rows)[:, None], (self.rows, len(which), rows.shape[1]))
        feeds |= self._seeded(self._cut.seeds, each)
        if self._factors is None:
            self._factors = self._loaded(self._cut.model, len(which))
        return self._factors.run(feeds, list(self._cut.axes))

    def _loaded(self, model: ir.Model, samples: int, *, single: bool = False) -> Session:
        """A plan of the memory makes small models faster, and a second run take twice as much.

        Of threads that would do little between two waits there is one.

        Args:
          single: no other session computes the same kernel.
        """
        small = samples * self._counted[1] < PLANNED
        each = flops.of_a_product(model, samples)
        spin = single and each < AWAKE and spins_for_a_time()
        return Session(
            model,
            providers=self.problem.providers,
            threads=1 if small and each < (ALONE_SPINNING if spin else ALONE) else None,
            spinning=SPINNING if spin else False,
            plan_memory=small,
            keep_memory=self.held is None,
        )

    def _padded(self, rows: Array) -> Array:
        """As many rows as the model takes."""
        return np.concatenate([rows, np.zeros((self.rows - len(rows), rows.shape[1]))])

    def _seeded(self, seeds: Sequence[Seed], rows: Array) -> dict[str, Array]:
        """Rows [K, N, O] as cotangents of the outputs."""
        fed, start = dict[str, Array](), 0
        for shape, seed in zip(self.problem.outputs.values(), seeds, strict=True):
            size = math.prod(shape)
            part = rows[..., start : start + size].reshape(*rows.shape[:2], *shape)
            fed[seed.name] = np.ascontiguousarray(part, seed.dtype)
            start += size
        return fed

    def _check_samples(self, x: Mapping[str, Array]) -> None:
        """Samples must not depend on each other, nor what is kept of one on those beside it.

        The latter shows axes of samples that were taken for what they are not.
        """
        self._independence.check(x)
        if self._trusted or samples_of(self.problem, x) < 2:
            return
        # one row tells as much as all; the last of several samples, since what sample 0 does to the
        # others is seen there too
        asked = replace(self.problem, rows=np.ones((1, self.problem.rows.shape[1])))
        probe = self if self.problem.count == 1 else Structured(asked, samples=2)
        count, last = self.problem.batch or 2, samples_of(self.problem, x) - 1
        among = probe._run(x, np.append(np.arange(count - 1) % last, last), asked.rows)
        alone = probe._run(x, np.full(self.problem.batch or 1, last), asked.rows)
        pairs = [(among[k].take([-1], a), alone[k].take([-1], a)) for k, a in probe._axes()]
        if not all(_close(one, other) for one, other in pairs):
            if self.problem.batch is not None:
                raise UnsupportedOpError(
                    f"which values inside belong to which of the {count} samples cannot be told; "
                    "use the method contraction, or export the model with a dynamic batch axis"
                )
            self.single = "values inside do not have samples along one axis"
        self._trusted = True

    def _axes(self) -> list[tuple[str, int]]:
        """The factors that have an axis of samples, and which it is."""
        return [(name, axis) for name, axis in self._cut.axes.items() if axis is not None]

    # -- both at once --------------------------------------------------------------------------

    def sweeps(self) -> bool:
        """Whether `sweep` can be used: any number of samples, all parameters structured."""
        return self._rest is None and self.problem.batch is None and self.single is None

    def sweep(
        self,
        x1: Mapping[str, Array],
        x2: Mapping[str, Array] | None = None,
        rows: tuple[slice, slice] = (slice(None), slice(None)),
    ) -> Array:
        """`product` of the factors of two blocks, or of one with itself, in one run.

        No factor outlives its contraction, so that only the largest takes memory.
        """
        n1, n2 = samples_of(self.problem, x1), 0 if x2 is None else samples_of(self.problem, x2)
        feeds = _joined(self.problem, x1, x2)
        self._check_samples(feeds)
        key = (n1, n2)
        if key not in self._wholes:
            model, seeds = whole(
                self.problem, self._cut, self.rows, self._samples, n1, None if x2 is None else n2
            )
            self._wholes[key] = self._loaded(model, n1 + n2, single=True), seeds
        found = self._wholes[key][0].run(feeds | self._started(key, rows), ["kernel"])["kernel"]
        first, second = (len(self.problem.rows[each]) for each in rows)
        return _trimmed(found, self.problem.form, first, second)

    def _started(self, key: tuple[int, int], rows: tuple[slice, slice]) -> dict[str, Array]:
        """The rows that a sweep of so many samples starts from; small ones are there already."""
        asked = key, tuple((each.start, each.stop) for each in rows)
        last = self._last
        if last is not None and last[0] == asked:
            return last[1]
        parts = [
            np.repeat(self._padded(self.problem.rows[each])[:, None], count, axis=1)
            for each, count in zip(rows, key, strict=True)
        ]
        fed = self._seeded(self._wholes[key][1], np.concatenate(parts, axis=1))
        small = sum(array.nbytes for array in fed.values()) < SEEDS
        self._last = (asked, fed) if small else None
        return fed

    def memory_of(self, rows: int) -> tuple[float, float]:
        """Bytes for one sample and so many rows: of what is kept, and of computing it."""
        share = rows / self.rows
        kept = sum(term.kept for term in self.terms) / self._samples
        return 4.0 * kept * share, self._counted[1] * share

    def sweep_memory(self) -> float:
        """Bytes that a sweep of one sample with another takes."""
        model, _ = whole(self.problem, self._cut, self.rows, self._samples, 1, 1)
        return footprint.peak(model, default=2)

    # -- products ------------------------------------------------------------------------------

    def _pair(self, a: Factors, b: Factors) -> Pair:
        first, second = ((f.samples, self._filled(f.rows)) for f in (a, b))
        if (first, second) not in self._products:
            self._products[first, second] = Pair(
                self.problem, self._cut, first, second, keep_memory=self.held is None
            )
        return self._products[first, second]

    def _filled(self, rows: int | None) -> int:
        """How many rows a number of them takes, filled up to what the model takes at once."""
        return self.rows * -(-(rows or self.rows) // self.rows)


def _only(problem: Problem, params: Sequence[str]) -> Problem:
    """The same kernel, over some of the parameters."""
    groups = {
        group: tuple(name for name in names if name in params)
        for group, names in problem.groups.items()
    }
    return replace(problem, params=tuple(params), groups=groups)


def _joined(
    problem: Problem, x1: Mapping[str, Array], x2: Mapping[str, Array] | None
) -> dict[str, Array]:
    """The samples of two blocks, one block behind the other."""
    if x2 is None:
        return dict(x1)
    joined = {name: np.concatenate([x1[name], x2[name]]) for name in problem.sampled}
    return joined | {name: x1[name] for name in problem.shared}


def _rest_of(factors: Factors) -> Factors:
    arrays = {k.removeprefix(REST): v for k, v in factors.arrays.items() if k.startswith(REST)}
    return Factors(factors.samples, arrays, rows=factors.rows)


def _trimmed(total: Array, form: str, rows: int | None, others: int | None) -> Array:
    """Without the rows that filled a block up."""
    found: Array = total
    if form == "full":
        found = total[:, :rows, :, :others]
    elif form == "diagonal":
        found = total[:, :rows]
    return found


def _close(one: Array, other: Array) -> bool:
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, other))
    scale = float(np.linalg.norm(other.astype(np.float64)))
    error = float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))
    return error <= TOLERANCE * scale or not math.isfinite(scale)
