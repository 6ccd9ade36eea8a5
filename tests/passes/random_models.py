"""Random valid models: every family of operators, with random attributes, ranks and operands.

A step draws an operator for values that are there, and is kept if the oracle's evaluation of
it is finite and small; so the generator needs no shape arithmetic of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from helpers import Array, ints, shape_of
from onnx import ModelProto, NodeProto, checker, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from onnxjvp.oracle.kernels import KERNELS

OPSET, LENGTH, LARGEST, WIDEST = 20, 7, 500, 1e4
#: what an evaluation raises for a node that its operands do not fit
_MISFIT = (
    ArithmeticError,
    AssertionError,
    IndexError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class SkipError(Exception):
    """The drawn operator does not fit the values that are there."""


class Draw:
    """A model in the making: nodes, parameters, and the value of everything at the point."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.params: dict[str, Array] = {}
        self.inputs: dict[str, Array] = {}
        #: values that depend on an input, and others that are computed
        self.live: dict[str, Array] = {}
        self.still: dict[str, Array] = {}
        self._count = itertools.count()

    def input(self, *shape: int) -> str:
        name = f"x{len(self.inputs)}"
        self.inputs[name] = self.live[name] = self.numbers.standard_normal(shape)
        return name

    def param(self, value: Any) -> str:
        name = f"c{next(self._count)}"
        self.params[name] = np.asarray(value)
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
        return next(known[name] for known in (self.live, self.still, self.params) if name in known)

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
        node = helper.make_node(op_type, inputs, names, **kept)
        made = self._run(node, [name for name in dict.fromkeys(inputs) if name])
        for value in made:
            floats = value.dtype == np.float64
            if value.size > LARGEST or not value.size:
                raise SkipError
            if floats and not (np.isfinite(value).all() and np.abs(value).max() < WIDEST):
                raise SkipError
        self.nodes.append(node)
        moves = any(name in self.live for name in inputs)
        (self.live if moves else self.still).update(
            (name, value)
            for name, value in zip(names, made, strict=True)
            if value.dtype == np.float64
        )
        return names

    def _run(self, node: NodeProto, read: list[str]) -> list[Array]:
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(self.value(name).dtype), self.shape(name)
            )
            for name in read
        ]
        ends = [helper.make_empty_tensor_value_info(name) for name in node.output]
        graph = helper.make_graph([node], "step", infos, ends)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        try:
            with np.errstate(all="ignore"):
                made = ReferenceEvaluator(model, new_ops=KERNELS).run(
                    None, {name: self.value(name) for name in read}
                )
        except _MISFIT as error:
            raise SkipError from error
        # onnx miscounts the windows of some pools, and its checker would blame the rewritten model
        inferred = shape_inference.infer_shapes(model).graph.output
        for value, info in zip(made, inferred, strict=True):
            known = shape_of(info)
            pairs = zip(known, np.shape(value), strict=False)
            if any(isinstance(said, int) and said != size for said, size in pairs):
                raise SkipError
        return [np.asarray(value) for value in made]

    def model(self, dtype: str, symbolic: bool) -> ModelProto:
        """The graph in a dtype, its last values as outputs; the first axis of inputs by name."""
        read = {name for node in self.nodes for name in node.input}
        ends = [name for name in self.live if name not in read and name not in self.inputs]
        number = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        infos = []
        for name, value in self.inputs.items():
            free = symbolic and value.ndim
            shape = (f"N{value.shape[0]}", *value.shape[1:]) if free else value.shape
            infos.append(helper.make_tensor_value_info(name, number, shape))
        tensors = [
            numpy_helper.from_array(v.astype(dtype) if v.dtype == np.float64 else v, name)
            for name, v in self.params.items()
            if name in read
        ]
        outputs = [helper.make_tensor_value_info(name, number, None) for name in ends]
        graph = helper.make_graph(self.nodes, "random", infos, outputs, tensors)
        opset = helper.make_opsetid("", OPSET)
        made = helper.make_model(graph, opset_imports=[opset], ir_version=9)
        inferred = shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
        del made.graph.output[:]
        made.graph.output.extend(inferred.graph.output)
        checker.check_model(made)
        return made


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
        kept = dict(d.live), len(d.nodes)
        try:
            d.rng.choice(makers)(d)
        except SkipError:  # a step of several nodes may end in the middle
            d.live = kept[0]
            del d.nodes[kept[1] :]
    return d


def sizes(rng: random.Random, count: int, *among: int) -> list[int]:
    return [rng.choice(among) for _ in range(count)]


def constant_ints(d: Draw, *values: int) -> str:
    return d.param(ints(*values))
