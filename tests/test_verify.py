"""verify on pairs written by hand: right ones pass, each kind of mistake fails in its own row."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxjvp
from onnxjvp.errors import InputError, UsageError
from onnxjvp.verification import Report, verify
from onnxjvp.verification.report import compare

RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((5, 4)), RNG.standard_normal(4)

PRIMAL = "h = MatMul(x, w)  p = Add(h, b)  y = Relu(p)  zero = Sub(b, b)  on = Greater(p, zero)"
TANGENT = "slope = CastLike(on, b)  hu = MatMul(x_u, w)  y_jvp = Mul(slope, hu)"
LANES = "along = MatMul(x, w)  jx = Mul(slope, along)  y_0 = Sub(y, jx)  y_u = Add(y_0, y_jvp)"
CHECKS = {
    "unchanged",
    "jvp = float64 differences",
    "runtime = float64",
    "linear in u",
}


def model(body: str, extra: str = "", outputs: tuple[str, ...] = (), kind: str = "float") -> Any:
    """y = Relu(x w + b), or what `body` says, with the weights in float32, float16 or float64."""
    ends = ", ".join(f"{kind}[N, 4] {name}" for name in ("y", *outputs))
    parsed = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({kind}[N, 5] x{extra}) => ({ends}) {{{body}}}'
    )
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    for name, array in (("w", W), ("b", B)):
        parsed.graph.initializer.append(numpy_helper.from_array(array.astype(dtype), name))
    return parsed


def described(rewritten: onnx.ModelProto, forms: tuple[str, ...], **settings: Any) -> Any:
    data = {
        "version": "0",
        "emit": "jvp",
        "layout": "tangent",
        "method": "tangent",
        "wrt": ["x"],
        "outputs": ["y"],
        "seeds": {"x": "x_u"},
        "results": {"y": {form: f"y_{form}" for form in forms}},
        "excluded": {},
        "raised_from": None,
        **settings,
    }
    onnx.helper.set_model_props(rewritten, {"onnxjvp": json.dumps(data)})
    return rewritten


def jvp(tangent: str = TANGENT, primal: str = PRIMAL, kind: str = "float", **settings: Any) -> Any:
    rewritten = model(f"{primal} {tangent}", f", {kind}[N, 5] x_u", ("y_jvp",), kind)
    return described(rewritten, ("jvp",), **settings)


def clone(lanes: str = LANES, layout: str = "split", primal: str = PRIMAL) -> Any:
    body = f"{primal} {TANGENT} {lanes}"
    rewritten = model(body, ", float[N, 5] x_u", ("y_u", "y_0", "y_jvp"))
    return described(rewritten, ("u", "0", "jvp"), emit="clone", layout=layout, method="lanes")


def substituted(s: str) -> Any:
    """Two lanes: y_s should be f_x(x - u), and J u is taken as y - y_s."""
    body = f"{PRIMAL} slope = CastLike(on, b) {s} lane = MatMul(moved, w) shifted = Add(lane, b)"
    body += "y_s = Mul(slope, shifted) y_jvp = Sub(y, y_s)"
    rewritten = model(body, ", float[N, 5] x_u", ("y_s", "y_jvp"))
    return described(rewritten, ("s", "jvp"), emit="clone", layout="stacked", method="substitute")


RELU = model("h = MatMul(x, w)  p = Add(h, b)  y = Relu(p)")


def failed(report: Report) -> set[str]:
    assert not report.passed
    return {row.check for row in report.rows if row.status == "failed"}


def rows(report: Report, check: str) -> list[Any]:
    return [row for row in report.rows if row.check == check]


# -- right ones --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_jvp_passes(seed: int) -> None:
    report = verify(RELU, jvp(), seed=seed)
    assert report.passed
    assert report.oracle == "float64 differences"
    assert {row.check for row in report.rows} == CHECKS
    assert {row.status for row in report.rows} == {"passed"}
    (unchanged,) = rows(report, "unchanged")
    assert (unchanged.tolerance, unchanged.absolute, unchanged.where) == (0.0, 0.0, "runtime")
    (differences,) = rows(report, "jvp = float64 differences")
    assert differences.where == "float64"
    assert differences.relative < 1e-8
    assert 1e-6 < differences.tolerance < 1.1e-6
    assert len(differences.index) == 2


@pytest.mark.parametrize("layout", ["split", "stacked"])
def test_clone_passes(layout: str) -> None:
    report = verify(RELU, clone(layout=layout))
    assert report.passed
    assert {row.check for row in report.rows} == CHECKS | {"f_x(u) - f_x(0) = J u", "f_x(x) = f(x)"}
    assert len(rows(report, "runtime = float64")) == 3
    (unchanged,) = rows(report, "unchanged")
    assert unchanged.tolerance == (1e-5 if layout == "stacked" else 0.0)


@pytest.mark.parametrize("kind", ["float16", "double"])
def test_other_dtypes(kind: str) -> None:
    original = model("h = MatMul(x, w)  p = Add(h, b)  y = Relu(p)", kind=kind)
    report = verify(original, jvp(kind=kind))
    assert report.passed
    (runtime,) = rows(report, "runtime = float64")
    assert runtime.tolerance == {"float16": 5e-2, "double": 1e-8}[kind]


def test_the_corrected_substitution_passes_and_the_printed_one_fails() -> None:
    assert verify(RELU, substituted("moved = Sub(x, x_u)")).passed
    printed = verify(RELU, substituted("moved = Sub(x_u, x)"))
    assert failed(printed) == {"jvp = float64 differences", "linear in u"}


def test_results_and_paths_are_taken(tmp_path: Any) -> None:
    class Result:
        def proto(self) -> onnx.ModelProto:
            return jvp()

    path = tmp_path / "m.onnx"
    onnx.save(RELU, path)
    assert verify(str(path), Result()).passed
    with pytest.raises(UsageError, match="not int"):
        verify(RELU, 3)


def test_inputs_and_dims_are_used() -> None:
    x = np.zeros((3, 5), np.float32)
    x[1, 2] = np.nan
    report = verify(RELU, jvp(), inputs={"x": x})
    (differences,) = rows(report, "jvp = float64 differences")
    assert "4 of 12 elements" in differences.note
    tall = verify(RELU, jvp(), dims={"N": 40}, seed=1)
    assert max(row.index[0] for row in tall.rows) >= 2
    with pytest.raises(InputError, match=r"x has shape \(5,\)"):
        verify(RELU, jvp(), inputs={"x": x[0]})
    with pytest.raises(InputError, match="x is float64"):
        verify(RELU, jvp(), inputs={"x": x.astype(np.float64)})
    with pytest.raises(UsageError, match="no dimension 'M'"):
        verify(RELU, jvp(), dims={"M": 2})


def test_elements_at_kinks_are_counted() -> None:
    x = np.zeros((2, 5), np.float32)
    original, rewritten = RELU, jvp()
    flat = numpy_helper.from_array(np.array([0, 0, 1, -1], np.float32), "b")
    models = [onnx.ModelProto.FromString(m.SerializeToString()) for m in (original, rewritten)]
    for each in models:
        each.graph.initializer[1].CopyFrom(flat)
    report = verify(*models, inputs={"x": x})
    (differences,) = rows(report, "jvp = float64 differences")
    assert differences.status == "passed"
    assert "4 of 8 elements at kinks" in differences.note


# -- wrong ones --------------------------------------------------------------------------------


def wrong(tangent: str, primal: str = PRIMAL) -> set[str]:
    return failed(verify(RELU, jvp(tangent, primal)))


def test_factor_two() -> None:
    twice = "slope = CastLike(on, b) hu = MatMul(x_u, w) j = Mul(slope, hu) y_jvp = Add(j, j)"
    assert wrong(twice) == {"jvp = float64 differences"}


def test_error_of_a_hundred_thousandth() -> None:
    more = "e = Constant<value = float {1.00001}>() j = Mul(slope, hu) y_jvp = Mul(j, e)"
    assert wrong(TANGENT.replace("y_jvp = Mul(slope, hu)", more)) == {"jvp = float64 differences"}


def test_mask_of_another_tensor() -> None:
    assert wrong(TANGENT, PRIMAL.replace("Greater(p, zero)", "Greater(h, zero)")) == {
        "jvp = float64 differences"
    }


def test_bias_in_the_tangent() -> None:
    assert wrong(TANGENT.replace("hu = MatMul(x_u, w)", "hm = MatMul(x_u, w) hu = Add(hm, b)")) == {
        "jvp = float64 differences",
        "linear in u",
    }


def test_mask_taken_from_the_seed() -> None:
    relu = "hu = MatMul(x_u, w)  y_jvp = Relu(hu)"
    assert wrong(relu) == {"jvp = float64 differences", "linear in u"}


def test_tangent_of_nan() -> None:
    nothing = "hu = MatMul(x_u, w) n = Div(zero, zero) y_jvp = Add(hu, n)"
    assert wrong(nothing) == {"jvp = float64 differences", "linear in u"}


def test_transposed_result() -> None:
    rewritten = jvp(
        TANGENT.replace("y_jvp = Mul(slope, hu)", "j = Mul(slope, hu) y_jvp = Transpose(j)")
    )
    rewritten.graph.output[1].type.tensor_type.shape.dim[0].dim_value = 4
    rewritten.graph.output[1].type.tensor_type.shape.dim[1].dim_param = "N"
    report = verify(RELU, rewritten)
    assert "jvp = float64 differences" in failed(report)
    (row,) = rows(report, "jvp = float64 differences")
    assert row.note == "shape (4, 2) where (2, 4) is expected"


def test_changed_output() -> None:
    """By one unit in the last place, in the one element that is largest."""
    more = "r = Relu(p) e = Constant<value = float {1.0000001}>() y = Mul(r, e)"
    assert wrong(TANGENT, PRIMAL.replace("y = Relu(p)", more)) == {"unchanged"}


def test_lost_output() -> None:
    original = model("h = MatMul(x, w)  p = Add(h, b)  y = Relu(p)", outputs=("p",))
    report = verify(original, jvp())
    assert failed(report) == {"unchanged"}
    assert "missing" in next(row.note for row in report.rows if row.status == "failed")


def test_wrong_lanes() -> None:
    off = LANES.replace("y_u = Add(y_0, y_jvp)", "y_u = Add(y, y_jvp)")
    assert failed(verify(RELU, clone(off))) == {"f_x(u) - f_x(0) = J u", "f_x(x) = f(x)"}
    shifted = LANES.replace("y_0 = Sub(y, jx)", "y_0 = Identity(y)")
    assert failed(verify(RELU, clone(shifted))) == {"f_x(x) = f(x)"}


def test_poor_precision_in_the_runtime() -> None:
    """A detour through float16: exact in float64, not in the runtime."""
    detour = "half = Cast<to = 10>(x_u) again = Cast<to = 1>(half) hu = MatMul(again, w)"
    coarse = jvp(TANGENT.replace("hu = MatMul(x_u, w)", detour))
    assert verify(RELU, coarse).passed
    strict = verify(RELU, coarse, tolerance=1e-5)
    assert failed(strict) == {"runtime = float64"}


def test_bfloat16_in_the_runtime() -> None:
    detour = "half = Cast<to = 16>(x_u) again = Cast<to = 1>(half) hu = MatMul(again, w)"
    coarse = jvp(TANGENT.replace("hu = MatMul(x_u, w)", detour))
    assert failed(verify(RELU, coarse)) == {"runtime = float64"}


def test_what_rounding_does_by_itself_is_allowed() -> None:
    """y = x w - x v + 1 with w nearly v: five digits of J u cancel in float32."""
    rng = np.random.default_rng(0)
    w = rng.standard_normal((5, 100))
    v = w * (1 + 1e-5 * rng.standard_normal(w.shape))
    weights = {"w": w, "v": v, "one": np.ones(100)}

    def close(body: str, inputs: str, outputs: str) -> Any:
        parsed = parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 18]>'
            f"g (float[N, 5] x{inputs}) => (float[N, 100] y{outputs}) {{{body}}}"
        )
        for name, array in weights.items():
            tensor = numpy_helper.from_array(array.astype(np.float32), name)
            parsed.graph.initializer.append(tensor)
        return parsed

    body = "a = MatMul(x, w) b = MatMul(x, v) s = Sub(a, b) y = Add(s, one)"
    tangent = "c = MatMul(x_u, w) d = MatMul(x_u, v) y_jvp = Sub(c, d)"
    original = close(body, "", "")
    rewritten = close(f"{body} {tangent}", ", float[N, 5] x_u", ", float[N, 100] y_jvp")
    report = verify(original, described(rewritten, ("jvp",)))
    assert report.passed
    (row,) = rows(report, "runtime = float64")
    assert row.relative > 1e-3
    assert "rounding the inputs and weights alone" in row.note
    assert report.oracle == "float64 differences"
    assert failed(verify(original, rewritten, tolerance=1e-3)) == {"runtime = float64"}


# -- other variables ---------------------------------------------------------------------------


def test_a_kink_that_not_every_draw_of_roundings_crosses() -> None:
    """1 + x rounded to float32 lies on the other side of it; errors of both signs are as likely."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[N] x, float[N] c) => (float[N] y)
        <float one = {1}, float s = {8e-8}>
        { p = Add(x, c)  q = Sub(p, one)  h = Sub(q, s)  r = Relu(h)  y = Add(r, p) }"""
    original = parser.parse_model(text)
    rewritten = onnxjvp.jvp(original, ["x"]).proto()
    notes = []
    for size in range(400, 408):
        x, c = np.ones((2, size), np.float32)
        x[0] = 6.2e-8
        report = verify(original, rewritten, inputs={"x": x, "c": c})
        (row,) = [r for r in report.rows if r.check == "runtime = float64"]
        assert (report.passed, row.status) == (True, "passed"), size
        assert row.relative is not None and row.relative > 1e-2, size
        notes.append(row.note)
    assert all(note.startswith("rounding ") for note in notes)


def test_a_parameter_as_variable() -> None:
    tangent = "slope = CastLike(on, b) hu = MatMul(x, w_u) y_jvp = Mul(slope, hu)"
    rewritten = model(PRIMAL + tangent, ", float[5, 4] w_u", ("y_jvp",))
    described(rewritten, ("jvp",), wrt=["w"], seeds={"w": "w_u"})
    report = verify(RELU, rewritten)
    assert report.passed
    assert report.oracle == "float64 differences"
    bad = model(PRIMAL + tangent.replace("x, w_u", "x, w"), ", float[5, 4] w_u", ("y_jvp",))
    described(bad, ("jvp",), wrt=["w"], seeds={"w": "w_u"})
    assert "jvp = float64 differences" in failed(verify(RELU, bad))


def test_a_value_inside_as_variable() -> None:
    for tangent, passes in (("y_jvp = Mul(slope, h_u)", True), ("y_jvp = Identity(h_u)", False)):
        body = f"{PRIMAL} slope = CastLike(on, b) {tangent}"
        rewritten = model(body, ", float[N, 4] h_u", ("y_jvp",))
        described(rewritten, ("jvp",), wrt=["h"], seeds={"h": "h_u"})
        assert verify(RELU, rewritten).passed is passes


# -- without an oracle -------------------------------------------------------------------------

NOISY = (
    "t = Constant<value = bool {1}>() r = Constant<value = float {0.5}>()"
    "h = MatMul(x, w) p, keep = Dropout(h, r, t) y = Add(p, b)"
)
NOISY_TANGENT = (
    "two = Constant<value = float {2.0}>() k = Cast<to = 1>(keep) slope = Mul(k, two)"
    "hu = MatMul(x_u, w) y_jvp = Mul(slope, hu)"
)


def test_random_nodes_have_no_oracle_but_identities() -> None:
    original = model(NOISY.replace("p, keep", "p"))
    lanes = "along = MatMul(x, w) jx = Mul(slope, along) y_0 = Sub(y, jx) y_u = Add(y_0, y_jvp)"
    body = f"{NOISY} {NOISY_TANGENT} {lanes}"
    rewritten = model(body, ", float[N, 5] x_u", ("y_u", "y_0", "y_jvp"))
    described(rewritten, ("u", "0", "jvp"), emit="clone", layout="split", method="lanes")
    report = verify(original, rewritten)
    assert report.oracle == "no oracle: Dropout draws random numbers"
    assert report.passed
    states = {row.check: (row.status, row.where) for row in report.rows}
    assert states == {
        "unchanged": ("passed", "runtime"),
        "jvp = float64 differences": ("not applicable", "runtime"),
        "runtime = float64": ("not applicable", "runtime"),
        "f_x(u) - f_x(0) = J u": ("passed", "runtime"),
        "f_x(x) = f(x)": ("passed", "runtime"),
        "linear in u": ("passed", "runtime"),
    }


def test_mistakes_show_without_an_oracle() -> None:
    original = model(NOISY.replace("p, keep", "p"))
    for mistake, check in (
        ("hu = MatMul(x_u, w) y_jvp = Add(hu, b)", "linear in u"),
        ("hu = MatMul(x_u, w) z = Sub(hu, hu) y_jvp = Div(z, z)", "linear in u"),
    ):
        rewritten = model(f"{NOISY} {mistake}", ", float[N, 5] x_u", ("y_jvp",))
        report = verify(original, described(rewritten, ("jvp",)))
        assert failed(report) == {check}


def test_an_oracle_that_disagrees_with_the_runtime_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from onnxjvp.oracle import Evaluator  # noqa: PLC0415

    run = Evaluator.run
    monkeypatch.setattr(
        Evaluator, "run", lambda *a, **k: {n: v * 1.001 for n, v in run(*a, **k).items()}
    )
    report = verify(RELU, jvp())
    assert report.oracle.startswith("no oracle: y in float64 differs from the runtime's by 1.0e-03")
    assert report.passed


def test_nothing_to_judge_is_not_a_pass_of_the_derivative() -> None:
    original = model("h = MatMul(x, w) z = Mul(h, b) s = Sub(z, z) y = Add(s, b)")
    body = "h = MatMul(x, w) z = Mul(h, b) s = Sub(z, z) y = Add(s, b) y_jvp = MatMul(x_u, w)"
    rewritten = described(model(body, ", float[N, 5] x_u", ("y_jvp",)), ("jvp",))
    (row,) = rows(verify(original, rewritten), "jvp = float64 differences")
    assert row.status == "not applicable"
    assert "below the rounding" in row.note


# -- metadata, rows ----------------------------------------------------------------------------


def test_metadata() -> None:
    with pytest.raises(UsageError, match="no metadata"):
        verify(RELU, RELU)
    broken = jvp()
    broken.metadata_props[0].value = "{"
    with pytest.raises(UsageError, match="damaged"):
        verify(RELU, broken)
    with pytest.raises(UsageError, match="lacks gone, lost"):
        verify(RELU, jvp(seeds={"x": "gone"}, results={"y": {"jvp": "lost"}}))


def test_report_is_json() -> None:
    report = verify(RELU, jvp("hu = MatMul(x_u, w) n = Div(zero, zero) y_jvp = Add(hu, n)"))
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["passed"] is False
    assert data["oracle"] == "float64 differences"
    worst = next(row for row in data["rows"] if row["check"] == "linear in u")
    assert (worst["absolute"], worst["status"]) == ("inf", "failed")


def test_compare_measures_what_it_says() -> None:
    expected = np.array([[1.0, -4.0], [2.0, np.inf]])
    found = expected + np.array([[0.0, 0.0], [0.02, 0.0]])
    row = compare("c", "t", "runtime", found, expected, 0.01)
    assert (row.status, row.index) == ("passed", (1, 0))
    np.testing.assert_allclose([row.absolute, row.relative], [0.02, 0.005])
    assert compare("c", "t", "runtime", found, expected, 0.004).status == "failed"
    scaled = compare("c", "t", "runtime", found, expected, 0.004, terms=(np.array([10.0]),))
    assert scaled.status == "passed"
    by_norm = compare("c", "t", "runtime", found, expected, 0.004, by_norm=True)
    np.testing.assert_allclose(by_norm.relative, 0.02 / np.sqrt(21))
    assert by_norm.status == "failed"
    lost = np.array([[1.0, np.nan], [2.0, np.inf]])
    for norm in (False, True):
        assert compare("c", "t", "runtime", lost, expected, 1e9, by_norm=norm).status == "failed"
    masked = compare("c", "t", "runtime", lost, expected, 0.0, judged=~np.isnan(lost))
    assert masked.status == "passed"
    assert compare("c", "t", "runtime", lost[:, 0], expected, 1e9).status == "failed"


def test_constants_rounded_to_float16_are_no_error() -> None:
    """Gelu's slope holds √½ and 1/√2π: in a float16 file they are rounded to float16."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 20]> g (float16[N,4] x) => (float16[N,4] y) '
        "{ y = Gelu(x) }"
    )
    report = verify(model, onnxjvp.jvp(model))
    assert report.oracle == "float64 differences"
    assert report.passed, report.rows
