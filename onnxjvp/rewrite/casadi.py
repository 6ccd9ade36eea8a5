"""The files that CasADi reads a function and its derivatives from.

CasADi looks for `fwd_f.onnx`, `adj_f.onnx` and `fwd_adj_f.onnx` beside `f.onnx`, and tells tensors
apart by name. Everything there is a matrix, and K matrices of one shape stand side by side:

| value            | its matrix            | K of them                                        |
|------------------|-----------------------|--------------------------------------------------|
| []               | 1 × 1                 | [1, K]                                           |
| [n]              | n × 1                 | [n, K]                                           |
| [r, c]           | r × c                 | [r, K·c], the k-th in columns k·c … (k+1)·c      |
| rank 3 and more  | numel × 1, row-major  | [numel, K]                                       |
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxjvp._version import __version__
from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph import dims as dimensions
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.parameters import is_float, variables
from onnxjvp.graph.save import INLINE_LIMIT
from onnxjvp.passes.emit import End, emit
from onnxjvp.rewrite.products import jvp, vjp
from onnxjvp.rewrite.rewritten import METADATA_KEY, Rewritten

#: what the names of CasADi's files and tensors start with, in the order of application
FWD, ADJ, FWD_ADJ = "fwd_", "adj_", "fwd_adj_"
#: prefixes that mean a derivative, so that no tensor of the model itself may have one
_RESERVED = (FWD, ADJ, "out_", "jac_")
#: names of the numbers of directions; CasADi binds the first two to exactly these numbers
NFWD, NADJ, NFWD_NADJ = "nfwd", "nadj", "nfwd_nadj"


def casadi_family(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    second_order: bool = True,
    opset: int | None = None,
    links: Path | None = None,
) -> dict[str, Rewritten]:
    """The model and its derivatives as CasADi reads them, by what their file names start with.

    Args:
      model, opset, links: as for `jvp`; weights in external files are taken into every file.
      wrt: None for all float inputs. Otherwise all of them, and parameters as well, which become
        inputs of every file: CasADi differentiates in inputs only.
      outputs: the outputs of the function; None means all, which must be floats.
      dims: sizes of the model's dynamic dimensions, {"batch": 1}. One without a name, of axis i of
        input x, is called "x[i]".
      second_order: whether "fwd_adj_" is among the files, which Hessians need.
    Returns:
      "": f, with inputs x and outputs y as in the model.
      "fwd_": inputs x, fwd_x; outputs fwd_y = J fwd_x.
      "adj_": inputs x, adj_y; outputs adj_x = Jᵀ adj_y.
      "fwd_adj_": inputs x, adj_y, fwd_x, fwd_adj_y; outputs fwd_adj_x, the derivative of adj_x
        along (fwd_x, fwd_adj_y); forward directions outside, adjoint ones inside.
      Any number of directions at once, in the dtype of what they belong to and in the layout that
      this module's table gives. Derivatives that are zero are among the outputs, as zeros.
    Raises:
      UsageError: sizes that are not fixed (CasADi would take 1), a float input left out of `wrt`
        (CasADi would take its derivative as 0), an output that is not a float, names that CasADi
        would misread, weights too large for one file.
      UnsupportedOpError: as `jvp` and `vjp`.
    Cost: as `jvp` and `vjp` with K directions; "fwd_adj_" about 5 forward passes for one direction.
    Source: CasADi 3.8, the docstring of GraphBuilder.create.
    """
    primal = _prepared(model, wrt, outputs, dims or {}, opset, links)
    _check_names(primal)
    xs = [str(v.name) for v in primal.graph.inputs if is_float(v)]
    forwards = jvp(primal, xs, directions=NFWD)
    backwards = vjp(primal, xs, cotangents=NADJ)
    ys = [str(v.name) for v in primal.graph.outputs]
    family = {
        "": _described(primal, "", {}, {}, {}),
        FWD: _forwards(forwards, xs, ys),
        ADJ: _backwards(backwards, xs, ys),
    }
    if second_order:
        family[FWD_ADJ] = _forwards_over_backwards(backwards, xs, ys)
    return family


def _forwards(forwards: Rewritten, xs: Sequence[str], ys: Sequence[str]) -> Rewritten:
    seeds, results = forwards.names["seeds"], forwards.names["results"]
    ends = _Boundary(forwards)
    for x in xs:
        ends.take(FWD + x, x, seeds[x], NFWD)
    for y in ys:
        ends.give(FWD + y, y, results.get(y, {}).get("jvp"), NFWD)
    return ends.finish(FWD)


def _backwards(backwards: Rewritten, xs: Sequence[str], ys: Sequence[str]) -> Rewritten:
    cotangents, results = backwards.names["cotangents"], backwards.names["results"]
    ends = _Boundary(backwards)
    for y in ys:
        ends.take(ADJ + y, y, cotangents.get(y), NADJ)
    for x in xs:
        ends.give(ADJ + x, x, results.get(x, {}).get("vjp"), NADJ)
    return ends.finish(ADJ)


def _forwards_over_backwards(
    backwards: Rewritten, xs: Sequence[str], ys: Sequence[str]
) -> Rewritten:
    """The forward derivative of the adjoint file, in the inputs and in the cotangents."""
    cotangents = backwards.names["cotangents"]
    found = {x: forms["vjp"] for x, forms in backwards.names["results"].items()}
    try:
        second = jvp(
            backwards, [*xs, *cotangents.values()], list(found.values()), directions=NFWD
        )
    except UnsupportedOpError as error:
        raise UnsupportedOpError(
            f"the adjoint model cannot be differentiated once more: {error}\nWithout the second "
            "order (second_order=False) CasADi has Jacobians and no Hessians; ipopt then takes "
            '{"ipopt.hessian_approximation": "limited-memory"}',
            error.nodes,
        ) from error
    seeds, results = second.names["seeds"], second.names["results"]
    ends = _Boundary(second)
    for y in ys:
        ends.take(ADJ + y, y, cotangents.get(y), NADJ)
    for x in xs:
        ends.take(FWD + x, x, seeds[x], NFWD)
    for y in ys:
        ends.take(FWD_ADJ + y, y, seeds.get(cotangents.get(y)), NFWD_NADJ)
    for x in xs:
        ends.give(FWD_ADJ + x, x, results.get(found.get(x), {}).get("jvp"), NFWD_NADJ)
    return ends.finish(FWD_ADJ)


# -- matrices at the boundary ------------------------------------------------------------------


class _Boundary:
    """Turns the stacked seeds and results [K, *shape] of a model into CasADi's matrices."""

    def __init__(self, stacked: Rewritten) -> None:
        self._source = load(stacked.model)
        self._op = Ops(self._source.shapes, self._source.graph)
        self._inputs = {v.name: v for v in self._source.graph.inputs}
        self._outputs = {v.name: v for v in self._source.graph.outputs}
        self._seeds: list[End] = []
        self._results: list[End] = []
        #: how many directions there are, each as a tensor of one element
        self._counts: dict[str, ir.Value] = {}
        self._names: dict[str, dict[str, Any]] = {"seeds": {}, "cotangents": {}, "results": {}}

    def take(self, name: str, of: str, stacked: str | None, count: str) -> None:
        """An input of that name instead of the stacked one; one that nothing reads if it is None.

        Must come before the results, and seeds of NFWD_NADJ after those of both factors.
        """
        value = self._like(of)
        shape, (rows, width) = _static(value), _matrix(_static(value))
        matrix = ir.Value(
            name=f"?{name}", shape=_declared(rows, width, count), type=ir.TensorType(_dtype(value))
        )
        self._seeds.append(End(name, matrix, matrix.shape))
        self._names["seeds" if name.startswith(FWD) else "cotangents"][of] = name
        op = self._op
        columns = op.Reshape(matrix, op.ints([rows, -1, width]))
        values = op.Transpose(columns, perm=[1, 0, 2])
        if count in (NFWD, NADJ):
            self._counts.setdefault(count, op.Shape(values, start=0, end=1))
        if stacked is not None:
            leading = op.ints([-1])
            if count == NFWD_NADJ:
                leading = op.Concat(leading, self._counts[NADJ], axis=0)
            together = op.Reshape(values, op.Concat(leading, op.ints(shape), axis=0))
            self._replace(self._inputs[stacked], together)

    def give(self, name: str, of: str, stacked: str | None, count: str) -> None:
        """An output of that name made of the stacked one; zeros if it is None."""
        op, value = self._op, self._like(of)
        rows, width = _matrix(_static(value))
        values = op.ints([-1, rows, width])
        together = self._zeros(value, count) if stacked is None else self._outputs[stacked]
        columns = op.Transpose(op.Reshape(together, values), perm=[1, 0, 2])
        matrix = op.Reshape(columns, op.ints([rows, -1]))
        self._results.append(End(name, matrix, _declared(rows, width, count)))
        form = name.removesuffix(of).rstrip("_")
        self._names["results"].setdefault(of, {})[form] = name

    def finish(self, prefix: str) -> Rewritten:
        emitted = emit(self._source, self._op, self._seeds, self._results)
        return _described(emitted, prefix, **self._names)

    def _like(self, name: str) -> ir.Value:
        """The input or output of f: every stacked model still has it."""
        return self._inputs.get(name) or self._outputs[name]

    def _zeros(self, value: ir.Value, count: str) -> ir.Value:
        factors = [NFWD, NADJ] if count == NFWD_NADJ else [count]
        sizes = [self._counts[f] for f in factors]
        shape = self._op.Concat(*sizes, self._op.ints(_static(value)), axis=0)
        return self._op.zeros(value.dtype, shape)

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        """What was recorded goes before the nodes of the model, which read it."""
        graph = self._source.graph
        graph.inputs.remove(old)
        ir.convenience.replace_all_uses_with(old, new)
        graph.insert_before(graph[0], self._op.nodes)
        self._op.nodes.clear()


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """The rows and columns that CasADi gives a value."""
    return (shape[0], shape[1]) if len(shape) == 2 else (math.prod(shape), 1)


