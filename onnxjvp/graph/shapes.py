"""Symbolic shapes: a dtype and dimensions for every value, in the model's own symbols.

onnx's inference does no arithmetic on symbols: Reshape(-1, 32) of [N, 64, 32] is unknown to it.
Here small integer tensors are carried as lists of dimensions, the operators that move or compute
dimensions have a function in `shape_functions/`, and onnx's own inference does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import sympy

from onnxjvp.graph import dims, limits
from onnxjvp.graph.dims import Dim, Dims

#: integer tensors up to this many elements are carried as lists of dimensions
SMALL = 64

ShapeFunction = Callable[["Shapes", ir.Node], None]
FUNCTIONS: dict[str, ShapeFunction] = {}


def shape_function(op_types: str) -> Callable[[ShapeFunction], ShapeFunction]:
    """Register a function for the operators named in `op_types`, separated by spaces."""

    def register(function: ShapeFunction) -> ShapeFunction:
        for op_type in op_types.split():  # "Relu", or "ai.onnx.ml::Scaler"
            assert op_type not in FUNCTIONS, op_type
            FUNCTIONS[op_type] = function
        return function

    return register


def constant(value: ir.Value | None) -> np.ndarray | None:
    """The content of a value that no caller can change, or None."""
    if value is None or (value.producer() is None and value.is_graph_input()):
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


_OPSET = "onnxjvp.opset"


def opset_behind(node: ir.Node) -> int | None:
    """The opset of the standard operators where a node is, if it has been through inference."""
    found = node.meta.get(_OPSET)
    return found if isinstance(found, int) else None


#: what a rule or a shape function meets in a node that is not of its operator's making
MISFITS = (LookupError, ValueError, TypeError, AssertionError, ArithmeticError)
#: the largest size that an int64 holds
_LARGEST = (1 << 63) - 1


def misfit(error: Exception) -> str:
    """Why a node cannot be differentiated whose rule fails on it: a model that no checker judges.

    Nothing comes of such a node. Where its operands are what the operator takes, the rule is wrong.
    """
    return (
        "its operands or attributes are not those that the operator takes, or its rule has a "
        f"defect ({type(error).__name__}: {error})"
    )


#: what an int32 is taken to hold times a size: the elements of a sample, not a billion of them
_TIMES = 1 << 20


def _is_carried(element: Dim, dtype: ir.DataType | None) -> bool:
    """Whether it is a number that a runtime has as well, which counts modulo 2⁶⁴ or 2³²."""
    short = dtype == ir.DataType.INT32
    if isinstance(element, int):
        return abs(element) <= (_LARGEST >> 32 if short else _LARGEST)
    return not short or all(abs(n) <= _TIMES for n in dims.expression(element).atoms(sympy.Integer))


class Shapes:
    """Dtypes and dimensions of one model's values, written onto the values themselves."""

    def __init__(self, opset_imports: dict[str, int]) -> None:
        self.opset_imports = opset_imports
        self._contents: dict[ir.Value, Dims | None] = {}
        #: how often bodies of loops were read
        self.turns = 0

    # -- what is known -------------------------------------------------------------------------

    def content(self, value: ir.Value | None) -> Dims | None:
        """The elements of a small integer tensor (flattened), as dimensions; None if unknown."""
        if value is None:
            return None
        if value not in self._contents:
            self._contents[value] = self._constant_content(value)
        return self._contents[value]

    def _constant_content(self, value: ir.Value) -> Dims | None:
        shape = dims.static(value)
        if value.dtype not in (ir.DataType.INT64, ir.DataType.INT32) or shape is None:
            return None
        if len(shape) > 1 or np.prod(shape, dtype=int) > SMALL:
            return None
        array = constant(value)
        return None if array is None else tuple(int(v) for v in array.reshape(-1))

    def ints(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """As `content`, where every element is a known int."""
        content = self.content(value)
        if content is None or not dims.is_static(content):
            return None
        return tuple(int(v) for v in content if isinstance(v, int))

    # -- what is learnt ------------------------------------------------------------------------

    def put(
        self,
        value: ir.Value,
        shape: Sequence[Dim] | None,
        dtype: ir.DataType | None = None,
        content: Dims | None = None,
    ) -> None:
        if dtype is not None:
            if dtype == ir.DataType.UNDEFINED:
                raise ValueError("a tensor of no dtype")
            value.dtype = dtype
        if shape is not None:
            if len(shape) > limits.current().rank:
                raise ValueError(f"a tensor of {len(shape)} axes")
            if any(isinstance(d, int) and not 0 <= d <= _LARGEST for d in shape):
                raise ValueError(f"a tensor of sizes {[str(d) for d in shape]}")
            value.shape = ir.Shape([dims.bounded(d) for d in shape])
        if content is None or len(content) > SMALL:
            return
        if all(_is_carried(element, value.dtype) for element in content):
            self._contents[value] = content

    def infer(self, node: ir.Node) -> None:
        """Give every output of a node its dtype and dimensions, if they can be known."""
        node.meta[_OPSET] = self.opset_imports.get("")
        # an If reads its operands inside its bodies only
        prefix = f"{node.domain}::" if node.domain else ""
        label = prefix + node.op_type
        known = label == "If" or all(v is None or v.shape is not None for v in node.inputs)
        function = FUNCTIONS.get(label)
        if known and function is not None:
            function(self, node)
        elif known and _is_vague(node):
            self._infer_by_onnx(node)
        for output in node.outputs:
            if output.shape is not None and not all(map(_is_usable, output.shape.dims)):
                output.shape = ir.Shape([_usable(d) for d in output.shape.dims])

    def _infer_by_onnx(self, node: ir.Node) -> None:
        version = self.opset_imports.get(node.domain, 1)
        if node.domain not in ("", "ai.onnx.ml") or not onnx.defs.has(node.op_type, node.domain):
            return
        try:
            schema = onnx.defs.get_schema(node.op_type, version, node.domain)
        except onnx.defs.SchemaError:
            return  # the model's opset has no such operator yet
        types = {v.name: _type_proto(v) for v in _operands(node) if v.name and v.dtype is not None}
        data = {}
        for value in node.inputs:
            ints = self.ints(value)
            if value is not None and value.name and ints is not None and value.dtype is not None:
                array = np.array(ints, value.dtype.numpy()).reshape(dims.static(value) or ())
                data[value.name] = onnx.numpy_helper.from_array(array)
        symbols = {
            dim.value: dim
            for value in _operands(node)
            for dim in (value.shape or ())
            if not isinstance(dim, int) and dim.value is not None
        }
        opsets = [onnx.helper.make_opsetid(d, v) for d, v in self.opset_imports.items()]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), types, data, opset_imports=opsets
            )
        except (
            *(onnx.shape_inference.InferenceError, onnx.checker.ValidationError),
            *(LookupError, ValueError, RuntimeError),
        ):
            return  # the shape stays unknown; whoever needs it refuses the node by name
        for output in node.outputs:
            if output.name in found and found[output.name].HasField("tensor_type"):
                _read_type(output, found[output.name].tensor_type, symbols)


