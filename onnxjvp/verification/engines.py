"""The rewritten model in the runtime and in float64."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.oracle import RANDOM, Evaluator
from onnxjvp.verification.point import Values
from onnxjvp.verification.report import UNITS, Where


class Engine:
    """The rewritten model at the point, evaluated once for each direction.

    Args:
      feeds: inputs that are no directions.
      directions: name of a set of directions → input → array.
      dtypes: of the inputs that take directions.
    """

    def __init__(
        self,
        where: Where,
        run: Callable[[Values], Values],
        feeds: Values,
        directions: Mapping[str, Values],
        dtypes: Mapping[str, Any],
    ) -> None:
        self.where: Where = where
        self._run, self._feeds, self._directions = run, feeds, directions
        self._dtypes = dtypes
        self._values: dict[str, Values] = {}

    def __call__(self, direction: str) -> Values:
        if direction not in self._values:
            self._values[direction] = self._run(self._fed(direction))
        return self._values[direction]

    def _fed(self, direction: str) -> Values:
        chosen = self._directions[direction]
        return self._feeds | {n: np.asarray(a, self._dtypes[n]) for n, a in chosen.items()}


class Precise(Engine):
    """The rewritten model at the point in float64."""

    def __init__(
        self, evaluator: Evaluator, feeds: Values, directions: Mapping[str, Values]
    ) -> None:
        doubles = {name: np.float64 for chosen in directions.values() for name in chosen}
        super().__init__("float64", evaluator.run, feeds, directions, doubles)
        self._evaluator = evaluator

    def noisy(
        self, direction: str, dtype: np.dtype[Any], *, inside: bool = False, draw: int = 0
    ) -> Values:
        """The values if inputs and weights are off by units of a dtype, or all inside are too."""
        key = f"{direction}, noise {draw} of {dtype}{' inside' if inside else ''}"
        if key not in self._values:
            noise = UNITS * float(np.finfo(dtype).eps)
            feeds = self._fed(direction)
            self._values[key] = self._evaluator.run(feeds, noise=noise, inside=inside, draw=draw)
        return self._values[key]


def seeded(model: ir.Model) -> ir.Model:
    """The model with a seed in every random node, the same for the same output name."""
    model = model.clone()
    for node in model.graph.all_nodes():
        if node.op_type in RANDOM and "seed" not in node.attributes:
            kind = ir.AttributeType.INT if node.op_type == "Dropout" else ir.AttributeType.FLOAT
            number = zlib.crc32((node.outputs[0].name or "").encode()) % 1000
            seed = number if kind == ir.AttributeType.INT else float(number)
            node.attributes["seed"] = ir.Attr("seed", kind, seed)
    return model
