"""What can be differentiated in: inputs, parameters (float constants) and values in between.

Which constants a training run would have changed is not written in a file. `trainable` tells it
from where they are read: as a weight, a bias, a scale, a slope or an embedding.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.errors import UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.branches import BRANCHES
from onnxjvp.graph.load import Source
from onnxjvp.graph.regions import captured

FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)

#: the word that stands for every trainable parameter
PARAMS = "params"


def is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype in FLOATS


def parameters(source: Source) -> dict[str, ir.Value]:
    """Every float constant of the main graph by name: initialisers, then outputs of Constant nodes.

    Initialisers that are inputs as well (defaults that a caller may override) are among them, and
    so are small constants that nobody trains: epsilons, bounds of Clip, scales of Resize.
    Cost: linear in nodes; no weight is read.
    """
    made = (n.outputs[0] for n in source.graph if n.op_type == "Constant" and not n.domain)
    constants = (*source.graph.initializers.values(), *made)
    return {v.name: v for v in constants if v.name and is_float(v)}


# -- which parameters are trained --------------------------------------------------------------

#: operands that are parameters of the operator: weights, kernels, biases, scales, slopes
_SLOTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "DeformConv": (1, 3),
    "Gemm": (1, 2),
    "MatMul": (0, 1),
    "BatchNormalization": (1, 2),  # the mean and the variance are statistics
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "RMSNormalization": (1,),
    "PRelu": (1,),
    "LSTM": (1, 2, 3, 7),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
}
#: operators whose outputs hold elements of operand 0, and those that keep its layout
_MOVEMENTS = frozenset(
    ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Tile", "Slice", "Split")
)
_COPIES = frozenset(("Identity", "Cast", "CastLike", "QuantizeLinear", "DequantizeLinear"))
#: movements if the indices are constant; with computed ones, Gather reads an embedding
_LOOKUPS = frozenset(("Gather", "GatherElements", "GatherND"))
#: what a one-channel bias may be added to, with the axis of the channel
_PRODUCTS = {"MatMul": -1, "Gemm": -1, "Conv": 1, "ConvTranspose": 1}
#: no trained term is as low; attention masks are (-1e4 in bfloat16 is -9984)
_FORBIDDEN = -9e3
#: nor is it zero everywhere but where it is as low as this (shifted windows)
_DISCOURAGED = -100


def trainable(source: Source) -> dict[str, ir.Value]:
    """The parameters that a training run would have changed, in the order that nodes read them.

    A parameter counts where it, or a value that only moves its elements (Transpose, Reshape,
    Squeeze, Unsqueeze, Flatten, Expand, Tile, Identity, Cast, Slice, Split, Gather with constant
    indices, Concat with other parameters) or rounds them (QuantizeLinear, DequantizeLinear), is
      - the weight or bias of Conv, ConvTranspose, DeformConv, Gemm, LSTM, GRU, RNN, an operand of
        MatMul or Einsum, the slope of a PRelu, the scale or bias of a normalisation (its running
        mean and variance do not count);
      - a table, of rank 2 or more, in which a Gather looks up computed indices;
      - a term or factor of an Add or Mul, or a part of a Concat, whose other operands are
        computed: biases and scales written out, position embeddings, class tokens.
    One such use is enough, whatever else the parameter is used for. Initialisers and outputs of
    Constant nodes are treated alike: some exporters write all weights as Constant nodes.

    Terms, factors and parts are left out where they cannot have been trained: those with elements
    that are not finite, terms that are attention masks (an element is about -1e4 or less, or all
    are 0 or one number ≤ -100), factors that are (zeros and ones, both occurring), parts that are
    zero throughout (padding), and single elements (epsilons, 1/√d), except as the bias of a
    product with one output channel. What is subtracted or divided by is left out altogether:
    means and deviations. Where in doubt a constant counts, so fixed tables that are added or
    multiplied (sinusoidal positions, anchors) are among the results.

    Not found: learned scalars that multiply or are added, parameters inside bodies of loops, and
    those that reach their use through arithmetic (weight normalisation).

    Cost: linear in nodes. Only terms, factors and parts are read, to tell masks.
    """
    origins: Origins = {v: (v,) for v in parameters(source).values()}
    fixed = {v for g in source.model.graphs() for v in g.initializers.values()}
    found: dict[str, ir.Value] = {}
    for node in source.graph.all_nodes():
        if _is_fixed(node, fixed):
            fixed.update(node.outputs)
        if node.domain:
            continue
        if moved := _moved(node, origins, fixed):
            origins.update((v, moved) for v in node.outputs)
        else:
            found.update((v.name or "", v) for v in _trained(node, origins, fixed))
    return found


Origins = dict[ir.Value, tuple[ir.Value, ...]]  # the parameters whose elements a value holds


def _is_fixed(node: ir.Node, fixed: set[ir.Value]) -> bool:
    """Whether the node computes the same at every run: from constants only."""
    operands = (*node.inputs, *captured(node))
    return not node.op_type.startswith("Random") and all(v is None or v in fixed for v in operands)


def _moved(node: ir.Node, origins: Origins, fixed: set[ir.Value]) -> tuple[ir.Value, ...]:
    """The parameters whose elements the node moves; none if it does anything else."""
    if node.op_type == "Concat":
        moved = node.inputs
    elif node.op_type in _MOVEMENTS | _COPIES or _is_fixed_lookup(node, fixed):
        moved = node.inputs[:1]
    else:
        return ()
    held = [() if v is None else origins.get(v, ()) for v in moved]
    return tuple(dict.fromkeys(p for each in held for p in each)) if all(held) else ()


def _is_fixed_lookup(node: ir.Node, fixed: set[ir.Value]) -> bool:
    return node.op_type in _LOOKUPS and node.inputs[1] in fixed


def _trained(node: ir.Node, origins: Origins, fixed: set[ir.Value]) -> Iterator[ir.Value]:
    """The parameters that the node trains, of those that enter it."""

    def computed(value: ir.Value | None) -> bool:
        return value is not None and value not in origins and value not in fixed

    slots = _SLOTS.get(node.op_type, ())
    if node.op_type == "Einsum" or (node.op_type == "Gemm" and computed(node.inputs[1])):
        slots = tuple(range(len(node.inputs)))
    mixed = node.op_type in ("Add", "Mul", "Concat") and any(map(computed, node.inputs))
    for i, value in enumerate(node.inputs):
        candidates = () if value is None else origins.get(value, ())
        if i in slots:
            yield from candidates
        elif node.op_type == "Gather" and i == 0:
            yield from (p for p in candidates if len(dims.of(p)) >= 2)
        elif mixed:
            yield from (p for p in candidates if _may_be_trained(p, node))


def _may_be_trained(parameter: ir.Value, node: ir.Node) -> bool:
    """Whether a term, factor or part that meets computed values can be a trained parameter."""
    if dims.product(dims.of(parameter)) == 1:
        return node.op_type == "Add" and _is_one_channel_bias(parameter, node)
    tensor = ir.convenience.get_const_tensor(parameter)
    assert tensor is not None
    array = tensor.numpy()
    if not array.size or not np.isfinite(array).all():
        return False
    low, high = float(array.min()), float(array.max())
    match node.op_type:
        case "Mul":
            return (low, high) != (0, 1) or not _is_either(array, 0, 1)
        case "Concat":
            return not low == high == 0
        case _:
            shifts = low <= _DISCOURAGED and _is_either(array, 0, low)
            return low > _FORBIDDEN and not shifts


def _is_either(array: np.ndarray, first: float, second: float) -> bool:
    return bool(np.all((array == first) | (array == second)))


def _is_one_channel_bias(parameter: ir.Value, add: ir.Node) -> bool:
    """Whether it is added to a product with one output channel."""
    if not dims.of(parameter):
        return False  # a bias has an axis for its channel; a bare number is no bias
    for product in add.inputs:
        node = None if product is None else product.producer()
        if product is None or node is None or node.domain or node.op_type not in _PRODUCTS:
            continue
        shape = () if product.shape is None else product.shape.dims
        if len(shape) >= 2 and shape[_PRODUCTS[node.op_type]] == 1:
            return True
    return False


# -- what a caller names -----------------------------------------------------------------------


def variables(source: Source, names: Sequence[str] | None) -> list[ir.Value]:
    """The values that a caller names to differentiate in, each once, in the order named.

    Args:
      names: names of float inputs, parameters or values in between; globs ("conv*.weight", "*"),
        which match float inputs and every parameter (see `parameters`), not values in between;
        "params", the trainable parameters (see `trainable`). A value whose name is exactly what
        is given goes first, whatever it looks like. None means all float inputs; a bare string is
        one name.
    Raises:
      UsageError: an unknown name, one that is not a float tensor or has no rank, one that a
        body of control flow computes, a glob without a match, "params" where there is none, no
        names.
    Cost: linear in nodes; "params" reads the constants that could be masks.
    """
    if names is None:
        return _float_inputs(source)
    named = [names] if isinstance(names, str) else list(names)
    if not named:
        raise UsageError(
            "no variable is named; name float inputs or parameters, or leave the choice out for "
            "all float inputs"
        )
    every = {v.name: v for v in _values(source) if v.name}
    chosen: dict[ir.Value, None] = {}
    for name in named:
        if name in every:
            found = [_float_tensor(source, every[name])]
        elif name == PARAMS:
            found = _trainable_or_refusal(source)
        elif any(mark in name for mark in "*?["):
            found = _matching(source, name, every)
        else:
            raise UsageError(_unknown(source, name, every))
        chosen.update(dict.fromkeys(found))
    return [_ranked(v) for v in chosen]


def _values(source: Source) -> Iterator[ir.Value]:
    """Every value of the main graph."""
    yield from source.graph.inputs
    yield from source.graph.initializers.values()
    for node in source.graph:
        yield from node.outputs


def _is_float_tensor(value: ir.Value) -> bool:
    """Unlike `is_float`, not for a sequence of float tensors."""
    return is_float(value) and isinstance(value.type, ir.TensorType)


def _float_inputs(source: Source) -> list[ir.Value]:
    floats = [v for v in source.inputs if _is_float_tensor(v)]
    if not floats:
        inputs = ", ".join(f"{v.name} {_dtype(v)}" for v in source.inputs)
        message = f"the model has no float input to differentiate in (inputs: {inputs or 'none'})"
        if known := parameters(source):
            message += (
                f"; its parameters can be variables: name some of {_few(known)}, or say "
                f"{PARAMS!r} for the trainable ones"
            )
        raise UsageError(message)
    return [_ranked(v) for v in floats]


def _float_tensor(source: Source, value: ir.Value) -> ir.Value:
    if _is_float_tensor(value):
        return value
    if value.type is None:
        reason = "its dtype cannot be inferred"
    elif not isinstance(value.type, ir.TensorType):
        reason = "it is not a tensor"
    else:
        reason = f"its dtype is {_dtype(value)}, not a float"
    raise UsageError(f"cannot differentiate in {value.name!r}: {reason}; {_inputs(source)}")


def _ranked(value: ir.Value) -> ir.Value:
    if value.shape is None:
        node = value.producer()
        maker = f", which {node.op_type} (node {node.name!r}) computes," if node else ""
        raise UsageError(
            f"the rank of {value.name!r}{maker} cannot be inferred; name another value, or export "
            "the model with the shapes of its values"
        )
    return value


def _trainable_or_refusal(source: Source) -> list[ir.Value]:
    found = trainable(source)
    if found:
        return list(found.values())
    known = parameters(source)
    hint = f"name some of its float constants: {_few(known)}" if known else "it has no constant"
    raise UsageError(
        f"{PARAMS!r}: the model has no trainable parameter (weight, bias, scale, slope or "
        f"embedding); {hint}"
    )


def _matching(source: Source, pattern: str, every: dict[str, ir.Value]) -> list[ir.Value]:
    inputs = {v.name: v for v in source.inputs if v.name and _is_float_tensor(v)}
    known = {**inputs, **parameters(source)}
    found = [v for name, v in known.items() if fnmatch.fnmatchcase(name, pattern)]
    if found:
        return found
    others = [n for n in every if n not in known and fnmatch.fnmatchcase(n, pattern)]
    floats = [n for n in others if _is_float_tensor(every[n])]
    if floats:
        hint = f"it does match values in between, {_few(floats)}: give their names in full"
    elif others:
        hint = f"what it matches is no float tensor: {_few(others)}"
    else:
        hint = f"there are {_few(known)}" if known else "the model has none"
    raise UsageError(f"the pattern {pattern!r} matches no float input or parameter; {hint}")


def _unknown(source: Source, name: str, every: dict[str, ir.Value]) -> str:
    if shared := [n for n in every if n.endswith(tuple(f"{b}/{name}" for b in BRANCHES))]:
        return f"{name!r} is in several bodies of control flow; name one of them: {_few(shared)}"
    if (node := _holder(source, name)) is not None:
        return (
            f"{name!r} is inside a body of {node.op_type} (node {node.name!r}); what is computed "
            "there cannot be a variable. Name a value of the main graph, a constant of a branch, "
            "or export the model without that branch or loop"
        )
    floats = [n for n, v in every.items() if _is_float_tensor(v)]
    near = difflib.get_close_matches(name, floats, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else _inputs(source)
    return f"the model has no input {name!r}, and no parameter or inner value of that name; {hint}"


def _holder(source: Source, name: str) -> ir.Node | None:
    """The node of the main graph inside which a value has that name."""
    for node in source.graph:
        for body in _bodies(node):
            inner = (v for n in body.all_nodes() for v in n.outputs)
            initializers = (v for g in (body, *body.subgraphs()) for v in g.initializers.values())
            if any(v.name == name for v in (*body.inputs, *initializers, *inner)):
                return node
    return None


def _bodies(node: ir.Node) -> Iterator[ir.Graph]:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def _inputs(source: Source) -> str:
    floats = [v.name or "" for v in source.inputs if _is_float_tensor(v)]
    inputs = f"the float inputs: {_few(floats)}" if floats else "the model has no float input"
    known = parameters(source)
    return f"{inputs}; parameters: {_few(known)}" if known else inputs


def _few(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    shown = ", ".join(map(repr, listed[:most]))
    return shown if len(listed) <= most else f"{shown}, … ({len(listed)} in all)"


def _dtype(value: ir.Value) -> str:
    known = value.dtype is not None and value.dtype != ir.DataType.UNDEFINED
    return str(value.dtype.numpy()) if known and value.dtype is not None else "unknown"
