"""What a caller asks for → a `Problem`: parameters, outputs, the axis of samples, groups, rows."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.parameters import PARAMS, parameters
from onnxjvp.graph.quantized import LAYOUTS, label_of
from onnxjvp.graph.regions import captured
from onnxjvp.kernels.method import FORMS, Problem
from onnxjvp.kernels.remarks import remarks
from onnxjvp.kernels.samples import refuse_mixing
from onnxjvp.passes.linearize import Program
from onnxjvp.passes.straight import REMEDY
from onnxjvp.rewrite import Rewritten
from onnxjvp.rewrite.task import Task, unknown
from onnxjvp.runtime import Array

ACCUMULATORS = ("float32", "float64")
#: which kernels are kept apart: a word, or name → parameters
Groups = str | Mapping[str, Sequence[str]] | None


def problem(
    model: AnyModel | Rewritten,
    params: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    groups: Groups = None,
    form: str = "full",
    logit: int | str | None = None,
    rows: ArrayLike | None = None,
    accumulate: str = "float64",
    links: Path | None = None,
    providers: Sequence[str] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Problem:
    """A kernel to compute, checked against the model.

    Args:
      model, links: as for `onnxjvp.jvp`.
      params: names or globs of parameters; None means all trainable ones. Those that no chosen
        output depends on are left out, and remembered in `unused`.
      outputs: names of outputs; None means all that have a derivative.
      groups: None: one kernel over all parameters; "parameter": one for each; "module": one for
        all whose names are the same up to the last dot or slash; or a mapping of names to names
        or globs of parameters, a parameter in one group at most. Parameters in none are left out.
      form: which pairs of outputs are kept: "full", "diagonal" or "trace".
      logit: the kernel of one of the outputs' elements, by its index in all of them flattened one
        behind the other, or of the "sum" of them.
      rows: [K, O], any other combinations of these elements instead.
      accumulate: "float32" or "float64".
      providers: as for `Session`.
      sizes: of symbolic dimensions of the outputs, but for their axis of samples; see `sizes_of`.
    Raises:
      UsageError: unknown names or words; an output without an axis of samples (axis 0, of the
        size that inputs have there), or of a size that is not known.
      UnsupportedOpError: operators without a rule, and operators that make outputs of one sample
        depend on others, or on chance.
    Cost: one linearisation, without running the model.
    """
    _choose("form", form, FORMS)
    _choose("accumulate", accumulate, ACCUMULATORS)
    task = _task(model, params, outputs, links)
    _check_parameters(task, params)
    try:
        program = task.linearize()
    except UnsupportedOpError as error:
        text = str(error).replace(REMEDY, f"A kernel is not of rounded values: {_BEFORE}")
        raise UnsupportedOpError(text, error.nodes) from error
    if outputs is not None and task.excluded:
        reasons = "; ".join(f"{name!r}: {why}" for name, why in task.excluded.items())
        raise UsageError(f"there are outputs without a derivative, leave them out: {reasons}")
    batch = _axis_of_samples(task)
    sampled = tuple(v.name or "" for v in task.source.inputs if _leading(v) == batch)
    if not sampled:
        raise UsageError(
            f"no input has an axis of samples: axis 0 of the outputs is {batch}, of the inputs "
            f"{_described(task.source)}. Export the model with a batch axis at 0 of its inputs"
        )
    refuse_mixing(task.source, task.outputs, None if isinstance(batch, int) else batch, sampled)
    shapes = {v.name or "": _sizes(v, batch, sizes or {}) for v in task.outputs}
    reached = _reached(program)
    names = [v.name or "" for v in task.variables]
    used = [n for n, seed in zip(names, program.seeds, strict=True) if seed in reached]
    kept = _groups(groups, used, names)
    chosen = {name for group in kept.values() for name in group}
    return Problem(
        model=model,
        params=tuple(name for name in used if name in chosen),
        groups=kept,
        outputs=shapes,
        sampled=sampled,
        shared=tuple(v.name or "" for v in task.source.inputs if v.name not in sampled),
        batch=batch if isinstance(batch, int) else None,
        form=form,
        rows=_rows(shapes, logit, rows),
        accumulate=accumulate,
        links=links,
        providers=providers,
        sizes=dict(sizes or {}),
        axis=str(dims.expression(batch)) if dims.is_named(batch) and _is_symbol(batch) else None,
        unused=tuple(name for name in names if name not in used),
        excluded=dict(task.excluded),
        notes=(*_notes(task), *remarks(task.source, used, chosen=params is not None)),
    )


def sizes_of(
    model: AnyModel | Rewritten, x: Mapping[str, Array], *, links: Path | None = None
) -> dict[str, int]:
    """The sizes that arrays give the model's symbolic dimensions, by name.

    Args:
      x: an array per input, or for some of them.
    Raises: as `onnxjvp.jvp` for the model; UsageError for a name that is no input, or an array of
      another rank.
    """
    source = load(model.model if isinstance(model, Rewritten) else model, links=links)
    inputs = {v.name or "": v for v in source.inputs}
    found: dict[str, int] = {}
    for name, array in x.items():
        if name not in inputs:
            raise UsageError(unknown("input", name, list(inputs)))
        shape = inputs[name].shape
        if shape is None or len(shape) != np.ndim(array):
            raise UsageError(
                f"{name!r} has {np.ndim(array)} axes, and the model takes "
                f"{'any' if shape is None else len(shape)}"
            )
        for dim, size in zip(shape.dims, np.shape(array), strict=True):
            if _is_symbol(dim) and dims.is_named(dim):
                found.setdefault(str(dims.expression(dim)), size)
    return found


def _choose(what: str, given: str, known: Sequence[str]) -> None:
    if given not in known:
        raise UsageError(f"unknown {what} {given!r}; choose one of {', '.join(known)}")


def _task(
    model: AnyModel | Rewritten,
    params: Sequence[str] | None,
    outputs: Sequence[str] | None,
    links: Path | None,
) -> Task:
    try:
        return Task(model, [PARAMS] if params is None else params, outputs, links=links)
    except UsageError as error:
        if params is not None or repr(PARAMS) not in str(error):
            raise
        source = load(model.model if isinstance(model, Rewritten) else model, links=links)
        if any(map(_holds_codes, source.graph.all_nodes())):
            raise UsageError(
                "the model's weights are stored quantised, as integers, and a kernel is over "
                f"float parameters: {_BEFORE}, or name floats with --params (in Python params=…)"
            ) from error
        raise


_BEFORE = "take the model as it was before it was quantised"


# -- parameters --------------------------------------------------------------------------------


def _check_parameters(task: Task, params: Sequence[str] | None) -> None:
    known = parameters(task.source)
    named = {PARAMS} if params is None else {params} if isinstance(params, str) else set(params)
    # a glob means the parameters that match it
    task.variables = [v for v in task.variables if v.name in known or v.name in named]
    others = [v.name or "" for v in task.variables if v.name not in known]
    if others or not task.variables:
        raise UsageError(
            f"{', '.join(map(repr, others or params or []))} is no parameter: a kernel is over "
            "float initialisers and constants. `onnxjvp inspect` lists them; leave the choice out "
            "for all that are trainable"
        )


def _reached(program: Program) -> set[ir.Value]:
    """What the outputs' tangents read."""
    read = {v for n in program.nodes for v in (*n.inputs, *captured(n)) if v is not None}
    return read | {v for v in program.outs if v is not None}


