"""Bodies of the operators of onnxruntime that attend."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.dims import Dim
from onnxjvp.graph.functions.attention import (
    Scores,
    ahead,
    attend,
    either,
    join_heads,
    places,
    repeated,
    scale_of,
    size_of,
    split_heads,
)
from onnxjvp.graph.functions.normalization import narrowed, rms_norm
from onnxjvp.graph.functions.table import NoBodyError, Outs, body
from onnxjvp.graph.ops import Ops, dim, rank
from onnxjvp.graph.regions import Region

Heads = tuple[ir.Value, ir.Value, ir.Value]


@body("com.microsoft::Attention")
def _attention(op: Ops, region: Region) -> Outs:
    """Attention of a sequence to itself, behind one product with the weights of Q, K and V."""
    _refuse(region, ("do_rotary", "past_present_share_buffer"))
    x, weights, bias, mask, past, more = (region.input(i) for i in range(6))
    assert x is not None and weights is not None
    count = region.attr_int("num_heads", 1)
    projected = op.MatMul(x, weights)
    projected = projected if bias is None else op.Add(projected, bias)
    given = region.attributes.get("qkv_hidden_sizes")
    if given is None:
        parts = op.emit("Split", [projected], {"axis": -1, "num_outputs": 3}, outputs=3)
    else:
        parts = op.emit("Split", [projected, op.ints(given.as_ints())], {"axis": -1}, outputs=3)
    q, k, v = (split_heads(op, part, count) for part in parts)
    offset = None
    if past is not None:
        offset = op.sizes(past, [3])
        before = op.emit("Split", [past], {"axis": 0, "num_outputs": 2}, outputs=2)
        pasts = (op.Squeeze(part, op.ints([0])) for part in before)
        k, v = (_behind(op, x, own) for x, own in zip((k, v), pasts, strict=True))
    y = _attended(op, region, (q, k, v), mask, more, offset)
    present = op.Concat(op.unsqueeze(k, 0), op.unsqueeze(v, 0), axis=0)
    return [join_heads(op, y), present]


@body("com.microsoft::MultiHeadAttention")
def _multi_head_attention(op: Ops, region: Region) -> Outs:
    bias, mask, more = (region.input(i) for i in (3, 4, 5))
    past_key, past_value = region.input(6), region.input(7)
    if region.input(8) is not None or region.input(9) is not None:
        raise NoBodyError("it keeps its keys and values in a buffer that is shared")
    q, k, v = _heads_of_queries(op, region, bias)
    offset = None if past_key is None else op.sizes(past_key, [2])
    k, v = _behind(op, k, past_key), _behind(op, v, past_value)
    y = _attended(op, region, (q, k, v), mask, more, offset)
    return [join_heads(op, y), k, v]


def _heads_of_queries(op: Ops, region: Region, bias: ir.Value | None) -> Heads:
    """[B, H, S, D] of Q, K and V, each alone or all that are packed, with their biases."""
    count = region.attr_int("num_heads", 1)
    q, k, v = region.operand(0), region.input(1), region.input(2)
    if k is None and rank(q) == 5:  # [B, S, H, 3, D]
        parts = [_packed(op, q, i) for i in range(3)]
    elif k is not None and rank(k) == 5:  # [B, S, H, 2, D]
        parts = [split_heads(op, q, count), *(_packed(op, k, i) for i in range(2))]
    elif k is not None and v is not None:
        parts = [x if rank(x) == 4 else split_heads(op, x, count) for x in (q, k, v)]
    else:
        raise NoBodyError("its operands are packed in a way that is not covered")
    if bias is not None:
        sizes = op.Concat(*(op.count(x, [1, 3]) for x in parts), axis=0)
        own = op.emit("Split", [bias, sizes], {"axis": 0}, outputs=3)
        shaped = (
            op.Reshape(b, op.Concat(op.ints([1, count, 1]), op.sizes(x, [3]), axis=0))
            for b, x in zip(own, parts, strict=True)
        )
        # keys and values in heads already come from a past, with their biases in them
        given = (q, k, v)
        parts = [
            x if value is not None and rank(value) == 4 else op.Add(x, b)
            for x, b, value in zip(parts, shaped, given, strict=True)
        ]
    first, second, third = parts
    return first, second, third


def _packed(op: Ops, x: ir.Value, index: int) -> ir.Value:
    part = op.Gather(x, op.const(np.int64(index), ir.DataType.INT64), axis=3)
    return op.Transpose(part, perm=[0, 2, 1, 3])


def _behind(op: Ops, x: ir.Value, past: ir.Value | None) -> ir.Value:
    return x if past is None else op.Concat(past, x, axis=2)


def _refuse(region: Region, attributes: tuple[str, ...]) -> None:
    for name in attributes:
        if region.attr_int(name, 0):
            raise NoBodyError(f"with {name} it is not covered")


def _attended(
    op: Ops,
    region: Region,
    heads: Heads,
    mask: ir.Value | None,
    more: ir.Value | None,
    offset: ir.Value | None,
) -> ir.Value:
    """The attention in heads; what is masked is lowered, not hidden."""
    q, k, v = heads
    rows, columns = dim(q, 2), dim(k, 2)
    biases = [] if more is None else [more]
    if mask is not None:
        lowered = op.const(np.float32(region.attr_float("mask_filter_value", -10000.0)), like=q)
        seen = _seen(op, mask, columns, dim(q, 0))
        biases.append(op.Where(seen, op.const(0, like=q), lowered))
    causal = region.attr_int("unidirectional", 0)
    hidden = ahead(op, rows, columns, offset) if causal else None
    return attend(op, q, k, v, Scores(scale_of(op, region, q), biases, hidden=hidden))[0]


def _seen(op: Ops, mask: ir.Value, length: Dim, batch: Dim) -> ir.Value:
    """What a mask of integers lets through: [B, 1, 1 or S, T]."""
    if rank(mask) in (2, 3):
        return op.unsqueeze(op.Greater(mask, op.const(0, like=mask)), *((1, 2)[: 4 - rank(mask)]))
    if rank(mask) != 1:
        raise NoBodyError(f"masks of rank {rank(mask)} are not covered")
    at = narrowed(op, places(op, length), mask)
    ends = dim(mask, 0)
    if ends == batch:
        return op.Less(at, op.unsqueeze(mask, 1, 2, 3))
    if ends == batch * 2:
        stops, starts = op.emit("Split", [mask], {"axis": 0, "num_outputs": 2}, outputs=2)
        inside = op.GreaterOrEqual(at, op.unsqueeze(starts, 1, 2, 3))
        return op.And(op.Less(at, op.unsqueeze(stops, 1, 2, 3)), inside)
    raise NoBodyError("its mask has one axis, and not as long as the batch or twice as long")


# -- groups of queries -------------------------------------------------------------------------


@body("com.microsoft::RotaryEmbedding")
def _rotary_embedding(op: Ops, region: Region) -> Outs:
    _refuse(region, ("is_packed_batching",))
    x, positions, cos, sin = (region.operand(i) for i in range(4))
    width = region.attr_int("rotary_embedding_dim", 0)
    flat = rank(x) == 3
    heads = x
    if flat:
        count = region.attr_int("num_heads", 0) or size_of(x) // (size_of(cos) * 2)
        heads = split_heads(op, x, count)
    if rank(positions) == 1:  # of the first of a row
        positions = op.unsqueeze(op.Add(positions, places(op, dim(heads, 2))), 0)
    y = rotated(op, heads, positions, cos, sin, width, region.attr_int("interleaved", 0))
    if (scale := region.attr_float("scale", 1.0)) != 1:
        y = op.Mul(y, op.const(scale, like=y))
    return [join_heads(op, y) if flat else y]


def rotated(
    op: Ops,
    x: ir.Value,
    positions: ir.Value,
    cos: ir.Value,
    sin: ir.Value,
    width: int,
    interleaved: int,
) -> ir.Value:
    """Pairs of the first `width` numbers of [B, H, S, D] turned; positions are [B or 1, S]."""
    whole = size_of(x)
    width = width or whole
    c, s = (op.unsqueeze(op.Gather(table, positions, axis=0), 1) for table in (cos, sin))
    c, s = (_columns(op, t, 0, width // 2) for t in (c, s))
    if interleaved:
        first, second = (_columns(op, x, i, width, 2) for i in range(2))
    else:
        first, second = _columns(op, x, 0, width // 2), _columns(op, x, width // 2, width)
    real = op.Sub(op.Mul(c, first), op.Mul(s, second))
    imaginary = op.Add(op.Mul(s, first), op.Mul(c, second))
    if interleaved:
        pairs = op.Concat(op.unsqueeze(real, 4), op.unsqueeze(imaginary, 4), axis=4)
        turned = op.Reshape(pairs, op.ints([0, 0, 0, width]))
    else:
        turned = op.Concat(real, imaginary, axis=-1)
    return turned if width == whole else op.Concat(turned, _columns(op, x, width, whole), axis=-1)


def _columns(op: Ops, x: ir.Value, start: int, end: int, step: int = 1) -> ir.Value:
    if (start, end, step) == (0, size_of(x), 1):
        return x
    return op.Slice(x, op.ints([start]), op.ints([end]), op.ints([-1]), op.ints([step]))


@body("com.microsoft::GroupQueryAttention")
def _group_query_attention(op: Ops, region: Region) -> Outs:
    """Queries in groups that share keys; sequences of the lengths `seqlens_k` + 1."""
    _refuse(region, ("sliding_window_cache", "kv_cache_bit_width", "qk_output"))
    q, k, v = _grouped(op, region)
    past_key, past_value, last = region.input(3), region.input(4), region.operand(5)
    more, sink = region.input(10), region.input(11)
    if region.input(9) is not None:
        raise NoBodyError("with positions of its own it is not covered")
    filled = op.Add(narrowed(op, last, op.ints([0])), op.ints([1]))
    before: ir.Value = op.ints([0])
    if past_key is not None and dim(past_key, 2) != 0:
        before = op.Max(op.Sub(filled, op.sizes(q, [2])), op.ints([0]))
    before = op.unsqueeze(before, 1)  # [B or 1, 1]: how many keys a row's own ones come after
    if region.attr_int("do_rotary", 0):
        cos, sin = region.operand(7), region.operand(8)
        own = op.Add(before, places(op, dim(q, 2)))
        turn = region.attr_int("rotary_interleaved", 0)
        q, k = (rotated(op, x, own, cos, sin, size_of(cos) * 2, turn) for x in (q, k))
    total = region.operand(6)
    k, v = (_kept(op, x, past, before, total) for x, past in ((k, past_key), (v, past_value)))
    queries = op.unsqueeze(op.Add(before, places(op, dim(q, 2))), 1, 3)
    keys = places(op, dim(k, 2))
    hidden: ir.Value | None = op.GreaterOrEqual(keys, op.unsqueeze(filled, 1, 2, 3))
    if region.attr_int("causal", 1):
        hidden = op.Less(queries, keys)
        if (window := region.attr_int("local_window_size", -1)) > 0:
            hidden = either(op, hidden, op.LessOrEqual(keys, op.Sub(queries, op.ints([window]))))
    if sink is not None:
        sink = op.unsqueeze(sink, 0, 2, 3)
    elif region.attr_int("smooth_softmax", -1) == 1:
        sink = op.const(np.zeros((1, 1, 1, 1)), like=q)
    how = Scores(
        scale_of(op, region, q),
        [] if more is None else [more],
        region.attr_float("softcap", 0.0),
        hidden,
        sink,
    )
    y, _ = attend(op, q, repeated(op, k, q), repeated(op, v, q), how)
    return [join_heads(op, y), k, v]


def _grouped(op: Ops, region: Region) -> Heads:
    """Q, K and V in heads, packed or not, normalised where there are weights for that."""
    count, fewer = region.attr_int("num_heads", 1), region.attr_int("kv_num_heads", 1)
    q, k, v = region.operand(0), region.input(1), region.input(2)
    if k is None or v is None:
        size = size_of(q) // (count + 2 * fewer)
        sizes = op.ints([count * size, fewer * size, fewer * size])
        q, k, v = op.emit("Split", [q, sizes], {"axis": -1}, outputs=3)
    heads = [split_heads(op, x, n) for x, n in ((q, count), (k, fewer), (v, fewer))]
    for i, weight in enumerate((region.input(14), region.input(15))):
        if weight is not None:
            epsilon = region.attr_float("qk_norm_epsilon", 1e-6)
            heads[i], _ = rms_norm(op, heads[i], weight, epsilon)
    first, second, third = heads
    return first, second, third


def _kept(
    op: Ops, x: ir.Value, past: ir.Value | None, before: ir.Value, total: ir.Value
) -> ir.Value:
    """A row's past up to `before` [B or 1, 1], and then its own: [B, H, max(P, total), D]."""
    if past is None or dim(past, 2) == 0:
        return x
    if past.dtype != x.dtype:
        raise NoBodyError("its past is quantised")
    both = op.Concat(past, x, axis=2)
    length = op.Max(op.sizes(past, [2]), op.Reshape(narrowed(op, total, before), op.ints([1])))
    at = op.Slice(places(op, dim(both, 2)), op.ints([0]), length, op.ints([0]))
    own = op.Add(op.Sub(at, before), op.sizes(past, [2]))
    last = op.Sub(op.sizes(both, [2]), op.ints([1]))
    index = op.Where(op.Less(at, before), at, op.Min(own, last))  # [B, P + S]
    around = op.sizes(both, [0, 1]), length, op.sizes(both, [3])
    spread = op.Expand(op.unsqueeze(index, 1, 3), op.Concat(*around, axis=0))
    spread.shape = ir.Shape([dim(both, 0), dim(both, 1), dim(index, 1), dim(both, 3)])
    return op.GatherElements(both, spread, axis=2)
