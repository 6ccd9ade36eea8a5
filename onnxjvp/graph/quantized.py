"""Quantised values: integers (and floats of 8 bits and fewer) that stand for real numbers.

What a tangent of one is, and which operands of a quantised operator are the codes, scales and zero
points of its float counterpart. A tangent is in units of the code: the derivative of the real
number that it would be if nothing were rounded. In these units every operator that only moves,
adds or multiplies codes has the derivative that it has on floats.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.shapes import Shapes, shape_function

#: the one treatment of rounding that there is, and what a node is marked with that has it
STRAIGHT_THROUGH = "straight-through"

_NOT_CODES = (
    *(ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16),
    *(ir.DataType.BOOL, ir.DataType.STRING, ir.DataType.COMPLEX64, ir.DataType.COMPLEX128),
)


def is_code(value: ir.Value | None) -> bool:
    """Whether the value can stand for real numbers without being of a float type itself."""
    return value is not None and value.dtype is not None and value.dtype not in _NOT_CODES


def pass_straight_through(graph: ir.Graph) -> None:
    """Mark every node, those in bodies as well: rounding is passed over."""
    for node in graph.all_nodes():
        node.meta[STRAIGHT_THROUGH] = True


def passes_straight_through(node: ir.Node) -> bool:
    return bool(node.meta.get(STRAIGHT_THROUGH, False))


@dataclass(frozen=True)
class Codes:
    """Where a node has an operand, its scale and its zero point; those may lie along an axis."""

    value: int
    scale: int | None = None
    zero_point: int | None = None
    axis: int = 0


@dataclass(frozen=True)
class Layout:
    """A quantised operator as its float counterpart on dequantised operands."""

    op_type: str
    operands: tuple[Codes, ...]
    #: scale and zero point of the output; a scale that is left out is 1, or the output a float
    out: Codes = field(default_factory=lambda: Codes(0))
    #: a bias of integers, in units of the product of the operands' scales
    bias: int | None = None
    #: a float that is added to the output
    shift: int | None = None
    #: operands that are taken as they are, in front of the others
    plain: tuple[int, ...] = ()
    #: attributes that the counterpart has not, and the only value with which it is one
    only: dict[str, int] = field(default_factory=dict)


_X, _PAIR = Codes(0, 1, 2), (Codes(0, 1, 2), Codes(3, 4, 5))
_PRODUCT = (Codes(0, 1, 2, axis=-2), Codes(3, 4, 5, axis=-1))

LAYOUTS: dict[str, Layout] = {
    "QLinearConv": Layout("Conv", _PAIR, Codes(0, 6, 7), bias=8),
    "QLinearMatMul": Layout("MatMul", _PRODUCT, Codes(0, 6, 7)),
    "ConvInteger": Layout("Conv", (Codes(0, None, 2), Codes(1, None, 3))),
    "MatMulInteger": Layout("MatMul", (Codes(0, None, 2, axis=-2), Codes(1, None, 3, axis=-1))),
    "com.microsoft::MatMulIntegerToFloat": Layout(
        "MatMul", (Codes(0, 2, 4, axis=-2), Codes(1, 3, 5, axis=-1)), shift=6
    ),
    "com.microsoft::DynamicQuantizeMatMul": Layout(
        "MatMul", (Codes(0), Codes(1, 2, 3, axis=-1)), shift=4
    ),
    "com.microsoft::QGemm": Layout("Gemm", _PRODUCT, Codes(0, 7, 8), bias=6),
    "com.microsoft::QLinearAdd": Layout("Add", _PAIR, Codes(0, 6, 7)),
    "com.microsoft::QLinearMul": Layout("Mul", _PAIR, Codes(0, 6, 7)),
    "com.microsoft::QLinearSigmoid": Layout("Sigmoid", (_X,), Codes(0, 3, 4)),
    "com.microsoft::QLinearLeakyRelu": Layout("LeakyRelu", (_X,), Codes(0, 3, 4)),
    "com.microsoft::QLinearSoftmax": Layout("Softmax", (_X,), Codes(0, 3, 4), only={"opset": 13}),
    "com.microsoft::QLinearGlobalAveragePool": Layout(
        "GlobalAveragePool", (_X,), Codes(0, 3, 4), only={"channels_last": 0}
    ),
    "com.microsoft::QLinearAveragePool": Layout(
        "AveragePool", (_X,), Codes(0, 3, 4), only={"channels_last": 0}
    ),
    "com.microsoft::QLinearWhere": Layout(
        "Where", (Codes(1, 2, 3), Codes(4, 5, 6)), Codes(0, 7, 8), plain=(0,)
    ),
}
_CONCAT = "com.microsoft::QLinearConcat"
QUANTISED = (*LAYOUTS, _CONCAT)


def label_of(node: ir.Node) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain else node.op_type


def layout_of(node: ir.Node) -> Layout:
    if label_of(node) != _CONCAT:
        return LAYOUTS[label_of(node)]
    triples = range(2, len(node.inputs), 3)
    return Layout("Concat", tuple(Codes(i, i + 1, i + 2) for i in triples), Codes(0, 0, 1))


def operand(node: ir.Node, index: int | None) -> ir.Value | None:
    return node.inputs[index] if index is not None and index < len(node.inputs) else None


def counterpart(node: ir.Node) -> tuple[dict[str, ir.Attr], str | None]:
    """The attributes of the float counterpart, and why there is none after all."""
    layout = layout_of(node)
    attributes = {k: a for k, a in node.attributes.items() if k not in layout.only}
    for name, wanted in layout.only.items():
        found = node.attributes.get_int(name, wanted)
        if found < wanted if name == "opset" else found != wanted:
            return attributes, f"with {name} = {found} it is not {layout.op_type}"
    return attributes, None


# -- shapes ------------------------------------------------------------------------------------


@shape_function(" ".join(name for name in QUANTISED if "::" in name))
def _quantised(s: Shapes, node: ir.Node) -> None:
    """The shape of the float counterpart, with the dtype of the output's zero point."""
    layout = layout_of(node)
    attributes, reason = counterpart(node)
    if reason is not None:
        return
    inputs = [operand(node, i) for i in (*layout.plain, *(c.value for c in layout.operands))]
    # a name of its own, so that onnx's inference tells the stand-in's output from the operands
    stand_in = ir.node(layout.op_type, inputs, attributes)
    stand_in.outputs[0].name = f"{node.outputs[0].name}/float"
    s.infer(stand_in)
    shape = stand_in.outputs[0].shape
    stand_in.resize_inputs(0)
    zero_point = operand(node, layout.out.zero_point)
    first = operand(node, layout.operands[0].value)
    dtype = ir.DataType.FLOAT
    if layout.out.scale is not None and operand(node, layout.out.scale) is not None:
        like = zero_point or first
        dtype = dtype if like is None or like.dtype is None else like.dtype
    s.put(node.outputs[0], None if shape is None else shape.dims, dtype)


@shape_function("com.microsoft::QuantizeLinear")
def _quantize(s: Shapes, node: ir.Node) -> None:
    zero_point, x = operand(node, 2), operand(node, 0)
    assert x is not None
    dtype = ir.DataType.UINT8 if zero_point is None else zero_point.dtype
    s.put(node.outputs[0], dims.of(x), dtype)


@shape_function("com.microsoft::DequantizeLinear")
def _dequantize(s: Shapes, node: ir.Node) -> None:
    x, scale = operand(node, 0), operand(node, 1)
    assert x is not None and scale is not None
    s.put(node.outputs[0], dims.of(x), scale.dtype)
