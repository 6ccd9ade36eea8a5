"""Sequences and optionals: resolved at load where they are known, refused by name where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, Array, assert_close, checked, ort, weights
from onnx import TensorProto, helper
from onnx.parser import parse_node

from onnxjvp import Rewritten, UnsupportedOpError, clone, jvp, vjp
from onnxjvp.graph.load import load
from onnxjvp.graph.sequences import OPERATORS

CLOSE = TOLERANCES["float32"]


def build(body: str, shape: tuple[Any, ...] = ("N", 6), **params: Any) -> onnx.ModelProto:
    graph = helper.make_graph(
        [parse_node(line.strip()) for line in body.strip().splitlines()],
        "sequences",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in params.items()],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


ONE, MINUS = np.array(1), np.array(-1)

#: body, parameters, and the map that it is, of x [N, 6]
RESOLVED: dict[str, tuple[str, dict[str, Any], Any]] = {
    "SplitToSequence by sizes": (
        "s = SplitToSequence<axis=1>(x, k)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"k": np.array([2, 4]), "i": ONE},
        lambda x: np.exp(x[:, 2:]),
    ),
    "SplitToSequence by one size": (
        "s = SplitToSequence<axis=-1>(x, k)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"k": np.array(4), "i": MINUS},
        lambda x: np.exp(x[:, 4:]),
    ),
    "SplitToSequence one by one": (
        "s = SplitToSequence<axis=1, keepdims=0>(x)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"i": MINUS},
        lambda x: np.exp(x[:, 5]),
    ),
    "SplitToSequence one by one, axes kept": (
        "s = SplitToSequence<axis=1>(x)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"i": ONE},
        lambda x: np.exp(x[:, 1:2]),
    ),
    "ConcatFromSequence": (
        "e = Exp(x)\ns = SequenceConstruct(x, e)\ny = ConcatFromSequence<axis=1>(s)",
        {},
        lambda x: np.concatenate([x, np.exp(x)], 1),
    ),
    "ConcatFromSequence, stacked": (
        "e = Exp(x)\ns = SequenceConstruct(x, e)\ny = ConcatFromSequence<axis=-1, new_axis=1>(s)",
        {},
        lambda x: np.stack([x, np.exp(x)], -1),
    ),
    "SequenceInsert and SequenceErase": (
        """e = Exp(x)
        n = SequenceEmpty()
        a = SequenceInsert(n, x)
        b = SequenceInsert(a, e)
        c = SequenceInsert(b, e, i)
        d = SequenceErase(c)
        f = SequenceErase(d, j)
        y = ConcatFromSequence<axis=0>(f)""",
        {"i": np.array(0), "j": np.array(-2)},
        lambda x: x,
    ),
    "SequenceLength": (
        """s = SequenceConstruct(x, x, x)
        n = SequenceLength(s)
        f = Cast<to=1>(n)
        y = Mul(x, f)""",
        {},
        lambda x: 3 * x,
    ),
    "an Optional": (
        """o = Optional(x)
        h = OptionalHasElement(o)
        g = OptionalGetElement(o)
        f = Cast<to=1>(h)
        e = Exp(g)
        y = Mul(e, f)""",
        {},
        np.exp,
    ),
    "one behind the other": (
        """s = SplitToSequence<axis=1>(x, k)
        a = SequenceAt(s, z)
        t = SplitToSequence<axis=1>(a)
        b = SequenceAt(t, i)
        c = Identity(s)
        d = SequenceAt(c, i)
        y = Mul(b, d)""",
        {"k": np.array(3), "i": ONE, "z": np.array(0)},
        lambda x: x[:, 1:2] * x[:, 3:],
    ),
}


def point() -> tuple[Array, Array]:
    return weights(3, 6).astype(np.float32), weights(3, 6, seed=1).astype(np.float32)


@pytest.mark.parametrize("what", RESOLVED)
def test_what_is_known_becomes_ordinary_operators(what: str) -> None:
    body, params, function = RESOLVED[what]
    model, (x, u) = build(body, **params), point()
    assert not OPERATORS & {n.op_type for n in load(model).graph.all_nodes()}
    step = 1e-6
    wide, along = x.astype(np.float64), u.astype(np.float64)
    wanted = (function(wide + step * along) - function(wide - step * along)) / (2 * step)
    original = None if "Optional" in body else ort(model, {"x": x})["y"]  # a kernel of its own
    for rewrite in (jvp, clone, lambda m: clone(m, layout="stacked")):
        result: Rewritten = rewrite(model)
        values = ort(checked(result), {"x": x, "x_u": u})
        assert original is None or values["y"].tobytes() == original.tobytes()
        assert_close(values["y"], function(wide), CLOSE, "y")
        assert_close(values["y_jvp"], wanted, CLOSE, "J u")
    v = weights(*wanted.shape, seed=2).astype(np.float32)
    back = ort(checked(vjp(model)), {"x": x, "y_ct": v})["x_vjp"]
    assert_close(np.sum(back * u), np.sum(v * wanted), CLOSE, "adjoint")


UNKNOWN = {
    "the position 'i' is not a constant": (
        """n = NonZero(x)
        r = ReduceMax<keepdims=0>(n)
        i = Identity(r)
        s = SequenceConstruct(x, x)
        a = SequenceAt(s, i)
        y = Exp(a)""",
        {},
    ),
    "depends on the size of axis 0": (
        "s = SplitToSequence<axis=0>(x)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"i": ONE},
    ),
    "outside a sequence of 2": (
        "s = SequenceConstruct(x, x)\na = SequenceAt(s, i)\ny = Exp(a)",
        {"i": np.array(2)},
    ),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_what_is_not_known_is_refused_with_the_reason(why: str) -> None:
    body, params = UNKNOWN[why]
    with pytest.raises(UnsupportedOpError, match=why):
        jvp(build(body, **params))


def test_a_sequence_that_a_branch_makes_is_refused_with_the_reason() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    branches = {}
    for name, body in (
        ("then_branch", "s = SequenceConstruct(x, x)"),
        ("else_branch", "s = SequenceConstruct(x)"),
    ):
        out = onnx.ValueInfoProto(name="s", type=kind)
        branches[name] = helper.make_graph([parse_node(body)], name, [], [out])
    model = build("n = ConcatFromSequence<axis=0>(c)\ny = Exp(n)")
    model.graph.node.insert(0, helper.make_node("If", ["b"], ["c"], "branch", **branches))
    model.graph.input.append(helper.make_tensor_value_info("b", TensorProto.BOOL, []))
    with pytest.raises(UnsupportedOpError) as error:
        jvp(model, ["x"])
    reasons = {node: reason for node, _, reason in error.value.nodes}
    assert "If makes it" in reasons.get("n", ""), reasons


def test_a_sequence_that_leaves_the_model_stays_one() -> None:
    body = "s = SplitToSequence<axis=1>(x, k)\na = SequenceAt(s, i)\ny = Exp(a)"
    model = build(body, k=np.array([2, 4]), i=ONE)
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(onnx.ValueInfoProto(name="s", type=kind))
    result = jvp(model, outputs=["y"])
    made = result.proto()
    assert [o.name for o in made.graph.output] == ["y", "s", "y_jvp"]
    onnx.checker.check_model(made)
    with pytest.raises(UnsupportedOpError, match="SplitToSequence"):
        jvp(model)
