"""Constants whose numbers went into derivatives, which therefore no longer depend on them.

The slope of Pow(x, 2) is recorded as 2 x, not with the exponent. In that rewriting nobody
differentiates in the exponent; a later rewriting of the written file would find no path from it to
the slope, and a second derivative would lack a term. So the file names such constants, and is
differentiated in none of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph.shapes import constant

#: the key of `metadata_props`: a JSON list of names
KEY = "onnxjvp.constants"
_VARIABLE, _FIXED, _STANDS_FOR = "onnxjvp.variable", "onnxjvp.fixed", "onnxjvp.stands_for"


def mark_variables(values: Iterable[ir.Value]) -> None:
    """None of these is a number to a rule, though it be an initialiser."""
    for value in values:
        value.meta[_VARIABLE] = True


def stand_in(copy: ir.Value, value: ir.Value) -> None:
    """What is said of the copy is said of the value."""
    copy.meta[_STANDS_FOR] = value


def fixed(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant, to be recorded in its place; None for variables and all else."""
    if value is None or _original(value).meta.get(_VARIABLE):
        return None
    found = constant(value)
    if found is not None:
        fix(value)
    return found


def fix(value: ir.Value) -> None:
    """From now on something that is recorded holds this constant's number."""
    _original(value).meta[_FIXED] = True


def _original(value: ir.Value) -> ir.Value:
    while isinstance(behind := value.meta.get(_STANDS_FOR), ir.Value):
        value = behind
    return value


def remember(model: ir.Model) -> None:
    """Write the names of such constants into a model's metadata, beside those that are there."""
    graph = model.graph
    made = (v for node in graph for v in node.outputs)
    names = {v.name for v in (*graph.initializers.values(), *made) if v.meta.get(_FIXED)}
    if names:
        known = {*remembered(model), *(name for name in names if name)}
        model.metadata_props[KEY] = json.dumps(sorted(known), ensure_ascii=False)


def remembered(model: ir.Model) -> frozenset[str]:
    """The names in a model's metadata; anybody can have written these."""
    try:
        found = json.loads(model.metadata_props.get(KEY, "[]"))
    except (ValueError, RecursionError):
        found = []
    listed = found if isinstance(found, list) else []
    return frozenset(name for name in listed if isinstance(name, str))


def check_free(model: ir.Model, variables: Iterable[ir.Value]) -> None:
    """Raises UnsupportedOpError where a model's derivatives hold the number of a variable."""
    names = remembered(model)
    found = [repr(v.name) for v in variables if v.name in names]
    if found:
        raise UnsupportedOpError(
            f"The derivatives in this file were made for the numbers that {', '.join(found)} had, "
            "so second derivatives in them would lack terms. Name them with --wrt in the first "
            "rewriting too, or leave them out of this one"
        )
