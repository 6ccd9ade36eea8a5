"""Bodies of the operators that attend: the standard's Attention, and onnxruntime's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from onnxjvp.graph import dims, limits
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.functions.normalization import narrowed
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region

INT64, BOOL = ir.DataType.INT64, ir.DataType.BOOL


# -- parts -------------------------------------------------------------------------------------


@dataclass
class Scores:
    """How scores are made into probabilities. Biases are added after `softcap`."""

    scale: ir.Value
    biases: list[ir.Value]
    softcap: float = 0.0
    #: where nothing is attended to: true elements, broadcasting to [B, H, S, T]
    hidden: ir.Value | None = None
    #: logits of nothing, beside those of the keys: [1, H, 1, 1]
    sink: ir.Value | None = None


def attend(
    op: Ops, q: ir.Value, k: ir.Value, v: ir.Value, how: Scores
) -> tuple[ir.Value, list[ir.Value]]:
    """Softmax(scale · Q Kᵀ + …) V, of [B, H, S, D], [B, H, T, D] and [B, H, T, Dv].

    A row that sees nothing gives zeros.

    Returns:
      [B, H, S, Dv]; and the scores [B, H, S, T] as products, with softcap, with biases, as
      probabilities.
    """
    products = op.MatMul(op.Mul(q, how.scale), op.Transpose(k, perm=[0, 1, 3, 2]))
    capped = products
    if how.softcap:
        cap = op.const(how.softcap, like=q)
        capped = op.Mul(op.Tanh(op.Div(products, cap)), cap)
    biased = capped
    for bias in how.biases:
        biased = op.Add(biased, bias)
    logits, none = biased, None
    if how.hidden is not None:
        # a row without anything to see is kept finite, and cleared behind the Softmax
        assert q.dtype is not None
        least = op.const(q.dtype.min / 2, like=q)
        everything = op.Where(how.hidden, op.const(0, like=q), op.const(1, like=q))
        none = op.Less(op.ReduceMax(everything, op.ints([-1]), keepdims=1), op.const(0.5, like=q))
        logits = op.Where(how.hidden, least, biased)
    chances = _softmax(op, logits, how.sink)
    if none is not None:
        chances = op.Where(none, op.const(0, like=q), chances)
    return op.MatMul(chances, v), [products, capped, logits, chances]


def _softmax(op: Ops, logits: ir.Value, sink: ir.Value | None) -> ir.Value:
    if sink is None:
        return op.Softmax(logits, axis=-1)
    row = op.Mul(op.Slice(logits, op.ints([0]), op.ints([1]), op.ints([3])), op.const(0, like=sink))
    together = op.Concat(logits, op.Add(row, sink), axis=-1)
    whole = op.Softmax(together, axis=-1)
    return op.Slice(whole, op.ints([0]), op.ints([-1]), op.ints([3]))


def split_heads(op: Ops, x: ir.Value, heads: int) -> ir.Value:
    """[B, S, H·D] → [B, H, S, D]."""
    width = dim(x, 2)
    size = op.Div(op.sizes(x, [2]), op.ints([heads]))
    size = op.ints([width // heads]) if isinstance(width, int) else size
    parts = op.Reshape(x, op.Concat(op.ints([0, 0, heads]), size, axis=0))
    parts.shape = ir.Shape([dim(x, 0), dim(x, 1), heads, dims.quotient(width, heads)])
    return op.Transpose(parts, perm=[0, 2, 1, 3])


def join_heads(op: Ops, x: ir.Value) -> ir.Value:
    """[B, H, S, D] → [B, S, H·D]."""
    width = op.count(x, [1, 3])
    joined = op.Reshape(
        op.Transpose(x, perm=[0, 2, 1, 3]), op.Concat(op.ints([0, 0]), width, axis=0)
    )
    joined.shape = ir.Shape([dim(x, 0), dim(x, 2), dims.product([dim(x, 1), dim(x, 3)])])
    return joined


def places(op: Ops, count: Dim) -> ir.Value:
    """0, 1, …: [count]."""
    if isinstance(count, int):
        limits.check_constant(count, "the positions of a sequence")
        return op.ints(range(count))
    zero, one = (op.const(np.int64(i), INT64) for i in (0, 1))
    made = op.Range(zero, op.Squeeze(op.as_tensor((count,)), op.ints([0])), one)
    made.shape = ir.Shape([count])
    return made


def ahead(op: Ops, rows: Dim, columns: Dim, offset: ir.Value | None = None) -> ir.Value:
    """[rows, columns], true where a key comes after its query; `offset` moves the queries on."""
    own = op.unsqueeze(places(op, rows), 1)
    own = own if offset is None else op.Add(own, offset)
    return op.Less(own, places(op, columns))


def either(op: Ops, a: ir.Value | None, b: ir.Value | None) -> ir.Value | None:
    return op.Or(a, b) if a is not None and b is not None else a if b is None else b


def repeated(op: Ops, x: ir.Value, like: ir.Value) -> ir.Value:
    """[B, H, T, D] with every head in turn as often as it takes to have the heads of `like`."""
    few, many = dim(x, 1), dim(like, 1)
    if few == many:
        return x
    times = op.Div(op.sizes(like, [1]), op.sizes(x, [1]))
    around = op.sizes(x, [0, 1]), times, op.sizes(x, [2, 3])
    spread = op.Expand(op.unsqueeze(x, 2), op.Concat(*around, axis=0))
    whole = op.Concat(op.sizes(x, [0]), op.sizes(like, [1]), op.sizes(x, [2, 3]), axis=0)
    joined = op.Reshape(spread, whole)
    joined.shape = ir.Shape([dim(x, 0), many, dim(x, 2), dim(x, 3)])
    return joined


def size_of(x: ir.Value) -> int:
    size = dim(x, rank(x) - 1)
    if not isinstance(size, int):
        raise NoBodyError("the size of its heads is known at run time only")
    return size


def scale_of(op: Ops, region: Region, q: ir.Value) -> ir.Value:
    """What products are multiplied by: as given, or 1/√D."""
    if given := region.attr_float("scale", 0.0):
        return op.const(given, like=q)
    size = dim(q, 3)
    if isinstance(size, int):
        return op.const(size**-0.5, like=q)
    return op.Reciprocal(op.Sqrt(narrowed(op, op.sizes(q, [3]), q)))


# -- the standard ------------------------------------------------------------------------------


@body("Attention", shapes=True)  # onnx says 0 for sizes of scores that it does not know
def _attention(op: Ops, region: Region) -> Outs:
    """ONNX Attention-23 and newer, whose own definition gives NaN where a row sees nothing."""
    q, k, v = (region.operand(i) for i in range(3))
    mask, past_key, past_value, filled = (region.input(i) for i in range(3, 7))
    flat = rank(q) == 3
    if flat:
        q = split_heads(op, q, region.attr_int("q_num_heads", 1))
        k, v = (split_heads(op, x, region.attr_int("kv_num_heads", 1)) for x in (k, v))
    offset: ir.Value | None = None
    if past_key is not None and past_value is not None:
        offset = op.sizes(past_key, [2])
        k, v = op.Concat(past_key, k, axis=2), op.Concat(past_value, v, axis=2)
    length = dim(k, 2)
    hidden = None
    if filled is not None:
        hidden = op.LessOrEqual(op.unsqueeze(filled, 1, 2, 3), places(op, length))
        offset = op.unsqueeze(op.Sub(filled, op.sizes(q, [2])), 1, 2, 3)
    hidden = either(op, hidden, _outside(op, region, dim(q, 2), length, offset))
    biases = []
    if mask is not None:
        bias, blocked = _as_bias(op, mask, length, q)
        hidden = either(op, hidden, blocked)
        biases = [] if bias is None else [bias]
    how = Scores(scale_of(op, region, q), biases, region.attr_float("softcap", 0.0), hidden)
    y, stages = attend(op, q, repeated(op, k, q), repeated(op, v, q), how)
    mode = region.attr_int("qk_matmul_output_mode", 0)
    return [join_heads(op, y) if flat else y, k, v, stages[mode]]


def _outside(
    op: Ops, region: Region, rows: Dim, columns: Dim, offset: ir.Value | None
) -> ir.Value | None:
    """Keys after their query, or outside the window around it."""
    left = region.attr_int("left_window_size", -1)
    right = 0 if region.attr_int("is_causal", 0) else region.attr_int("right_window_size", -1)
    hidden = None
    if right >= 0:
        hidden = ahead(op, rows, columns, _moved(op, offset, right))
    if left >= 0:
        own = op.unsqueeze(places(op, rows), 1)
        first = op.Add(own, _moved(op, offset, -left) or op.ints([0]))
        hidden = either(op, hidden, op.Less(places(op, columns), first))
    return hidden


def _moved(op: Ops, offset: ir.Value | None, by: int) -> ir.Value | None:
    if not by:
        return offset
    return op.ints([by]) if offset is None else op.Add(offset, op.ints([by]))


def _as_bias(
    op: Ops, mask: ir.Value, length: Dim, like: ir.Value
) -> tuple[ir.Value | None, ir.Value]:
    """What a mask adds to the scores, and what it hides: false elements, −inf, keys beyond it."""
    never = op.const(-np.inf, like=like)
    boolean = mask.dtype == BOOL
    bias = op.Where(mask, op.const(0, like=like), never) if boolean else mask
    own = dim(mask, rank(mask) - 1)
    if own != length:
        missing = op.Sub(op.as_tensor((length,)), op.sizes(mask, [rank(mask) - 1]))
        pads = op.Concat(op.ints([0]), missing, axis=0)
        bias = op.Pad(bias, pads, op.Squeeze(never), op.ints([-1]))
    hidden = op.Equal(bias, never)
    # −inf enters no sum, in which it would spoil derivatives
    return None if boolean else op.Where(hidden, op.const(0, like=like), bias), hidden
