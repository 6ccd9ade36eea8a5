"""Random valid models: every family of operators, with random attributes, ranks and operands.

A step draws an operator for values that are there, or a row of the op tables, and is kept if the
oracle's evaluation of it is finite and small: the generator needs no shape arithmetic of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from helpers import Array, Run, Values, ints, nodes_of, shape_of
from onnx import ModelProto, NodeProto, checker, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnxjvp.oracle.double import to_double
from onnxjvp.oracle.evaluator import _Interpreter
from onnxjvp.oracle.kernels import KERNELS
from onnxjvp.oracle.machine_learning import MACHINE_LEARNING
from onnxjvp.oracle.microsoft import MICROSOFT

OPSETS, LENGTH, LARGEST, WIDEST = (18, 19, 20, 20, 21, 22, 23, 24, 25, 26, 28), 7, 500, 1e4
OPERATORS = [*KERNELS, *MICROSOFT, *MACHINE_LEARNING]
#: attributes that name the type of a float
_TYPES = ("to", "dtype", "output_datatype")
_IR = 10
_BEYOND = {kernel.__name__ for kernel in KERNELS}
#: what an evaluation raises for a node that its operands do not fit
_MISFIT = (
    ArithmeticError,
    AssertionError,
    IndexError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    checker.ValidationError,
)


class SkipError(Exception):
    """The drawn operator does not fit the values that are there."""


class Draw:
    """A model in the making: nodes, parameters, and the value of everything at the point."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.opset = self.rng.choice(OPSETS)
        self.nodes: list[NodeProto] = []
        self.params: dict[str, Array] = {}
        #: what is differentiated in, and names of the sizes of some
        self.inputs: dict[str, Array] = {}
        self.symbols: dict[str, tuple[int | str, ...]] = {}
        #: other inputs
        self.fed: dict[str, Array] = {}
        self._context = checker.C.CheckerContext()
        self._context.ir_version = _IR
        self._context.opset_imports = {"": self.opset, "com.microsoft": 1, "ai.onnx.ml": 1}
        #: what rounds, by its output, and the same without rounding, as it is at the point
        self.smooth: dict[str, list[NodeProto]] = {}
        #: onnxruntime's kernels for double are not to be trusted with it, or there are none at all
        self.evaluated = self.no_runtime = False
        #: values that depend on an input, and others that are computed
        self.live: dict[str, Array] = {}
        self.still: dict[str, Array] = {}
        self._count = itertools.count()

    @property
    def point(self) -> Values:
        """What is fed to the model."""
        return {**self.inputs, **self.fed}

    def input(self, *shape: int) -> str:
        return self.input_of(self.numbers.standard_normal(shape))

    def input_of(self, value: Array, sizes: tuple[int | str, ...] | None = None) -> str:
        """A float input, its sizes named as they are in `sizes`."""
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.live[name] = _single(value)
        if sizes is not None:
            known = zip(sizes, value.shape, strict=True)
            self.symbols[name] = tuple(f"{d}{n}" if isinstance(d, str) else d for d, n in known)
        return name

    def feed(self, value: Array) -> str:
        """An input that nothing is differentiated in."""
        name = f"i{len(self.fed)}"
        self.fed[name] = value
        return name

    def param(self, value: Any) -> str:
        name = f"c{next(self._count)}"
        self.params[name] = _single(np.asarray(value))
        return name

    def normal(self, *shape: int) -> str:
        return self.param(self.numbers.standard_normal(shape))

    def pick(self, fits: Callable[[Array], bool] = lambda _: True) -> str:
        """A live value, late ones more often."""
        names = [name for name, value in self.live.items() if fits(value)]
        if not names:
            raise SkipError
        return self.rng.choice([*names, names[-1], names[-1], names[-1]])

    def of(self, *ranks: int) -> str:
        return self.pick(lambda value: value.ndim in ranks)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.value(name).shape

    def value(self, name: str) -> Array:
        places = (self.live, self.still, self.params, self.fed)
        return next(known[name] for known in places if name in known)

    def axis(self, name: str) -> int:
        """In range, counted from either end."""
        rank = self.value(name).ndim
        if not rank:
            raise SkipError
        return self.rng.randrange(-rank, rank)

    def some(self, name: str, least: int = 1) -> list[int]:
        """Different axes, counted from either end."""
        rank = self.value(name).ndim
        if rank < least:
            raise SkipError
        chosen = self.rng.sample(range(rank), self.rng.randint(least, rank))
        return [axis - self.rng.choice([0, rank]) for axis in chosen]

    def maybe(self, name: str) -> str:
        """An optional operand, or none."""
        return self.rng.choice([name, ""])

    def add(self, op_type: str, *operands: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """A node; its float outputs are live. Raises SkipError where it does not fit."""
        inputs = list(operands)
        while inputs and not inputs[-1]:
            inputs.pop()
        names = [f"v{next(self._count)}" for _ in range(outputs)]
        kept = {key: value for key, value in attributes.items() if value is not None}
        self.keep([helper.make_node(op_type, inputs, names, **kept)], names)
        return names

    def fresh(self) -> str:
        """A prefix that no name has."""
        return f"r{next(self._count)}_"

    def keep(
        self, nodes: Sequence[NodeProto], outputs: Sequence[str], dead: Collection[str] = ()
    ) -> None:
        """Nodes, if they fit. Their float outputs are live, apart from those that are `dead`."""
        made = {name for node in nodes for name in node.output}
        reads = dict.fromkeys(name for node in _all(nodes) for name in _read(node))
        known = {*self.live, *self.still, *self.params, *self.fed}
        reads = [name for name in reads if name in known and name not in made]
        values = self._run(nodes, reads, outputs)
        for value in values.values():
            floats = value.dtype == np.float64
            if value.size > LARGEST or not value.size:
                raise SkipError
            if floats and not (np.isfinite(value).all() and np.abs(value).max() < WIDEST):
                raise SkipError
        self.nodes.extend(nodes)
        moves = any(name in self.live for name in reads)
        for name, value in values.items():
            if value.dtype == np.float64:
                (self.live if moves and name not in dead else self.still)[name] = value

    def _run(
        self, nodes: Sequence[NodeProto], read: Sequence[str], outputs: Sequence[str]
    ) -> dict[str, Array]:
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(self.value(name).dtype), self.shape(name)
            )
            for name in read
        ]
        ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
        model = self._made(helper.make_graph(nodes, "step", infos, ends))
        try:
            for node in nodes:
                checker.check_node(node, self._context)
            with np.errstate(all="ignore"):
                made = ReferenceEvaluator(model, new_ops=OPERATORS).run(
                    None, {name: self.value(name) for name in read}
                )
            inferred = shape_inference.infer_shapes(model).graph.output
        except _MISFIT as error:
            raise SkipError from error
        # onnx miscounts the windows of some pools, and its checker would blame the rewritten model
        for value, info in zip(made, inferred, strict=True):
            known = zip(shape_of(info), np.shape(value), strict=False)
            if any(isinstance(said, int) and said != size for said, size in known):
                raise SkipError
        return dict(zip(outputs, (np.asarray(value) for value in made), strict=True))

    def _made(self, graph: onnx.GraphProto) -> ModelProto:
        domains = sorted({node.domain for node in _all(graph.node)} - {""})
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1) for domain in domains]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR)

    def model(self, dtype: str, symbolic: bool, nodes: Sequence[NodeProto] = ()) -> ModelProto:
        """The graph in a dtype, its last values as outputs; some sizes by name."""
        nodes = nodes or self.nodes
        read = {name for node in _all(nodes) for name in _read(node)}
        ends = [name for name in self.live if name not in read and name not in self.inputs]
        number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        infos = []
        for name, value in self.inputs.items():
            first = (f"N{value.shape[0]}", *value.shape[1:]) if value.ndim else ()
            sizes = self.symbols.get(name, first) if symbolic else value.shape
            infos.append(helper.make_tensor_value_info(name, number, sizes))
        for name, value in self.fed.items():
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            infos.append(helper.make_tensor_value_info(name, kind, value.shape))
        tensors = [
            numpy_helper.from_array(v.astype(dtype) if v.dtype == np.float64 else v, name)
            for name, v in self.params.items()
            if name in read
        ]
        outputs = [helper.make_tensor_value_info(name, number, None) for name in ends]
        made = self._made(helper.make_graph(nodes, "random", infos, outputs, tensors))
        for attribute in (a for node in nodes_of(made) for a in node.attribute):
            if attribute.name in _TYPES and attribute.i == onnx.TensorProto.DOUBLE:
                attribute.i = number
        # not strictly: onnx knows no foreign operators, and loses the type behind some of its own
        inferred = shape_inference.infer_shapes(made, data_prop=True)
        for output, found in zip(made.graph.output, inferred.graph.output, strict=True):
            if found.type.tensor_type.HasField("shape"):
                output.CopyFrom(found)
            else:  # onnx knows no operator of that name, or not the rank of what it gives
                sizes = (None,) * self.value(output.name).ndim
                output.CopyFrom(helper.make_tensor_value_info(output.name, number, sizes))
        checker.check_model(made)
        return made


