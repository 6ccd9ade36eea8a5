"""The builder: `op.Mul(a, b)` records a detached node whose output has a dtype and a shape.

It also sorts: a node with an operand in `linear` belongs to the linear program, any other is a
residual (masks, slopes, indices). Passes read `nodes` and `linear` from it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import sympy
from numpy.typing import ArrayLike

from onnxjvp.graph import dims
from onnxjvp.graph.bfloat import foreign
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shapes import Shapes

INT64 = ir.DataType.INT64
#: what the names of recorded values start with, until a pass emits them under names of their own
MADE = "?onnxjvp."


class Ops:
    """Records nodes in order. Values it makes are named only when a pass emits them."""

    def __init__(self, shapes: Shapes, graph: ir.Graph | None = None) -> None:
        self.shapes = shapes
        self.nodes: list[ir.Node] = []
        self.linear: set[ir.Value] = set()
        self.sizes_at_run_time = Sizes(self, graph)
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        #: what names of recorded values end in; bodies count on with those around them
        self.numbers = itertools.count(1)

    # -- nodes ---------------------------------------------------------------------------------

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[0].isupper():
            raise AttributeError(op_type)

        def emit(*inputs: ir.Value | None, **attributes: Any) -> ir.Value:
            return self.emit(op_type, inputs, attributes)[0]

        return emit

    def emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        outputs: int = 1,
        domain: str = "",
    ) -> Sequence[ir.Value]:
        """Record a node; attributes that are None are left out."""
        operands = list(inputs)
        while operands and operands[-1] is None:
            operands.pop()
        if op_type == "Pad" and not domain:
            operands = self._around_all_axes(operands)
        given = {k: v for k, v in (attributes or {}).items() if v is not None}
        version = self.shapes.opset_imports.get("", 1)
        if not domain and (narrow := foreign(op_type, operands, version)):
            return self._in_single(op_type, operands, given, outputs, narrow)
        typed = {name: _typed(name, value) for name, value in given.items()}
        node = ir.node(op_type, operands, typed, domain=domain, num_outputs=outputs)
        return self._record(node)

    def _around_all_axes(self, operands: list[ir.Value | None]) -> list[ir.Value | None]:
        """A Pad's operands without axes, which onnxruntime overlooks as it moves Transposes."""
        x, pads, fill, axes = [*operands, None, None][:4]
        named = None if axes is None else self.shapes.ints(axes)
        if x is None or pads is None or named is None:
            return operands
        chosen = [axis % rank(x) for axis in named]
        count, sizes = len(chosen), self.shapes.ints(pads)
        # of every end of every axis, where among the pads it is; behind them there is a zero
        places = [
            end * count + chosen.index(axis) if axis in chosen else 2 * count
            for end in (0, 1)
            for axis in range(rank(x))
        ]
        if sizes is not None:
            whole = self.ints([(*sizes, 0)[place] for place in places])
        else:
            whole = self.Gather(self.Concat(pads, self.ints([0]), axis=0), self.ints(places))
        return [x, whole] if fill is None else [x, whole, fill]

    def _in_single(
        self,
        op_type: str,
        operands: list[ir.Value | None],
        attributes: dict[str, Any],
        outputs: int,
        narrow: Sequence[int],
    ) -> Sequence[ir.Value]:
        """A node in float32 between Casts, where its operator does not take bfloat16 yet."""
        for i in narrow:
            operands[i] = self.Cast(operands[i], to=int(ir.DataType.FLOAT))
        made = self.emit(op_type, operands, attributes, outputs)
        wide = [v.dtype == ir.DataType.FLOAT for v in made]
        return [
            self.Cast(v, to=int(ir.DataType.BFLOAT16)) if is_wide else v
            for v, is_wide in zip(made, wide, strict=True)
        ]

    def like(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], **changed: Any
    ) -> Sequence[ir.Value]:
        """The same node on other inputs, with some attributes changed (None removes one)."""
        attributes = {name: a for name, a in node.attributes.items() if name not in changed}
        outputs = self.emit(
            node.op_type, inputs, {**attributes, **changed}, len(node.outputs), node.domain
        )
        made = outputs[0].producer()
        if made is not None:  # sizes that are known are constants
            made.meta.update(node.meta)
        if not changed and _fit_alike(node, inputs):
            for old, new in zip(node.outputs, outputs, strict=True):
                new.shape = old.shape
        return outputs

    def _record(self, node: ir.Node) -> Sequence[ir.Value]:
        number = next(self.numbers)
        for i, output in enumerate(node.outputs):
            output.name = f"{MADE}{number}.{i}"
        self.shapes.infer(node)
        if any(v in self.linear for v in node.inputs if v is not None):
            self.linear.update(node.outputs)
        self.nodes.append(node)
        return node.outputs

    def seed(self, like: ir.Value, leading: Dims = (), *, linear: bool = True) -> ir.Value:
        """A new value, linear by default, given from outside: [*leading, *shape of `like`]."""
        value = ir.Value(
            name=f"{MADE}{next(self.numbers)}",
            shape=ir.Shape((*leading, *dims.of(like))),
            type=ir.TensorType(_known(like.dtype)),
        )
        if linear:
            self.linear.add(value)
        return value

    # -- constants -----------------------------------------------------------------------------

    def const(self, array: ArrayLike, like: ir.Value | ir.DataType) -> ir.Value:
        """A constant in the dtype of `like`; one initialiser per distinct content."""
        dtype = like if isinstance(like, ir.DataType) else _known(like.dtype)
        content = np.ascontiguousarray(np.asarray(array).astype(dtype.numpy()))
        content = content.reshape(np.shape(array))
        key = (dtype, content.shape, content.tobytes())
        if key not in self._constants:
            name = f"{MADE}{next(self.numbers)}"
            self._constants[key] = ir.Value(
                name=name,
                shape=ir.Shape(content.shape),
                type=ir.TensorType(dtype),
                const_value=ir.Tensor(content, dtype=dtype, name=name),
            )
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> ir.Value:
        return self.const(np.array(values, np.int64), INT64)

    def shape_of(self, value: ir.Value, start: int = 0) -> ir.Value:
        """The shape from axis `start` on as a tensor: a constant where it is static."""
        tail = dims.of(value)[start:]
        if dims.is_static(tail) or value in self.linear:
            return self.as_tensor(tail)
        return self.Shape(value, start=start) if start else self.Shape(value)

    def sizes(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The sizes of some axes as a tensor: a constant where they are static."""
        chosen = tuple(dims.of(value)[axis] for axis in axes)
        if dims.is_static(chosen) or value in self.linear:
            return self.as_tensor(chosen)
        return self.Gather(self.Shape(value), self.ints(axes))

    def count(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The number of elements along some axes, as a tensor of one element.

        Said outright and not as -1, which cannot be worked out for an empty batch.
        """
        if value in self.linear:
            return self.volume([dims.of(value)[axis] for axis in axes])
        total = dims.product(dims.of(value)[axis] for axis in axes)
        if isinstance(total, int):
            return self.ints([total])
        return self.ReduceProd(self.sizes(value, axes), keepdims=1)

    def volume(self, shape: Sequence[Dim]) -> ir.Value:
        """The product of dimensions, as a tensor of one element."""
        total = dims.product(shape)
        if isinstance(total, int):
            return self.ints([total])
        return self.ReduceProd(self.as_tensor(tuple(shape)), keepdims=1)

    def as_tensor(self, shape: Dims) -> ir.Value:
        """Dimensions as a tensor: a constant where they are static, else read at run time.

        Raises:
          UnknownTypeError: no primal value has such a size.
        """
        return self.sizes_at_run_time.tensor(shape)

    def zeros_like(self, value: ir.Value) -> ir.Value:
        """Zeros in the shape of a value."""
        shape = dims.static(value)
        dtype = _known(value.dtype)
        if shape is not None and np.prod(shape, dtype=int) <= 4096:
            return self.const(np.zeros(shape), value)
        return self.zeros(dtype, self.shape_of(value))

    def zeros(self, dtype: ir.DataType | None, shape: ir.Value) -> ir.Value:
        if dtype == ir.DataType.BFLOAT16:  # which ConstantOfShape takes from opset 20 on
            return self.Cast(self.zeros(ir.DataType.FLOAT, shape), to=int(dtype))
        zero = ir.tensor(np.zeros(1, _known(dtype).numpy()))
        return self.ConstantOfShape(shape, value=zero)

    # -- movement ------------------------------------------------------------------------------

    def reshape_to(self, value: ir.Value, shape: Dims) -> ir.Value | None:
        """Reshape to given dimensions if at most one is symbolic; None where that can't be said."""
        if dims.of(value) == shape and all(dims.is_named(d) for d in shape):
            return value
        symbolic = sum(not isinstance(d, int) for d in shape)
        if symbolic > 1 or (symbolic and 0 in shape):
            return None
        target = [d if isinstance(d, int) else -1 for d in shape]
        producer = value.producer()
        if producer is not None and producer.op_type == "Reshape" and producer.graph is None:
            value = producer.inputs[0] or value  # two views in a row are one
        out = self.Reshape(value, self.ints(target), allowzero=1 if 0 in shape else None)
        out.shape = ir.Shape(shape)
        return out

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        return self.Unsqueeze(value, self.ints(axes)) if axes else value

    def stack(self, values: Sequence[ir.Value]) -> ir.Value:
        """[K, *shape] from K values of one shape."""
        return self.Concat(*(self.unsqueeze(v, 0) for v in values), axis=0)

    def unstack(self, value: ir.Value, count: int) -> list[ir.Value]:
        """K values from [K, *shape]."""
        at = [self.const(np.int64(k), INT64) for k in range(count)]
        return [self.Gather(value, k, axis=0) for k in at]

    def expand_to(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Broadcast to the shape of a value; nothing to do where the shapes are equal."""
        if same_shape(value, like):
            return value
        out = self.Expand(value, self.shape_of(like))
        out.shape = like.shape
        return out

    def add_all(self, values: Sequence[ir.Value]) -> ir.Value:
        total = values[0]
        for value in values[1:]:
            total = self.Add(total, value)
        return total


def _typed(name: str, value: Any) -> Any:
    """An attribute whose type is plain; `ir.node` asks lists and tensors at length for theirs."""
    if isinstance(value, ir.Tensor):
        return ir.AttrTensor(name, value)
    if isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
        return ir.AttrInt64s(name, value)
    return value


def _fit_alike(node: ir.Node, inputs: Sequence[ir.Value | None]) -> bool:
    """Whether a node's outputs have the shapes that they have on its own operands.

    What sets a shape, beside shapes, are integers: those have to be the same values.
    """
    if any(v.shape is None for v in node.outputs):
        return False
    for old, new in itertools.zip_longest(node.inputs, inputs):
        if new is old:
            continue
        if old is None or new is None:
            if node.op_type == "Resize":  # whose scales are numbers
                return False
        elif old.dtype != new.dtype or dims.of(old) != dims.of(new):
            return False
    return True


class Sizes:
    """Where the size behind a symbol can be read at run time: off a primal value's shape.

    Linear values have no shape of their own to be asked: they may never be computed (a transposed
    program replaces the one it was made from). Inputs of the graph are asked first, so that no
    value inside is kept alive for its shape.
    """

    def __init__(self, op: Ops, graph: ir.Graph | None) -> None:
        self._op = op
        self._graph = graph
        self._places: dict[Dim, tuple[ir.Value, int]] = {}
        self._indexed = -1
        self._read: dict[Dim, ir.Value] = {}
        self._tensors: dict[Dims, ir.Value] = {}

    def tensor(self, shape: Dims) -> ir.Value:
        if dims.is_static(shape):
            return self._op.ints([int(d) for d in shape if isinstance(d, int)])
        if shape not in self._tensors:
            runs = itertools.groupby(shape, lambda d: isinstance(d, int))
            parts: list[ir.Value] = []
            for static, run in runs:
                if static:
                    parts.append(self._op.ints([int(d) for d in run if isinstance(d, int)]))
                else:
                    parts += [self._size(d) for d in run]
            whole = parts[0] if len(parts) == 1 else self._op.Concat(*parts, axis=0)
            self._tensors[shape] = whole
        return self._tensors[shape]

    def _size(self, dim: Dim) -> ir.Value:
        """One dimension as an int64 tensor of one element."""
        if dim not in self._read:
            self._index()
            if dim in self._places:
                value, axis = self._places[dim]
                self._read[dim] = self._op.Shape(value, start=axis, end=axis + 1)
            elif parts := sorted(dims.met(dim), key=str):
                self._read[dim] = functools.reduce(self._broadcast, map(self._size, parts))
            else:
                self._read[dim] = self._evaluated(dims.expression(dim))
        return self._read[dim]

    def _index(self) -> None:
        """Learn the dimensions of the values that were there or recorded since the last time."""
        if self._indexed < 0 and self._graph is not None:
            self._learn(self._graph.inputs)
            for node in self._graph:
                self._learn(node.outputs)
        for node in self._op.nodes[max(self._indexed, 0) :]:
            self._learn(v for v in node.outputs if v not in self._op.linear)
        self._indexed = len(self._op.nodes)

    def restart(self) -> None:
        """Learn what was recorded so far, all of which is about to be recorded again."""
        self._index()
        self._indexed = 0

    def _learn(self, values: Iterable[ir.Value]) -> None:
        for value in values:
            for axis, dim in enumerate(() if value.shape is None else value.shape.dims):
                if not isinstance(dim, int) and value.name:
                    self._places.setdefault(dim, (value, axis))

    def _broadcast(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self._op.Where(self._op.Equal(a, self._op.ints([1])), b, a)

    def _evaluated(self, expression: sympy.Expr) -> ir.Value:
        """A sum, product or quotient of sizes that can be read, none of which is negative."""
        op = self._op
        if expression.is_Integer:
            return op.ints([int(expression)])
        rounded = isinstance(expression, sympy.floor)
        above, below = (expression.args[0] if rounded else expression).as_numer_denom()
        if below.is_Integer and below != 1:
            return op.Div(self._size(dims.from_expression(above)), op.ints([int(below)]))
        if (expression.is_Add or expression.is_Mul) and all(_whole(a) for a in expression.args):
            parts = [self._size(dims.from_expression(a)) for a in expression.args]
            name = "Add" if expression.is_Add else "Mul"
            return functools.reduce(lambda a, b: op.emit(name, (a, b))[0], parts)
        raise dims.UnknownTypeError(f"no value at hand has the size {expression}")


def _whole(expression: sympy.Expr) -> bool:
    return bool(expression.is_integer)


def _known(dtype: ir.DataType | None) -> ir.DataType:
    if dtype is None:
        raise dims.UnknownTypeError("the dtype of a value that it needs cannot be inferred")
    return dtype


def same_shape(a: ir.Value, b: ir.Value) -> bool:
    """Whether two values provably have one shape."""
    return dims.of(a) == dims.of(b)


def rank(value: ir.Value) -> int:
    return len(dims.of(value))


def dim(value: ir.Value, axis: int) -> Dim:
    return dims.of(value)[axis]
