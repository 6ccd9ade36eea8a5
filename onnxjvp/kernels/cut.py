"""The model that computes a block's factors: the linear program, cut where it uses parameters."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

import onnxjvp.kernels.structure_rules  # noqa: F401  (fills the table of structures)
from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.regions import captured
from onnxjvp.kernels.contracted import Sides, contracted, part_of
from onnxjvp.kernels.cotangents import HALVES, Reading, readings, single
from onnxjvp.kernels.labelled import Labelled, Labels, Sizes
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.plan import MisalignedError, Side, Term, Use, terms
from onnxjvp.kernels.runs import target_of
from onnxjvp.kernels.structures import ROW, SAMPLE, Structure, UnstructuredError, structure_of
from onnxjvp.kernels.structures import Use as Read
from onnxjvp.kernels.uses import Place, origins, sample_axis, uses
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.task import Task


@dataclass(frozen=True)
class Seed:
    """An input of the model that takes rows."""

    name: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class Cut:
    """The model of a block's factors, and what they are."""

    model: ir.Model
    terms: tuple[Term, ...]
    #: per term, what is kept of its uses; values bear the names of the model's outputs
    kept: tuple[tuple[Side, ...], ...]
    sizes: Sizes
    #: factor → its axis of samples, or None
    axes: Mapping[str, int | None]
    #: factor → its axis of rows, or None
    rows: Mapping[str, int | None]
    seeds: tuple[Seed, ...]
    #: parameters by number
    names: tuple[str, ...]
    #: per term, the group of its parameters
    groups: tuple[int, ...]
    #: parameters without structure, and why
    exceptions: Mapping[str, str]


class _LostError(Exception):
    """Parameters turned out to have no structure; the next attempt goes without them."""

    def __init__(self, why: Mapping[str, str]) -> None:
        super().__init__(str(why))
        self.why = why


def cut(problem: Problem, rows: int, samples: int) -> Cut:
    """See `Structured` for the arguments.

    Raises:
      UnsupportedOpError: no parameter is used in a way that has a structure.
    """
    exceptions: dict[str, str] = {}
    while len(exceptions) < len(problem.params):
        try:
            return _Attempt(problem, rows, samples, exceptions).cut()
        except _LostError as lost:  # what was recorded spends the task
            exceptions.update(lost.why)
    reasons = "\n".join(f"  {name!r}: {why}" for name, why in exceptions.items())
    raise UnsupportedOpError(
        f"no parameter is used in a way that has a structure:\n{reasons}\nUse Jacobian contraction"
    )


def whole(
    problem: Problem, made: Cut, rows: int, samples: int, n1: int, n2: int | None
) -> tuple[ir.Model, tuple[Seed, ...]]:
    """The kernel of n1 samples with n2 more, or with themselves, in one model.

    It takes all samples one behind the other, and gives "kernel", [groups, *axes of the form]. What
    is kept of a use lives until it is contracted, and no longer.

    Args:
      made: what `cut` gave for the same problem.
    """
    return _Attempt(problem, rows, samples, made.exceptions).whole(n1, n2)


