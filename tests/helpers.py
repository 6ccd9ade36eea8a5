"""Small models, engines to run them, and comparisons: what every test here is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_node

from onnxjvp import Rewritten
from onnxjvp.oracle import Evaluator

Array = np.ndarray[Any, Any]
Values = dict[str, Array]
Run = Callable[[Mapping[str, Array]], Values]
#: the sizes of an input of the model's own float type, or an example of what is fed to it
Input = tuple[int | str, ...] | Array

MODELS = Path(__file__).parent.parent / "models"
#: the trained files that ship with the project
MODEL_FILES = sorted(path.name for path in MODELS.glob("*.onnx"))

#: per dtype: J u against float64, relative to the largest element; the only tolerances of floats
TOLERANCES = {"float64": 1e-9, "float32": 1e-4, "float16": 4e-2}
#: differences in float64 against J u, relative to the largest element
DIFFERENCES = 1e-5

_NotImplementedInRuntime = onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented
#: a model that onnxruntime cannot load or run
RUNTIME_FAILURE = (
    onnxruntime.capi.onnxruntime_pybind11_state.Fail,
    onnxruntime.capi.onnxruntime_pybind11_state.InvalidArgument,
    onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException,
    _NotImplementedInRuntime,
)
#: exemptions of cases say what this onnxruntime cannot do, or gets wrong; newer ones may do better
EXEMPTIONS = (1, 31)
NEWER_RUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2])) > EXEMPTIONS
#: onnxruntime has kernels for double, but they compute in float32
_NOT_DOUBLE = {
    *("LayerNormalization", "GroupNormalization", "MeanVarianceNormalization", "Attention"),
    *("Shrink", "GRU", "LSTM"),
}


# -- building ----------------------------------------------------------------------------------


def build(
    body: str,
    inputs: Mapping[str, Input],
    params: Mapping[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    *,
    dtype: str = "float64",
    opset: int = 18,
    ir_version: int = 8,
    rounded: str | None = None,
    declared: Mapping[str, tuple[int | str, ...]] | None = None,
) -> ModelProto:
    """A model from nodes in ONNX's text form, one a line.

    Args:
      inputs: symbolic or fixed sizes of each float input, or an array of what is fed to another.
      params: initialisers; float64 takes the model's dtype, others stay. `FLOAT` in the body
        stands for the number of that dtype.
      rounded: round the float parameters to this dtype first.
      declared: shapes of float outputs that onnx's inference does not know; that of the first
        input if they are left out.
    """
    number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    text = body.replace("FLOAT", str(number))
    nodes = [parse_node(line.strip()) for line in text.strip().splitlines()]
    infos = []
    for name, given in inputs.items():
        shape, kind = (given, number)
        if isinstance(given, np.ndarray):
            shape, kind = given.shape, helper.np_dtype_to_tensor_dtype(given.dtype)
        infos.append(helper.make_tensor_value_info(name, kind, shape))
    tensors = []
    for name, value in (params or {}).items():
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(rounded or dtype).astype(dtype)
        tensors.append(numpy_helper.from_array(array, name))
    graph = helper.make_graph(
        nodes, "case", infos, [onnx.ValueInfoProto(name=o) for o in outputs], tensors
    )
    opsets = [helper.make_opsetid("", opset)]
    opsets += [helper.make_opsetid(d, 1) for d in sorted({n.domain for n in nodes} - {""})]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    for output, found in zip(model.graph.output, inferred.graph.output, strict=True):
        output.CopyFrom(found)
        if not output.type.tensor_type.HasField("shape"):  # a foreign operator, of one input
            output.type.CopyFrom(infos[0].type)
        if output.name in (declared or {}):
            shape = (declared or {})[output.name]
            output.type.CopyFrom(helper.make_tensor_type_proto(number, shape))
    onnx.checker.check_model(model)
    return model


def weights(*shape: int, seed: int = 0) -> Array:
    """Reproducible normal numbers."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


# -- drawing -----------------------------------------------------------------------------------

Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.standard_normal(shape))


def wide(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """On every piece of the piecewise operators."""
    return np.asarray(4 * rng.standard_normal(shape))


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.5, 2.0, shape))


# -- running -----------------------------------------------------------------------------------


