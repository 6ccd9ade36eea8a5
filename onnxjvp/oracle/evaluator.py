"""Float64 values of a model, by code that shares nothing with the derivative rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto
from onnx.reference import ReferenceEvaluator

from onnxjvp.errors import OnnxJvpError
from onnxjvp.graph.load import AnyModel, runnable
from onnxjvp.graph.opset import skeleton
from onnxjvp.oracle import (  # noqa: F401  (they fill the table of kernels)
    microsoft_attention,
    microsoft_images,
    microsoft_products,
)
from onnxjvp.oracle.double import graphs, nodes, to_double, widened
from onnxjvp.oracle.kernels import KERNELS
from onnxjvp.oracle.machine_learning import MACHINE_LEARNING
from onnxjvp.oracle.microsoft import MICROSOFT

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


#: operators whose results are numbers that they were given, or the negatives of such
_EXACT = {
    *("Abs", "Cast", "CastLike", "Compress", "Concat", "Constant", "ConstantOfShape"),
    *("DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND"),
    *("GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax"),
    *("ReduceMin", "Relu", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile"),
    *("TopK", "Transpose", "Unsqueeze", "Where"),
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
        source = runnable(model)
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
            self._interpreter = _Interpreter(
                double, new_ops=[*KERNELS, *MICROSOFT, *MACHINE_LEARNING]
            )
        except _FAILURES as error:
            raise NoOracleError(f"onnx.reference cannot run it: {error}") from error

    def run(
        self,
        feeds: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        added: Mapping[str, Array] | None = None,
        noise: float = 0.0,
        inside: bool = False,
        draw: int = 0,
    ) -> dict[str, Array]:
        """Outputs in float64.

        Args:
          feeds: arrays for the inputs, widened as needed. A parameter or a value inside the
            model that is fed too keeps what it is fed.
          outputs: names of the values wanted, of any value; None means all outputs. Nodes that
            none of them needs are not run.
          added: arrays by which values of the model differ from what feeds, parameters or nodes
            make them; a value inside is moved on top of what reaches it.
          noise: relative error given to every number of the inputs and large parameters, at
            random: how a runtime of that precision may see the model.
          inside: give it to the results of all nodes too, but of those that round nothing: how
            such a runtime may compute it.
          draw: which of the errors that may be so.
        Raises:
          NoOracleError: an operator's implementation failed, or there is no value of a name.
        """
        wanted = list(self.outputs if outputs is None else outputs)
        values = self._weights | {name: widened(array) for name, array in feeds.items()}
        rng = np.random.default_rng(draw)
        if noise:
            values = {name: _noisy(array, noise, rng) for name, array in values.items()}
        with np.errstate(all="ignore"):
            rounded = (noise, rng) if noise and inside else None
            found = self._interpreter.run(wanted, values, added=added, rounded=rounded)
        return dict(zip(wanted, found, strict=True))


def _noisy(array: Any, noise: float, rng: np.random.Generator) -> Any:
    if not isinstance(array, np.ndarray | np.floating) or array.dtype.kind != "f":
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
        self._plans: dict[tuple[str, ...], list[tuple[Any, list[str]]]] = {}

    def run(  # type: ignore[override]  # the parameters that follow differ between versions of onnx
        self,
        output_names: Sequence[str] | None,
        feed_inputs: Mapping[str, Any],
        attributes: Mapping[str, Any] | None = None,
        added: Mapping[str, Array] | None = None,
        rounded: tuple[float, np.random.Generator] | None = None,
        **_: Any,
    ) -> list[Any]:
        wanted = tuple(self.output_names_ if output_names is None else output_names)
        values: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        added = added or {}
        made = {name for node in self.rt_nodes_ for name in node.output}
        _check_known([name for name in added if name not in values and name not in made])
        for name in added.keys() & values.keys():
            values[name] = values[name] + added[name]
        for node, dead in self._plan(wanted):
            extra: dict[str, Any] = {}
            if node.has_linked_attribute and attributes:
                extra["linked_attributes"] = attributes
            if node.need_context():
                extra["context"] = values
            try:
                results = node.run(*(values[name] for name in node.input), **extra)
            except _FAILURES as error:
                raise NoOracleError(f"{node.op_type} cannot be run in float64: {error}") from error
            if rounded is not None and node.op_type not in _EXACT:
                results = [_noisy(result, *rounded) for result in results]
            for name, result in zip(node.output, results, strict=False):
                if name not in values:  # what is fed stays
                    values[name] = result + added[name] if name in added else result
            for name in dead:
                values.pop(name, None)
        _check_known([name for name in wanted if name not in values])
        return [values[name] for name in wanted]

    def _plan(self, wanted: tuple[str, ...]) -> list[tuple[Any, list[str]]]:
        """The nodes that lead to some values, and after each the values that are dead by then."""
        if wanted not in self._plans:
            needed, last, plan = set(wanted), {"", *wanted}, []
            for node in reversed(self.rt_nodes_):
                if needed.isdisjoint(node.output):
                    continue
                read = dict.fromkeys(_read(node.onnx_node))
                needed.update(read)
                touched = dict.fromkeys((*node.output, *read))
                plan.append((node, [name for name in touched if name not in last]))
                last.update(touched)
            self._plans[wanted] = plan[::-1]
        return self._plans[wanted]


def _check_known(missing: Sequence[str]) -> None:
    if missing:
        raise NoOracleError(f"the model has no value {', '.join(missing)}")


def _read(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those that its subgraphs capture among them."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.HasField("g"):
            for graph in graphs(attribute.g):
                yield from (info.name for info in graph.output)
                for inner in graph.node:
                    yield from inner.input
