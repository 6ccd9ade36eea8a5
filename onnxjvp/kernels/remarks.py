"""What a reader of a kernel should know: where a file's parameters are not those of the training.

A kernel is over the constants of a file. Exporters fold, copy and merge them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from onnxjvp.graph.load import Source
from onnxjvp.graph.parameters import parameters
from onnxjvp.graph.regions import captured
from onnxjvp.runtime import Array

#: operands that are weights
_WEIGHTS: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm"), (1,)),
    **{"MatMul": (0, 1), "RNN": (1, 2), "GRU": (1, 2), "LSTM": (1, 2)},
}
#: names that a remark lists
_FEW = 4


def remarks(source: Source, used: Sequence[str], *, chosen: bool) -> Iterator[str]:
    """Sentences about parameters that a training framework may count otherwise.

    Args:
      used: names of the kernel's parameters.
      chosen: whether the caller has named them, and so knows what is left out.
    Cost: linear in nodes; parameters of equal sizes are read.
    """
    known = parameters(source)
    if not chosen:
        yield from _left_out(source, used, known)
    taken = {name: known[name] for name in used}
    yield from _copied(taken)
    yield from _merged(source, taken)


def _left_out(source: Source, used: Sequence[str], known: Mapping[str, ir.Value]) -> Iterator[str]:
    """Constants that weights are computed from (weight normalisation), and that are not chosen."""
    made: dict[ir.Value, set[str]] = {v: {name} for name, v in known.items()}
    fixed = set(source.graph.initializers.values())
    missing: dict[str, None] = {}
    for node in source.graph:
        operands = [v for v in (*node.inputs, *captured(node)) if v is not None]
        if all(v in fixed for v in operands) and not node.op_type.startswith("Random"):
            fixed.update(node.outputs)
            if node.op_type != "Constant":
                # the scale of a quantised weight is not what the weight is made of
                read = operands[:1] if node.op_type == "DequantizeLinear" else operands
                found = set[str]().union(*(made.get(v, ()) for v in read))
                made.update((v, found) for v in node.outputs)
            continue
        for i in _WEIGHTS.get(node.op_type, ()) if not node.domain else ():
            value = node.inputs[i] if i < len(node.inputs) else None
            if value is not None and value in fixed and not value.is_initializer():
                missing.update(dict.fromkeys(sorted(made.get(value, set()) - set(used))))
    several = [name for name in missing if _size(known[name]) > 1]
    if several:
        yield (
            f"weights are computed from {_listed(several)} (as weight normalisation does), which "
            "are left out: name them with --params (params=…) if they are trained"
        )


def _copied(used: Mapping[str, ir.Value]) -> Iterator[str]:
    """Parameters with the same numbers as another one, as exporters write a weight used twice."""
    alike: dict[tuple[object, ...], list[tuple[str, Array]]] = {}
    sizes: dict[tuple[object, ...], list[str]] = {}
    for name, value in used.items():
        if _size(value) > 1:
            sizes.setdefault((value.dtype, *sorted(_shape(value))), []).append(name)
    for names in sizes.values():
        for name in names if len(names) > 1 else ():
            tensor = ir.convenience.get_const_tensor(used[name])
            array = None if tensor is None else tensor.numpy()
            if array is not None and (low := array.min()) != (high := array.max()):
                key = (*sorted(array.shape), float(low), float(high))
                alike.setdefault(key, []).append((name, array))
    pairs = [
        f"{name!r} and {other!r}"
        for group in alike.values()
        for i, (name, array) in enumerate(group)
        for other, also in group[i + 1 :]
        if np.array_equal(array, also) or np.array_equal(array, also.T)
    ]
    if pairs:
        yield (
            f"{_listed(pairs, quoted=False)} hold the same numbers (one may be the other "
            "transposed): if they were one weight in training, the file has made two of it, and "
            "their cross terms are missing. Export without constant folding (torch: "
            "do_constant_folding=False, or optimize=False with dynamo)"
        )


def _merged(source: Source, used: Mapping[str, ir.Value]) -> Iterator[str]:
    """Parameters of one number throughout that several nodes read: exporters merge equal ones."""
    named = {value: name for name, value in used.items()}
    readers: dict[str, int] = {}
    for node in source.graph:
        for value in {v for v in (*node.inputs, *captured(node)) if v in named}:
            name = named[value]
            if node.op_type == "Identity":
                named[node.outputs[0]] = name
            else:
                readers[name] = readers.get(name, 0) + 1
    found = [
        name
        for name, count in readers.items()
        if count > 1 and _size(used[name]) > 1 and _is_level(used[name])
    ]
    if found:
        yield (
            f"{_listed(found)} hold one number throughout and are read in several places, as where "
            "an exporter has kept one of several equal constants (biases of zeros, a scale and a "
            "variance of ones): the kernel takes all uses for those of one parameter"
        )


def _is_level(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    array = None if tensor is None else tensor.numpy()
    return array is not None and bool(array.min() == array.max())


def _listed(names: Sequence[str], *, quoted: bool = True) -> str:
    shown = [repr(name) if quoted else name for name in names[:_FEW]]
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(shown) + more


def _shape(value: ir.Value) -> tuple[int, ...]:
    return () if value.shape is None else tuple(int(dim) for dim in value.shape.numpy())


def _size(value: ir.Value) -> int:
    return int(np.prod(_shape(value), dtype=np.int64))
