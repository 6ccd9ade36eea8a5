"""What a file leaves to be found out: branches that sizes decide, tables of pads, opsets."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from helpers import assert_close, build, checked, double, ints, op_types
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from onnxjvp import InvalidModelError, UnsupportedOpError, jvp, vjp
from onnxjvp.graph.load import load
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.runtime import Session

SQUEEZE = """
<ir_version: 8, opset_import: ["": 18]>
g (double[{rows}, {columns}, 3] x) => (double[R, C] y)
<int64[1] at = {{1}}, int64[1] one = {{1}}, int64[1] axes = {{1}}>
{{
  s = Shape(x)
  n = Gather(s, at)
  c = {condition}
  z = If(c) <
    then_branch = a () => (double[P, Q] w) {{ w = Squeeze(x, axes) }},
    else_branch = b () => (double[P, Q] v) {{ v = ReduceSum<keepdims=0>(x, axes) }}
  >
  y = Sin(z)
}}
"""


def _squeeze(condition: str, rows: int | str = "N", columns: int | str = 1) -> ModelProto:
    nodes = condition.replace("; ", "\n  c = ")
    return parse_model(SQUEEZE.format(rows=rows, columns=columns, condition=nodes))


@pytest.mark.parametrize(
    ("condition", "columns", "taken"),
    [
        ("Equal(n, one)", 1, "Squeeze"),
        ("Equal(n, one)", 2, "ReduceSum"),
        ("Less(one, n)", 2, "Squeeze"),
        ("GreaterOrEqual(one, n)", 2, "ReduceSum"),
        ("Cast<to=9>(n)", 2, "Squeeze"),
        ("Equal(n, one); Not(c0)", 2, "Squeeze"),
        ("Equal(n, one); Squeeze(c0)", 1, "Squeeze"),
        ("Equal(n, one); And(c0, c0)", 2, "ReduceSum"),
        ("Equal(n, one); Or(c0, unknown)", 1, "Squeeze"),
    ],
)
def test_a_branch_that_sizes_decide_is_inlined(condition: str, columns: int, taken: str) -> None:
    first, *rest = condition.split("; ")
    if rest:
        unknown = "unknown = Greater(total, total)" if "unknown" in condition else ""
        total = "total = ReduceSum<keepdims=0>(x)" if unknown else ""
        lines = [line for line in (first.replace("c0", "c"), total, unknown, rest[0]) if line]
        lines[0] = "c0 = " + lines[0]
        text = "\n  ".join(lines[:-1]) + f"\n  c = {lines[-1]}"
        model = parse_model(
            SQUEEZE.format(rows="N", columns=columns, condition="").replace("c = \n", text + "\n")
        )
    else:
        model = _squeeze(first, columns=columns)
    kinds = [node.op_type for node in load(model).graph]
    assert "If" not in kinds and taken in kinds
    if (taken, columns) == ("Squeeze", 2):
        return  # which cannot be run
    x = {"x": np.random.default_rng(0).standard_normal((2, columns, 3))}
    u = {"x": np.random.default_rng(1).standard_normal((2, columns, 3))}
    values = double(checked(jvp(model)))({**x, "x_u": u["x"]})
    # onnxruntime looks into branches that are never taken
    wanted = directional_derivative(Evaluator(model).run, x, u, ["y"])
    assert_close(values["y"], wanted.primal["y"], 1e-12, "f(x)")
    assert_close(values["y_jvp"], wanted.value["y"], 1e-6, "J u")


def test_a_condition_on_a_free_size_stays() -> None:
    kinds = [node.op_type for node in load(_squeeze("Equal(n, one)", columns="M")).graph]
    assert "If" in kinds


def test_a_table_of_pads_is_followed() -> None:
    """How torch writes its pads: reversed in pairs, as a table of two columns."""
    body = """
        zeros = ConstantOfShape<value: tensor = int64[1] {0}>(two)
        flat = Concat<axis=0>(pads, zeros)
        table = Reshape(flat, pairs)
        back = Slice(table, last, least, first, last)
        turned = Transpose<perm=[1, 0]>(back)
        row = Reshape(turned, last)
        p = Cast<to=7>(row)
        y = Pad(x, p)
    """
    params = {
        "two": ints(2), "pads": ints(1, 2), "pairs": ints(-1, 2), "last": ints(-1),
        "least": ints(-(2**62)), "first": ints(0),
    }  # fmt: skip
    model = build(body, {"x": (3, 4)}, params)
    (y,) = load(model).graph.outputs
    assert y.shape is not None and list(y.shape) == [3, 7]


def test_models_of_other_domains_alone() -> None:
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "xy"]
    node = helper.make_node("Normalizer", ["x"], ["y"], domain="ai.onnx.ml", norm="L2")
    graph = helper.make_graph([node], "g", info[:1], info[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 3)])
    assert "Normalizer" in op_types(checked(jvp(model)))


def test_a_scan_over_sequences_of_several_lengths_is_refused() -> None:
    """Opset 8 has them; a batch of one length is a row of the op tables."""
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "e"], ["t"])],
        "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in ("s", "e")],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, [2])],
    )
    scan = helper.make_node("Scan", ["n", "i", "x"], ["y"], num_scan_inputs=1, body=body)
    shapes = {"i": [1, 2], "x": [1, 3, 2], "y": [1, 2]}
    infos = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()}
    lengths = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    graph = helper.make_graph([scan], "g", [lengths, infos["i"], infos["x"]], [infos["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 8)], ir_version=3)
    with pytest.raises(InvalidModelError, match="several lengths"):
        jvp(model)


def test_a_cotangent_has_the_size_that_the_nodes_give() -> None:
    """scikit-learn's exporter declares an output as wide as its input."""
    model = build("y = MatMul(x, w)", {"x": ("N", 6)}, {"w": np.ones((6, 1))})
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 6
    found = vjp(model)
    (ct,) = [v for v in found.proto().graph.input if v.name == "y_ct"]
    assert ct.type.tensor_type.shape.dim[1].dim_value == 1
    values = double(found.proto())({"x": np.ones((2, 6)), "y_ct": np.ones((2, 1))})
    assert values["x_vjp"].shape == (2, 6)


