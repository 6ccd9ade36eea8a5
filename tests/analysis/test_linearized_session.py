"""f(x) once, then products with J and its transpose that read what was held."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers import TOLERANCES, Values, assert_close, build, ints, weights
from networks import NETS, point, relu_net, smooth_net, trained_point
from onnx import parser

import onnxjvp
from onnxjvp.errors import InputError, UsageError
from onnxjvp.runtime import LinearizedSession, Session, linearized


def started(net: str, **options: Any) -> LinearizedSession:
    return LinearizedSession(onnxjvp.linearize(NETS[net](), **options))


def random_like(arrays: Values, seed: int = 7) -> Values:
    rng = np.random.default_rng(seed)
    return {n: rng.standard_normal(a.shape).astype(a.dtype) for n, a in arrays.items()}


def floats(arrays: Values) -> Values:
    return {name: array for name, array in arrays.items() if array.dtype.kind == "f"}


def expected(net: str, x: Values, u: Values, v: Values) -> tuple[Values, Values]:
    """J u and the transpose on v, by the models that compute them with f(x)."""
    forward, reverse = onnxjvp.jvp(NETS[net]()), onnxjvp.vjp(NETS[net]())
    got = Session(forward.proto()).run(
        x | {forward.names["seeds"][name]: a for name, a in u.items()}
    )
    ju = {y: got[forms["jvp"]] for y, forms in forward.names["results"].items()}
    got = Session(reverse.proto()).run(
        x | {reverse.names["cotangents"][name]: a for name, a in v.items()}
    )
    return ju, {name: got[forms["vjp"]] for name, forms in reverse.names["results"].items()}


def assert_same(got: Values, want: Values, tolerance: float = TOLERANCES["float64"]) -> None:
    assert list(got) == list(want)
    for name in want:
        assert_close(got[name], want[name], tolerance, name)


@pytest.mark.parametrize("net", NETS)
def test_products_are_those_of_the_point(net: str) -> None:
    session = started(net)
    for seed in (0, 1):  # moves both maps, once they are loaded
        x = point(net, seed)
        outputs = session.at(x)
        assert_same(outputs, Session(NETS[net]()).run(x))
        u, v = random_like(floats(x)), random_like(outputs)
        ju, jtv = expected(net, x, u, v)
        assert_same(session.jvp(u), ju)
        assert_same(session.vjp(v), jtv)


def test_trained_networks(model_file: str) -> None:
    session = LinearizedSession(onnxjvp.linearize(model_file))
    x = trained_point(model_file)
    outputs = session.at(x)
    made = onnxjvp.jvp(model_file)
    u = random_like({name: x[name] for name in made.names["seeds"]})
    got = Session(made.proto()).run(x | {made.names["seeds"][n]: a for n, a in u.items()})
    ju = session.jvp(u)
    assert ju
    for y, forms in made.names["results"].items():
        assert_close(ju[y], got[forms["jvp"]], TOLERANCES["float32"], y)
    v = random_like({name: outputs[name] for name in ju})
    jtv = session.vjp(v)
    left, right = (
        sum(float(np.vdot(a[n].astype(np.float64), b[n])) for n in a)
        for a, b in ((ju, v), (u, jtv))
    )
    scale = sum(float(np.linalg.norm(ju[n]) * np.linalg.norm(v[n])) for n in ju)
    assert abs(left - right) <= TOLERANCES["float32"] * scale


@pytest.mark.parametrize("directions", [3, "K"])
@pytest.mark.parametrize("net", NETS)
def test_several_directions(net: str, directions: int | str) -> None:
    session, one = started(net, directions=directions), started(net)
    x = point(net)
    y = session.at(x)
    one.at(x)
    for product, single, like in (
        (session.jvp, one.jvp, floats(x)),
        (session.vjp, one.vjp, y),
    ):
        many = random_like({n: np.stack([a] * 3) for n, a in like.items()})
        got = product(many)
        for i in range(3):
            want = single({n: a[i] for n, a in many.items()})
            assert_same({n: a[i] for n, a in got.items()}, want)


def test_what_is_held_is_not_the_callers() -> None:
    """x and y are residuals of this network."""
    session, x = started("smooth"), point("smooth")
    u = random_like(floats(x))
    y = session.at(x)
    before = session.jvp(u)
    kept = {name: array.copy() for name, array in before.items()}
    x["x"][:] = 0
    y["y"][:] = 0
    u["x"][:] *= 2
    after = session.jvp(u)
    assert_same(before, kept)  # a later run writes elsewhere
    assert_same(after, {name: 2 * array for name, array in kept.items()})


def test_an_output_that_is_held_is_not_the_callers() -> None:
    """exp is its own slope."""
    session = LinearizedSession(onnxjvp.linearize(build("y = Exp(x)", {"x": (2,)})))
    y = session.at({"x": np.array([0.0, np.log(2)])})["y"]
    y[:] = 0
    np.testing.assert_allclose(session.jvp({"x": np.ones(2)})["y"], [1, 2])


def test_arrays_of_any_layout() -> None:
    session, x = started("relu"), point("relu")
    want = session.at(x)
    assert_same(session.at({name: np.asfortranarray(a) for name, a in x.items()}), want)
    v = random_like(want)
    straight = session.vjp(v)
    assert_same(session.vjp({name: np.asfortranarray(a) for name, a in v.items()}), straight)


def test_parameters_and_inner_values_are_variables_by_name() -> None:
    x = point("relu")
    session = started("relu", wrt=["W*", "a"], outputs=["z"])
    assert list(session.at(x)) == ["z"]
    found = session.vjp({"z": np.ones((2, 3))})
    assert {name: a.shape for name, a in found.items()} == {
        "W1": (4, 8),
        "W2": (8, 3),
        "W3": (2, 3),
        "a": (2, 8),
    }
    assert [str(spec) for spec in session.takes("jvp")] == [
        "W1: float64[4, 8]",
        "W2: float64[8, 3]",
        "W3: float64[2, 3]",
        "a: float64[2, 8]",
    ]


def test_variables_that_no_output_depends_on_have_no_cotangent() -> None:
    session = started("relu", outputs=["y"])
    session.at(point("relu"))
    assert list(session.vjp({"y": np.ones((2, 3))})) == ["x"]
    assert list(session.linearized.vjp.report["excluded"]) == ["c"]


def test_outputs_without_a_derivative_are_evaluated() -> None:
    model = build(
        "y = Relu(x)\nn = ArgMax<axis = 1>(y)", {"x": ("N", 3)}, outputs=("y", "n"), dtype="float32"
    )
    session = LinearizedSession(onnxjvp.linearize(model))
    x = np.array([[1, 3, 2]], np.float32)
    assert session.at({"x": x})["n"].tolist() == [[1]]
    assert list(session.jvp({"x": x})) == ["y"]


def test_linearising_the_residuals_again() -> None:
    """Names of residuals of the first linearisation are outputs of the second."""
    first = onnxjvp.linearize(smooth_net())
    session = LinearizedSession(onnxjvp.linearize(first.primal))
    x = point("smooth")
    got, want = session.at(x), Session(first.primal.proto()).run(x)
    assert_same(got, want)


def test_an_empty_batch() -> None:
    session = started("relu")
    x = {"x": np.zeros((0, 4)), "c": np.zeros((0, 2))}
    assert session.at(x)["y"].shape == (0, 3)
    assert session.jvp(x)["z"].shape == (0, 3)
    assert session.vjp({"y": np.zeros((0, 3)), "z": np.zeros((0, 3))})["x"].shape == (0, 4)


def test_nothing_is_linearised_yet() -> None:
    session = started("relu")
    for product in (session.jvp, session.vjp):
        with pytest.raises(UsageError, match="call at"):
            product({})


BAD_DIRECTIONS = {
    "missing": ({}, "direction x: float64\\[2, 1, 4\\] is missing"),
    "unknown": ({"x_u": np.ones((2, 1, 4))}, "no direction 'x_u'; it has x"),
    "dtype": ({"x": np.ones((2, 1, 4), np.float32)}, "x is float32, the model takes float64"),
    # could be broadcast, to a wrong product
    "batch": ({"x": np.ones((1, 1, 4))}, "size 1 on axis 0, the model takes 2"),
    "rank": ({"x": np.ones((2, 4))}, "x has shape"),
}


@pytest.mark.parametrize("case", BAD_DIRECTIONS)
def test_directions_that_do_not_fit(case: str) -> None:
    given, message = BAD_DIRECTIONS[case]
    session = started("smooth")
    session.at(point("smooth"))
    with pytest.raises(InputError, match=message):
        session.jvp(given)


def test_points_and_cotangents_that_do_not_fit() -> None:
    session = started("relu")
    with pytest.raises(InputError, match=r"model's inputs: input c.*is missing"):
        session.at({"x": np.ones((2, 4))})
    session.at(point("relu"))
    with pytest.raises(InputError, match=r"model's cotangents: .*z has size 1 on axis 0"):
        session.vjp({"y": np.ones((2, 3)), "z": np.ones((1, 3))})
    with pytest.raises(InputError):
        session.at({})
    assert session.vjp(random_like({"y": np.ones((2, 3)), "z": np.ones((2, 3))}))


def test_sizes_without_a_name_are_those_of_the_point() -> None:
    model = build("y = Exp(x)", {"x": (None, 3)})
    session = LinearizedSession(onnxjvp.linearize(model, directions="K"))
    session.at({"x": np.ones((2, 3))})
    for product, name in ((session.jvp, "x"), (session.vjp, "y")):
        with pytest.raises(InputError, match=f"{name} has size 1 on axis 1, the model takes 2"):
            product({name: np.ones((5, 1, 3))})


def test_sizes_of_inner_values_are_those_of_the_point() -> None:
    session = started("relu", wrt=["a"])
    session.at(point("relu"))
    with pytest.raises(InputError, match="a has size 1 on axis 0, the model takes 2"):
        session.jvp({"a": np.ones((1, 8))})


def test_maps_are_loaded_when_they_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []

    class Counted(linearized.Loaded):
        def __init__(self, *args: Any, **options: Any) -> None:
            loads.append(options)
            super().__init__(*args, **options)

    monkeypatch.setattr(linearized, "Loaded", Counted)
    parts = onnxjvp.linearize(relu_net())
    settings: dict[str, Any] = {"providers": ["cpu"], "optimize": False, "threads": 1}
    settings |= {"spinning": True, "plan_memory": False}
    session = LinearizedSession(parts, **settings)
    session.at(point("relu"))
    assert len(loads) == 1
    for _ in range(2):
        session.vjp({"y": np.ones((2, 3)), "z": np.ones((2, 3))})
    assert loads == [settings] * 2


def test_residuals_are_counted() -> None:
    session = LinearizedSession(
        onnxjvp.linearize(build("y = Exp(x)", {"x": (5,)}, dtype="float64"))
    )
    assert session.residual_bytes() == 0
    session.at({"x": weights(5)})
    assert session.residual_bytes() == 5 * 8


def test_strings_are_refused() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[2] x, string[2] s)'
        "=> (float[2] y, string[2] t) {y = Exp(x) t = Identity(s)}"
    )
    session = LinearizedSession(onnxjvp.linearize(model))
    with pytest.raises(UsageError, match="strings cannot be held"):
        session.at({"x": np.ones(2, np.float32), "s": np.array(["a", "b"], object)})


def test_integers_that_the_maps_read() -> None:
    """Gather's transpose scatters by the indices that are fed."""
    model = build("y = Gather(x, i)", {"x": ("N", 2), "i": ints(0, 0)}, dtype="float64")
    session = LinearizedSession(onnxjvp.linearize(model))
    index = ints(2, 2)
    session.at({"x": np.ones((3, 2)), "i": index})
    index[:] = 0
    np.testing.assert_array_equal(
        session.vjp({"y": np.array([[1.0, 2], [3, 4]])})["x"], [[0, 0], [0, 0], [4, 6]]
    )
