"""What has no derivative is refused by name, all of it at once; what is cut off is named."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import build, ints, ort, weights

import onnxjvp
from onnxjvp import Rewritten, UnsupportedOpError, UsageError, clone, jvp, vjp


def _both(model: object) -> list[Rewritten]:
    return [jvp(model), clone(model, layout="split"), clone(model, layout="stacked")]  # type: ignore[arg-type]


CUTS = {
    "Floor": "y = Floor(x)",
    "Sign": "y = Sign(x)",
    "Cast": "i = Cast<to=7>(x)\ny = Cast<to=FLOAT>(i)",
    "Greater": "c = Greater(x, k)\ny = Cast<to=FLOAT>(c)",
    "ArgMax": "i = ArgMax<axis=1>(x)\ny = Cast<to=FLOAT>(i)",
}


@pytest.mark.parametrize("op", CUTS)
@pytest.mark.parametrize("rewrite", [jvp, clone])
def test_a_path_that_is_cut_is_an_error_that_names_the_cut(op: str, rewrite: object) -> None:
    params = {"k": np.array(0.0)} if "k)" in CUTS[op] else {}
    model = build(CUTS[op], {"x": ("N", 3)}, params)
    with pytest.raises(UnsupportedOpError, match=op):
        rewrite(model)  # type: ignore[operator]


def test_an_output_that_is_cut_off_is_left_out_with_the_reason() -> None:
    body = "y = Tanh(x)\nf = Floor(x)\nlabel = ArgMax<axis=1>(x)\nc = Exp(k)"
    model = build(body, {"x": ("N", 3)}, {"k": np.array([1.0])}, ("y", "f", "label", "c"))
    for result in _both(model):
        assert list(result.names["results"]) == ["y"]
        excluded = result.report["excluded"]
        assert set(excluded) == {"f", "label", "c"}
        assert "Floor" in excluded["f"]
        assert "int64" in excluded["label"]
        assert "does not depend" in excluded["c"]
        assert any("Floor" in cut for cut in result.report["cuts"])
        x = weights(2, 3)
        values = ort(result.proto(), {"x": x, "x_u": x})
        np.testing.assert_array_equal(values["f"], np.floor(x))


def test_cuts_beside_a_live_path_are_reported() -> None:
    model = build("c = Ceil(x)\ny = Mul(x, c)", {"x": ("N", 3)})
    assert len(jvp(model).report["cuts"]) == 1
    assert "Ceil" in jvp(model).report["cuts"][0]
    quiet = build("s = Shape(x)\nr = Reshape(x, s)\ny = Exp(r)", {"x": ("N", 3)})
    assert jvp(quiet).report["cuts"] == []


def test_all_refused_nodes_are_listed_at_once() -> None:
    body = """a = RoiAlign<mode="max">(x, r, i)
        b = Resize<mode="linear", antialias=1>(a, , s)
        c = RoiAlign<mode="max">(x, r, i)
        d = Exp(b)
        e = BitCast<to=1>(d)
        y = Add(e, b)"""
    params = {"r": np.array([[0.0, 0.0, 2.0, 2.0]]), "i": ints(0)}
    model = build(
        body, {"x": (1, 2, 3, 3), "s": (4,)}, params, ("y", "c"), opset=26, dtype="float32"
    )
    model.graph.node[2].name = "the region"  # the others go by their outputs
    for rewrite in (jvp, lambda m: clone(m, layout="stacked"), lambda m: clone(m, layout="split")):
        with pytest.raises(UnsupportedOpError) as error:
            rewrite(model)
        refused = {name: operator for name, operator, _ in error.value.nodes}
        assert refused == {
            "a": "RoiAlign",
            "b": "Resize",
            "the region": "RoiAlign",
            "e": "BitCast",
        }
        for name, operator in refused.items():
            assert f"{operator} (node {name!r})" in str(error.value)
        assert "--wrt" in str(error.value)


def test_what_is_refused_on_a_live_path_is_fine_on_a_dead_one() -> None:
    body = 'd = RoiAlign<mode="max">(m, r, i)\ne = Squeeze(d)\ny = Mul(x, e)'
    whole = {"r": np.array([[0.0, 0.0, 2.0, 2.0]]), "i": ints(0)}
    model = build(body, {"x": ("N", 3), "m": (1, 1, 3, 3)}, whole, dtype="float32")
    with pytest.raises(UnsupportedOpError, match="RoiAlign"):
        jvp(model)
    result = jvp(model, wrt=["x"])
    x, m = (weights(*s).astype(np.float32) for s in ((2, 3), (1, 1, 3, 3)))
    values = ort(result.proto(), {"x": x, "m": m, "x_u": x})
    np.testing.assert_array_equal(values["y_jvp"], values["y"])


def test_what_no_wanted_output_needs_is_not_refused() -> None:
    body = 'y = Exp(x)\nz = RoiAlign<mode="max">(x, r, i)'
    whole = {"r": np.array([[0.0, 0.0, 2.0, 2.0]]), "i": ints(0)}
    model = build(body, {"x": (1, 1, 3, 3)}, whole, outputs=("y", "z"))
    with pytest.raises(UnsupportedOpError, match="RoiAlign"):
        jvp(model)
    result = jvp(model, outputs=["y"])
    assert list(result.names["results"]) == ["y"]


REFUSED = {
    "cofactors of a large matrix": ("y = Det(x)", {"x": (40, 40)}, {}, "40 x 40 cofactors"),
    "regions whose samples vary in number": (
        "y = RoiAlign(k, x, i)",
        {"x": (1, 4)},
        {"k": weights(1, 1, 3, 3), "i": ints(0)},
        "sampling_ratio",
    ),
    "the largest product of weight and pixel": (
        'y = RoiAlign<mode="max">(x, r, i)',
        {"x": (1, 1, 3, 3)},
        {"r": np.array([[0.0, 0.0, 2.0, 2.0]]), "i": ints(0)},
        "mode 'max'",
    ),
    "scales of weights that they stretch": (
        'y = Resize<mode="linear", antialias=1>(x, , s)',
        {"s": (4,)},
        {"x": weights(1, 1, 3, 3)},
        "antialias",
    ),
    "scales of corners that runtimes put elsewhere": (
        'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , s)',
        {"s": (4,)},
        {"x": weights(1, 1, 3, 3)},
        "whole or fractional",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_a_rule_and_still_no_derivative_says_why(what: str) -> None:
    body, inputs, params, why = REFUSED[what]
    model = build(body, inputs, params)  # type: ignore[arg-type]
    for rewrite in (jvp, vjp, lambda m: clone(m, layout="stacked")):
        with pytest.raises(UnsupportedOpError, match=why):
            rewrite(model)


TRANSPOSE_REFUSED = {
    "points of a half spectrum that it does not hold": (
        "y = DFT<onesided=1, inverse=1>(x, n)",
        {"x": (1, 5, 2)},
        {"n": np.array(6)},
        "half spectrum",
    ),
    "a half spectrum along an axis that is fed": (
        "y = DFT<onesided=1, inverse=1>(x, , a)",
        {"x": (2, 3, 4, 2), "a": np.array(1)},
        {},
        "axis",
    ),
}


@pytest.mark.parametrize("what", TRANSPOSE_REFUSED)
def test_what_cannot_be_transposed_says_why(what: str) -> None:
    body, inputs, params, why = TRANSPOSE_REFUSED[what]
    model = build(body, inputs, params, opset=20)  # type: ignore[arg-type]
    jvp(model)
    with pytest.raises(UnsupportedOpError, match=why):
        vjp(model)


UNCOVERED = {
    "indices that are numbers": (
        "y = OneHot(x, d, v)",
        {"x": (3,)},
        {"d": np.array(4), "v": np.array([0.0, 1.0])},
        "x",
    ),
}


@pytest.mark.parametrize("what", UNCOVERED)
def test_a_live_operand_that_a_rule_does_not_cover_is_refused(what: str) -> None:
    body, inputs, params, name = UNCOVERED[what]
    model = build(body, inputs, params)  # type: ignore[arg-type]
    for rewrite in (jvp, lambda m: clone(m, layout="stacked")):
        with pytest.raises(UnsupportedOpError, match=f"operand '{name}'"):
            rewrite(model)


def test_wrt_must_name_float_inputs() -> None:
    model = build("g = Gather(x, index)\ny = Exp(g)", {"x": (4,), "index": ints(1)})
    with pytest.raises(UsageError, match=r"index.*int64"):
        jvp(model, wrt=["index"])
    with pytest.raises(UsageError, match="did you mean 'x'"):
        jvp(model, wrt=["xx"])
    with pytest.raises(UsageError, match="no output 'z'"):
        jvp(model, outputs=["z"])
    integers = build("y = Gather(k, index)", {"index": ints(1)}, {"k": weights(4)})
    with pytest.raises(UsageError, match="no float input"):
        jvp(integers)


def test_settings_must_make_sense() -> None:
    model = build("y = Exp(x)", {"x": (3,)})
    with pytest.raises(UsageError, match="layout 'wide'"):
        clone(model, layout="wide")
    with pytest.raises(UsageError, match="method 'none'"):
        clone(model, method="none")
    with pytest.raises(UsageError, match="split"):
        clone(model, layout="split", method="substitute")
    with pytest.raises(UsageError, match="opset 17"):
        jvp(model, opset=17)
    assert onnxjvp.jvp(model, opset=20).report["opset"] == 20
