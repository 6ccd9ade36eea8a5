"""Second derivatives by composition: the tangent of a gradient, symmetric and right."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
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
from onnx import numpy_helper
from trained import direction, point

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.rewrite import Rewritten, hvp, jvp, vjp

EXACT = TOLERANCES["float64"]
SMOOTH = ["diabetes_mlp.onnx", "digits_transformer.onnx"]


def _gradient(model: object, wrt: list[str] | None = None) -> tuple[Rewritten, str, str]:
    """Jᵀ v, the name of v and that of y."""
    result = vjp(model, wrt=wrt)  # type: ignore[arg-type]
    ((y, ct),) = result.names["cotangents"].items()
    return result, ct, y


def _products(
    first: Rewritten, x: Values, u: Values, variables: list[str]
) -> tuple[Rewritten, Values]:
    """H u for every variable, from the tangent of Jᵀ v."""
    twice = jvp(first, wrt=variables)
    seeds = {twice.names["seeds"][name]: u[name] for name in variables}
    values = Evaluator(checked(twice)).run({**x, **seeds})
    of = {name: first.names["results"][name]["vjp"] for name in variables}
    return twice, {name: values[twice.names["results"][g]["jvp"]] for name, g in of.items()}


# -- trained networks --------------------------------------------------------------------------

#: parameters that are differentiated beside the input
PARAMETERS = {
    "diabetes_mlp.onnx": ["layers.0.weight", "layers.2.bias"],
    "digits_transformer.onnx": ["blocks.0.norm_network.weight", "val_51"],
}


def _arrays(path: str) -> Values:
    tensors = onnx.load(path).graph.initializer
    return {t.name: numpy_helper.to_array(t).astype(float) for t in tensors}


@pytest.mark.parametrize("name", SMOOTH)
def test_tangent_of_the_gradient_matches_differences_of_it(name: str) -> None:
    path = str(MODELS / name)
    x = point(path)
    (variable,) = x
    first, ct, y = _gradient(path)
    rng = np.random.default_rng(1)
    v = rng.standard_normal(Evaluator(path).run(x)[y].shape)
    u = direction(x, 2)
    at = {**x, ct: v}
    _, found = _products(first, at, u, [variable])
    gradient = first.names["results"][variable]["vjp"]
    wanted = directional_derivative(Evaluator(first.proto()).run, at, u, [gradient])
    assert not wanted.kinks[gradient].any()
    assert np.any(wanted.value[gradient])
    assert_close(found[variable], wanted.value[gradient], 1e-6, "H u")
    # and of f alone, which knows nothing of the transpose
    f, h = Evaluator(path).run, 1e-3
    w = direction(x, 3)[variable]

    def along(a: float, b: float) -> float:
        moved = {variable: x[variable] + h * (a * u[variable] + b * w)}
        return float((f(moved)[y] * v).sum())

    second = (along(1, 1) - along(1, -1) - along(-1, 1) + along(-1, -1)) / (4 * h * h)
    np.testing.assert_allclose((found[variable] * w).sum(), second, rtol=1e-4)


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_of_a_number_are_symmetric(name: str) -> None:
    """⟨w, H u⟩ = ⟨u, H w⟩ of ⟨v, f⟩, in the input and in weights together."""
    path = str(MODELS / name)
    x = point(path)
    (image,) = x
    variables = [image, *PARAMETERS[name]]
    values = {**x, **_arrays(path)}
    first, ct, y = _gradient(path, variables)
    v = np.random.default_rng(1).standard_normal(Evaluator(path).run(x)[y].shape)
    at = {**x, ct: v}
    directions = []
    for seed in (2, 3):
        rng = np.random.default_rng(seed)
        directions.append(
            {k: np.abs(values[k]).mean() * rng.standard_normal(values[k].shape) for k in variables}
        )
    u, w = directions
    (_, along_u), (_, along_w) = (_products(first, at, d, variables) for d in directions)
    left = sum((w[k] * along_u[k]).sum() for k in variables)
    right = sum((u[k] * along_w[k]).sum() for k in variables)
    scale = sum(np.abs(w[k] * along_u[k]).sum() for k in variables)
    assert abs(left) > 1e-4 * scale
    assert abs(left - right) <= EXACT * scale


@pytest.mark.parametrize("name", SMOOTH)
def test_all_orders_of_composition_agree(name: str) -> None:
    """jvp(vjp), vjp(jvp) in x, and vjp(vjp) hold the same ⟨v, d²f[u, w]⟩."""
    path = str(MODELS / name)
    x = point(path)
    (variable,) = x
    first, ct, y = _gradient(path)
    v = np.random.default_rng(1).standard_normal(Evaluator(path).run(x)[y].shape)
    u, w = direction(x, 2)[variable], direction(x, 3)[variable]
    _, found = _products(first, {**x, ct: v}, {variable: u}, [variable])
    wanted = (found[variable] * w).sum()
    # the gradient of ⟨v, J u⟩ in x
    tangent = jvp(path)
    seed, ju = tangent.names["seeds"][variable], tangent.names["results"][y]["jvp"]
    pulled = vjp(tangent, wrt=[variable], outputs=[ju])
    values = Evaluator(checked(pulled)).run({**x, seed: u, pulled.names["cotangents"][ju]: v})
    gradient = values[pulled.names["results"][variable]["vjp"]]
    np.testing.assert_allclose((gradient * w).sum(), wanted, rtol=EXACT)
    # the gradient of ⟨Jᵀ v, u⟩ in x
    jtv = first.names["results"][variable]["vjp"]
    again = vjp(first, wrt=[variable], outputs=[jtv])
    values = Evaluator(checked(again)).run({**x, ct: v, again.names["cotangents"][jtv]: u})
    gradient = values[again.names["results"][variable]["vjp"]]
    np.testing.assert_allclose((gradient * w).sum(), wanted, rtol=EXACT)


@pytest.mark.parametrize("name", SMOOTH)
def test_second_derivatives_run_in_float32(name: str) -> None:
    path = str(MODELS / name)
    x = {k: a.astype(np.float32) for k, a in point(path).items()}
    (variable,) = x
    first, ct, y = _gradient(path)
    twice = jvp(first, wrt=[variable])
    rng = np.random.default_rng(1)
    single = ort(path, x)
    v = rng.standard_normal(single[y].shape).astype(np.float32)
    u = direction(x, 2)[variable].astype(np.float32)
    feeds: Values = {**x, ct: v, twice.names["seeds"][variable]: u}
    values = ort(checked(twice), feeds)
    assert values[y].tobytes() == single[y].tobytes(), "f(x) has changed"
    result = twice.names["results"][first.names["results"][variable]["vjp"]]["jvp"]
    exact = Evaluator(twice.proto()).run(feeds)[result]
    assert_close(values[result], exact, TOLERANCES["float32"], "H u")


# -- by formula --------------------------------------------------------------------------------


def _hessian(model: onnx.ModelProto, x: Array) -> Array:
    """[n, n] at a vector x of a model with one output that is a number."""
    first = vjp(model)
    twice = jvp(first, wrt=["x"], outputs=["x_vjp"])
    run = double(checked(twice))
    seed = twice.names["seeds"]["x"]
    one = np.array(1.0)
    return np.stack([run({"x": x, "y_ct": one, seed: u})["x_vjp_jvp"] for u in np.eye(x.size)])


FORMULAS = {
    "a quadratic": "h = MatMul(w, x)\np = Mul(h, x)\ny = ReduceSum<keepdims=0>(p)",
    "a logarithm of a sum": "h = MatMul(w, x)\ny = ReduceLogSumExp<keepdims=0>(h)",
    "a product of all": "e = Exp(x)\ns = ReduceSum<keepdims=0>(e)\nq = Sin(s)\ny = Mul(q, s)",
    "squares of activations": "h = MatMul(w, x)\nt = Tanh(h)\ny = ReduceSumSquare<keepdims=0>(t)",
}


def _expected(what: str, x: Array, w: Array) -> Array:
    h = w @ x
    match what:
        case "a quadratic":
            return w + w.T
        case "a logarithm of a sum":
            p = np.exp(h) / np.exp(h).sum()
            return w.T @ (np.diag(p) - np.outer(p, p)) @ w
        case "a product of all":
            e = np.exp(x)
            s = e.sum()
            first, second = np.sin(s) + s * np.cos(s), 2 * np.cos(s) - s * np.sin(s)
            return first * np.diag(e) + second * np.outer(e, e)
        case _:
            t = np.tanh(h)
            slope = 1 - t * t
            return w.T @ np.diag(2 * slope * (slope - 2 * t * t)) @ w


@pytest.mark.parametrize("what", FORMULAS)
def test_hessians_by_formula(what: str) -> None:
    w = weights(4, 4)
    params = {"w": w} if "w" in FORMULAS[what] else {}
    x = 0.5 * weights(4, seed=3)
    found = _hessian(build(FORMULAS[what], {"x": (4,)}, params), x)
    np.testing.assert_allclose(found, _expected(what, x, w), atol=1e-11)
    np.testing.assert_allclose(found, found.T, atol=1e-12)


def test_a_piecewise_linear_network_has_no_curvature() -> None:
    """H = 0 in x, and in one weight, but not across two weights."""
    model = build(
        "h = Gemm(x, w)\nr = Relu(h)\ny = Gemm(r, v)",
        {"x": ("N", 3)},
        {"w": weights(3, 4), "v": weights(4, 2)},
    )
    first = vjp(model, wrt=["x", "w", "v"])
    twice = jvp(first, wrt=["w"], outputs=["x_vjp", "v_vjp"])
    assert list(twice.names["results"]) == ["x_vjp", "v_vjp"]
    x, ct, u = weights(2, 3), weights(2, 2, seed=1), weights(3, 4, seed=2)
    values = double(checked(twice))({"x": x, "y_ct": ct, "w_u": u})
    mask = (x @ weights(3, 4)) > 0
    np.testing.assert_allclose(values["v_vjp_jvp"], (mask * (x @ u)).T @ ct, atol=1e-13)
    expected = (mask * (ct @ weights(4, 2).T)) @ u.T
    np.testing.assert_allclose(values["x_vjp_jvp"], expected, atol=1e-13)
    alone = jvp(first, wrt=["w"])
    assert "w_vjp" in alone.report["excluded"]


def test_third_derivatives() -> None:
    """d³ of Σ sin x, by the tangent of the tangent of the gradient."""
    model = build("s = Sin(x)\ny = ReduceSum<keepdims=0>(s)", {"x": ("N",)})
    third = jvp(jvp(vjp(model), wrt=["x"]), wrt=["x"])
    x, u, w = weights(5), weights(5, seed=1), weights(5, seed=2)
    values = double(checked(third))({"x": x, "y_ct": np.array(1.0), "x_u": u, "x_u_": w})
    np.testing.assert_allclose(values["x_vjp_jvp_jvp"], -np.cos(x) * u * w, atol=1e-12)


@pytest.mark.parametrize("layout", ["jvp(vjp)", "vjp(jvp)", "vjp(vjp)"])
def test_compositions_keep_dynamic_dimensions(layout: str) -> None:
    model = build("h = Gemm(x, w)\ny = Tanh(h)", {"x": ("N", 3)}, {"w": weights(3, 4)})
    result = {
        "jvp(vjp)": lambda: jvp(vjp(model)),
        "vjp(jvp)": lambda: vjp(jvp(model)),
        "vjp(vjp)": lambda: vjp(vjp(model)),
    }[layout]()
    proto = checked(result)
    for info in (*proto.graph.input, *proto.graph.output):
        first = info.type.tensor_type.shape.dim[0]
        assert first.dim_param == "N", info.name


# -- constants that slopes are recorded with ---------------------------------------------------

Make = Callable[[], onnx.ModelProto]


def _powers() -> onnx.ModelProto:
    """Σ (xᵖ)^q: where nobody differentiates in p and q, slopes are recorded with their numbers."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (double[3] x) => (double[1] y)
        <double[1] p = {3.0}, double[1] q = {2.0}>
        { a = Pow(x, p)  b = Pow(a, q)  y = ReduceSum<keepdims=1>(b) }"""
    )


def _resized() -> onnx.ModelProto:
    """A cubic Resize by a factor of exactly one along an axis that is known to be constant."""
    return onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]> g (double[5, 4] x) => (double[1] y)
        <float[2] s = {1.0, 2.0}, int64[1] one = {1}>
        { r = Resize<mode="cubic">(x, , s)  c = Mul(r, r)
          k = ReduceSum<keepdims=0>(c)  y = Reshape(k, one) }"""
    )