def _declared(rows: int, width: int, count: str) -> ir.Shape:
    """[rows, count · width]; CasADi takes equal names for equal sizes."""
    return ir.Shape([rows, count if width == 1 else f"{count}_x{width}"])


def _static(value: ir.Value) -> tuple[int, ...]:
    shape = dimensions.static(value)
    assert shape is not None, f"{value.name} was checked to be static"
    return shape


def _dtype(value: ir.Value) -> ir.DataType:
    assert value.dtype is not None
    return value.dtype


def _described(
    model: ir.Model,
    prefix: str,
    seeds: Mapping[str, Any],
    cotangents: Mapping[str, Any],
    results: Mapping[str, Any],
) -> Rewritten:
    names = {"seeds": seeds, "cotangents": cotangents, "results": results}
    report = {"emit": "casadi", "prefix": prefix, "nodes_after": len(model.graph)}
    model.metadata_props[METADATA_KEY] = json.dumps(
        {"version": __version__, **report, **names}, ensure_ascii=False
    )
    model.producer_name, model.producer_version = "onnxjvp", __version__
    return Rewritten(model, names, report)


# -- the model itself --------------------------------------------------------------------------


def _prepared(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    sizes: Mapping[str, int],
    opset: int | None,
    links: Path | None,
) -> ir.Model:
    """f: static shapes, the outputs that are wanted, parameters in `wrt` as inputs, no files."""
    given = model.model if isinstance(model, Rewritten) else model
    source = load(given, opset=opset, links=links)
    _drop_defaults(source, wrt)
    _fix_sizes(source, sizes)
    _choose_outputs(source, outputs)
    _add_parameters(source, wrt)
    _take_in_weights(source.model)
    for value in (v for node in source.graph for v in node.outputs):
        value.shape = None  # in the sizes that there were before
    source = load(source.model)
    op = Ops(source.shapes, source.graph)
    primal = emit(source, op, [], [End(y.name or "", y, None) for y in source.graph.outputs])
    for value in (*primal.graph.inputs, *primal.graph.outputs):
        _check_static(value)
    return primal


