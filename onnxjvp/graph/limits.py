"""How much of a model is read before it is refused: files may come from anyone.

Every number here is far above what exporters write, and none of them is a property of ONNX. They
are checked on the message as it was parsed, before anything is made of it: what costs memory or
time later costs at least so many parts here. `allow` and the variable ONNXJVP_LIMITS raise them.
"""

from __future__ import annotations

import graphlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace

import onnx

from onnxjvp.errors import InvalidModelError, LimitError, UsageError

VARIABLE = "ONNXJVP_LIMITS"
_Id = tuple[str, str, str]


@dataclass(frozen=True)
class Limits:
    """Each field is a limit; `onnxjvp.graph.limits.allow(nodes=10**6)` raises one."""

    #: bytes of an .onnx file; protobuf has no larger messages
    file_bytes: int = (1 << 31) - 1
    #: nodes, once functions are inlined
    nodes: int = 100_000
    #: nodes, operands, attributes, tensors, descriptions of values: what takes memory by itself
    parts: int = 2_000_000
    #: graphs within graphs
    depth: int = 12
    #: axes of a tensor, as in NumPy
    rank: int = 64
    #: characters of a name
    name: int = 10_000
    #: characters of the expression that a symbolic size is; a longer one is an unknown size
    size: int = 400
    #: elements of a constant that is made of attributes and sizes, such as a kernel of ones
    constant: int = 1 << 26
    #: tensors in a sequence that a size decides
    pieces: int = 10_000
    #: rounds in which inferred sizes decide branches and sequences
    rounds: int = 100
    #: how often bodies of loops are read until their sizes settle
    turns: int = 2_000
    #: bytes of tensors in an external file, as a multiple of its size
    shared: int = 16
    #: bytes that the process may take; 0 is no limit
    memory: int = 0


def _from_environment() -> Limits:
    text = os.environ.get(VARIABLE, "")
    return replace(Limits(), **read(text.split(","), VARIABLE)) if text else Limits()


def read(texts: Iterable[str], where: str) -> dict[str, int]:
    """NAME=NUMBER, several times."""
    known = [field.name for field in fields(Limits)]
    found = {}
    for text in texts:
        name, _, number = text.strip().partition("=")
        if name not in known or not number.isdecimal():
            raise UsageError(
                f"{where}: {text!r} is not NAME=NUMBER with one of the limits {', '.join(known)}"
            )
        found[name] = int(number)
    return found


_allowed: ContextVar[Limits | None] = ContextVar("onnxjvp limits", default=None)
_process: list[Limits] = []


def current() -> Limits:
    """The limits that hold here.

    Raises:
      UsageError: ONNXJVP_LIMITS names no limit.
    """
    if (found := _allowed.get()) is not None:
        return found
    if not _process:
        _process.append(_from_environment())
    return _process[0]


@contextmanager
def allow(**more: int) -> Iterator[None]:
    """Other limits within a block: `with allow(nodes=1_000_000): jvp(path)`.

    Raises:
      TypeError: no limit has such a name.
    """
    token = _allowed.set(replace(current(), **more))
    try:
        yield
    finally:
        _allowed.reset(token)


def set_for_process(more: dict[str, int]) -> None:
    """Other limits from here on, in every thread."""
    _process[:] = [replace(current(), **more)]


def beyond(limit: str, found: int, what: str) -> LimitError:
    """The error for something that is beyond a limit."""
    most = getattr(current(), limit)
    return LimitError(
        f"{what}: {found:,} where at most {most:,} are read, since a file may be hostile. If you "
        f"trust it, allow more with {VARIABLE}={limit}={found}"
    )


def check_constant(elements: float, what: str) -> None:
    """Refuse to make a constant of so many elements of what a few numbers in a file say."""
    if elements > current().constant:
        raise beyond("constant", int(elements), f"the elements of {what}")
    check_memory(8 * elements, what)


def check_memory(size: float, what: str) -> None:
    """Refuse what would take more memory than the process may."""
    most = current().memory
    if most and size > most:
        raise LimitError(
            f"{what} takes {int(size) >> 20:,} MB, and the process may take {most >> 20:,} MB. "
            "Allow more with --max-memory"
        )


# -- the message -------------------------------------------------------------------------------


