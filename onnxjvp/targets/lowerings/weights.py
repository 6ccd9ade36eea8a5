"""Weights that a runtime reads one way only: another way gets a copy of its own."""

from __future__ import annotations

import onnx_ir as ir

from onnxjvp.graph.ops import MADE, Ops
from onnxjvp.targets.limits import orientation, turned_operands
from onnxjvp.targets.lowerings import convolution
from onnxjvp.targets.lowerings.engine import Lowering, Made, lowering


@lowering("MatMul Gemm Conv ConvTranspose Transpose")
def read_apart(low: Lowering, node: ir.Node) -> Made:
    """The same, on copies of weights that others read another way; a Conv by a kernel whose sizes
    only the run tells as a product for each place.
    """
    operands = list(node.inputs)
    turned = turned_operands(node)
    for i in turned:
        value = operands[i]
        assert value is not None
        key = (value, orientation(node, i))
        if key not in low.copies:
            low.copies[key] = _copy(low.op, value)
        operands[i] = low.copies[key]
    if turned:
        return low.op.like(node, operands)
    return convolution.by_products(low.op, node) if node.op_type == "Conv" else None


def _copy(op: Ops, value: ir.Value) -> ir.Value:
    """Another constant of the same content, wherever that is held."""
    held = ir.convenience.get_const_tensor(value)
    assert held is not None
    name = f"{MADE}{next(op.numbers)}"
    content: ir.TensorProtocol
    if isinstance(held, ir.ExternalTensor):
        content = ir.ExternalTensor(
            held.location,
            held.offset,
            held.length,
            held.dtype,
            shape=held.shape,
            name=name,
            base_dir=held.base_dir,
        )
    else:
        content = ir.Tensor(held.numpy(), dtype=held.dtype, name=name)
    return ir.Value(name=name, shape=value.shape, type=value.type, const_value=content)
