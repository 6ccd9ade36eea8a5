"""Jᵀ as a pass: dense Jacobians from both sides, which outputs and variables take part, sizes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from helpers import (
    MODELS,
    TOLERANCES,
    Array,
    Run,
    Values,
    assert_close,
    build,
    checked,
    double,
    ints,
    ort,
    shape_of,
    weights,
)
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_node
from trained import direction, inputs_of, point

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph.load import load
from onnxjvp.graph.ops import Ops
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.passes.linearize import linearize
from onnxjvp.passes.transpose import transpose
from onnxjvp.rewrite import Rewritten, jvp, vjp

EXACT = TOLERANCES["float64"]

# -- dense Jacobians ---------------------------------------------------------------------------

#: a network, its variable, and how many rows of input
DENSE = [
    ("diabetes_mlp.onnx", "features", 2),
    ("diabetes_mlp.onnx", "layers.2.weight", 2),
    ("diabetes_mlp.onnx", "layers.0.bias", 2),
    ("wine_mlp.onnx", "features", 2),
    ("wine_mlp.onnx", "coefficient2", 2),
    ("digits_cnn.onnx", "image", 1),
    ("digits_cnn.onnx", "features.4.weight", 1),
    ("digits_rnn.onnx", "read.bias", 4),
]


def _unit_vectors(shape: tuple[int, ...]) -> Array:
    size = int(np.prod(shape))
    return np.eye(size).reshape(size, *shape)


def _by_columns(result: Rewritten, run: Run, x: Values, name: str, shape: tuple[int, ...]) -> Array:
    """[*y, *variable], from J u at every unit vector."""
    (y,) = result.names["results"]
    seed, tangent = result.names["seeds"][name], result.names["results"][y]["jvp"]
    columns = [run({**x, seed: unit})[tangent] for unit in _unit_vectors(shape)]
    return np.stack(columns, -1).reshape(*columns[0].shape, *shape)


def _by_rows(result: Rewritten, run: Run, x: Values, name: str, shape: tuple[int, ...]) -> Array:
    """[*y, *variable], from Jᵀ v at every unit vector."""
    ((_, ct),) = result.names["cotangents"].items()
    found = result.names["results"][name]["vjp"]
    rows = [run({**x, ct: unit})[found] for unit in _unit_vectors(shape)]
    return np.stack(rows).reshape(*shape, *rows[0].shape)


def _point(file: str, rows: int) -> tuple[Values, Values]:
    """Inputs, and parameters, in float64."""
    path = str(MODELS / file)
    x = {name: value[:rows] for name, value in point(path).items()}
    if isinstance(shape_of(inputs_of(onnx.load(path))[0])[0], int):
        x = point(path)
    tensors = onnx.load(path).graph.initializer
    return x, {t.name: numpy_helper.to_array(t).astype(float) for t in tensors}


@pytest.mark.parametrize(("file", "name", "rows"), DENSE)
def test_dense_jacobians_from_columns_rows_and_differences(file: str, name: str, rows: int) -> None:
    path = str(MODELS / file)
    x, parameters = _point(file, rows)
    at = {name: {**parameters, **x}[name]}
    pushed, pulled = jvp(path, wrt=[name]), vjp(path, wrt=[name])
    (y,) = pushed.names["results"]
    original = Evaluator(path)
    primal = original.run(x)[y]
    columns = _by_columns(pushed, Evaluator(checked(pushed)).run, x, name, at[name].shape)
    jacobian = _by_rows(pulled, Evaluator(checked(pulled)).run, x, name, primal.shape)
    assert_close(jacobian, columns, EXACT, "rows against columns")
    assert np.linalg.matrix_rank(jacobian.reshape(primal.size, -1)) > 1
    rng = np.random.default_rng(0)
    flat = jacobian.reshape(primal.size, -1)
    for _ in range(3):
        u = np.abs(at[name]).mean() * rng.standard_normal(at[name].shape)
        wanted = directional_derivative(
            lambda moved: original.run({**x, **moved}), at, {name: u}, [y]
        )
        settled = ~wanted.kinks[y]
        assert settled.mean() > 0.8
        got = (flat @ u.ravel()).reshape(primal.shape)
        assert_close(np.where(settled, got, 0), np.where(settled, wanted.value[y], 0), 1e-5, "J u")


def test_trained_networks_are_transposed(model_file: str) -> None:
    x = point(model_file)
    u = direction(x)
    pushed, pulled = jvp(model_file), vjp(model_file)
    values = Evaluator(checked(pushed)).run(
        {**x, **{pushed.names["seeds"][k]: a for k, a in u.items()}}
    )
    ju = {y: values[names["jvp"]] for y, names in pushed.names["results"].items()}
    rng = np.random.default_rng(1)
    v = {y: rng.standard_normal(tangent.shape) for y, tangent in ju.items()}
    fed = {**x, **{pulled.names["cotangents"][y]: a for y, a in v.items()}}
    found = Evaluator(checked(pulled)).run(fed)
    jtv = {k: found[names["vjp"]] for k, names in pulled.names["results"].items()}
    assert jtv.keys() == u.keys()
    _check_adjoint(v, ju, jtv, u, EXACT)
    single = {k: a.astype(np.float32) for k, a in fed.items()}
    for optimize in (False, True):
        before = ort(model_file, {k: single[k] for k in x}, optimize)
        after = ort(pulled.proto(), single, optimize)
        for name, y in before.items():
            assert optimize or after[name].tobytes() == y.tobytes(), f"{name} has changed"
        exact = Evaluator(pulled.proto()).run({k: a.astype(float) for k, a in single.items()})
        for name in jtv:
            ct = pulled.names["results"][name]["vjp"]
            assert_close(after[ct], exact[ct], TOLERANCES["float32"], ct)


def _check_adjoint(v: Values, ju: Values, jtv: Values, u: Values, tolerance: float) -> None:
    products = np.concatenate([(v[y] * ju[y]).ravel() for y in ju])
    right = sum((jtv[name] * u[name]).sum() for name in jtv)
    scale = np.abs(products).sum()
    assert abs(products.sum()) > 1e-5 * scale > 0
    assert abs(products.sum() - right) <= tolerance * scale


# -- which outputs and variables take part -----------------------------------------------------


def _pulled(result: Rewritten, x: Values, v: Mapping[str, Array]) -> Values:
    fed = {result.names["cotangents"][y]: a for y, a in v.items()}
    values = double(checked(result))({**x, **fed})
    return {name: values[names["vjp"]] for name, names in result.names["results"].items()}


_MANY = "y = Sin(a)\nz = Mul(a, b)\nk = Exp(c)\ni = ArgMax(a)\nf = Floor(b)"
_MANY_INPUTS = {"a": ("N", 3), "b": ("N", 3), "c": (2,)}


def _many() -> onnx.ModelProto:
    return build(_MANY, _MANY_INPUTS, {}, ("y", "z", "k", "i", "f"))


def test_several_outputs_add_up_in_several_inputs() -> None:
    x = {"a": weights(2, 3), "b": weights(2, 3, seed=1), "c": weights(2)}
    v = {"y": weights(2, 3, seed=2), "z": weights(2, 3, seed=3), "k": weights(2, seed=4)}
    result = vjp(_many())
    assert list(result.names["cotangents"]) == ["y", "z", "k"]
    assert set(result.report["excluded"]) == {"i", "f"}
    assert "int64" in result.report["excluded"]["i"]
    assert "Floor" in result.report["excluded"]["f"]
    found = _pulled(result, x, v)
    np.testing.assert_allclose(found["a"], v["y"] * np.cos(x["a"]) + v["z"] * x["b"], atol=1e-14)
    np.testing.assert_allclose(found["b"], v["z"] * x["a"], atol=1e-14)
    np.testing.assert_allclose(found["c"], v["k"] * np.exp(x["c"]), atol=1e-14)


def test_outputs_that_a_variable_does_not_reach_are_named() -> None:
    result = vjp(_many(), wrt=["b"])
    assert list(result.names["cotangents"]) == ["z"]
    assert list(result.names["results"]) == ["b"]
    assert set(result.report["excluded"]) == {"y", "k", "i", "f"}
    assert "does not depend" in result.report["excluded"]["y"]
    x = {"a": weights(2, 3), "b": weights(2, 3, seed=1), "c": weights(2)}
    values = double(checked(result))({**x, "z_ct": np.ones((2, 3))})
    np.testing.assert_array_equal(values["b_vjp"], x["a"])
    for name, y in double(_many())(x).items():
        np.testing.assert_array_equal(values[name], y)


def test_variables_that_reach_no_output_are_named() -> None:
    result = vjp(_many(), outputs=["z", "y"])
    assert list(result.names["cotangents"]) == ["z", "y"]
    assert list(result.names["results"]) == ["a", "b"]
    assert "no output depends on it" in result.report["excluded"]["c"]


def test_nothing_to_differentiate_is_refused() -> None:
    with pytest.raises(UnsupportedOpError, match="no output has a derivative"):
        vjp(_many(), wrt=["c"], outputs=["y", "z"])
    with pytest.raises(UnsupportedOpError, match="no output has a derivative"):
        vjp(_many(), outputs=["i"])


def _model(
    lines: str, inputs: Mapping[str, object], outputs: Mapping[str, object], **params: Array
) -> onnx.ModelProto:
    """A float64 model with outputs as they are declared."""

    def info(name: str, shape: object) -> onnx.ValueInfoProto:
        if isinstance(shape, np.ndarray):
            return helper.make_tensor_value_info(name, TensorProto.INT64, shape.shape)
        return helper.make_tensor_value_info(name, TensorProto.DOUBLE, shape)

    graph = helper.make_graph(
        [parse_node(line) for line in lines.splitlines()],
        "case",
        [info(name, shape) for name, shape in inputs.items()],
        [info(name, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in params.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def test_an_output_that_is_the_input() -> None:
    model = _model("y = Sin(x)", {"x": ("N", 2)}, {"x": ("N", 2), "y": ("N", 2)})
    x, v, w = (weights(3, 2, seed=k) for k in range(3))
    result = vjp(model)
    values = double(result.proto())({"x": x, "x_ct": v, "y_ct": w})
    np.testing.assert_allclose(values["x_vjp"], v + w * np.cos(x), atol=1e-14)
    alone = vjp(model, outputs=["x"])
    values = double(alone.proto())({"x": x, "x_ct": v})
    np.testing.assert_array_equal(values["x_vjp"], v)


def test_one_value_as_two_outputs() -> None:
    model = _model(
        "h = Sin(x)\ny = Identity(h)\nz = Identity(h)",
        {"x": ("N", 2)},
        {"y": ("N", 2), "h": ("N", 2), "z": ("N", 2)},
    )
    x, u, v, w = (weights(3, 2, seed=k) for k in range(4))
    found = _pulled(vjp(model), {"x": x}, {"y": u, "h": v, "z": w})
    np.testing.assert_allclose(found["x"], (u + v + w) * np.cos(x), atol=1e-14)


def test_a_scalar_output_has_the_gradient() -> None:
    model = build("s = Mul(x, x)\ny = ReduceSum<keepdims=0>(s)", {"x": ("N", 3)})
    x = weights(2, 3)
    found = _pulled(vjp(model), {"x": x}, {"y": np.array(1.0)})
    np.testing.assert_allclose(found["x"], 2 * x, atol=1e-14)


def test_a_value_that_is_read_often_gets_the_sum() -> None:
    model = build(
        "a = Sin(x)\nb = Mul(a, x)\nc = Add(a, b)\nd = Sub(c, a)\ny = Mul(d, x)", {"x": (3,)}
    )
    x, v = weights(3), weights(3, seed=1)
    found = _pulled(vjp(model), {"x": x}, {"y": v})
    np.testing.assert_allclose(found["x"], v * (2 * x * np.sin(x) + x * x * np.cos(x)), atol=1e-13)


def test_names_do_not_clash() -> None:
    model = build(
        "y = Mul(x, x_vjp)\ny_ct = Sin(x)",
        {"x": ("N", 2), "x_vjp": ("N", 2)},
        outputs=("y", "y_ct"),
    )
    result = vjp(model)
    assert result.names["cotangents"] == {"y": "y_ct_", "y_ct": "y_ct_ct"}
    assert result.names["results"]["x"] == {"vjp": "x_vjp_"}
    checked(result)


def test_all_refusals_are_named_at_once() -> None:
    model = build("h = Det(x)\ny = Det(x)", {"x": (40, 40)}, outputs=("h", "y"))
    with pytest.raises(UnsupportedOpError, match="2 node") as caught:
        vjp(model)
    assert {name for name, _, _ in caught.value.nodes} == {"h", "y"}


# -- the program -------------------------------------------------------------------------------


def test_the_transpose_of_the_transpose_is_the_program_again() -> None:
    """As a map: Jᵀᵀ u = J u; it shares the residuals, and reads no tangent."""
    model = build(
        "h = Gemm(x, w, b)\nr = Relu(h)\ns = Softmax(r)\ny = MatMul(s, w)",
        {"x": ("N", 3)},
        {"w": weights(3, 3), "b": weights(3)},
    )
    source = load(model)
    op = Ops(source.shapes, source.graph)
    program, _ = linearize(source, op, list(source.inputs), list(source.graph.outputs))
    pulled = transpose(op, program)
    assert not set(pulled.seeds) & set(program.seeds)
    assert not {v for n in program.nodes for v in n.outputs} & {
        v for n in pulled.nodes for v in n.inputs
    }
    assert all(n in program.residuals or n not in program.nodes for n in pulled.residuals)
    again = transpose(op, pulled)
    assert len(again.outs) == len(program.outs) == 1
    twice = vjp(vjp(model), wrt=["y_ct"], outputs=["x_vjp"])
    once = jvp(model)
    x, u = weights(4, 3), weights(4, 3, seed=1)
    wanted = double(once.proto())({"x": x, "x_u": u})["y_jvp"]
    values = double(checked(twice))({"x": x, "y_ct": np.zeros((4, 3)), "x_vjp_ct": u})
    assert_close(values["y_ct_vjp"], wanted, EXACT, "Jᵀᵀ u")


def test_f_of_x_does_not_change(model_file: str) -> None:
    """Every node of the original is there as it was."""
    original = load(model_file).model
    result = vjp(model_file)
    kept = {v.name for n in result.model.graph for v in n.outputs}
    assert {v.name for n in original.graph for v in n.outputs if v.uses()} <= kept


# -- sizes known at run time only --------------------------------------------------------------

#: body, then shapes of the inputs and of y; sizes of all symbols by letter
BROADCASTS: dict[str, tuple[str, dict[str, object], object]] = {
    "Add": ("y = Add(a, b)", {"a": ("P",), "b": ("Q",)}, ("R",)),
    "Mul": ("y = Mul(a, b)", {"a": ("P", 2), "b": ("Q", 1)}, ("R", 2)),
    "a sum of three": ("y = Sum(a, b, c)", {"a": ("P",), "b": ("Q",), "c": (1,)}, ("R",)),
    "Where": (
        "k = Greater(c, zero)\ns = Where(k, a, b)\ny = ReduceSum<keepdims=0>(s)",
        {"a": (1,), "b": ("Q",), "c": ("P",)},
        (),
    ),
    "two in a row": (
        "s = Mul(a, b)\nt = Sub(s, c)\ny = Div(t, b)",
        {"a": ("P",), "b": ("Q",), "c": (1,)},
        ("R",),
    ),
    "in rank": ("y = Mul(a, b)", {"a": ("P",), "b": ("Q", 1, "P")}, ("Q", 1, "P")),
    "matrices": ("y = MatMul(a, b)", {"a": ("P", 2, 3), "b": ("Q", 3, 2)}, ("R", 2, 2)),
    "Expand": (
        "s = Shape(b)\ne = Expand(a, s)\ny = Mul(e, b)",
        {"a": ("P",), "b": ("Q",)},
        ("R",),
    ),
    "to a number": (
        "s = Mul(a, b)\nt = Add(s, c)\ny = ReduceMean<keepdims=0>(t)",
        {"a": ("P",), "b": ("Q",), "c": (1,)},
        (),
    ),
    "Gemm": ("y = Gemm(a, w, b)", {"a": ("R", 3), "b": ("Q", 1)}, ("R", 2)),
}


@pytest.mark.parametrize("sizes", [(3, 3), (1, 3), (3, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("what", BROADCASTS)
def test_broadcasts_that_show_at_run_time(what: str, sizes: tuple[int, int]) -> None:
    body, inputs, output = BROADCASTS[what]
    p, q = sizes
    known = {"P": p, "Q": q, "R": max(p, q)}
    params = {"zero": np.array(0.0), "w": weights(3, 2)}
    named = {k: v for k, v in params.items() if k in body.replace("(", " ").replace(")", " ")}
    named = {k: v for k, v in named.items() if f" {k}" in body}
    model = _model(body, inputs, {"y": output}, **named)
    rng = np.random.default_rng(8)
    x, u = (
        {
            name: rng.uniform(0.5, 2.0, [known.get(d, d) for d in shape])
            for name, shape in inputs.items()
        }
        for _ in range(2)
    )
    pushed, pulled = jvp(model), vjp(model)
    assert list(pushed.names["seeds"]) == list(pulled.names["results"]) + [
        name for name in inputs if name in pulled.report["excluded"]
    ]
    seeds = {pushed.names["seeds"][k]: a for k, a in u.items()}
    ju = double(checked(pushed))({**x, **seeds})["y_jvp"]
    wanted = directional_derivative(double(model), x, u, ["y"])
    assert_close(ju, wanted.value["y"], 1e-6, "J u")
    v = rng.uniform(0.5, 2.0, ju.shape)
    jtv = _pulled(pulled, x, {"y": v})
    for name, ct in jtv.items():
        assert ct.shape == x[name].shape
    _check_adjoint({"y": v}, {"y": ju}, jtv, u, EXACT)


#: operators with integer operands that are fed, and a y whose rank the file declares
FED: dict[str, tuple[str, dict[str, object], object]] = {
    "ReduceSum": ("y = ReduceSum<keepdims=0>(x, i)", {"i": ints(-1, 0)}, ("R",)),
    "ReduceMean": ("y = ReduceMean<keepdims=0>(x, i)", {"i": ints(-1, 0)}, ("R",)),
    "ReduceSum, kept": ("y = ReduceSum(x, i)", {"i": ints(1)}, ("R", "S", "T")),
    "Slice": ("y = Slice(x, i, j)", {"i": ints(-3, 1, 0), "j": ints(9, -1, 2)}, ("R", "S", "T")),
    "Pad": ("y = Pad(x, i)", {"i": ints(1, 0, -1, 0, 2, 0)}, ("R", "S", "T")),
    "Tile": ("y = Tile(x, i)", {"i": ints(1, 2, 3)}, ("R", "S", "T")),
    "Expand": ("y = Expand(x, i)", {"i": ints(2, 1, 1, 1)}, ("R", "S", "T", "U")),
    "Reshape": ("y = Reshape(x, i)", {"i": ints(-1, 6)}, ("R", "S")),
    "Gather": ("y = Gather<axis=1>(x, i)", {"i": ints(-1, 0, -1)}, ("R", "S", "T")),
    "Squeeze": ("a = Unsqueeze(x, i)\ny = Sin(a)", {"i": ints(0)}, ("R", "S", "T", "U")),
    "Split": ("a, y = Split<axis=1>(x, i)", {"i": ints(1, 3)}, ("R", "S", "T")),
}


@pytest.mark.parametrize("what", FED)
def test_shapes_that_are_fed(what: str) -> None:
    body, fed, output = FED[what]
    model = _model(body, {"x": ("A", "B", "C"), **fed}, {"y": output})
    try:
        pushed = jvp(model)
    except UnsupportedOpError:
        with pytest.raises(UnsupportedOpError):
            vjp(model)
        return
    x, u = weights(3, 4, 5), weights(3, 4, 5, seed=1)
    ju = double(checked(pushed))({"x": x, "x_u": u, **fed})["y_jvp"]
    v = np.random.default_rng(0).standard_normal(ju.shape)
    jtv = _pulled(vjp(model), {"x": x, **fed}, {"y": v})
    assert jtv["x"].shape == x.shape
    _check_adjoint({"y": v}, {"y": ju}, jtv, {"x": u}, EXACT)


def test_sizes_that_nobody_knows_are_refused_by_name() -> None:
    """How long the signal of half a spectrum is depends on the axis, which is fed."""
    shape = {"x": ("N", 5, 2), "a": ()}
    model = build(
        "axis = Cast<to=7>(a)\ny = DFT<inverse=1, onesided=1>(x, , axis)", shape, opset=20
    )
    jvp(model, ["x"])
    with pytest.raises(UnsupportedOpError, match=r"DFT \(for 'y'\): the axis of its half spectrum"):
        vjp(model, ["x"])


def test_stacks_of_layers_that_are_read_again_are_split_once() -> None:
    """As in a DenseNet, where every layer reads all layers before it."""
    body = """
a = Tanh(x)
s = Concat<axis=1>(x, a)
b = MatMul(s, v)
t = Concat<axis=1>(x, a, b)
c = MatMul(t, w)
y = Concat<axis=1>(x, a, b, c)
"""
    model = build(body, {"x": ("N", 2)}, {"v": weights(4, 3), "w": weights(7, 2)})
    result = vjp(model)
    counts = [len(node.output) for node in result.proto().graph.node if node.op_type == "Split"]
    assert counts == [2, 2, 2]
    x, v, u = {"x": weights(3, 2)}, {"y": weights(3, 9)}, {"x": weights(3, 2, seed=5)}
    wanted = directional_derivative(double(model), x, u, ["y"])
    _check_adjoint(v, {"y": wanted.value["y"]}, _pulled(result, x, v), u, 1e-7)