def session(model: ModelProto | str | Path, optimize: bool = False) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model.SerializeToString() if isinstance(model, ModelProto) else str(model)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def ort(
    model: ModelProto | str | Path, feeds: Mapping[str, Array], optimize: bool = False
) -> Values:
    """All outputs, from a new session of onnxruntime."""
    return _run(session(model, optimize), feeds)


def running(model: ModelProto) -> Run:
    """Runs a model in onnxruntime, in one session."""
    loaded = session(model)
    return lambda feeds: _run(loaded, feeds)


def _run(loaded: onnxruntime.InferenceSession, feeds: Mapping[str, Array]) -> Values:
    names = [output.name for output in loaded.get_outputs()]
    # copies both ways: onnxruntime writes running statistics over the arrays that were fed, and
    # older ones return an input that is an output as a view of the array fed
    fed = {name: np.array(value) for name, value in feeds.items()}
    values = [np.array(value) for value in loaded.run(names, fed)]
    return dict(zip(names, values, strict=True))


def double(
    model: ModelProto,
    *,
    fresh: bool = False,
    otherwise: Callable[[ModelProto], Run] = lambda model: Evaluator(model).run,
) -> Run:
    """Runs a float64 model: in onnxruntime if it has double kernels, else in the evaluator.

    Args:
      fresh: load anew for each run, so that operators with a seed draw the same numbers.
      otherwise: what runs it in NumPy.
    """
    labels = {f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in nodes_of(model)}
    if not labels & _NOT_DOUBLE and not any(label.startswith("com.") for label in labels):
        try:
            loaded = session(model)
        except _NotImplementedInRuntime:
            pass
        else:
            return lambda feeds: _run(session(model) if fresh else loaded, feeds)
    return otherwise(model)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    def walk(graph: onnx.GraphProto) -> Iterator[NodeProto]:
        for node in graph.node:
            yield node
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    yield from walk(attribute.g)

    yield from walk(model.graph)
    for function in model.functions:
        yield from function.node


def op_types(model: ModelProto | Rewritten) -> list[str]:
    proto = model.proto() if isinstance(model, Rewritten) else model
    return [node.op_type for node in proto.graph.node]


# -- checking ----------------------------------------------------------------------------------


def checked(rewritten: Rewritten) -> ModelProto:
    """The rewritten model, which must be valid, shapes and types too, and without a dead node."""
    proto = rewritten.proto()
    onnx.checker.check_model(proto, full_check=True)
    read = {name for node in nodes_of(proto) for name in node.input}
    read |= {output.name for output in proto.graph.output}
    for node in proto.graph.node:
        assert any(name in read for name in node.output), f"dead node {node.op_type} {node.name}"
    for tensor in proto.graph.initializer:
        assert tensor.name in read, f"dead initialiser {tensor.name}"
    names = [name for node in proto.graph.node for name in node.output if name]
    names += [info.name for info in proto.graph.input]
    assert len(names) == len(set(names))
    return proto


def assert_close(
    got: Array, want: Array, tolerance: float, what: str, scale: float | None = None
) -> None:
    """Within `tolerance` of the largest finite element wanted (or of `scale`)."""
    assert got.shape == want.shape, f"{what}: shape {got.shape}, not {want.shape}"
    if not want.size:
        return
    finite = np.isfinite(want)
    same = np.equal(got, want) | (np.isnan(got) & np.isnan(want))
    assert np.all(same | finite), f"{what}: non-finite elements differ"
    if scale is None:
        scale = float(np.abs(want[finite], dtype=np.float64).max(initial=0.0)) or 1.0
    error = np.abs(np.where(finite, got, 0).astype(np.float64) - np.where(finite, want, 0))
    worst = np.unravel_index(np.argmax(error), error.shape)
    assert error[worst] <= tolerance * scale, (
        f"{what}: {got[worst]} for {want[worst]} at {[int(i) for i in worst]}, "
        f"off by {error[worst]:.3g} where {tolerance * scale:.3g} is allowed"
    )


def shape_of(info: onnx.ValueInfoProto) -> tuple[int | str | None, ...]:
    """Sizes as declared: an int, a symbol, or None."""
    return tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or None
        for d in info.type.tensor_type.shape.dim
    )


def initializer(name: str, array: Array) -> TensorProto:
    return numpy_helper.from_array(array, name)
