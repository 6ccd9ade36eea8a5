"""Names, inputs and outputs, parameters wherever they sit, functions, control flow, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from helpers import (
    build,
    checked,
    double,
    ints,
    nodes_of,
    op_types,
    ort,
    session,
    shape_of,
    weights,
)
from onnx import ModelProto, numpy_helper

from onnxjvp import InvalidModelError, Rewritten, UnsupportedOpError, clone, jvp

FORMS = {
    "jvp": jvp,
    "split": lambda m, **k: clone(m, layout="split", **k),
    "stacked": lambda m, **k: clone(m, layout="stacked", **k),
    "substitute": lambda m, **k: clone(m, method="substitute", **k),
}
every_form = pytest.mark.parametrize("form", FORMS)


def _renamed(model: ModelProto, names: dict[str, str]) -> ModelProto:
    """The same model under other names of values."""
    graph = model.graph
    for info in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        info.name = names.get(info.name, info.name)
    for node in graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
        node.output[:] = [names.get(n, n) for n in node.output]
    return model


def _network() -> ModelProto:
    body = "h = Gemm(x, w, b)\nr = Relu(h)\ny = Tanh(r)"
    return build(body, {"x": ("N", 3)}, {"w": weights(3, 4), "b": weights(4)})


# -- names -------------------------------------------------------------------------------------


def test_clashing_names_get_a_trailing_underscore() -> None:
    body = "y = Mul(x, x_u)\ny_jvp = Exp(x)\ny_u = Neg(y)\ny_0 = Exp(y)"
    model = build(body, {"x": ("N", 3), "x_u": ("N", 3)}, outputs=("y", "y_jvp", "y_u", "y_0"))
    result = clone(model, layout="split")
    assert result.names["seeds"] == {"x": "x_u_", "x_u": "x_u_u"}
    assert result.names["results"]["y"] == {"u": "y_u_", "0": "y_0_", "jvp": "y_jvp_"}
    assert result.names["results"]["y_jvp"]["jvp"] == "y_jvp_jvp"
    proto = checked(result)
    assert [i.name for i in proto.graph.input] == ["x", "x_u", "x_u_", "x_u_u"]
    a, b, da, db = (weights(2, 3, seed=i) for i in range(4))
    values = double(proto)({"x": a, "x_u": b, "x_u_": da, "x_u_u": db})
    np.testing.assert_allclose(values["y_jvp_"], a * db + b * da, atol=1e-12)
    np.testing.assert_allclose(values["y_jvp_jvp"], np.exp(a) * da, atol=1e-12)
    np.testing.assert_allclose(values["y_jvp"], np.exp(a), atol=1e-12)


def test_names_inside_that_look_like_results_are_left_alone() -> None:
    model = build("y_jvp = Exp(x)\nx_u = Neg(y_jvp)\ny = Mul(x_u, y_jvp)", {"x": ("N", 3)})
    for rewrite in FORMS.values():
        result = rewrite(model)
        proto = checked(result)
        x, u = weights(2, 3), weights(2, 3, seed=1)
        values = double(proto)({"x": x, result.names["seeds"]["x"]: u})
        got = values[result.names["results"]["y"]["jvp"]]
        np.testing.assert_allclose(got, -2 * np.exp(2 * x) * u, atol=1e-9)


ODD = {
    "colons": {"x": "x:0", "h": "dense/MatMul:0", "y": "Identity:0"},
    "slashes": {"x": "/x/", "h": "//", "r": "/model/0/relu", "y": "/y"},
    "spaces": {"x": "the input", "h": " ", "y": "the output "},
    "unicode": {"x": "вход", "h": "隠れ", "r": "α→β", "y": "ŷ"},
    "question marks": {"x": "?x", "h": "?0", "r": "?onnxjvp", "y": "?"},
    "our own marks": {"x": "?onnxjvp.1", "h": "?onnxjvp.2", "r": "?onnxjvp.3.0", "y": "?onnxjvp.4"},
    "our own prefix": {
        "x": "onnxjvp/x",
        "h": "onnxjvp/Gemm_0",
        "r": "onnxjvp1/Where_1",
        "y": "onnxjvp",
    },
    "numbers": {"x": "0", "h": "1", "r": "2", "y": "3"},
    "inputs like results": {"x": "y", "y": "x"},
}


@pytest.mark.parametrize("kind", ODD)
@every_form
def test_odd_names(kind: str, form: str) -> None:
    plain = FORMS[form](_network())
    model = _renamed(_network(), ODD[kind])
    result = FORMS[form](model)
    proto = checked(result)
    x, y = ODD[kind]["x"], ODD[kind]["y"]
    seed = result.names["seeds"][x]
    assert seed.rstrip("_") == f"{x}_u".rstrip("_")
    assert {i.name for i in proto.graph.input} == {x, seed}
    assert proto.graph.output[0].name == y
    at, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(proto)({x: at, seed: u})
    wanted = double(plain.proto())({"x": at, "x_u": u})
    for suffix, name in result.names["results"][y].items():
        np.testing.assert_array_equal(values[name], wanted[plain.names["results"]["y"][suffix]])
    np.testing.assert_array_equal(values[y], wanted["y"])


# -- inputs and outputs ------------------------------------------------------------------------


def _several() -> ModelProto:
    body = "p = Exp(a)\nq = Mul(p, b)\nr = Sin(b)\nn = Cast<to=7>(b)"
    return build(body, {"a": ("N", 3), "b": ("N", 3)}, outputs=("p", "q", "r", "n"))


@every_form
def test_several_inputs_and_outputs(form: str) -> None:
    result = FORMS[form](_several())
    assert list(result.names["seeds"]) == ["a", "b"]
    assert list(result.names["results"]) == ["p", "q", "r"]
    assert "int64" in result.report["excluded"]["n"]
    a, b, da, db = (weights(2, 3, seed=i) for i in range(4))
    values = double(checked(result))({"a": a, "b": b, "a_u": da, "b_u": db})
    np.testing.assert_allclose(values["p_jvp"], np.exp(a) * da, atol=1e-9)
    np.testing.assert_allclose(values["q_jvp"], np.exp(a) * (da * b + db), atol=1e-9)
    np.testing.assert_allclose(values["r_jvp"], np.cos(b) * db, atol=1e-9)
    np.testing.assert_array_equal(values["n"], b.astype(np.int64))
    if "p_u" in values:
        np.testing.assert_allclose(values["p_u"] - values["p_0"], values["p_jvp"], atol=1e-9)
        np.testing.assert_allclose(values["r_0"], np.sin(b) - np.cos(b) * b, atol=1e-9)


@every_form
def test_a_subset_of_inputs(form: str) -> None:
    result = FORMS[form](_several(), wrt=["a"])
    proto = checked(result)
    assert [i.name for i in proto.graph.input] == ["a", "b", "a_u"]
    assert list(result.names["results"]) == ["p", "q"]
    assert set(result.report["excluded"]) == {"r", "n"}
    assert "does not depend" in result.report["excluded"]["r"]
    a, b, da = (weights(2, 3, seed=i) for i in range(3))
    values = double(proto)({"a": a, "b": b, "a_u": da})
    np.testing.assert_allclose(values["q_jvp"], np.exp(a) * da * b, atol=1e-9)
    np.testing.assert_allclose(values["r"], np.sin(b), atol=1e-12)
    if "q_0" in values:  # b is no lane of f_x: it stays what it is
        np.testing.assert_allclose(values["q_0"], np.exp(a) * b * (1 - a), atol=1e-9)


@every_form
def test_a_subset_of_outputs(form: str) -> None:
    result = FORMS[form](_several(), outputs=["q"])
    proto = checked(result)
    assert list(result.names["results"]) == ["q"]
    assert [o.name for o in proto.graph.output][:4] == ["p", "q", "r", "n"]
    assert "Cos" not in op_types(proto)
    a, b, da, db = (weights(2, 3, seed=i) for i in range(4))
    values = double(proto)({"a": a, "b": b, "a_u": da, "b_u": db})
    np.testing.assert_allclose(values["q_jvp"], np.exp(a) * (da * b + db), atol=1e-9)
    np.testing.assert_allclose(values["r"], np.sin(b), atol=1e-12)


@every_form
def test_an_input_that_matters_to_nothing(form: str) -> None:
    model = build("y = Exp(a)", {"a": ("N", 3), "b": ("M", 2)})
    result = FORMS[form](model)
    a, da = weights(2, 3), weights(2, 3, seed=1)
    b = weights(4, 2)
    feeds = {"a": a, "b": b, "a_u": da, "b_u": b}
    values = double(checked(result))({k: feeds[k] for k in _inputs(result)})
    np.testing.assert_allclose(values["y_jvp"], np.exp(a) * da, atol=1e-9)


def _inputs(result: Rewritten) -> Sequence[str]:
    return [i.name for i in result.proto().graph.input]


@every_form
def test_an_input_that_is_an_output(form: str) -> None:
    model = build("y = Exp(x)", {"x": ("N", 3)})
    model.graph.output.append(model.graph.input[0])
    onnx.checker.check_model(model)
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(checked(result))({"x": x, result.names["seeds"]["x"]: u})
    np.testing.assert_allclose(values["y_jvp"], np.exp(x) * u, atol=1e-9)
    np.testing.assert_array_equal(values["x"], x)
    names = result.names["results"]["x"]
    np.testing.assert_allclose(values[names["jvp"]], u, atol=1e-12)
    if "u" in names:
        np.testing.assert_array_equal(values[names["u"]], u)
        np.testing.assert_allclose(values[names["0"]], 0 * u, atol=1e-12)


@every_form
def test_one_value_under_two_names(form: str) -> None:
    model = build(
        "h = Exp(x)\ny = Identity(h)\nz = Identity(h)", {"x": ("N", 3)}, outputs=("y", "z", "h")
    )
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(checked(result))({"x": x, "x_u": u})
    for name in ("y", "z", "h"):
        np.testing.assert_allclose(values[f"{name}_jvp"], np.exp(x) * u, atol=1e-9)
        np.testing.assert_allclose(values[name], np.exp(x), rtol=1e-14)


@every_form
def test_an_output_that_other_nodes_read(form: str) -> None:
    model = build("h = Exp(x)\ny = Mul(h, x)", {"x": ("N", 3)}, outputs=("h", "y"))
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(checked(result))({"x": x, "x_u": u})
    np.testing.assert_allclose(values["h_jvp"], np.exp(x) * u, atol=1e-9)
    np.testing.assert_allclose(values["y_jvp"], np.exp(x) * (1 + x) * u, atol=1e-9)


@every_form
def test_outputs_that_need_no_computation(form: str) -> None:
    """A constant, an untouched input and a dead branch stay outputs of the rewritten model."""
    body = "y = Exp(a)\nc = Identity(k)\nd = Neg(b)"
    model = build(body, {"a": ("N", 3), "b": ("N", 3)}, {"k": weights(2)}, ("y", "c", "d"))
    result = FORMS[form](model, wrt=["a"])
    a, b, u = (weights(2, 3, seed=i) for i in range(3))
    values = double(checked(result))({"a": a, "b": b, "a_u": u})
    np.testing.assert_array_equal(values["c"], weights(2))
    np.testing.assert_array_equal(values["d"], -b)


# -- parameters --------------------------------------------------------------------------------


def _check_network(result: Rewritten, model: ModelProto) -> None:
    x, u = weights(2, 3), weights(2, 3, seed=1)
    proto = checked(result)
    assert {i.name for i in proto.graph.input} == {"x", "x_u"}
    values = double(proto)({"x": x, "x_u": u})
    wanted = double(jvp(_network()).proto())({"x": x, "x_u": u})
    np.testing.assert_allclose(values["y_jvp"], wanted["y_jvp"], atol=1e-12)
    np.testing.assert_allclose(values["y"], double(model)({"x": x})["y"], atol=1e-12)


@every_form
def test_parameters_of_ir_3_are_inputs_too(form: str) -> None:
    body = "h = Gemm(x, w, b)\nr = Relu(h)\ny = Tanh(r)"
    params = {"w": weights(3, 4), "b": weights(4)}
    model = build(body, {"x": ("N", 3)}, params, opset=8)
    model.ir_version = 3
    for name, array in params.items():
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, array.shape)
        model.graph.input.append(info)
    onnx.checker.check_model(model)
    _check_network(FORMS[form](model), model)


@every_form
def test_parameters_in_constant_nodes(form: str) -> None:
    model = _network()
    constants = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in model.graph.initializer
    ]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:]
    del model.graph.initializer[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    _check_network(FORMS[form](model), model)


def _with_default(model: ModelProto, name: str) -> ModelProto:
    (tensor,) = (t for t in model.graph.initializer if t.name == name)
    model.graph.input.append(
        onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims)
    )
    onnx.checker.check_model(model)
    return model


DEFAULTS = {
    "a factor": ("y = Mul(x, c)", np.array(2.0), np.array(-3.0)),
    "a bound": ("y = Clip(x, c)", np.array(-9.0), np.array(0.0)),
    "an exponent": ("a = Abs(x)\ny = Pow(a, c)", np.array(2.0), np.array(3.0)),
    "indices": ("y = Gather<axis=1>(x, c)", ints(0, 1), ints(2, 2)),
    "a shape": ("y = Reshape(x, c)", ints(1, 6), ints(3, 2)),
    "axes of a sum": ("y = ReduceSum<keepdims=1>(x, c)", ints(0), ints(1)),
    "axes of a maximum": ("y = ReduceMax<keepdims=1>(x, c)", ints(0), ints(1)),
    "where to cut": ("y = Slice(x, c, e, a)", ints(0), ints(1)),
}


@pytest.mark.parametrize("what", DEFAULTS)
@every_form
def test_a_default_that_the_caller_overrides(what: str, form: str) -> None:
    """From IR 4 an initialiser that is an input too is a default, no constant."""
    body, default, other = DEFAULTS[what]
    params = {"c": default, **({"e": ints(3), "a": ints(1)} if "Slice" in body else {})}
    model = _with_default(build(body, {"x": (2, 3)}, params), "c")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
        output.type.tensor_type.shape.dim.add()
        output.type.tensor_type.shape.dim.add()
    try:
        result = FORMS[form](model)
    except UnsupportedOpError as error:
        assert "ReduceMax" in str(error)  # whose axes must be known
        return
    proto = checked(result)
    assert "c" in {i.name for i in proto.graph.input}
    assert list(result.names["seeds"]) == ["x"]
    x, u = weights(2, 3), weights(2, 3, seed=1)
    step = 1e-6
    for c in (default, other):
        run, original = double(proto), double(model)
        got = run({"x": x, "x_u": u, "c": c})
        ahead, behind = (original({"x": x + s * u, "c": c})["y"] for s in (step, -step))
        np.testing.assert_allclose(got["y_jvp"], (ahead - behind) / (2 * step), atol=1e-7)
        np.testing.assert_allclose(got["y"], original({"x": x, "c": c})["y"], atol=1e-12)
    without = {
        o.name: v
        for o, v in zip(
            proto.graph.output, session(proto).run(None, {"x": x, "x_u": u}), strict=True
        )
    }
    by_default = double(proto)({"x": x, "x_u": u, "c": default})
    np.testing.assert_array_equal(without["y_jvp"], by_default["y_jvp"])


# -- functions and domains ---------------------------------------------------------------------

_FUNCTIONS = """
<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>
agraph (double[N, 3] x) => (double[N, 3] y) {
    h = mine.Relu (x)
    s = mine.Twice <factor = 3.0> (h)
    y = Relu (s)
}
<domain: "mine", opset_import: ["" : 18]>
Relu (a) => (b) { b = Mul (a, a) }
<domain: "mine", opset_import: ["" : 18, "mine" : 1]>
Twice <factor> (a) => (b) {
    r = mine.Relu (a)
    n = Neg (r)
    l = LeakyRelu <alpha: float = @factor> (n)
    b = Neg (l)
}
"""


@every_form
def test_functions_are_differentiated_by_their_bodies(form: str) -> None:
    """`mine.Relu` squares: to match it by its name would be wrong."""
    model = onnx.parser.parse_model(_FUNCTIONS)
    onnx.checker.check_model(model)
    result = FORMS[form](model)
    proto = checked(result)
    assert not proto.functions
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(proto)({"x": x, "x_u": u})
    np.testing.assert_allclose(values["y"], 3 * x**4, atol=1e-9)
    np.testing.assert_allclose(values["y_jvp"], 12 * x**3 * u, atol=1e-9)


@every_form
def test_constants_cast_like_a_live_value(form: str) -> None:
    """How functions write a constant in whatever dtype they are called with."""
    body = "c = Constant<value_float=2.0>()\nd = CastLike(c, x)\ny = Mul(x, d)"
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(checked(FORMS[form](build(body, {"x": ("N", 3)}))))({"x": x, "x_u": u})
    np.testing.assert_allclose(values["y_jvp"], 2 * u, atol=1e-12)


FOREIGN = {
    "an operator": "y = mine.Relu(x)",
    "the last of a group": "g = Sigmoid(x)\ny = mine.Mul(x, g)",
    "the first of a group": "g = mine.Sigmoid(x)\ny = Mul(x, g)",
    "the division in a Gelu": (
        "d = mine.Div(x, two)\ne = Erf(d)\na = Add(e, one)\np = Mul(x, a)\ny = Mul(p, half)"
    ),
    "the square in a LayerNormalization": (
        "m = ReduceMean(x, last)\nc = Sub(x, m)\nq = mine.Pow(c, pow)\nv = ReduceMean(q, last)\n"
        "s = Add(v, eps)\nr = Sqrt(s)\nn = Div(c, r)\ng = Mul(n, w)\ny = Add(g, b)"
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
@every_form
def test_operators_of_other_domains_are_refused_whatever_their_name(what: str, form: str) -> None:
    params = {
        "two": np.array(2**0.5),
        "one": np.array(1.0),
        "half": np.array(0.5),
        "last": ints(-1),
        "pow": np.array(2.0),
        "eps": np.array(0.01),
        "w": weights(3),
        "b": weights(3),
    }
    body = FOREIGN[what].replace("mine.", "")
    used = {
        k: v
        for k, v in params.items()
        if k in body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    }
    model = build(body, {"x": ("N", 3)}, used)
    foreign = FOREIGN[what].split("mine.")[1].split("(")[0]
    for node in model.graph.node:
        if node.op_type == foreign:
            node.domain = "mine"
            break
    if what == "the last of a group":
        model.graph.node[-1].domain = "mine"
    model.opset_import.append(onnx.helper.make_opsetid("mine", 1))
    with pytest.raises(UnsupportedOpError, match=f"mine::{foreign}"):
        FORMS[form](model)


def test_the_default_domain_has_two_names() -> None:
    model = _network()
    model.opset_import[0].domain = "ai.onnx"
    onnx.checker.check_model(model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for rewrite in FORMS.values():
        got = double(checked(rewrite(model)))({"x": x, "x_u": u})
        wanted = double(rewrite(_network()).proto())({"x": x, "x_u": u})
        np.testing.assert_array_equal(got["y_jvp"], wanted["y_jvp"])


# -- control flow ------------------------------------------------------------------------------

_IF = """c = If (flag) <
    then_branch = one () => (double r) { r = Constant<value = double {2.0}> () },
    else_branch = two () => (double r) { r = Neg (k) }
    >"""


@every_form
def test_control_flow_on_a_dead_path(form: str) -> None:
    model = build(
        _IF.replace("\n", " ") + "\ny = Mul(x, c)",
        {"x": ("N", 3), "flag": np.array(True)},
        {"k": np.array(5.0)},
    )
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for flag, factor in ((True, 2.0), (False, -5.0)):
        values = double(checked(result))({"x": x, "x_u": u, "flag": np.array(flag)})
        np.testing.assert_allclose(values["y_jvp"], factor * u, atol=1e-12)


@every_form
def test_control_flow_on_a_live_path(form: str) -> None:
    """Neither node input is live: the body captures x."""
    body = _IF.replace("\n", " ").replace("Neg (k)", "ReduceSum<keepdims = 0> (x)")
    model = build(body + "\nh = Exp(x)\ny = Mul(h, c)", {"x": ("N", 3), "flag": np.array(True)})
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for flag, want in (
        (True, 2.0 * np.exp(x) * u),
        (False, np.exp(x) * (u * x.sum() + u.sum())),
    ):
        values = double(checked(result))({"x": x, "x_u": u, "flag": np.array(flag)})
        np.testing.assert_allclose(values["y_jvp"], want, atol=1e-12)


@every_form
def test_control_flow_that_cuts_the_path(form: str) -> None:
    body = """n = If (flag) <
        then_branch = one () => (int64 r) { r = Size (x) },
        else_branch = two () => (int64 r) { r = Constant<value = int64 {7}> () }
        >""".replace("\n", " ")
    model = build(
        body + "\nf = Cast<to=FLOAT>(n)\ny = Mul(x, f)", {"x": ("N", 3), "flag": np.array(True)}
    )
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for flag, factor in ((True, 6), (False, 7)):
        values = double(checked(FORMS[form](model)))({"x": x, "x_u": u, "flag": np.array(flag)})
        np.testing.assert_allclose(values["y_jvp"], factor * u, atol=1e-12)


def test_a_loop_reads_a_value_that_the_stacked_layout_moves() -> None:
    body = """n = Loop (two, yes, seven) <
        body = b (int64 i, bool k, int64 s) => (bool o, int64 t)
            { o = Identity(k) z = Size(x) t = Add(s, z) }
        >""".replace("\n", " ")
    model = build(
        body + "\nf = Cast<to=FLOAT>(n)\ny = Mul(x, f)",
        {"x": ("N", 3)},
        {"two": np.int64(2), "yes": np.bool_(True), "seven": np.int64(7)},
    )
    scalar = onnx.helper.make_tensor_value_info("n", onnx.TensorProto.INT64, [])
    model.graph.value_info.append(scalar)  # which inference cannot tell of what a loop carries
    x, u = weights(2, 3), weights(2, 3, seed=1)
    for layout in ("split", "stacked"):
        values = double(checked(clone(model, layout=layout)))({"x": x, "x_u": u})
        np.testing.assert_allclose(values["y_jvp"], 19 * u, atol=1e-12)


# -- the caller's model ------------------------------------------------------------------------


@every_form
@pytest.mark.parametrize("opset", [11, 18])
def test_the_callers_model_is_unchanged(form: str, opset: int) -> None:
    params = {"w": weights(3, 400), "b": weights(400)}
    body = "h = Gemm(x, w, b)\nr = Relu(h)\nd = Dropout(r)\ny = Softmax(d)"
    model = build(body, {"x": ("N", 3)}, params, opset=opset)
    model.doc_string = "mine"
    before = model.SerializeToString(deterministic=True)
    FORMS[form](model)
    assert model.SerializeToString(deterministic=True) == before
    wrapped = ir.from_proto(model)
    content = ir.to_proto(wrapped).SerializeToString(deterministic=True)
    values = {id(v): (v.name, str(v.shape), v.dtype) for n in wrapped.graph for v in n.outputs}
    FORMS[form](wrapped)
    assert ir.to_proto(wrapped).SerializeToString(deterministic=True) == content
    assert values == {
        id(v): (v.name, str(v.shape), v.dtype) for n in wrapped.graph for v in n.outputs
    }


def test_a_rewritten_model_is_unchanged_by_rewriting_it() -> None:
    once = jvp(_network())
    before = once.proto().SerializeToString(deterministic=True)
    clone(once, layout="stacked")
    jvp(once, wrt=["x"])
    assert once.proto().SerializeToString(deterministic=True) == before


def test_what_the_model_says_of_itself_is_kept() -> None:
    model = _network()
    model.metadata_props.add(key="author", value="someone")
    model.doc_string = "about"
    model.graph.name = "net"
    for rewrite in FORMS.values():
        proto = rewrite(model).proto()
        described = {p.key: p.value for p in proto.metadata_props}
        assert described["author"] == "someone"
        assert proto.graph.name == "net"
        assert proto.producer_name == "onnxjvp"
        assert proto.ir_version >= 8


def test_metadata_survives_a_raised_opset() -> None:
    model = build("y = Relu(x)", {"x": ("N", 3)}, opset=9)
    model.metadata_props.add(key="author", value="someone")
    result = jvp(model)
    assert {p.key: p.value for p in result.proto().metadata_props}["author"] == "someone"
    assert result.report["raised_from"] == 9
    assert result.report["opset"] == 18
    assert result.proto().opset_import[0].version == 18


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 22, 23])
def test_newer_opsets_are_kept(opset: int) -> None:
    model = build("h = Relu(x)\ny = Tanh(h)", {"x": ("N", 3)}, opset=opset)
    proto = checked(jvp(model))
    assert proto.opset_import[0].version == opset
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = double(proto)({"x": x, "x_u": u})
    wanted = np.where(x > 0, (1 - np.tanh(x) ** 2) * u, 0)
    np.testing.assert_allclose(values["y_jvp"], wanted, atol=1e-12)


@every_form
def test_bfloat16_stays_bfloat16(form: str) -> None:
    """onnxruntime's CPU provider has few kernels for it: what can be checked is the model."""
    body = "h = Gemm(x, w, b)\nr = Relu(h)\ng = Gelu(r)\ny = Softmax(g)"
    params = {"w": weights(3, 4), "b": weights(4)}
    model = build(body, {"x": ("N", 3)}, params, opset=20, dtype="float32")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.elem_type = onnx.TensorProto.BFLOAT16
    proto = checked(FORMS[form](model))
    for info in (*proto.graph.input, *proto.graph.output):
        assert info.type.tensor_type.elem_type == onnx.TensorProto.BFLOAT16
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    assert not {t.data_type for t in proto.graph.initializer} & floats


