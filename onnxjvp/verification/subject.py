"""A rewritten model and its original at one point: all that the checks of any kind start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import ModelLike, TensorSpec
from onnxjvp.verification.contract import Contract
from onnxjvp.verification.point import Values
from onnxjvp.verification.precision import Dtype, narrower
from onnxjvp.verification.report import Array


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
    #: output of the original → the narrowest dtype on the way to it
    narrowest: Mapping[str, Dtype]
    #: the outputs that are differentiated, or that the scalar is made of
    sources: tuple[str, ...]

    def dtype(self, tensor: str, values: Array) -> Dtype:
        """The dtype that a float tensor is judged by.

        Its own, or the narrowest of the original's on the way to the outputs that it belongs to:
        what the rewritten model adds is no excuse.
        """
        outputs = self._owners.get(tensor, self.sources)
        found = narrower((values.dtype, *(self.narrowest.get(name) for name in outputs)))
        assert found is not None
        return found

    def is_half(self, output: str) -> bool:
        """Whether an output of the original is float16, or computed of such."""
        values = self.primal[output]
        return np.dtype(np.float16) in (values.dtype, self.narrowest.get(output))

    @cached_property
    def _owners(self) -> dict[str, tuple[str, ...]]:
        """Tensor → the one output that it belongs to; gradients belong to all."""
        owners: dict[str, tuple[str, ...]] = {name: (name,) for name in self.primal}
        if self.contract.form in ("jvp", ""):
            for name, forms in self.contract.results.items():
                owners |= dict.fromkeys(forms.values(), (name,))
        return owners

    @cached_property
    def original(self) -> Evaluator:
        """The original in float64; NoOracleError if it cannot be."""
        return Evaluator(self.before)

    @cached_property
    def rewritten(self) -> Evaluator:
        """The rewritten model in float64; NoOracleError if it cannot be."""
        return Evaluator(self.after)
