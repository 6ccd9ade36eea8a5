"""verify: tolerances by the narrowest dtype inside, float16 on CPU, points that say nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnxjvp
from onnxjvp.errors import InvalidModelError, UsageError
from onnxjvp.graph.load import load
from onnxjvp.verification import Report, verify
from onnxjvp.verification.precision import narrowest

RNG = np.random.default_rng(0)
W = RNG.standard_normal((16, 16)) / 4


def model(ends: str, body: str, dtype: Any = np.float32) -> onnx.ModelProto:
    parsed = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> g {ends} {{ {body} }}')
    parsed.graph.initializer.append(numpy_helper.from_array(W.astype(dtype), "w"))
    return parsed


def clone(original: onnx.ModelProto) -> Any:
    return onnxjvp.clone(original, layout="split")


def failures(report: Report) -> list[str]:
    return [f"{row.check} of {row.tensor}" for row in report.rows if row.status == "failed"]


# -- dtypes ------------------------------------------------------------------------------------

CAST_AT_THE_END = model(
    "(float[N, 16] x) => (double[N, 16] y)",
    "a = MatMul(x, w) b = Tanh(a) c = MatMul(b, w) y = Cast<to = 11>(c)",
)
#: the runtime rounds `a` to float16, for an output wants it so
HALF_INSIDE = model(
    "(float[N, 16] x) => (float[16, 16] y, float16[16, N] t)",
    "h = Cast<to = 10>(x) a = MatMul(h, w) t = Transpose(a) b = MatMul(t, h) y = Cast<to = 1>(b)",
    np.float16,
)


@pytest.mark.parametrize("make", [onnxjvp.jvp, clone, onnxjvp.vjp], ids=["jvp", "clone", "vjp"])
@pytest.mark.parametrize("original", [CAST_AT_THE_END, HALF_INSIDE], ids=["double", "half"])
def test_the_narrowest_dtype_inside_decides(original: Any, make: Callable[..., Any]) -> None:
    report = verify(original, make(original))
    assert report.oracle == "float64 differences"
    assert not failures(report)


def test_a_loss_is_judged_by_what_it_is_made_of() -> None:
    made = onnxjvp.grad(CAST_AT_THE_END, ["x"], output="y", loss="sum")
    report = verify(CAST_AT_THE_END, made)
    assert not failures(report)
    assert {r.tolerance for r in report.rows if r.check == "runtime = float64"} == {1e-3}


def test_the_narrowest_dtype_is_that_of_what_is_rounded() -> None:
    def found(body: str, dtype: Any = np.float32) -> str:
        ends = "(float[N, 16] x, bool flag) => (float[N, 16] y)"
        (narrow,) = narrowest(load(model(ends, body, dtype)).graph).values()
        return str(narrow)

    assert found("a = Cast<to = 11>(x) b = Exp(a) y = Cast<to = 1>(b)") == "float32"
    stored = "t = Transpose(w) v = Cast<to = 1>(t) y = MatMul(x, v)"
    assert found(stored, np.float16) == "float32"
    branch = "a = Cast<to = 10>(x) b = Exp(a) c = Cast<to = 1>(b)"
    then = f"then_branch = left () => (float[N, 16] c) {{ {branch} }}"
    other = "else_branch = right () => (float[N, 16] d) { d = Exp(x) }"
    assert found(f"y = If (flag) <{then}, {other}>") == "float16"


def test_a_double_model_is_judged_as_one() -> None:
    ends, body = "(double[N, 16] x) => (double[N, 16] y)", "a = MatMul(x, w) y = Tanh(a)"
    report = verify(original := model(ends, body, np.float64), onnxjvp.jvp(original))
    assert report.passed
    (row,) = (row for row in report.rows if row.check == "runtime = float64")
    assert row.tolerance == 1e-8


# -- float16 on CPU ----------------------------------------------------------------------------

#: Transpose is one of the few with a float16 kernel: between products it runs in float32, unless
#: its operand is read in float16 as well, as the reverse pass does
HALF = model(
    "(float16[4, 16] x) => (float16[4, 4] y)",
    "a = MatMul(x, w) t = Transpose(a) y = MatMul(a, t)",
    np.float16,
)


def test_float16_is_rounded_where_the_runtime_likes() -> None:
    report = verify(HALF, onnxjvp.vjp(HALF))
    assert not failures(report)
    rounded, exact = (row for row in report.rows if row.check == "unchanged")
    assert rounded.relative > 0.0, "bit for bit: this model no longer shows what is tested"
    assert (rounded.tolerance, rounded.where) == (1e-2, "runtime")
    assert "float16" in rounded.note
    assert (exact.where, exact.relative) == ("float64", 0.0)


def test_a_float16_output_that_was_changed() -> None:
    """By less than float16's rounding: only float64 can tell."""
    changed = onnxjvp.vjp(HALF).proto()
    nodes = changed.graph.node
    (last,) = (node for node in nodes if "y" in node.output)
    last.output[0] = "before"
    factor = numpy_helper.from_array(np.float16(1.001), "factor")
    changed.graph.initializer.append(factor)
    position = list(nodes).index(last) + 1
    nodes.insert(position, onnx.helper.make_node("Mul", ["before", "factor"], ["y"]))
    report = verify(HALF, changed)
    assert failures(report) == ["unchanged of y"]