def check(proto: onnx.ModelProto, where: str) -> None:
    """Refuse a model that is too large, too deep or endless, before anything is made of it.

    Raises:
      LimitError: beyond a limit. InvalidModelError: functions that call themselves; tensors that
      no one can read; attributes that stand for those of a function, outside of one.
    Cost: linear in the size of the message without its weights.
    """
    counted = _Count(where)
    counted.add(len(proto.opset_import) + len(proto.metadata_props) + len(proto.functions))
    _check_imports(proto, where)
    main = counted.graph(proto.graph, 0, inside=False)
    bodies = dict[_Id, _Size]()
    for function in proto.functions:
        key = function.domain, function.name, function.overload
        if key in bodies:
            raise InvalidModelError(
                f"{where} has two functions {function.domain}::{function.name}, and nothing says "
                "which one is called. Export the model again, or repair it"
            )
        counted.add(len(function.input) + len(function.output) + len(function.value_info))
        for name in (*function.input, *function.output):
            counted.name(name)
        bodies[key] = counted.nodes(function.node, 0, inside=True)
    _check_inlined(main, bodies, where)


@dataclass
class _Size:
    """What a graph or a function holds."""

    nodes: int
    depth: int
    #: (operator, how deep) → how often it is there
    calls: dict[tuple[_Id, int], int]


class _Count:
    """Counts parts, and stops where there are too many."""

    def __init__(self, where: str) -> None:
        self.where, self.parts, self.limits = where, 0, current()

    def add(self, count: int) -> None:
        self.parts += count
        if self.parts > self.limits.parts:
            raise beyond("parts", self.parts, f"the parts of {self.where} (nodes, names, …)")

    def name(self, name: str) -> None:
        if len(name) > self.limits.name:
            raise beyond("name", len(name), f"characters of the name {name[:40]!r}…")

    def graph(self, graph: onnx.GraphProto, depth: int, *, inside: bool) -> _Size:
        if depth > self.limits.depth:
            raise beyond("depth", depth, f"graphs within graphs of {self.where}")
        self.add(len(graph.initializer) + len(graph.sparse_initializer))
        self.add(len(graph.input) + len(graph.output) + len(graph.value_info))
        self.add(len(graph.quantization_annotation))
        for tensor in graph.initializer:
            check_tensor(tensor, tensor.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.value(value)
        return self.nodes(graph.node, depth, inside=inside)

    def value(self, value: onnx.ValueInfoProto) -> None:
        self.name(value.name)
        rank = len(value.type.tensor_type.shape.dim)
        if rank > self.limits.rank:
            raise beyond("rank", rank, f"axes of {value.name!r}")
        for dim in value.type.tensor_type.shape.dim:
            self.name(dim.dim_param)
        self.add(rank)

    def nodes(self, nodes: Sequence[onnx.NodeProto], depth: int, *, inside: bool) -> _Size:
        """Args: inside: a function, whose nodes may take attributes from a call."""
        if len(nodes) > self.limits.nodes:
            raise beyond("nodes", len(nodes), f"nodes of {self.where}")
        found = _Size(0, depth, {})
        for node in nodes:
            found.nodes += 1
            key = (node.domain, node.op_type, node.overload), depth
            found.calls[key] = found.calls.get(key, 0) + 1
            self.add(1 + len(node.input) + len(node.output) + len(node.attribute))
            for name in (*node.input, *node.output, node.name):
                self.name(name)
            if len({attribute.name for attribute in node.attribute}) < len(node.attribute):
                raise InvalidModelError(
                    f"node {node.name!r} ({node.op_type}) has an attribute twice, and readers "
                    "differ in which one they take. Export the model again, or repair it"
                )
            for attribute in node.attribute:
                for inner in self.attribute(node, attribute, depth, inside=inside):
                    found.nodes += inner.nodes
                    found.depth = max(found.depth, inner.depth)
                    for call, count in inner.calls.items():
                        found.calls[call] = found.calls.get(call, 0) + count
        if found.nodes > self.limits.nodes:
            raise beyond("nodes", found.nodes, f"nodes of {self.where}")
        return found

    def attribute(
        self, node: onnx.NodeProto, attribute: onnx.AttributeProto, depth: int, *, inside: bool
    ) -> Iterator[_Size]:
        graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        label = f"attribute {attribute.name!r} of node {node.name!r} ({node.op_type})"
        if attribute.ref_attr_name and (not inside or attribute.type in graphs):
            raise InvalidModelError(
                f"{label} stands for {attribute.ref_attr_name!r} of a function, and there is none. "
                "Export the model again, or repair it"
            )
        if attribute.type == onnx.AttributeProto.UNDEFINED and not attribute.ref_attr_name:
            raise InvalidModelError(f"{label} has no type. Export the model again, or repair it")
        if attribute.type == onnx.AttributeProto.TENSOR and not attribute.ref_attr_name:
            check_tensor(attribute.t, f"{node.name}.{attribute.name}")
        for tensor in attribute.tensors:
            self.add(1)
            check_tensor(tensor, f"{node.name}.{attribute.name}")
        self.add(len(attribute.sparse_tensors) + len(attribute.type_protos))
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield self.graph(attribute.g, depth + 1, inside=inside)
        for graph in attribute.graphs:
            yield self.graph(graph, depth + 1, inside=inside)


def _check_imports(proto: onnx.ModelProto, where: str) -> None:
    """One version for each domain: readers differ in which of several they take."""
    found: dict[str, int] = {}
    for entry in proto.opset_import:
        domain = "" if entry.domain == "ai.onnx" else entry.domain
        if found.setdefault(domain, entry.version) != entry.version:
            raise InvalidModelError(
                f"{where} imports the operators of {entry.domain or 'ai.onnx'!r} in versions "
                f"{found[domain]} and {entry.version}. Export the model again, or repair it"
            )


def _check_inlined(main: _Size, bodies: dict[_Id, _Size], where: str) -> None:
    """Functions that call functions may be few and stand for any number of nodes."""
    calls = {
        key: {call for call, _ in body.calls if call in bodies} for key, body in bodies.items()
    }
    try:
        order = list(graphlib.TopologicalSorter(calls).static_order())
    except graphlib.CycleError as error:
        names = " → ".join(f"{domain}::{name}" for domain, name, _ in error.args[1][:6])
        raise InvalidModelError(
            f"{where} has functions that call themselves ({names}), which no one can inline. "
            "Export the model again, or repair it"
        ) from error
    whole = dict[_Id, tuple[int, int]]()
    for key, body in [*((key, bodies[key]) for key in order), (None, main)]:
        nodes, depth = body.nodes, body.depth
        for (call, at), count in body.calls.items():
            if call in whole:
                nodes += count * whole[call][0]
                depth = max(depth, at + whole[call][1])
        if key is not None:
            whole[key] = nodes, depth
            continue
        if nodes > current().nodes:
            raise beyond("nodes", nodes, f"nodes of {where} once its functions are inlined")
        if depth > current().depth:
            raise beyond("depth", depth, f"graphs within graphs of {where}, functions inlined")


# -- tensors -----------------------------------------------------------------------------------

_TYPED: dict[int, tuple[str, int]] = {
    onnx.TensorProto.FLOAT: ("float_data", 1),
    onnx.TensorProto.COMPLEX64: ("float_data", 2),
    onnx.TensorProto.DOUBLE: ("double_data", 1),
    onnx.TensorProto.COMPLEX128: ("double_data", 2),
    onnx.TensorProto.INT64: ("int64_data", 1),
    onnx.TensorProto.UINT32: ("uint64_data", 1),
    onnx.TensorProto.UINT64: ("uint64_data", 1),
    onnx.TensorProto.STRING: ("string_data", 1),
}
_DTYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}
#: several in one element of int32_data
_PACKED = frozenset(_DTYPES) - {*_TYPED, *range(onnx.TensorProto.UINT4)}
_LISTS = ("float_data", "double_data", "int64_data", "uint64_data", "int32_data", "string_data")


