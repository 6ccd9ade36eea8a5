"""A rewritten model is a model: it can be rewritten again."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import MODELS, Array, assert_close, build, checked, double, ort, weights
from trained import direction, point

from onnxjvp import clone, jvp
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.rewrite import METADATA_KEY

SMOOTH = ["diabetes_mlp.onnx", "digits_transformer.onnx"]


@pytest.mark.parametrize("name", SMOOTH)
def test_jvp_of_jvp_is_the_second_directional_derivative(name: str) -> None:
    path = str(MODELS / name)
    x = point(path)
    u, v = direction(x, 1), direction(x, 2)
    (variable,) = x
    once = jvp(path)
    seed, (output,) = once.names["seeds"][variable], once.names["results"]
    tangent = once.names["results"][output]["jvp"]
    twice = jvp(once, wrt=[variable], outputs=[output, tangent])
    assert list(twice.names["seeds"]) == [variable]
    second_seed = twice.names["seeds"][variable]
    second = twice.names["results"][tangent]["jvp"]
    assert second_seed not in (variable, seed)
    values = Evaluator(checked(twice)).run(
        {variable: x[variable], seed: u[variable], second_seed: v[variable]}
    )
    f = Evaluator(path).run
    h = 1e-3

    def at(a: float, b: float) -> Array:
        return f({variable: x[variable] + h * (a * u[variable] + b * v[variable])})[output]

    wanted = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / (4 * h * h)
    assert np.abs(wanted).max() > 1e-3
    assert_close(values[second], wanted, 1e-4, "d²f[u, v]")
    along_v = directional_derivative(f, x, v, [output]).value[output]
    assert_close(values[twice.names["results"][output]["jvp"]], along_v, 1e-6, "df[v]")
    # symmetric in u and v
    swapped = Evaluator(twice.proto()).run(
        {variable: x[variable], seed: v[variable], second_seed: u[variable]}
    )
    assert_close(swapped[second], values[second], 1e-9, "d²f[v, u]")


def test_third_derivatives() -> None:
    model = build("y = Sin(x)", {"x": ("N",)})
    result = jvp(jvp(jvp(model), wrt=["x"]), wrt=["x"])
    x = weights(5)
    one = np.ones_like(x)
    values = double(checked(result))({"x": x, "x_u": one, "x_u_": one, "x_u__": one})
    np.testing.assert_allclose(values["y_jvp_jvp_jvp"], -np.cos(x), atol=1e-12)
    np.testing.assert_allclose(values["y_jvp_jvp"], -np.sin(x), atol=1e-12)


@pytest.mark.parametrize("layout", ["split", "stacked"])
@pytest.mark.parametrize("name", ["diabetes_mlp.onnx", "digits_cnn.onnx"])
def test_jvp_of_clone_is_right(layout: str, name: str) -> None:
    path = str(MODELS / name)
    x = point(path)
    (variable,) = x
    frozen = clone(path, layout=layout)
    seed = frozen.names["seeds"][variable]
    result = jvp(frozen)
    at = {**x, seed: direction(x)[variable]}
    along = {variable: 0.1 * direction(x, 2)[variable], seed: direction(x, 3)[variable]}
    run = Evaluator(frozen.proto()).run
    names = list(result.names["results"])
    forms = {form for f in frozen.names["results"].values() for form in f.values()}
    assert forms <= set(names)
    wanted = directional_derivative(run, at, along, names)
    feeds = {**at, **{result.names["seeds"][k]: v for k, v in along.items()}}
    values = Evaluator(checked(result)).run(feeds)
    scale = max(float(np.abs(wanted.value[output]).max()) for output in names)
    for output in names:
        # f_x(0) of a piecewise affine network does not move with x: nothing but rounding there
        settled = wanted.error[output] < 1e-6 * scale
        assert settled.mean() > 0.7
        got = values[result.names["results"][output]["jvp"]]
        want = np.where(settled, wanted.value[output], got)
        assert_close(got, want, 1e-5, output, scale)


def test_clone_of_jvp_freezes_the_tangent_too() -> None:
    model = build(
        "h = Gemm(x, w)\nr = Relu(h)\ny = Gemm(r, v)",
        {"x": ("N", 3)},
        {"w": weights(3, 4), "v": weights(4, 2)},
    )
    once = jvp(model)
    for layout in ("split", "stacked"):
        result = clone(once, layout=layout)
        values = {k: weights(2, 3, seed=i) for i, k in enumerate(["x", "x_u"])}
        seeds = {s: weights(2, 3, seed=9 + i) for i, s in enumerate(result.names["seeds"].values())}
        got = double(checked(result))({**values, **seeds})
        for forms in result.names["results"].values():
            np.testing.assert_allclose(
                got[forms["u"]] - got[forms["0"]], got[forms["jvp"]], atol=1e-12
            )


def test_prefixes_and_names_do_not_clash() -> None:
    model = build("h = Gemm(x, w)\nr = Relu(h)\ny = Exp(r)", {"x": ("N", 3)}, {"w": weights(3, 3)})
    result = model
    prefixes = set()
    for _ in range(3):
        result = jvp(result, wrt=["x"])
        proto = checked(result)
        names = [n.name for n in proto.graph.node if n.name]
        assert len(names) == len(set(names))
        values = {n for node in proto.graph.node for n in node.output}
        prefixes = {n.split("/")[0] for n in values if n.startswith("onnxjvp")}
    assert prefixes == {"onnxjvp", "onnxjvp1", "onnxjvp2"}
    ort(result.proto(), {info.name: weights(2, 3) for info in result.proto().graph.input})


def test_each_result_describes_itself() -> None:
    model = build("y = Exp(x)", {"x": ("N", 3)})
    once = jvp(model)
    twice = clone(once, wrt=["x"], layout="stacked")
    for result, emitted in ((once, "jvp"), (twice, "clone")):
        described = {p.key: p.value for p in result.proto().metadata_props}
        content = json.loads(described[METADATA_KEY])
        assert content["emit"] == emitted
        assert content["seeds"] == dict(result.names["seeds"])
        assert content["results"] == {k: dict(v) for k, v in result.names["results"].items()}


def test_results_of_any_form_are_taken(tmp_path: object) -> None:
    model = build("y = Exp(x)", {"x": ("N", 3)})
    first = jvp(model)
    path = first.save(f"{tmp_path}/first.onnx")
    forms = (first, first.model, first.proto(), path, str(path), path.read_bytes())
    protos = {jvp(form, wrt=["x"]).proto().SerializeToString(deterministic=True) for form in forms}
    assert len(protos) == 1


def test_rewriting_is_deterministic(model_file: str) -> None:
    def content() -> bytes:
        return clone(model_file, layout="stacked").proto().SerializeToString(deterministic=True)

    assert content() == content()
