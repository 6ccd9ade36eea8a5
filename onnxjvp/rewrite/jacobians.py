"""The Jacobian itself, computed by the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim, Dims
from onnxjvp.graph.load import AnyModel
from onnxjvp.graph.ops import Ops
from onnxjvp.passes.batch import batch
from onnxjvp.passes.linearize import Program, linearize, program_of, replay
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.task import Task

#: elements of the identity that the directions are; beyond it nothing would fit in memory
LARGEST_IDENTITY = 1 << 28
#: what a cotangent costs, a direction being 1
REVERSE_COST = 1.3


def jacobian(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    mode: str = "auto",
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
) -> Rewritten:
    """A model that computes f(x), the Jacobian, and f_x(0): its region's affine parameters.

    Args:
      model, wrt, outputs, opset, links, quantized: as for `jvp`.
      mode: "forward" (a direction per element of a variable), "reverse" (a cotangent per element of
        an output) or "auto", whichever takes fewer, cotangents counting 1.3.
    Returns:
      A model with an output `y_jac_x` [*shape of y, *shape of x] per pair of output and variable,
      and `y_0` = y − Σ J x: on the region that holds x, f is v ↦ J v + f_x(0). All samples of a
      batch are differentiated in all: for one sample at a time give the batch the size 1.
    Raises: as `vjp`; UsageError where the Jacobian is too large for a file that makes it at once.
    Cost: about as many forward passes as there are directions, folded or unrolled as in `jvp`.
    Source: Balestriero & Baraniuk 2021, Prop. 1: A = [J e_1 … J e_D], b = f_x(0).
    """
    task = Task(model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized)
    op, program = task.op, task.linearize()
    mode = _mode(mode, task)
    at_x = replay(op, program, task.variables)
    blocks = (_forward if mode == "forward" else _reverse)(task, program)
    for y, along_x in zip(task.outputs, at_x, strict=True):
        for x in task.variables:
            if (y, x) in blocks:
                shape = ir.Shape((*dims.of(y), *dims.of(x)))
                task.add_result(y, f"jac_{x.name}", blocks[y, x], shape=shape)
        assert along_x is not None
        task.add_result(y, "0", op.Sub(y, along_x))
    return task.finish("jacobian", layout=mode, method=mode, directions=None)


Blocks = dict[tuple[ir.Value, ir.Value], ir.Value]


def _forward(task: Task, _: Program) -> Blocks:
    op, blocks = task.op, {}
    for x in task.variables:
        program, _liveness = linearize(task.source, op, [x], task.outputs)
        for y, columns in zip(task.outputs, _on_identity(op, program, x), strict=True):
            if columns is not None:
                matrix = op.Reshape(columns, op.Concat(*map(op.volume, _sizes(x, y)), axis=0))
                blocks[y, x] = _as_block(op, op.Transpose(matrix, perm=[1, 0]), y, x)
    return blocks


def _reverse(task: Task, program: Program) -> Blocks:
    op, blocks = task.op, {}
    for y, tangent in zip(task.outputs, program.outs, strict=True):
        transposed = transpose(op, program_of(op, program.seeds, [tangent]))
        for x, rows in zip(task.variables, _on_identity(op, transposed, y), strict=True):
            if rows is not None:
                blocks[y, x] = _as_block(op, rows, y, x)
    return blocks


def _sizes(*values: ir.Value) -> list[Dims]:
    return [dims.of(v) for v in values]


def _on_identity(op: Ops, program: Program, like: ir.Value) -> list[ir.Value | None]:
    """The program applied to every unit vector of its only seed, which has the shape of `like`."""
    count = dims.product(dims.of(like))
    if isinstance(count, int) and count * count > LARGEST_IDENTITY:
        raise UsageError(
            f"{like.name!r} has {count} elements, too many for one file to differentiate along "
            "all of them at once; compute the Jacobian in blocks (onnxjvp jacobian), or products"
        )
    size = op.volume(dims.of(like))
    square = op.zeros(like.dtype, op.Concat(size, size, axis=0))
    eye = op.Reshape(
        op.EyeLike(square), op.Concat(size, op.as_tensor(dims.of(like)), axis=0), allowzero=1
    )
    eye.shape = ir.Shape((count, *dims.of(like)))
    return replay(op, batch(op, program, count, size=size), [eye])


def _as_block(op: Ops, matrix: ir.Value, y: ir.Value, x: ir.Value) -> ir.Value:
    return op.Reshape(matrix, op.as_tensor((*dims.of(y), *dims.of(x))), allowzero=1)


def _mode(mode: str, task: Task) -> str:
    """Forward or reverse, by how many directions each takes; symbols count as 1."""
    if mode not in ("auto", "forward", "reverse"):
        raise UsageError(f"unknown mode {mode!r}; choose auto, forward or reverse")
    if mode != "auto":
        return mode
    forward, reverse = (
        sum(_at_one(dims.product(dims.of(v))) for v in values)
        for values in (task.variables, task.outputs)
    )
    return "forward" if forward <= REVERSE_COST * reverse else "reverse"


def _at_one(dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    value = dim.evaluate(dict.fromkeys(dim.free_symbols(), 1))
    return value if isinstance(value, int) else 1
