"""Jacobian contraction: J of every sample by VJPs, then products of these matrices.

Right for every model that can be transposed, and what the other methods are measured against.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.kernels.blank import Blank
from onnxjvp.kernels.independence import Independence
from onnxjvp.kernels.method import Cost, Factors, Problem
from onnxjvp.kernels.runs import CHOSEN, Gradients, samples_of
from onnxjvp.runtime import Array, Session

#: columns of a product that are added up in the model's dtype; their sums in the problem's
_COLUMNS = 1 << 16


class Contraction:
    """Θ = J(x1) J(x2)ᵀ, from J of every sample.

    The factors of a block are its rows of J, an array per parameter: [N, K, elements] ([K, N,
    elements] for the form "diagonal"). Products of one parameter's add up in its own dtype over at
    most 65,536 elements, beyond that, and over parameters, in the problem's.

    Args:
      problem: what to compute.
      budget: bytes that the factors of two blocks may take, and about what the values of one run
        may. Beyond it factors hold the samples only, and a product computes J for as many
        parameters at a time as fit (one at least). None means that factors fit.
    Raises: as `onnxjvp.vjp` and `Session`; the first block of samples, as `refuse_dependent`.
    Cost: K VJPs a sample, and 2 K² N1 N2 P operations a product; beyond the budget, the VJPs again
      for every set of parameters that is treated at a time, in every product.
    Source: Novak et al. 2022, §3.2.
    """

    name = "contraction"

    def __init__(self, problem: Problem, *, budget: float | None = None) -> None:
        self.problem = problem
        self.exceptions: Mapping[str, str] = {}
        self._budget = budget
        self._independence = Independence(problem)
        self._gradients = Gradients(problem, budget)
        #: why rows go one at a time; None where they run together
        self.single = self._gradients.single
        kinds = dict.fromkeys(dtype.name for dtype in self._gradients.dtypes.values())
        stacked = problem.form == "diagonal"
        self._products = {kind: _product(kind, stacked=stacked) for kind in kinds}
        self._sessions: dict[str, Session] = {}
        self._sizes = {n: math.prod(shape) for n, shape in self._gradients.shapes.items()}

    # -- the method's contract -----------------------------------------------------------------

    def factors(self, x: Mapping[str, Array], rows: slice = slice(None)) -> Factors:
        self._independence.check(x)
        count, samples = len(self.problem.rows[rows]), samples_of(self.problem, x)
        if len(self._sets(count, samples, samples)) > 1:
            at = np.arange(self.problem.count)[rows]
            return Factors(samples, {**x, CHOSEN: at}, count)
        chosen = self.problem.rows[rows]
        return Factors(samples, self._jacobians(x, chosen, list(self._gradients.results)), count)

    def product(self, a: Factors, b: Factors) -> Array:
        total = np.zeros((len(self.problem.groups), *self._shape(a, b)), self.problem.accumulate)
        groups = {p: i for i, names in enumerate(self.problem.groups.values()) for p in names}
        for ours, theirs in self._swept(a, b):
            for name in ours:
                for product in self._multiplied(name, ours[name], theirs[name]):
                    total[groups[name]] += product.reshape(total.shape[1:])
        return _by_rows(total) if self.problem.form == "full" else total

    def cost(self, n1: int, n2: int) -> Cost:
        count, form = self.problem.count, self.problem.form
        elements = sum(self._sizes.values())
        pairs = n1 * n2 * count * (count if form == "full" else 1)
        sets = self._sets(count, n1, n2)
        gradients = self._gradients.flops(count)
        largest = count * max((self._gradients.bytes_of(names) for names in sets), default=0)
        shape = len(self.problem.groups) * (pairs if form != "trace" else n1 * n2)
        running = self._gradients.together(count) * self._gradients.bytes_of(
            self._gradients.results
        )
        memory = running + largest * (n1 + n2) + shape * np.dtype(self.problem.accumulate).itemsize
        return Cost((n1 + n2) * len(sets) * gradients + 2.0 * pairs * elements, float(memory))

    def models(self) -> Mapping[str, ir.Model]:
        products = {f"product of {kind}": model for kind, model in self._products.items()}
        return {"gradients": self._gradients.rewritten.model, **products}

    # -- Jacobians -----------------------------------------------------------------------------

    def _sets(self, count: int, n1: int, n2: int) -> list[list[str]]:
        """Parameters whose rows of J, for both blocks, fit in memory together."""
        names = list(self._gradients.results)
        limit = math.inf if self._budget is None else self._budget / max(n1 + n2, 1)
        sets: list[list[str]] = []
        held = 0
        for name in names:
            size = count * self._gradients.bytes_of([name])
            if not sets or held + size > limit:
                sets.append([])
                held = 0
            sets[-1].append(name)
            held += size
        return sets

    def _jacobians(
        self, x: Mapping[str, Array], rows: Array, params: Sequence[str]
    ) -> dict[str, Array]:
        samples, across = samples_of(self.problem, x), self.problem.form == "diagonal"
        lead = (len(rows), samples) if across else (samples, len(rows))
        found = {
            name: np.empty((*lead, self._sizes[name]), self._gradients.dtypes[name])
            for name in params
        }
        for i in range(samples):
            for part, gradients in self._gradients.at(x, i, rows, params):
                for name, array in gradients.items():
                    place = found[name][part, i] if across else found[name][i, part]
                    place[...] = array.reshape(len(array), -1)
        return found

    def _swept(
        self, a: Factors, b: Factors
    ) -> Iterator[tuple[Mapping[str, Array], Mapping[str, Array]]]:
        """Rows of J of both blocks, for one set of parameters after the other."""
        held = [each for each in (a, b) if CHOSEN not in each.arrays]
        most = max(_count(a), _count(b))
        sets = self._sets(most, a.samples, b.samples)
        if len(held) == 2:  # both fit
            sets = [list(self._gradients.results)]
        for names in sets:
            yield self._part(a, names), self._part(b, names)

    def _part(self, block: Factors, names: Sequence[str]) -> Mapping[str, Array]:
        if CHOSEN not in block.arrays:
            return {name: block.arrays[name] for name in names}
        x = {name: array for name, array in block.arrays.items() if name != CHOSEN}
        return self._jacobians(x, self.problem.rows[block.arrays[CHOSEN]], names)

    # -- products ------------------------------------------------------------------------------

    def _shape(self, a: Factors, b: Factors) -> tuple[int, ...]:
        match self.problem.form:
            case "full":
                return (a.samples, _count(a), b.samples, _count(b))
            case "diagonal":
                return (_count(a), a.samples, b.samples)
        return (a.samples, b.samples)

    def _multiplied(self, name: str, a: Array, b: Array) -> Iterator[Array]:
        """Parts of the product of one parameter's rows, to be added up."""
        if self.problem.form == "full":
            a, b = (each.reshape(-1, each.shape[-1]) for each in (a, b))
        elif self.problem.form == "trace":
            a, b = (each.reshape(len(each), -1) for each in (a, b))
        for start in range(0, a.shape[-1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            columns = {"a": a[..., part], "b": b[..., part]}
            feeds = {key: np.ascontiguousarray(array) for key, array in columns.items()}
            yield self._session(name).run(feeds)["product"]

    def _session(self, name: str) -> Session:
        kind = self._gradients.dtypes[name].name
        if kind not in self._sessions:
            self._sessions[kind] = Session(self._products[kind], providers=self.problem.providers)
        return self._sessions[kind]


def _count(block: Factors) -> int:
    assert block.rows is not None
    return block.rows


def _product(kind: str, *, stacked: bool) -> ir.Model:
    """a bᵀ, of matrices or of stacks of them."""
    dtype = ir.DataType.from_numpy(np.dtype(kind))
    blank = Blank.named("contraction")
    op, lead = blank.op, ("K",) if stacked else ()
    a, b = (blank.input(n, dtype, (*lead, rows, "P")) for n, rows in (("a", "A"), ("b", "B")))
    if dtype == ir.DataType.FLOAT16:  # whose sums would overflow, or lose what is small
        a, b = (op.Cast(each, to=int(ir.DataType.FLOAT)) for each in (a, b))
    product = op.MatMul(a, op.Transpose(b, perm=[0, 2, 1])) if stacked else op.Gemm(a, b, transB=1)
    return blank.finish({"product": product})


def _by_rows(total: Array) -> Array:
    """[groups, N1, K1, N2, K2] → [groups, K1, N1, K2, N2], a view."""
    return np.asarray(total.transpose(0, 2, 1, 4, 3))
