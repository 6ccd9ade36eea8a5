"""What a structured kernel keeps of each parameter's uses, and how two blocks are contracted.

Uses of the same elements of parameters form a *term*. A term is computed in one of two forms:

  outer   ∂f/∂θ is made per block, J = Σ z·G over all uses, and two blocks give J₁ J₂ᵀ;
  inner   z and G are kept as they are, and every pair of uses is contracted in the cheapest order,
          which for a dense layer is (z₁·z₂) · (G₁ G₂ᵀ).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxjvp.graph.dims import Dim
from onnxjvp.graph.ops import Ops
from onnxjvp.kernels.cotangents import Reading
from onnxjvp.kernels.labelled import (
    Labelled,
    Labels,
    Memo,
    Sizes,
    arranged,
    contract,
    contract_apart,
    order,
    summed,
    without_indices,
)
from onnxjvp.kernels.structures import ROW, SAMPLE, Structure

#: axes of the second block, which the first is contracted with
OTHER_ROW, OTHER_SAMPLE = "b", "m"
#: the axes of a kernel, by form
KERNEL: dict[str, Labels] = {
    "full": (ROW, SAMPLE, OTHER_ROW, OTHER_SAMPLE),
    "diagonal": (ROW, SAMPLE, OTHER_SAMPLE),
    "trace": (SAMPLE, OTHER_SAMPLE),
}


class MisalignedError(Exception):
    """Uses overlap in a way that has no structure."""

    def __init__(self, parameters: frozenset[int]) -> None:
        super().__init__("its uses take different parts of it, or in another order")
        self.parameters = parameters


@dataclass(frozen=True)
class Use:
    """A use of a weight, and the cotangent of what it gives."""

    name: str
    #: the parameters (by number) that the weight is made of
    parameters: frozenset[int]
    #: ways to read it, which differ in z and in the cotangent
    readings: tuple[Reading, ...]
    #: which element of all parameters each element of the weight is, where others use them too
    origin: np.ndarray | None

    @property
    def structure(self) -> Structure:
        return self.readings[0].structure


@dataclass(frozen=True)
class Side:
    """One factor of a use: z (if there is one) and G, on axes of its own but for the weight's."""

    z: Labelled | None
    cotangent: Labelled
    scale: float
    #: constants that multiply both, where θ is read by its values at points
    taps: Labelled | None = None

    @property
    def operands(self) -> list[Labelled]:
        every = (self.z, self.cotangent, self.taps)
        return [x for x in every if x is not None]

    def on(self, other: Callable[[Labelled], Labelled]) -> Side:
        """The same side of other tensors."""
        z, taps = (None if x is None else other(x) for x in (self.z, self.taps))
        return replace(self, z=z, cotangent=other(self.cotangent), taps=taps)


@dataclass(frozen=True)
class Term:
    """Uses of the same elements, and the form that they are contracted in."""

    name: str
    parameters: frozenset[int]
    weight: Labels
    shape: tuple[int, ...]
    sides: tuple[Side, ...]
    structures: tuple[str, ...]
    outer: bool = False
    #: to make what is kept of a block, and to multiply that of two
    making: float = 0.0
    pairing: float = 0.0
    #: elements kept of a block, and of the largest value on the way to a pair's product
    kept: float = 0.0
    largest: float = 0.0

    @property
    def flops(self) -> float:
        return 2 * self.making + self.pairing

    def factors(self, op: Ops, sizes: Sizes) -> tuple[Side, ...]:
        """What is kept of a block, recorded."""
        if not self.outer:
            return tuple(_trimmed(op, side, self.weight) for side in self.sides)
        parts = [self._jacobian(op, side, sizes) for side in self.sides]
        labels = parts[0].labels
        whole = op.add_all([arranged(op, part, labels).value for part in parts])
        return (Side(None, Labelled(whole, labels), 1.0),)

    def _jacobian(self, op: Ops, side: Side, sizes: Sizes) -> Labelled:
        keep = (ROW, SAMPLE, *self.weight)
        first = order([x.labels for x in side.operands], _kept(side.operands, keep), sizes)
        found = contract(op, side.operands, keep, sizes, first)
        if side.scale != 1.0:
            found = replace(found, value=op.Mul(found.value, op.const(side.scale, found.value)))
        absent = [axis for axis, label in enumerate(keep) if label not in found.labels]
        if len(self.sides) > 1 and absent:  # uses may differ in the axes that they repeat along
            present = tuple(label for label in keep if label in found.labels)
            value = op.unsqueeze(arranged(op, found, present).value, *absent)
            shape = tuple(sizes.dim(label) for label in keep)
            found = Labelled(op.Expand(value, op.as_tensor(shape)), keep)
        return found


