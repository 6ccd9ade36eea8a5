"""Jᵀ v on every row of the tables: the adjoint identity, shapes, dtypes, second derivatives."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import onnx
import pytest
from cases import CASES, CURRENT
from helpers import DIFFERENCES, TOLERANCES, Values, assert_close, checked, ort
from op_case import OpCase, form_of, made_once, rewritten, seeded

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.oracle import directional_derivative
from onnxjvp.passes.linearize import Program
from onnxjvp.rewrite import Rewritten, jvp, vjp
from onnxjvp.rewrite.task import Task
from onnxjvp.rules.transposes import TRANSPOSES

EXACT = TOLERANCES["float64"]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
current_case = pytest.mark.parametrize("case", CURRENT, ids=str)


# -- products ----------------------------------------------------------------------------------


@made_once
def pulled(case: OpCase, dtype: str | None = None) -> tuple[Rewritten, onnx.ModelProto]:
    """The case with Jᵀ v, checked."""
    result = vjp(case.model(dtype))
    return result, checked(result)


def drawn(case: OpCase, like: Values, seed: int) -> Values:
    """Normal numbers in given shapes."""
    rng = np.random.default_rng([seed, zlib.crc32(case.name.encode())])
    return {name: np.asarray(rng.standard_normal(v.shape)) for name, v in like.items()}


def with_cotangents(result: Rewritten, x: Values, v: Values) -> Values:
    return {**x, **{name: v[y] for y, name in result.names["cotangents"].items()}}


def check_adjoint(
    case: OpCase, v: Values, ju: Values, jtv: Values, u: Values, tolerance: float = EXACT
) -> None:
    """⟨v, J u⟩ = ⟨Jᵀ v, u⟩, within a share of what is added up on the left."""
    products = np.concatenate([(v[y].astype(float) * ju[y]).ravel() for y in ju])
    left, scale = products.sum(), np.abs(products).sum()
    right = sum((jtv[x].astype(float) * u[x]).sum() for x in jtv)
    assert case.flat or abs(left) > 1e-5 * scale > 0, "both sides are zero: nothing is settled"
    assert abs(left - right) <= tolerance * scale, f"⟨v, J u⟩ = {left}, ⟨Jᵀ v, u⟩ = {right}"


@made_once
def cotangents(case: OpCase) -> Values:
    """A cotangent for each output at the case's point."""
    primal = case.run(case.model())(case.point())
    return drawn(case, {y: primal[y] for y in case.differentiable}, 3)


@every_case
def test_transpose_is_the_adjoint(case: OpCase) -> None:
    x, u = case.point(), case.direction()
    pushed, tangent_model = rewritten(case, "jvp")
    tangents = case.run(tangent_model)(seeded(pushed, x, u))
    ju = form_of(pushed, tangents, "jvp")
    result, model = pulled(case)
    v = drawn(case, ju, 3)
    values = case.run(model)(with_cotangents(result, x, v))
    jtv = form_of(result, values, "vjp")
    assert tuple(result.names["cotangents"]) == case.differentiable
    assert not result.names["seeds"]
    left_out = set(result.report["excluded"])
    assert set(jtv) | left_out == set(u) | set(case.excluded)
    assert not set(jtv) & left_out
    for name in case.outputs:
        np.testing.assert_array_equal(values[name], tangents[name])
    for name, ct in jtv.items():
        assert ct.shape == x[name].shape, name
    check_adjoint(case, v, ju, jtv, u)


@current_case
def test_new_inputs_and_outputs_are_declared_like_the_old(case: OpCase) -> None:
    original = case.model()
    declared = {info.name: info.type for info in (*original.graph.input, *original.graph.output)}
    result, model = pulled(case)
    found = {info.name: info.type for info in (*model.graph.input, *model.graph.output)}
    for name, kind in declared.items():
        assert found[name] == kind, name
    for name, ct in result.names["cotangents"].items():
        assert found[ct] == declared[name], ct
    for name, forms in result.names["results"].items():
        assert found[forms["vjp"]] == declared[name], name


# -- sizes -------------------------------------------------------------------------------------


def _with_sizes(case: OpCase, shapes: dict[str, tuple[int | str, ...]], **sizes: int) -> OpCase:
    inputs = {**case.inputs, **shapes}
    return dataclasses.replace(case, inputs=inputs, sizes={**case.sizes, **sizes})


def _shapes(case: OpCase) -> dict[str, tuple[int | str, ...]]:
    return {name: given for name, given in case.inputs.items() if isinstance(given, tuple)}


def _is_symbolic(case: OpCase) -> bool:
    return any(isinstance(d, str) for shape in _shapes(case).values() for d in shape)


@made_once
def _product(case: OpCase) -> Values:
    return _product_as(case, case)