def _drop_defaults(source: Source, wrt: Sequence[str] | None) -> None:
    """An input with a default that is not named keeps it: CasADi would ask for every input."""
    for value in list(source.graph.inputs):
        if value.name in source.graph.initializers and value.name not in (wrt or ()):
            source.graph.inputs.remove(value)


def _fix_sizes(source: Source, sizes: Mapping[str, int]) -> None:
    symbols: dict[str, str] = {}  # as the caller calls them → as inference does
    for value in source.graph.inputs:
        for i, dim in enumerate(value.shape.dims if value.shape else ()):
            if not isinstance(dim, int):
                free = dim.free_symbols()
                named = {s: s for s in free if not s.startswith("?")}
                symbols.update(named or dict.fromkeys((f"{value.name}[{i}]",), *free))
    known = ", ".join(map(repr, symbols)) or "none"
    for name, size in sizes.items():
        if name not in symbols:
            raise UsageError(f"no input has a dimension {name!r} to be fixed; there are: {known}")
        if size < 1:
            raise UsageError(f"the dimension {name!r} cannot be {size}; give 1 or more")
    missing = [name for name in symbols if name not in sizes]
    if missing:
        options = " ".join(f"--dim {name}=1" for name in missing)
        raise UsageError(
            f"the inputs have dynamic dimensions: {', '.join(map(repr, missing))}. CasADi takes "
            f"one that nobody binds as 1 without a word; fix the sizes (dims={{{missing[0]!r}: 1}}, "
            f"or {options})"
        )
    values = {symbols[name]: size for name, size in sizes.items()}
    for value in source.graph.inputs:
        if value.shape is not None:
            fixed = [d if isinstance(d, int) else d.evaluate(values) for d in value.shape.dims]
            value.shape = ir.Shape(fixed)