def _kept(operands: Sequence[Labelled], keep: Collection[str]) -> Labels:
    every = dict.fromkeys(label for x in operands for label in x.labels)
    return tuple(label for label in every if label in keep)


def _trimmed(op: Ops, side: Side, weight: Labels) -> Side:
    """Axes that only one factor has, and not the weight, are summed per block."""
    theirs = side.z.labels if side.z is not None else ()
    cotangent = summed(op, side.cotangent, {ROW, SAMPLE, *weight, *theirs})
    z = side.z
    if z is not None and z.indices is None:
        z = summed(op, z, {SAMPLE, *weight, *cotangent.labels})
    return Side(z, cotangent, side.scale)


# -- two blocks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mirror:
    """The axes of the second block: those of the weight are the first one's."""

    weight: Labels
    form: str

    def label(self, label: str) -> str:
        if label in self.weight or (label == ROW and self.form != "full"):
            return label
        return {ROW: OTHER_ROW, SAMPLE: OTHER_SAMPLE}.get(label, f"{label}'")

    def __call__(self, x: Labelled) -> Labelled:
        return replace(x, labels=tuple(map(self.label, x.labels)))

    def sizes(self, sizes: Sizes, rows: int, samples: int) -> Sizes:
        """The axes of both blocks, the second one of so many rows and samples."""
        own = {label: sizes.number(label) for label in sizes.labels}
        theirs = own | {ROW: rows, SAMPLE: samples}
        mirrored = {self.label(label): size for label, size in theirs.items()}
        return Sizes(mirrored | own)


def product(
    op: Ops, one: Side, other: Side, mirror: Mirror, sizes: Sizes, memo: Memo
) -> tuple[Labelled, Labelled | None, float]:
    """What one use of a block and one of another contribute: the product of what is returned."""
    operands = without_indices(op, [*one.operands, *map(mirror, other.operands)])
    keep = KERNEL[mirror.form]
    first = order([x.labels for x in operands], _kept(operands, keep), sizes)
    whole, factor = contract_apart(op, operands, keep, sizes, first, memo)
    # axes of the weight that no factor has: its elements there all count alike
    every = [*one.operands, *other.operands]
    present = {label for x in every for label in (*x.labels, x.indices)}
    alike = sizes.volume([label for label in mirror.weight if label not in present])
    return whole, factor, one.scale * other.scale * alike


# -- terms -------------------------------------------------------------------------------------


def terms(
    uses: Sequence[Use], sizes: dict[str, Dim], form: str, rows: int, samples: int
) -> list[Term]:
    """Uses that share elements of parameters, joined and given the cheaper form.

    Args:
      sizes: filled in with the size of every axis.
      samples: how many a block is expected to have.
    Raises:
      MisalignedError: uses share some elements and not all.
    """
    sizes[ROW] = rows
    found = []
    for i, group in enumerate(_joined(uses)):
        ways = range(max(len(use.readings) for use, _ in group))
        each = [_term(i, group, way, sizes, form, samples) for way in ways]
        found.append(min(each, key=lambda term: term.flops))
    return found


#: a use, and the order in which it has the axes of the first use of the same weight
_Aligned = tuple[Use, tuple[int, ...]]


def _joined(uses: Sequence[Use]) -> list[list[_Aligned]]:
    groups: list[list[_Aligned]] = []
    for use in uses:
        for group in groups:
            first = group[0][0]
            if not first.parameters & use.parameters or not _overlap(first, use):
                continue
            perm = _permutation(first, use)
            if perm is None:
                raise MisalignedError(use.parameters | first.parameters)
            group.append((use, perm))
            break
        else:
            groups.append([(use, tuple(range(len(use.structure.weight))))])
    return groups


