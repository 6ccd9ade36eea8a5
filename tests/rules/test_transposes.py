"""Jᵀ v on every row of the tables: the adjoint identity, shapes, dtypes, second derivatives."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import onnx
import pytest
from cases import CASES, CURRENT
from helpers import DIFFERENCES, TOLERANCES, Values, assert_close, checked
from op_case import (
    OpCase,
    Operand,
    form_of,
    made_once,
    never_found,
    ort_of,
    rewritten,
    run_of,
    seeded,
    twice,
)

from onnxjvp.errors import UnsupportedOpError
from onnxjvp.graph.opset import FLOOR
from onnxjvp.oracle import directional_derivative
from onnxjvp.rewrite import Rewritten, vjp
from onnxjvp.rewrite.task import Task
from onnxjvp.rules.transposes import TRANSPOSES

EXACT = TOLERANCES["float64"]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
current_case = pytest.mark.parametrize("case", CURRENT, ids=str)


# -- products ----------------------------------------------------------------------------------


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
    primal = run_of(case)(case.point())
    return drawn(case, {y: primal[y] for y in case.differentiable}, 3)


@every_case
def test_transpose_is_the_adjoint(case: OpCase) -> None:
    x, u = case.point(), case.direction()
    pushed, _ = rewritten(case, "jvp")
    tangents = run_of(case, "jvp")(seeded(pushed, x, u))
    ju = form_of(pushed, tangents, "jvp")
    result, _ = rewritten(case, "vjp")
    v = drawn(case, ju, 3)
    values = run_of(case, "vjp")(with_cotangents(result, x, v))
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
    result, model = rewritten(case, "vjp")
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
    result, _ = rewritten(case, "vjp")
    values = run_of(case, "vjp")(with_cotangents(result, case.point(), cotangents(case)))
    return form_of(result, values, "vjp")


def _check_same_product(case: OpCase, other: OpCase) -> None:
    """Jᵀ v of a case by a model with other declarations of sizes."""
    result = vjp(other.model())
    values = other.run(checked(result))(with_cotangents(result, case.point(), cotangents(case)))
    wanted, found = _product(case), form_of(result, values, "vjp")
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
    primal = ort_of(case, dtype)(x)
    v = {y: ct.astype(primal[y].dtype) for y, ct in cotangents(case).items()}
    result, _ = rewritten(case, "vjp", dtype)
    values = ort_of(case, dtype, "vjp")(with_cotangents(result, x, v))
    for name, y in primal.items():
        assert values[name].tobytes() == y.tobytes(), f"{name} has changed"
    jtv = form_of(result, values, "vjp")
    for name, ct in jtv.items():
        assert (ct.dtype, ct.shape) == (x[name].dtype, x[name].shape), name
    if case.by_dtype:
        u = _rounded(case.direction(), dtype)
        pushed, _ = rewritten(case, "jvp", dtype)
        ju = form_of(pushed, ort_of(case, dtype, "jvp")(seeded(pushed, x, u)), "jvp")
        check_adjoint(case, v, ju, jtv, u, TOLERANCES[dtype])
        return
    if case.is_the_same_in(dtype):
        exact, run = rewritten(case, "vjp")[0], run_of(case, "vjp")
    else:
        exact = vjp(case.model(rounded=dtype))
        run = case.run(exact.proto())
    wide_x, wide_v = (_rounded(each, "float64") for each in (x, v))
    wanted = run(with_cotangents(exact, wide_x, wide_v))
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
    primal = ort_of(case, "float32")(x)
    result, _ = rewritten(case, "vjp", "float32")
    v = _rounded(drawn(case, {y: primal[y] for y in case.differentiable}, 3), "float32")
    feeds = with_cotangents(result, x, v)
    jtv = form_of(result, ort_of(case, "float32", "vjp")(feeds), "vjp")
    nothing = not any(ct.size for ct in v.values())
    for name, ct in jtv.items():
        assert ct.shape == x[name].shape, name
        assert np.isfinite(ct).all(), name
        assert not (nothing and ct.any()), f"{name}: a sum over nothing is zero"


# -- closure -----------------------------------------------------------------------------------


def _directed(case: OpCase, first: str, at: Values) -> tuple[Values, Values]:
    """A direction in every variable of a derivative, and its tangents along that."""
    result, _ = twice(case, first, "jvp")
    u = drawn(case, {name: at[name] for name in result.names["seeds"]}, 5)
    return u, form_of(result, run_of(case, first, "jvp")(seeded(result, at, u)), "jvp")


def _transposed(case: OpCase, first: str, at: Values, v: Values) -> Values:
    result, _ = twice(case, first, "vjp")
    values = run_of(case, first, "vjp")(with_cotangents(result, at, v))
    return form_of(result, values, "vjp")


@current_case
def test_tangent_of_the_transpose_is_the_second_derivative(case: OpCase) -> None:
    """jvp(vjp(m)): differences of Jᵀ v along both x and v."""
    result, _ = rewritten(case, "vjp")
    at = with_cotangents(result, case.point(), cotangents(case))
    u, tangents = _directed(case, "vjp", at)
    names = [forms["vjp"] for forms in result.names["results"].values()]
    wanted = directional_derivative(run_of(case, "vjp"), at, u, names)
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
    at = seeded(rewritten(case, "jvp")[0], case.point(), case.direction())
    u, tangents = _directed(case, "jvp", at)
    v = drawn(case, tangents, 7)
    check_adjoint(case, v, tangents, _transposed(case, "jvp", at, v), u)


@current_case
def test_transpose_of_the_transpose_is_its_adjoint(case: OpCase) -> None:
    """vjp(vjp(m)), against jvp(vjp(m))."""
    at = with_cotangents(rewritten(case, "vjp")[0], case.point(), cotangents(case))
    u, tangents = _directed(case, "vjp", at)
    v = drawn(case, tangents, 7)
    check_adjoint(case, v, tangents, _transposed(case, "vjp", at, v), u)


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


def _linear_operands(*models: onnx.ModelProto | Rewritten) -> set[Operand]:
    """Of the programs of some models, the operators with the operands in which they are linear."""
    return {
        (node.op_type, i)
        for model in models
        for program in [Task(model).linearize()]
        for node in program.nodes
        for i, value in enumerate(node.inputs)
        if value in program.linear
    }


def _in_rows(name: str) -> set[int]:
    return set(range(VARIADIC[name])) if name in VARIADIC else OPERANDS.get(name, {0})


def test_every_entry_has_a_case() -> None:
    """In each of its operands. That programs hold nothing else, transposing them twice shows."""
    in_rows = set(TRANSPOSES) - {"If"}  # tests/passes/test_branches.py
    wanted = {(name, i) for name in in_rows for i in _in_rows(name)}

    def found(case: OpCase) -> set[Operand]:
        return _linear_operands(case.model(), rewritten(case, "vjp")[0])

    assert never_found(wanted, CASES, found) == set(), "no case"


@pytest.mark.parametrize("case", [c for c in CASES if c.opset < FLOOR], ids=str)
def test_what_older_operators_become_has_entries_too(case: OpCase) -> None:
    """Those are not transposed twice."""
    for name, i in _linear_operands(rewritten(case, "vjp")[0]):
        assert name in VARIADIC or i in _in_rows(name), f"{name}, operand {i}"
        assert name in TRANSPOSES, name
