"""The rewritten model in the runtime and in float64, and the derivative that it should have."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.oracle import (
    RANDOM,
    Derivative,
    Evaluator,
    NoOracleError,
    directional_derivative,
)
from onnxjvp.runtime import ModelLike
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.point import Point, Values
from onnxjvp.verification.report import (
    AMPLIFIED,
    DIFFERENCES,
    TOLERANCES,
    UNITS,
    Array,
    Where,
    compare,
)


class Engine:
    """The rewritten model at the point, evaluated once for each direction."""

    def __init__(
        self,
        where: Where,
        run: Callable[[Values], Values],
        contract: Contract,
        point: Point,
        dtypes: Mapping[str, Any],
    ) -> None:
        self.where: Where = where
        self._run, self._contract, self._point, self._dtypes = run, contract, point, dtypes
        self._values: dict[str, Values] = {}

    def __call__(self, direction: str) -> Values:
        if direction not in self._values:
            feeds = self._point.seeded(self._contract, direction, self._dtypes)
            self._values[direction] = self._run(feeds)
        return self._values[direction]


class Precise(Engine):
    """The rewritten model at the point in float64."""

    def __init__(
        self, evaluator: Evaluator, contract: Contract, point: Point, dtypes: Mapping[str, Any]
    ) -> None:
        super().__init__("float64", evaluator.run, contract, point, dtypes)
        self._evaluator = evaluator

    def moved(
        self, tensor: str, terms: tuple[str, ...], dtype: np.dtype[Any], *, by_norm: bool
    ) -> float:
        """How far a tensor is off, relatively, if inputs and weights are by units of a dtype."""
        key = f"noise of {dtype}"
        if key not in self._values:
            feeds = self._point.seeded(self._contract, "u", self._dtypes)
            noise = UNITS * float(np.finfo(dtype).eps)
            self._values[key] = self._evaluator.run(feeds, noise=noise)
        noisy, values = self._values[key][tensor], self("u")
        scales = tuple(values[term] for term in terms)
        return _distance(noisy, values[tensor], scales, by_norm=by_norm)


def _distance(
    found: Array, expected: Array, terms: tuple[Array, ...] = (), *, by_norm: bool = False
) -> float:
    row = compare("", "", "float64", found, expected, 0.0, terms=terms, by_norm=by_norm)
    return math.inf if row.relative is None else row.relative


def consult_oracle(
    before: ModelLike, after: ModelLike, contract: Contract, point: Point, primal: Values
) -> tuple[Derivative | None, Precise | None, str]:
    """The derivative, the rewritten model in float64, and what the oracle is."""
    try:
        derivative = _differences(before, contract, point, primal)
    except NoOracleError as error:
        return None, None, f"no oracle: {error}"
    try:
        doubles = dict.fromkeys(contract.seeds.values(), np.float64)
        precise = Precise(Evaluator(after), contract, point, doubles)
        precise("u")
    except NoOracleError:
        return derivative, None, "float64 differences"
    return derivative, precise, "float64 differences"


def _differences(before: ModelLike, contract: Contract, point: Point, primal: Values) -> Derivative:
    evaluator = Evaluator(before)
    inside = [name for name in contract.seeds if name not in point.at]
    x = point.feeds | point.at
    if inside:
        x |= evaluator.run(point.feeds, inside)
    derivative = directional_derivative(
        evaluator.run, x, point.directions["u"], list(contract.results), target=DIFFERENCES
    )
    for name in contract.results:
        dtype, expected = primal[name].dtype, derivative.primal[name]
        apart = _distance(primal[name], expected)
        allowed = TOLERANCES[dtype.name]
        if apart <= allowed.rounding:
            continue
        noisy = evaluator.run(x, noise=UNITS * float(np.finfo(dtype).eps))[name]
        tolerance = min(AMPLIFIED * _distance(noisy, expected), allowed.runtime)
        tolerance = max(tolerance, allowed.rounding)
        if not apart <= tolerance:
            raise NoOracleError(
                f"{name} in float64 differs from the runtime's by {apart:.1e}, more than "
                f"{tolerance:.0e}"
            )
    return derivative


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
