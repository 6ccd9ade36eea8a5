"""Every rule, on every row of the tables: differences, the frozen network, linearity, dtypes."""

from __future__ import annotations

import cases_regions
import numpy as np
import onnx
import pytest
from cases import CASES, CURRENT
from helpers import (
    DIFFERENCES,
    NEWER_RUNTIME,
    RUNTIME_FAILURE,
    TOLERANCES,
    Array,
    Run,
    Values,
    assert_close,
    shape_of,
)
from op_case import (
    FORMS,
    OpCase,
    Operand,
    form_of,
    never_found,
    ort_of,
    rewritten,
    run_of,
    seeded,
    twice,
)

import onnxjvp
from onnxjvp.graph.load import load
from onnxjvp.oracle import directional_derivative
from onnxjvp.passes.linearize import analyse, is_float, live_inputs
from onnxjvp.rules.kinds import StraightThrough, Zero
from onnxjvp.rules.registry import RULES

EXACT = TOLERANCES["float64"]

every_case = pytest.mark.parametrize("case", CASES, ids=str)
current_case = pytest.mark.parametrize("case", CURRENT, ids=str)


def test_names_of_cases_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)), {n for n in names if names.count(n) > 1}


@every_case
def test_jvp_matches_finite_differences(case: OpCase) -> None:
    x, u = case.point(), case.direction()
    wanted = directional_derivative(run_of(case), x, u, case.differentiable)
    result, _ = rewritten(case, "jvp")
    values = run_of(case, "jvp")(seeded(result, x, u))
    for name in case.outputs:
        assert_close(values[name], wanted.primal[name], EXACT, name)
    tangents = form_of(result, values, "jvp")
    assert tuple(tangents) == case.differentiable
    assert tuple(result.report["excluded"]) == case.excluded
    for name in case.differentiable:
        assert case.flat or not wanted.kinks[name].any(), f"{name}: differences settle nothing"
        assert case.flat or np.any(wanted.value[name]), f"{name}: the case's derivative is zero"
        scale = 1.0 if case.flat else None
        assert_close(tangents[name], wanted.value[name], DIFFERENCES, f"J u of {name}", scale)


@every_case
def test_clone_is_the_affine_map(case: OpCase) -> None:
    x, u = case.point(), case.direction()
    result, _ = rewritten(case, "jvp")
    run = run_of(case, "jvp")
    along_u = form_of(result, run(seeded(result, x, u)), "jvp")
    along_x = form_of(result, run(seeded(result, x, {name: x[name] for name in u})), "jvp")
    primal = run_of(case)(x)
    for form in ("split", "stacked"):
        _check_lanes(case, form, x, u, primal, along_u, along_x)
    result, _ = rewritten(case, "substitute")
    values = run_of(case, "substitute")(seeded(result, x, u))
    for name, tangent in form_of(result, values, "jvp").items():
        size = _size(primal[name]) + _size(tangent)
        assert_close(values[name], primal[name], EXACT, f"substitute: {name}", size)
        assert_close(tangent, along_u[name], EXACT, f"substitute: J u of {name}", size)
        there = values[result.names["results"][name]["s"]]
        assert_close(there, primal[name] - tangent, EXACT, "substitute: f_x(x − u)", size)


def _check_lanes(
    case: OpCase,
    layout: str,
    x: Values,
    u: Values,
    primal: Values,
    along_u: dict[str, Array],
    along_x: dict[str, Array],
) -> None:
    result, _ = rewritten(case, layout)
    run = run_of(case, layout)
    values = run(seeded(result, x, u))
    at_x = form_of(result, run(seeded(result, x, {name: x[name] for name in u})), "u")
    at_u, at_0, tangents = (form_of(result, values, form) for form in ("u", "0", "jvp"))
    assert tuple(tangents) == case.differentiable
    for name, y in primal.items():
        what = f"{layout}: {name}"
        size = _size(y)
        assert_close(values[name], y, EXACT, what)
        if name in case.excluded:
            continue
        size += _size(along_u[name]) + _size(along_x[name])
        assert_close(tangents[name], along_u[name], EXACT, f"J u, {what}", size)
        with np.errstate(invalid="ignore"):
            assert_close(
                at_u[name] - at_0[name], along_u[name], EXACT, f"f_x(u) − f_x(0), {what}", size
            )
            assert_close(at_0[name], y - along_x[name], EXACT, f"f_x(0), {what}", size)
        assert_close(at_x[name], y, EXACT, f"f_x(x), {what}", size)


