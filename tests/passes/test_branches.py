"""If: the derivative of the branch that is taken, on both sides of the condition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.parser
import pytest
from helpers import (
    DIFFERENCES,
    Array,
    Run,
    Values,
    assert_close,
    checked,
    nodes_of,
    ort,
    weights,
)
from onnx import ModelProto

from onnxjvp import (
    InvalidModelError,
    Rewritten,
    UnsupportedOpError,
    UsageError,
    clone,
    ggn,
    grad,
    hvp,
    jacobian,
    jvp,
    linearize,
    vjp,
)
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.rules.leading.table import LEADING


@dataclass(frozen=True)
class Case:
    """A model with Ifs, and what its inputs other than x are for each of its paths."""

    name: str
    nodes: str
    wrt: tuple[str, ...]
    paths: tuple[Mapping[str, Array], ...] = ({"c": np.array(True)}, {"c": np.array(False)})
    inputs: str = "double[N,3] x, bool c"
    outputs: str = "double[N,3] y"
    x: Array = field(default_factory=lambda: weights(4, 3))

    def __str__(self) -> str:
        return self.name

    @property
    def model(self) -> ModelProto:
        params = (
            "double[3,3] w = {1.0,-0.5,0.3,0.2,0.7,-1.1,0.9,0.4,-0.6}, double[3] b = {0.1,0.2,0.3}"
        )
        return parsed(f"g ({self.inputs}) => ({self.outputs}) <{params}> {{ {self.nodes} }}")

    def points(self) -> list[Values]:
        return [{"x": path.get("x", self.x), **path} for path in self.paths]


def parsed(graph: str, opset: int = 18) -> ModelProto:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]> {graph}')
    onnx.checker.check_model(model, full_check=True)
    return model


SIGNS = ({"x": np.abs(weights(4, 3)) + 0.1}, {"x": -np.abs(weights(4, 3)) - 0.1})

CASES = [
    Case(
        "weights captured and inside",
        """h = Sin(x) y = If (c) <
            then_branch = t () => (double[N,3] p)
                <double[3] v = {0.5, 2.0, 1.0}> { m = MatMul(h, w) k = Tanh(m) p = Mul(k, v) },
            else_branch = e () => (double[N,3] q)
                { s = Constant<value = double[3] {2.0, -1.0, 3.0}>() d = Mul(x, s) l = MatMul(d, w)
                  f = Exp(l) q = Add(f, b) }>""",
        ("x", "w", "b", "v", "s"),
    ),
    Case(
        "condition from x",
        """n = ReduceSum<keepdims=0>(x) zero = Constant<value = double {0.0}>() p = Greater(n, zero)
        y = If (p) <then_branch = t () => (double[N,3] a) { a = Log(x) },
                    else_branch = e () => (double[N,3] d) { k = Mul(x, x) d = Mul(k, x) }>""",
        ("x",),
        SIGNS,
        "double[N,3] x",
    ),
    Case(
        "nested",
        """h = Exp(x) y = If (c) <
            then_branch = t () => (double[N,3] p) {
                g = Tanh(h)
                i = If (d) <
                    then_branch = tt () => (double[N,3] pp) { m1 = MatMul(g, w) pp = Mul(m1, x) },
                    else_branch = te () => (double[N,3] pe)
                        <double[3] v = {0.5, 2.0, 1.0}> { m2 = Mul(h, v) pe = Sin(m2) }>
                p = Mul(i, g) },
            else_branch = e () => (double[N,3] q) { q = Mul(h, b) }>""",
        ("x", "w", "b", "v"),
        tuple({"c": np.array(c), "d": np.array(d)} for c in (True, False) for d in (True, False)),
        "double[N,3] x, bool c, bool d",
    ),
    Case(
        "an outer value and a constant",
        """h = Sin(x) z = If (c) <
            then_branch = t () => (double[N,3] a) { a = Identity(h) },
            else_branch = e () => (double[1,3] k)
                { k = Constant<value = double[1,3] {1.0,2.0,3.0}>() }>
        y = Mul(z, x)""",
        ("x", "k"),
    ),
    Case(
        "several outputs, one an integer, one constant in both branches",
        """z, n, f = If (c) <
            then_branch = t () => (double[N,3] a, int64[2] m, double[3] ka) {
                a = MatMul(x, w) m = Shape(x) ka = Constant<value = double[3] {1.0, 2.0, 3.0}>() },
            else_branch = e () => (double[N,3] d, int64[2] i, double[3] kd) {
                d = Mul(x, b) i0 = Constant<value = int64[2] {-1, 3}>() i = Identity(i0)
                kd = Constant<value = double[3] {3.0, 2.0, 1.0}>() }>
        r = Reshape(z, n) y = Mul(r, f)""",
        ("x", "w"),
    ),
    Case(
        "branches of different sizes",
        """z = If (c) <
            then_branch = t () => (double[N,3] a) { a = Exp(x) },
            else_branch = e () => (double[2,3] d) {
                i = Constant<value = int64[2] {2, 0}>() g = Gather<axis = 0>(x, i) d = Mul(g, b) }>
        s = Sin(z) y = ReduceSum<keepdims = 0>(s)""",
        ("x", "b"),
        outputs="double y",
    ),
    Case(
        "sizes known inside only",
        """y = If (c) <
            then_branch = t () => (double[3] a) {
                p = Exp(x) f = Greater(x, p0) i0 = NonZero(f) i = Transpose<perm = [1, 0]>(i0)
                v = GatherND(p, i) q = Mul(v, v) e = ReduceSum<keepdims = 1>(q) a = Mul(e, b) },
            else_branch = e () => (double[3] d) { r = Cos(x) r0 = Constant<value = int64[1] {0}>()
                d = ReduceSum<keepdims = 0>(r, r0) }>""",
        ("x", "b"),
        inputs="double[N,3] x, bool c, double[1] p0",
        outputs="double[3] y",
        paths=tuple({"c": np.array(c), "p0": np.array([-0.2])} for c in (True, False)),
    ),
    Case(
        "groups of nodes that are one function",
        """h = Sigmoid(x) y, z = If (c) <
            then_branch = t () => (double[N,3] a, double[N,3] s) { s = Sigmoid(x) a = Mul(x, s) },
            else_branch = e () => (double[N,3] d, double[N,3] g)
                { d = Mul(x, h) g = Identity(b2) }>""",
        ("x", "h"),
        inputs="double[N,3] x, bool c, double[N,3] b2",
        outputs="double[N,3] y, double[N,3] z",
        paths=tuple({"c": np.array(c), "b2": weights(4, 3, seed=5)} for c in (True, False)),
    ),
    Case(
        "constants of such groups as variables",
        """last = Constant<value = int64[1] {-1}>() y = If (c) <
            then_branch = t () => (double[N,3] a)
                <double eps = {0.01}, double two = {2.0}, double[3] scale = {0.5, 2.0, 1.0}> {
                m = ReduceMean(x, last) e = Sub(x, m) q = Pow(e, two) v = ReduceMean(q, last)
                g = Add(v, eps) s = Sqrt(g) n = Div(e, s) k = Mul(n, scale) a = Add(k, b) },
            else_branch = e () => (double[N,3] d) { i = Sigmoid(x) d = Mul(x, i) }>""",
        ("eps", "scale"),
    ),
    Case(
        "one after the other",
        """h = If (c) <then_branch = t () => (double[N,3] a) { a = Sin(x) },
                    else_branch = e () => (double[N,3] d) { d = MatMul(x, w) }>
        y = If (p) <then_branch = t2 () => (double[N,3] a2) { a2 = Mul(h, x) },
                    else_branch = e2 () => (double[N,3] d2) { k = Relu(h) d2 = Mul(k, k) }>""",
        ("x", "w", "h"),
        tuple({"c": np.array(c), "p": np.array(p)} for c in (True, False) for p in (True, False)),
        "double[N,3] x, bool c, bool p",
    ),
    Case(
        "no samples",
        """y = If (c) <then_branch = t () => (double[N,3] a) { a = Exp(x) },
                    else_branch = e () => (double[N,3] d) { d = Mul(x, b) }>""",
        ("x", "b"),
        x=np.zeros((0, 3)),
    ),
]
every_case = pytest.mark.parametrize("case", CASES, ids=str)


# -- truth and products ------------------------------------------------------------------------


def variables(model: ModelProto, names: Sequence[str], point: Values) -> Values:
    """Where the variables are: as fed, or as the model has them."""
    inner = [name for name in names if name not in point]
    return {**{n: point[n] for n in names if n in point}, **Evaluator(model).run(point, inner)}


def directions(at: Values, seed: int) -> Values:
    return {name: weights(*value.shape, seed=seed) for name, value in at.items()}


def differences(run: Run, point: Values, u: Values, outputs: Sequence[str]) -> Values:
    return directional_derivative(run, point, u, outputs).value


def along(
    model: ModelProto, point: Values, at: Values, u: Values, outputs: Sequence[str]
) -> Values:
    """J u by differences; each variable is moved on top of what reaches it."""
    evaluator = Evaluator(model)

    def run(moved: Values) -> Values:
        return evaluator.run(point, outputs, added={n: moved[n] for n in at})

    return differences(run, {n: np.zeros_like(v) for n, v in at.items()}, u, outputs)


def run(rewritten: Rewritten, feeds: Values) -> Values:
    """In onnxruntime, in float64."""
    names = {value.name for value in rewritten.model.graph.inputs}
    return ort(checked(rewritten), {k: v for k, v in feeds.items() if k in names})


def named(names: Mapping[str, str], values: Values) -> Values:
    return {names[k]: v for k, v in values.items() if k in names}


def form(rewritten: Rewritten, kind: str, values: Values) -> Values:
    results = rewritten.names["results"]
    return {of: values[forms[kind]] for of, forms in results.items() if kind in forms}


def assert_all_close(got: Values, want: Values, tolerance: float, what: str) -> None:
    assert got, what
    for name, value in got.items():
        assert_close(value, want[name], tolerance, f"{what}: {name}")


def pairing(a: Values, b: Values) -> float:
    return float(sum(np.vdot(a[k], b[k]) for k in a))


def assert_adjoint(forwards: float, backwards: float, what: str) -> None:
    assert abs(forwards - backwards) <= 1e-10 * max(1.0, abs(forwards)), what


@every_case
def test_products(case: Case) -> None:
    """J u against differences, Jᵀ v against J u, and both are what they are in other layouts."""
    model = case.model
    forwards, backwards = jvp(model, case.wrt), vjp(model, case.wrt)
    cut = linearize(model, case.wrt)
    outputs = list(forwards.names["results"])
    for point in case.points():
        at = variables(model, case.wrt, point)
        u = directions(at, 1)
        seeds = named(forwards.names["seeds"], u)
        values = run(forwards, {**point, **seeds})
        original = ort(model, point)
        for name, value in original.items():
            np.testing.assert_array_equal(values[name], value)
        products = form(forwards, "jvp", values)
        assert_all_close(products, along(model, point, at, u, outputs), DIFFERENCES, "J u")
        ct = directions({y: products[y] for y in outputs}, 2)
        cts = named(backwards.names["cotangents"], ct)
        pulled = form(backwards, "vjp", run(backwards, {**point, **cts}))
        assert set(pulled) == set(case.wrt)
        assert_adjoint(pairing(ct, products), pairing(pulled, u), "adjoint")
        # linearised once
        residuals = {**point, **run(cut.primal, point)}
        again = form(cut.jvp, "jvp", run(cut.jvp, {**residuals, **seeds}))
        assert_all_close(again, products, 1e-12, "linearised, J u")
        again = form(cut.vjp, "vjp", run(cut.vjp, {**residuals, **cts}))
        assert_all_close(again, pulled, 1e-12, "linearised, Jᵀ v")


@every_case
@pytest.mark.parametrize("count", [1, 3, "K"])
def test_several_directions(case: Case, count: int | str) -> None:
    model = case.model
    single = jvp(model, case.wrt), vjp(model, case.wrt)
    several = jvp(model, case.wrt, directions=count), vjp(model, case.wrt, cotangents=count)
    kinds = (("seeds", "jvp"), ("cotangents", "vjp"))
    for point in case.points():
        for one, many, (given, kind) in zip(single, several, kinds, strict=True):
            shapes = {"x": variables(model, case.wrt, point), "y": ort(model, point)}
            like = shapes["x" if given == "seeds" else "y"]
            k = count if isinstance(count, int) else 2
            u = {n: weights(k, *like[n].shape, seed=3) for n in one.names[given]}
            together = form(many, kind, run(many, {**point, **named(many.names[given], u)}))
            for i in range(k):
                row = {n: v[i] for n, v in u.items()}
                alone = form(one, kind, run(one, {**point, **named(one.names[given], row)}))
                assert_all_close({n: v[i] for n, v in together.items()}, alone, 1e-12, kind)


@every_case
@pytest.mark.parametrize(
    "settings", [{"layout": "split"}, {"layout": "stacked"}, {"method": "substitute"}], ids=str
)
def test_frozen_networks(case: Case, settings: dict[str, str]) -> None:
    model, wrt = case.model, [n for n in case.wrt if n != "h"]
    forwards = jvp(model, wrt)
    frozen = clone(model, wrt, **settings)
    for point in case.points():
        u = directions(variables(model, wrt, point), 1)
        want = run(forwards, {**point, **named(forwards.names["seeds"], u)})
        got = run(frozen, {**point, **named(frozen.names["seeds"], u)})
        products = form(frozen, "jvp", got)
        assert_all_close(products, form(forwards, "jvp", want), 1e-9, "J u")
        if "method" not in settings:
            at_u, at_0 = form(frozen, "u", got), form(frozen, "0", got)
            moved = {y: at_u[y] - at_0[y] for y in products}
            assert_all_close(moved, products, 1e-9, "f(u) - f(0)")


@every_case
def test_second_order(case: Case) -> None:
    """Tangents and transposes of tangents and transposes, by differences of the first ones."""
    model = case.model
    wrt = [n for n in case.wrt if n != "h"]
    firsts = {"jvp": jvp(model, wrt), "vjp": vjp(model, wrt)}
    for kind, first in firsts.items():
        results = [forms[kind] for forms in first.names["results"].values()]
        given = first.names["seeds" if kind == "jvp" else "cotangents"]
        point_of = {"jvp": lambda p: variables(model, wrt, p), "vjp": lambda p: ort(model, p)}
        over = [*wrt, *given.values()]
        twice, back = jvp(first, over, results), vjp(first, over, results)
        proto = first.proto()
        for point in case.points():
            like = point_of[kind](point)
            fed = {**point, **{s: weights(*like[n].shape, seed=4) for n, s in given.items()}}
            at = variables(proto, over, fed)
            u = directions(at, 5)
            got = run(twice, {**fed, **named(twice.names["seeds"], u)})
            products = form(twice, "jvp", got)
            assert_all_close(products, along(proto, fed, at, u, results), DIFFERENCES, kind)
            ct = directions(products, 6)
            pulled = run(back, {**fed, **named(back.names["cotangents"], ct)})
            cotangents = form(back, "vjp", pulled)
            reached = {n: u[n] for n in cotangents}
            assert_adjoint(pairing(ct, products), pairing(cotangents, reached), f"vjp of {kind}")


@every_case
def test_scalars_and_jacobians(case: Case) -> None:
    model, wrt = case.model, [n for n in case.wrt if n != "h"]
    gradient = grad(model, wrt, output="y", loss="squared_norm")
    curvature = hvp(model, wrt, output="y", loss="squared_norm")
    gauss = ggn(model, wrt, ["y"])
    forwards, backwards = jvp(model, wrt, ["y"]), vjp(model, wrt, ["y"])
    for point in case.points():
        at = variables(model, wrt, point)
        u = directions(at, 7)
        y = ort(model, point)["y"]
        want = form(backwards, "vjp", run(backwards, {**point, "y_ct": y}))
        assert_all_close(form(gradient, "grad", run(gradient, point)), want, 1e-12, "grad")
        pushed = run(forwards, {**point, **named(forwards.names["seeds"], u)})["y_jvp"]
        want = form(backwards, "vjp", run(backwards, {**point, "y_ct": pushed}))
        got = run(gauss, {**point, **named(gauss.names["seeds"], u)})
        assert_all_close(form(gauss, "ggn", got), want, 1e-10, "ggn")
        names = {x: forms["grad"] for x, forms in gradient.names["results"].items()}
        moved = along(gradient.proto(), point, at, u, list(names.values()))
        got = form(
            curvature, "hvp", run(curvature, {**point, **named(curvature.names["seeds"], u)})
        )
        assert_all_close(got, {x: moved[n] for x, n in names.items()}, DIFFERENCES, "hvp")


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobians(mode: str) -> None:
    case = CASES[2]
    whole, forwards = jacobian(case.model, ["x", "v"], mode=mode), jvp(case.model, ["x", "v"])
    for point in case.points():
        u = directions(variables(case.model, ["x", "v"], point), 1)
        values = run(whole, point)
        got = sum(np.tensordot(values[f"y_jac_{n}"], v, v.ndim) for n, v in u.items())
        want = run(forwards, {**point, **named(forwards.names["seeds"], u)})["y_jvp"]
        assert_close(np.asarray(got), want, 1e-12, mode)


# -- what is promised of branches --------------------------------------------------------------


def test_what_is_undefined_in_the_other_branch_does_no_harm() -> None:
    """log x where x > 0: its slope at 0 is infinite, and 0 · ∞ is not a number."""
    model = parsed(
        """g (double[N] x) => (double y) {
            least = ReduceMin<keepdims = 0>(x) zero = Constant<value = double {0.0}>()
            p = Greater(least, zero)
            h = If (p) <then_branch = t () => (double[N] a) { a = Log(x) },
                        else_branch = e () => (double[N] d) { d = Mul(x, x) }>
            y = ReduceSum<keepdims = 0>(h) }"""
    )
    x = np.array([0.0, -1.0, 2.0])
    np.testing.assert_array_equal(run(grad(model), {"x": x})["x_grad"], 2 * x)
    got = run(hvp(model), {"x": x, "x_u": np.ones(3)})
    np.testing.assert_array_equal(got["x_hvp"], 2 * np.ones(3))


def test_only_the_branch_taken_is_run() -> None:
    """No operator outside of the bodies, and no Where that would choose between both."""
    model = CASES[0].model
    for rewritten in (jvp(model, ["w"]), vjp(model, ["w"])):
        kinds = [node.op_type for node in checked(rewritten).graph.node]
        assert set(kinds) <= {"If", "Sin", "Shape", "Constant"}
        assert "Where" not in {node.op_type for node in nodes_of(rewritten.proto())}


def test_an_output_that_no_branch_moves_has_no_derivative() -> None:
    model = parsed(
        """g (double[N] x, bool c) => (double[N] y, double[1] k) {
            y, k = If (c) <
                then_branch = t () => (double[N] a, double[1] ka)
                    { a = Exp(x) ka = Constant<value = double[1] {1.0}>() },
                else_branch = e () => (double[N] d, double[1] kd)
                    { d = Floor(x) kd = Constant<value = double[1] {2.0}>() }> }"""
    )
    result = jvp(model)
    assert list(result.names["results"]) == ["y"]
    assert "does not depend on the variables other than through" in result.report["excluded"]["k"]
    assert any("Floor" in cut for cut in result.report["cuts"])
    x = weights(3)
    for c, want in ((True, np.exp(x)), (False, np.zeros(3))):
        got = run(result, {"x": x, "x_u": np.ones(3), "c": np.array(c)})["y_jvp"]
        np.testing.assert_allclose(got, want, rtol=1e-15)


def test_the_direction_of_a_parameter_inside_can_be_baked_in() -> None:
    case = CASES[0]
    u = weights(3, seed=2)
    result = jvp(case.model, ["v"], given={"v": u})
    for point in case.points():
        want = jvp(case.model, ["v"])
        assert_close(
            run(result, point)["y_jvp"], run(want, {**point, "v_u": u})["y_jvp"], 1e-15, "given"
        )


# -- at load -----------------------------------------------------------------------------------


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_condition_leaves_the_branch(taken: bool) -> None:
    model = parsed(
        f"""g (double[N,3] x) => (double[N,3] y)
            <double[3] w = {{1.0, 2.0, 3.0}}, bool c = {{{int(taken)}}}> {{
            h = Exp(x)
            y = If (c) <
                then_branch = t () => (double[N,3] a)
                    <double[3] v = {{0.5, 2.0, 1.0}}> {{ m = Mul(h, v) a = Tanh(m) }},
                else_branch = e () => (double[N,3] d)
                    <double[3] v = {{1.5, 3.0, 2.0}}> {{ m = Mul(h, v) k = Mul(m, w)
                      d = If (c) <then_branch = tt () => (double[N,3] aa) {{ aa = Neg(k) }},
                                  else_branch = te () => (double[N,3] dd) {{ dd = Sin(k) }}>
                    }}> }}"""
    )
    result = jvp(model, ["x", "v"])
    assert "If" not in {node.op_type for node in nodes_of(checked(result))}
    x, u = weights(2, 3), weights(2, 3, seed=1)
    point = {"x": x}
    at = {"x": x, "v": np.array([0.5, 2.0, 1.0] if taken else [1.5, 3.0, 2.0])}
    directed = {"x": u, "v": weights(3, seed=2)}
    values = run(result, {"x": x, "x_u": u, "v_u": directed["v"]})
    np.testing.assert_array_equal(values["y"], ort(model, point)["y"])
    want = along(result.proto(), point, at, directed, ["y"])
    assert_close(values["y_jvp"], want["y"], DIFFERENCES, "J u")


SAME_NAME = """g (double[3] x, bool c) => (double[3] y) {
    y = If (c) <
        then_branch = t () => (double[3] a) <double[3] v = {0.5, 2.0, 1.0}> { a = Mul(x, v) },
        else_branch = e () => (double[3] d) <double[3] v = {1.5, 3.0, 2.0}> { d = Mul(x, v) }> }"""


def test_parameters_of_one_name_in_two_branches() -> None:
    model = parsed(SAME_NAME)
    with pytest.raises(UsageError, match=r"y/then_branch/v.*y/else_branch/v"):
        jvp(model, ["v"])
    result = vjp(model, ["params"])
    assert set(result.names["results"]) == {"y/then_branch/v", "y/else_branch/v"}
    x, ct = weights(3), weights(3, seed=1)
    for c in (True, False):
        values = run(result, {"x": x, "y_ct": ct, "c": np.array(c)})
        np.testing.assert_array_equal(values["y/then_branch/v_vjp"], c * x * ct)
        np.testing.assert_array_equal(values["y/else_branch/v_vjp"], (not c) * x * ct)
        np.testing.assert_array_equal(values["y"], ort(model, {"x": x, "c": np.array(c)})["y"])


def test_older_models_are_raised_with_their_branches() -> None:
    model = parsed(
        """g (double[N,1,3] x, bool c) => (double[N,3] y) {
            y = If (c) <
                then_branch = t () => (double[N,3] a) { s = Squeeze<axes = [1]>(x) a = Exp(s) },
                else_branch = e () => (double[N,3] d)
                    { d = ReduceSum<axes = [1], keepdims = 0>(x) }> }""",
        opset=11,
    )
    result = jvp(model)
    x, u = weights(2, 1, 3), weights(2, 1, 3, seed=1)
    for c in (True, False):
        got = run(result, {"x": x, "x_u": u, "c": np.array(c)})["y_jvp"]
        np.testing.assert_allclose(got, (np.exp(x) * u if c else u)[:, 0], rtol=1e-14)


# -- refusals ----------------------------------------------------------------------------------


def branch(body: str, declared: str = "") -> ModelProto:
    return parsed(
        f"""g (double[3] x, bool c) => (double[3] y) {{
            y = If (c) <then_branch = t () => (double[3] a) {declared} {{ {body} }},
                        else_branch = e () => (double[3] d) {{ d = Identity(x) }}> }}"""
    )


@pytest.mark.parametrize("product", [jvp, vjp, clone])
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "k = Constant<value = int64[2] {40, 40}>() s = ReduceSum<keepdims = 0>(x) "
            "p = Expand(s, k) i = Det(p) a = Mul(x, i)",
            "Det.*cofactors",
        ),
        ("r = RandomNormalLike(x) a = Mul(x, r)", "RandomNormalLike.*draws random numbers"),
        ("r = Bernoulli(x) a = Mul(x, r)", "Bernoulli.*draws random numbers"),
        (
            """one = Constant<value = int64 {2}>() go = Constant<value = bool {1}>()
            a = Loop(one, go, x) <body = b (int64 i, bool k, double[3] s) => (bool ko, double[3] so)
                { ko = Identity(k) n = Constant<value = int64[2] {40, 40}>()
                  t = ReduceSum<keepdims = 0>(s) p = Expand(t, n) d = Det(p) so = Mul(s, d) }>""",
            "Loop.*Det.*cofactors",
        ),
    ],
)
def test_what_is_refused_inside(product: Callable[..., Rewritten], body: str, reason: str) -> None:
    with pytest.raises(UnsupportedOpError, match=f"If.*in its branches: .*{reason}") as caught:
        product(branch(body), ["x"])
    assert [(name, kind) for name, kind, _ in caught.value.nodes] == [("y", "If")]


def test_a_loop_inside_that_reads_the_branch() -> None:
    """The branch runs once more beside itself, and the loop must not read the wrong one."""
    model = branch(
        """one = Constant<value = int64 {2}>() go = Constant<value = bool {1}>() f = Floor(x)
        n = Loop(one, go, f) <body = b (int64 i, bool k, double[3] s) => (bool ko, double[3] so)
            { ko = Identity(k) so = Add(s, f) }> a = Mul(n, x)""",
        "<double[3] n>",
    )
    x, u = np.array([1.5, -2.5, 3.5]), weights(3)
    got = run(jvp(model), {"x": x, "x_u": u, "c": np.array(True)})
    np.testing.assert_array_equal(got["y_jvp"], 3 * np.floor(x) * u)


def test_a_loop_inside_off_the_path() -> None:
    model = branch(
        """one = Constant<value = int64 {2}>() go = Constant<value = bool {1}>() f = Floor(x)
        n = Loop(one, go, f) <body = b (int64 i, bool k, double[3] s) => (bool ko, double[3] so)
            { ko = Identity(k) so = Add(s, s) }> a = Mul(n, x)""",
        "<double[3] n>",
    )
    x, u = np.array([1.5, -2.5, 3.5]), weights(3)
    got = run(jvp(model), {"x": x, "x_u": u, "c": np.array(True)})
    np.testing.assert_array_equal(got["y_jvp"], 4 * np.floor(x) * u)


def test_a_loop_inside_on_the_path() -> None:
    model = branch(
        """one = Constant<value = int64 {2}>() go = Constant<value = bool {1}>()
        a = Loop(one, go, x) <body = b (int64 i, bool k, double[3] s) => (bool ko, double[3] so)
            { ko = Identity(k) t = Sin(s) so = Mul(t, x) }>"""
    )
    x, u = weights(3), weights(3, seed=1)
    once = np.sin(x) * x
    slope = np.sin(x) + np.cos(x) * x
    slope = np.sin(once) + np.cos(once) * x * slope
    got = run(jvp(model), {"x": x, "x_u": u, "c": np.array(True)})
    np.testing.assert_allclose(got["y_jvp"], slope * u, rtol=1e-12)
    back = run(vjp(model), {"x": x, "y_ct": u, "c": np.array(True)})
    np.testing.assert_allclose(back["x_vjp"], slope * u, rtol=1e-12)


def test_what_cannot_run_on_a_dynamic_number_of_directions_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(LEADING, "Trilu")
    model = parsed(
        """g (double[3,3] x, bool c) => (double[3,3] y) {
            y = If (c) <then_branch = t () => (double[3,3] a) { a = Trilu(x) },
                        else_branch = e () => (double[3,3] d) { d = Exp(x) }> }"""
    )
    with pytest.raises(UnsupportedOpError, match=r"If.*one direction at a time"):
        jvp(model, directions="K")
    x, u = weights(3, 3), weights(2, 3, 3, seed=1)
    result = jvp(model, directions=2)
    for branch, want in ((True, np.triu(u)), (False, np.exp(x) * u)):
        got = run(result, {"x": x, "x_u": u, "c": np.array(branch)})["y_jvp"]
        np.testing.assert_allclose(got, want, rtol=1e-14)


def test_a_rank_that_depends_on_the_condition_is_refused() -> None:
    model = parsed(
        """g (double[3,1] x, bool c) => (double y) {
            z = If (c) <then_branch = t () => (double[3] a) { i = Constant<value = int64[1] {1}>()
                            a = Squeeze(x, i) },
                        else_branch = e () => (double[3,1] d) { d = Exp(x) }>
            y = ReduceSum<keepdims = 0>(z) }"""
    )
    with pytest.raises(UnsupportedOpError, match=r"If.*rank"):
        jvp(model)


def test_what_is_computed_in_a_branch_is_no_variable() -> None:
    with pytest.raises(UsageError, match="'k' is inside a body of If"):
        jvp(CASES[0].model, ["k"])


def test_an_outer_value_as_it_is_is_no_valid_output_of_a_branch() -> None:
    model = branch("a = Exp(x)")
    (node,) = model.graph.node
    otherwise = next(a.g for a in node.attribute if a.name == "else_branch")
    del otherwise.node[:]
    otherwise.output[0].name = "x"
    with pytest.raises(InvalidModelError, match="not a valid graph"):
        jvp(model)
