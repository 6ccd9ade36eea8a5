"""The equation of an Einsum: which axes of its operands and of its result are one."""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims, UnknownTypeError


@dataclass(frozen=True)
class Equation:
    """A letter per axis. Ellipses are written out; those of the operands end at one axis."""

    operands: tuple[str, ...]
    result: str

    def __str__(self) -> str:
        return f"{','.join(self.operands)}->{self.result}"

    def unused(self) -> Iterator[str]:
        """Letters that no axis has.

        Raises:
          UnknownTypeError: on the way, when no letter is left.
        """
        return _unused("".join(self.operands))

    def sizes(self, shapes: Sequence[Dims]) -> dict[str, Dim]:
        """The size behind every letter: what the axes that bear it broadcast to."""
        found: dict[str, Dim] = {}
        for term, shape in zip(self.operands, shapes, strict=True):
            for letter, size in zip(term, shape, strict=True):
                found[letter] = dims.broadcast(found.get(letter, 1), size)
        return found


def read(text: str, ranks: Sequence[int]) -> Equation:
    """An equation as ONNX's Einsum-12 has it, for operands of given ranks.

    Without an arrow the result has the letters that occur once, in the order of their codes, behind
    the axes of the ellipsis.
    """
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    letters = "".join(c for c in left if c.isalpha())
    hidden = [
        rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term
    ]
    spare = _unused(letters)
    whole = "".join(next(spare) for _ in range(max(hidden, default=0)))
    if not arrow:
        right = ("..." if hidden else "") + "".join(
            sorted(c for c in set(letters) if letters.count(c) == 1)
        )

    def written_out(term: str, rank: int) -> str:
        count = rank - len(term) + 3
        return term.replace("...", whole[len(whole) - count :])

    operands = tuple(map(written_out, terms, ranks))
    for term, rank in zip(operands, ranks, strict=True):
        if len(term) != rank:
            raise ValueError(
                f"{text!r} does not fit operands of ranks {', '.join(map(str, ranks))}"
            )
    return Equation(operands, right.replace("...", whole))


def _unused(letters: str) -> Iterator[str]:
    yield from (c for c in string.ascii_letters if c not in letters)
    raise UnknownTypeError("its equation leaves no letter for another axis")