def _size(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=1.0))


@current_case
def test_jvp_is_linear_in_u(case: OpCase) -> None:
    x, u, w = case.point(), case.direction(1), case.direction(2)
    result, _ = rewritten(case, "jvp")
    run = run_of(case, "jvp")

    def along(direction: Values) -> dict[str, Array]:
        return form_of(result, run(seeded(result, x, direction)), "jvp")

    mixed = along({name: -1.75 * u[name] + 0.625 * w[name] for name in u})
    first, second = along(u), along(w)
    none = along({name: np.zeros_like(u[name]) for name in u})
    for name, tangent in mixed.items():
        scale = _size(first[name]) + _size(second[name])
        assert_close(tangent, -1.75 * first[name] + 0.625 * second[name], EXACT, name, scale)
        assert not none[name].any(), f"{name}: J 0 is not zero"


@every_case
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tangent_runs_in_float32_and_float16(case: OpCase, dtype: str) -> None:
    number = np.dtype(dtype)
    x, u = (_rounded(values, number) for values in (case.point(), case.direction()))
    if case.no_runtime or (dtype == "float16" and case.no_half):
        if not NEWER_RUNTIME:
            with pytest.raises(Exception, match=r"ONNXRuntimeError|checker|Type"):
                ort_of(case, dtype)(x)  # where this runs, the exemption is out of date
        return
    if case.evaluated:
        return
    original = ort_of(case, dtype)(x)
    wanted = _in_double(case, dtype, x, u)
    for form in ("jvp", "split", "stacked"):
        result, _ = rewritten(case, form, dtype)
        values = ort_of(case, dtype, form)(seeded(result, x, u))
        for name, y in original.items():
            assert (values[name].dtype, values[name].shape) == (y.dtype, y.shape)
            exact = form != "stacked"
            assert not exact or values[name].tobytes() == y.tobytes(), f"{form}: {name} has changed"
            assert_close(values[name], wanted[name], TOLERANCES[dtype], f"{form}: {name}")
        for name, tangent in form_of(result, values, "jvp").items():
            want = wanted[f"{name}_jvp"]
            scale = _size(want) + (_size(wanted[name]) if form == "stacked" else 0)
            assert tangent.dtype == original[name].dtype
            assert_close(tangent, want, TOLERANCES[dtype], f"{form}: J u of {name}", scale)


def _in_double(case: OpCase, dtype: str, x: Values, u: Values) -> Values:
    """y and J u in float64, on the numbers of `dtype`."""
    if case.by_dtype:
        result, _ = rewritten(case, "jvp", dtype)
        return ort_of(case, dtype, "jvp")(seeded(result, x, u))
    wide_x, wide_u = (_rounded(values, np.dtype("float64")) for values in (x, u))
    if case.is_the_same_in(dtype):
        result, _ = rewritten(case, "jvp")
        return run_of(case, "jvp")(seeded(result, wide_x, wide_u))
    result = onnxjvp.jvp(case.model(rounded=dtype))
    return case.run(result.proto())(seeded(result, wide_x, wide_u))


def _rounded(values: Values, dtype: np.dtype[np.floating]) -> Values:
    return {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in values.items()}


SYMBOLIC = [
    case
    for case in CASES
    if any("N" in shape for shape in case.inputs.values() if isinstance(shape, tuple))
    and not (case.no_runtime or case.evaluated)
]


