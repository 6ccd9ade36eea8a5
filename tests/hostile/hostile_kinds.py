"""The table of hostile files, and what its functions are written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

HUGE = 1 << 40

#: a file of one kind is written into a folder, or given as a model or its bytes
Written = onnx.ModelProto | bytes | None
Writer = Callable[[Path], Written]


@dataclass(frozen=True)
class Kind:
    write: Writer
    #: what has to come of it: "refused", "read", or None where either is right
    expected: str | None
    #: commands that are not run on it, since it is theirs to do what the model says
    without: tuple[str, ...]
    #: words of the error
    words: tuple[str, ...]


KINDS: dict[str, Kind] = {}


def kind(
    expected: str | None = "refused", *words: str, without: tuple[str, ...] = ()
) -> Callable[[Writer], Writer]:
    """Register a function under its name."""

    def register(write: Writer) -> Writer:
        name = write.__name__
        assert name not in KINDS, name
        KINDS[name] = Kind(write, expected, without, words)
        return write

    return register


def write_all(folder: Path) -> None:
    """A folder for every kind, with m.onnx in it."""
    for name, each in KINDS.items():
        home = folder / name
        home.mkdir()
        made = each.write(home)
        if isinstance(made, onnx.ModelProto):
            made = made.SerializeToString()
        if made is not None:
            (home / "m.onnx").write_bytes(made)


# -- models ------------------------------------------------------------------------------------

value = helper.make_tensor_value_info
node = helper.make_node


def ints(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def floats(name: str, *numbers: float) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers, np.float32), name)


def model(
    nodes: Sequence[onnx.NodeProto],
    *,
    x: Sequence[Any] | None = (2, 3),
    y: Sequence[Any] | None = None,
    constants: Sequence[onnx.TensorProto] = (),
    inputs: Sequence[onnx.ValueInfoProto] = (),
    functions: Sequence[onnx.FunctionProto] = (),
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """From x to y, both float32; y has no shape unless it is given."""
    first = [] if x is None else [value("x", 1, x)]
    graph = helper.make_graph(
        nodes, "hostile", [*first, *inputs], [value("y", 1, y or ["a", "b"])], list(constants)
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8, functions=list(functions))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, content: bytes) -> bytes:
    """A field of a message whose wire type is 2: length, then bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


#: numbers of fields
GRAPH, FUNCTIONS, OPSETS, METADATA = 7, 25, 8, 14
NODE, INITIALIZER, INPUT, VALUE_INFO = 1, 5, 11, 13


def with_graph(more: bytes) -> bytes:
    """A valid model whose graph has more fields; a message may come in several parts."""
    return model([node("Relu", ["x"], ["y"])]).SerializeToString() + field(GRAPH, more)
