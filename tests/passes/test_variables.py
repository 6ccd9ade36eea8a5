"""Parameters and inner values as variables: J u, Jᵀ v and the frozen network f_W."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cases_variables import CASES, DEPENDENT, ROWS, VariableCase
from helpers import (
    MODELS,
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    checked,
    double,
    ort,
    weights,
)
from onnx import ModelProto, helper, numpy_helper
from trained import point

from onnxjvp import Rewritten
from onnxjvp.errors import InputError, UsageError
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.rewrite import clone, jvp, vjp

EXACT = TOLERANCES["float64"]
#: J u against differences of a smooth function, or away from kinks
SETTLED = 1e-6


# -- the oracle: variables made inputs ---------------------------------------------------------


def opened(model: ModelProto, shapes: Mapping[str, Sequence[int]]) -> ModelProto:
    """The model with parameters as inputs, and inputs `NAME/by` that are added to inner values."""
    result = ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    number = graph.output[0].type.tensor_type.elem_type
    for name, shape in shapes.items():
        for node in graph.node:
            if name in node.output and node.op_type != "Constant":
                node.output[list(node.output).index(name)] = f"{name}/made"
                shifted = helper.make_node("Add", [f"{name}/made", f"{name}/by"], [name])
                graph.node.insert(list(graph.node).index(node) + 1, shifted)
                graph.input.append(helper.make_tensor_value_info(f"{name}/by", number, shape))
                break
        else:
            kept = [n for n in graph.node if name not in n.output]
            del graph.node[:]
            graph.node.extend(kept)
            tensors = [t for t in graph.initializer if t.name != name]
            del graph.initializer[:]
            graph.initializer.extend(tensors)
            if name not in {info.name for info in graph.input}:
                graph.input.append(helper.make_tensor_value_info(name, number, shape))
    return result


def differences(
    model: ModelProto, x: Values, at: Values, u: Values, outputs: Sequence[str]
) -> Values:
    """J u in parameters that are `at`, in inner values from where they are, and in inputs."""
    inner = {n for node in model.graph.node if node.op_type != "Constant" for n in node.output}
    start, along = dict(x), {}
    for name, direction in u.items():
        fed = f"{name}/by" if name in inner else name
        along[fed] = direction
        start[fed] = np.zeros_like(direction) if name in inner else at[name]
    shapes = {name: v.shape for name, v in u.items() if name not in x}
    found = directional_derivative(double(opened(model, shapes)), start, along, outputs)
    for name in outputs:
        assert not found.kinks[name].any(), f"{name}: differences settle nothing"
        assert found.value[name].any(), f"{name}: the derivative is zero"
    return found.value


def seeded(result: Rewritten, x: Values, u: Mapping[str, Array]) -> Values:
    return {**x, **{result.names["seeds"][name]: array for name, array in u.items()}}


def forms(result: Rewritten, values: Values, form: str) -> Values:
    return {y: values[names[form]] for y, names in result.names["results"].items()}


# -- products ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [*CASES, *DEPENDENT], ids=str)
def test_jvp_matches_finite_differences(case: VariableCase) -> None:
    model, x, u = case.model(), case.point(), case.direction()
    wanted = differences(model, x, case.at(), u, ["y"])
    result = jvp(model, wrt=case.wrt)
    assert tuple(result.names["seeds"]) == case.wrt
    values = double(checked(result))(seeded(result, x, u))
    np.testing.assert_array_equal(values["y"], double(model)(x)["y"])
    assert_close(values["y_jvp"], wanted["y"], SETTLED, "J u")


@pytest.mark.parametrize("case", [*CASES, *DEPENDENT], ids=str)
def test_vjp_is_the_adjoint(case: VariableCase) -> None:
    model, x, u, at = case.model(), case.point(), case.direction(), case.at()
    wanted = differences(model, x, at, u, ["y"])["y"]
    result = vjp(model, wrt=case.wrt)
    v = np.random.default_rng(4).standard_normal(wanted.shape)
    values = double(checked(result))({**x, "y_ct": v})
    jtv = forms(result, values, "vjp")
    assert tuple(jtv) == case.wrt
    for name, ct in jtv.items():
        assert ct.shape == np.shape(at[name])
    left, right = (v * wanted).sum(), sum((jtv[name] * u[name]).sum() for name in u)
    scale = np.abs(v * wanted).sum()
    assert abs(left) > 1e-3 * scale
    assert abs(left - right) <= SETTLED * scale


@pytest.mark.parametrize("case", [*CASES, *DEPENDENT], ids=str)
def test_products_run_in_float32(case: VariableCase) -> None:
    model = case.model("float32")
    x = {k: v.astype(np.float32) if v.dtype == float else v for k, v in case.point().items()}
    u = {k: v.astype(np.float32) for k, v in case.direction().items()}
    y = ort(model, x)["y"]
    v = np.random.default_rng(4).standard_normal(y.shape).astype(np.float32)
    pushed, pulled = jvp(model, wrt=case.wrt), vjp(model, wrt=case.wrt)
    tangent = ort(checked(pushed), seeded(pushed, x, u))
    cotangent = ort(checked(pulled), {**x, "y_ct": v})
    assert tangent["y"].tobytes() == cotangent["y"].tobytes() == y.tobytes()
    products = (v * tangent["y_jvp"]).astype(float)
    jtv = forms(pulled, cotangent, "vjp")
    right = sum((jtv[name].astype(float) * u[name]).sum() for name in u)
    assert all(ct.dtype == np.float32 for ct in jtv.values())
    assert abs(products.sum() - right) <= TOLERANCES["float32"] * np.abs(products).sum()


# -- the frozen network ------------------------------------------------------------------------


def _tangent(case: VariableCase, u: Values) -> Array:
    result = jvp(case.model(), wrt=case.wrt)
    return double(result.proto())(seeded(result, case.point(), u))["y_jvp"]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_clone_is_the_network_with_other_weights(case: VariableCase, layout: str) -> None:
    """f_W(U) − f_W(0) = J U, f_W(0) = f − J W, f_W(W) = f."""
    x, at, u = case.point(), case.at(), case.direction()
    ju, jw = _tangent(case, u), _tangent(case, at)
    y = double(case.model())(x)["y"]
    result = clone(case.model(), wrt=case.wrt, layout=layout)
    run = double(checked(result))
    values = run(seeded(result, x, u))
    scale = float(max(np.abs(each).max() for each in (y, ju, jw)))
    assert_close(values["y"], y, EXACT, "f", scale)
    assert_close(values["y_jvp"], ju, EXACT, "J U", scale)
    assert_close(values["y_u"] - values["y_0"], ju, EXACT, "f_W(U) − f_W(0)", scale)
    assert_close(values["y_0"], y - jw, EXACT, "f_W(0)", scale)
    assert_close(run(seeded(result, x, at))["y_u"], y, EXACT, "f_W(W)", scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_substitution_runs_the_weights_less_the_direction(case: VariableCase) -> None:
    x, u = case.point(), case.direction()
    ju, y = _tangent(case, u), double(case.model())(x)["y"]
    result = clone(case.model(), wrt=case.wrt, method="substitute")
    values = double(checked(result))(seeded(result, x, u))
    scale = float(max(np.abs(each).max() for each in (y, ju)))
    assert_close(values["y"], y, EXACT, "f", scale)
    assert_close(values["y_s"], y - ju, EXACT, "f_W(W − U)", scale)
    assert_close(values["y_jvp"], ju, EXACT, "J U", scale)


@pytest.mark.parametrize("case", DEPENDENT, ids=str)
@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_clone_refuses_a_variable_computed_from_another(case: VariableCase, layout: str) -> None:
    with pytest.raises(UsageError, match="computed from another variable"):
        clone(case.model(), wrt=case.wrt, layout=layout)


@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_the_printed_sign_is_wrong_in_weights_too(layout: str) -> None:
    """The paper prints J U = f(W) − f_W(U − W); it is f(W) − f_W(W − U)."""
    case = next(c for c in CASES if c.name == "W of a Conv")
    x, w, u = case.point(), case.at()["w"], case.direction()["w"]
    ju, jw = _tangent(case, {"w": u}), _tangent(case, {"w": w})
    result = clone(case.model(), wrt=["w"], layout=layout)
    run = double(result.proto())

    def frozen(at: Array) -> Array:
        return run(seeded(result, x, {"w": at}))["y_u"]

    y = run(seeded(result, x, {"w": u}))["y"]
    scale = float(np.abs(y).max())
    assert_close(y - frozen(w - u), ju, EXACT, "f(W) − f_W(W − U)", scale)
    printed = y - frozen(u - w)
    assert np.abs(printed - ju).max() > 0.1 * np.abs(ju).max(), "the printed formula must fail"
    assert_close(printed, 2 * jw - ju, EXACT, "what it gives in fact", scale)


# -- what comes before the variable runs once --------------------------------------------------

_LAYERS = "h1 = Conv(x, w1)\nr1 = Relu(h1)\nh2 = Conv(r1, w2)\nr2 = Relu(h2)\ny = Conv(r2, w3)"
_LAYER_PARAMS = {f"w{k}": weights(2, 2, 2, 2, seed=k) for k in (1, 2, 3)}
_FORMS: dict[str, Any] = {
    "jvp": lambda model, wrt: jvp(model, wrt=wrt),
    "vjp": lambda model, wrt: vjp(model, wrt=wrt),
    "split": lambda model, wrt: clone(model, wrt=wrt, layout="split"),
    "stacked": lambda model, wrt: clone(model, wrt=wrt, layout="stacked"),
    "substitute": lambda model, wrt: clone(model, wrt=wrt, method="substitute"),
}


@pytest.mark.parametrize(
    ("form", "last", "middle"),
    [
        # convolutions in all: one for each layer, and at W and behind it another per direction
        ("jvp", 3 + 1, 3 + 2),
        ("vjp", 3 + 1, 3 + 2),
        ("split", 3 + 2, 3 + 4),
        # lanes of W are channels of one kernel, lanes behind it rows of one batch
        ("stacked", 3, 3),
        ("substitute", 3, 3),
    ],
)
def test_what_comes_before_the_variable_runs_once(form: str, last: int, middle: int) -> None:
    model = build(_LAYERS, {"x": ("N", 2, 6, 6)}, _LAYER_PARAMS)
    for wrt, count in (("w3", last), ("w2", middle)):
        found = Counter(node.op_type for node in checked(_FORMS[form](model, [wrt])).graph.node)
        assert found["Conv"] == count, wrt
        assert found["Relu"] == 2, wrt


# -- names -------------------------------------------------------------------------------------


def _two_layers() -> ModelProto:
    model = build(
        "h = Gemm(x, w, b)\nr = Tanh(h)\ny = Gemm(r, v, c)",
        ROWS,
        {"w": weights(3, 4), "b": weights(4), "v": weights(4, 2), "c": weights(2)},
    )
    names = {"w": "first.weight", "b": "first.bias", "v": "last.weight", "c": "last.bias"}
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
    return model


@pytest.mark.parametrize(
    ("wrt", "chosen"),
    [
        (["*.weight"], ["first.weight", "last.weight"]),
        (["first.*"], ["first.weight", "first.bias"]),
        (["last.bias", "*.weight"], ["last.bias", "first.weight", "last.weight"]),
        (["params"], ["first.weight", "first.bias", "last.weight", "last.bias"]),
        (["params", "x"], ["first.weight", "first.bias", "last.weight", "last.bias", "x"]),
    ],
)
def test_globs_and_params_name_variables(wrt: list[str], chosen: list[str]) -> None:
    model = _two_layers()
    x = {"x": weights(2, 3)}
    at = {**x, **{t.name: numpy_helper.to_array(t) for t in model.graph.initializer}}
    u = {name: weights(*at[name].shape, seed=9) for name in chosen}
    wanted = differences(model, x, at, u, ["y"])["y"]
    result = jvp(model, wrt=wrt)
    assert list(result.names["seeds"]) == chosen
    assert_close(double(checked(result))(seeded(result, x, u))["y_jvp"], wanted, SETTLED, "J u")
    pulled = vjp(model, wrt=wrt)
    assert list(pulled.names["results"]) == chosen


# -- files -------------------------------------------------------------------------------------


def _with_defaults(names: Sequence[str], **build_options: Any) -> ModelProto:
    """Initialisers that are inputs as well: values that a caller may override."""
    params = {"w": weights(3, 4), "b": weights(4)}
    model = build("h = Gemm(x, w, b)\ny = Tanh(h)", ROWS, params, **build_options)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(info)
    return model


@pytest.mark.parametrize("form", _FORMS)
def test_parameters_of_an_old_file_are_inputs_as_well(form: str) -> None:
    model = _with_defaults(["w", "b"], opset=9)
    model.ir_version = 3
    onnx.checker.check_model(model)
    assert "w" in [info.name for info in model.graph.input]
    _check_defaults(model, form, fed=False)


@pytest.mark.parametrize("form", _FORMS)
def test_the_derivative_is_taken_at_the_weight_that_is_fed(form: str) -> None:
    _check_defaults(_with_defaults(["w"]), form, fed=True)


def _check_defaults(model: ModelProto, form: str, *, fed: bool) -> None:
    result = _FORMS[form](model, ["w"])
    run = double(checked(result))
    x = {"x": weights(2, 3)}
    u, v, default, other = (weights(3, 4, seed=k) for k in (5, 6, 0, 8))
    for given, at in (({}, default), ({"w": other}, other))[: 1 + fed]:
        wanted = differences(model, x, {"w": at}, {"w": u}, ["y"])["y"]
        if form == "vjp":
            ct = weights(2, 4, seed=7)
            got = run({**x, **given, "y_ct": ct})["w_vjp"]
            np.testing.assert_allclose((got * u).sum(), (ct * wanted).sum(), rtol=SETTLED)
            continue
        values = run({**seeded(result, x, {"w": u}), **given})
        assert_close(values["y_jvp"], wanted, SETTLED, "J u")
        if form in ("split", "stacked"):
            whole = run({**seeded(result, x, {"w": at}), **given})
            assert_close(whole["y_u"], whole["y"], EXACT, "f_W(W)")
            other_lane = run({**seeded(result, x, {"w": v}), **given})
            assert_close(other_lane["y_0"], values["y_0"], EXACT, "f_W(0)")


@pytest.mark.parametrize("form", _FORMS)
def test_weights_in_external_files(form: str, tmp_path: Path) -> None:
    params = {"w": weights(3, 4), "b": weights(4)}
    model = build("h = Gemm(x, w, b)\ny = Tanh(h)", ROWS, params, dtype="float32")
    source = tmp_path / "model.onnx"
    copied = ModelProto()
    copied.CopyFrom(model)
    onnx.save(copied, source, save_as_external_data=True, location="weights", size_threshold=0)
    result = _FORMS[form](source, ["w"])
    inside = _FORMS[form](model, ["w"])
    written = result.save(tmp_path / "out.onnx")
    x = {"x": weights(2, 3).astype(np.float32)}
    fed = {"y_ct": weights(2, 4)} if form == "vjp" else {"w_u": weights(3, 4, seed=5)}
    feeds = {**x, **{k: v.astype(np.float32) for k, v in fed.items()}}
    values, wanted = ort(written, feeds), ort(inside.proto(), feeds)
    assert values.keys() == wanted.keys()
    for name, value in values.items():
        assert value.tobytes() == wanted[name].tobytes(), name
        assert value.any()


# -- directions that go into the file ----------------------------------------------------------


@pytest.mark.parametrize("form", [f for f in _FORMS if f != "vjp"])
def test_a_direction_given_needs_no_input(form: str) -> None:
    case = next(c for c in CASES if c.name == "w and b of a Gemm")
    model, x, u = case.model("float32"), case.point(), case.direction()
    x = {k: v.astype(np.float32) for k, v in x.items()}
    made = {
        "jvp": lambda **more: jvp(model, **more),
        "substitute": lambda **more: clone(model, method="substitute", **more),
    }.get(form, lambda **more: clone(model, layout=form, **more))
    open_, baked = made(wrt=case.wrt), made(wrt=case.wrt, given={"w": u["w"]})  # float64 is cast
    assert list(open_.names["seeds"]) == ["w", "b"]
    assert list(baked.names["seeds"]) == ["b"]
    assert "w_u" not in [info.name for info in baked.proto().graph.input]
    b = u["b"].astype(np.float32)
    wanted = ort(checked(open_), {**x, "w_u": u["w"].astype(np.float32), "b_u": b})
    values = ort(checked(baked), {**x, "b_u": b})
    for name, value in wanted.items():
        assert_close(values[name], value, 1e-6, name)
    alone = made(wrt=["w"], given={"w": u["w"].tolist()})
    assert [info.name for info in alone.proto().graph.input] == ["x"]
    assert ort(checked(alone), x)["y_jvp"].any()


def test_a_direction_given_has_to_fit() -> None:
    model = _two_layers()
    for array in (np.zeros((4, 3)), np.zeros(12), np.zeros((3, 4), complex), [["a"] * 4] * 3):
        with pytest.raises(InputError, match=r"first\.weight_u"):
            jvp(model, wrt=["first.weight"], given={"first.weight": array})
    for name in ("last.weight", "first_weight", "y"):
        with pytest.raises(UsageError, match=name):
            jvp(model, wrt=["first.weight"], given={name: np.zeros((3, 4))})


# -- trained networks --------------------------------------------------------------------------

TRAINED = {
    "diabetes_mlp.onnx": ["layers.0.weight", "layers.2.bias", "mean"],
    "digits_cnn.onnx": ["features.3.weight", "features.4.weight", "features.4.bias"],
    "digits_keras.onnx": ["const_fold_opt__66", "functional_1/conv2d_1_2/Squeeze:0"],
    "digits_rnn.onnx": ["step", "read.weight"],
    "digits_transformer.onnx": ["position", "val_19", "blocks.1.norm_network.weight"],
    "digits_unet.onnx": ["up.weight", "merge.weight", "leave.bias"],
    "wine_mlp.onnx": ["coefficient", "intercepts2"],
}


@pytest.mark.parametrize("name", TRAINED)
def test_weights_of_trained_networks(name: str) -> None:
    path, wrt = str(MODELS / name), TRAINED[name]
    model, x = onnx.load(path), point(path)
    arrays = {t.name: numpy_helper.to_array(t).astype(float) for t in model.graph.initializer}
    rng = np.random.default_rng(2)
    u = {w: np.abs(arrays[w]).mean() * rng.standard_normal(arrays[w].shape) for w in wrt}
    result, pulled = jvp(path, wrt=wrt), vjp(path, wrt=wrt)
    (y,) = result.names["results"]
    original = Evaluator(path)
    at = {w: arrays[w] for w in wrt}
    wanted = directional_derivative(lambda fed: original.run({**x, **fed}), at, u, [y])
    settled = ~wanted.kinks[y]
    assert settled.mean() > 0.8
    values = Evaluator(checked(result)).run(seeded(result, x, u))
    tangent = values[result.names["results"][y]["jvp"]]
    want = np.where(settled, wanted.value[y], tangent)
    assert_close(tangent, want, 1e-5, f"J u of {y}")
    v = rng.standard_normal(tangent.shape)
    cotangent = Evaluator(checked(pulled)).run({**x, pulled.names["cotangents"][y]: v})
    jtv = forms(pulled, cotangent, "vjp")
    right = sum((jtv[w] * u[w]).sum() for w in wrt)
    assert abs((v * tangent).sum() - right) <= EXACT * np.abs(v * tangent).sum()