# -- shapes as declared ------------------------------------------------------------------------

DECLARED: dict[str, tuple[int | str | None, ...]] = {
    "a name": ("batch", 3),
    "an expression": ("2*batch", 3),
    "nothing": (None, 3),
    "several": ("N", "features"),
    "one name twice": ("N", "N"),
    "odd words": ("unk__69", 3),
    "a name with spaces": ("batch size", 3),
    "a dotted name": ("x.shape[0]", 3),
    "a keyword": ("lambda", 3),
    "a function of sympy": ("E", "pi"),
}


@pytest.mark.parametrize("kind", DECLARED)
@every_form
def test_dimensions_stay_as_declared(kind: str, form: str) -> None:
    shape = DECLARED[kind]
    model = build("h = Exp(x)\ny = Mul(h, x)", {"x": shape})  # type: ignore[dict-item]
    result = FORMS[form](model)
    proto = checked(result)
    found = {i.name: shape_of(i) for i in (*proto.graph.input, *proto.graph.output)}
    (y,) = (shape_of(o) for o in model.graph.output)
    assert found["x"] == found["x_u"] == shape
    assert {found[name] for name in found if name.startswith("y")} == {y}
    assert "y_jvp" in found
    size = (2, 2) if kind == "one name twice" else (2, 3)
    x, u = weights(*size), weights(*size, seed=1)
    values = double(proto)({"x": x, "x_u": u})
    np.testing.assert_allclose(values["y_jvp"], np.exp(x) * (1 + x) * u, atol=1e-9)


