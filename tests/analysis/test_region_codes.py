"""Codes of regions, as outputs of models and along segments."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import weights
from networks import relu_net
from region_networks import CASES, drawn, model_of, moved

import onnxjvp
from onnxjvp.analysis import jacobians, maps, regions, walk
from onnxjvp.errors import NotConvergedError
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session

# -- the code ----------------------------------------------------------------------------------


def test_codes_are_what_the_derivative_holds() -> None:
    """Equal codes, equal masks: those that f's own values have."""
    model = relu_net()
    forms = [
        onnxjvp.jvp(model, states=True),
        onnxjvp.jvp(model, states=True, target="cpu", directions=2),
        onnxjvp.vjp(model, states=True),
        onnxjvp.clone(model, states=True, layout="split"),
        onnxjvp.clone(model, states=True, layout="stacked"),
        onnxjvp.clone(model, states=True, method="substitute"),
        onnxjvp.linearize(model, states=True).primal,
    ]
    rng, found, f = np.random.default_rng(3), regions(model), Evaluator(model)
    for _ in range(3):
        x = {"x": rng.standard_normal((2, 4)), "c": rng.standard_normal((2, 2))}
        truth = {name: value > 0 for name, value in f.run(x, ["h", "t"]).items()}
        code = found.at(x).code
        np.testing.assert_array_equal(code["a"], truth["h"])
        np.testing.assert_array_equal(code["z"], truth["t"])
        for made in forms:
            assert made.names["states"] == {"a": "a_state", "z": "z_state"}
            session = Session(made.model)
            fed = {s.name: np.ones([2] * len(s.shape)) for s in session.inputs}
            for spec in session.inputs:
                sizes = [2 if isinstance(n, str) else int(n or 0) for n in spec.shape]
                fed[spec.name] = np.ones(sizes)
            values = session.run({**fed, **x}, ["a_state", "z_state"])
            np.testing.assert_array_equal(values["a_state"], truth["h"])
            np.testing.assert_array_equal(values["z_state"], truth["t"])
    described = forms[0].report["comparisons"]
    assert [d["operator"] for d in described] == ["Relu", "LeakyRelu"]


def test_codes_in_branches_and_bodies() -> None:
    case = next(case for case in CASES if case.name == "If")
    made = onnxjvp.jvp(model_of(case), states=True)
    names = list(made.names["states"])
    assert names == ["c", "a/then_branch/q", "a/else_branch/r"]
    x = drawn(case, 0)
    values = Session(made.model).run({"x": x, "x_u": x}, list(made.names["states"].values()))
    positive = bool((x @ weights(6, 6)).sum() > 0)
    sizes = [value.size for value in values.values()]
    assert sizes == [1, 12, 0] if positive else [1, 0, 12]


def test_states_go_through_another_rewriting() -> None:
    made = onnxjvp.jvp(relu_net(), ["x"], ["y"], states=True)
    again = onnxjvp.jvp(made, ["x"], ["y"], states=True)
    assert again.names["states"] == {"a": "a_state_"}
    outputs = [v.name for v in again.model.graph.outputs]
    assert outputs[-1] == "a_state_"
    assert "a_state" in outputs


def test_digests_tell_regions_apart() -> None:
    found = regions(relu_net(), ["x"], ["y"])
    rng, seen = np.random.default_rng(4), dict[str, bytes]()
    for _ in range(40):
        x = {"x": rng.standard_normal((1, 4)), "c": np.zeros((1, 2))}
        region = found.at(x)
        mask = region.code["a"].tobytes()
        assert seen.setdefault(region.digest, mask) == mask
    assert len(set(seen.values())) == len(seen) > 5


# -- walks -------------------------------------------------------------------------------------


def test_a_walk_finds_every_region() -> None:
    found = regions(relu_net("float32"), ["x"])
    rng = np.random.default_rng(6)
    x, z = ({"x": 3 * rng.standard_normal((2, 4)), "c": np.ones((2, 2))} for _ in range(2))
    x, z = ({n: a.astype(np.float32) for n, a in p.items()} for p in (x, z))
    walked = walk(found, x, z)
    assert walked.regions == len(walked.breakpoints) + 1 == walked.evaluations > 5
    assert (np.diff(walked.breakpoints) > 0).all()
    assert walked.error < 1e-12
    precise, u = found.double(), {"x": z["x"].astype(np.float64) - x["x"]}
    steps = np.linspace(0.0005, 0.9995, 400)
    for t in steps[np.abs(steps[:, None] - walked.breakpoints).min(axis=1) > 1e-9]:
        where = int(np.searchsorted(walked.breakpoints, t))
        assert precise.at(moved(x, u, float(t))).digest == walked.digests[where]
    t, edge = 0.0, walked.crossings[0]
    for point, edge in zip(walked.breakpoints, walked.crossings, strict=True):
        middle = (t + point) / 2
        ahead, behind = precise.boundary(moved(x, u, middle), u)
        assert (ahead.node, ahead.unit) == (edge.node, edge.unit)
        assert middle + ahead.distance == pytest.approx(point, abs=1e-12)
        assert t == 0 or middle - behind.distance == pytest.approx(t, abs=1e-12)
        t = point
    assert walk(found, x, x).digests == (precise.at(x).digest,)
    with pytest.raises(NotConvergedError, match=r"4 regions were found on .* by 4 evaluations"):
        walk(found, x, z, most=4)


# -- A and b -----------------------------------------------------------------------------------


def test_other_points_load_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, rng = relu_net(), np.random.default_rng(5)
    x, z = ({"x": rng.standard_normal((n, 4)), "c": rng.standard_normal((n, 2))} for n in (2, 3))
    found, expected = regions(model), onnxjvp.affine_parameters(model, z)
    found.affine(x)
    monkeypatch.delattr(jacobians, "Session")
    monkeypatch.delattr(maps, "LinearizedSession")
    for each, truth in zip(found.affine(z, mode="reverse"), expected, strict=True):
        assert each.keys() == truth.keys()
        for name, array in truth.items():
            np.testing.assert_allclose(each[name], array, atol=1e-12)