def _overlap(first: Use, other: Use) -> bool:
    assert first.origin is not None and other.origin is not None
    return bool(np.intersect1d(first.origin, other.origin).size)


def _permutation(first: Use, other: Use) -> tuple[int, ...] | None:
    """How the axes of one weight are those of the other, if they hold the same elements."""
    assert first.origin is not None and other.origin is not None
    if first.origin.ndim != other.origin.ndim:
        return None
    for perm in itertools.permutations(range(other.origin.ndim)):
        if np.array_equal(first.origin, other.origin.transpose(perm)):
            return perm
    return None


def _term(
    number: int,
    group: Sequence[_Aligned],
    way: int,
    sizes: dict[str, Dim],
    form: str,
    samples: int,
) -> Term:
    """The cheaper form of a term whose uses are read in this way, or the last that they have."""
    first = group[0][0].structure
    weight = tuple(f"w{number}.{i}" for i in range(len(first.weight)))
    sizes.update(zip(weight, first.shape, strict=True))
    sides, readings = [], [use.readings[min(way, len(use.readings) - 1)] for use, _ in group]
    for k, (reading, (_, perm)) in enumerate(zip(readings, group, strict=True)):
        structure = reading.structure
        names = {structure.weight[axis]: weight[i] for i, axis in enumerate(perm)}
        names |= {SAMPLE: SAMPLE, ROW: ROW}
        for label, size in structure.sizes.items():
            names.setdefault(label, f"u{number}.{k}.{label}")
            sizes[names[label]] = size
        z, taps = (None if x is None else _renamed(x, names) for x in (structure.z, structure.taps))
        sides.append(Side(z, _renamed(reading.cotangent, names), structure.scale, taps))
    found = Term(
        name=group[0][0].name,
        parameters=frozenset[int]().union(*(use.parameters for use, _ in group)),
        weight=weight,
        shape=first.shape,
        sides=tuple(sides),
        structures=tuple(dict.fromkeys(s for r in readings for s in r.structure.named())),
    )
    found = _cheaper(found, Sizes(sizes, samples), form)
    return replace(found, making=found.making + sum(r.making for r in readings))


def _renamed(x: Labelled, names: dict[str, str]) -> Labelled:
    labels = tuple(names[label] for label in x.labels)
    return replace(x, labels=labels, indices=None if x.indices is None else names[x.indices])


def _cheaper(term: Term, sizes: Sizes, form: str) -> Term:
    if any(side.taps is not None for side in term.sides):
        return _as_outer(term, sizes, form)
    inner = _as_inner(term, sizes, form)
    if any(x.indices is not None for side in term.sides for x in side.operands):
        return inner
    return min(_as_outer(term, sizes, form), inner, key=lambda t: t.flops)


def _as_outer(term: Term, sizes: Sizes, form: str) -> Term:
    pair = sizes.number(ROW) * sizes.number(SAMPLE)
    others = sizes.number(SAMPLE) * (sizes.number(ROW) if form == "full" else 1)
    volume = math.prod(term.shape)
    keep = (ROW, SAMPLE, *term.weight)
    making = 0.0
    for side in term.sides:
        labels = [x.labels for x in side.operands]
        making += order(labels, _kept(side.operands, keep), sizes).flops
    found = replace(term, outer=True, making=making, pairing=2.0 * pair * others * volume)
    return replace(found, kept=float(pair * volume), largest=float(pair * others))


def _as_inner(term: Term, sizes: Sizes, form: str) -> Term:
    """Indices count for as much as numbers; what they stand for is never multiplied."""
    mirror = Mirror(term.weight, form)
    pairs = mirror.sizes(sizes, sizes.number(ROW), sizes.number(SAMPLE))
    flops = kept = largest = 0.0
    for one in term.sides:
        kept += sum(sizes.volume(x.labels) for x in one.operands)
        for other in term.sides:
            operands = [*one.operands, *map(mirror, other.operands)]
            out = _kept(operands, KERNEL[form])
            first = order([x.labels for x in operands], out, pairs)
            flops += first.flops
            largest = max(largest, first.largest)
    return replace(term, outer=False, pairing=flops, kept=kept, largest=largest)