@pytest.mark.parametrize("case", SYMBOLIC, ids=str)
def test_an_empty_batch_gives_empty_tangents(case: OpCase) -> None:
    x, u = (
        _rounded(values, np.dtype("float32")) for values in (case.point(N=0), case.direction(N=0))
    )
    shapes = _shapes_on(case.model("float32"), ort_of(case, "float32"), x)
    if case.not_empty:
        result, model = rewritten(case, "jvp", "float32")
        run = ort_of(case, "float32", "jvp")
        exempt = shapes is None or _shapes_on(model, run, seeded(result, x, u)) is None
        assert exempt or NEWER_RUNTIME, f"no longer true: {case.not_empty}"
        return
    assert shapes is not None, "the original cannot be run on an empty batch"
    for form in ("jvp", "split", "stacked"):
        result, _ = rewritten(case, form, "float32")
        values = ort_of(case, "float32", form)(seeded(result, x, u))
        for name in case.outputs:
            assert values[name].shape == shapes[name], f"{form}: {name}"
        for name, tangent in form_of(result, values, "jvp").items():
            assert tangent.shape == shapes[name], f"{form}: J u of {name}"
            assert np.isfinite(tangent).all() or not np.isfinite(values[name]).all()


def _shapes_on(model: onnx.ModelProto, run: Run, x: Values) -> dict[str, tuple[int, ...]] | None:
    """Shapes of the outputs, or None if onnxruntime fails or contradicts the model's shapes."""
    try:
        values = run(x)
    except RUNTIME_FAILURE:
        return None
    for info in model.graph.output:
        for size, declared in zip(values[info.name].shape, shape_of(info), strict=False):
            if isinstance(declared, int) and size != declared:
                return None
        if values[info.name].ndim != len(shape_of(info)):
            return None
    return {name: value.shape for name, value in values.items()}


@current_case
def test_new_inputs_and_outputs_are_declared_like_the_old(case: OpCase) -> None:
    original = case.model()
    declared = {info.name: info.type for info in (*original.graph.input, *original.graph.output)}
    for form in FORMS:
        result, model = rewritten(case, form)
        found = {info.name: info.type for info in (*model.graph.input, *model.graph.output)}
        for name, kind in declared.items():
            assert found[name] == kind, f"{form}: {name}"
        for name, seed in result.names["seeds"].items():
            assert found[seed] == declared[name], f"{form}: {seed}"
        for name, forms in result.names["results"].items():
            for new in forms.values():
                assert found[new] == declared[name], f"{form}: {new}"


# -- closure -----------------------------------------------------------------------------------


@current_case
def test_every_emitted_operator_has_a_rule(case: OpCase) -> None:
    """jvp(jvp(m)) exists, and is right: differences of J u along both x and u."""
    once, _ = rewritten(case, "jvp")
    again, _ = twice(case, "jvp", "jvp")
    x, u = case.point(), case.direction()
    at = seeded(once, x, u)
    rng = np.random.default_rng(5)
    along = {name: rng.standard_normal(at[name].shape) for name in again.names["seeds"]}
    names = [form["jvp"] for form in once.names["results"].values()]
    wanted = directional_derivative(run_of(case, "jvp"), at, along, names)
    values = run_of(case, "jvp", "jvp")(seeded(again, at, along))
    for name in names:
        settled = ~wanted.kinks[name]
        got = values[again.names["results"][name]["jvp"]]
        assert settled.mean() > 0.9 or not settled.size
        want = np.where(settled, wanted.value[name], got)
        assert_close(got, want, DIFFERENCES, name, _size(wanted.value[name]))


#: rules with tests of their own: test_quantization.py, test_machine_learning.py
ELSEWHERE = {
    *(name for name, rule in RULES.items() if isinstance(rule, StraightThrough)),
    *("DequantizeLinear", "com.microsoft::DequantizeLinear", "com.microsoft::NhwcMaxPool"),
    *("ai.onnx.ml::TreeEnsemble", "ai.onnx.ml::LabelEncoder", "ai.onnx.ml::OneHotEncoder"),
}


#: what they read is a shape, seldom live
WITHOUT_OPERANDS = {"EyeLike", "ConstantOfShape"}
#: some operand, whichever
ANY = -1


