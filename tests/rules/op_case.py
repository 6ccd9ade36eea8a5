"""A row of the op tables: a small model, what is fed to it, and how far it is differentiable."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from helpers import Array, Draw, Input, Run, Values, build, checked, double, normal, ort, running
from onnx import ModelProto

from onnxjvp import Rewritten, clone, jvp, vjp
from onnxjvp.oracle import Evaluator

FORMS = ("jvp", "split", "stacked", "substitute")
#: for what the tests of one case share: they run one after another (conftest.py)
made_once = lru_cache(maxsize=32)


@dataclass(frozen=True, eq=False)
class OpCase:
    """One model. `body`, `inputs` and `params` are those of `helpers.build`."""

    name: str
    body: str
    inputs: Mapping[str, Input] = field(default_factory=lambda: {"x": ("N", 3)})
    params: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)
    #: shapes of outputs that onnx's inference does not know, where they are not the first input's
    declared: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    opset: int = 18
    #: sizes of the symbols
    sizes: Mapping[str, int] = field(default_factory=lambda: {"N": 2})
    draw: Draw = normal
    #: other draws than `draw`, by input
    draws: Mapping[str, Draw] = field(default_factory=dict)
    #: outputs that have no derivative
    excluded: tuple[str, ...] = ()
    #: the derivative is zero everywhere
    flat: bool = False
    #: draws numbers from a seed: every run needs a new session
    random: bool = False
    #: only float32 exists of it
    single: bool = False
    #: why onnxruntime cannot run it in float16
    no_half: str = ""
    #: why onnxruntime cannot run it at all
    no_runtime: str = ""
    #: why the evaluator runs it, though onnxruntime has the kernels
    evaluated: str = ""
    #: why f(x) in one dtype is nowhere near f(x) in another
    by_dtype: str = ""
    #: why a number of directions that is known at run time only is refused
    no_dynamic: str = ""
    #: why there is no derivative for an empty batch, or onnxruntime gets the original wrong
    not_empty: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def dtype(self) -> str:
        """What float64 checks are run on."""
        return "float32" if self.single else "float64"

    def model(self, dtype: str | None = None, rounded: str | None = None) -> ModelProto:
        return build(
            self.body,
            self.inputs,
            {name: _short(value) for name, value in self.params.items()},
            self.outputs,
            dtype=dtype or self.dtype,
            opset=self.opset,
            rounded=rounded,
            declared=self.declared,
        )

    def is_the_same_in(self, dtype: str) -> bool:
        """Whether a model in `dtype` has the parameters of the float64 model, to the last bit."""
        floats = (p for p in map(_short, self.params.values()) if p.dtype == np.float64)
        return all(np.array_equal(p, p.astype(dtype), equal_nan=True) for p in floats)

    def run(self, model: ModelProto) -> Run:
        """Evaluates a float64 model of this case."""
        if self.single or self.evaluated:
            return Evaluator(model).run
        return double(model, fresh=self.random)

    def point(self, **sizes: int) -> Values:
        """What is fed to the original."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        values = {}
        for name, given in self.inputs.items():
            if isinstance(given, np.ndarray):
                values[name] = given
            else:
                draw = self.draws.get(name, self.draw)
                values[name] = draw(rng, self._sized(given, sizes))
        return values

    def direction(self, seed: int = 1, **sizes: int) -> Values:
        """A tangent for each float input."""
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        return {
            name: np.asarray(rng.standard_normal(self._sized(given, sizes)))
            for name, given in self.inputs.items()
            if not isinstance(given, np.ndarray)
        }

    def _sized(self, shape: tuple[int | str, ...], sizes: Mapping[str, int]) -> tuple[int, ...]:
        known = {**self.sizes, **sizes}
        return tuple(known[d] if isinstance(d, str) else d for d in shape)

    @property
    def differentiable(self) -> tuple[str, ...]:
        return tuple(o for o in self.outputs if o not in self.excluded)


def _short(value: Any) -> Array:
    """Weights in numbers that float16 has as well, so that a case is one model in all dtypes.

    What float16 has nothing near to (1e-9, 1e30) stays, and so do single numbers: some, such as
    1/√2, make an operator what it is.
    """
    array = np.asarray(value)
    if array.dtype != np.float64 or array.size == 1:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        short = array.astype(np.float16).astype(np.float64)
        return np.where(np.abs(short - array) <= 1e-3 * np.abs(array), short, array)


@made_once
def rewritten(case: OpCase, form: str, dtype: str | None = None) -> tuple[Rewritten, ModelProto]:
    """The case in one of FORMS, or its "vjp", checked."""
    return _checked(form, case.model(dtype))


@made_once
def twice(case: OpCase, first: str, second: str) -> tuple[Rewritten, ModelProto]:
    """The derivative of a derivative, each "jvp" or "vjp", checked."""
    return _checked(second, rewritten(case, first)[0])


def _checked(form: str, model: ModelProto | Rewritten) -> tuple[Rewritten, ModelProto]:
    match form:
        case "jvp":
            result = jvp(model)
        case "vjp":
            result = vjp(model)
        case "substitute":
            result = clone(model, method="substitute")
        case layout:
            result = clone(model, layout=layout)
    return result, checked(result)


@made_once
def run_of(case: OpCase, *forms: str) -> Run:
    """Evaluates the float64 model of a case, one of its forms, or a form of a form."""
    match forms:
        case ():
            return case.run(case.model())
        case (form,):
            return case.run(rewritten(case, form)[1])
        case (first, second):
            return case.run(twice(case, first, second)[1])
    raise AssertionError(forms)


@made_once
def ort_of(case: OpCase, dtype: str, form: str | None = None) -> Run:
    """Runs the model of a case in a dtype, or one of its forms, in onnxruntime."""
    model = case.model(dtype) if form is None else rewritten(case, form, dtype)[1]
    if case.random:  # which draws other numbers in every run of a session
        return lambda feeds: ort(model, feeds)
    return running(model)


#: an operator and one of its operands
Operand = tuple[str, int]


def never_found(
    wanted: set[Operand], cases: Sequence[OpCase], found: Callable[[OpCase], set[Operand]]
) -> set[Operand]:
    """What of `wanted` no case has; cases that spell out most of a name are asked first."""
    seen: set[OpCase] = set()
    missing = set(wanted)
    for name, index in sorted(wanted):
        words = [name, *re.findall(r"[A-Z][a-z]+", name)]
        for case in sorted(cases, key=lambda case: -sum(word in case.body for word in words)):
            if (name, index) not in missing:
                break
            if case not in seen:
                seen.add(case)
                missing -= found(case)
    return missing


def seeded(result: Rewritten, x: Values, u: Values) -> Values:
    """Feeds of a rewritten model: the point, and directions under the names of the seeds."""
    return {**x, **{result.names["seeds"][name]: array for name, array in u.items()}}


def form_of(result: Rewritten, values: Values, form: str) -> dict[str, Array]:
    """Of every output, the result `form`: "jvp", "u", "0" or "s"."""
    return {y: values[names[form]] for y, names in result.names["results"].items()}
