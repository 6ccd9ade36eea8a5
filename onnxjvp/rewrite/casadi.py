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

import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxjvp._version import __version__
from onnxjvp.errors import UnsupportedOpError, UsageError
from onnxjvp.graph import dims as dimensions
from onnxjvp.graph.load import AnyModel, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.opset import opset_of
from onnxjvp.graph.parameters import is_float
from onnxjvp.graph.wire import stream
from onnxjvp.passes.emit import End, emit
from onnxjvp.rewrite.card import read_card, write_card
from onnxjvp.rewrite.casadi_model import ADJ, FWD, FWD_ADJ, prepared
from onnxjvp.rewrite.products import jvp, vjp
from onnxjvp.rewrite.rewritten import Rewritten

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
    primal, raised_from = prepared(model, wrt, outputs, dims or {}, opset, links)
    xs = [str(v.name) for v in primal.graph.inputs if is_float(v)]
    ys = [str(v.name) for v in primal.graph.outputs]
    forwards = jvp(primal, xs, directions=NFWD)
    backwards = vjp(primal, xs, cotangents=NADJ)
    about = {
        "wrt": xs,
        "outputs": ys,
        "excluded": _zeros(forwards, backwards),
        "raised_from": raised_from,
        "opset": opset_of(primal),
        "cuts": forwards.report["cuts"],
        "nodes_before": len(primal.graph),
    }
    family = {
        "": _described(primal, "", about, {"seeds": {}, "cotangents": {}, "results": {}}),
        FWD: _forwards(forwards, about),
        ADJ: _backwards(backwards, about),
    }
    if second_order:
        family[FWD_ADJ] = _forwards_over_backwards(backwards, about)
    return family


def _zeros(*products: Rewritten) -> dict[str, str]:
    """Inputs and outputs whose derivatives are zero, and why."""
    return {
        name: f"{reason}; its derivatives are written as zeros"
        for product in products
        for name, reason in product.report["excluded"].items()
    }


def save_casadi(
    family: Mapping[str, Rewritten], path: str | os.PathLike[str], *, force: bool = False
) -> list[Path]:
    """Write the files of `casadi_family`: f.onnx, and fwd_f.onnx and so on beside it.

    Args:
      path: where f goes. All files are complete before the first one gets its name.
      force: replace files of these names.
    Returns:
      The paths, in the order of the family.
    Raises:
      UsageError: a file exists and `force` is false, the place cannot be written, or the folder
        holds another derivative of the same name (jac_f.onnx, say), which CasADi would read as one
        of this model; nothing is written then.
    """
    path = Path(path)
    finals = [path.with_name(prefix + path.name) for prefix in family]
    _check_places(path, finals, force)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = [Path(folder) / final.name for final in finals]
            for file, rewritten in zip(written, family.values(), strict=True):
                with file.open("wb") as stream_to:
                    stream(rewritten.model, stream_to)
            for file, final in zip(written, finals, strict=True):
                file.replace(final)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{str(path)!r} and the files beside it cannot be written: {reason}. Choose "
            "another place"
        ) from error
    return finals


def _check_places(path: Path, finals: Sequence[Path], force: bool) -> None:
    if folder := next((f for f in finals if f.is_dir()), None):
        raise UsageError(f"{str(folder)!r} is a folder; give a file name ending in .onnx")
    existing = [f for f in finals if f.exists()]
    if existing and not force:
        raise UsageError(
            f"{', '.join(repr(str(f)) for f in existing)} exists; pass --force to replace it, or "
            "-o another name"
        )
    derivative = re.compile(rf"((fwd|adj|jac)\d*_)+{re.escape(path.name)}")
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    strangers = [f for f in beside if derivative.fullmatch(f.name) and f not in finals]
    if strangers:
        raise UsageError(
            f"{', '.join(repr(str(f)) for f in strangers)}: CasADi would read it as a derivative "
            "of the new model; remove it, or choose another name or folder"
        )


