"""Scalars made of a model's outputs: a selection of elements, or a named loss."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.ops import INT64, Ops, rank
from onnxjvp.rewrite.task import Task, unknown

#: (op, task, output) → the scalar
Loss = Callable[[Ops, Task, ir.Value], ir.Value]


def scalar(task: Task, output: str | None, select: str | None, loss: str | None) -> ir.Value:
    """What is to be differentiated, as a value of the task's graph; the task says how it is called.

    Args:
      output: the output that a loss is made of; None where there is but one.
      select: elements to add up, such as "y[:, 3]".
      loss: one of LOSSES.
    Raises:
      UsageError: unknown names, an index outside, or an output that is no scalar and no choice.
    """
    if select is not None and loss is not None:
        raise UsageError("a selection is summed, and a loss is another sum; give one of them")
    if select is not None:
        if output is not None:
            raise UsageError(f"the selection {select!r} names the output itself; leave it out")
        y, index = _parsed(task, select)
        value, what = _sum(task.op, task, _selected(task.op, y, index, select)), select
    else:
        y = _output(task, output)
        if loss is None:
            _check_scalar(y)
            task.name_loss(y, None, y.name or "")
            return y
        if loss not in LOSSES:
            raise UsageError(f"there is no loss {loss!r}; choose {', '.join(LOSSES)}")
        value, what = LOSSES[loss](task.op, task, y), f"{loss} of {y.name}"
    task.into_graph()
    task.name_loss(value, "loss", what)
    return value


def _output(task: Task, name: str | None) -> ir.Value:
    if name is None:
        if len(task.outputs) > 1:
            known = ", ".join(repr(v.name) for v in task.outputs)
            raise UsageError(f"the model has several outputs ({known}); name the one that counts")
        return task.outputs[0]
    by_name = {v.name or "": v for v in task.outputs}
    if name not in by_name:
        raise UsageError(unknown("output", name, list(by_name)))
    return by_name[name]


def _check_scalar(y: ir.Value) -> None:
    if y.shape is None or any(d != 1 for d in y.shape.dims):
        raise UsageError(
            f"the output {y.name!r} has the shape {y.shape}, and a gradient is that of one number; "
            f"select elements to add up ({y.name}[0, 3]), or choose a loss ({', '.join(LOSSES)})"
        )


# -- selections --------------------------------------------------------------------------------


def _parsed(task: Task, text: str) -> tuple[ir.Value, list[str]]:
    """ "y[:, 3]" → the output y and [":", "3"]."""
    match = re.fullmatch(r"(.*?)\[([^\[\]]*)\]", text.strip(), re.DOTALL)
    if match is None:
        raise UsageError(f"{text!r} is not a selection; write OUTPUT[INDEX, …], such as y[:, 3]")
    entries = [part.strip() for part in match[2].split(",") if part.strip()]
    return _output(task, match[1]), entries


def _selected(op: Ops, y: ir.Value, entries: list[str], text: str) -> ir.Value:
    """Elements of y as NumPy would select them; integers keep their axis, as all is summed."""
    if entries.count("...") > 1 or len(entries) - entries.count("...") > rank(y):
        raise UsageError(f"{text!r} has more indices than {y.name!r} has axes ({rank(y)})")
    if "..." in entries:
        at = entries.index("...")
        entries[at : at + 1] = [":"] * (rank(y) - len(entries) + 1)
    value = y
    for axis, entry in enumerate(entries):
        size = dims.of(y)[axis]
        if re.fullmatch(r"[+-]?\d+", entry):
            index = int(entry)
            if isinstance(size, int) and not -size <= index < size:
                raise UsageError(f"{text!r}: {index} is outside axis {axis}, which has {size}")
            value = op.Gather(value, op.ints([index]), axis=axis)
        elif re.fullmatch(r"[+-]?\d*:[+-]?\d*(:[+-]?\d*)?", entry):
            start, end, step = (*entry.split(":"), "")[:3]
            value = _sliced(op, value, axis, start, end, step, text)
        else:
            raise UsageError(f"{text!r}: {entry!r} is no index; give a number, a slice or ...")
    return value


def _sliced(
    op: Ops, value: ir.Value, axis: int, start: str, end: str, step: str, text: str
) -> ir.Value:
    stride = int(step or 1)
    if stride < 1:
        raise UsageError(f"{text!r}: the step {stride} is not 1 or more")
    last = int(end) if end else np.iinfo(np.int64).max
    ends = [op.ints([int(n)]) for n in (start or 0, last)]
    return op.Slice(value, *ends, op.ints([axis]), op.ints([stride]))


# -- losses ------------------------------------------------------------------------------------


def _sum(op: Ops, _: Task, y: ir.Value) -> ir.Value:
    return op.ReduceSum(y, keepdims=0)


def _squared_norm(op: Ops, _: Task, y: ir.Value) -> ir.Value:
    return op.Mul(op.ReduceSum(op.Mul(y, y), keepdims=0), op.const(0.5, like=y))


def _squared_error(op: Ops, task: Task, y: ir.Value) -> ir.Value:
    target = op.seed(y, linear=False)
    task.add_target(y, "target", target, like=y)
    return _squared_norm(op, task, op.Sub(y, target))


def check_classes(y: ir.Value) -> None:
    """A cross entropy of one class is 0, and so is its derivative: hardly what is wanted."""
    if rank(y) == 0 or dims.of(y)[-1] == 1:
        raise UsageError(
            f"a cross entropy is over the classes along the last axis, and {y.name!r} has the "
            f"shape {y.shape}; choose another loss"
        )


def _cross_entropy(op: Ops, task: Task, y: ir.Value) -> ir.Value:
    check_classes(y)
    labels = ir.Value(shape=ir.Shape(dims.of(y)[:-1]), type=ir.TensorType(INT64))
    labels.name = f"?{y.name}_label"
    task.add_target(y, "label", labels, like=None)
    wide = op.Unsqueeze(labels, op.ints([-1]))
    chosen = op.GatherElements(op.LogSoftmax(y, axis=-1), wide, axis=-1)
    return op.Neg(op.ReduceSum(chosen, keepdims=0))


#: sums over all samples: Σ y; ½ Σ y²; ½ Σ (y − target)²; −Σ log softmax(y)[label], last axis
LOSSES: dict[str, Loss] = {
    "sum": _sum,
    "squared_norm": _squared_norm,
    "squared_error": _squared_error,
    "cross_entropy": _cross_entropy,
}
