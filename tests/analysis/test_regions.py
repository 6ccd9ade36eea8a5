"""Regions: where they end, what shares them, and what is refused.

The truth is f itself, in float64 by the oracle, which knows no comparison: along a line it is
affine as long as the line stays in the region, and not beyond.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np
import pytest
from helpers import MODELS, Array, Input, build, ints, weights
from networks import relu_net
from region_networks import CASES, Case, drawn, follow, model_of, moved

import onnxjvp
from onnxjvp.analysis import regions, walk
from onnxjvp.errors import InputError, UnsupportedOpError, UsageError
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_f_is_affine_up_to_the_boundary_and_not_beyond(case: Case) -> None:
    model = model_of(case)
    found, f, leaves = regions(model, precise=True), Evaluator(model), []
    for seed in range(3):
        x, u = {"x": drawn(case, seed)}, {"x": drawn(case, seed + 100)}
        assert found.at(x).units == case.units
        for sign, edge in zip((1, -1), found.boundary(x, u), strict=True):
            v = {"x": sign * u["x"]}
            if math.isinf(edge.distance):
                assert (edge.node, edge.unit, edge.rate) == (None, None, 0)
                assert not found.differences(x, moved(x, v, 1e3))
                continue
            assert edge.distance == pytest.approx(edge.margin / -edge.rate)
            assert edge.length == pytest.approx(edge.distance * float(np.linalg.norm(u["x"])))
            leaves.append(follow(found, f, x, v, edge, "y"))
    assert any(leaves) if case.silent else all(leaves)
    assert len(leaves) >= 3


@pytest.mark.parametrize("name", ["digits_cnn", "digits_unet", "digits_rnn"])
def test_regions_of_trained_models(name: str) -> None:
    path = MODELS / f"{name}.onnx"
    found, f = regions(path), Evaluator(path)
    precise = found.double()
    (spec,) = Session(path).inputs
    shape = [1 if isinstance(n, str) else int(n or 1) for n in spec.shape]
    rng = np.random.default_rng(5)
    x = {spec.name: rng.random(shape, np.float32)}
    u = {spec.name: rng.standard_normal(shape)}
    edges = precise.boundary(x, u)
    for one, other in zip(found.boundary(x, u), edges, strict=True):
        assert (one.node, one.unit) == (other.node, other.unit)
        assert one.distance == pytest.approx(other.distance, rel=1e-2)
    (output,) = f.outputs
    follow(precise, f, x, u, edges[0], output)
    # A and b are those of the whole region, not of x alone
    matrices, constants = found.affine(x)
    z = moved(x, u, 0.9 * edges[0].distance)
    A = matrices[output, spec.name].astype(np.float64)
    y = np.tensordot(A, z[spec.name], axes=len(shape)) + constants[output]
    truth = f.run(z, [output])[output]
    np.testing.assert_allclose(y, truth, atol=1e-4 * float(np.abs(truth).max()))
    assert found.at(x).digest == precise.at(z).digest


def test_what_a_smooth_head_leaves() -> None:
    """Behind all comparisons a smooth node changes f, and no region."""
    path = MODELS / "wine_mlp.onnx"
    found = regions(path, outputs=["probabilities"], precise=True)
    assert found.exact
    assert found.smooth == ("Relu2 (Softmax)",)
    x = {"features": np.full((1, 13), 0.1, np.float32)}
    (edge, _) = found.boundary(x, {"features": np.ones((1, 13))})
    u = {"features": np.ones((1, 13))}
    assert not found.differences(x, moved(x, u, 0.999999 * edge.distance))
    assert found.differences(x, moved(x, u, 1.000001 * edge.distance))
    with pytest.raises(UnsupportedOpError, match="f is not affine in its regions: Relu2"):
        found.affine(x)


# -- edges -------------------------------------------------------------------------------------

INF = math.inf
AXIS = {"axis": ints(0)}


@pytest.mark.parametrize(
    ("op", "x", "u", "ahead", "behind"),
    [
        ("Relu(x)", [0.0], [1.0], 0, INF),  # at 0 a Relu is off
        ("Relu(x)", [0.0, 3.0], [0.0, 2.0], INF, 1.5),
        ("Relu(x)", [-1.0, -4.0], [2.0, 2.0], 0.5, INF),
        ("Relu(x)", [-1.0], [0.0], INF, INF),
        ("Abs(x)", [0.0], [1.0], 0, 0),  # and an Abs on neither side
        ("Abs(x)", [2.0], [-4.0], 0.5, INF),
        ("LeakyRelu(x)", [0.0], [-1.0], INF, 0),
        ("ThresholdedRelu<alpha=1.0>(x)", [1.0], [1.0], 0, INF),
        ("Shrink<lambd=1.0>(x)", [-1.0], [1.0], 2, 0),
        ("HardSigmoid<alpha=0.5, beta=0.5>(x)", [0.0], [0.25], 4, 4),
        ("Clip(x, zero, two)", [2.0], [1.0], INF, 0),
        ("Clip(x, zero, two)", [0.5], [0.5], 3, 1),
        ("Clip(x, two, zero)", [0.5], [0.5], 3, 1),  # bounds that cross
        ("Floor(x)", [2.0], [0.5], 2, 0),
        ("Floor(x)", [-0.25], [0.5], 0.5, 1.5),
        ("Ceil(x)", [2.0], [0.5], 0, 2),
        ("Round(x)", [2.5], [0.5], 0, 2),  # to the even number
        ("Round(x)", [1.5], [0.5], 2, 0),
        ("Sign(x)", [0.0], [1.0], 0, 0),
        ("Max(x, zero)", [0.0], [1.0], INF, 0),  # the first one stays
        ("Max(zero, x)", [0.0], [1.0], 0, INF),
        ("Min(zero, x)", [0.0], [1.0], INF, 0),
        ("ReduceMax<keepdims=0>(x)", [1.0, 1.0], [1.0, 0.0], INF, 0),
        ("ReduceMax<keepdims=0>(x)", [1.0, 1.0], [1.0, 1.0], INF, INF),
        ("ReduceMax<keepdims=0>(x)", [3.0, 1.0, 2.0], [0.0, 2.0, 0.5], 1, INF),
        ("ReduceMin<keepdims=0>(x)", [3.0, 1.0, 1.0], [0.0, 0.5, 0.0], 0, INF),
        ("Mod<fmod=1>(x, two)", [5.0], [1.0], 1, 1),
        ("Mod<fmod=1>(x, two)", [-1.0], [1.0], 3, 1),
        ("ReduceL1<keepdims=0>(x)", [0.0, 1.0], [0.0, -1.0], 1, INF),
        ("Hardmax(x)", [3.0, 1.0], [-1.0, 1.0], 1, INF),
        ("Identity(x)", [1.0], [1.0], INF, INF),
    ],
)
@pytest.mark.parametrize("precise", [False, True])
def test_edges(
    op: str, x: list[float], u: list[float], ahead: float, behind: float, precise: bool
) -> None:
    # on a single axis; an empty one is a point as well
    params = {"zero": np.float64(0), "two": np.float64(2)}
    model = build(f"y = {op}", {"x": ("N",)}, params, dtype="float32")
    found = regions(model, precise=precise)
    x32, u32 = np.array(x, np.float32), np.array(u, np.float32)
    edges = found.boundary({"x": x32}, {"x": u32})
    assert [edge.distance for edge in edges] == [ahead, behind]


def test_a_divisor_that_vanishes_ends_a_region_and_not_a_code() -> None:
    """Mod(x, x) is not a number at 0, and has the quotient 1 on both sides."""
    found = regions(build("y = Mod<fmod=1>(x, x)", {"x": ("N",)}), precise=True)
    x, u = {"x": np.array([2.0])}, {"x": np.array([-1.0])}
    ahead, behind = found.boundary(x, u)
    assert (ahead.distance, behind.distance) == (2, INF)
    beyond = {"x": np.array([-1.0])}
    assert found.differences(x, beyond) == []
    assert walk(found, x, beyond).regions == 1
    with pytest.raises(InputError, match="not a number"):
        found.at({"x": np.array([0.0])})


def test_ties_and_margins() -> None:
    model = build(
        "y = MaxPool<kernel_shape=[2]>(x)\nz = Relu(x)", {"x": (1, 1, 4)}, outputs=("y", "z")
    )
    found = regions(model, precise=True)
    x = {"x": np.array([[[0.0, 0.0, 2.0, 5.0]]])}
    pool, relu = found.at(x).layers
    assert (pool.operator, pool.units, pool.margin, pool.unit, pool.tied) == (
        *("MaxPool", 3, 2.0, (0, 0, 1), 1),
    )
    assert (relu.margin, relu.unit, relu.tied) == (2.0, (0, 0, 2), 2)
    np.testing.assert_array_equal(found.at(x).code[pool.node], [[[0, 2, 3]]])
    for u, distances in (
        ([0, 0, 0, 0], (INF, INF)),
        ([1, 1, 0, 0], (0, INF)),  # the windows of equal numbers stay equal; the Relus do not
        ([-1, -1, 0, 0], (INF, 0)),
        ([0, -2, 0, 0], (INF, 0)),
        ([0, 0, 3, 0], (1, 2 / 3)),
    ):
        edges = found.boundary(x, {"x": np.array(u, float).reshape(1, 1, 4)})
        assert tuple(edge.distance for edge in edges) == distances


def test_equal_numbers_are_a_region_of_their_own() -> None:
    body = (
        "e = Equal(x, one)\nf = Cast<to=FLOAT>(e)\nn = IsNaN(x)\ny = Where(n, f, x)\nz = Add(y, f)"
    )
    model = build(body, {"x": (1,)}, {"one": np.float64(1)}, ("z",))
    found, u = regions(model), {"x": np.array([0.5])}
    assert [e.distance for e in found.boundary({"x": np.array([1.0])}, u)] == [0, 0]
    assert [e.distance for e in found.boundary({"x": np.array([2.0])}, u)] == [INF, 2]
    with pytest.raises(InputError, match=r"Equal\) compares is not a number"):
        found.at({"x": np.array([np.nan])})


def test_padding_and_infinities_never_win() -> None:
    model = build("y = MaxPool<kernel_shape=[3], pads=[1, 1]>(x)", {"x": (1, 1, 2)})
    found = regions(model)
    x = {"x": np.array([[[1.0, -np.inf]]])}
    (layer,) = found.at(x).layers
    assert (layer.margin, layer.unit, layer.tied) == (INF, None, 0)
    assert found.boundary(x, {"x": np.array([[[1.0, 0.0]]])})[0].distance == INF


def test_directions_of_any_size() -> None:
    model = build("y = Relu(x)", {"x": (2,)}, dtype="float16")
    found = regions(model)
    x = {"x": np.array([1.0, -2.0], np.float16)}
    for size in (1e-30, 1.0, 1e30):
        ahead, behind = found.boundary(x, {"x": size * np.array([-1.0, 1.0])})
        assert ahead.distance == pytest.approx(1 / size, rel=1e-3)
        assert ahead.rate == pytest.approx(-size, rel=1e-3)
        assert behind.distance == INF
    with pytest.raises(InputError, match="direction is not finite"):
        found.boundary(x, {"x": np.array([np.inf, 0])})


# -- several variables, batches, dtypes --------------------------------------------------------


def test_several_inputs_and_outputs() -> None:
    model = relu_net()
    found = regions(model, precise=True)
    rng = np.random.default_rng(0)
    x = {"x": rng.standard_normal((2, 4)), "c": rng.standard_normal((2, 2))}
    u = {"x": rng.standard_normal((2, 4)), "c": rng.standard_normal((2, 2))}
    f = Evaluator(model)
    for v in (u, {"x": u["x"]}, {"c": u["c"]}):
        edge, _ = found.boundary(x, v)
        assert follow(found, f, x, v, edge, "z")
    only_c = regions(model, ["c"], ["z"])
    assert [state["node"] for state in only_c.report["comparisons"]] == ["z"]
    assert only_c.boundary(x, {"c": u["c"]})[0].distance == pytest.approx(edge.distance)
    with pytest.raises(UsageError, match="'x', which is no variable"):
        only_c.boundary(x, {"x": u["x"]})
    with pytest.raises(UsageError, match="the points differ in 'x'"):
        only_c.differences(x, moved(x, {"x": u["x"]}, 1))
    with pytest.raises(InputError, match=r"the shape \[2, 4\] at one point and \[1, 4\]"):
        found.differences(x, {n: a[:1] for n, a in x.items()})


def test_a_weight_is_a_variable() -> None:
    model = relu_net()
    found = regions(model, ["W1"], ["y"], precise=True)
    rng = np.random.default_rng(1)
    x = {"x": rng.standard_normal((2, 4)), "c": np.zeros((2, 2))}
    u = rng.standard_normal((4, 8))
    edge, _ = found.boundary(x, {"W1": u})
    f = Evaluator(model)
    W = weights(4, 8)
    y = [f.run({**x, "W1": W + share * edge.distance * u})["y"] for share in (0, 0.5, 0.99, 1.1)]
    slope = 2 * (y[1] - y[0])
    np.testing.assert_allclose(y[2], y[0] + 0.99 * slope, atol=1e-9)
    assert np.abs(y[3] - y[0] - 1.1 * slope).max() > 1e-3
    with pytest.raises(UsageError, match="W1 is none"):
        walk(found, x, x)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_and_batches(dtype: str) -> None:
    """The region of a batch is that of every sample; a sample alone has its own."""
    found = regions(relu_net(dtype), outputs=["z"])
    rng = np.random.default_rng(2)
    x = {"x": rng.standard_normal((3, 4)), "c": rng.standard_normal((3, 2))}
    x = {n: a.astype(dtype) for n, a in x.items()}
    u = {n: rng.standard_normal(a.shape) for n, a in x.items()}
    together = found.boundary(x, u)[0]
    points = [({n: a[i : i + 1] for n, a in x.items()}, i) for i in range(3)]
    alone = [found.boundary(p, {n: u[n][i : i + 1] for n in u})[0] for p, i in points]
    first = min(alone, key=lambda edge: edge.distance)
    assert together.distance == pytest.approx(first.distance, rel=1e-2)
    assert together.unit is not None
    assert alone[together.unit[0]] is first
    truth = found.double().boundary(x, u)[0]
    rel = {"float16": 5e-2, "float32": 1e-4, "float64": 1e-10}[dtype]
    assert together.distance == pytest.approx(truth.distance, rel=rel)
    empty = {n: a[:0] for n, a in x.items()}
    assert found.at(empty).units == 0
    assert found.boundary(empty, {})[0].distance == INF


def test_samples_of_a_batch_in_one_call() -> None:
    found = regions(MODELS / "digits_cnn.onnx")
    rng = np.random.default_rng(9)
    x = {"image": rng.random((5, 1, 8, 8), np.float32)}
    u = {"image": rng.standard_normal((5, 1, 8, 8))}
    together = found.each(x, u)
    assert len(together) == 5
    for i, sample in enumerate(together):
        one, along = {"image": x["image"][i : i + 1]}, {"image": u["image"][i : i + 1]}
        alone = found.at(one)
        assert sample.region.digest == alone.digest
        assert [layer.units for layer in sample.region.layers] == [s.units for s in alone.layers]
        for a, b in zip((sample.ahead, sample.behind), found.boundary(one, along), strict=True):
            assert (a.node, a.unit) == (b.node, b.unit)
            assert a.distance == pytest.approx(b.distance, rel=1e-2)
            assert a.length == pytest.approx(a.distance * float(np.linalg.norm(along["image"])))
    assert found.each({"image": x["image"][:0]}) == []
    mixing = build("m = ReduceMean(x, axis)\nd = Sub(x, m)\ny = Relu(d)", {"x": ("N", 3)}, AXIS)
    with pytest.raises(UnsupportedOpError, match="changes with the samples beside it"):
        regions(mixing).each({"x": rng.standard_normal((2, 3))})
    with pytest.raises(UsageError, match="samples share 'W1', which is no input"):
        regions(relu_net(), ["W1"]).each({"x": x["image"][:, 0, 0, :4], "c": np.ones((5, 2))})
    joined = build("m = ReduceMax(x, axis)\ny = Sub(x, m)", {"x": ("N", 3)}, AXIS)
    with pytest.raises(UnsupportedOpError, match=r"units of m .* not those of 2 samples"):
        regions(joined).each({"x": rng.standard_normal((2, 3))})


def test_a_fixed_batch_sample_by_sample() -> None:
    found = regions(MODELS / "digits_rnn.onnx")
    x = {"image": np.random.default_rng(10).random((4, 1, 8, 8), np.float32)}
    together = found.each(x, x)
    whole = found.boundary(x, x)[0]
    first = min(range(4), key=lambda i: together[i].ahead.distance)
    assert together[first].ahead.distance == pytest.approx(whole.distance)
    assert whole.unit is not None
    assert whole.unit[0] == first


# -- refusals ----------------------------------------------------------------------------------


def test_smooth_nodes_before_a_comparison_are_refused() -> None:
    model = build("h = Tanh(x)\nd = Sub(h, c)\ny = Relu(d)", {"x": (3,)}, {"c": np.float64(0.5)})
    with pytest.raises(UnsupportedOpError, match=r"y \(Relu\) compare what comes from h \(Tanh\)"):
        regions(model)
    found = regions(model, first_order=True)
    assert not found.exact
    x = {"x": np.full(3, np.arctanh(0.5) - 1e-4)}
    ahead, behind = found.boundary(x, {"x": np.ones(3)})
    assert ahead.distance == pytest.approx(1e-4, rel=1e-3)
    assert behind.distance == INF
    with pytest.raises(UnsupportedOpError, match=r"are behind h \(Tanh\)"):
        walk(found, x, x)
    with pytest.raises(UnsupportedOpError, match="compares nothing, and has no regions: y"):
        regions(build("y = Sigmoid(x)", {"x": (3,)}))
    with pytest.raises(UsageError, match="no state to give out"):
        onnxjvp.jvp(build("y = Sigmoid(x)", {"x": (3,)}), states=True)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("v, i = TopK<sorted=0>(x, k)\ny = Identity(v)", "TopK .*with sorted=0 nothing says"),
        ("y, m = Dropout(x, r, yes)", "Dropout .*draws which elements it keeps"),
        ("y, i, j, n = Unique(x)", "Unique .*what it compares is not known"),
        ("y = LpNormalization<p=1>(x)", "LpNormalization .*is not known"),
        ("s = ReduceSum<keepdims=0>(x)\ny = Range(s, e, e)", "how many numbers it gives"),
    ],
)
def test_what_nobody_knows_is_refused(body: str, why: str) -> None:
    params = {"k": ints(2), "r": np.float64(0.5), "yes": np.array(True), "e": np.float64(9)}
    used = {name: value for name, value in params.items() if re.search(rf"[(, ]{name}[,)]", body)}
    model = build(body, {"x": (4,)}, used)
    with pytest.raises(UnsupportedOpError, match=f"(?s)cannot be told.*{why}"):
        regions(model, first_order=True)
    with pytest.raises(UnsupportedOpError, match="cannot be told"):
        onnxjvp.jvp(model, states=True)


def test_recurrences() -> None:
    params = {"W": weights(2, 3, 2), "R": weights(2, 3, 3), "B": weights(2, 6)}
    params["L"] = np.array([4, 2], np.int32)
    names = 'activations=["Relu","LeakyRelu"], activation_alpha=[0.2], direction="bidirectional"'
    node = f"y, h = RNN<hidden_size=3, {names}>(x, W, R, B, L)"
    inputs: Mapping[str, Input] = {"x": ("T", "N", 2)}
    model = build(f"{node}\nz = ReduceSum<keepdims=0>(h)", inputs, params, ("z",))
    found, f = regions(model, outputs=["z"], precise=True), Evaluator(model)
    for seed in range(4):
        x, u = ({"x": np.random.default_rng([seed, k]).standard_normal((4, 2, 2))} for k in (0, 1))
        assert found.at(x).units == 4 * 2 * 2 * 3
        assert follow(found, f, x, u, found.boundary(x, u)[0], "z")
    with pytest.raises(UnsupportedOpError, match="compares nothing"):
        regions(build("y = RNN<hidden_size=3>(x, W, R)", {"x": (4, 1, 2)}, _one_way()))
    hard = build(
        'y = GRU<hidden_size=3, activations=["HardSigmoid","Tanh"]>(x, W, R)',
        {"x": (4, 1, 2)},
        {"W": weights(1, 9, 2), "R": weights(1, 9, 3)},
    )
    with pytest.raises(UnsupportedOpError, match="what its steps compare is not known"):
        regions(hard)


def _one_way() -> dict[str, Array]:
    return {"W": weights(1, 3, 2), "R": weights(1, 3, 3)}


def test_a_label_has_regions_and_no_derivative() -> None:
    model = build("h = MatMul(x, W)\ny = ArgMax<axis=1>(h)", {"x": ("N", 4)}, {"W": weights(4, 3)})
    found = regions(model, outputs=["y"])
    x, u = ({"x": np.random.default_rng(s).standard_normal((1, 4))} for s in (7, 8))
    edge, _ = found.boundary(x, u)
    labels = [Session(model).run(moved(x, u, s * edge.distance))["y"] for s in (0, 0.999, 1.001)]
    np.testing.assert_array_equal(labels[0], labels[1])
    assert not np.array_equal(labels[1], labels[2])