@every_form
def test_declared_inner_shapes_that_lie_are_not_trusted(form: str) -> None:
    """tf2onnx and hand edits leave stale value_info behind."""
    body = "h = Exp(x)\nr = Reshape(h, s)\ny = Mul(r, c)"
    model = build(body, {"x": ("N", 4)}, {"s": ints(-1, 2), "c": weights(2)})
    stale = onnx.helper.make_tensor_value_info("r", onnx.TensorProto.DOUBLE, ("N", 2))
    model.graph.value_info.append(stale)  # it is [2 N, 2]
    result = FORMS[form](model)
    x, u = weights(3, 4), weights(3, 4, seed=1)
    values = double(result.proto())({"x": x, "x_u": u})
    np.testing.assert_allclose(
        values["y_jvp"], (np.exp(x) * u).reshape(-1, 2) * weights(2), atol=1e-9
    )


# -- files -------------------------------------------------------------------------------------


def _external(folder: Path) -> Path:
    params = {"w": weights(3, 500), "b": weights(500), "v": weights(500, 2)}
    body = "h = Gemm(x, w, b)\nr = Relu(h)\ny = Gemm(r, v)"
    model = build(body, {"x": ("N", 3)}, params, dtype="float32")
    path = folder / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


@every_form
def test_external_data_is_referred_to_or_copied(form: str, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    path = _external(here)
    x, u = (weights(2, 3, seed=i).astype(np.float32) for i in range(2))
    wanted = ort(FORMS[form](onnx.load(path)).proto(), {"x": x, "x_u": u})
    result = FORMS[form](path)
    beside = result.save(here / "out.onnx")
    assert sorted(p.name for p in here.iterdir()) == ["model.onnx", "out.onnx", "weights.bin"]
    assert beside.stat().st_size < 16_000
    away = result.save(there / "out.onnx")
    assert sorted(p.name for p in there.iterdir()) == ["out.onnx", "out.onnx.data"]
    for saved in (beside, away):
        onnx.checker.check_model(str(saved), full_check=True)
        values = ort(saved, {"x": x, "x_u": u})
        np.testing.assert_array_equal(values["y_jvp"], wanted["y_jvp"])
    (here / "weights.bin").unlink()
    np.testing.assert_array_equal(ort(away, {"x": x, "x_u": u})["y"], wanted["y"])


def test_saved_and_held_results_are_the_same(tmp_path: Path, model_file: str) -> None:
    result = jvp(model_file)
    saved, held = onnx.load(result.save(tmp_path / "out.onnx")), result.proto()
    for part in ("node", "input", "output"):
        assert list(getattr(saved.graph, part)) == list(getattr(held.graph, part))
    assert saved.opset_import == held.opset_import
    assert saved.metadata_props == held.metadata_props
    assert saved.ir_version == held.ir_version
    kept, wanted = (
        {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
        for proto in (saved, held)
    )
    assert kept.keys() == wanted.keys()
    for name, array in wanted.items():
        assert kept[name].dtype == array.dtype
        np.testing.assert_array_equal(kept[name], array)


def test_bad_models_are_refused() -> None:
    model = _network()
    model.graph.node[1].input[0] = "nothing"
    with pytest.raises(InvalidModelError, match="reads 'nothing'"):
        jvp(model)


def test_every_node_has_a_name_of_its_own() -> None:
    model = _network()
    model.graph.node[0].name = "onnxjvp/Gemm_0"
    for rewrite in FORMS.values():
        names = [n.name for n in nodes_of(rewrite(model).proto()) if n.name]
        assert len(names) == len(set(names))


@every_form
def test_an_operator_that_changes_the_dtype(form: str) -> None:
    """Scaler writes float32, whatever it reads: the tangent goes with it."""
    model = build("y = ai.onnx.ml.Scaler<offset=[1.0], scale=[2.0]>(x)", {"x": ("N", 3)})
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    result = FORMS[form](model)
    x, u = weights(2, 3), weights(2, 3, seed=1)
    values = ort(checked(result), {"x": x, "x_u": u})
    assert values["y_jvp"].dtype == np.float32
    np.testing.assert_allclose(values["y_jvp"], 2 * u, atol=1e-5)