class _Attempt:
    """One attempt, for the parameters that may have a structure."""

    def __init__(
        self, problem: Problem, rows: int, samples: int, exceptions: Mapping[str, str]
    ) -> None:
        self.problem, self.rows, self.samples = problem, rows, samples
        self.exceptions = dict(exceptions)
        self.task = Task(
            problem.model,
            [name for name in problem.params if name not in exceptions],
            list(problem.outputs),
            links=problem.links,
            target=target_of(problem.providers),
        )
        self.op = self.task.op
        self.names = [v.name or "" for v in self.task.variables]
        self.program = self.task.linearize()
        #: what is given back
        self.ends: list[ir.Value] = []
        self.batch = dims.of(self.task.outputs[0])[0]

    def cut(self) -> Cut:
        """The model that gives what is kept of a block."""
        made, groups, axes, factors = self._recorded()
        kept = self._outputs(factors)
        model, seeds = self._finished()
        labels = {
            x.value.name or "": x.labels for sides in kept for side in sides for x in side.operands
        }
        return Cut(
            model=model,
            terms=tuple(made),
            kept=kept,
            sizes=axes,
            axes={name: _axis(found, SAMPLE) for name, found in labels.items()},
            rows={name: _axis(found, ROW) for name, found in labels.items()},
            seeds=seeds,
            names=tuple(self.names),
            groups=groups,
            exceptions=self.exceptions,
        )

    def whole(self, n1: int, n2: int | None) -> tuple[ir.Model, tuple[Seed, ...]]:
        """The model that gives the kernel of two blocks, which it takes one behind the other."""
        made, groups, axes, factors = self._recorded()
        sizes = axes.having(SAMPLE, n1), axes.having(SAMPLE, n1 if n2 is None else n2)
        blocks: tuple[Sides, Sides] = (factors, factors)
        if n2 is not None:
            first = part_of(self.op, factors, SAMPLE, 0, n1)
            blocks = first, part_of(self.op, factors, SAMPLE, n1, n2)
        kernel = contracted(self.op, self.problem, made, groups, blocks, sizes)
        self._add_output("kernel", kernel)
        return self._finished()

    def _recorded(
        self,
    ) -> tuple[list[Term], tuple[int, ...], Sizes, list[tuple[Side, ...]]]:
        read = self._cotangents(self._structures())
        sizes: dict[str, Dim] = {}
        try:
            made = terms(read, sizes, self.problem.form, self.rows, self.samples)
        except MisalignedError as error:
            raise self._lost(error.parameters, str(error)) from error
        groups = tuple(self._group(term) for term in made)
        axes = Sizes(self._settled(sizes), self.samples)
        return made, groups, axes, [term.factors(self.op, axes) for term in made]

    def _settled(self, sizes: Mapping[str, Dim]) -> dict[str, Dim]:
        """Symbols as numbers: what is contracted has to be known, but for the samples."""
        found: dict[str, Dim] = {}
        for label, dim in sizes.items():
            if isinstance(dim, int) or label == SAMPLE or dim.free_symbols() & self._of_batch():
                found[label] = dim
                continue
            known = self.problem.sizes
            size = dim.evaluate({name: known[name] for name in dim.free_symbols() if name in known})
            if not isinstance(size, int):
                raise UnsupportedOpError(
                    f"a size inside the model, {dim}, is not known: give sizes=, or make the sizes "
                    "of the inputs constants (onnxjvp fix)"
                )
            found[label] = size
        return found

    def _of_batch(self) -> frozenset[str]:
        return frozenset() if isinstance(self.batch, int) else frozenset(self.batch.free_symbols())

    def _add_output(self, name: str, value: ir.Value) -> None:
        self.task.add_output(name, value)
        self.ends.append(value)

    def _forget_the_rest(self) -> None:
        """Of the ways to read a use one is taken. The others read what layouts are chosen by."""
        needed, live = set(self.ends), list[ir.Node]()
        for node in reversed(self.op.nodes):
            if any(v in needed for v in node.outputs):
                live.append(node)
                needed.update(v for v in (*node.inputs, *captured(node)) if v is not None)
            else:
                node.resize_inputs(0)
        self.op.nodes[:] = reversed(live)

    def _finished(self) -> tuple[ir.Model, tuple[Seed, ...]]:
        self._forget_the_rest()
        rewritten = self.task.finish(
            "ntk", layout="structured", method="structured", directions=self.rows
        )
        dtypes = {v.name: v.dtype or ir.DataType.FLOAT for v in rewritten.model.graph.inputs}
        names = [rewritten.names["cotangents"][output] for output in self.problem.outputs]
        seeds = tuple(Seed(name, dtypes[name].numpy()) for name in names)
        return rewritten.model, seeds

    def _lost(self, parameters: Iterable[int], why: str) -> _LostError:
        return _LostError({self.names[i]: why for i in parameters})

    # -- uses ----------------------------------------------------------------------------------

    def _structures(self) -> list[tuple[Place, frozenset[int], Structure]]:
        """Every use with its structure."""
        every = (*self.task.source.graph, *self.op.nodes)
        moving = set(self.task.source.graph.inputs)
        for node in every:
            if any(v in moving for v in (*node.inputs, *captured(node))):
                moving.update(node.outputs)
        found = uses(self.program, moving)
        if found.lost:
            raise _LostError({self.names[i]: why for i, why in found.lost.items()})
        self.beyond = found.beyond
        structures: list[tuple[Place, frozenset[int], Structure]] = []
        lost: dict[str, str] = {}
        for place, parameters in found.places:
            try:
                found_here = structure_of(self.op, self._read(place))
                scaled = replace(found_here, scale=found_here.scale * place.scale)
                structures.append((place, parameters, scaled))
            except UnstructuredError as error:
                lost.update((self.names[i], str(error)) for i in parameters)
        if lost:
            raise _LostError(lost)
        return structures

    def _read(self, place: Place) -> Read:
        if self.batch == 1:
            return Read(place.node, place.index, None)
        if place.fixed and isinstance(self.batch, int):
            # an axis of that size need not be the samples'
            raise UnstructuredError("what it gives does not depend on the sample")
        found = sample_axis(dims.of(place.out), self.batch)
        if found is None:
            raise UnstructuredError("what it gives has no axis of samples")
        return Read(place.node, place.index, *found)

    def _cotangents(
        self, structures: Sequence[tuple[Place, frozenset[int], Structure]]
    ) -> list[Use]:
        """The uses that reach an output, with the cotangents of what they give."""
        ends = list(dict.fromkeys(place.out for place, _, _ in structures))
        program = replace(self.program, seeds=ends, nodes=list(self.beyond))
        back = self.task.directed(transpose(self.op, program), self.rows)
        self.task.add_cotangents(back.seeds, self.rows)
        gradients = dict(zip(ends, back.outs, strict=True))
        reaching = [each for each in structures if gradients[each[0].out] is not None]
        known = self._origins(reaching)
        return [
            Use(
                name=self.names[min(parameters)],
                parameters=parameters,
                readings=self._readings(structure, gradients[place.out]),
                origin=origin,
            )
            for (place, parameters, structure), origin in zip(reaching, known, strict=True)
        ]

    def _origins(
        self, structures: Sequence[tuple[Place, frozenset[int], Structure]]
    ) -> list[np.ndarray | None]:
        """For weights whose parameters are used more than once, which elements they are."""
        count = Counter(i for _, parameters, _ in structures for i in parameters)
        shared = [k for k, (_, p, _) in enumerate(structures) if any(count[i] > 1 for i in p)]
        volumes = [math.prod(dims.static(v) or ()) for v in self.task.variables]
        offsets = [sum(volumes[:i]) for i in range(len(volumes))]
        weights = [structures[k][0].weight for k in shared]
        known: list[np.ndarray | None] = [None] * len(structures)
        for k, found in zip(shared, origins(self.program, weights, offsets), strict=True):
            known[k] = found.reshape(structures[k][2].shape)
        return known

    def _plain(self, structure: Structure) -> Structure:
        """With z in single precision at least, and an axis of samples where all is one sample's."""
        z = structure.z
        if z is None:
            return structure
        if z.indices is None:
            z = single(self.op, z)
        elif z.dtype in HALVES:
            z = replace(z, dtype=ir.DataType.FLOAT)
        if self.batch == 1:
            z = replace(z, value=self.op.unsqueeze(z.value, 0), labels=(SAMPLE, *z.labels))
        return replace(structure, z=z)

    def _readings(self, structure: Structure, gradient: ir.Value | None) -> tuple[Reading, ...]:
        assert gradient is not None
        return readings(self.op, structure, gradient, self.samples, self._plain)

    # -- results -------------------------------------------------------------------------------

    def _group(self, term: Term) -> int:
        """The number of the group that the term's parameters belong to."""
        names = {self.names[i] for i in term.parameters}
        groups = list(self.problem.groups.values())
        owners = {i for i, members in enumerate(groups) if names & set(members)}
        if len(owners) > 1:
            raise self._lost(term.parameters, "it is joined with parameters of another group")
        return owners.pop()

    def _outputs(self, factors: Sequence[tuple[Side, ...]]) -> tuple[tuple[Side, ...], ...]:
        """Every factor an output, once; the same sides, on values of the outputs' names."""
        named: dict[ir.Value, ir.Value] = {}

        def stand_in(x: Labelled) -> Labelled:
            if x.value not in named:
                name = self.task.fresh(f"factor_{len(named)}")
                named[x.value] = ir.Value(name=name, shape=x.value.shape, type=x.value.type)
                self._add_output(name, x.value)
            return replace(x, value=named[x.value])

        return tuple(tuple(side.on(stand_in) for side in sides) for sides in factors)


def _axis(labels: Labels, label: str) -> int | None:
    return labels.index(label) if label in labels else None