def _choose_outputs(source: Source, names: Sequence[str] | None) -> None:
    by_name = {v.name or "": v for v in source.graph.outputs}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        known = ", ".join(map(repr, by_name))
        raise UsageError(f"the model has no output {unknown[0]!r}; there are: {known}")
    chosen = [by_name[name] for name in dict.fromkeys(names or by_name)]
    for y in chosen:
        if not is_float(y):
            dtype = "unknown" if y.dtype is None else str(y.dtype.numpy())
            floats = ", ".join(repr(n) for n, v in by_name.items() if is_float(v)) or "none"
            raise UsageError(
                f"the output {y.name!r} is {dtype}, and CasADi needs the derivative of every "
                f"output; choose outputs among the floats ({floats})"
            )
    source.graph.outputs.clear()
    source.graph.outputs.extend(chosen)
    for y in chosen:
        y.shape = None  # inferred again, in the sizes that were fixed


def _add_parameters(source: Source, wrt: Sequence[str] | None) -> None:
    """Parameters in `wrt` become inputs; all float inputs have to be among `wrt`."""
    if wrt is None:
        variables(source, None)  # there is one
        return
    chosen = variables(source, wrt)
    left_out = [v for v in source.inputs if is_float(v) and v not in chosen]
    if left_out:
        raise UsageError(
            f"{', '.join(repr(v.name) for v in left_out)}: a float input without a derivative is "
            "one whose derivative CasADi takes as zero without a word; differentiate in all float "
            "inputs, or make those constants of the model"
        )
    graph = source.graph
    for value in (v for v in chosen if v not in source.inputs):
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            raise UsageError(
                f"{value.name!r} is computed inside the model; CasADi differentiates in inputs, and "
                "only parameters can be made such"
            )
        node, name = value.producer(), value.name
        graph.initializers.pop(name or "", None)
        if value.is_graph_input():
            value.const_value = None
            continue
        added = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype))
        ir.convenience.replace_all_uses_with(value, added)
        if node is not None:
            graph.remove(node)
        graph.inputs.append(added)


def _take_in_weights(model: ir.Model) -> None:
    """Weights in external files into the model: CasADi hands the runtime the bytes of one file."""
    values = [v for graph in model.graphs() for v in graph.initializers.values()]
    tensors = [v.const_value for v in values if v.const_value is not None]
    size = sum(tensor.nbytes for tensor in tensors)
    if size > INLINE_LIMIT:
        raise UsageError(
            f"the model has {size / 1e9:.1f} GB of weights, and CasADi reads files that hold all "
            f"their weights, which end at {INLINE_LIMIT / 1e9:.1f} GB; export a smaller model, or "
            "one in half precision"
        )
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors):
        ir.external_data.load_to_model(model)


def _check_names(model: ir.Model) -> None:
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "").startswith(_RESERVED):
            raise UsageError(
                f"the model's own tensor {value.name!r} has a name that CasADi reads as that of a "
                f"derivative ({', '.join(_RESERVED)}); rename it"
            )


def _check_static(value: ir.Value) -> None:
    shape = dimensions.static(value)
    if shape is None or 0 in shape:
        shown = "an unknown shape" if value.shape is None else f"the shape {value.shape}"
        raise UsageError(
            f"{value.name!r} has {shown}, and CasADi needs the sizes of every input and output, "
            "none of them 0; export the model with fixed sizes, or leave that output out"
        )
