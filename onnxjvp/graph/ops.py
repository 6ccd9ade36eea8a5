"""The builder: `op.Mul(a, b)` records a detached node whose output has a dtype and a shape.

It also sorts: a node with an operand in `linear` belongs to the linear program, any other is a
residual (masks, slopes, indices). Passes read `nodes` and `linear` from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.shapes import Shapes

INT64 = ir.DataType.INT64
#: what the names of recorded values start with, until a pass emits them under names of their own
MADE = "?onnxjvp."


class Ops:
    """Records nodes in order. Values it makes are named only when a pass emits them."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.nodes: list[ir.Node] = []
        self.linear: set[ir.Value] = set()
        self._constants: dict[tuple[ir.DataType, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

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
        given = {k: v for k, v in (attributes or {}).items() if v is not None}
        node = ir.node(op_type, operands, given, domain=domain, num_outputs=outputs)
        return self._record(node)

    def like(
        self, node: ir.Node, inputs: Sequence[ir.Value | None], **changed: Any
    ) -> Sequence[ir.Value]:
        """The same node on other inputs, with some attributes changed (None removes one)."""
        attributes = {name: a for name, a in node.attributes.items() if name not in changed}
        return self.emit(
            node.op_type, inputs, {**attributes, **changed}, len(node.outputs), node.domain
        )

    def _record(self, node: ir.Node) -> Sequence[ir.Value]:
        self._count += 1
        for i, output in enumerate(node.outputs):
            output.name = f"{MADE}{self._count}.{i}"
        self.shapes.infer(node)
        if any(v in self.linear for v in node.inputs if v is not None):
            self.linear.update(node.outputs)
        self.nodes.append(node)
        return node.outputs

    def seed(self, like: ir.Value) -> ir.Value:
        """A new linear value in the shape of `like`, given from outside."""
        self._count += 1
        value = ir.Value(
            name=f"{MADE}{self._count}",
            shape=ir.Shape(dims.of(like)),
            type=ir.TensorType(_known(like.dtype)),
        )
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
            self._count += 1
            name = f"{MADE}{self._count}"
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
        if dims.is_static(tail):
            return self.ints([int(d) for d in tail if isinstance(d, int)])
        return self.Shape(value, start=start) if start else self.Shape(value)

    def sizes(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The sizes of some axes as a tensor: a constant where they are static."""
        chosen = [dims.of(value)[axis] for axis in axes]
        if dims.is_static(chosen):
            return self.ints([int(d) for d in chosen if isinstance(d, int)])
        return self.Gather(self.Shape(value), self.ints(axes))

    def count(self, value: ir.Value, axes: Sequence[int]) -> ir.Value:
        """The number of elements along some axes, as a tensor of one element.

        Said outright and not as -1, which cannot be worked out for an empty batch.
        """
        total = dims.product(dims.of(value)[axis] for axis in axes)
        if isinstance(total, int):
            return self.ints([total])
        return self.ReduceProd(self.sizes(value, axes), keepdims=1)

    def zeros_like(self, value: ir.Value) -> ir.Value:
        """Zeros in the shape of a primal value."""
        shape = dims.static(value)
        dtype = _known(value.dtype)
        if shape is not None and np.prod(shape, dtype=int) <= 4096:
            return self.const(np.zeros(shape), value)
        zero = ir.tensor(np.zeros(1, dtype.numpy()))
        return self.ConstantOfShape(self.shape_of(value), value=zero)

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

    def expand_to(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Broadcast to the shape of a primal value; nothing to do where the shapes are equal."""
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
