"""Write a model file with its weights streamed in, never held twice.

The protobuf library builds a whole message in memory, and then its bytes: a 100 MB model takes
300 MB more to save. Here the library encodes everything but the large initialisers, and these go
straight from where they lie into the file, as the fields of the graph message that they are.
"""

from __future__ import annotations

from typing import BinaryIO

import onnx
import onnx_ir as ir

#: initialisers of at least this many bytes are streamed
STREAMED_FROM = 4096


def stream(model: ir.Model, file: BinaryIO) -> None:
    """Write the .onnx file. Memory: the size of the graph without its weights.

    Source: the protobuf encoding; an embedded message is a tag, its length, and its fields.
    """
    bare = model.clone()
    large: list[tuple[str, ir.TensorProtocol]] = []
    for name, value in list(bare.graph.initializers.items()):
        tensor = value.const_value
        if tensor is None or isinstance(tensor, ir.ExternalTensor | ir.StringTensor):
            continue
        if tensor.nbytes >= STREAMED_FROM:
            large.append((name, tensor))
            del bare.graph.initializers[name]
    heads = [_head(name, tensor) for name, tensor in large]
    proto = ir.to_proto(bare)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    file.write(proto.SerializeToString())
    size = len(graph) + sum(len(h) + t.nbytes for h, (_, t) in zip(heads, large, strict=True))
    file.write(_field(onnx.ModelProto, "graph") + _varint(size) + graph)
    for head, (_, tensor) in zip(heads, large, strict=True):
        file.write(head)
        file.write(tensor.tobytes())


def _head(name: str, tensor: ir.TensorProtocol) -> bytes:
    """All of an initialiser up to its raw data."""
    about = onnx.TensorProto(
        name=name,
        data_type=int(tensor.dtype),
        dims=tensor.shape.numpy(),
        doc_string=tensor.doc_string or "",
    ).SerializeToString()
    data = _field(onnx.TensorProto, "raw_data") + _varint(tensor.nbytes)
    size = len(about) + len(data) + tensor.nbytes
    return _field(onnx.GraphProto, "initializer") + _varint(size) + about + data


def _field(message: type[onnx.ModelProto | onnx.GraphProto | onnx.TensorProto], name: str) -> bytes:
    """The tag of a field that is length-delimited (wire type 2)."""
    return _varint(message.DESCRIPTOR.fields_by_name[name].number << 3 | 2)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the least significant first; the top bit says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
