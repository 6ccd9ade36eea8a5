"""Pairs of blocks of samples: which there are, in which order, and what is kept between them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from onnxjvp.kernels.kernel import Block

#: (block of the first data set, block of the second one)
Pair = tuple[int, int]
#: (0 for the first data set or 1, its block)
Key = tuple[int, int]


@dataclass(frozen=True)
class Grid:
    """N1 × N2 samples in blocks; of a symmetric kernel only the pairs on and above the diagonal."""

    samples: tuple[int, int]
    block: int
    symmetric: bool

    @property
    def blocks(self) -> tuple[int, int]:
        one, two = (-(-n // self.block) for n in self.samples)
        return one, two

    def span(self, side: int, index: int) -> slice:
        """The samples of a block."""
        start = index * self.block
        return slice(start, min(start + self.block, self.samples[side]))

    def keys(self, pair: Pair) -> tuple[Key, Key]:
        """The blocks of a pair; the two data sets of a symmetric kernel are one."""
        return (0, pair[0]), (0 if self.symmetric else 1, pair[1])

    def size(self, pair: Pair) -> int:
        """How many pairs of samples are computed."""
        sizes = [
            min(self.block, n - i * self.block) for n, i in zip(self.samples, pair, strict=True)
        ]
        return sizes[0] * sizes[1]

    def pairs(self) -> Iterator[Pair]:
        for panel in self.panels(self.blocks[0]):
            yield from panel

    def panels(self, rows: int) -> Iterator[list[Pair]]:
        """All pairs, in panels of so many rows that are gone through column by column.

        With rows + 1 blocks' factors kept, those of a panel's rows are computed once, and those of
        a column once a panel. Every other panel is gone through backwards, so that the column at
        which two panels meet serves both.
        """
        backwards = False
        for start in range(0, self.blocks[0], rows):
            panel = range(start, min(start + rows, self.blocks[0]))
            columns = range(start if self.symmetric else 0, self.blocks[1])
            yield [
                (i, j)
                for j in (reversed(columns) if backwards else columns)
                for i in panel
                if i <= j or not self.symmetric
            ]
            backwards = not backwards


class Kept:
    """Factors of at most so many blocks; what was used longest ago goes first."""

    def __init__(self, make: Callable[[Key], Block], most: int) -> None:
        self._make = make
        self._factors: OrderedDict[Key, Block] = OrderedDict()
        self.most = max(2, most)
        #: how often factors were computed
        self.computed = 0

    def get(self, key: Key, needed: Collection[Key]) -> Block:
        """The factors of a block.

        Args:
          needed: blocks that are used again soon: others go before them. Going through rows over
            and over would otherwise drop each row right before its turn.
        """
        if key in self._factors:
            self._factors.move_to_end(key)
            return self._factors[key]
        while len(self._factors) >= self.most:
            others = [k for k in self._factors if k not in needed]
            del self._factors[(others or list(self._factors))[0]]
        self.computed += 1
        self._factors[key] = self._make(key)
        return self._factors[key]
