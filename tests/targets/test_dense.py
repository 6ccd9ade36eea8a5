"""Products with one large constant weight, run as one: the same numbers, the weight read once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, Input, Values, assert_close, build, checked, op_types, ort, weights
from pairs import failed

from onnxjvp import Rewritten
from onnxjvp.rewrite import clone, grad, hvp, jvp, linearize, vjp
from onnxjvp.verification import verify

FLOAT = np.dtype("float32")
N = 3


@dataclass(frozen=True)
class Case:
    """A model in x, how many products it has, and how many of these run together with tangents."""

    name: str
    body: str
    products: int = 1
    #: of the file with J u; None: as many as the model has
    left: int | None = None
    shared: int | None = None
    #: of the file with vᵀ J, which turns every weight
    adjoint: int = 0
    x: Input = ("N", 5)
    inputs: dict[str, Input] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)

    def __str__(self) -> str:
        return self.name

    def model(self, dtype: str = "float32") -> onnx.ModelProto:
        params = {k: v for k, v in PARAMS.items() if k in _names(self.body) - {*self.inputs}}
        return build(self.body, {"x": self.x, **self.inputs}, params, self.outputs, dtype=dtype)


def _names(body: str) -> set[str]:
    return set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())


PARAMS: dict[str, Any] = {
    "w": weights(5, 4),
    "v": weights(4, 5),
    "s": weights(5, 5),
    "b": weights(4),
    "row": weights(1, 4),
    "column": weights(N, 1),
    "whole": weights(N, 4),
    "number": weights(1)[0],
    "five": np.array([-1, 5]),
}
CASES = [
    Case("Gemm", "y = Gemm(x, w)"),
    Case("Gemm-transB", "y = Gemm<transB=1>(x, v, b)"),
    Case("Gemm-transA", "t = Transpose(x)\ny = Gemm<transA=1>(t, w, b)"),
    Case("Gemm-transA-transB", "y = Gemm<transA=1, transB=1>(x, v)", x=(5, "N")),
    Case("Gemm-alpha-beta", "y = Gemm<alpha=0.5, beta=2.0>(x, w, b)"),
    Case("Gemm-beta-0", "y = Gemm<beta=0.0>(x, w, b)"),
    Case("Gemm-bias-row", "y = Gemm(x, w, row)"),
    Case("Gemm-bias-column", "y = Gemm<beta=-1.0>(x, w, column)", x=(N, 5)),
    Case("Gemm-bias-whole", "y = Gemm(x, w, whole)", x=(N, 5)),
    Case("Gemm-bias-number", "y = Gemm(x, w, number)"),
    Case("Gemm-bias-live", "t = Tanh(x)\nc = MatMul(t, w)\ny = Gemm(x, w, c)", 2),
    Case("MatMul", "y = MatMul(x, w)"),
    Case("MatMul-vector", "y = MatMul(x, w)", x=(5,)),
    Case("MatMul-batched", "y = MatMul(x, w)", x=("N", 2, 5)),
    Case("weight-turned", "t = Transpose(v)\ny = MatMul(x, t)"),
    Case("several-readers", "h = Gemm(x, w, b)\nt = Tanh(h)\ny = Mul(t, h)"),
    Case("read-and-given", "h = Gemm(x, w, b)\ny = Tanh(h)", outputs=("h", "y")),
    Case(
        "layers",
        "h = Gemm(x, s)\nt = Sigmoid(h)\ng = MatMul(t, s)\nr = Tanh(g)\ny = Gemm<transB=1>(r, v)",
        3,
    ),
    Case("one-weight-twice", "h = MatMul(x, s)\nt = Tanh(h)\ny = MatMul(t, s)", 2),
    # x, tanh(x) and their tangents: four at once
    Case("twins", "t = Tanh(x)\na = MatMul(x, w)\nc = MatMul(t, w)\ny = Sub(a, c)", 2, left=1),
    Case("turned-otherwise", "h = Gemm(x, s)\ny = Gemm<transB=1>(h, s)", 2, adjoint=2),
    Case("scaled-otherwise", "h = Gemm(x, w)\nk = Gemm<alpha=2.0>(x, w)\ny = Mul(h, k)", 2),
    Case("one-product-dead", "h = MatMul(z, w)\nk = MatMul(x, w)\ny = Mul(h, k)", 2, left=1),
    Case("weight-given", "y = MatMul(x, g)", left=2, shared=0, inputs={"g": (5, 4)}),
    Case(
        "weight-computed",
        "g = Mul(m, w)\ny = MatMul(x, g)",
        left=2,
        shared=0,
        inputs={"m": (5, 4)},
    ),
]
CASES[-3].inputs["z"] = ("N", 5)
FORMS = {
    "jvp": lambda model: jvp(model, ["x"], target="cpu"),
    "jvp-3": lambda model: jvp(model, ["x"], directions=3, target="cpu"),
    "jvp-K": lambda model: jvp(model, ["x"], directions="K", target="cpu"),
    "clone": lambda model: clone(model, ["x"], layout="split", target="cpu"),
    "clone-3": lambda model: clone(model, ["x"], directions=3, layout="split", target="cpu"),
    "clone-stacked": lambda model: clone(model, ["x"], layout="stacked", target="cpu"),
    "vjp": lambda model: vjp(model, ["x"], target="cpu"),
}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small weights are shared as well."""
    monkeypatch.setattr("onnxjvp.targets.dense.LARGE", 1)
    monkeypatch.setattr("onnxjvp.targets.dense.COPIED", 0)
    yield


