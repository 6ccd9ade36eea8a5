"""The node tests that ship with onnx: an operator each, with inputs and outputs as it is defined.

Nobody here chose them: onnx's authors wrote them to pin the operators down.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, TypeProto
from onnx.backend.test.loader import load_model_tests

Array = np.ndarray[Any, Any]
#: an array, a list of such, or None for an empty optional
Fed = Any

_FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
_FLOAT_NAMES = {"float32", "float64", "float16", "bfloat16"}


@dataclass(frozen=True)
class NodeCase:
    """One shipped case."""

    name: str
    model: ModelProto
    inputs: dict[str, Fed]
    outputs: dict[str, Fed]
    #: relative tolerance that onnx gives a runtime
    rtol: float

    def __str__(self) -> str:
        return self.name

    @property
    def operator(self) -> str:
        """What the case is of: its node, or the nodes of an expanded function."""
        kinds = sorted({node.op_type for node in self.model.graph.node})
        return kinds[0] if len(kinds) == 1 else self.name.removeprefix("test_")

    @property
    def variables(self) -> list[str]:
        """Float tensors that are fed."""
        return [name for name, fed in self.inputs.items() if _is_float(fed)]

    @property
    def float_outputs(self) -> list[str]:
        return [name for name, made in self.outputs.items() if _is_float(made)]

    def settled(self) -> NodeCase | None:
        """The same with integers and booleans as constants, as exporters write axes and shapes.

        None if there are no such inputs.
        """
        kept = {n: v for n, v in self.inputs.items() if not _is_setting(v)}
        if len(kept) == len(self.inputs):
            return None
        model = ModelProto()
        model.CopyFrom(self.model)
        del model.graph.input[:]
        model.graph.input.extend(v for v in self.model.graph.input if v.name in kept)
        model.graph.initializer.extend(
            onnx.numpy_helper.from_array(value, name)
            for name, value in self.inputs.items()
            if name not in kept
        )
        return replace(self, model=model, inputs=kept)

    @property
    def has_floats(self) -> bool:
        """A float comes in and a float goes out, be it inside a sequence or an optional."""
        graph = self.model.graph
        return any(_holds_float(v.type) for v in graph.input) and any(
            _holds_float(v.type) for v in graph.output
        )


def _is_setting(fed: Fed) -> bool:
    return isinstance(fed, np.ndarray) and fed.dtype.kind in "iub"


def _is_float(fed: Fed) -> bool:
    return isinstance(fed, np.ndarray) and fed.dtype.name in _FLOAT_NAMES


def _holds_float(kind: TypeProto) -> bool:
    match kind.WhichOneof("value"):
        case "tensor_type":
            return kind.tensor_type.elem_type in _FLOATS
        case "sequence_type":
            return _holds_float(kind.sequence_type.elem_type)
        case "optional_type":
            return _holds_float(kind.optional_type.elem_type)
    return False


@functools.cache
def every_case() -> dict[str, NodeCase]:
    """All cases by name. Cost: seconds, since onnx computes them when asked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {case.name: case for case in _cases()}


def float_cases() -> dict[str, NodeCase]:
    """Those of which a derivative can be asked."""
    return {name: case for name, case in every_case().items() if case.has_floats}


def _cases() -> Iterator[NodeCase]:
    for test in load_model_tests(kind="node"):
        model = test.model
        if model is None:
            model = onnx.load(Path(test.model_dir) / "model.onnx")
        inputs, outputs = test.data_sets[0] if test.data_sets else ([], [])
        yield NodeCase(
            test.name,
            model,
            {v.name: _plain(fed) for v, fed in zip(model.graph.input, inputs, strict=True)},
            {v.name: _plain(made) for v, made in zip(model.graph.output, outputs, strict=True)},
            test.rtol,
        )


def _plain(given: Any) -> Fed:
    """As an array, where it is a tensor."""
    if isinstance(given, TensorProto):
        return onnx.numpy_helper.to_array(given)
    if isinstance(given, list):
        return [_plain(each) for each in given]
    return np.asarray(given) if isinstance(given, np.generic) else given
