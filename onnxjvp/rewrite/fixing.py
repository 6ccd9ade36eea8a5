"""A model for inputs of known sizes: what it decides by sizes or flags is decided then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp.errors import InputError, UsageError
from onnxjvp.graph.dims import expression
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import opset_of
from onnxjvp.passes.emit import End, emit
from onnxjvp.rewrite.card import read_card, write_card
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.task import unknown

#: a model that is fixed has no new inputs or outputs
_NOTHING: dict[str, dict[str, Any]] = {"seeds": {}, "cotangents": {}, "results": {}}


def fix(
    model: AnyModel | Rewritten,
    shapes: Mapping[str, Sequence[int]] | None = None,
    values: Mapping[str, ArrayLike] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    links: Path | None = None,
) -> Rewritten:
    """A model with sizes of its inputs, and inputs themselves, made constants.

    Branches that they decide are inlined where that can be told, and values get the ranks and sizes
    that derivatives need: models that are refused because "the rank cannot be inferred" are often
    taken when they are fixed.

    Args:
      model, links: as for `onnxjvp.jvp`.
      shapes: of inputs, every size.
      values: of inputs, which are no inputs then; cast to their dtypes.
      dims: sizes of dynamic dimensions, by their names, wherever inputs have them.
    Returns:
      The model; f(x) of what is left is unchanged.
    Raises:
      UsageError: unknown names, or a size that contradicts the model's. InputError: a value of
      another rank or kind than its input. InvalidModelError: the model.
    Cost: linear in nodes.
    """
    source = load(model.model if isinstance(model, Rewritten) else model, links=links)
    known = {v.name or "": v for v in source.inputs}
    for name, sizes in (shapes or {}).items():
        _set_shape(_input(known, name), tuple(sizes))
    for name, size in (dims or {}).items():
        _set_dim(source, name, size)
    for name, value in (values or {}).items():
        _make_constant(source.graph, _input(known, name), value)
    _forget_shapes(source.graph)
    settled = load(source.model, links=links)
    graph = settled.graph
    ends = [End(y.name or "", y, None) for y in graph.outputs]
    opset = opset_of(settled.model)
    emitted = emit(settled, Ops(settled.shapes, graph), [], ends)
    before = read_card(emitted)
    fixed = {
        "shapes": {name: list(sizes) for name, sizes in (shapes or {}).items()},
        "values": sorted(values or {}),
        "dims": dict(dims or {}),
    }
    report = {"emit": "fix", **fixed, "opset": opset, "raised_from": source.raised_from}
    write_card(emitted, _NOTHING, report, before)
    return Rewritten(emitted, {}, {**report, "nodes_after": len(emitted.graph)})


def _input(known: Mapping[str, ir.Value], name: str) -> ir.Value:
    if name not in known:
        raise UsageError(unknown("input", name, list(known)))
    return known[name]


def _set_shape(value: ir.Value, sizes: tuple[int, ...]) -> None:
    declared = value.shape
    fits = declared is None or (
        len(declared) == len(sizes)
        and all(not isinstance(d, int) or d == s for d, s in zip(declared.dims, sizes, strict=True))
    )
    if not fits or any(size < 0 for size in sizes):
        raise UsageError(f"the input {value.name!r} is {declared}, and cannot be {list(sizes)}")
    value.shape = ir.Shape(sizes)


def _set_dim(source: Source, name: str, size: int) -> None:
    """A size wherever an input's axis is called so."""
    found = False
    for value in source.inputs:
        if value.shape is None:
            continue
        named = [not isinstance(d, int) and str(expression(d)) == name for d in value.shape.dims]
        if any(named):
            found = True
            pairs = zip(value.shape.dims, named, strict=True)
            value.shape = ir.Shape([size if is_it else d for d, is_it in pairs])
    if not found or size < 0:
        raise UsageError(f"no input has a dimension {name!r}, or {size} is no size of one")


def _make_constant(graph: ir.Graph, value: ir.Value, given: ArrayLike) -> None:
    array = np.asarray(given)
    rank = None if value.shape is None else len(value.shape)
    if value.dtype is None or array.dtype.kind not in "biuf" or rank not in (None, array.ndim):
        raise InputError(
            f"the value of {value.name!r} is {array.dtype}{list(array.shape)}, and the input takes "
            f"{value.dtype} {value.shape}"
        )
    content = np.ascontiguousarray(array.astype(value.dtype.numpy())).reshape(array.shape)
    graph.inputs.remove(value)
    value.shape = ir.Shape(array.shape)
    value.const_value = ir.Tensor(content, dtype=value.dtype, name=value.name)
    graph.initializers.add(value)


def _forget_shapes(graph: ir.Graph) -> None:
    """Sizes that were inferred without what is known now."""
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None
