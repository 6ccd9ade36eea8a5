"""Hostile protobuf messages."""

from __future__ import annotations

from pathlib import Path

import onnx
from hostile_kinds import (
    FUNCTIONS,
    GRAPH,
    INITIALIZER,
    METADATA,
    NODE,
    OPSETS,
    VALUE_INFO,
    field,
    kind,
    model,
    node,
    value,
    varint,
    with_graph,
)
from onnx import helper

MANY = 420_000


def relu() -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"], "relu")], y=[2, 3])


# -- bytes -------------------------------------------------------------------------------------


@kind()
def empty_file(_: Path) -> bytes:
    return b""


@kind()
def random_bytes(_: Path) -> bytes:
    return bytes((i * 167 + i // 7) % 256 for i in range(5000))


@kind()
def groups_within_groups(_: Path) -> bytes:
    return b"\x0b" * 200_000


@kind()
def graphs_within_graphs_of_bytes(_: Path) -> bytes:
    """Beyond what protobuf parses."""
    inner = b""
    for _level in range(3000):
        inner = field(NODE, field(5, field(6, inner)))
    return field(GRAPH, inner)


@kind()
def a_length_beyond_the_file(_: Path) -> bytes:
    return relu().SerializeToString()[:-3] + varint(GRAPH << 3 | 2) + varint(1 << 31)


@kind()
def a_number_without_end(_: Path) -> bytes:
    return b"\x08" + b"\xff" * 100_000


@kind()
def names_that_are_not_utf8(_: Path) -> bytes:
    return relu().SerializeToString().replace(b"relu", b"\xff\xfe\x80\x81")


@kind(None)
def a_graph_in_two_parts(_: Path) -> bytes:
    made = relu().SerializeToString()
    return made + field(GRAPH, field(NODE, node("Neg", ["y"], ["z"]).SerializeToString()))


@kind("refused", "holds no graph")
def no_graph(_: Path) -> bytes:
    made = relu()
    made.ClearField("graph")
    return made.SerializeToString()


# -- many of what takes no bytes ---------------------------------------------------------------


@kind()
def nodes_without_anything(_: Path) -> bytes:
    return with_graph(field(NODE, b"") * MANY)


@kind()
def tensors_without_anything(_: Path) -> bytes:
    return with_graph(field(INITIALIZER, b"") * MANY)


@kind()
def descriptions_without_anything(_: Path) -> bytes:
    return with_graph(field(VALUE_INFO, b"") * (5 * MANY))


@kind()
def operands_without_names(_: Path) -> bytes:
    return with_graph(field(NODE, field(1, b"") * (5 * MANY)))


@kind()
def results_without_names(_: Path) -> bytes:
    return with_graph(field(NODE, field(2, b"") * (5 * MANY)))


@kind()
def attributes_without_anything(_: Path) -> bytes:
    return with_graph(field(NODE, field(5, b"") * (5 * MANY)))


@kind()
def tensors_of_many_axes(_: Path) -> bytes:
    return with_graph(field(INITIALIZER, (b"\x08\x01" * MANY) + b"\x10\x01\x42\x01t"))


@kind()
def opsets_without_end(_: Path) -> bytes:
    return relu().SerializeToString() + field(OPSETS, b"") * (5 * MANY)


@kind()
def functions_without_anything(_: Path) -> bytes:
    return relu().SerializeToString() + field(FUNCTIONS, b"") * (5 * MANY)


@kind(None)
def metadata_without_end(_: Path) -> bytes:
    return relu().SerializeToString() + field(METADATA, b"") * MANY


@kind(None)
def numbers_in_an_attribute(_: Path) -> bytes:
    """2 bytes each in the file, 40 in Python."""
    numbers = field(1, b"perm") + b"\x40\x01" * (2 * MANY) + b"\xa0\x01\x07"
    made = field(1, b"x") + field(2, b"y2") + field(4, b"Transpose") + field(5, numbers)
    return with_graph(field(NODE, made))


@kind("refused", "axes")
def a_shape_of_many_axes(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], x=[1] * 10_000)


# -- names -------------------------------------------------------------------------------------


@kind("refused", "name")
def a_name_of_a_megabyte(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"], "n" * (1 << 20))])


@kind("refused")
def a_name_that_controls_the_terminal(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["\x1b[2J\x1b]0;owned\x07"], ["y"], "\x1b[31m\r\n\x00")])


@kind("read")
def names_that_are_paths(_: Path) -> onnx.ModelProto:
    made = model([node("Relu", ["../../x"], ["/etc/y"], "../../../n")], x=None)
    made.graph.input.append(value("../../x", 1, [2, 3]))
    made.graph.output[0].CopyFrom(value("/etc/y", 1, [2, 3]))
    return made


# -- versions, metadata ------------------------------------------------------------------------


@kind()
def an_opset_of_the_future(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], opset=1 << 40)


@kind()
def a_negative_opset(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], opset=-(1 << 60))


@kind()
def no_opset(_: Path) -> onnx.ModelProto:
    made = relu()
    del made.opset_import[:]
    return made


@kind(None)
def an_ir_version_of_the_future(_: Path) -> onnx.ModelProto:
    made = relu()
    made.ir_version = 1 << 40
    return made


@kind("read")
def metadata_nested_deeply(_: Path) -> onnx.ModelProto:
    made = relu()
    helper.set_model_props(made, {"onnxjvp": "[" * 200_000, "onnxjvp.held": "[" * 200_000})
    return made


@kind("read")
def metadata_of_other_types(_: Path) -> onnx.ModelProto:
    made = relu()
    cards = '{"check": 5, "source": [1], "names": {"seeds": 3}, "before": {"check": []}}'
    helper.set_model_props(made, {"onnxjvp": cards, "onnxjvp.held": '{"a": [1, {}]}'})
    return made


@kind("read")
def training_information(_: Path) -> onnx.ModelProto:
    made = relu()
    step = made.training_info.add()
    step.algorithm.CopyFrom(made.graph)
    step.update_binding.add(key="ghost", value="ghost")
    return made
