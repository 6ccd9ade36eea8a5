"""What a derivative should be: a model in float64, moved a little."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxjvp.oracle import Derivative, Evaluator, NoOracleError, directional_derivative
from onnxjvp.verification.point import Values
from onnxjvp.verification.precision import Dtype
from onnxjvp.verification.report import (
    AMPLIFIED,
    DIFFERENCES,
    TOLERANCES,
    UNITS,
    Array,
    distance,
)


class Truth:
    """A model's outputs in float64, and how they move with some of its values.

    A variable that is computed inside the model is moved on top of what reaches it, so that moving
    another variable moves it too.

    Args:
      evaluator: the model.
      feeds: its inputs.
      variables: inputs, parameters and values inside.
      outputs: names of values that will be asked about.
      runtime: what a runtime makes of some outputs; the evaluation is trusted only if it agrees.
      dtype: (output, its values) → the dtype that says how well.
    Raises:
      NoOracleError: the model cannot be evaluated, or not as the runtime does.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        feeds: Mapping[str, Array],
        variables: Sequence[str],
        outputs: Sequence[str],
        runtime: Mapping[str, Array],
        dtype: Callable[[str, Array], Dtype],
    ) -> None:
        self._evaluator, self._feeds, self._dtype = evaluator, dict(feeds), dtype
        wanted = dict.fromkeys((*outputs, *variables, *runtime))
        values = evaluator.run(self._feeds, list(wanted))
        #: the variables at the point
        self.at: Values = {name: values[name].astype(np.float64) for name in variables}
        self.primal: Values = {name: values[name] for name in (*outputs, *runtime)}
        self._check_trusted(runtime)

    def along(self, u: Mapping[str, Array], outputs: Sequence[str]) -> Derivative:
        """J u of some outputs; variables that `u` lacks stay."""

        def run(values: Values) -> Values:
            # an infinity stays as it is
            added = {
                name: np.where(np.isfinite(self.at[name]), values[name] - self.at[name], 0.0)
                for name in u
            }
            return self._evaluator.run(self._feeds, outputs, added=added)

        with np.errstate(invalid="ignore"):
            return directional_derivative(
                run, self.at, u, outputs, target=DIFFERENCES, primal=self.primal
            )

    def _check_trusted(self, runtime: Mapping[str, Array]) -> None:
        for name, found in runtime.items():
            if found.dtype.kind != "f":
                continue
            expected, dtype = self.primal[name], self._dtype(name, found)
            apart = distance(found, expected)
            allowed = TOLERANCES[dtype.name]
            if apart <= allowed.rounding:
                continue
            noise = UNITS * float(np.finfo(dtype).eps)
            noisy = self._evaluator.run(self._feeds, [name], noise=noise)[name]
            tolerance = min(AMPLIFIED * distance(noisy, expected), allowed.runtime)
            tolerance = max(tolerance, allowed.rounding)
            if not apart <= tolerance:
                raise NoOracleError(
                    f"{name} in float64 differs from the runtime's by {apart:.1e}, more than "
                    f"{tolerance:.0e}"
                )