def _single(value: Array) -> Array:
    """Numbers that are the same in float32, so that both models are one function."""
    return value.astype(np.float32).astype(np.float64) if value.dtype == np.float64 else value


def without_rounding(d: Draw) -> ModelProto:
    """What the straight-through estimator is the derivative of, in float64."""
    nodes = [made for node in d.nodes for made in d.smooth.get(node.output[0], [node])]
    return d.model("float64", symbolic=False, nodes=nodes)


def evaluator(model: ModelProto) -> Run:
    """Runs a float64 model of opset 18 or newer in NumPy: as `Evaluator`, which loads it first."""
    inside = _Interpreter(to_double(model, beyond_schema=_BEYOND), new_ops=OPERATORS)

    def run(feeds: Mapping[str, Array]) -> Values:
        with np.errstate(all="ignore"):
            found = inside.run(None, dict(feeds))
        return {
            name: np.asarray(value) for name, value in zip(inside.output_names, found, strict=True)
        }

    return run


def _all(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those of the graphs within them."""
    return nodes_of(helper.make_model(helper.make_graph(nodes, "all", [], [])))


def _read(node: NodeProto) -> Iterator[str]:
    """What a node reads, and what the graphs within it give out: it may be from around them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (info.name for info in attribute.g.output)


Maker = Callable[[Draw], object]


def random_model(seed: int, makers: list[Maker]) -> Draw:
    """A model of up to LENGTH drawn operators. Some seeds give fewer."""
    d = Draw(seed)
    d.input(*d.rng.choice([(2, 4, 4, 4), (2, 4, 6), (3, 4), (2, 3, 4), (5,), (1, 2, 8)]))
    if d.rng.random() < 0.4:
        d.input(*d.rng.choice([(4,), (3, 4), (2, 4, 4, 4), (1,), ()]))
    for _ in range(4 * LENGTH):
        if len(d.nodes) >= LENGTH:
            break
        kept = dict(d.live), len(d.nodes), dict(d.inputs), dict(d.fed)
        try:
            d.rng.choice(makers)(d)
        except SkipError:  # a step of several nodes may end in the middle
            d.live, _, d.inputs, d.fed = kept
            del d.nodes[kept[1] :]
    return d


def sizes(rng: random.Random, count: int, *among: int) -> list[int]:
    return [rng.choice(among) for _ in range(count)]


def constant_ints(d: Draw, *values: int) -> str:
    return d.param(ints(*values))
