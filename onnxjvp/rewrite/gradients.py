"""Derivatives of scalars: gradients, Hessian products and Gauss–Newton products."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.load import AnyModel
from onnxjvp.graph.ops import Ops
from onnxjvp.passes.linearize import program_of, replay
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite.losses import check_classes, scalar
from onnxjvp.rewrite.rewritten import Rewritten
from onnxjvp.rewrite.task import Count, Task


def grad(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    *,
    output: str | None = None,
    select: str | None = None,
    loss: str | None = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
) -> Rewritten:
    """A model that computes f(x) and the gradient of one number made of it.

    Args:
      model, wrt, opset, links, quantized: as for `jvp`.
      output: the output that is a single number, or that a loss is made of.
      select: elements of an output to add up, in NumPy's notation: "y[:, 3]".
      loss: "sum", "squared_norm" (½ Σ y²), "squared_error" (½ Σ (y − target)², the target an input
        `y_target`) or "cross_entropy" (−Σ log softmax(y)[label] over the last axis, the labels an
        int64 input `y_label`). All add up over the samples.
    Returns:
      A model with an output `x_grad` per variable, in its shape and dtype, and the number itself as
      `loss` unless it is an output already. Units: loss / variable.
    Raises: as `vjp`; UsageError where no single number is chosen.
    Cost: about 2 to 3 forward passes at run time.
    Source: the transposed program on the cotangent 1.
    """
    task = Task(model, wrt, opset=opset, links=links, target=target, quantized=quantized)
    value = scalar(task, output, select, loss)
    task.outputs = [value]
    backwards = transpose(task.op, task.linearize())
    one = task.op.const(np.ones([1] * len(dims.of(value))), like=value)
    backwards.outs = replay(task.op, backwards, [one])
    for x, ct in task.reached(backwards):
        task.add_result(x, "grad", ct)
    settings: dict[str, Any] = {"layout": "transposed", "method": "transposed", **task.loss}
    return task.finish("grad", directions=None, **settings)


def hvp(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    *,
    output: str | None = None,
    select: str | None = None,
    loss: str | None = None,
    directions: Count = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
) -> Rewritten:
    """A model that computes the product of a scalar's Hessian with a direction.

    Args: as for `grad`; directions: as for `jvp`.
    Returns:
      The model of `grad` with an input `x_u` per variable and an output `x_hvp` = H u, in the
      shape and dtype of x; with several variables, Σ over all of them.
    Raises: as `grad`; UnsupportedOpError where the gradient is piecewise constant (a network of
      Relu and linear operators, say, without a loss that is curved).
    Cost: about 5 forward passes at run time.
    Source: jvp of the gradient, forward over reverse (Pearlmutter 1994).
    """
    first = grad(
        model,
        wrt,
        output=output,
        select=select,
        loss=loss,
        opset=opset,
        links=links,
        target=target,
        quantized=quantized,
    )
    grads = {x: forms["grad"] for x, forms in first.names["results"].items()}
    task = Task(
        first, first.report["wrt"], list(grads.values()), target=target, quantized=quantized
    )
    task.nodes_before = first.report["nodes_before"]
    task.before = first.card.get("before")
    task.shared = first.report.get("shared", 0)
    count = task.count(directions)
    try:
        program = task.directed(task.linearize(), count)
    except UnsupportedOpError as error:
        if error.nodes:
            raise
        raise UnsupportedOpError(
            f"the gradient of {first.report['loss_of']} is piecewise constant, so its Hessian is "
            f"zero wherever it exists; choose a loss that is curved, such as squared_norm ({error})"
        ) from error
    task.add_seeds(program.seeds, count)
    by_name = {v.name: v for v in task.variables}
    for x, name in grads.items():
        task.keep_result(by_name[x], "grad", name)
    variable_of = {grads[x]: by_name[x] for x in grads}
    for y, tangent in zip(task.outputs, program.outs, strict=True):
        assert tangent is not None
        task.add_result(variable_of[y.name or ""], "hvp", tangent, count)
    task.adopt(first.names)
    kept = {key: first.report[key] for key in ("loss", "loss_of", "raised_from", "outputs")}
    return task.finish("hvp", layout="tangent", method="tangent", directions=directions, **kept)


def ggn(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    loss: str = "squared_error",
    directions: Count = None,
    opset: int | None = None,
    links: Path | None = None,
    target: str = "portable",
    quantized: str | None = None,
) -> Rewritten:
    """A model that computes products with the generalised Gauss–Newton matrix, Jᵀ H J u.

    Args:
      model, wrt, outputs, directions, opset, links, quantized: as for `jvp`.
      loss: "squared_error" (H is the identity) or "cross_entropy" (H = diag(p) − p pᵀ with
        p = softmax(y) over the last axis). Losses add up over samples and outputs; H does not
        depend on targets.
    Returns:
      A model with an input `x_u` per variable and an output `x_ggn` per variable, in their shapes
      and dtypes.
    Raises: as `vjp`.
    Cost: about 4 forward passes at run time.
    Source: Schraudolph 2002; Novak et al. 2022, App. J: the Hessian without its residual term.
    """
    if loss not in CURVATURES:
        raise UsageError(
            f"there is no Gauss–Newton matrix for {loss!r}; choose {', '.join(CURVATURES)}"
        )
    task = Task(model, wrt, outputs, opset=opset, links=links, target=target, quantized=quantized)
    count = task.count(directions)
    op, forwards = task.op, task.linearize()
    backwards = transpose(op, forwards)
    curved = [
        CURVATURES[loss](op, y, t)
        for y, t in zip(task.outputs, forwards.outs, strict=True)
        if t is not None
    ]
    both = program_of(op, forwards.seeds, replay(op, backwards, curved))
    program = task.directed(both, count)
    task.add_seeds(program.seeds, count)
    for x, product in task.reached(program):
        task.add_result(x, "ggn", product, count)
    return task.finish("ggn", layout="tangent", method="tangent", directions=directions, loss=loss)


def _identity(_: Ops, __: ir.Value, tangent: ir.Value) -> ir.Value:
    return tangent


def _softmax_covariance(op: Ops, y: ir.Value, tangent: ir.Value) -> ir.Value:
    """(diag(p) − p pᵀ) t along the last axis."""
    check_classes(y)
    p = op.Softmax(y, axis=-1)
    weighted = op.Mul(p, tangent)
    return op.Sub(weighted, op.Mul(p, op.ReduceSum(weighted, op.ints([-1]), keepdims=1)))


#: the second derivative of a loss in the outputs, as a map of tangents
CURVATURES = {"squared_error": _identity, "cross_entropy": _softmax_covariance}
