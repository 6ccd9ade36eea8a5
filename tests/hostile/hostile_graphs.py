"""Hostile graphs: cycles, blow-ups, and nodes that end onnx's own inference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
from hostile_kinds import HUGE, floats, ints, kind, model, node, value
from onnx import helper

GRAPH = onnx.AttributeProto.GRAPH


def function(
    name: str, nodes: Sequence[onnx.NodeProto], domains: Sequence[str] = ("local",)
) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_function("local", name, ["x"], ["y"], nodes, imports)


def call(name: str, source: str = "x", target: str = "y") -> onnx.NodeProto:
    return node(name, [source], [target], domain="local")


def body(name: str, nodes: Sequence[onnx.NodeProto], output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [value(output, 1, None)])


# -- edges -------------------------------------------------------------------------------------


@kind("refused", "produced later")
def a_cycle(_: Path) -> onnx.ModelProto:
    return model([node("Add", ["x", "b"], ["a"]), node("Relu", ["a"], ["b"]), call("f", "b")])


@kind("refused")
def a_node_that_reads_itself(_: Path) -> onnx.ModelProto:
    return model([node("Add", ["x", "y"], ["y"])])


@kind("refused", "nothing produces")
def a_value_from_nowhere(_: Path) -> onnx.ModelProto:
    return model([node("Add", ["x", "ghost"], ["y"])])


@kind("refused")
def an_output_from_nowhere(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["z"])])


@kind("refused")
def one_name_for_all(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])] * 50)


@kind(None)
def a_constant_that_is_an_input(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], constants=[floats("x", 1, 2, 3)])


# -- functions ---------------------------------------------------------------------------------


@kind("refused", "call themselves")
def a_function_that_calls_itself(_: Path) -> onnx.ModelProto:
    return model([call("f")], functions=[function("f", [call("f")])], domains=["local"])


@kind("refused", "call themselves")
def functions_that_call_each_other(_: Path) -> onnx.ModelProto:
    made = [function(f"f{k}", [call(f"f{(k + 1) % 5}")]) for k in range(5)]
    return model([call("f0")], functions=made, domains=["local"])


@kind("refused", "inlined")
def functions_that_double(_: Path) -> onnx.ModelProto:
    """A few kB that stand for 2⁴⁰ nodes."""
    made = [
        function(f"f{k}", [call(f"f{k + 1}", "x", "t"), call(f"f{k + 1}", "t")]) for k in range(40)
    ]
    made.append(function("f40", [node("Relu", ["x"], ["y"])]))
    return model([call("f0")], functions=made, domains=["local"])


@kind("read")
def functions_in_a_long_chain(_: Path) -> onnx.ModelProto:
    made = [function(f"f{k}", [call(f"f{k + 1}")]) for k in range(90)]
    made.append(function("f90", [node("Relu", ["x"], ["y"])]))
    return model([call("f0")], functions=made, domains=["local"])


@kind("refused")
def a_call_with_too_many_operands(_: Path) -> onnx.ModelProto:
    called = node("f", ["x"] * 5, ["y"], domain="local")
    made = [function("f", [node("Relu", ["x"], ["y"])])]
    return model([called], functions=made, domains=["local"])


@kind("refused", "of a function")
def an_attribute_of_no_function(_: Path) -> onnx.ModelProto:
    made = model([node("Relu", ["x"], ["y"])])
    made.graph.node[0].attribute.add(name="body", type=GRAPH, ref_attr_name="ghost")
    return made


@kind(None)
def a_deprecated_operator_without_attributes(_: Path) -> onnx.ModelProto:
    return model([node("GroupNormalization", ["x"], ["y"])])


# -- control flow ------------------------------------------------------------------------------


@kind("refused", "graphs within graphs")
def branches_within_branches(_: Path) -> onnx.ModelProto:
    inner = [node("Relu", ["x"], ["y0"])]
    for k in range(1, 25):
        ends = {f"{b}_branch": body(b, inner, f"y{k - 1}") for b in ("then", "else")}
        inner = [node("If", ["c"], [f"y{k}"], **ends)]
        if k > 2:  # the file would double otherwise
            inner[0].attribute[0].g.CopyFrom(body("b", [node("Relu", ["x"], ["z"])], "z"))
    inner[0].output[0] = "y"
    return model(inner, inputs=[value("c", 9, [])])


@kind(None)
def loops_within_loops_that_grow(_: Path) -> onnx.ModelProto:
    """Each level is read again when a size changes below: 2 to the power of the depth."""
    inner = [node("Concat", ["s", "s"], ["t"], axis=0)]
    for level in range(10):
        names = [f"{n}{level}" for n in ("i", "c", "s", "t")]
        replaced = {"s": names[2], "t": names[3]}
        for each in inner:
            for names_of in (each.input, each.output):
                for k, name in enumerate(names_of):
                    names_of[k] = replaced.get(name, name)
        graph = helper.make_graph(
            inner,
            "turn",
            [value(names[0], 7, []), value(names[1], 9, []), value(names[2], 1, None)],
            [value(names[1], 9, []), value(names[3], 1, None)],
        )
        inner = [node("Loop", ["n", "", "s"], ["t"], body=graph)]
    inner[0].input[2], inner[0].output[0] = "x", "y"
    return model(inner, constants=[ints("n", 2)])


@kind("refused", "If")
def an_if_with_half_its_branches(_: Path) -> onnx.ModelProto:
    one = body("then", [node("Relu", ["x"], ["z"])], "z")
    return model([node("If", ["c"], ["y"], then_branch=one)], inputs=[value("c", 9, [])])


@kind("refused", "If")
def an_if_with_other_results(_: Path) -> onnx.ModelProto:
    one = body("then", [node("Relu", ["x"], ["z"])], "z")
    made = node("If", ["c"], ["y", "more"], then_branch=one, else_branch=one)
    return model([made], constants=[helper.make_tensor("c", 9, [], [True])])


def _decided(conditions: Sequence[onnx.NodeProto], last: str) -> onnx.ModelProto:
    ends = [body(b, [node(b, ["x"], [f"y_{b}"])], f"y_{b}") for b in ("Relu", "Tanh")]
    chosen = node("If", [last], ["y"], then_branch=ends[0], else_branch=ends[1])
    sizes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"])]
    first = node("Equal", ["n", "two"], ["c0"])
    constants = [ints("zero", 0), ints("two", 2)]
    return model([*sizes, first, *conditions, chosen], constants=constants, y=[2, 3])


@kind("read", without=("run",))
def a_condition_of_2_to_60_operands(_: Path) -> onnx.ModelProto:
    return _decided([node("And", [f"c{k}"] * 2, [f"c{k + 1}"]) for k in range(60)], "c60")


@kind("read", without=("run",))
def a_condition_behind_1500_nodes(_: Path) -> onnx.ModelProto:
    return _decided([node("Not", [f"c{k}"], [f"c{k + 1}"]) for k in range(1500)], "c1500")


# -- nodes that end the process in onnx's C++ --------------------------------------------------


@kind("refused", "Split")
def a_split_into_more_than_it_says(_: Path) -> onnx.ModelProto:
    """onnx 1.23 writes behind a vector: SIGABRT."""
    return model([node("Split", ["x"], ["y", "z", "w"], axis=0, num_outputs=2)])


@kind("refused", "axis")
def a_normalization_along_axis_2_to_63(_: Path) -> onnx.ModelProto:
    """onnx 1.23: SIGSEGV."""
    made = node("LayerNormalization", ["x", "s"], ["y", "m"], axis=(1 << 63) - 1)
    return model([made], constants=[floats("s", 1, 1, 1)])


@kind("refused", "batch_dims")
def a_gather_with_negative_batch_axes(_: Path) -> onnx.ModelProto:
    """onnx 1.23: SIGSEGV."""
    made = node("GatherND", ["x", "i"], ["y"], batch_dims=-2)
    return model([made], constants=[helper.make_tensor("i", 7, [1, 1], [0])])


def _slice_of_negative_size(opset: int) -> onnx.ModelProto:
    nodes = [
        node("MaxPool", ["x"], ["a"], kernel_shape=[9, 9]),
        node("Slice", ["a", "s", "e", "axes"], ["y"]),
    ]
    constants = [ints("s", 0), ints("e", 2), ints("axes", 2)]
    return model(nodes, x=[1, 1, 5, 5], constants=constants, opset=opset)


@kind("refused", "MaxPool")
def a_slice_of_a_negative_size(_: Path) -> onnx.ModelProto:
    """onnx 1.23 asserts: SIGABRT."""
    return _slice_of_negative_size(18)


@kind("refused")
def a_slice_of_a_negative_size_before_opset_18(_: Path) -> onnx.ModelProto:
    """The same in onnx's version converter."""
    return _slice_of_negative_size(11)


