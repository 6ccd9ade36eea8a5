"""Operators that choose or place elements by index: indices move along, and say where to."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops
from onnxjvp.rules.transposes.table import add_at, operand, reshaped, scatter_back, transposed

transposed("Compress")(scatter_back)


@transposed("TensorScatter")
def tensor_scatter(op: Ops, node: ir.Node, i: int, ct: ir.Value) -> ir.Value:
    """The elements of one operand are numbered from 1; place 0 takes what is not of it."""
    own, other = operand(node, i), operand(node, 1 - i)
    count = op.volume(dims.of(own))
    one = op.const(np.int64(1), INT64)
    numbers = op.Range(one, op.Add(op.Squeeze(count, op.ints([0])), one), one)
    moved = list(node.inputs)
    moved[i] = op.Reshape(numbers, op.as_tensor(dims.of(own)), allowzero=1)
    moved[1 - i] = op.zeros(INT64, op.as_tensor(dims.of(other)))
    where = op.Reshape(op.like(node, moved)[0], op.ints([-1]))
    total = op.Add(count, op.ints([1]))
    flat = add_at(op, total, where, op.Reshape(ct, op.ints([-1])))
    return reshaped(op, op.Slice(flat, op.ints([1]), total), own)