def _forwards(forwards: Rewritten, about: Mapping[str, Any]) -> Rewritten:
    seeds, results = forwards.names["seeds"], forwards.names["results"]
    ends = _Boundary(forwards, about)
    for x in about["wrt"]:
        ends.take(FWD + x, x, seeds[x], NFWD)
    for y in about["outputs"]:
        ends.give(FWD + y, y, results.get(y, {}).get("jvp"), NFWD)
    return ends.finish(FWD)


def _backwards(backwards: Rewritten, about: Mapping[str, Any]) -> Rewritten:
    cotangents, results = backwards.names["cotangents"], backwards.names["results"]
    ends = _Boundary(backwards, about)
    for y in about["outputs"]:
        ends.take(ADJ + y, y, cotangents.get(y), NADJ)
    for x in about["wrt"]:
        ends.give(ADJ + x, x, results.get(x, {}).get("vjp"), NADJ)
    return ends.finish(ADJ)


def _forwards_over_backwards(backwards: Rewritten, about: Mapping[str, Any]) -> Rewritten:
    """The forward derivative of the adjoint file, in the inputs and in the cotangents."""
    cotangents = backwards.names["cotangents"]
    found = {x: forms["vjp"] for x, forms in backwards.names["results"].items()}
    try:
        second = jvp(
            backwards, [*about["wrt"], *cotangents.values()], list(found.values()), directions=NFWD
        )
    except UnsupportedOpError as error:
        raise UnsupportedOpError(
            f"the adjoint model cannot be differentiated once more: {error}\nWithout the second "
            "order (second_order=False) CasADi has Jacobians and no Hessians; ipopt then takes "
            '{"ipopt.hessian_approximation": "limited-memory"}',
            error.nodes,
        ) from error
    seeds, results = second.names["seeds"], second.names["results"]
    ends = _Boundary(second, about)
    for y in about["outputs"]:
        ends.take(ADJ + y, y, cotangents.get(y), NADJ)
    for x in about["wrt"]:
        ends.take(FWD + x, x, seeds[x], NFWD)
    for y in about["outputs"]:
        ends.take(FWD_ADJ + y, y, seeds.get(cotangents.get(y)), NFWD_NADJ)
    for x in about["wrt"]:
        ends.give(FWD_ADJ + x, x, results.get(found.get(x), {}).get("jvp"), NFWD_NADJ)
    return ends.finish(FWD_ADJ)


# -- matrices at the boundary ------------------------------------------------------------------


class _Boundary:
    """Turns the stacked seeds and results [K, *shape] of a model into CasADi's matrices."""

    def __init__(self, stacked: Rewritten, about: Mapping[str, Any]) -> None:
        self._about = about
        self._source = load(stacked.model)
        self._op = Ops(self._source.shapes, self._source.graph)
        self._inputs = {v.name: v for v in self._source.graph.inputs}
        self._outputs = {v.name: v for v in self._source.graph.outputs}
        self._first = self._source.graph[0]
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
        if name.startswith(FWD):
            self._names["seeds"][name.removeprefix(FWD)] = name
        else:
            self._names["cotangents"][of] = name
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
        self._names["results"][of] = {name.removesuffix(f"_{of}"): name}

    def finish(self, prefix: str) -> Rewritten:
        emitted = emit(self._source, self._op, self._seeds, self._results)
        return _described(emitted, prefix, self._about, self._names)

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
        graph.insert_before(self._first, self._op.nodes)
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
    model: ir.Model, prefix: str, about: Mapping[str, Any], names: Mapping[str, Any]
) -> Rewritten:
    report = {"emit": "casadi", "prefix": prefix, **about, "nodes_after": len(model.graph)}
    before = read_card(model)
    for _ in range(prefix.count("_")):  # the cards of the products that it is made of
        before = (before or {}).get("before")
    write_card(model, names, report, before)
    model.producer_name, model.producer_version = "onnxjvp", __version__
    return Rewritten(model, names, report)
