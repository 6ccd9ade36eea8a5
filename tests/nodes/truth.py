"""What is true of a case: the original in float64, and how it moves along a direction.

The engine must reproduce the outputs that onnx ships; the derivative is central differences of it,
confirmed by steps of other lengths. The registry of rules is never asked.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from engines import FAILURES, Engine, EngineError, Values, precise_engines, runtime, wide
from standard import Array, Fed, NodeCase

from onnxjvp.oracle import Derivative, directional_derivative
from onnxjvp.oracle.differences import STEPS

#: of outputs that are shipped, relative to the largest element, beside onnx's own `rtol`
SHIPPED = {"float64": 1e-6, "float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
#: a point is taken if this share of the finite elements is settled
_ENOUGH = 0.9
#: how far the shipped point is moved, relative to each number, where it is at a kink
MOVES = (0.0, 0.01, 0.1)


@dataclass(frozen=True)
class Accuracy:
    """What an engine of some precision is good for; all numbers are relative."""

    #: steps of the differences, and others that must confirm them
    steps: tuple[float, ...]
    others: tuple[float, ...]
    #: how far those may be off
    confirmed: float
    #: differences are used where their error is below this share of the largest slope
    settled: float
    #: tolerances: of J u against differences, of f(x) against f(x), of sums and differences
    differences: float
    same: float
    sums: float


FINE = Accuracy(STEPS, (3e-7, 1e-5), 1e-2, 1e-3, 1e-5, 1e-9, 1e-7)
#: for kernels that round to float32 inside, where no other is there
COARSE = Accuracy((1e-2, 3e-3, 3e-2), (5e-3, 2e-2), 1e-1, 3e-2, 3e-2, 1e-5, 1e-4)


@dataclass(frozen=True)
class Truth:
    """The original at a point, and how it moves along one direction."""

    engine: Engine
    accuracy: Accuracy
    point: Values
    direction: dict[str, Array]
    derivative: Derivative
    #: per output, elements that do not move at all, by any step
    still: dict[str, Array]
    #: per output, elements whose derivative is known
    settled: dict[str, Array]
    moved: float

    @property
    def outputs(self) -> list[str]:
        return list(self.derivative.value)

    def flat(self, y: str) -> bool:
        """Whether no element moves of which a derivative is known."""
        return bool(np.all(self.still[y] | ~self.settled[y]))

    def value(self, y: str) -> Array:
        return np.where(self.still[y], 0.0, self.derivative.value[y])


def truth_of(case: NodeCase) -> tuple[Truth | None, str]:
    """The truth in all variables that differences settle in; else why there is none."""
    shipped = wide(case.outputs)
    variables, outputs = case.variables, case.float_outputs
    if not variables or not outputs:
        what = "input" if not variables else "output"
        return None, f"no float tensor is an {what} (they are inside sequences or optionals)"
    reasons: list[str] = []
    for accuracy in (FINE, COARSE):
        engines = []
        for engine in _engines(case, accuracy):
            try:
                made = engine.run(wide(case.inputs))
            except EngineError as error:
                reasons.append(str(error)[:150])
                continue
            if different := _apart(case, made, shipped):
                reasons.append(f"{engine.name} makes another {different} than shipped")
                continue
            found = settle(case, engine, accuracy, variables, outputs)
            if found is not None:
                return found, ""
            engines.append(engine)
        for engine in engines:
            alone = (settle(case, engine, accuracy, [x], outputs) for x in variables)
            steady = [x for x, one in zip(variables, alone, strict=True) if one is not None]
            found = settle(case, engine, accuracy, steady, outputs) if steady else None
            if found is not None:
                return found, "its differences do not settle, or change the shape of an output"
            reasons.append(f"differences of {engine.name} do not settle")
    return None, "; ".join(dict.fromkeys(reasons))


def _engines(case: NodeCase, accuracy: Accuracy) -> Iterator[Engine]:
    """Engines that may be as accurate: that they are shows when differences settle."""
    yield from precise_engines(case.model)
    if accuracy is COARSE:
        with contextlib.suppress(*FAILURES):
            yield runtime(case.model)


def _apart(case: NodeCase, made: Mapping[str, Fed], shipped: Mapping[str, Fed]) -> str:
    """The first output that is not as shipped."""
    for name, want in shipped.items():
        kind = getattr(case.outputs[name], "dtype", np.dtype(np.float32)).name
        if not alike(made[name], want, case.rtol, SHIPPED.get(kind, SHIPPED["float32"])):
            return name
    return ""


def alike(made: Fed, want: Fed, rtol: float, share: float) -> bool:
    if isinstance(want, list):
        return len(made) == len(want) and all(
            alike(a, b, rtol, share) for a, b in zip(made, want, strict=True)
        )
    if want is None or made is None:
        return want is made
    made, want = np.asarray(made), np.asarray(want)
    if made.shape != want.shape:
        return False
    if want.dtype.kind != "f":
        return bool(np.array_equal(made, want))
    atol = share * size_of(want)
    return bool(np.allclose(made, want, rtol=max(rtol, share), atol=atol, equal_nan=True))


def settle(
    case: NodeCase,
    engine: Engine,
    accuracy: Accuracy,
    variables: Sequence[str],
    outputs: Sequence[str],
) -> Truth | None:
    """Differences at the shipped point, or near it where that is at a kink."""
    for size in MOVES:
        rng = np.random.default_rng([zlib.crc32(case.name.encode()), int(1000 * size)])
        point = wide(case.inputs)
        for name in case.variables if size else ():
            point[name] = _moved(point[name], size, rng)
        u = {name: np.asarray(rng.standard_normal(point[name].shape)) for name in variables}
        run = _arrays(case, engine, outputs)
        try:
            derivative = directional_derivative(
                run, point, u, outputs, steps=accuracy.steps, target=1e-4 * accuracy.settled
            )
            still = _still(run, point, u, derivative.primal, accuracy)
            confirmed = _confirmed(run, point, u, derivative, accuracy)
        except EngineError:
            continue
        settled = {
            y: np.asarray(still[y] | (derivative.within(y, accuracy.settled) & confirmed[y]))
            for y in outputs
        }
        truth = Truth(engine, accuracy, point, u, derivative, still, settled, size)
        if all(_enough(truth, y) for y in outputs):
            return truth
    return None


def _still(
    run: Callable[[Values], dict[str, Array]],
    x: Values,
    u: Mapping[str, Array],
    primal: Mapping[str, Array],
    accuracy: Accuracy,
) -> dict[str, Array]:
    """Elements that no step moves, a large one among them."""
    still = {y: np.asarray(np.isfinite(value)) for y, value in primal.items()}
    for step in (*accuracy.steps[:2], 10 * max(accuracy.others)):
        for there in _beside(run, x, u, step):
            still = {y: mask & (there[y] == primal[y]) for y, mask in still.items()}
    return {y: np.asarray(mask) for y, mask in still.items()}


def _confirmed(
    run: Callable[[Values], dict[str, Array]],
    x: Values,
    u: Mapping[str, Array],
    derivative: Derivative,
    accuracy: Accuracy,
) -> dict[str, Array]:
    """Elements whose slope is the same by steps that were not tried: noise and poles are not."""
    agree = {y: np.ones(value.shape, bool) for y, value in derivative.value.items()}
    for step in accuracy.others:
        ahead, behind = _beside(run, x, u, step)
        for y, value in derivative.value.items():
            with np.errstate(invalid="ignore"):
                apart = np.abs((ahead[y] - behind[y]) / (2 * step) - value)
            finite = np.abs(value[np.isfinite(value)])
            usual = float(np.median(finite)) if finite.size else 0.0
            rounding = 8 * float(np.finfo(np.float64).eps) * size_of(derivative.primal[y]) / step
            allowed = accuracy.confirmed * (np.abs(value) + usual) + rounding
            agree[y] = agree[y] & (apart <= allowed)
    return agree


def _beside(
    run: Callable[[Values], dict[str, Array]], x: Values, u: Mapping[str, Array], step: float
) -> tuple[dict[str, Array], dict[str, Array]]:
    ahead, behind = (
        run({**x, **{name: x[name] + signed * u[name] for name in u}}) for signed in (step, -step)
    )
    return ahead, behind


def _moved(values: Array, size: float, rng: np.random.Generator) -> Array:
    """Every number by up to `size` of itself, zeros to small positive numbers: signs stay."""
    typical = float(np.sqrt(np.mean(np.square(values[np.isfinite(values)])))) if values.size else 0
    away = values * (1 + size * rng.uniform(-1, 1, values.shape))
    zeros = size * (typical or 1.0) * rng.uniform(0.1, 1, values.shape)
    return np.asarray(np.where(values == 0, zeros, away))


def _arrays(
    case: NodeCase, engine: Engine, outputs: Sequence[str]
) -> Callable[[Values], dict[str, Array]]:
    """The engine's float outputs; raises EngineError where their shapes depend on the point."""
    shapes: dict[str, tuple[int, ...]] = {}

    def run(values: Values) -> dict[str, Array]:
        made = engine.run(values)
        arrays = {name: np.asarray(made[name], np.float64) for name in outputs}
        for name, array in arrays.items():
            emptied = not array.size and np.size(case.outputs[name])
            if emptied or shapes.setdefault(name, array.shape) != array.shape:
                raise EngineError(f"the shape of {name} changes")
        return arrays

    return run


def _enough(truth: Truth, y: str) -> bool:
    settled, finite = truth.settled[y], np.isfinite(truth.derivative.primal[y])
    return not finite.any() or bool(settled[finite].mean() >= _ENOUGH)


def size_of(values: Array) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))
