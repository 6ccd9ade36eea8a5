"""Mutations of a valid ModelProto that leave it a protobuf: operators, attributes, sizes, edges.

A mutation picks a message or a field anywhere in the model and changes it by its type: an integer
becomes one that breaks things, a name another one of the model, a message another of its kind from
this model or a donor. What comes out is mostly a model that a parser takes and a checker has to
judge, which bytes changed at random seldom are.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

INTEGERS = (
    *(0, 1, -1, 2, 3, 4, 7, 8, 13, 16, 17, 18, 21, 64, 65, 100, 1000, 1 << 16, 1 << 20, 1 << 31),
    *(-(1 << 31), (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 62) + 1, (1 << 63) - 1, -(1 << 63)),
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-9, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"))
WORDS = (
    *("", "N", "x", "y", "?", "?1", "N + 1", "N*M", "N // 2", "a**b", "9**9**9**9", "-N", "1/0"),
    *("(((((((((N)))))))))", "max(N, 2)", "../w.bin", "/dev/zero", "w.bin", "SAME_UPPER", "VALID"),
    *("NOTSET", "linear", "nearest", "cubic", "ij,jk->ik", "...i->i", "ii", "->", "DCR", "mean"),
    *("bidirectional", "reverse", "constant", "reflect", "edge", "wrap", "Relu", "Affine", "Tanh"),
    *("ai.onnx.ml", "com.microsoft", "ai.onnx", "local", "location", "offset", "length", "x" * 300),
    *("%s%n", "\x1b[31m", "\u202e", "a/b", "*", "params", "x_u", "y_jvp"),
)
_SIGNED = (FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64)
_REAL = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
_OPERATORS = sorted({s.name for s in onnx.defs.get_all_schemas()})
_DOMAINS = ("", "", "", "ai.onnx.ml", "com.microsoft", "local")
#: longest list that a mutation makes
_LONGEST = 64


def mutated(data: bytes, most: int, seed: int, donors: list[bytes]) -> bytes | None:
    """A mutation of a serialised model, or None where it is no model or would be too large."""
    rng = random.Random(seed)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        if not donors:
            return None
        model.ParseFromString(rng.choice(donors))
    mutation = Mutation(model, rng, donors)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        mutation.step()
    made = model.SerializeToString()
    return made if len(made) <= most else None


class Mutation:
    """Steps on one model."""

    def __init__(self, model: onnx.ModelProto, rng: random.Random, donors: list[bytes]) -> None:
        self.model, self.rng, self.donors = model, rng, donors

    def step(self) -> None:
        every = list(_messages(self.model))
        steps: list[tuple[int, Callable[[list[Message]], None]]] = [
            *((6, self._field), (3, self._edge), (2, self._operator), (2, self._size)),
            *((2, self._replace), (2, self._list), (1, self._wrap), (1, self._call)),
            *((1, self._versions), (1, self._content)),
        ]
        (chosen,) = self.rng.choices([s for _, s in steps], [w for w, _ in steps])
        with contextlib.suppress(ValueError, TypeError):  # a number that the field cannot hold
            chosen(every)

    # -- any field -----------------------------------------------------------------------------

    def _field(self, every: list[Message]) -> None:
        message = self.rng.choice(every)
        field = self.rng.choice(message.DESCRIPTOR.fields)
        if field.is_repeated:
            values = getattr(message, field.name)
            if field.message_type is not None:
                if self.rng.random() < 0.3:
                    values.add()
                elif len(values):
                    del values[self.rng.randrange(len(values))]
            elif len(values) and self.rng.random() < 0.7:
                values[self.rng.randrange(len(values))] = self._scalar(field)
            else:
                values.append(self._scalar(field))
        elif field.message_type is None:
            if self.rng.random() < 0.2:
                message.ClearField(field.name)
            else:
                setattr(message, field.name, self._scalar(field))
        elif self.rng.random() < 0.5:
            message.ClearField(field.name)
        else:
            getattr(message, field.name).SetInParent()

    def _scalar(self, field: FieldDescriptor) -> Any:
        if field.enum_type is not None:
            return self.rng.choice(field.enum_type.values).number
        if field.cpp_type in _SIGNED:
            return self._integer()
        if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64:
            return abs(self._integer())
        if field.cpp_type in _REAL:
            return self.rng.choice(FLOATS)
        if field.type == FieldDescriptor.TYPE_BYTES:
            word = self._word().encode("utf-8", "replace")
            return word if self.rng.random() < 0.8 else self.rng.randbytes(self.rng.randrange(40))
        return self._word()

    def _integer(self) -> int:
        if self.rng.random() < 0.5:
            return self.rng.randrange(-3, 9)
        return self.rng.choice(INTEGERS)

    def _word(self) -> str:
        names = self._names()
        return (
            self.rng.choice(names) if names and self.rng.random() < 0.5 else self.rng.choice(WORDS)
        )

    def _names(self) -> list[str]:
        graph = self.model.graph
        return [
            *(v.name for v in (*graph.input, *graph.output, *graph.initializer)),
            *(name for node in graph.node for name in (*node.input, *node.output)),
        ]

    # -- what only a graph has -----------------------------------------------------------------

    def _edge(self, every: list[Message]) -> None:
        nodes = [m for m in every if isinstance(m, onnx.NodeProto)]
        if not nodes:
            return
        node = self.rng.choice(nodes)
        match self.rng.randrange(6):
            case 0:
                node.input.append(self._word())
            case 1 if node.input:
                del node.input[-1]
            case 2 if len(node.output) > 1:
                del node.output[-1]
            case 3:
                node.output.append(f"{node.op_type}_{self.rng.randrange(100)}")
            case _ if node.input:
                node.input[self.rng.randrange(len(node.input))] = self._word()

    def _operator(self, every: list[Message]) -> None:
        nodes = [m for m in every if isinstance(m, onnx.NodeProto)]
        if not nodes:
            return
        node = self.rng.choice(nodes)
        node.op_type = self.rng.choice(_OPERATORS)
        node.domain = self.rng.choice(_DOMAINS)
        if self.rng.random() < 0.6:
            del node.attribute[:]

    def _size(self, every: list[Message]) -> None:
        shapes = [m for m in every if isinstance(m, onnx.TensorShapeProto)]
        if not shapes:
            return
        shape = self.rng.choice(shapes)
        if shape.dim and self.rng.random() < 0.8:
            dim = self.rng.choice(shape.dim)
        else:
            dim = shape.dim.add()
        if self.rng.random() < 0.3:
            dim.dim_param = self.rng.choice(WORDS)
        else:
            dim.dim_value = self._integer()

    def _replace(self, every: list[Message]) -> None:
        """A message becomes another of its kind, of this model or of a donor."""
        target = self.rng.choice(every)
        pool = every
        if self.donors and self.rng.random() < 0.6:
            donor = onnx.ModelProto()
            donor.ParseFromString(self.rng.choice(self.donors))
            pool = list(_messages(donor))
        twins = [m for m in pool if m.DESCRIPTOR is target.DESCRIPTOR and m is not target]
        if twins:
            copied = type(target)()
            copied.CopyFrom(self.rng.choice(twins))
            target.CopyFrom(copied)

    def _list(self, every: list[Message]) -> None:
        """Elements of a list doubled, moved, or brought over from a donor."""
        message = self.rng.choice(every)
        lists = [f for f, _ in message.ListFields() if f.is_repeated and f.message_type is not None]
        if not lists:
            return
        values = getattr(message, self.rng.choice(lists).name)
        kept = list(values)
        match self.rng.randrange(4):
            case 0:
                self.rng.shuffle(kept)
            case 1:
                kept += kept[: _LONGEST - len(kept)]
            case 2 if self.donors and isinstance(message, onnx.GraphProto):
                donor = onnx.ModelProto()
                donor.ParseFromString(self.rng.choice(self.donors))
                message.node.extend(donor.graph.node)
                message.initializer.extend(donor.graph.initializer)
                message.input.extend(donor.graph.input)
                return
            case _:
                kept.insert(self.rng.randrange(len(kept) + 1), self.rng.choice(kept))
        copies = [type(m).FromString(m.SerializeToString()) for m in kept]
        del values[:]
        values.extend(copies)

    def _wrap(self, every: list[Message]) -> None:
        """A node goes into the bodies of an If, or a body of a Loop or Scan."""
        graphs = [m for m in every if isinstance(m, onnx.GraphProto) and m.node]
        if not graphs:
            return
        graph = self.rng.choice(graphs)
        at = self.rng.randrange(len(graph.node))
        inner = onnx.NodeProto.FromString(graph.node[at].SerializeToString())
        body = onnx.GraphProto(name="body", node=[inner])
        body.output.extend(onnx.ValueInfoProto(name=name) for name in inner.output)
        kind = self.rng.choice(("If", "Loop", "Scan"))
        outer = onnx.NodeProto(op_type=kind, output=inner.output)
        outer.input.append(self._word())
        names = ("then_branch", "else_branch") if kind == "If" else ("body",)
        if kind == "Loop":
            body.input.extend(onnx.ValueInfoProto(name=n) for n in ("turn", "more"))
            body.output.insert(0, onnx.ValueInfoProto(name="more"))
            outer.input.append("")
        elif kind == "Scan":
            body.input.extend(onnx.ValueInfoProto(name=n) for n in inner.input[:1])
            outer.attribute.append(onnx.helper.make_attribute("num_scan_inputs", 1))
        outer.attribute.extend(onnx.helper.make_attribute(n, body) for n in names)
        graph.node[at].CopyFrom(outer)

    def _call(self, every: list[Message]) -> None:
        """A node becomes a call of a function that holds it, or that calls another."""
        graphs = [m for m in every if isinstance(m, onnx.GraphProto) and m.node]
        if not graphs:
            return
        node = self.rng.choice(self.rng.choice(graphs).node)
        name = f"f{self.rng.randrange(4)}"
        inner = onnx.NodeProto.FromString(node.SerializeToString())
        function = onnx.FunctionProto(
            name=name, domain="local", input=node.input, output=node.output, node=[inner]
        )
        function.opset_import.extend(self.model.opset_import)
        function.opset_import.append(onnx.helper.make_opsetid("local", 1))
        self.model.functions.append(function)
        self.model.opset_import.append(onnx.helper.make_opsetid("local", 1))
        node.op_type, node.domain = f"f{self.rng.randrange(4)}", "local"
        if self.rng.random() < 0.5:
            del node.attribute[:]

    def _versions(self, every: list[Message]) -> None:
        if self.model.opset_import and self.rng.random() < 0.9:
            entry = self.rng.choice(self.model.opset_import)
            entry.version = self.rng.choice((*range(1, 28), 0, -1, 1 << 40))
        else:
            self.model.ir_version = self.rng.choice((*range(1, 15), 0, -1, 1 << 40))

    def _content(self, every: list[Message]) -> None:
        """The numbers of a small tensor, such as a shape."""
        tensors = [m for m in every if isinstance(m, onnx.TensorProto)]
        if not tensors:
            return
        tensor = self.rng.choice(tensors)
        if self.rng.random() < 0.3:
            tensor.data_type = self.rng.randrange(0, 26)
            return
        if self.rng.random() < 0.3 and tensor.dims:
            tensor.dims[self.rng.randrange(len(tensor.dims))] = self._integer()
            return
        raw = bytearray(tensor.raw_data)
        if len(raw) < 8:
            raw = bytearray(8)
        at = self.rng.randrange(len(raw) // 8) * 8
        raw[at : at + 8] = (self._integer() & (1 << 64) - 1).to_bytes(8, "little")
        tensor.raw_data = bytes(raw)


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for inner in value if field.is_repeated else (value,):
            yield from _messages(inner)