@kind(None)
def an_expansion_to_any_number_of_axes(_: Path) -> onnx.ModelProto:
    """onnx 1.23 adds them one by one, in the converter of earlier opsets."""
    return model([node("Expand", ["x", "s"], ["y"])], inputs=[value("s", 7, [HUGE])], opset=9)


# -- attributes --------------------------------------------------------------------------------


@kind("refused")
def attributes_of_other_types(_: Path) -> onnx.ModelProto:
    return model([node("Softmax", ["x"], ["y"], axis="one")])


@kind("refused", "twice")
def one_attribute_many_times(_: Path) -> onnx.ModelProto:
    made = model([node("Softmax", ["x"], ["y"], axis=1)])
    made.graph.node[0].attribute.extend([made.graph.node[0].attribute[0]] * 100)
    return made


@kind("refused", "kernel")
def a_kernel_of_2_to_40_elements(_: Path) -> onnx.ModelProto:
    made = node("AveragePool", ["x"], ["y"], kernel_shape=[1 << 20, 1 << 20])
    return model([made], x=[1, 1, "H", "W"], y=list("abcd"))


@kind("refused")
def strides_of_zero(_: Path) -> onnx.ModelProto:
    made = node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], strides=[0, 0], dilations=[0, 0])
    return model([made], x=[1, 1, 8, 8])