@pytest.mark.parametrize("wrt", [["x", "p"], ["p", "q"], ["x", "p", "q"]], ids="-".join)
def test_hessians_in_what_a_slope_would_take_for_a_number(wrt: list[str]) -> None:
    x = {"x": np.array([0.5, 1.5, 1.2]), "p": np.array([3.0]), "q": np.array([2.0])}
    rng = np.random.default_rng(5)
    u = {k: rng.standard_normal(x[k].shape) if k in wrt else np.zeros_like(x[k]) for k in x}
    made = hvp(_powers(), wrt)
    seeds = {name: u[k] for k, name in made.names["seeds"].items()}
    values = Evaluator(checked(made)).run({"x": x["x"], **seeds})

    def gradient(t: float) -> Values:
        base, e, f = (x[k] + t * u[k] for k in "xpq")
        power = base ** (e * f)
        along = {
            "x": e * f * base ** (e * f - 1),
            "p": np.sum(f * np.log(base) * power, keepdims=True),
            "q": np.sum(e * np.log(base) * power, keepdims=True),
        }
        return {k: along[k] for k in wrt}

    ahead, behind = gradient(1e-5), gradient(-1e-5)
    for k in wrt:
        found = values[made.names["results"][k]["hvp"]]
        assert_close(found, (ahead[k] - behind[k]) / 2e-5, 1e-8, f"H u in {k}")