# -- points ------------------------------------------------------------------------------------


def test_an_original_that_does_not_run_where_it_was_drawn() -> None:
    ends = "(float[1, 16] x, int64[8] i) => (float[8, 16] y)"
    original = model(ends, "g = Gather(x, i) y = Mul(g, g)")
    made = onnxjvp.vjp(original, ["x"])
    with pytest.raises(UsageError, match="original model itself does not run") as caught:
        verify(original, made)
    assert "0 and 1 (i)" in str(caught.value)
    assert "--inputs FILE.npz" in str(caught.value)
    x = RNG.standard_normal((1, 16)).astype(np.float32)
    assert verify(original, made, inputs={"i": np.zeros(8, np.int64)}).passed
    with pytest.raises(InvalidModelError, match="onnxruntime failed"):
        verify(original, made, inputs={"x": x, "i": np.ones(8, np.int64)})


def test_a_loop_that_makes_no_step() -> None:
    ends = "(float[2, 16] x, int64[1] n) => (float[2, 16] y)"
    body = "a = MatMul(s, w) out = Tanh(a) go = Identity(c)"
    inner = f"b (int64 k, bool c, float[2, 16] s) => (bool go, float[2, 16] out) {{ {body} }}"
    keep = "keep = Constant<value = bool {1}>()"
    original = model(ends, f"{keep} y = Loop(n, keep, x)<body = {inner}>")
    made = onnxjvp.vjp(original, ["x"])
    none, three = (np.full(1, count, np.int64) for count in (0, 3))
    assert verify(original, made, inputs={"n": three}).passed
    with pytest.raises(InvalidModelError, match="where the original does"):
        verify(original, made, inputs={"n": none})
    seed = next(s for s in range(20) if _drawn("n", s) == 0)
    with pytest.raises(UsageError, match=r"where the original does.*0 and 1 \(n\)"):
        verify(original, made, seed=seed)


def _drawn(name: str, seed: int) -> int:
    spec = onnxjvp.runtime.TensorSpec(name, np.dtype(np.int64), (1,))
    return int(onnxjvp.runtime.random_feeds([spec], seed)[name][0])


def test_an_original_without_finite_values_where_it_was_drawn() -> None:
    ends = "(float[2, 16] x, int64[1] n) => (float[2, 16] y)"
    original = model(ends, "d = Cast<to = 1>(n) a = MatMul(x, w) y = Div(a, d)")
    made = onnxjvp.vjp(original, ["x"])
    seed = next(s for s in range(20) if _drawn("n", s) == 0)
    words = "32 values of 32 there that are no finite numbers"
    with pytest.raises(UsageError, match=words):
        verify(original, made, seed=seed)
    forwards = verify(original, onnxjvp.jvp(original, ["x"]), seed=seed)
    assert forwards.oracle.startswith("no oracle")
    assert words in forwards.oracle
    assert verify(original, made, seed=seed, inputs={"n": np.full(1, 2)}).passed


#: 1 + |x[i] - x[j]|
DISTANCE = model(
    "(float[4, 16] x, int64[1] i, int64[1] j) => (float[1, 1] y)",
    "a = Gather(x, i) b = Gather(x, j) d = Sub(a, b) q = Mul(d, d) "
    "s = ReduceSum<keepdims = 1>(q) r = Sqrt(s) one = Constant<value = float {1}>() "
    "y = Add(r, one)",
)


def test_a_point_where_the_original_has_no_derivative() -> None:
    made = onnxjvp.jvp(DISTANCE, ["x"])
    same = next(s for s in range(20) if _drawn("i", s) == _drawn("j", s))
    with pytest.raises(UsageError, match="it seems to have no derivative there"):
        verify(DISTANCE, made, seed=same)
    apart = {"i": np.array([0]), "j": np.array([3])}
    assert verify(DISTANCE, made, seed=same, inputs=apart).passed


def test_a_mistake_is_no_matter_of_the_point() -> None:
    """Finite errors fail, although the original is infinite where it was drawn."""
    ends = "(float[2, 16] x, int64[1] n) => (float[2, 16] y, float[2, 16] z)"
    body = "d = Cast<to = 1>(n) y = Div(x, d) z = MatMul(x, w)"
    changed = onnxjvp.jvp(original := model(ends, body), ["x"]).proto()
    for node in changed.graph.node:
        if node.op_type == "MatMul" and "x_u" in node.input:
            node.input[1] = "other"
    changed.graph.initializer.append(numpy_helper.from_array(2 * W.astype(np.float32), "other"))
    seed = next(s for s in range(20) if _drawn("n", s) == 0)
    assert not verify(original, changed, seed=seed).passed