@kind("refused")
def a_group_of_zero(_: Path) -> onnx.ModelProto:
    made = node("Conv", ["x", "w"], ["y"], group=0)
    weight = helper.make_tensor("w", 1, [1, 1, 1, 1], [1.0])
    return model([made], x=[1, 1, 8, 8], constants=[weight])


@kind("refused")
def blocks_of_zero(_: Path) -> onnx.ModelProto:
    return model([node("DepthToSpace", ["x"], ["y"], blocksize=0)], x=[1, 4, 8, 8])


@kind("refused")
def a_band_over_a_million_channels(_: Path) -> onnx.ModelProto:
    made = node("LRN", ["x"], ["y"], size=5)
    return model([made], x=[1, 1 << 20, "H", "W"], y=[1, 1 << 20, "H", "W"])


@kind("refused", "equation")
def an_equation_with_a_sign_that_is_no_letter(_: Path) -> onnx.ModelProto:
    """onnx 1.23 reads it for ever."""
    return model([node("Einsum", ["x", "x"], ["y"], equation="...*,...i")])


@kind("refused")
def an_equation_of_nonsense(_: Path) -> onnx.ModelProto:
    return model([node("Einsum", ["x", "x"], ["y"], equation="i...j,...k->" + "..." * 200)])


@kind(None)
def operators_that_nobody_knows(_: Path) -> onnx.ModelProto:
    nodes = [node("Frobnicate", ["x"], ["y"], domain="acme", code="import os")]
    return model(nodes, domains=["acme"])
