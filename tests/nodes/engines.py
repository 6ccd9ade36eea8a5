"""What can run a model: onnxruntime and onnx's reference, in float64 where that is possible."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from helpers import RUNTIME_FAILURE, nodes_of, session
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator
from standard import Array, Fed

from onnxjvp.oracle.double import to_double, widened
from onnxjvp.oracle.kernels import KERNELS

Values = dict[str, Fed]

#: what engines raise for a model or a point that it cannot run
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
    onnx.checker.ValidationError,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph,
    *RUNTIME_FAILURE,
)
#: onnxruntime has kernels for double, but they compute in float32
_FLOAT = re.compile(r"tensor\((float|float16|double|bfloat16)\)")
_DTYPES = {
    "float": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "double": np.dtype(np.float64),
    "bfloat16": helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16),
}
_NOT_DOUBLE = {"LayerNormalization", "GRU", "LSTM"}


class EngineError(Exception):
    """An engine cannot run a model at a point, or its outputs are of no use there."""


@dataclass(frozen=True)
class Engine:
    """One way to run a model. Two engines of one name compute in the same way."""

    name: str
    run: Callable[[Mapping[str, Fed]], Values]


def precise_engines(model: ModelProto, first: str = "") -> Iterator[Engine]:
    """Those that compute in float64, the one named `first` before the others.

    onnxruntime comes first, since it shares no code with this project. onnx.reference with the
    oracle's kernels comes before the bare one, which takes a thousand times as long for a pool.
    An engine that cannot load the model is left out.
    """
    makers = {
        "onnxruntime, float64": _runtime_double,
        "oracle, float64": _own_kernels,
        "onnx.reference, float64": _reference,
    }
    for name in sorted(makers, key=lambda name: name != first):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = makers[name](model)
        except FAILURES:
            continue
        if run is not None:
            yield Engine(name, _guarded(name, run))


def runtime(model: ModelProto) -> Engine:
    """onnxruntime, on the file as it is; what is fed is rounded to the dtypes that it takes."""
    loaded = session(model)
    names = [output.name for output in loaded.get_outputs()]
    dtypes = {
        i.name: _DTYPES[match[1]] for i in loaded.get_inputs() if (match := _FLOAT.search(i.type))
    }

    def run(feeds: Mapping[str, Fed]) -> Values:
        # a copy: onnxruntime writes running statistics over the arrays that were fed
        fed = {
            name: _each(functools.partial(np.array, dtype=dtypes.get(name)), value)
            for name, value in feeds.items()
        }
        made = [_each(np.array, value) for value in loaded.run(names, fed)]
        return dict(zip(names, made, strict=True))

    return Engine("onnxruntime", _guarded("onnxruntime", run))


def _runtime_double(model: ModelProto) -> Callable[[Mapping[str, Fed]], Values] | None:
    if {node.op_type for node in nodes_of(model)} & _NOT_DOUBLE:
        return None
    return runtime(to_double(model)).run


def _reference(model: ModelProto) -> Callable[[Mapping[str, Fed]], Values]:
    every = {node.op_type for node in nodes_of(model)}
    return _interpreted(ReferenceEvaluator(to_double(model, beyond_schema=every)))


def _own_kernels(model: ModelProto) -> Callable[[Mapping[str, Fed]], Values]:
    known = {kernel.__name__ for kernel in KERNELS}
    double = to_double(model, beyond_schema=known | {node.op_type for node in nodes_of(model)})
    return _interpreted(ReferenceEvaluator(double, new_ops=KERNELS))


def _interpreted(interpreter: ReferenceEvaluator) -> Callable[[Mapping[str, Fed]], Values]:
    names = list(interpreter.output_names)
    return lambda feeds: dict(zip(names, interpreter.run(names, dict(feeds)), strict=True))


def _guarded(
    name: str, run: Callable[[Mapping[str, Fed]], Values]
) -> Callable[[Mapping[str, Fed]], Values]:
    def guarded(feeds: Mapping[str, Fed]) -> Values:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            try:
                return run(feeds)
            except FAILURES as error:
                raise EngineError(
                    f"{name}: {(str(error) or repr(error)).splitlines()[0]}"
                ) from error

    return guarded


def wide(feeds: Mapping[str, Fed]) -> Values:
    """The same numbers in float64, those inside sequences too."""
    return {name: _each(widened, value) for name, value in feeds.items()}


def _each(change: Callable[[Any], Array], value: Fed) -> Fed:
    if isinstance(value, list):
        return [_each(change, inner) for inner in value]
    return value if value is None else change(value)
