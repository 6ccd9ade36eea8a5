"""`onnxjvp.ntk`: a model's kernel, by the method that takes least, within a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph.load import AnyModel
from onnxjvp.kernels import flops
from onnxjvp.kernels.contraction import Contraction
from onnxjvp.kernels.footprint import parse_bytes
from onnxjvp.kernels.method import Cost, Factors, Method, Problem
from onnxjvp.kernels.problem import Groups, problem
from onnxjvp.kernels.products import Products
from onnxjvp.kernels.runs import samples_of
from onnxjvp.kernels.streamed import share, streamed
from onnxjvp.kernels.structured import Structured
from onnxjvp.rewrite import Rewritten
from onnxjvp.runtime import Array

METHODS = ("auto", "structured", "contraction", "products")
#: bytes that factors and what is computed on the way may take, where nothing is said
MEMORY = 4 << 30
#: samples in a block at most: more make no product of matrices faster
MOST_SAMPLES = 64
#: the share of the memory that what is kept of one sample may take
KEPT = 0.6
#: samples in the block that costs are compared for
USUAL = 8


def ntk(
    model: AnyModel | Rewritten,
    params: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    groups: Groups = None,
    form: str = "full",
    logit: int | str | None = None,
    rows: ArrayLike | None = None,
    method: str = "auto",
    memory: int | str | None = None,
    accumulate: str = "float64",
    sizes: Mapping[str, int] | None = None,
    links: Path | None = None,
    providers: Sequence[str] | None = None,
) -> Kernel:
    """The neural tangent kernel of a model, Θ(x1, x2) = J_θ(x1) J_θ(x2)ᵀ.

    Args:
      model, links: as for `onnxjvp.jvp`.
      params: names or globs of parameters; None means all trainable ones.
      outputs: names of outputs; None means all that have a derivative. O is the number of their
        elements for one sample, flattened one output behind the other.
      groups: kernels that are kept apart: "parameter", "module", or name → names of parameters.
      form: "full": every pair of outputs; "diagonal": pairs (o, o); "trace": the mean of these, the
        pseudo-NTK.
      logit: the kernel of one element of the outputs, or of the "sum" of all.
      rows: [K, O] combinations of the outputs' elements in place of these.
      method: "structured" derivatives, Jacobian "contraction", NTK-vector "products", or what takes
        the fewest operations within the memory ("auto").
      memory: bytes, or a text such as "4GB", that factors and values on the way may take; 4 GiB
        unless told. Outputs and samples go in pieces that fit. Weights come on top.
      accumulate: "float64" or "float32": what the contributions of parameters are added up in. Each
        is computed in the model's own dtype.
      sizes: of symbolic dimensions other than that of samples, which costs are counted for.
      providers: as for `Session`.
    Returns:
      A function of two blocks of samples, see `Kernel`.
    Raises:
      UsageError: unknown names or words; outputs or inputs without an axis of samples.
      UnsupportedOpError: no derivative, or outputs of a sample depend on the other samples.
    Cost: that of rewriting the model once per method that is considered.
    Source: Novak, Sohl-Dickstein & Schoenholz 2022.
    """
    return Kernel(
        problem(
            model,
            params,
            outputs,
            groups=groups,
            form=form,
            logit=logit,
            rows=rows,
            accumulate=accumulate,
            links=links,
            providers=providers,
            sizes=sizes,
        ),
        method=method,
        memory=memory,
    )


@dataclass(frozen=True)
class Block:
    """What is kept of a block of samples: factors, for one part of the rows after the other."""

    samples: int
    parts: tuple[Factors, ...]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)


class Kernel:
    """A kernel as a function: `kernel(x1, x2)`, or `kernel(x)` of a block with itself.

    Args:
      problem: what to compute. method, memory: as for `ntk`.
    """

    def __init__(
        self, problem: Problem, *, method: str = "auto", memory: int | str | None = None
    ) -> None:
        if method not in METHODS:
            raise UsageError(f"unknown method {method!r}; choose one of {', '.join(METHODS)}")
        self.problem = problem
        self.memory = MEMORY if memory is None else parse_bytes(memory)
        self._candidates: dict[str, Method | str] = {}
        chosen = self._cheapest() if method == "auto" else self._candidate(method)
        if isinstance(chosen, str):
            raise UnsupportedOpError(f"the method {method!r} cannot be used: {chosen}")
        self.method: Method = chosen
        self._step: int | None = None

    # -- the kernel ----------------------------------------------------------------------------

    def __call__(self, x1: Mapping[str, Array], x2: Mapping[str, Array] | None = None) -> Array:
        """Θ of every pair of samples.

        Args:
          x1, x2: an array per input of the model, samples along axis 0; None means x1 again, of
            which half the pairs are computed.
        Returns:
          float64 (or float32, as `accumulate` says): [N1, N2, O, O] for the form "full" (K for O
          where `rows` were given), [N1, N2, O] for "diagonal", [N1, N2] for "trace", one logit and
          the sum of the logits. With groups, one more axis in front.
        Raises: InputError: arrays do not fit the model.
        """
        n1, n2 = samples_of(self.problem, x1), samples_of(self.problem, x1 if x2 is None else x2)
        step = self.samples_per_block()
        if max(n1, n2) <= step and (swept := self._swept(x1, x2)) is not None:
            return swept
        out: Array | None = None
        for i in range(0, n1, step):
            block = _block(self.problem, x1, i, step)
            ours = None if self._streams() else self.factors(block)
            for j in range(0 if x2 is not None else i, n2, step):
                other = None
                if x2 is not None or j != i:
                    other = _block(self.problem, x1 if x2 is None else x2, j, step)
                if ours is None:
                    found = self._streamed(block, other)
                else:
                    found = self._between(ours, self._computed(other) if other else ours.parts)
                if out is None:
                    out = np.empty(self.shape(n1, n2), found.dtype)
                lead = (slice(None),) * self._leading
                here, there = slice(i, i + step), slice(j, j + step)
                place = (*lead, here, there)
                out[place] = found
                if x2 is None and j != i:
                    place = (*lead, there, here)
                    out[place] = self.mirrored(found)
        return np.zeros(self.shape(n1, n2)) if out is None else out

    def _swept(self, x1: Mapping[str, Array], x2: Mapping[str, Array] | None) -> Array | None:
        """Both blocks in one run, if the method has that: nothing is kept, nothing used again.

        Rows that do not fit at once go in parts: of the full form, elsewhere.
        """
        method = self.method
        if not isinstance(method, Structured) or not method.sweeps():
            return None
        if x2 is not None and any(
            not np.array_equal(x1[name], x2[name]) for name in self.problem.shared
        ):
            return None  # a run has one value of what samples share
        parts = self._parts()
        if self.problem.form == "full":
            return None if len(parts) > 1 else self._laid_out(method.sweep(x1, x2))
        each = [method.sweep(x1, x2, (part, part)) for part in parts]
        joined = np.concatenate(each, axis=1) if self.problem.form == "diagonal" else sum(each)
        return self._laid_out(np.asarray(joined))

    def _streams(self) -> bool:
        """Whether not even one sample's factors fit the memory."""
        return isinstance(self.method, Structured) and self.method.held is not None

    def _streamed(self, x1: Mapping[str, Array], x2: Mapping[str, Array] | None) -> Array:
        assert isinstance(self.method, Structured)
        return self._laid_out(streamed(self.problem, self.method, x1, x2))

    def _parts(self) -> list[slice]:
        """The rows, as many at once as there is memory for."""
        step, count = self.rows_per_part(), self.problem.count
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def factors(self, x: Mapping[str, Array]) -> Block:
        """What is kept of a block of samples, to be combined with any other block by `between`."""
        return Block(samples_of(self.problem, x), tuple(self._computed(x)))

    def _computed(self, x: Mapping[str, Array]) -> Iterator[Factors]:
        """What is kept of a block, one part of the rows after the other."""
        return (self.method.factors(x, part) for part in self._parts())

    def between(self, a: Block, b: Block) -> Array:
        """The kernel of two blocks, in the layout of `__call__`."""
        return self._between(a, b.parts)

    def _between(self, a: Block, b: Iterable[Factors]) -> Array:
        """`between`, where parts of the second block may be made one by one."""
        product, form = self.method.product, self.problem.form
        if form == "full":
            columns = [np.concatenate([product(p, q) for p in a.parts], axis=1) for q in b]
            return self._laid_out(np.concatenate(columns, axis=3))
        each = [product(p, q) for p, q in zip(a.parts, b, strict=True)]
        joined = np.concatenate(each, axis=1) if form == "diagonal" else np.sum(each, axis=0)
        return self._laid_out(joined)

    def _laid_out(self, whole: Array) -> Array:
        """What methods give, in the layout of `__call__`."""
        if self.problem.form == "full":
            whole = whole.transpose(0, 2, 4, 1, 3)
            if self.problem.count == 1:  # one logit, the sum: no axes of outputs
                whole = whole[..., 0, 0]
        elif self.problem.form == "diagonal":
            whole = whole.transpose(0, 2, 3, 1)
        else:
            whole = whole / self.problem.count
        return np.ascontiguousarray(whole if self._leading else whole[0])

    def mirrored(self, block: Array) -> Array:
        """Θ(x2, x1) from Θ(x1, x2)."""
        first = self._leading
        turned = np.swapaxes(block, first, first + 1)
        square = self.problem.form == "full" and self.problem.count > 1
        return np.swapaxes(turned, -1, -2) if square else turned

    def shape(self, n1: int, n2: int) -> tuple[int, ...]:
        """Of the kernel of n1 and n2 samples."""
        count = self.problem.count
        tail: tuple[int, ...] = ()
        if self.problem.form == "diagonal":
            tail = (count,)
        elif self.problem.form == "full" and count > 1:
            tail = (count, count)
        lead = (len(self.problem.groups),) if self._leading else ()
        return (*lead, n1, n2, *tail)

    @property
    def _leading(self) -> int:
        """Axes in front of those of samples."""
        return 0 if list(self.problem.groups) == ["all"] else 1

    # -- pieces that fit -----------------------------------------------------------------------

    def samples_per_block(self) -> int:
        """How many samples' factors and products, twice, the memory holds; one at least."""
        if self._step is None and self._streams():
            self._step = 1
        if self._step is None:
            fitting = [n for n in _sizes(MOST_SAMPLES) if self._cost(n).memory <= self.memory]
            self._step = max(fitting, default=1)
        return self._step

    def rows_per_part(self) -> int:
        """How many rows are computed at once."""
        return getattr(self.method, "rows", None) or self.problem.count

    def _cost(self, samples: int) -> Cost:
        return self.method.cost(samples, samples)

    # -- the choice ----------------------------------------------------------------------------

    def explain(self) -> dict[str, Any]:
        """What every method would take for a pair of blocks of eight samples, and why one is used.

        Returns:
          "methods": per method its flops and memory, or the reason why it cannot be used;
          "chosen"; "memory": the budget; "samples": in a block; "rows": computed at once;
          "exceptions": parameters treated otherwise, with the reason; "structure", for structured
          derivatives: per term its parameters, structures, form and share of the operations.
        """
        costs: dict[str, Any] = {}
        for name in METHODS[1:]:
            found = self._candidate(name)
            if isinstance(found, str):
                costs[name] = {"refused": found}
            else:
                cost = found.cost(USUAL, USUAL)
                costs[name] = {"flops": cost.flops, "memory": cost.memory}
        said: dict[str, Any] = {
            "methods": costs,
            "chosen": self.method.name,
            "memory": self.memory,
            "samples": self.samples_per_block(),
            "rows": self.rows_per_part(),
            "exceptions": dict(self.method.exceptions),
        }
        if isinstance(self.method, Structured):
            said["structure"] = self.method.described()
        return said

    @property
    def report(self) -> dict[str, Any]:
        """What a reader of the numbers should know."""
        problem = self.problem
        return {
            "method": self.method.name,
            "form": problem.form,
            "params": list(problem.params),
            "groups": {name: list(members) for name, members in problem.groups.items()},
            "outputs": list(problem.outputs),
            "unused": list(problem.unused),
            "excluded": dict(problem.excluded),
            "exceptions": dict(self.method.exceptions),
            "notes": list(problem.notes),
        }

    def _cheapest(self) -> Method | str:
        """The method with the fewest operations, of those that fit the memory if there are any."""
        first = self._candidate("structured")
        if not isinstance(first, str) and self._is_least(first):
            return first
        found: list[tuple[bool, float, Method]] = []
        refused = []
        for name in METHODS[1:]:
            method = self._candidate(name)
            if isinstance(method, str):
                refused.append(f"{name}: {method}")
                continue
            alone = method.cost(1, 1)
            found.append((alone.memory > self.memory, method.cost(USUAL, USUAL).flops, method))
        if not found:
            return "; ".join(refused)
        chosen = min(found, key=lambda each: each[:2])[2]
        self._candidates = {chosen.name: chosen}  # the others' sessions hold the weights, too
        return chosen

    def _is_least(self, structured: Method) -> bool:
        """Whether no other method can take fewer operations, told without making them.

        Contraction is one of the forms that structured derivatives choose from. Products run a JVP,
        which is no less than the model itself, for every row and pair of samples.
        """
        cost = structured.cost(USUAL, USUAL)
        batch = self.problem.batch or 1
        model, links = self.problem.model, self.problem.links
        forward = flops.count(model, default=batch, links=links) / batch
        products = self.problem.count * USUAL * USUAL * forward
        fits = structured.cost(1, 1).memory <= self.memory
        return fits and not structured.exceptions and cost.flops <= products

    def _candidate(self, name: str) -> Method | str:
        """A method, or why it cannot be used."""
        if name not in self._candidates:
            make: dict[str, Callable[[], Method]] = {
                "structured": self._structured,
                "contraction": lambda: Contraction(self.problem, budget=self.memory / 2),
                "products": lambda: Products(self.problem, budget=self.memory / 2),
            }
            try:
                self._candidates[name] = make[name]()
            except UnsupportedOpError as error:
                self._candidates[name] = str(error)
        return self._candidates[name]

    def _structured(self) -> Structured:
        """With as many rows at once as there is memory for."""
        whole = Structured(self.problem, samples=USUAL)
        count, full = self.problem.count, self.problem.form == "full"
        if count == 1 or whole.cost(1, 1).memory <= self.memory:
            return whole
        whole = Structured(self.problem, samples=1)  # one at a time, which other forms may suit
        kept, running = whole.memory_of(count)
        if full and kept > KEPT * self.memory:
            rows, held = share(kept, running, count, self.memory)
            return Structured(self.problem, rows=rows, samples=1, held=held)
        if full:
            part = (self.memory - kept) / (running + kept)
        else:
            part = self.memory / (whole.sweep_memory() if whole.sweeps() else running)
        return self._in_parts(min(max(1, int(count * part)), count))

    def _in_parts(self, rows: int) -> Structured:
        """So many rows at once, or fewer: forms that suit a part may keep more than the whole's."""
        count = self.problem.count
        while True:
            parts = -(-count // rows)
            method = Structured(self.problem, rows=-(-count // parts), samples=1)
            kept, running = method.memory_of(count)
            fitting = int(count * (self.memory - kept) / (running + kept))
            if self.problem.form != "full" or not 1 <= fitting < method.rows:
                return method
            rows = fitting


def _sizes(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def _block(problem: Problem, x: Mapping[str, Array], start: int, step: int) -> dict[str, Array]:
    return {
        name: np.ascontiguousarray(array[start : start + step])
        if name in problem.sampled
        else array
        for name, array in x.items()
    }