def test_rows_without_any_logit_have_no_cotangent() -> None:
    """A model that replaces the NaN of such a row: zero times NaN would be NaN."""
    body = """
        s = Add(x, mask)
        p = Softmax(s)
        empty = IsNaN(p)
        clean = Where(empty, zero, p)
        y = MatMul(clean, v)
    """
    mask = np.array([[0.0, 0.0], [-np.inf, -np.inf]])
    params = {"mask": mask, "zero": np.array(0.0), "v": np.array([[1.0], [3.0]])}
    model = build(body, {"x": (2, 2)}, params)
    x = {"x": np.array([[0.3, -0.2], [0.1, 0.4]])}
    values = double(checked(vjp(model)))({**x, "y_ct": np.ones((2, 1))})
    assert np.isfinite(values["x_vjp"]).all() and not values["x_vjp"][1].any()
    assert values["x_vjp"][0].any()


def test_a_branch_of_another_rank_is_refused() -> None:
    text = SQUEEZE.replace("ReduceSum<keepdims=0>(x, axes)", "Identity(x)")
    model = parse_model(text.format(rows="N", columns="M", condition="Equal(n, one)"))
    for branch in model.graph.node[3].attribute:
        branch.g.output[0].type.tensor_type.ClearField("shape")
    onnx.checker.check_model(model)
    with pytest.raises(UnsupportedOpError, match="rank"):
        jvp(model)


def test_the_last_piece_of_a_free_size_may_be_smaller() -> None:
    body = """
        a, b = Split<axis=0, num_outputs=2>(x)
        s = Slice(b, last, least, zero, last)
        t = Slice(a, last, least, zero, last)
        y = Concat<axis=0>(s, t)
    """
    params = {"last": ints(-1), "least": ints(-(2**62)), "zero": ints(0)}
    model = build(body, {"x": ("N", 4)}, params)
    x, u, ct = np.random.default_rng(0).standard_normal((3, 5, 4))
    tangent = double(checked(jvp(model)))({"x": x, "x_u": u})["y_jvp"]
    pulled = double(checked(vjp(model)))({"x": x, "y_ct": ct})["x_vjp"]
    assert_close(tangent, u[[4, 3, 2, 1, 0]], 1e-12, "J u")
    assert_close(np.array((pulled * u).sum()), np.array((ct * tangent).sum()), 1e-12, "<vjp, u>")


def test_a_branch_whose_output_is_a_constant_of_its_own():
    """An initialiser that is an output as well is moved all the same."""
    weight = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    end = helper.make_tensor_value_info("w", 1, [3])
    body = helper.make_graph([], "body", [], [end], [weight])
    nodes = [
        helper.make_node("If", ["c"], ["a"], then_branch=body, else_branch=body),
        helper.make_node("Add", ["x", "a"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, [3]) for name in "xy"]
    always = numpy_helper.from_array(np.array(True), "c")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [always])
    opsets = [helper.make_opsetid("", 18)]
    made = jvp(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    u = np.array([4, 5, 6], np.float32)
    found = Session(made.proto()).run({"x": np.zeros(3, np.float32), "x_u": u})
    assert found["y"].tolist() == [1, 2, 3]
    assert found["y_jvp"].tolist() == u.tolist()
