"""The contraction of two blocks, a model of its own on what is kept of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from onnxjvp.kernels.blank import Blank
from onnxjvp.kernels.contracted import Sides, contracted
from onnxjvp.kernels.cut import Cut
from onnxjvp.kernels.labelled import Labelled, Sizes
from onnxjvp.kernels.method import Problem
from onnxjvp.kernels.structures import ROW, SAMPLE
from onnxjvp.runtime import Array, Session


class Pair:
    """The contraction of two blocks, a model of its own on what is kept of both.

    Args:
      first, second: how many samples and rows each block has.
    """

    def __init__(
        self,
        problem: Problem,
        cut: Cut,
        first: tuple[int, int],
        second: tuple[int, int],
        *,
        keep_memory: bool = True,
    ) -> None:
        self._blank, self._fed = Blank.named("structured"), dict[tuple[str, str], ir.Value]()
        sizes = _of_block(cut, *first), _of_block(cut, *second)
        blocks = (self._given("a", cut.kept, sizes[0]), self._given("b", cut.kept, sizes[1]))
        made = contracted(self._blank.op, problem, cut.terms, cut.groups, blocks, sizes)
        self.model = self._blank.finish({"kernel": made})
        self._session = Session(self.model, providers=problem.providers, keep_memory=keep_memory)

    def run(self, a: Mapping[str, Array], b: Mapping[str, Array]) -> Array:
        """[groups, *axes of the form], see `Method.product`."""
        blocks = {"a": a, "b": b}
        feeds = {f"{block}.{name}": blocks[block][name] for block, name in self._fed}
        return self._session.run(feeds)["kernel"]

    def _given(self, block: str, kept: Sides, sizes: Sizes) -> Sides:
        """What is kept of a block, on inputs of this model."""

        def given(x: Labelled) -> Labelled:
            name = x.value.name or ""
            if (block, name) not in self._fed:
                shape = [sizes.number(label) for label in x.labels]
                assert x.value.dtype is not None
                self._fed[block, name] = self._blank.input(f"{block}.{name}", x.value.dtype, shape)
            return replace(x, value=self._fed[block, name])

        return [[side.on(given) for side in sides] for sides in kept]


def _of_block(cut: Cut, samples: int, rows: int) -> Sizes:
    return cut.sizes.having(SAMPLE, samples).having(ROW, rows)