def _groups(
    groups: Groups, used: Sequence[str], every: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Name → parameters, of those that matter."""
    if groups is None:
        return {"all": tuple(used)}
    if groups == "parameter":
        return {name: (name,) for name in used}
    if groups == "module":
        modules: dict[str, list[str]] = {}
        for name in used:
            modules.setdefault(_module(name), []).append(name)
        return {module: tuple(names) for module, names in modules.items()}
    if isinstance(groups, str):
        raise UsageError(
            f"unknown groups {groups!r}; choose 'parameter', 'module', or map names to parameters"
        )
    return _mapped(groups, used, every)


def _module(name: str) -> str:
    """The name up to the last dot or slash, or all of it."""
    return name[: max(name.rfind("."), name.rfind("/"), 0)] or name


def _mapped(
    groups: Mapping[str, Sequence[str]], used: Sequence[str], every: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    if "all" in groups:
        raise UsageError("'all' is the kernel over all parameters; give the group another name")
    owner: dict[str, str] = {}
    for group, patterns in groups.items():
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            found = [n for n in every if n == pattern] or [
                n for n in every if fnmatch.fnmatchcase(n, pattern)
            ]
            if not found:
                raise UsageError(f"group {group!r}: {unknown('parameter', pattern, list(every))}")
            for name in found:
                if owner.setdefault(name, group) != group:
                    raise UsageError(
                        f"the parameter {name!r} is in the groups {owner[name]!r} and {group!r}; "
                        "leave it in one"
                    )
    kept = {group: tuple(n for n in used if owner.get(n) == group) for group in groups}
    if empty := [group for group, names in kept.items() if not names]:
        raise UsageError(
            f"no output depends on the parameters of {', '.join(map(repr, empty))}; leave out "
            "such groups"
        )
    return kept


# -- outputs -----------------------------------------------------------------------------------


def _leading(value: ir.Value) -> Dim | None:
    return None if value.shape is None or not len(value.shape) else value.shape.dims[0]


def _is_symbol(dim: Dim) -> bool:
    return bool(dims.expression(dim).is_Symbol)


def _described(source: Source) -> str:
    return ", ".join(map(_typed, source.inputs)) or "none"


def _typed(value: ir.Value) -> str:
    return f"{value.name!r} {'[?]' if value.shape is None else value.shape}"


def _axis_of_samples(task: Task) -> Dim:
    """The dimension that all outputs have at axis 0: a number or a symbol."""
    found = {v.name or "": _leading(v) for v in task.outputs}
    leave = "Choose other outputs, or export the model with a batch axis at 0"
    for value in task.outputs:
        dim = _leading(value)
        if dim is None:
            raise UsageError(f"the output {_typed(value)} has no axis of samples. {leave}")
        if not isinstance(dim, int) and not _is_symbol(dim):
            raise UsageError(
                f"axis 0 of the output {value.name!r} has {dim} elements, not one for every "
                f"sample. {leave}"
            )
    if len(set(found.values())) > 1:
        sizes = ", ".join(f"{name!r}: {dim}" for name, dim in found.items())
        raise UsageError(f"the outputs differ in their number of samples ({sizes}). {leave}")
    (dim,) = set(found.values())
    assert dim is not None
    return dim


def _sizes(output: ir.Value, batch: Dim, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The output's shape without its axis of samples."""
    assert output.shape is not None
    free = set() if isinstance(batch, int) else batch.free_symbols()
    found = []
    for axis, dim in enumerate(output.shape.dims[1:], start=1):
        if isinstance(dim, int):
            found.append(dim)
            continue
        if dim.free_symbols() & free:
            raise UsageError(
                f"axis {axis} of the output {output.name!r} grows with the number of samples "
                f"({dim}): it compares samples, and has no kernel of one with another. Choose "
                "another output"
            )
        value = dim.evaluate({name: sizes[name] for name in dim.free_symbols() if name in sizes})
        if not isinstance(value, int):
            missing = ", ".join(sorted(n for n in dim.free_symbols() if not n.startswith("?")))
            remedy = (
                f"give the size of {missing} (--dim NAME=SIZE, in Python sizes=…)"
                if missing
                else "make the sizes of the inputs constants (onnxjvp fix MODEL --dim NAME=SIZE), "
                "or choose another output"
            )
            raise UsageError(
                f"the size of axis {axis} of the output {output.name!r} is not known ({dim}); "
                f"{remedy}"
            )
        found.append(value)
    return tuple(found)


def _rows(
    shapes: Mapping[str, tuple[int, ...]], logit: int | str | None, rows: ArrayLike | None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    count = sum(math.prod(shape) for shape in shapes.values())
    if rows is not None:
        if logit is not None:
            raise UsageError("both a logit and rows are given; choose one")
        given = np.array(rows, np.float64)
        if given.ndim != 2 or given.shape[1] != count or not len(given):
            raise UsageError(
                f"rows has shape {list(given.shape)}; give [K, {count}], a row for each "
                f"combination of the {count} elements of {', '.join(map(repr, shapes))}"
            )
        return given
    if logit is None:
        return _identity(count)
    if logit == "sum":
        return np.ones((1, count))
    if isinstance(logit, str) or not -count <= logit < count:
        raise UsageError(
            f"there is no logit {logit!r}: give a number from 0 to {count - 1}, or 'sum'"
        )
    row = np.zeros((1, count))
    row[0, logit] = 1.0
    return row


def _identity(count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The identity, read-only, in memory linear in its size: each row a shifted view of one."""
    line = np.zeros(2 * count)
    line[count] = 1.0
    step = line.itemsize
    return np.lib.stride_tricks.as_strided(
        line[count:], (count, count), (-step, step), writeable=False
    )


# -- what a reader of the kernel should know ----------------------------------------------------


def _notes(task: Task) -> tuple[str, ...]:
    """Why the kernel may not be that of the network as it was trained."""
    held = [n for n in task.source.graph.all_nodes() if _holds_codes(n)]
    if not held:
        return ()
    first = held[0].name or held[0].outputs[0].name
    return (
        f"{len(held)} weight(s) are stored quantised (the first is read by {first!r}): the "
        "kernel is that of the float parameters that are left, not of the network before it was "
        "quantised",
    )


def _holds_codes(node: ir.Node) -> bool:
    """Whether a weight that it reads is kept as integers."""
    if node.op_type in ("DequantizeLinear", "MatMulNBits"):
        return _is_stored(node.inputs[1 if node.op_type == "MatMulNBits" else 0])
    if label_of(node) not in LAYOUTS:
        return False
    return any(_is_stored(node.inputs[c.value]) for c in LAYOUTS[label_of(node)].operands)


def _is_stored(value: ir.Value | None) -> bool:
    if value is None:
        return False
    node = value.producer()
    return value.is_initializer() or (node is not None and node.op_type == "Constant")
