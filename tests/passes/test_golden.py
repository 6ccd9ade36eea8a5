"""Small graphs, node by node: nothing dead, nothing that one direction does not need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from helpers import Input, build, checked, ints, op_types, weights
from onnx import numpy_helper

from onnxjvp import Rewritten, clone, jvp


@dataclass(frozen=True, eq=False)
class Golden:
    """A model, and the operators that each form adds to its own (or makes of it, if stacked)."""

    name: str
    body: str
    inputs: dict[str, Input]
    params: dict[str, Any] = field(default_factory=dict)
    #: after the nodes of the original
    tangent: str = ""
    #: after the tangent: what `split` shares no residual of
    along_x: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def own(self) -> list[str]:
        return op_types(build(self.body, self.inputs, self.params))


_BN = {"s": weights(2), "t": weights(2), "m": weights(2), "v": np.ones(2)}
GOLDEN = [
    Golden(
        "dense",
        "h = Gemm(x, w, b)\nr = Relu(h)\ny = Gemm(r, v, c)",
        {"x": ("N", 3)},
        {"w": weights(3, 4), "b": weights(4), "v": weights(4, 2), "c": weights(2)},
        tangent="Gemm Greater Where Gemm",
        along_x="Gemm Where Gemm",
    ),
    Golden(
        "convolutional",
        "h = Conv(x, k, b)\nn = BatchNormalization(h, s, t, m, v)\nr = Relu(n)\n"
        "p = MaxPool<kernel_shape=[2, 2]>(r)\nf = Flatten(p)\ny = Gemm(f, w)",
        {"x": ("N", 1, 4, 4)},
        {"k": weights(2, 1, 3, 3), "b": weights(2), "w": weights(2, 3), **_BN},
        tangent="Conv BatchNormalization Greater Where MaxPool Reshape Gather Flatten Gemm",
        along_x="Conv BatchNormalization Where Reshape Gather Flatten Gemm",
    ),
    Golden(
        "one operand dead",
        "d = Exp(c)\ns = Sigmoid(d)\ny = Mul(x, s)",
        {"x": ("N", 3), "c": np.ones((1, 3))},
        tangent="Mul",
        along_x="Mul",
    ),
    Golden(
        "residual",
        "h = MatMul(x, w)\nt = Tanh(h)\ny = Add(t, x)",
        {"x": ("N", 3)},
        {"w": weights(3, 3)},
        tangent="MatMul Mul Sub Mul Add",
        along_x="MatMul Mul Add",
    ),
    Golden(
        "SiLU",
        "g = Sigmoid(x)\ny = Mul(x, g)",
        {"x": ("N", 3)},
        tangent="Sigmoid Sub Mul Add Mul",
        along_x="Mul",
    ),
    Golden(
        "movement",
        "t = Transpose<perm=[1, 0]>(x)\nr = Reshape(t, s)\na, y = Split<axis=0, num_outputs=2>(r)",
        {"x": (2, 4)},
        {"s": ints(4, 2)},
        tangent="Transpose Reshape Split",
        along_x="Transpose Reshape Split",
    ),
    Golden(
        "an offset",
        "a = Add(x, c)\ns = Sub(a, d)\ny = Relu(s)",
        {"x": ("N", 3)},
        {"c": weights(3), "d": weights(3, seed=1)},
        tangent="Greater Where",
        along_x="Where",
    ),
    Golden(
        "a kept window",
        "y = AveragePool<kernel_shape=[2, 2]>(x)",
        {"x": ("N", 1, 4, 4)},
        tangent="AveragePool",
        along_x="AveragePool",
    ),
]


def _inputs(golden: Golden) -> Any:
    return build(golden.body, golden.inputs, golden.params)


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_jvp_adds_the_tangent_and_nothing_else(golden: Golden) -> None:
    result = jvp(_inputs(golden), wrt=["x"])
    # in what order: see tests/targets/test_order.py
    assert sorted(op_types(checked(result))) == sorted(golden.own + golden.tangent.split())
    assert result.report["nodes_before"] == len(golden.own)
    assert result.report["nodes_after"] == len(golden.own) + len(golden.tangent.split())


@pytest.mark.parametrize("golden", GOLDEN, ids=str)
def test_split_adds_one_more_direction_and_two_sums(golden: Golden) -> None:
    result = clone(_inputs(golden), wrt=["x"], layout="split")
    expected = [*golden.own, *golden.tangent.split(), *golden.along_x.split(), "Sub", "Add"]
    assert sorted(op_types(checked(result))) == sorted(expected)


STACKED = {
    "dense": """Shape ConstantOfShape Concat Gemm Reshape Gather Relu Greater Where Reshape Gemm
        Reshape Gather Gather Gather Sub""",
    "convolutional": """Shape ConstantOfShape Concat Conv BatchNormalization Reshape Gather Relu
        Greater Where MaxPool Reshape Gather Reshape Gemm Reshape Gather Gather Gather Sub""",
    "residual": """Shape ConstantOfShape Concat MatMul Reshape Gather Tanh Equal Sub Reshape
        Reshape Where Mul Sub Reshape Mul Add Reshape Add Reshape Gather Gather Gather Sub""",
    "movement": "Concat Reshape Transpose Reshape Split Gather Gather Gather Sub",
    "an offset": """Shape ConstantOfShape Concat Add Sub Reshape Gather Relu Greater Where Gather
        Gather Sub""",
}


@pytest.mark.parametrize("name", STACKED)
def test_stacked_runs_each_affine_node_once(name: str) -> None:
    (golden,) = (g for g in GOLDEN if g.name == name)
    found = op_types(checked(clone(_inputs(golden), layout="stacked")))
    for operator in ("Gemm", "MatMul", "Conv", "BatchNormalization", "Relu", "MaxPool"):
        assert found.count(operator) == golden.own.count(operator)
    assert sorted(found) == sorted(STACKED[name].split())


def test_substitute_needs_one_lane_less() -> None:
    model = _inputs(GOLDEN[0])
    lanes = op_types(checked(clone(model, layout="stacked")))
    substitute = op_types(checked(clone(model, method="substitute")))
    assert substitute.count("Gemm") == 2
    assert len(substitute) < len(lanes)


def test_biases_never_enter_a_tangent() -> None:
    proto = jvp(_inputs(GOLDEN[0])).proto()
    gemms = [node for node in proto.graph.node if node.op_type == "Gemm"]
    assert [len(node.input) for node in gemms] == [3, 3, 2, 2]
    proto = jvp(_inputs(GOLDEN[1])).proto()
    convolutions = [node for node in proto.graph.node if node.op_type == "Conv"]
    assert [len(node.input) for node in convolutions] == [3, 2]
    norms = [n for n in proto.graph.node if n.op_type == "BatchNormalization"]
    values = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    assert not values[norms[1].input[2]].any()  # the shift
    assert not values[norms[1].input[3]].any()  # the mean


def test_weights_are_shared_with_the_tangent() -> None:
    proto = jvp(_inputs(GOLDEN[0])).proto()
    assert sorted(t.name for t in proto.graph.initializer if t.name in "wbvc") == [
        "b",
        "c",
        "v",
        "w",
    ]
    gemms = [node for node in proto.graph.node if node.op_type == "Gemm"]
    assert [node.input[1] for node in gemms] == ["w", "v", "w", "v"]


# -- cost --------------------------------------------------------------------------------------


def _deep(layers: int) -> Any:
    lines, last = [], "x"
    for i in range(layers):
        lines += [f"h{i} = Gemm({last}, w, b)", f"r{i} = Relu(h{i})", f"s{i} = Tanh(r{i})"]
        lines.append(f"a{i} = Add(s{i}, {last})")
        last = f"a{i}"
    lines.append(f"y = Identity({last})")
    return build("\n".join(lines), {"x": ("N", 4)}, {"w": weights(4, 4), "b": weights(4)})


FORMS = {
    "jvp": jvp,
    "split": lambda m: clone(m, layout="split"),
    "stacked": lambda m: clone(m, layout="stacked"),
    "substitute": lambda m: clone(m, method="substitute"),
}


def _sizes(result: Rewritten) -> tuple[int, int]:
    proto = result.proto()
    return len(proto.graph.node), len(proto.graph.initializer)


@pytest.mark.parametrize("form", FORMS)
def test_nodes_grow_linearly_with_layers(form: str) -> None:
    (ten, few), (twenty, same), (forty, _) = (_sizes(FORMS[form](_deep(n))) for n in (10, 20, 40))
    assert forty - twenty == 2 * (twenty - ten)
    assert few == same, "constants are shared between layers"


def test_a_value_read_often_is_pushed_once() -> None:
    body = "e = Exp(x)\na = Mul(e, e)\nb = Mul(a, e)\nc = Add(b, a)\ny = Mul(c, e)"
    found = op_types(jvp(build(body, {"x": ("N", 3)})))
    # e's tangent once, two per product of two live operands (and their sum), one for the Add
    assert len(found) == 5 + 1 + 3 * 3 + 1
