"""What a model takes and gives, as servers are told it; and the files that it consists of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.graph import dims
from onnxjvp.graph.files import parse
from onnxjvp.graph.load import Source, load
from onnxjvp.serving.rows import Separable, separable

#: the Open Inference Protocol's names of element types; Triton says TYPE_ before them
DATATYPES: Mapping[ir.DataType, str] = {
    ir.DataType.BOOL: "BOOL",
    ir.DataType.FLOAT16: "FP16",
    ir.DataType.FLOAT: "FP32",
    ir.DataType.DOUBLE: "FP64",
    ir.DataType.STRING: "BYTES",
    **{
        ir.DataType[f"{sign}INT{n}"]: f"{sign}INT{n}" for sign in ("", "U") for n in (8, 16, 32, 64)
    },
}

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Tensor:
    """An input or output: a dimension is a size, or the name of one; None has no name."""

    name: str
    datatype: str
    shape: tuple[int | str | None, ...]

    def sizes(self) -> list[int]:
        """The dimensions with -1 for what varies."""
        return [dim if isinstance(dim, int) else -1 for dim in self.shape]


@dataclass(frozen=True)
class Interface:
    """A model's ends, and whether its samples are independent."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    rows: Separable


def interface(path: Path, *, links: Path | None = None) -> Interface:
    """Read a model's ends.

    Raises:
      UsageError: no such file. InvalidModelError: it is no valid model, or has an input or output
      that servers have no type or name for; all of them are listed.
    """
    source = load(path, links=links)
    problems: list[str] = []
    inputs = tuple(_tensors(source, "input", source.inputs, problems))
    outputs = tuple(_tensors(source, "output", source.graph.outputs, problems))
    if problems:
        raise InvalidModelError(f"{str(path)!r} cannot be served: {'; '.join(problems)}")
    return Interface(inputs, outputs, separable(source))


def _tensors(
    source: Source, role: str, values: Sequence[ir.Value], problems: list[str]
) -> Iterator[Tensor]:
    for value in values:
        name, shown = value.name or "", f"{role} {value.name!r}"
        if not name or not name.isprintable():
            problems.append(f"{shown} has characters that requests cannot name; rename it")
        dtype = value.dtype
        datatype = DATATYPES.get(dtype) if isinstance(value.type, ir.TensorType) and dtype else None
        if datatype is None:
            what = value.type if dtype is None else dtype.name
            problems.append(
                f"{shown} is {what}, which servers of ONNX models have no type for; add a Cast, "
                "so that it is a tensor of float16, float32, float64, integers, booleans or strings"
            )
            continue
        shape = source.declared.get(name) or value.shape
        if shape is None:
            problems.append(f"{shown} has no rank; export the model with shapes")
            continue
        yield Tensor(name, datatype, tuple(map(_dim, shape)))


def _dim(dim: dims.Dim) -> int | str | None:
    if isinstance(dim, int):
        return dim
    name = dim.value
    return None if name is None or name.startswith("?") else name


def named(name: str | None, path: Path) -> str:
    """The model's name on the server.

    Raises:
      UsageError: one that is no folder, or cannot stand in a URL as it is.
    """
    chosen = path.stem if name is None else name
    if not _NAME.fullmatch(chosen):
        raise UsageError(
            f"{chosen!r} cannot be the name of a served model, which is a folder and part of a "
            "URL: letters, digits, '_', '-' and '.', the first a letter or digit, at most 128. "
            "Give another one with --name"
        )
    return chosen


def parts(path: Path) -> dict[str, Path]:
    """The files of a model: where each has to lie beside the model → where it lies now.

    The model is called model.onnx. Its external data has been checked by `interface`.
    """
    found = {"model.onnx": path}
    for tensor in _external(ir.from_proto(parse(path))):
        location = str(tensor.location)
        if location in found:
            if location == "model.onnx":
                raise UsageError(
                    f"{str(path)!r} keeps weights in a file called 'model.onnx', the name that the "
                    "model has on a server; save it with external data of another name"
                )
            continue
        found[location] = path.resolve().parent / location
    return found


def _external(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    graphs = [*model.graphs(), *(g for f in model.functions.values() for g in f.subgraphs())]
    nodes = [n for g in graphs for n in g] + [n for f in model.functions.values() for n in f]
    for graph in graphs:
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
    for node in nodes:
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.TENSOR and not attribute.is_ref():
                tensor = attribute.as_tensor()
                if isinstance(tensor, ir.ExternalTensor):
                    yield tensor