def test_hessian_in_scales_of_one() -> None:
    """Symmetric: where the image meets the scale, two rules that share nothing have to agree.

    Differences would jump: at a scale of one the number of rows does.
    """
    made = hvp(_resized(), ["x", "s"])
    assert set(made.names["results"]) == {"x", "s"}
    rng = np.random.default_rng(6)
    x = rng.standard_normal((5, 4))
    ends = [{"x": rng.standard_normal((5, 4)), "s": rng.standard_normal(2)} for _ in "uw"]
    products = []
    for u in ends:
        seeds = {made.names["seeds"][k]: u[k] for k in u}
        values = Evaluator(checked(made)).run({"x": x, **seeds})
        products.append({k: values[made.names["results"][k]["hvp"]] for k in u})
    sides = [
        sum(float(np.sum(products[i][k] * ends[1 - i][k])) for k in ("x", "s")) for i in (0, 1)
    ]
    mixed = float(np.sum(products[0]["s"] * ends[1]["s"]))
    assert abs(mixed) > 1e-3
    assert abs(sides[0] - sides[1]) <= 1e-6 * max(map(abs, sides))


@pytest.mark.parametrize("make, name", [(_powers, "p"), (_resized, "s")], ids=["Pow", "Resize"])
def test_a_file_made_for_a_number_is_not_differentiated_in_it(make: Make, name: str) -> None:
    first = vjp(make(), ["x"])
    with pytest.raises(UnsupportedOpError, match=f"'{name}' had"):
        jvp(first.proto(), [name])
    again = jvp(vjp(first.proto(), ["x"]).proto(), ["x"])  # it is not forgotten on the way
    with pytest.raises(UnsupportedOpError, match=f"'{name}' had"):
        jvp(again.proto(), ["x", name])