def _live_operands(case: OpCase) -> set[Operand]:
    """The operands that derivatives flow in through, of every operator."""
    source = load(case.model())
    floats = [v for v in source.inputs if is_float(v)]
    liveness = analyse(source, floats, list(source.graph.outputs))
    live = {(r.label, i) for r in liveness.regions for i in live_inputs(r, liveness.live)}
    return live | {(label, ANY) for label, _ in live}


def test_every_rule_has_a_case() -> None:
    """Each operand that a rule covers is differentiated alone in some case, or with others."""
    in_rows = set(RULES) - {"If"} - ELSEWHERE  # If: tests/passes/test_branches.py
    wanted = {(name, ANY) for name in in_rows - WITHOUT_OPERANDS}
    for name in in_rows:
        rule = RULES[name]
        if not isinstance(rule, Zero):
            wanted |= {(name, i) for i in rule.args or ()}
    assert never_found(wanted, CASES, _live_operands) == set()


# -- the schemas' word -------------------------------------------------------------------------

#: ONNX calls these operands not differentiable. A first state is, as every state after it; so is
#: what is interpolated in the place where, what is linear in the signal, in the divisor of a
#: remainder, in what a one-hot vector is made of, in a fill, and in elements that are picked
COVERED_ALL_THE_SAME = {
    ("AffineGrid", "theta"),
    ("Clip", "min"),
    ("Clip", "max"),
    ("DFT", "input"),
    ("Dropout", "ratio"),
    ("GridSample", "grid"),
    ("Mod", "B"),
    ("OneHot", "values"),
    ("Pad", "constant_value"),
    ("Resize", "roi"),
    ("Resize", "scales"),
    ("STFT", "signal"),
    ("STFT", "window"),
    ("Unique", "X"),
    ("RNN", "initial_h"),
    ("GRU", "initial_h"),
    ("LSTM", "initial_h"),
    ("LSTM", "initial_c"),
}


def _schemas() -> list[tuple[str, onnx.defs.OpSchema]]:
    found = []
    for label in RULES:
        domain, _, op_type = label.rpartition("::")
        if onnx.defs.has(op_type, domain):
            found.append((label, onnx.defs.get_schema(op_type, domain)))
    return found


def test_the_table_does_not_contradict_the_schemas() -> None:
    categories = onnx.defs.OpSchema.DifferentiationCategory
    left_out, beyond = set(), set()
    for label, schema in _schemas():
        rule = RULES[label]
        if isinstance(rule, StraightThrough):
            continue  # claims no derivative: an estimate, for those who ask for it
        for index, formal in enumerate(schema.inputs):
            category = formal.differentiation_category
            covered = not isinstance(rule, Zero) and (rule.args is None or index in rule.args)
            if covered:
                if category == categories.NonDifferentiable:
                    beyond.add((label, formal.name))
            elif category == categories.Differentiable:
                left_out.add((label, formal.name))
        first = schema.outputs[0].differentiation_category
        if isinstance(rule, Zero):
            assert label == "Hardmax" or first != categories.Differentiable, label
        else:
            beyond_first = label in ("OneHot", "STFT", "Unique")
            assert beyond_first or first != categories.NonDifferentiable, label
    assert left_out == {("Hardmax", "input")}, "no rule gives their derivative"  # it is zero
    assert beyond == COVERED_ALL_THE_SAME


def test_rules_say_where_they_come_from() -> None:
    for label, rule in RULES.items():
        assert rule.source, label


# -- groups of nodes ---------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases_regions.CASES, ids=str)
def test_groups_are_recognised(case: cases_regions.RegionCase) -> None:
    source = load(case.model())
    groups = [r for r in onnxjvp.graph.regions.regions(source.graph) if len(r.nodes) > 1]
    if not case.group:
        assert [r.label for r in groups] == []
        return
    assert {r.label for r in groups} == {case.group}
    assert {len(r.nodes) for r in groups} == {case.members}
