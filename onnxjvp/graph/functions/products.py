"""Bodies of onnxruntime's products: matrices and convolutions, with what is fused into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir

from onnxjvp.graph.functions.activations import activated, tanh_gelu, with_bias
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.regions import Region


@body("com.microsoft::FusedMatMul com.microsoft::TransposeMatMul")
def _fused_matmul(op: Ops, region: Region) -> Outs:
    return [_matmul(op, region)]


@body("com.microsoft::FusedMatMulActivation")
def _fused_matmul_activation(op: Ops, region: Region) -> Outs:
    return [
        activated(op, region.attr_string("activation", ""), _matmul(op, region), _params(region))
    ]


def _matmul(op: Ops, region: Region) -> ir.Value:
    a, b = (_turned(op, region, i, "AB"[i]) for i in range(2))
    product = op.MatMul(a, b)
    alpha = region.attr_float("alpha", 1.0)
    return product if alpha == 1 else op.Mul(product, op.const(alpha, like=product))


def _turned(op: Ops, region: Region, index: int, side: str) -> ir.Value:
    """An operand as it is multiplied: `transBatch` moves its first axis before the last one."""
    x = region.operand(index)
    perm = list(range(rank(x)))
    if len(perm) < 2:
        return x  # vectors stay: the runtime ignores what is said of them
    if region.attr_int(f"transBatch{side}", 0):
        perm = [*perm[1:-1], 0, perm[-1]]
    if region.attr_int(f"trans{side}", 0):
        perm[-2:] = perm[:-3:-1]
    return x if perm == sorted(perm) else op.Transpose(x, perm=perm)


@body("com.microsoft::FusedGemm")
def _fused_gemm(op: Ops, region: Region) -> Outs:
    own = {k: a for k, a in region.attributes.items() if not k.startswith("activation")}
    (y,) = op.emit("Gemm", region.inputs, own)
    return [activated(op, region.attr_string("activation", ""), y, _params(region))]


def _params(region: Region) -> list[float]:
    """Parameters of an activation that are attributes of their own."""
    names = ("activation_alpha", "activation_beta", "activation_gamma")
    return [region.attr_float(name, 0.0) for name in names if name in region.attributes]


@body("com.microsoft::GemmFastGelu")
def _gemm_fast_gelu(op: Ops, region: Region) -> Outs:
    product = op.MatMul(region.operand(0), region.operand(1))
    return [tanh_gelu(op, with_bias(op, product, region.input(2)))]


# -- convolutions ------------------------------------------------------------------------------


@body("com.microsoft::FusedConv")
def _fused_conv(op: Ops, region: Region) -> Outs:
    """activation(X ∗ W + B + Z)"""
    return [_convolved(op, region, region.operand(0), region.input(3))]


@body("com.microsoft::NhwcFusedConv com.microsoft::NhwcConv")
def _channels_last_conv(op: Ops, region: Region) -> Outs:
    residual = region.input(3)
    residual = None if residual is None else _channels_first(op, residual)
    y = _convolved(op, region, _channels_first(op, region.operand(0)), residual)
    return [_channels_last(op, y)]


def _convolved(op: Ops, region: Region, x: ir.Value, residual: ir.Value | None) -> ir.Value:
    own = {k: a for k, a in region.attributes.items() if not k.startswith("activation")}
    (y,) = op.emit("Conv", [x, region.operand(1), region.input(2)], own)
    params = region.attributes.get("activation_params")
    given = () if params is None else params.as_floats()
    return activated(op, region.attr_string("activation", ""), with_bias(op, y, residual), given)


@body("com.microsoft::NhwcMaxPool")
def _channels_last_max_pool(op: Ops, region: Region) -> Outs:
    (y,) = op.emit("MaxPool", [_channels_first(op, region.operand(0))], dict(region.attributes))
    return [_channels_last(op, y)]


def _channels_first(op: Ops, x: ir.Value) -> ir.Value:
    return op.Transpose(x, perm=[0, rank(x) - 1, *range(1, rank(x) - 1)])


def _channels_last(op: Ops, x: ir.Value) -> ir.Value:
    return op.Transpose(x, perm=[0, *range(2, rank(x)), 1])


@body("com.microsoft::ConvTransposeWithDynamicPads")
def _conv_transpose_with_dynamic_pads(op: Ops, region: Region) -> Outs:
    pads = op.shapes.ints(region.input(2))
    if region.input(2) is not None and pads is None:
        raise NoBodyError("its pads are known at run time only")
    attributes: dict[str, Any] = dict(region.attributes)
    if pads is not None:
        attributes["pads"] = pads
    x, w = region.operand(0), region.operand(1)
    return op.emit("ConvTranspose", [x, w, region.input(3)], attributes)


# -- weights behind a few bits -----------------------------------------------------------------


@body("com.microsoft::MatMulNBits")
def _matmul_n_bits(op: Ops, region: Region) -> Outs:
    """A Wᵀ + bias: W, [N, K], is (q − zero) · scale, with a zero and a scale per block."""
    a, scales = region.operand(0), region.operand(2)
    bits, block = region.attr_int("bits", 4), region.attr_int("block_size", 0)
    n, k = region.attr_int("N", 0), region.attr_int("K", 0)
    if bits not in (2, 4, 8) or region.attr_int("weight_prepacked", 0) or region.input(4):
        raise NoBodyError("its weights are packed in a way that is not covered")
    if region.attr_int("accuracy_level", 0) == 4:
        raise NoBodyError(
            "at accuracy level 4 it rounds its operand to 8 bits; export it at a lower level"
        )
    blocks = -(-k // block)
    codes = _unpacked(op, region.operand(1), bits, [n, blocks, block], a)
    zero: ir.Value = op.const(2 ** (bits - 1), like=a)
    if (zeros := region.input(3)) is not None:
        if zeros.dtype == ir.DataType.UINT8:
            zeros = _unpacked(op, zeros, bits, [n, -1], a)
            zeros = op.Slice(zeros, op.ints([0]), op.ints([blocks]), op.ints([1]))
        zero = op.Reshape(zeros, op.ints([n, blocks, 1]))
    scale = op.Reshape(scales, op.ints([n, blocks, 1]))
    whole = op.Reshape(op.Mul(op.Sub(codes, zero), scale), op.ints([n, blocks * block]))
    weight = op.Slice(whole, op.ints([0]), op.ints([k]), op.ints([1]))
    return [with_bias(op, op.MatMul(a, op.Transpose(weight, perm=[1, 0])), region.input(5))]


#: what the codes of 4 bits stand for, relative to the largest number of a block: FP4, and NF4 of
#: QLoRA (Dettmers et al. 2023, appendix E)
_FP4 = (0.0, 5.208333333e-03, 2 / 3, 1.0, 1 / 3, 0.5, 1 / 6, 0.25)
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@body("com.microsoft::MatMulBnb4")
def _matmul_bnb4(op: Ops, region: Region) -> Outs:
    """A Wᵀ: W, [N, K], is a number of a table for each code, times the largest of its block."""
    a, codes, largest = (region.operand(i) for i in range(3))
    if not region.attr_int("transB", 1):
        raise NoBodyError("with transB = 0 runtimes compute something else than they document")
    n, k, block = (region.attr_int(name, 0) for name in ("N", "K", "block_size"))
    table = _NF4 if region.attr_int("quant_type", 1) else (*_FP4, *(-v for v in _FP4))
    byte = op.Cast(op.unsqueeze(codes, 1), to=int(ir.DataType.INT32))
    sixteen = op.const([16], ir.DataType.INT32)
    both = op.Concat(op.Div(byte, sixteen), op.Mod(byte, sixteen), axis=1)  # the higher one first
    each = op.Gather(op.const(table, like=a), op.Reshape(both, op.ints([-1])))
    blocks, stored = -(-n * k // block), n * k + n * k % 2
    if stored != blocks * block:  # the last block is short, or a code has no weight
        each = op.Pad(each, op.ints([0, blocks * block - stored]))
    whole = op.Mul(op.Reshape(each, op.ints([blocks, block])), op.unsqueeze(largest, 1))
    flat = op.Slice(op.Reshape(whole, op.ints([-1])), op.ints([0]), op.ints([n * k]))
    weight = op.Reshape(flat, op.ints([n, k]))
    return [op.MatMul(a, op.Transpose(weight, perm=[1, 0]))]


def _unpacked(
    op: Ops, packed: ir.Value, bits: int, shape: Sequence[int], like: ir.Value
) -> ir.Value:
    """Codes of a few bits, the lowest first in every byte, as numbers in the dtype of `like`."""
    assert like.dtype is not None
    count = 8 // bits
    byte = op.Cast(op.unsqueeze(packed, rank(packed)), to=int(ir.DataType.INT32))
    steps = op.const([2 ** (bits * i) for i in range(count)], ir.DataType.INT32)
    codes = op.Mod(op.Div(byte, steps), op.const(2**bits, ir.DataType.INT32))
    return op.Cast(op.Reshape(codes, op.ints(shape)), to=int(like.dtype))