def check_tensor(tensor: onnx.TensorProto, name: str) -> None:
    """Refuse a tensor of no known type, of sizes that cannot be, or with other than its elements.

    Raw and external data are measured where their bytes are read.
    """
    if tensor.data_type not in _DTYPES:
        raise InvalidModelError(
            f"tensor {name!r} has the data type {tensor.data_type}, which ONNX does not have. "
            "Export the model again, or install a newer onnx"
        )
    if len(tensor.dims) > current().rank:
        raise beyond("rank", len(tensor.dims), f"axes of tensor {name!r}")
    # no zero may hide that the others are too large: NumPy multiplies those
    if any(d < 0 for d in tensor.dims) or math.prod(d for d in tensor.dims if d) >= 1 << 56:
        raise InvalidModelError(
            f"tensor {name!r} has the sizes {list(tensor.dims)}, which no tensor can have. Export "
            "the model again, or repair it"
        )
    if tensor.HasField("segment"):
        raise InvalidModelError(
            f"tensor {name!r} is stored in segments, which nothing reads. Export the model again"
        )
    elements = math.prod(tensor.dims)
    whole = tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.HasField("raw_data")
    if tensor.data_type == onnx.TensorProto.STRING and whole:
        raise InvalidModelError(
            f"tensor {name!r} holds strings as raw or external data, which ONNX does not have. "
            "Export the model again"
        )
    field, each = "int32_data", 1
    if tensor.data_type in _TYPED:
        field, each = _TYPED[tensor.data_type]
    for listed in _LISTS:
        count = len(getattr(tensor, listed))
        most = 0 if whole or listed != field else each * elements
        least = -(-most // 4) if tensor.data_type in _PACKED else most
        if not least <= count <= most:
            raise InvalidModelError(
                f"tensor {name!r} is damaged: {count} elements of {listed} are no tensor of sizes "
                f"{list(tensor.dims)} and data type {tensor.data_type}. Fetch or export the model "
                "again"
            )