def _products(rewritten: Rewritten | onnx.ModelProto) -> int:
    return sum(op_type in ("Gemm", "MatMul") for op_type in op_types(rewritten))


def _dims(case: Case) -> dict[str, int]:
    shapes = [case.x, *case.inputs.values()]
    return {"N": N} if any("N" in shape for shape in shapes) else {}


def _feeds(model: onnx.ModelProto, **sizes: int) -> Values:
    rng = np.random.default_rng(5)
    feeds = {}
    for info in model.graph.input:
        shape = info.type.tensor_type.shape.dim
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        size = [d.dim_value or sizes.get(d.dim_param, N) for d in shape]
        feeds[info.name] = rng.standard_normal(size).astype(dtype)
    return feeds


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("always")
def test_derivatives_match_float64_differences(case: Case, form: str) -> None:
    model = case.model()
    made = FORMS[form](model)
    checked(made)
    report = verify(model, made.proto(), dims=_dims(case))
    assert not failed(report), report
    assert report.rows


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("always")
def test_the_weight_is_read_once(case: Case) -> None:
    model = case.model()
    assert _products(model) == case.products
    left = case.products if case.left is None else case.left
    shared = case.products if case.shared is None else case.shared
    for form in ("jvp", "clone"):
        made = FORMS[form](model)
        streams = {"jvp": 2, "clone": 3}[form]
        assert made.report.get("shared", 0) == shared
        assert _products(made) == (left if shared else streams * case.products)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("always")
def test_the_form_is_the_portable_one_to_rounding(case: Case) -> None:
    model = case.model()
    for count in (None, 3):
        cpu, portable = (
            jvp(model, ["x"], directions=count, target=t).proto() for t in ("cpu", "portable")
        )
        for n in (N, 0) if case.x == ("N", 5) else (N,):
            feeds = _feeds(portable, N=n)
            found, wanted = ort(cpu, feeds, optimize=True), ort(portable, feeds)
            assert list(found) == list(wanted)
            for name, value in wanted.items():
                assert_close(found[name], value, TOLERANCES["float32"], name)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("always")
def test_the_adjoint_has_the_model_s_own_products(case: Case) -> None:
    model = case.model()
    forwards, backwards = jvp(model, ["x"], target="cpu"), vjp(model, ["x"], target="cpu")
    assert backwards.report.get("shared", 0) == case.adjoint
    feeds = _feeds(forwards.proto()) | _feeds(backwards.proto())
    pushed, pulled = (
        ort(form, {info.name: feeds[info.name] for info in form.graph.input})
        for form in (forwards.proto(), backwards.proto())
    )
    pairs = [(f"{y}_ct", f"{y}_jvp") for y in case.outputs]
    left = sum(np.vdot(feeds[ct].astype(float), pushed[t].astype(float)) for ct, t in pairs)
    right = np.vdot(pulled["x_vjp"].astype(float), feeds["x_u"].astype(float))
    assert np.isclose(left, right, rtol=1e-4, atol=1e-4)
    plain = ort(model, {info.name: feeds[info.name] for info in model.graph.input})
    for y in () if case.adjoint else case.outputs:
        np.testing.assert_array_equal(pulled[y], plain[y])


@pytest.mark.usefixtures("always")
def test_f_of_x_stays_bit_equal_where_nothing_is_shared() -> None:
    model = CASES[1].model()
    feeds = _feeds(model)
    wanted = ort(model, feeds)["y"]
    portable = jvp(model).proto()
    np.testing.assert_array_equal(ort(portable, _feeds(portable) | feeds)["y"], wanted)
    held = linearize(model, target="cpu").primal
    assert "shared" not in held.report
    np.testing.assert_array_equal(ort(held.proto(), feeds)["y"], wanted)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
