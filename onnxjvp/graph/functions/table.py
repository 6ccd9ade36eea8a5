"""Operators that are functions of others: their bodies, recorded with the builder.

A body is the operator written in standard ones, as a function of the builder and the region. It
gives derivatives where there is no rule, and shapes where onnx's inference knows none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
import onnx_ir as ir

from onnxjvp.graph.dims import UnknownTypeError
from onnxjvp.graph.fixed import stand_in
from onnxjvp.graph.functions.schema import has_definition, record_definition
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.regions import Region, of_node
from onnxjvp.graph.shapes import FUNCTIONS, MISFITS, Shapes, constant, misfit

#: values of the outputs, in order; None for one that has no definition
Outs = Sequence[ir.Value | None]
BodyFunction = Callable[[Ops, Region], Outs]

#: bodies of our own: of operators beyond the standard, and where the standard's serve badly
BODIES: dict[str, BodyFunction] = {}


class NoBodyError(Exception):
    """This node, with these attributes or operands, cannot be written out. The text says why."""


def body(names: str, *, shapes: bool = False) -> Callable[[BodyFunction], BodyFunction]:
    """Register the body of the operators named in `names`, "Relu" or "domain::Name".

    Args:
      shapes: it gives the shapes too, though onnx knows the operator.
    """

    def register(function: BodyFunction) -> BodyFunction:
        for name in names.split():
            assert name not in BODIES, name
            BODIES[name] = function
            domain, _, op_type = name.rpartition("::")
            if shapes or not onnx.defs.has(op_type, domain):
                FUNCTIONS[name] = shapes_by_body
        return function

    return register


def has_body(region: Region) -> bool:
    return region.label in BODIES or (len(region.nodes) == 1 and has_definition(region.node))


def record_body(op: Ops, region: Region) -> list[ir.Value | None]:
    """Record the body of a region on its inputs; an entry per output of the region.

    Raises:
      NoBodyError: these attributes or operands are not covered.
    """
    function = BODIES.get(region.label)
    try:
        outs = function(op, region) if function else record_definition(op, region)
    except MISFITS as error:
        raise NoBodyError(misfit(error)) from error
    if outs is None:
        raise NoBodyError("onnx gives no definition of it for these operands")
    found = [*outs, *[None] * len(region.outputs)][: len(region.outputs)]
    return [out if value.name else None for value, out in zip(region.outputs, found, strict=True)]


def traced(region: Region, shapes: Shapes) -> tuple[Ops, Outs, Outs]:
    """The body on stand-ins for the inputs, which leaves the model as it is.

    Returns:
      the builder that holds the nodes, what stands for each input, the outputs.
    """
    stand_ins: dict[ir.Value, ir.Value] = {}
    for value in region.inputs:
        if value is not None and value not in stand_ins:
            copied = ir.Value(name=value.name, shape=value.shape, type=value.type)
            stand_in(copied, value)
            if constant(value) is not None:
                copied.const_value = ir.convenience.get_const_tensor(value)
            shapes.put(copied, None, content=shapes.content(value))
            stand_ins[value] = copied
    inputs = tuple(None if v is None else stand_ins[v] for v in region.inputs)
    outputs = tuple(ir.Value(name=v.name, shape=v.shape, type=v.type) for v in region.outputs)
    inner = Region(region.op_type, region.nodes, inputs, outputs, region.domain, region.attributes)
    fed = [v for v in stand_ins.values() if v.const_value is None]
    op = Ops(shapes, ir.Graph(fed, [], nodes=[]))
    return op, inputs, record_body(op, inner)


def shapes_by_body(shapes: Shapes, node: ir.Node) -> None:
    """The shape function of an operator that has a body."""
    try:
        _, _, outs = traced(of_node(node), shapes)
    except (NoBodyError, UnknownTypeError):
        return
    for output, out in zip(node.outputs, outs, strict=True):
        if out is not None and out.shape is not None:
            shapes.put(output, out.shape.dims, out.dtype, shapes.content(out))
