"""Hostile sizes: small files that stand for large tensors, many axes or long expressions."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from hostile_kinds import HUGE, floats, ints, kind, model, node, value
from onnx import helper

#: what a runtime is told to compute, it computes
NOT_RUN = ("run",)


# -- what a folding compiler would compute -----------------------------------------------------


def _added(made: Sequence[onnx.NodeProto], *constants: onnx.TensorProto) -> onnx.ModelProto:
    """x + the sum of a large constant `c`."""
    nodes = [*made, node("ReduceSum", ["c"], ["t"], keepdims=0), node("Add", ["x", "t"], ["y"])]
    return model(nodes, constants=constants, y=[2, 3])


@kind("read", without=NOT_RUN)
def a_constant_of_a_huge_shape(_: Path) -> onnx.ModelProto:
    return _added([node("ConstantOfShape", ["s"], ["c"])], ints("s", HUGE))


@kind("read", without=NOT_RUN)
def an_expansion_to_a_huge_shape(_: Path) -> onnx.ModelProto:
    return _added([node("Expand", ["a", "s"], ["c"])], ints("s", HUGE, 1), floats("a", 1))


@kind("read", without=NOT_RUN)
def a_huge_tile(_: Path) -> onnx.ModelProto:
    return _added([node("Tile", ["a", "s"], ["c"])], ints("s", HUGE), floats("a", 1))


@kind("read", without=NOT_RUN)
def a_huge_range(_: Path) -> onnx.ModelProto:
    made = [
        node("Squeeze", ["n"], ["end"]),
        node("Range", ["zero", "end", "one"], ["r"]),
        node("Cast", ["r"], ["c"], to=1),
    ]
    constants = [helper.make_tensor(n, 7, [], [k]) for n, k in (("zero", 0), ("one", 1))]
    return _added(made, ints("n", 1 << 60), *constants)


@kind("read", without=NOT_RUN)
def a_huge_resize(_: Path) -> onnx.ModelProto:
    image = helper.make_tensor("a", 1, [1, 1, 2, 2], [1.0] * 4)
    made = [node("Resize", ["a", "", "", "s"], ["c"], mode="nearest")]
    return _added(made, ints("s", 1, 1, 1 << 24, 1 << 24), image)


@kind("read", without=NOT_RUN)
def a_huge_pad(_: Path) -> onnx.ModelProto:
    return _added([node("Pad", ["a", "s"], ["c"])], ints("s", HUGE, HUGE), floats("a", 1))


@kind("read", without=NOT_RUN)
def a_huge_one_hot(_: Path) -> onnx.ModelProto:
    made = [node("OneHot", ["i", "n", "v"], ["c"])]
    return _added(made, ints("i", 1), ints("n", HUGE), floats("v", 0, 1))


@kind("read", without=NOT_RUN)
def a_huge_identity(_: Path) -> onnx.ModelProto:
    made = [node("ConstantOfShape", ["s"], ["z"]), node("EyeLike", ["z"], ["c"])]
    return _added(made, ints("s", 1 << 20, 1 << 20))


@kind("read", without=NOT_RUN)
def a_huge_table_of_a_window(_: Path) -> onnx.ModelProto:
    made = [node("HannWindow", ["n"], ["c"])]
    return _added(made, helper.make_tensor("n", 7, [], [HUGE]))


@kind("read", without=NOT_RUN)
def a_huge_random_tensor(_: Path) -> onnx.ModelProto:
    return _added([node("RandomNormal", [], ["c"], shape=[HUGE])])


@kind("refused", "pieces")
def a_sequence_of_2_to_40_pieces(_: Path) -> onnx.ModelProto:
    made = [node("SplitToSequence", ["x"], ["q"]), node("SequenceAt", ["q", "i"], ["y"])]
    return model(made, x=[HUGE, 2], constants=[helper.make_tensor("i", 7, [], [0])])


@kind(None, without=NOT_RUN)
def a_slice_on_top_of_a_huge_input(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], x=[HUGE, HUGE // 4], y=[HUGE, HUGE // 4])


# -- ranks -------------------------------------------------------------------------------------


@kind("refused", "axes")
def a_shape_that_is_an_input(_: Path) -> onnx.ModelProto:
    """What is reshaped to it has as many axes as the shape has elements."""
    return model([node("Reshape", ["x", "s"], ["y"])], inputs=[value("s", 7, [HUGE])])


@kind("refused", "axes")
def a_shape_that_is_computed(_: Path) -> onnx.ModelProto:
    fill = helper.make_tensor("v", 7, [1], [1])
    made = [
        node("ConstantOfShape", ["n"], ["s"], value=fill),
        node("ConstantOfShape", ["s"], ["c"]),
        node("Add", ["x", "c"], ["y"]),
    ]
    return model(made, constants=[ints("n", HUGE)])


@kind("refused")
def axes_added_without_end(_: Path) -> onnx.ModelProto:
    names = ["x", *(f"a{k}" for k in range(100)), "y"]
    nodes = [node("Unsqueeze", [a, "zero"], [b]) for a, b in itertools.pairwise(names)]
    return model(nodes, constants=[ints("zero", 0)], y=[1] * 60)


# -- arithmetic on sizes -----------------------------------------------------------------------


def _computed(x: Sequence[Any], steps: Sequence[onnx.NodeProto], last: str) -> onnx.ModelProto:
    """Sizes are computed with, and something takes the last as its shape."""
    nodes = [
        node("Shape", ["x"], ["s0"]),
        *steps,
        node("ConstantOfShape", [last], ["z"]),
        node("Shape", ["z"], ["t"]),
        node("Cast", ["t"], ["c"], to=1),
        node("ReduceSum", ["c"], ["r"], keepdims=0),
        node("Add", ["x", "r"], ["y"]),
    ]
    return model(nodes, x=x, y=list(x), constants=[ints("one", 1)])


@kind(None, without=NOT_RUN)
def squares_of_squares(_: Path) -> onnx.ModelProto:
    """3 to the power of 2⁶⁰."""
    steps = [node("Mul", [f"s{k}", f"s{k}"], [f"s{k + 1}"]) for k in range(60)]
    return _computed([3, 3], steps, "s60")


@kind("read", without=NOT_RUN)
def expressions_that_double(_: Path) -> onnx.ModelProto:
    """n → n·n + n on symbols, written out."""
    steps = []
    for k in range(60):
        steps.append(node("Mul", [f"s{k}", f"s{k}"], [f"m{k}"]))
        steps.append(node("Add", [f"m{k}", f"s{k}"], [f"s{k + 1}"]))
    return _computed(["N", "M"], steps, "s60")


@kind("read", without=NOT_RUN)
def quotients_of_quotients(_: Path) -> onnx.ModelProto:
    steps = []
    for k in range(20):
        steps.append(node("Add", [f"s{k}", "one"], [f"m{k}"]))
        steps.append(node("Div", [f"m{k}", "two"], [f"d{k}"]))
        steps.append(node("Mul", [f"d{k}", f"m{k}"], [f"s{k + 1}"]))
    made = _computed(["N", "M"], steps, "s20")
    made.graph.initializer.append(ints("two", 2))
    return made


@kind("read", without=NOT_RUN)
def concatenations_that_double(_: Path) -> onnx.ModelProto:
    names = ["x", *(f"a{k}" for k in range(80))]
    nodes = [node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]
    last = node("ReduceSum", [names[-1]], ["y"], keepdims=0)
    return model([*nodes, last], x=["N", 3], y=[])


def _symbol(name: str) -> onnx.ModelProto:
    made = [
        node("Concat", ["x", "x"], ["a"], axis=0),
        node("Reshape", ["a", "s"], ["y"]),
    ]
    return model(made, x=[name, 3], y=["a"], constants=[ints("s", -1)])


@kind("read", without=NOT_RUN)
def a_size_called_a_tower_of_powers(_: Path) -> onnx.ModelProto:
    return _symbol("9**9**9**9")


@kind("read", without=NOT_RUN)
def a_size_called_code(_: Path) -> onnx.ModelProto:
    return _symbol("__import__('os').system('touch owned')")


@kind("read", without=NOT_RUN)
def a_size_called_a_division_by_zero(_: Path) -> onnx.ModelProto:
    return _symbol("N / (M - M)")


@kind("read", without=NOT_RUN)
def a_size_called_thousands_of_brackets(_: Path) -> onnx.ModelProto:
    return _symbol("(" * 4000 + "N" + ")" * 4000)


@kind("read", without=NOT_RUN)
def a_size_called_a_number(_: Path) -> onnx.ModelProto:
    return _symbol("9" * 5000)


@kind("refused", "characters")
def a_size_with_a_name_of_a_megabyte(_: Path) -> onnx.ModelProto:
    return _symbol("N" * (1 << 20))


@kind("refused")
def sizes_whose_product_is_beyond_64_bits(_: Path) -> onnx.ModelProto:
    most = (1 << 63) - 1
    made = [node("Flatten", ["x"], ["y"], axis=0)]
    return model(made, x=[most, most, 3])


@kind(None)
def negative_sizes(_: Path) -> onnx.ModelProto:
    return model([node("Relu", ["x"], ["y"])], x=[-5, -(1 << 63)], y=[-5, 3])