def _product_as(case: OpCase, form: OpCase) -> Values:
    """Jᵀ v of a case by a model with other declarations of sizes."""
    result, model = pulled(form)
    values = form.run(model)(with_cotangents(result, case.point(), cotangents(case)))
    return form_of(result, values, "vjp")


def _check_same_product(case: OpCase, other: OpCase) -> None:
    wanted, found = _product(case), _product_as(case, other)
    assert found.keys() == wanted.keys()
    for name, ct in wanted.items():
        assert_close(found[name], ct, EXACT, name)


@pytest.mark.parametrize("case", [c for c in CURRENT if _is_symbolic(c)], ids=str)
def test_fixed_sizes_give_the_same(case: OpCase) -> None:
    shapes = {
        name: tuple(case.sizes[d] if isinstance(d, str) else d for d in shape)
        for name, shape in _shapes(case).items()
    }
    _check_same_product(case, _with_sizes(case, shapes))


#: cases that are refused where no size of an input is known
NEEDS_SIZES = {
    **{case.name: "its channels" for case in CASES if case.name.startswith("LRN")},
    "UnfoldTensor": "the length that it cuts up",
    **dict.fromkeys(
        (
            "RotaryEmbedding of the runtime",
            "RotaryEmbedding of the runtime, rows by positions",
            "GroupQueryAttention of a token, turned and packed",
        ),
        "the size of its heads",
    ),
    **{f"Attention of the runtime, {mask}": "its batch" for mask in ("ends", "ends and starts")},
    **{
        case.name: "its kernel"
        for case in CASES
        if "DeformConv" in case.body and "w" in case.inputs
    },
}
#: cases whose outputs' ranks are not known then either; of the second, onnx infers a wrong one
NEEDS_RANKS = {"Squeeze of all", "STFT, the window alone live"}
SIZED = [case for case in CURRENT if any(_shapes(case).values()) and case.name not in NEEDS_RANKS]


@pytest.mark.parametrize("case", SIZED, ids=str)
def test_sizes_known_at_run_time_only_give_the_same(case: OpCase) -> None:
    """Every axis of every input a symbol of its own."""
    sizes: dict[str, int] = {}
    shapes = {}
    for name, shape in _shapes(case).items():
        symbols = [d if isinstance(d, str) else f"{name}_{k}" for k, d in enumerate(shape)]
        sizes |= {s: d for s, d in zip(symbols, shape, strict=True) if isinstance(d, int)}
        shapes[name] = tuple(symbols)
    other = _with_sizes(case, shapes, **sizes)
    if case.name in NEEDS_SIZES:
        with pytest.raises(UnsupportedOpError):  # where this works, the exemption is out of date
            vjp(other.model())
        return
    _check_same_product(case, other)


# -- dtypes ------------------------------------------------------------------------------------


def _rounded(values: Values, dtype: str) -> Values:
    return {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in values.items()}


@current_case
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_transpose_runs_in_float32_and_float16(case: OpCase, dtype: str) -> None:
    if case.no_runtime or case.evaluated or (dtype == "float16" and case.no_half):
        return  # that these exemptions hold is checked where tangents are
    x = _rounded(case.point(), dtype)
    primal = ort(case.model(dtype), x)
    v = {y: ct.astype(primal[y].dtype) for y, ct in cotangents(case).items()}
    result, model = pulled(case, dtype)
    values = ort(model, with_cotangents(result, x, v))
    for name, y in primal.items():
        assert values[name].tobytes() == y.tobytes(), f"{name} has changed"
    jtv = form_of(result, values, "vjp")
    for name, ct in jtv.items():
        assert (ct.dtype, ct.shape) == (x[name].dtype, x[name].shape), name
    if case.by_dtype:
        u = _rounded(case.direction(), dtype)
        pushed, tangent_model = rewritten(case, "jvp", dtype)
        ju = form_of(pushed, ort(tangent_model, seeded(pushed, x, u)), "jvp")
        check_adjoint(case, v, ju, jtv, u, TOLERANCES[dtype])
        return
    exact = vjp(case.model(rounded=dtype))
    wide_x, wide_v = (_rounded(each, "float64") for each in (x, v))
    wanted = case.run(exact.proto())(with_cotangents(exact, wide_x, wide_v))
    for name, want in form_of(exact, wanted, "vjp").items():
        assert_close(jtv[name], want, TOLERANCES[dtype], f"Jᵀ v of {name}")


# -- empty batches -----------------------------------------------------------------------------


EMPTIABLE = [
    case
    for case in CURRENT
    if any("N" in shape for shape in _shapes(case).values())
    and not (case.no_runtime or case.evaluated or case.not_empty)
]


