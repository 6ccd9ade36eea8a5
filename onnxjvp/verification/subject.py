"""A rewritten model and its original at one point: all that the checks of any kind start from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import ModelLike, TensorSpec
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.point import Values


@dataclass(frozen=True)
class Subject:
    """A rewritten model and its original, at inputs x."""

    contract: Contract
    before: ModelLike
    after: ModelLike
    #: inputs of the rewritten model that are no directions, the original's among them
    feeds: Values
    #: names of those inputs that the original has not: targets, labels
    extra: frozenset[str]
    #: the original's outputs in the runtime
    primal: Values
    #: the rewritten model in the runtime
    run: Callable[[Values], Values]
    #: inputs of the rewritten model, by name
    specs: dict[str, TensorSpec]
    #: variables whose value needs no evaluation: inputs and constants
    known: Values
    #: variable → the direction that is in the file
    baked: Values
    #: directions at once; None: they have no axis
    count: int | None
    #: symbolic dimension → size
    sizes: dict[str, int]
    seed: int
    tolerance: float | None
    #: whether f(x) must be the original's bit for bit
    exact: bool

    @cached_property
    def original(self) -> Evaluator:
        """The original in float64; NoOracleError if it cannot be."""
        return Evaluator(self.before)

    @cached_property
    def rewritten(self) -> Evaluator:
        """The rewritten model in float64; NoOracleError if it cannot be."""
        return Evaluator(self.after)
