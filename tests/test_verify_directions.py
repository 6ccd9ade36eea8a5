"""verify on K directions, directions in the file and other variables: one mistake at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import numpy_helper, parser
from pairs import (
    ALONE,
    MANY,
    ORIGINAL,
    PRIMAL,
    RNG,
    SLOPE,
    all_pass,
    described,
    failed,
    model,
    rows,
    vjp,
)

from onnxjvp import rewrite
from onnxjvp.errors import UsageError
from onnxjvp.verification import verify

# -- K directions ------------------------------------------------------------------------------

ALONG = "t = MatMul(x_u, w) y_jvp = Mul(s, t)"


def many(count: int | str, along: str = ALONG) -> Any:
    rewritten = model(
        f"{PRIMAL} {SLOPE} {along}",
        f", float[{count}, N, 5] x_u",
        f", float[{count}, N, 4] y_jvp",
    )
    return described(
        rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, seeds={"x": "x_u"}, directions=count
    )


@pytest.mark.parametrize("count", [1, 5, "K"])
def test_directions_pass(count: int | str) -> None:
    report = verify(ORIGINAL, many(count))
    all_pass(report)
    (row,) = rows(report, MANY)
    assert len(row.index) == 3
    assert row.note == ("3 of 5 directions" if count == 5 else "")
    assert len(rows(report, ALONE)) == 1


def test_a_dynamic_number_of_directions_is_asked_for() -> None:
    report = verify(ORIGINAL, many("K"), dims={"K": 4, "N": 3})
    (row,) = rows(report, MANY)
    assert row.note == "3 of 4 directions"
    for sizes, model_ in (({"K": 0}, many("K")), ({"K": 2}, many(5))):
        with pytest.raises(UsageError):
            verify(ORIGINAL, model_, dims=sizes)


def test_a_wrong_direction_beyond_those_compared() -> None:
    last = "i = Constant<value = float[5, 1, 1] {1.0, 1.0, 1.0, 1.0, 2.0}>()"
    along = f"{last} t0 = MatMul(x_u, w) t = Mul(t0, i) y_jvp = Mul(s, t)"
    assert failed(verify(ORIGINAL, many(5, along))) == {ALONE}


def test_directions_that_mix() -> None:
    axis = "z = Constant<value = int64[1] {0}>()"
    along = f"{axis} sum = ReduceSum(x_u, z) e = Expand(sum, sh) t = MatMul(e, w) y_jvp = Mul(s, t)"
    mixed = many(5, f"sh = Shape(x_u) {along}")
    assert failed(verify(ORIGINAL, mixed)) == {MANY, ALONE}


def test_directions_without_their_axis() -> None:
    axis = "z = Constant<value = int64[1] {0}>()"
    along = f"{axis} first = ReduceMax<keepdims = 0>(x_u, z) t = MatMul(first, w) y_jvp = Mul(s, t)"
    report = verify(ORIGINAL, many("K", along))
    assert {MANY, ALONE} <= failed(report)
    assert "shape (2, 4)" in rows(report, MANY)[0].note


# -- clones of K directions --------------------------------------------------------------------

LANES = "j0 = MatMul(x, w) jx = Mul(s, j0) y_0 = Sub(y, jx) y_u = Add(y_0, y_jvp)"


@pytest.mark.parametrize("broken", [False, True])
def test_clone_of_directions(broken: bool) -> None:
    lanes = LANES.replace("Sub(y, jx)", "Identity(y)") if broken else LANES
    rewritten = model(
        f"{PRIMAL} {SLOPE} {ALONG} {lanes}",
        ", float[K, N, 5] x_u",
        ", float[K, N, 4] y_u, float[N, 4] y_0, float[K, N, 4] y_jvp",
    )
    results = {"y": {form: f"y_{form}" for form in ("u", "0", "jvp")}}
    described(rewritten, "clone", results, seeds={"x": "x_u"}, directions="K", layout="split")
    report = verify(ORIGINAL, rewritten)
    if broken:
        assert failed(report) == {"f_x(x) = f(x)"}
    else:
        all_pass(report)


# -- directions in the file --------------------------------------------------------------------

U = RNG.standard_normal((5, 4))


def given(tangent: str, inputs: str = "", **settings: Any) -> Any:
    rewritten = model(f"{PRIMAL} {SLOPE} {tangent}", inputs, ", float[N, 4] y_jvp")
    rewritten.graph.initializer.append(numpy_helper.from_array(U.astype(np.float32), "w_u"))
    return described(rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, given=["w"], **settings)


def test_a_direction_in_the_file() -> None:
    report = verify(ORIGINAL, given("t = MatMul(x, w_u) y_jvp = Mul(s, t)", wrt=["w"]))
    assert report.passed
    (row,) = rows(report, "linear in u")
    assert row.status == "not applicable"
    assert "in the file" in row.note
    assert rows(report, MANY)[0].status == "passed"
    wrong = given("t = MatMul(x, w_u) j = Mul(s, t) y_jvp = Add(j, j)", wrt=["w"])
    assert failed(verify(ORIGINAL, wrong)) == {MANY}


def test_a_direction_in_the_file_beside_one_that_is_fed() -> None:
    both = "a = MatMul(x, w_u) b = MatMul(x_u, w) t = Add(a, b) y_jvp = Mul(s, t)"
    settings: dict[str, Any] = {"wrt": ["w", "x"], "seeds": {"x": "x_u"}}
    report = verify(ORIGINAL, given(both, ", float[N, 5] x_u", **settings))
    all_pass(report)
    assert "not in the file" in rows(report, "linear in u")[0].note
    lost = both.replace("Add(a, b)", "Identity(b)") + " e = Add(a, a)"
    assert failed(verify(ORIGINAL, given(lost, ", float[N, 5] x_u", **settings))) == {MANY}
    crooked = both.replace("MatMul(x_u, w)", "Relu(c)").replace("b =", "c = MatMul(x_u, w) b =", 1)
    report = verify(ORIGINAL, given(crooked, ", float[N, 5] x_u", **settings))
    assert failed(report) == {MANY, "linear in u"}


def test_directions_in_the_file_say_how_many_they_are() -> None:
    tangent = "a = MatMul(x, w_u) b = MatMul(x_u, w) t = Add(a, b) y_jvp = Mul(s, t)"
    rewritten = model(
        f"{PRIMAL} {SLOPE} {tangent}", ", float[K, N, 5] x_u", ", float[K, N, 4] y_jvp"
    )
    array = RNG.standard_normal((4, 5, 4)).astype(np.float32)
    rewritten.graph.initializer.append(numpy_helper.from_array(array, "w_u"))
    settings: dict[str, Any] = {"wrt": ["w", "x"], "seeds": {"x": "x_u"}, "given": ["w"]}
    described(rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, directions="K", **settings)
    report = verify(ORIGINAL, rewritten)
    all_pass(report)
    assert rows(report, MANY)[0].note == "3 of 4 directions"
    with pytest.raises(UsageError, match="the file holds 4"):
        verify(ORIGINAL, rewritten, dims={"K": 3})


# -- values inside, constants ------------------------------------------------------------------


@pytest.mark.parametrize("broken", [False, True])
def test_a_value_inside_is_moved_on_top_of_what_reaches_it(broken: bool) -> None:
    total = "t = Identity(p_u)" if broken else "t = Add(a, p_u)"
    rewritten = model(
        f"{PRIMAL} {SLOPE} a = MatMul(x_u, w) {total} y_jvp = Mul(s, t)",
        ", float[N, 5] x_u, float[N, 4] p_u",
        ", float[N, 4] y_jvp",
    )
    settings: dict[str, Any] = {"wrt": ["x", "p"], "seeds": {"x": "x_u", "p": "p_u"}}
    described(rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, **settings)
    report = verify(ORIGINAL, rewritten)
    if broken:
        assert failed(report) == {MANY}
    else:
        all_pass(report)


def test_a_frozen_value_inside_is_brought_back_to_its_own_value() -> None:
    lanes = "y_jvp = Mul(s, p_u) jx = Mul(s, p) y_0 = Sub(y, jx) y_u = Add(y_0, y_jvp)"
    rewritten = model(
        f"{PRIMAL} {SLOPE} {lanes}",
        ", float[N, 4] p_u",
        ", float[N, 4] y_u, float[N, 4] y_0, float[N, 4] y_jvp",
    )
    results = {"y": {form: f"y_{form}" for form in ("u", "0", "jvp")}}
    settings: dict[str, Any] = {"wrt": ["p"], "seeds": {"p": "p_u"}, "layout": "split"}
    report = verify(ORIGINAL, described(rewritten, "clone", results, **settings))
    all_pass(report)
    assert rows(report, "f_x(x) = f(x)")[0].status == "passed"


def test_a_constant_nodes_output_as_variable() -> None:
    body = "c = Constant<value = float[4] {1.0, -2.0, 0.5, 3.0}>() p = MatMul(x, w) y = Mul(p, c)"
    original = model(body)
    for tangent, passes in (("y_jvp = Mul(p, c_u)", True), ("y_jvp = Mul(y, c_u)", False)):
        rewritten = model(f"{body} {tangent}", ", float[4] c_u", ", float[N, 4] y_jvp")
        settings: dict[str, Any] = {"wrt": ["c"], "seeds": {"c": "c_u"}}
        described(rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, **settings)
        assert verify(original, rewritten).passed is passes


# -- what the rewriting itself makes -----------------------------------------------------------

CASCADE = (
    "c = Constant<value = float[5] {0.5, -1.0, 2.0, 0.25, 1.5}>() h = Mul(x, c) r = Relu(h)"
    "a = Add(r, x) p = MatMul(a, w) y = Tanh(p)"
)
MADE: dict[str, Callable[[Any], Any]] = {
    "jvp params": lambda m: rewrite.jvp(m, ["params", "c"]),
    "jvp inside": lambda m: rewrite.jvp(m, ["x", "h"], directions="K"),
    "jvp given": lambda m: rewrite.jvp(m, ["w", "x"], given={"w": U}),
    "clone inside": lambda m: rewrite.clone(m, ["h"], layout="stacked", directions=2),
    "clone weight": lambda m: rewrite.clone(m, ["w"], directions="K"),
    "substitute": lambda m: rewrite.clone(m, ["w"], method="substitute"),
    "vjp": lambda m: rewrite.vjp(m, ["x", "w", "h", "c"], cotangents=4),
    "grad": lambda m: rewrite.grad(m, ["x", "w"], loss="cross_entropy"),
    "grad of a choice": lambda m: rewrite.grad(m, select="y[..., -1]"),
    "hvp": lambda m: rewrite.hvp(m, ["x", "h", "w"], loss="squared_error", directions="K"),
    "ggn": lambda m: rewrite.ggn(m, ["w", "c"], loss="cross_entropy"),
    "jacobian": lambda m: rewrite.jacobian(m, ["x", "w", "h"]),
}


@pytest.mark.parametrize("kind", MADE)
def test_what_is_made_passes(kind: str) -> None:
    original = model(CASCADE)
    report = verify(original, MADE[kind](original))
    assert report.passed, [row for row in report.rows if row.status == "failed"]
    assert report.oracle == "float64 differences"


@pytest.mark.parametrize("count", [None, 2])
def test_numbers_without_an_axis(count: int | None) -> None:
    body = "h = Mul(x, b) y = ReduceSum<keepdims = 0>(h)"
    scalar = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]>'
        f"g (float[N, 5] x, float b) => (float y) {{{body}}}"
    )
    all_pass(verify(scalar, rewrite.jvp(scalar, directions=count)))
    all_pass(verify(scalar, rewrite.vjp(scalar, cotangents=count)))
    all_pass(verify(scalar, rewrite.hvp(scalar, directions=count)))


def test_halves_that_are_made_are_refused() -> None:
    halves = rewrite.linearize(ORIGINAL)
    for half in (halves.primal, halves.jvp, halves.vjp):
        with pytest.raises(UsageError, match="cannot be verified alone"):
            verify(ORIGINAL, half)


# -- what cannot be checked --------------------------------------------------------------------


@pytest.mark.parametrize("emit", ["primal", "apply"])
def test_halves_cannot_be_verified_alone(emit: str) -> None:
    half = described(model(PRIMAL), emit, {})
    with pytest.raises(UsageError, match="cannot be verified alone"):
        verify(ORIGINAL, half)


def test_metadata_that_do_not_make_a_whole() -> None:
    with pytest.raises(UsageError, match=r"cannot check .*'other'"):
        verify(ORIGINAL, described(vjp(), "other", {"x": {"vjp": "x_vjp"}}))
    for broken in (
        described(vjp(), "vjp", {"x": {"vjp": "x_vjp"}}),  # no cotangents
        described(vjp(), "grad", {"x": {"grad": "x_vjp"}}),  # no loss
        described(vjp(), "vjp", {"z": {"vjp": "x_vjp"}}, cotangents={"y": "y_ct"}),
        described(many(3), "jvp", {"y": {"jvp": "y_jvp"}}, given=["x"]),  # no such initialiser
        described(many(3), "jvp", {"y": {"jvp": "y_jvp"}}, seeds={"x": "x_u"}, directions=[3]),
    ):
        with pytest.raises(UsageError, match="damaged"):
            verify(ORIGINAL, broken)


def test_without_an_oracle_what_is_left_is_checked() -> None:
    noise = "t1 = Constant<value = bool {1}>() r1 = Constant<value = float {0.5}>()"
    primal = f"{noise} p = MatMul(x, w) d, keep = Dropout(p, r1, t1) y = Add(d, d)"
    original = model(primal.replace("d, keep", "d"))
    four = "four = Constant<value = float {4.0}>() km = Cast<to = 1>(keep) k = Mul(km, four)"
    right = "q = Mul(y_ct, k) x_vjp = MatMul(q, wt) xt = Transpose(x) w_vjp = MatMul(xt, q)"
    report = verify(original, vjp(f"{four} {right}", primal))
    assert report.oracle == "no oracle: Dropout draws random numbers"
    assert report.passed
    assert {row.check for row in report.rows if row.status == "passed"} == {
        "unchanged",
        "linear in ct",
    }
    wrong = right.replace("q = Mul(y_ct, k)", "a = Relu(y_ct) q = Mul(a, k)")
    assert failed(verify(original, vjp(f"{four} {wrong}", primal))) == {"linear in ct"}


def test_what_is_nothing_but_rounding_is_not_judged() -> None:
    """Softmax(x w + 200 e_0) is 1 at class 0: its derivative is a rounding error."""
    far = "b = Constant<value = float[4] {200.0, 0.0, 0.0, 0.0}>()"
    body = f"{far} l = MatMul(x, w) p = Add(l, b) y = Softmax<axis = -1>(p)"
    tangent = (
        "t = MatMul(x_u, w) pt = Mul(y, t) a1 = Constant<value = int64[1] {-1}>()"
        "total = ReduceSum(pt, a1) e = Sub(t, total) y_jvp = Mul(y, e)"
    )
    rewritten = model(f"{body} {tangent}", ", float[N, 5] x_u", ", float[N, 4] y_jvp")
    described(rewritten, "jvp", {"y": {"jvp": "y_jvp"}}, seeds={"x": "x_u"})
    report = verify(model(body), rewritten)
    assert report.passed, report.rows
    assert report.oracle.startswith("no oracle: every element is at a kink, or J u is below")