@pytest.mark.parametrize("case", EMPTIABLE, ids=str)
def test_an_empty_batch_gives_empty_cotangents_or_zeros(case: OpCase) -> None:
    x = _rounded(case.point(N=0), "float32")
    primal = ort(case.model("float32"), x)
    result, model = pulled(case, "float32")
    v = _rounded(drawn(case, {y: primal[y] for y in case.differentiable}, 3), "float32")
    feeds = with_cotangents(result, x, v)
    jtv = form_of(result, ort(model, feeds), "vjp")
    nothing = not any(ct.size for ct in v.values())
    for name, ct in jtv.items():
        assert ct.shape == x[name].shape, name
        assert np.isfinite(ct).all(), name
        assert not (nothing and ct.any()), f"{name}: a sum over nothing is zero"


# -- closure -----------------------------------------------------------------------------------


@made_once
def _tangent_of_transpose(case: OpCase) -> tuple[Rewritten, onnx.ModelProto]:
    result = jvp(pulled(case)[0])
    return result, checked(result)


def _directed(
    case: OpCase, result: Rewritten, model: onnx.ModelProto, at: Values
) -> tuple[Values, Values]:
    """A direction in every variable of a tangent form, and the tangents along it."""
    u = drawn(case, {name: at[name] for name in result.names["seeds"]}, 5)
    return u, form_of(result, case.run(model)(seeded(result, at, u)), "jvp")


def _transposed(case: OpCase, result: Rewritten, at: Values, v: Values) -> Values:
    values = case.run(checked(result))(with_cotangents(result, at, v))
    return form_of(result, values, "vjp")


@current_case
def test_tangent_of_the_transpose_is_the_second_derivative(case: OpCase) -> None:
    """jvp(vjp(m)): differences of Jᵀ v along both x and v."""
    result, model = pulled(case)
    x = case.point()
    at = with_cotangents(result, x, cotangents(case))
    twice, again = _tangent_of_transpose(case)
    u, tangents = _directed(case, twice, again, at)
    names = [forms["vjp"] for forms in result.names["results"].values()]
    wanted = directional_derivative(case.run(model), at, u, names)
    assert set(names) <= set(tangents)
    for name in names:
        settled = ~wanted.kinks[name]
        assert settled.mean() > 0.9 or not settled.size
        want = np.where(settled, wanted.value[name], tangents[name])
        scale = float(np.abs(wanted.value[name]).max(initial=1.0))
        assert_close(tangents[name], want, DIFFERENCES, name, scale)


@current_case
def test_transpose_of_the_tangent_is_its_adjoint(case: OpCase) -> None:
    """vjp(jvp(m)), against jvp(jvp(m))."""
    once, _ = rewritten(case, "jvp")
    at = seeded(once, case.point(), case.direction())
    forward = jvp(once)
    u, tangents = _directed(case, forward, forward.proto(), at)
    v = drawn(case, tangents, 7)
    check_adjoint(case, v, tangents, _transposed(case, vjp(once), at, v), u)


@current_case
def test_transpose_of_the_transpose_is_its_adjoint(case: OpCase) -> None:
    """vjp(vjp(m)), against jvp(vjp(m))."""
    once, _ = pulled(case)
    x = case.point()
    at = with_cotangents(once, x, cotangents(case))
    u, tangents = _directed(case, *_tangent_of_transpose(case), at)
    v = drawn(case, tangents, 7)
    check_adjoint(case, v, tangents, _transposed(case, vjp(once), at, v), u)


# -- the table ---------------------------------------------------------------------------------

#: entries of two operands or more, with those that a program is linear in
OPERANDS = {
    "Add": {0, 1},
    "BatchNormalization": {0, 1},
    "Conv": {0, 1},
    "ConvTranspose": {0, 1},
    "Div": {0},
    "Gemm": {0, 1},
    "MatMul": {0, 1},
    "Mul": {0, 1},
    "ScatterElements": {0, 2},
    "ScatterND": {0, 2},
    "Sub": {0, 1},
    "TensorScatter": {0, 1},
    "Where": {1, 2},
}


#: entries of any number of operands, and how many at least there have to be cases of
VARIADIC = {"Concat": 3, "Einsum": 4, "Scan": 3}


def _linear_operands(program: Program) -> set[tuple[str, int]]:
    return {
        (node.op_type, i)
        for node in program.nodes
        for i, value in enumerate(node.inputs)
        if value in program.linear
    }


def test_every_entry_has_a_case() -> None:
    """And every linear operator of a program an entry; in each of its operands."""
    reached: set[tuple[str, int]] = set()
    for case in CASES:
        for model in (case.model(), pulled(case)[0]):
            reached |= _linear_operands(Task(model).linearize())
    assert {name for name, _ in reached} - set(TRANSPOSES) == set(), "no entry"
    in_rows = set(TRANSPOSES) - {"If"}  # tests/passes/test_branches.py
    assert in_rows - {name for name, _ in reached} == set(), "no case"
    for name in in_rows:
        found = {i for label, i in reached if label == name}
        if name in VARIADIC:
            assert set(range(VARIADIC[name])) <= found, name
        else:
            assert found == OPERANDS.get(name, {0}), name
