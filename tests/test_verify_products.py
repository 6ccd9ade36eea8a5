"""verify on transposed, second and whole derivatives: y = Tanh(x w), one mistake at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pairs import (
    ALONE,
    ORIGINAL,
    PRIMAL,
    PULL,
    SLOPE,
    TRANSPOSED,
    all_pass,
    described,
    failed,
    model,
    rows,
    vjp,
)

from onnxjvp.errors import UsageError
from onnxjvp.verification import verify

# -- vjp ---------------------------------------------------------------------------------------

ADJOINT = "<ct, J u> = <vjp, u>"


@pytest.mark.parametrize("seed", range(3))
def test_vjp_passes(seed: int) -> None:
    report = verify(ORIGINAL, vjp(), seed=seed)
    all_pass(report)
    assert [row.tensor for row in rows(report, ADJOINT)] == ["x_vjp", "w_vjp"]
    assert all(row.relative < 1e-8 for row in rows(report, ADJOINT))
    assert len(rows(report, "linear in ct")) == len(rows(report, "runtime = float64")) == 2


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("x_vjp = MatMul(q, wt)", "a = MatMul(q, wt) x_vjp = Sum(a, a)", {ADJOINT}),
        ("q = Mul(y_ct, s)", "q = Mul(y_ct, o)", {ADJOINT}),
        ("q = Mul(y_ct, s)", "a = Relu(y_ct) q = Mul(a, s)", {ADJOINT, "linear in ct"}),
        ("x_vjp = MatMul(q, wt)", "a = MatMul(q, wt) x_vjp = Add(a, x)", {ADJOINT, "linear in ct"}),
        ("w_vjp = MatMul(xt, q)", "a = MatMul(xt, q) w_vjp = Mul(a, w)", {ADJOINT}),
        ("x_vjp = MatMul(q, wt)", "a = Reshape(w, m) x_vjp = MatMul(q, a)", {ADJOINT}),
        ("x_vjp = MatMul(q, wt)", "a = MatMul(q, wt) x_vjp = Transpose(a)", {ADJOINT}),
    ],
)
def test_mistakes_in_a_vjp(right: str, wrong: str, found: set[str]) -> None:
    pull = "m = Constant<value = int64[2] {4, 5}>() " + PULL.replace(right, wrong)
    rewritten = vjp(pull)
    if "Transpose(a)" in wrong:
        shape = rewritten.graph.output[1].type.tensor_type.shape
        shape.dim[0].dim_value, shape.dim[1].dim_param = 5, "N"
    report = verify(ORIGINAL, rewritten)
    assert failed(report) == found
    wronged = "w_vjp" if "w_vjp" in right else "x_vjp"
    assert wronged in [row.tensor for row in rows(report, ADJOINT) if row.status == "failed"]


def test_variables_that_move_one_output_each() -> None:
    """No output hangs on all variables, and each is held against differences all the same."""
    extra = ", float[N, 5] z", " z = Mul(x, c)"
    original = model(PRIMAL + extra[1], ", float[5] c", extra[0])
    pull = f"{SLOPE} {TRANSPOSED} q = Mul(y_ct, s) w_vjp = MatMul(xt, q)"
    back = " t = Mul(z_ct, x) a = Constant<value = int64[1] {0}>() d = ReduceSum<keepdims=0>(t, a)"
    named = {"w": {"vjp": "w_vjp"}, "c": {"vjp": "c_vjp"}}

    def rewritten(end: str) -> Any:
        inputs = ", float[5] c, float[N, 4] y_ct, float[N, 5] z_ct"
        outputs = f"{extra[0]}, float[5, 4] w_vjp, float[5] c_vjp"
        made = model(f"{PRIMAL}{extra[1]} {pull}{back} {end}", inputs, outputs)
        cotangents = {"y": "y_ct", "z": "z_ct"}
        return described(
            made, "vjp", named, wrt=["w", "c"], outputs=["y", "z"], cotangents=cotangents
        )

    report = verify(original, rewritten("c_vjp = Identity(d)"))
    all_pass(report)
    assert [row.tensor for row in rows(report, ADJOINT)] == ["w_vjp", "c_vjp"]
    assert failed(verify(original, rewritten("c_vjp = Add(d, d)"))) == {ADJOINT}


def test_a_small_mistake_in_a_vjp() -> None:
    pull = "e = Constant<value = float {1.00001}>() " + PULL.replace(
        "x_vjp = MatMul(q, wt)", "a = MatMul(q, wt) x_vjp = Mul(a, e)"
    )
    assert failed(verify(ORIGINAL, vjp(pull))) == {ADJOINT}


def test_cotangents_leave_kinks_out() -> None:
    """Abs has no derivative at x = 0, where its rule says 0."""
    x = np.ones((2, 5), np.float32)
    x[0] = 0.0
    absolute = model("p = MatMul(x, w) y = Abs(p)")
    sign = f"{TRANSPOSED} d = Sign(p) q = Mul(y_ct, d) x_vjp = MatMul(q, wt) w_vjp = MatMul(xt, q)"
    report = verify(absolute, vjp(sign, "p = MatMul(x, w) y = Abs(p)"), inputs={"x": x})
    assert report.passed
    assert rows(report, ADJOINT)[0].note == "4 of 8 elements at kinks, left out"


def test_a_variable_that_is_left_out_must_not_matter() -> None:
    rewritten = model(
        f"{PRIMAL} {SLOPE} q = Mul(y_ct, s) x_vjp = MatMul(q, wt)",
        ", float[N, 4] y_ct",
        ", float[N, 5] x_vjp",
    )
    settings: dict[str, Any] = {"wrt": ["x", "w"], "cotangents": {"y": "y_ct"}}
    described(rewritten, "vjp", {"x": {"vjp": "x_vjp"}}, **settings)
    assert failed(verify(ORIGINAL, rewritten)) == {ADJOINT}


@pytest.mark.parametrize("count", [5, "K"])
def test_cotangents(count: int | str) -> None:
    def pulled(pull: str) -> Any:
        rewritten = model(
            f"{PRIMAL} {SLOPE} {pull}",
            f", float[{count}, N, 4] y_ct",
            f", float[{count}, N, 5] x_vjp",
        )
        results = {"x": {"vjp": "x_vjp"}}
        return described(rewritten, "vjp", results, cotangents={"y": "y_ct"}, directions=count)

    report = verify(ORIGINAL, pulled("q = Mul(y_ct, s) x_vjp = MatMul(q, wt)"))
    all_pass(report)
    assert len(rows(report, ALONE)) == 1
    rolled = (
        "a = Constant<value = int64[1] {1}>() b = Constant<value = int64[1] {100}>()"
        "z = Constant<value = int64[1] {0}>() head = Slice(y_ct, z, a, z)"
        "tail = Slice(y_ct, a, b, z)"
        "c = Concat<axis = 0>(tail, head) q = Mul(c, s) x_vjp = MatMul(q, wt)"
    )
    assert ADJOINT in failed(verify(ORIGINAL, pulled(rolled)))


# -- grad --------------------------------------------------------------------------------------

NORM = "h = Constant<value = float {0.5}>() n = ReduceSum<keepdims = 0>(e2) loss = Mul(h, n)"
GRADIENT = "<grad, u> = float64 differences"
SAID = "loss = what it is of"
LOSSES = {
    "squared_norm of y": (f"e2 = Mul(y, y) {NORM}", "ct = Identity(y)", ""),
    "squared_error of y": (
        f"e = Sub(y, y_target) e2 = Mul(e, e) {NORM}",
        "ct = Sub(y, y_target)",
        ", float[N, 4] y_target",
    ),
    "cross_entropy of y": (
        "a1 = Constant<value = int64[1] {-1}>() wide = Unsqueeze(y_label, a1)"
        "logs = LogSoftmax<axis = -1>(y) g = GatherElements<axis = -1>(logs, wide)"
        "n = ReduceSum<keepdims = 0>(g) loss = Neg(n)",
        "d = Constant<value = int64 {4}>() v = Constant<value = float[2] {0.0, 1.0}>()"
        "hot = OneHot(y_label, d, v) prob = Softmax<axis = -1>(y) ct = Sub(prob, hot)",
        ", int64[N] y_label",
    ),
    "sum of y": ("loss = ReduceSum<keepdims = 0>(y)", "d = Sub(y, y) ct = Add(d, o)", ""),
    "y[:, 1:3]": (
        "b = Constant<value = int64[1] {1}>() f = Constant<value = int64[1] {3}>()"
        "part = Slice(y, b, f, b) loss = ReduceSum<keepdims = 0>(part)",
        "ct = Constant<value = float[4] {0.0, 1.0, 1.0, 0.0}>()",
        "",
    ),
}


def grad(of: str, loss: str | None = None, back: str = "x_grad = MatMul(q, wt)") -> Any:
    made, ct, inputs = LOSSES[of]
    body = f"{PRIMAL} {SLOPE} {loss or made} {ct} q = Mul(ct, s) {back}"
    rewritten = model(body, inputs, ", float[N, 5] x_grad, float loss")
    return described(rewritten, "grad", {"x": {"grad": "x_grad"}}, loss="loss", loss_of=of)


@pytest.mark.parametrize("of", LOSSES)
def test_grad(of: str) -> None:
    report = verify(ORIGINAL, grad(of))
    all_pass(report)
    assert {row.check for row in report.rows} == {"unchanged", GRADIENT, "runtime = float64", SAID}
    for back in (
        "a = MatMul(q, wt) x_grad = Add(a, a)",
        "a = MatMul(q, wt) x_grad = Add(a, x)",
        "m = Constant<value = int64[2] {4, 5}>() a = Reshape(w, m) x_grad = MatMul(q, a)",
        "x_grad = MatMul(ct, wt) unused = Identity(q)",
    ):
        assert failed(verify(ORIGINAL, grad(of, back=back))) == {GRADIENT}


def test_a_loss_that_is_not_what_it_is_said_to_be() -> None:
    """Consistent with its gradient, and still another function of y."""
    made = LOSSES["squared_norm of y"][0]
    other = grad("sum of y", made, "r = Mul(y, s) x_grad = MatMul(r, wt) unused = Identity(q)")
    assert failed(verify(ORIGINAL, other)) == {SAID}


def test_targets_can_be_given() -> None:
    target = np.ones((2, 4), np.float32)
    report = verify(ORIGINAL, grad("squared_error of y"), inputs={"y_target": target})
    all_pass(report)
    with pytest.raises(UsageError, match="y_target"):
        verify(ORIGINAL, grad("squared_error of y"), inputs={"y_target": target[0]})


def test_an_output_that_is_the_loss() -> None:
    body = "p = MatMul(x, w) y = Tanh(p)"
    made = "e2 = Mul(y, y) loss = ReduceSum<keepdims = 0>(e2)"
    original = model(f"{body} {made}", "", ", float loss")
    back = "ct = Add(y, y) q = Mul(ct, s) x_grad = MatMul(q, wt)"
    for tail, passes in ((back, True), (back.replace("Add(y, y)", "Identity(y)"), False)):
        rewritten = model(f"{body} {made} {SLOPE} {tail}", "", ", float loss, float[N, 5] x_grad")
        described(rewritten, "grad", {"x": {"grad": "x_grad"}}, loss="loss", loss_of="loss")
        report = verify(original, rewritten)
        assert report.passed is passes


# -- hvp ---------------------------------------------------------------------------------------

#: L = ½ Σ y²: L'' = s (1 − 3 y²) along p
SECOND = (
    "three = Constant<value = float {3.0}>() y3 = Mul(three, yy) r = Sub(o, y3) c = Mul(s, r)"
    "t = MatMul(x_u, w) k = Mul(c, t) x_hvp = MatMul(k, wt)"
)
HESSIAN, SYMMETRIC = "hvp = float64 differences of grad", "<w, H u> = <u, H w>"


def hvp(
    second: str = SECOND, first: str = "x_grad = MatMul(q, wt)", count: int | str | None = None
) -> Any:
    made, ct, _ = LOSSES["squared_norm of y"]
    body = f"{PRIMAL} {SLOPE} {made} {ct} q = Mul(ct, s) {first} {second}"
    lead = "" if count is None else f"{count}, "
    rewritten = model(
        body,
        f", float[{lead}N, 5] x_u",
        f", float loss, float[N, 5] x_grad, float[{lead}N, 5] x_hvp",
    )
    settings: dict[str, Any] = {"outputs": ["x_grad"], "seeds": {"x": "x_u"}, "loss": "loss"}
    settings |= {"loss_of": "squared_norm of y", "directions": count}
    return described(rewritten, "hvp", {"x": {"grad": "x_grad", "hvp": "x_hvp"}}, **settings)


@pytest.mark.parametrize("count", [None, 4, "K"])
def test_hvp_passes(count: int | str | None) -> None:
    report = verify(ORIGINAL, hvp(count=count))
    all_pass(report)
    checks = {HESSIAN, GRADIENT, SYMMETRIC, SAID, "unchanged", "runtime = float64", "linear in u"}
    assert {row.check for row in report.rows} == (checks if count is None else checks | {ALONE})


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("k = Mul(c, t)", "k0 = Mul(c, t) k = Add(k0, k0)", {HESSIAN}),
        ("r = Sub(o, y3)", "r = Sub(o, yy)", {HESSIAN}),
        ("k = Mul(c, t)", "k0 = Mul(c, t) k = Add(k0, p)", {HESSIAN, SYMMETRIC, "linear in u"}),
        (
            "x_hvp = MatMul(k, wt)",
            "m = Constant<value = int64[2] {4, 5}>() a = Reshape(w, m) x_hvp = MatMul(k, a)",
            {HESSIAN, SYMMETRIC},
        ),
    ],
)
def test_mistakes_in_an_hvp(right: str, wrong: str, found: set[str]) -> None:
    assert failed(verify(ORIGINAL, hvp(SECOND.replace(right, wrong)))) == found


def test_a_gradient_that_is_off_by_a_constant_beside_a_right_hessian() -> None:
    off = "b = Constant<value = float {0.01}>() a = MatMul(q, wt) x_grad = Add(a, b)"
    assert failed(verify(ORIGINAL, hvp(first=off))) == {GRADIENT}


# -- ggn ---------------------------------------------------------------------------------------

CURVED = {
    "squared_error": "v = Identity(jt)",
    "cross_entropy": (
        "prob = Softmax<axis = -1>(y) a1 = Constant<value = int64[1] {-1}>() pt = Mul(prob, jt)"
        "total = ReduceSum(pt, a1) pp = Mul(prob, total) v = Sub(pt, pp)"
    ),
}
GAUSS, PSD = "<w, G u> = <J w, H J u>", "<u, G u> >= 0"


def ggn(loss: str, curved: str | None = None, back: str = "x_ggn = MatMul(k, wt)") -> Any:
    push = "t = MatMul(x_u, w) jt = Mul(s, t)"
    body = f"{PRIMAL} {SLOPE} {push} {curved or CURVED[loss]} k = Mul(v, s) {back}"
    rewritten = model(body, ", float[K, N, 5] x_u", ", float[K, N, 5] x_ggn")
    results = {"x": {"ggn": "x_ggn"}}
    return described(rewritten, "ggn", results, seeds={"x": "x_u"}, loss=loss, directions="K")


@pytest.mark.parametrize("loss", CURVED)
def test_ggn(loss: str) -> None:
    report = verify(ORIGINAL, ggn(loss))
    all_pass(report)
    checks = {GAUSS, PSD, "<w, G u> = <u, G w>", ALONE}
    assert checks <= {row.check for row in report.rows}
    back = "a = MatMul(k, wt) x_ggn = "
    assert failed(verify(ORIGINAL, ggn(loss, back=back + "Neg(a)"))) == {GAUSS, PSD}
    assert failed(verify(ORIGINAL, ggn(loss, back=back + "Add(a, a)"))) == {GAUSS}
    unsloped = "x_ggn = MatMul(v, wt) unused = Identity(k)"
    assert GAUSS in failed(verify(ORIGINAL, ggn(loss, back=unsloped)))
    crooked = "m = Constant<value = int64[2] {4, 5}>() a = Reshape(w, m) x_ggn = MatMul(k, a)"
    assert {GAUSS, "<w, G u> = <u, G w>"} <= failed(verify(ORIGINAL, ggn(loss, back=crooked)))


def test_a_gauss_newton_matrix_of_another_loss() -> None:
    for loss, other in (("squared_error", "cross_entropy"), ("cross_entropy", "squared_error")):
        assert failed(verify(ORIGINAL, ggn(loss, CURVED[other]))) == {GAUSS}
    diagonal = CURVED["cross_entropy"].replace("v = Sub(pt, pp)", "v = Identity(pt)")
    assert failed(verify(ORIGINAL, ggn("cross_entropy", diagonal))) == {GAUSS}


# -- jacobian ----------------------------------------------------------------------------------

ONE = model(PRIMAL, rows="1")
BLOCK = (
    "c = Constant<value = int64[2] {4, 1}>() sc = Reshape(s, c) m = Mul(sc, wt)"
    "f = Constant<value = int64[4] {1, 4, 1, 5}>() y_jac_x = Reshape(m, f)"
)
BIAS = "j0 = MatMul(x, w) jx = Mul(s, j0) y_0 = Sub(y, jx)"
WHOLE, BACK = "jacobian · u = float64 differences", "f_x(0) = f(x) - J x"


def jacobian(block: str = BLOCK, bias: str = BIAS, **settings: Any) -> Any:
    body = f"{PRIMAL} {SLOPE} {block} {bias}"
    rewritten = model(body, "", ", float[1, 4, 1, 5] y_jac_x, float[1, 4] y_0", rows="1")
    results = {"y": {"jac_x": "y_jac_x", "0": "y_0"}}
    return described(rewritten, "jacobian", results, layout="reverse", **settings)


def test_jacobian_passes() -> None:
    report = verify(ONE, jacobian())
    all_pass(report)
    assert {row.check for row in report.rows} == {"unchanged", WHOLE, "runtime = float64", BACK}


@pytest.mark.parametrize(
    ("block", "bias", "found"),
    [
        (BLOCK.replace("Mul(sc, wt)", "Identity(wt)"), BIAS, {WHOLE, BACK}),
        (
            BLOCK.replace("Reshape(m, f)", "Reshape(mm, f)").replace("f =", "mm = Add(m, m) f ="),
            BIAS,
            {WHOLE, BACK},
        ),
        (
            BLOCK.replace("Reshape(m, f)", "Reshape(mt, f)").replace(
                "f =", "mt = Transpose(m) f ="
            ),
            BIAS,
            {WHOLE, BACK},
        ),
        (BLOCK, "j0 = MatMul(x, w) jx = Mul(s, j0) y_0 = Add(y, jx)", {BACK}),
    ],
)
def test_mistakes_in_a_jacobian(block: str, bias: str, found: set[str]) -> None:
    assert failed(verify(ONE, jacobian(block, bias))) == found


def test_a_block_that_is_left_out_must_be_zero() -> None:
    report = verify(ONE, jacobian(wrt=["x", "w"]))
    assert failed(report) == {WHOLE}
    assert [row.tensor for row in report.rows if row.status == "failed"] == ["y in w"]
