"""A model as CasADi can read it: static, in one file, differentiable in every float input.

What CasADi would misread without a word is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.dims import Dim
from onnxjvp.graph.load import AnyModel, Source, load
from onnxjvp.graph.ops import Ops
from onnxjvp.graph.parameters import is_float, variables
from onnxjvp.graph.save import INLINE_LIMIT
from onnxjvp.passes.emit import End, emit, taken_names
from onnxjvp.rewrite.rewritten import Rewritten

#: what the names of derivatives start with, in files and tensors
FWD, ADJ, FWD_ADJ = "fwd_", "adj_", "fwd_adj_"
#: what CasADi reads as the name of a derivative, so that no tensor of the model may be called so
_RESERVED = (FWD, ADJ, "out_", "jac_")


def prepared(
    model: AnyModel | Rewritten,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    sizes: Mapping[str, int],
    opset: int | None,
    links: Path | None,
) -> tuple[ir.Model, int | None]:
    """The function as CasADi can read it; for the arguments see `casadi_family`.

    Returns:
      The model with static shapes, the outputs that are wanted, parameters in `wrt` as inputs, and
      all its weights inside; and the opset that it came with, where that was raised.
    Raises:
      UsageError: what CasADi would misread.
    """
    given = model.model if isinstance(model, Rewritten) else model
    source = load(given, opset=opset, links=links)
    _drop_defaults(source, wrt)
    values = _bound(source, sizes)
    _choose_outputs(source, outputs)
    _add_parameters(source, wrt)
    _fix_sizes(source, values)
    _rename_constants(source.graph)
    _take_in_weights(source.model)
    raised_from = source.raised_from
    source = load(source.model)
    op = Ops(source.shapes, source.graph)
    primal = emit(source, op, [], [End(y.name or "", y, None) for y in source.graph.outputs])
    for value in (*primal.graph.inputs, *primal.graph.outputs):
        _check_static(value)
    _check_names(primal)
    return primal, raised_from


def _drop_defaults(source: Source, wrt: Sequence[str] | None) -> None:
    """An input with a default that is not named keeps it: CasADi would ask for every input."""
    for value in list(source.graph.inputs):
        if value.name in source.graph.initializers and value.name not in (wrt or ()):
            source.graph.inputs.remove(value)


def _bound(source: Source, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes by the symbols that inference has for them."""
    symbols: dict[str, str] = {}  # as the caller calls them → as inference does
    for value in source.graph.inputs:
        for i, dim in enumerate(value.shape.dims if value.shape else ()):
            if not isinstance(dim, int):
                free = dim.free_symbols()
                named = {s: s for s in free if not s.startswith("?")}
                symbols.update(named or {f"{value.name}[{i}]": s for s in free})
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
            f"one that nobody binds as 1 without a word; fix the sizes: "
            f"dims={{{missing[0]!r}: 1}}, or {options}"
        )
    return {symbols[name]: size for name, size in sizes.items()}


def _fix_sizes(source: Source, values: Mapping[str, int]) -> None:
    """Shapes of inputs as they are now; those inside are inferred anew, where they can be."""
    for value in source.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([_evaluated(d, values) for d in value.shape.dims])
    for node in source.graph:
        for value in node.outputs:
            if not node.domain or value.shape is None:
                value.shape = None
            else:  # a foreign operator's, of which inference knows what the file says
                known = [_evaluated(d, values) for d in value.shape.dims]
                value.shape = ir.Shape([d if isinstance(d, int) else dims.fresh() for d in known])


def _evaluated(dim: Dim, values: Mapping[str, int]) -> Dim:
    return dim if isinstance(dim, int) else dim.evaluate(values)


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
                f"{value.name!r} is computed inside the model; CasADi differentiates in inputs, "
                "and only parameters can be made such"
            )
        node, name = value.producer(), value.name
        graph.initializers.pop(name or "", None)
        if value.is_graph_input():
            value.const_value = None
            continue
        shape = ir.Shape(tensor.shape.numpy())
        added = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype))
        ir.convenience.replace_all_uses_with(value, added)
        if node is not None:
            graph.remove(node)
        graph.inputs.append(added)


def _rename_constants(graph: ir.Graph) -> None:
    """Constants inside that are called as the tensors to be: nobody outside reads their names."""
    taken = taken_names(graph)
    for value in list(graph.initializers.values()):
        name = value.name or ""
        if name.startswith(_RESERVED) and not value.is_graph_input():
            while name in taken:
                name = f"constant_{name}"
            taken.add(name)
            value.name = name


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
    inputs = {v.name for v in model.graph.inputs}
    for y in model.graph.outputs:
        if y.name in inputs:
            raise UsageError(
                f"{y.name!r} is an input and an output, so {FWD}{y.name} would be both as well; "
                "leave that output out"
            )
    for value in (*model.graph.inputs, *model.graph.outputs):
        if (value.name or "").startswith(_RESERVED):
            raise UsageError(
                f"the model's own tensor {value.name!r} has a name that CasADi reads as that of a "
                f"derivative ({', '.join(_RESERVED)}); rename it"
            )


def _check_static(value: ir.Value) -> None:
    shape = dims.static(value)
    if shape is None or 0 in shape:
        shown = "an unknown shape" if value.shape is None else f"the shape {value.shape}"
        raise UsageError(
            f"{value.name!r} has {shown}, and CasADi needs the sizes of every input and output, "
            "none of them 0; export the model with fixed sizes, or leave that output out"
        )
