"""Float64 values of a model, by code that shares nothing with the derivative rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto
from onnx.reference import ReferenceEvaluator

from onnxjvp.errors import OnnxJvpError
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle.double import graphs, nodes, to_double, widened
from onnxjvp.oracle.kernels import KERNELS

Array = np.ndarray[Any, Any]

#: operators that draw random numbers; Dropout does in training mode only
RANDOM = {
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}


class NoOracleError(OnnxJvpError):
    """The model cannot be evaluated in float64; the message is the reason, without a full stop."""


class Evaluator:
    """A model in float64, run in NumPy: onnx.reference with kernels of our own.

    onnxruntime is not used, although it has some kernels for double: it has none for Conv, it
    computes LayerNormalization in float32 all the same, and what it runs is to be checked here.

    Args:
      model: path, bytes, `onnx.ModelProto` or `onnx_ir.Model` of any opset; it is not changed.
    Raises:
      NoOracleError: the model draws random numbers, or an operator has no implementation.
    Memory: the weights in float64, and the values of one evaluation that are still needed.
    """

    def __init__(self, model: AnyModel) -> None:
        source = load(model).model
        bare = skeleton(source)
        if random := random_nodes(bare.graph):
            kinds = ", ".join(sorted({node.op_type for node in random}))
            raise NoOracleError(f"{kinds} draws random numbers")
        double = to_double(bare, beyond_schema={kernel.__name__ for kernel in KERNELS})
        fed = {info.name for info in double.graph.input}
        self._weights = {
            name: widened(value.const_value.numpy())
            for name, value in source.graph.initializers.items()
            if name in fed and value.const_value is not None
        }
        self.outputs = tuple(info.name for info in double.graph.output)
        try:
            self._interpreter = _Interpreter(double, new_ops=KERNELS)
        except _FAILURES as error:
            raise NoOracleError(f"onnx.reference cannot run it: {error}") from error

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        noise: float = 0.0,
    ) -> dict[str, Array]:
        """Outputs in float64.

        Args:
          feeds: arrays for the inputs, widened as needed. A parameter or a value inside the
            model that is fed too keeps what it is fed.
          outputs: names of the values wanted; None means all outputs.
          noise: relative error given to every number of the inputs and large parameters, at
            random: how a runtime of that precision may see the model.
        Raises:
          NoOracleError: an operator's implementation failed.
        """
        wanted = list(self.outputs if outputs is None else outputs)
        values = self._weights | {name: widened(array) for name, array in feeds.items()}
        if noise:
            rng = np.random.default_rng(0)
            values = {name: _noisy(array, noise, rng) for name, array in values.items()}
        with np.errstate(all="ignore"):
            return dict(zip(wanted, self._interpreter.run(wanted, values), strict=True))


def _noisy(array: Array, noise: float, rng: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    return array * (1.0 + noise * rng.uniform(-1.0, 1.0, array.shape))


def random_nodes(graph: GraphProto) -> list[NodeProto]:
    """Nodes that draw random numbers, in the graph and the graphs within it."""
    return [
        node
        for node in nodes(graph)
        if node.domain in ("", "ai.onnx")
        and node.op_type in RANDOM
        and (node.op_type != "Dropout" or _in_training(node, graph))
    ]


def _in_training(dropout: NodeProto, graph: GraphProto) -> bool:
    if len(dropout.input) < 3 or not dropout.input[2]:
        return False
    mode = _constant(dropout.input[2], graph)
    return mode is None or bool(mode)


def _constant(name: str, graph: GraphProto) -> Array | None:
    for tensor in graph.initializer:
        if tensor.name == name:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
    for node in nodes(graph):
        if node.op_type == "Constant" and name in node.output and node.attribute[0].HasField("t"):
            return np.asarray(onnx.numpy_helper.to_array(node.attribute[0].t))
    return None


#: what the implementations in onnx.reference are known to raise
_FAILURES = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


class _Interpreter(ReferenceEvaluator):
    """onnx.reference, which keeps every value until the end, made to drop what is dead."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        last: dict[str, int] = {}
        for i, node in enumerate(self.rt_nodes_):
            last.update(dict.fromkeys((*node.output, *_read(node.onnx_node)), i))
        kept = {"", *self.output_names_}
        self._dead: list[list[str]] = [[] for _ in self.rt_nodes_]
        for name, i in last.items():
            if name not in kept:
                self._dead[i].append(name)

    def run(  # type: ignore[override]  # the parameters that follow differ between versions of onnx
        self,
        output_names: Sequence[str] | None,
        feed_inputs: Mapping[str, Any],
        attributes: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> list[Any]:
        wanted = self.output_names_ if output_names is None else output_names
        values: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        for node, dead in zip(self.rt_nodes_, self._dead, strict=True):
            extra: dict[str, Any] = {}
            if node.has_linked_attribute and attributes:
                extra["linked_attributes"] = attributes
            if node.need_context():
                extra["context"] = values
            try:
                results = node.run(*(values[name] for name in node.input), **extra)
            except _FAILURES as error:
                raise NoOracleError(f"{node.op_type} cannot be run in float64: {error}") from error
            for name, result in zip(node.output, results, strict=False):
                values.setdefault(name, result)  # what is fed stays
            for name in dead:
                if name not in wanted:
                    values.pop(name, None)
        if missing := [name for name in wanted if name not in values]:
            raise NoOracleError(f"the model has no value {', '.join(missing)}")
        return [values[name] for name in wanted]


def _read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs capture among them."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for graph in graphs(attribute.g):
                yield from (info.name for info in graph.output)
                for inner in graph.node:
                    yield from inner.input
