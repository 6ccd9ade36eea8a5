"""Cotangents on the axes of a structure; what all rows share in one, moved into z.

Behind a mean over pixels a cotangent is the same at all of them, until slopes differ: it is
v[k, n, c] · mask[n, c, p]. The structure ẏ = Σ z θ̇ then is the same as one with Σₚ z · mask for z
and v for the cotangent, which knows no pixels: one correlation a sample in place of one a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dims
from onnxjvp.graph.ops import Ops, rank
from onnxjvp.graph.shapes import constant
from onnxjvp.kernels.labelled import Labelled, Sizes, contract, order
from onnxjvp.kernels.structures import ROW, SAMPLE, Structure, on_axes
from onnxjvp.kernels.tiles import MAKING, READING

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True)
class Reading:
    """A structure with the cotangent of what it gives, and the operations that making z takes."""

    structure: Structure
    #: [K, *axes of `structure.out`]
    cotangent: Labelled
    making: float = 0.0


def readings(
    op: Ops,
    structure: Structure,
    cotangent: ir.Value,
    samples: int,
    plain: Callable[[Structure], Structure],
) -> tuple[Reading, ...]:
    """The ways to read a use: as it is, then, if there is such, with what rows share in z, or over
    tiles.

    Args:
      cotangent: [K, *y].
      samples: how many operations are counted for, where their number is not known.
      plain: what is done to the structure that a rule states.
    """
    tiled = _tiled(op, structure, cotangent, samples, plain)
    structure = plain(structure)
    if structure.view is not None:
        moved = Labelled(structure.view(op, cotangent), (ROW, *structure.out))
        return (Reading(structure, single(op, moved)),)
    whole = dims.of(cotangent)
    seen = _on_rows(op, structure, cotangent, whole)
    assert seen is not None
    found = (Reading(structure, single(op, seen)), *tiled)
    parts = _parts(op, cotangent)
    if parts is None or (structure.z is not None and structure.z.indices is not None):
        return found
    own = _on_rows(op, structure, parts[0], whole)
    shared = on_axes(op, parts[1], whole[1:], structure.groups, structure.all_sizes)
    if own is None or shared is None or ROW not in own.labels:
        return found
    return (*found, _moved(op, structure, single(op, own), single(op, shared), samples))


def _tiled(
    op: Ops,
    structure: Structure,
    cotangent: ir.Value,
    samples: int,
    plain: Callable[[Structure], Structure],
) -> tuple[Reading, ...]:
    """Over tiles, where the products that this saves outweigh what it adds."""
    tiles = structure.tiles
    if tiles is None:
        return ()
    cotangent = single(op, Labelled(cotangent, ())).value
    rows = dims.of(cotangent)[0]
    assert isinstance(rows, int)
    sizes = Sizes({**structure.all_sizes, "each": tiles.each, "once": tiles.once}, samples)
    direct = 2 * samples * rows * sizes.volume({*structure.weight, *structure.out} - {SAMPLE})
    making = samples * (rows * sizes.number("each") + sizes.number("once"))
    if (1 - tiles.share) * direct < MAKING * making + READING * samples * rows * tiles.last:
        return ()
    made, seen = tiles.tiled(op, cotangent)
    return (Reading(plain(made), seen, making),)


def _on_rows(op: Ops, structure: Structure, value: ir.Value, whole: Dims) -> Labelled | None:
    sizes = {**structure.all_sizes, ROW: whole[0]}
    return on_axes(op, value, whole, ((1, (ROW,)), *structure.groups), sizes)


def _moved(op: Ops, structure: Structure, own: Labelled, shared: Labelled, samples: int) -> Reading:
    sizes = Sizes(structure.all_sizes, samples)
    factors = [shared] if structure.z is None else [structure.z, shared]
    wanted = {SAMPLE, *structure.weight, *own.labels}
    keep = tuple(dict.fromkeys(label for x in factors for label in x.labels if label in wanted))
    first = order([x.labels for x in factors], keep, sizes)
    z = contract(op, factors, keep, sizes, first)
    out = tuple(label for label in own.labels if label != ROW)
    return Reading(replace(structure, out=out, z=z), own, first.flops)


def _parts(op: Ops, cotangent: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """v [K, …], which repeats along axes of the cotangent v · s, and s, the same for all K rows."""
    for own, shared in _factors(cotangent):
        if rank(shared) >= rank(cotangent):
            continue
        if shared.dtype != cotangent.dtype:  # a mask
            assert cotangent.dtype is not None
            shared = op.Cast(shared, to=int(cotangent.dtype))  # noqa: PLW2901
        if _repeats(own, cotangent):
            return own, shared
        deeper = _parts(op, own) if dims.of(own) == dims.of(cotangent) else None
        if deeper is not None:
            return deeper[0], op.Mul(deeper[1], shared)
    return None


def _factors(cotangent: ir.Value) -> list[tuple[ir.Value, ir.Value]]:
    """What a cotangent is the product of, in both orders; of a choice, the mask is the second."""
    node = cotangent.producer()
    if node is None or node.op_type not in ("Where", "Mul") or dims.of(cotangent)[0] == 1:
        return []
    first, second, *rest = node.inputs
    assert first is not None and second is not None
    if node.op_type == "Mul":
        return [(first, second), (second, first)]
    zero = constant(rest[0])
    return [] if zero is None or zero.any() else [(second, first)]


def _repeats(own: ir.Value, cotangent: ir.Value) -> bool:
    whole = dims.of(cotangent)
    return rank(own) == len(whole) and any(
        size == 1 and full != 1 for size, full in zip(dims.of(own), whole, strict=True)
    )


def single(op: Ops, x: Labelled) -> Labelled:
    """In single precision at least."""
    if x.value.dtype not in HALVES:
        return x
    return replace(x, value=op.Cast(x.value, to=int(ir.DataType.FLOAT)))
