"""f_x on trained and random networks: all layouts say the same, the paper's slip does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from helpers import (
    TOLERANCES,
    Array,
    Values,
    assert_close,
    build,
    checked,
    double,
    ort,
    shape_of,
    weights,
)
from trained import direction, inputs_of, point

from onnxjvp import Rewritten, clone, jvp
from onnxjvp.oracle import Evaluator, directional_derivative

EXACT = TOLERANCES["float64"]


def _seeded(result: Rewritten, x: Values, u: Values) -> Values:
    return {**x, **{result.names["seeds"][name]: v for name, v in u.items()}}


def _run(result: Rewritten, x: Values, u: Values) -> dict[str, Array]:
    """In float64, with names as in the report: ("y", "jvp") → array."""
    values = Evaluator(checked(result)).run(_seeded(result, x, u))
    forms = result.names["results"]
    found = {
        f"{y}.{form}": values[name] for y, names in forms.items() for form, name in names.items()
    }
    return {**values, **found}


# -- trained networks --------------------------------------------------------------------------


def test_layouts_agree_with_each_other_and_with_differences(model_file: str) -> None:
    x = point(model_file)
    u = direction(x)
    result = jvp(model_file)
    tangent = _run(result, x, u)
    split = _run(clone(model_file, layout="split"), x, u)
    stacked = _run(clone(model_file, layout="stacked"), x, u)
    substitute = _run(clone(model_file, method="substitute"), x, u)
    along_x = _run(result, x, x)
    names = list(result.names["results"])
    assert names
    wanted = directional_derivative(Evaluator(model_file).run, x, u, names)
    for name in names:
        settled = ~wanted.kinks[name]
        assert settled.mean() > 0.8
        assert np.any(wanted.value[name])
        ju, y = tangent[f"{name}.jvp"], wanted.primal[name]
        assert_close(np.where(settled, ju, 0), np.where(settled, wanted.value[name], 0), 1e-6, name)
        scale = float(np.abs(y).max() + np.abs(ju).max() + np.abs(along_x[f"{name}.jvp"]).max())
        for layout in (split, stacked):
            assert_close(layout[name], y, EXACT, name)
            assert_close(layout[f"{name}.jvp"], ju, EXACT, f"J u of {name}", scale)
            assert_close(layout[f"{name}.u"] - layout[f"{name}.0"], ju, EXACT, name, scale)
            origin = y - along_x[f"{name}.jvp"]
            assert_close(layout[f"{name}.0"], origin, EXACT, f"f_x(0) of {name}", scale)
        assert_close(substitute[f"{name}.jvp"], ju, EXACT, f"J u of {name}", scale)


@pytest.mark.parametrize("optimize", [False, True])
def test_trained_networks_run_in_float32(model_file: str, optimize: bool) -> None:
    original = onnx.load(model_file)
    x = {k: v.astype(np.float32) for k, v in point(model_file).items()}
    u = {k: v.astype(np.float32) for k, v in direction(x).items()}
    before = ort(original, x, optimize)
    exact = jvp(model_file)
    wanted = _run(exact, *({k: v.astype(float) for k, v in d.items()} for d in (x, u)))
    for form in ("jvp", "split", "stacked"):
        result = exact if form == "jvp" else clone(model_file, layout=form)
        values = ort(result.proto(), _seeded(result, x, u), optimize)
        for name, y in before.items():
            if form != "stacked" and not optimize:
                assert values[name].tobytes() == y.tobytes(), f"{form}: {name} has changed"
            assert_close(values[name], y, TOLERANCES["float32"], f"{form}: {name}")
        for name, forms in result.names["results"].items():
            want = wanted[f"{name}.jvp"]
            scale = float(np.abs(want).max() + np.abs(before[name]).max())
            assert_close(
                values[forms["jvp"]], want, TOLERANCES["float32"], f"{form}: {name}", scale
            )


def test_dynamic_dimensions_keep_their_names(model_file: str) -> None:
    original = onnx.load(model_file)
    declared = {i.name: shape_of(i) for i in (*inputs_of(original), *original.graph.output)}
    for result in (jvp(model_file), clone(model_file, layout="stacked"), clone(model_file)):
        proto = result.proto()
        found = {i.name: shape_of(i) for i in (*proto.graph.input, *proto.graph.output)}
        for name, shape in declared.items():
            assert found[name] == shape
        for name, seed in result.names["seeds"].items():
            assert found[seed] == declared[name]
        for name, forms in result.names["results"].items():
            assert {found[new] for new in forms.values()} == {declared[name]}


def test_a_batch_is_so_many_single_rows(model_file: str) -> None:
    """Rows do not leak into each other, nor lanes: where the batch is free, one row at a time."""
    x = point(model_file)
    if isinstance(shape_of(inputs_of(onnx.load(model_file))[0])[0], int):
        return
    u = direction(x)
    result = clone(model_file, layout="stacked")
    run = Evaluator(result.proto()).run
    feeds = _seeded(result, x, u)
    whole = run(feeds)
    for row in range(len(next(iter(x.values())))):
        one = run({name: array[row : row + 1] for name, array in feeds.items()})
        for output, value in whole.items():
            assert_close(one[output][0], value[row], EXACT, output, float(np.abs(value).max()))


# -- the erratum -------------------------------------------------------------------------------


def _relu_network() -> onnx.ModelProto:
    sizes = [8, 16, 16, 5]
    lines, params = [], {}
    for i, (rows, columns) in enumerate(itertools.pairwise(sizes)):
        params |= {f"w{i}": weights(rows, columns, seed=i) / rows**0.5, f"b{i}": weights(columns)}
        last = "x" if i == 0 else f"r{i - 1}"
        lines.append(f"{'y' if i == 2 else f'h{i}'} = Gemm({last}, w{i}, b{i})")
        if i < 2:
            lines.append(f"r{i} = Relu(h{i})")
    return build("\n".join(lines), {"x": ("N", 8)}, params)


@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_the_printed_formula_is_wrong_and_the_corrected_ones_are_right(layout: str) -> None:
    """Fast JVP, eq. 10 and 12, print J u = f(x) − f_x(u − x); it is f(x) − f_x(x − u)."""
    model = _relu_network()
    rng = np.random.default_rng(3)
    x, u = rng.standard_normal((2, 4, 8))
    original = double(model)
    tangent = directional_derivative(original, {"x": x}, {"x": u}, ["y"])
    assert not tangent.kinks["y"].any()
    ju, y = tangent.value["y"], tangent.primal["y"]
    lanes = double(clone(model, layout=layout).proto())

    def frozen(v: Array) -> Array:
        return lanes({"x": x, "x_u": v})["y_u"]

    printed = y - frozen(u - x)
    assert np.abs(printed - ju).max() > 0.5, "the printed formula must fail"
    jx = directional_derivative(original, {"x": x}, {"x": x}, ["y"]).value["y"]
    np.testing.assert_allclose(printed, 2 * jx - ju, atol=1e-7)  # what it gives in fact
    for corrected in (
        y - frozen(x - u),
        frozen(x + u) - y,
        frozen(u) - frozen(np.zeros_like(x)),
        frozen(u) - lanes({"x": x, "x_u": u})["y_0"],
    ):
        np.testing.assert_allclose(corrected, ju, atol=1e-7)
    np.testing.assert_allclose(frozen(x), y, atol=1e-12)
    substitute = double(clone(model, method="substitute").proto())({"x": x, "x_u": u})
    np.testing.assert_allclose(substitute["y_s"], frozen(x - u), atol=1e-12)
    np.testing.assert_allclose(substitute["y_jvp"], ju, atol=1e-7)


@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_the_frozen_network_is_affine_far_from_x(layout: str) -> None:
    """Masks are those of x however far v is: f_x(αv + (1−α)w) = α f_x(v) + (1−α) f_x(w)."""
    run = double(clone(_relu_network(), layout=layout).proto())
    rng = np.random.default_rng(4)
    x, v, w = rng.standard_normal((3, 4, 8))
    mixed = -2.5 * (100 * v) + 3.5 * w
    at = {
        name: run({"x": x, "x_u": d})["y_u"] for name, d in (("v", 100 * v), ("w", w), ("m", mixed))
    }
    np.testing.assert_allclose(at["m"], -2.5 * at["v"] + 3.5 * at["w"], atol=1e-9)
    original = double(_relu_network())
    assert np.abs(original({"x": 100 * v})["y"] - at["v"]).max() > 1, "v lies in another region"


# -- batch axes --------------------------------------------------------------------------------

AXES: dict[str, tuple[str, tuple[int | str, ...], dict[str, object]]] = {
    "no batch axis": (
        "h = MatMul(w, x)\nr = Relu(h)\ny = MatMul(w, r)",
        (4,),
        {"w": weights(4, 4)},
    ),
    "a scalar": ("h = Mul(x, w)\ny = Tanh(h)", (), {"w": np.array(0.7)}),
    "batch on axis 1": (
        "h = MatMul(w, x)\nr = Relu(h)\nt = Transpose<perm=[1, 0]>(r)\ny = Softmax(t)",
        (4, "N"),
        {"w": weights(4, 4)},
    ),
    "batch last of three": (
        "r = ReduceMean<keepdims=0>(x, a)\ns = Tanh(r)\ny = Transpose(s)",
        (3, 2, "N"),
        {"a": np.array([0])},
    ),
    "batch literal in a Reshape": (
        "f = Reshape(x, s)\nh = MatMul(f, w)\nr = Relu(h)\ny = Reshape(r, t)",
        (2, 3, 4),
        {"s": np.array([6, 4]), "t": np.array([2, 3, 4]), "w": weights(4, 4)},
    ),
    "rows that mix": (
        "t = Transpose<perm=[1, 0]>(x)\ng = MatMul(x, t)\ns = Softmax(g)\ny = MatMul(s, x)",
        ("N", 4),
        {},
    ),
    "batch merged into the rows": (
        "f = Reshape(x, s)\nh = MatMul(f, w)\nr = Relu(h)\nm = ReduceSum<keepdims=0>(r, a)\n"
        "y = Exp(m)",
        ("N", 3, 4),
        {"s": np.array([-1, 4]), "a": np.array([0]), "w": 0.1 * weights(4, 4)},
    ),
}


@pytest.mark.parametrize("what", AXES)
@pytest.mark.parametrize("form", ["split", "stacked", "substitute"])
def test_lanes_need_no_batch_axis(what: str, form: str) -> None:
    body, shape, params = AXES[what]
    model = build(body, {"x": shape}, params)
    rng = np.random.default_rng(6)
    x, u = rng.standard_normal((2, *(3 if d == "N" else d for d in shape)))
    x, u = np.asarray(x), np.asarray(u)
    wanted = directional_derivative(double(model), {"x": x}, {"x": u}, ["y"])
    rewrite: Callable[..., Rewritten] = clone
    by = {"method": form} if form == "substitute" else {"layout": form}
    values = double(checked(rewrite(model, **by)))({"x": x, "x_u": u})
    assert not wanted.kinks["y"].any()
    assert_close(values["y"], wanted.primal["y"], EXACT, "y")
    assert_close(values["y_jvp"], wanted.value["y"], 1e-6, "J u")
    if form != "substitute":
        assert_close(values["y_u"] - values["y_0"], wanted.value["y"], 1e-6, "f_x(u) − f_x(0)")