@pytest.mark.usefixtures("always")
def test_other_dtypes_are_left_alone(dtype: str) -> None:
    for case in CASES:
        model = case.model(dtype)
        assert op_types(jvp(model, ["x"], target="cpu")) == op_types(jvp(model, ["x"]))


@pytest.mark.usefixtures("always")
def test_a_weight_that_is_a_variable() -> None:
    """x W and u W share W; x U has a weight of its own."""
    model = CASES[1].model()
    made = jvp(model, ["x", "v"], target="cpu")
    assert _products(checked(made)) == 2
    assert not failed(verify(model, made.proto(), dims={"N": N}))
    alone = jvp(model, ["v"], target="cpu")
    assert "shared" not in alone.report
    assert not failed(verify(model, alone.proto(), dims={"N": N}))


@pytest.mark.usefixtures("always")
def test_a_shared_file_is_accepted_again() -> None:
    model = next(case for case in CASES if case.name == "layers").model()
    results = []
    for target in ("cpu", "portable"):
        first = jvp(model, target=target)
        assert bool(first.report.get("shared")) == (target == "cpu")
        again = jvp(first, ["x"], ["y_jvp"], target=target)
        results.append(ort(checked(again), _feeds(checked(again))))
        assert checked(grad(first, ["x"], output="y_jvp", loss="sum", target=target))
        hessian = hvp(model, loss="squared_norm", target=target)
        assert not failed(verify(model, hessian.proto(), dims={"N": N}))
    for name, value in results[1].items():
        assert_close(results[0][name], value, TOLERANCES["float32"], name)


ENLARGED = {
    "": (5, 4),
    "strides=[2, 2], pads=[1, 0, 1, 0]": (5, 4),
    "group=2": (6, 2),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("how", ENLARGED)
@pytest.mark.usefixtures("always")
def test_images_of_few_pixels_are_enlarged_together(how: str, form: str) -> None:
    channels, width = ENLARGED[how]
    groups = 2 if "group=2" in how else 1
    params = {"w": weights(channels, width, 2, 3), "b": weights(groups * width)}
    body = f"h = ConvTranspose<{how}>(x, w, b)\ny = Tanh(h)".replace("<>", "")
    model = build(body, {"x": ("N", channels, 3, 4)}, params, dtype="float32")
    made = FORMS[form](model)
    if form != "vjp":  # which convolves
        assert op_types(checked(made)).count("ConvTranspose") == 1
        assert ("shared" in made.report) == (form != "clone-stacked")
    assert not failed(verify(model, made.proto(), dims={"N": N}))


@pytest.mark.usefixtures("always")
def test_images_of_other_sizes_are_enlarged_apart() -> None:
    body = "a = ConvTranspose(x, w)\nc = ConvTranspose(z, w)\nd = ReduceSum(c)\ny = Mul(a, d)"
    inputs = {"x": ("N", 5, 3, 3), "z": ("N", 5, 4, 3)}
    model = build(body, inputs, {"w": weights(5, 4, 2, 2)}, dtype="float32")
    made = jvp(model, target="cpu")
    assert op_types(checked(made)).count("ConvTranspose") == 2
    assert not failed(verify(model, made.proto(), dims={"N": N}))


# -- where it pays -----------------------------------------------------------------------------


def _shared(x: Input, weight: tuple[int, int], **settings: Any) -> bool:
    body, params = "y = MatMul(x, w)", {"w": np.ones(weight, np.float32)}
    made = jvp(build(body, {"x": x}, params, dtype="float32"), target="cpu", **settings)
    return "shared" in made.report


def test_few_rows_share_a_large_weight() -> None:
    assert _shared(("N", 2048), (2048, 1024))
    assert _shared((1, 2048), (2048, 1024))
    assert _shared((2048,), (2048, 1024))
    assert _shared(("N", 1, 2048), (2048, 1024))
    assert _shared((8, 2048), (2048, 1024))
    assert _shared(("N", 2048), (2048, 1024), directions=4)
    assert _shared(("N", 2048), (2048, 1024), directions="K")


def test_many_rows_or_a_small_weight_do_not() -> None:
    assert not _shared((16, 2048), (2048, 1024))
    assert not _shared(("N", 196, 2048), (2048, 1024))
    assert not _shared(("N", 512), (512, 1024))
    # of a batch of sequences neither size is known
    assert not _shared(("N", "S", 2048), (2048, 1024))
    # a weight of one long row: copies cost what the weight does
    assert not _shared(("N", 1 << 20), (1 << 20, 1))