def _operands(node: ir.Node) -> list[ir.Value]:
    return [v for v in node.inputs if v is not None]


def _is_vague(node: ir.Node) -> bool:
    return any(
        output.dtype is None or output.shape is None or not dims.is_static(output.shape.dims)
        for output in node.outputs
    )


def _is_usable(dim: Dim) -> bool:
    return isinstance(dim, int) or dim.value is not None


def _usable(dim: Dim) -> Dim:
    return dim if _is_usable(dim) else dims.fresh()


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    proto = onnx.TypeProto()
    assert value.dtype is not None and value.shape is not None
    proto.tensor_type.elem_type = int(value.dtype)
    proto.tensor_type.shape.SetInParent()
    for dim in value.shape.dims:
        entry = proto.tensor_type.shape.dim.add()
        if isinstance(dim, int):
            entry.dim_value = dim
        elif dim.value is not None:
            entry.dim_param = dim.value
    return proto


def _read_type(value: ir.Value, proto: onnx.TypeProto.Tensor, symbols: Mapping[str, Dim]) -> None:
    """What onnx infers; a symbol that it passes on is the operand's own."""
    if value.dtype is None:
        value.dtype = ir.DataType(proto.elem_type)
    if not proto.HasField("shape"):
        return
    found: list[Dim] = []
    for entry in proto.shape.dim:
        if entry.HasField("dim_value"):
            found.append(entry.dim_value)
        else:
            found.append(symbols.get(entry.dim_param) or ir.SymbolicDim(None))
    if value.shape is not None and len(value.shape) == len(found):
        found = [
            old if not isinstance(new, int) and _is_usable(old) else new
            for old, new in zip(value.shape.dims, found, strict=True)
        ]
    value.shape = ir.Shape(found)
