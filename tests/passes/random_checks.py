"""What must hold of every random model: f(x) unchanged, differences, the adjoint, the clone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from helpers import RUNTIME_FAILURE, Array, Run, Values, assert_close, checked, double, ort
from onnx import ModelProto
from random_models import Draw, evaluator, without_rounding

from onnxjvp import Rewritten, UnsupportedOpError, clone, jvp, vjp
from onnxjvp.oracle import directional_derivative

LAYOUTS = ("split", "stacked")
#: of onnxruntime's standard operators, the newest opset that it loads
_LOADS = 26


@dataclass(frozen=True)
class Drawn:
    """A random model, a direction in its inputs, and the truth."""

    draw: Draw
    model: ModelProto
    u: Values
    primal: Values
    tangents: Values

    def run(self, result: Rewritten, feeds: Values) -> Values:
        return _engine(self.draw, checked(result))({**self.draw.point, **feeds})

    def seeds(self, result: Rewritten, u: Values) -> Values:
        return {result.names["seeds"][name]: array for name, array in u.items()}


def check(draw: Draw) -> str:
    """Holds a model to its properties; "checked", or why there is nothing to check."""
    if not draw.nodes:
        return "no operator fitted"
    if draw.smooth:
        return _check_rounded(draw)
    model = draw.model("float64", symbolic=draw.rng.random() < 0.5)
    u = {name: draw.numbers.standard_normal(x.shape) for name, x in draw.inputs.items()}
    run = _engine(draw, model)
    everything = [output.name for output in model.graph.output]

    def wanted() -> tuple[Values, Values, Values]:
        found = directional_derivative(lambda x: run({**draw.fed, **x}), draw.inputs, u, everything)
        return found.primal, found.value, found.error

    try:
        pushed = jvp(model)
    except UnsupportedOpError as error:
        if error.nodes:
            return refused(error)
        _, slopes, errors = wanted()
        for y, slope in slopes.items():
            _near(np.zeros_like(slope), slope, errors[y], f"no derivative, J u of {y}")
        return "no derivative"
    primal, slopes, errors = wanted()
    values = _engine(draw, checked(pushed))({**draw.point, **_seeds(pushed, u)})
    tangents = {y: values[named["jvp"]] for y, named in pushed.names["results"].items()}
    for y, slope in slopes.items():
        assert_close(values[y], primal[y], 1e-9, f"f(x) of {y}", 1 + _size(primal[y]))
        # an output that is said to be flat has to be
        _near(tangents.get(y, np.zeros_like(slope)), slope, errors[y], f"J u of {y}")
    drawn = Drawn(draw, model, u, primal, tangents)
    more = draw.rng.choice([_check_directions, _check_cotangents, _check_one_input])
    try:
        _check_adjoint(drawn)
        for layout in LAYOUTS:
            _check_clone(drawn, layout)
        more(drawn)
    except UnsupportedOpError as error:
        return f"beyond J u, {refused(error)}"
    _check_single(drawn)
    return "checked"


def _engine(draw: Draw, model: ModelProto) -> Run:
    """onnxruntime where it has kernels for double, else NumPy."""
    foreign = any(node.domain for node in draw.nodes)
    if draw.evaluated or foreign or draw.opset > _LOADS:
        return evaluator(model)
    return double(model, otherwise=evaluator)


def _seeds(result: Rewritten, u: Values) -> Values:
    return {result.names["seeds"][name]: array for name, array in u.items()}


def _near(got: Array, want: Array, error: Array, what: str, tolerance: float = 1e-5) -> None:
    """Where differences are sure of themselves."""
    scale = _size(want)
    off = (error < 1e-4 * (scale + 1e-6)) & (np.abs(got - want) > error)
    assert_close(np.where(off, got, want), want, tolerance, what, scale + 1e-3)


def _check_adjoint(drawn: Drawn) -> None:
    pulled = vjp(drawn.model)
    rng = np.random.default_rng(1)
    cts = {y: rng.standard_normal(t.shape) for y, t in drawn.tangents.items()}
    named = {pulled.names["cotangents"][y]: ct for y, ct in cts.items()}
    values = drawn.run(pulled, named)
    found = {x: values[names["vjp"]] for x, names in pulled.names["results"].items()}
    here = [cts[y] * t for y, t in drawn.tangents.items()]
    there = [ct * drawn.u[x] for x, ct in found.items()]
    for x, ct in found.items():
        assert ct.shape == drawn.draw.inputs[x].shape, f"the cotangent of {x} is {ct.shape}"
    scale = sum(np.abs(part).sum() for part in (*here, *there)) + 1e-3
    gap = abs(sum(part.sum() for part in here) - sum(part.sum() for part in there))
    assert gap <= 1e-9 * scale, f"<v, J u> and <vjp, u> are {gap} apart, of {scale}"


def _check_clone(drawn: Drawn, layout: str) -> None:
    frozen = clone(drawn.model, layout=layout)
    run = _engine(drawn.draw, checked(frozen))
    at_u = run({**drawn.draw.point, **_seeds(frozen, drawn.u)})
    at_x = run({**drawn.draw.point, **_seeds(frozen, drawn.draw.inputs)})
    for y, names in frozen.names["results"].items():
        primal, tangent = drawn.primal[y], drawn.tangents[y]
        size = 1 + _size(primal) + _size(tangent) + _size(at_u[names["0"]])
        what = f"{layout}: {y}"
        assert_close(at_u[y], primal, 1e-9, what, size)
        assert_close(at_x[names["u"]], primal, 1e-9, f"f_x(x), {what}", size)
        assert_close(at_u[names["jvp"]], tangent, 1e-9, f"J u, {what}", size)
        apart = at_u[names["u"]] - at_u[names["0"]]
        assert_close(apart, tangent, 1e-9, f"f_x(u) − f_x(0), {what}", size)


def _check_directions(drawn: Drawn) -> None:
    """Two directions at once: u, and one that is left to the number of directions."""
    pushed = jvp(drawn.model, directions=2)
    two = {name: np.stack([u, -2 * u]) for name, u in drawn.u.items()}
    values = drawn.run(pushed, _seeds(pushed, two))
    for y, tangent in drawn.tangents.items():
        found = values[pushed.names["results"][y]["jvp"]]
        both = np.stack([tangent, -2 * tangent])
        assert_close(found, both, 1e-9, f"J U of {y}", 1 + _size(both))


def _check_cotangents(drawn: Drawn) -> None:
    """Two cotangents at once are what each gives alone."""
    one, two = vjp(drawn.model), vjp(drawn.model, cotangents=2)
    rng = np.random.default_rng(2)
    cts = {y: rng.standard_normal((2, *t.shape)) for y, t in drawn.tangents.items()}
    alone = [
        drawn.run(one, {one.names["cotangents"][y]: ct[k] for y, ct in cts.items()})
        for k in range(2)
    ]
    both = drawn.run(two, {two.names["cotangents"][y]: ct for y, ct in cts.items()})
    for x, names in two.names["results"].items():
        want = np.stack([each[one.names["results"][x]["vjp"]] for each in alone])
        assert_close(both[names["vjp"]], want, 1e-9, f"Vᵀ J of {x}", 1 + _size(want))


def _check_one_input(drawn: Drawn) -> None:
    """The others dead: their directions are zero."""
    x = drawn.draw.rng.choice(sorted(drawn.u))
    zero = {name: np.zeros_like(u) if name != x else u for name, u in drawn.u.items()}
    whole = jvp(drawn.model)
    try:
        alone = jvp(drawn.model, [x])
    except UnsupportedOpError:
        return
    want, got = drawn.run(whole, _seeds(whole, zero)), drawn.run(alone, _seeds(alone, {x: zero[x]}))
    for y, names in whole.names["results"].items():
        tangent = want[names["jvp"]]
        found = alone.names["results"].get(y)
        if found is None:
            assert not np.any(tangent), f"{y} is said not to depend on {x}"
        else:
            assert_close(got[found["jvp"]], tangent, 1e-9, f"J u of {y}", 1 + _size(tangent))


# -- quantised ---------------------------------------------------------------------------------


def _check_rounded(draw: Draw) -> str:
    """The straight-through estimator against differences of the model without rounding."""
    smooth = without_rounding(draw)
    model = draw.model("float32", symbolic=False)
    u = {name: draw.numbers.standard_normal(x.shape) for name, x in draw.inputs.items()}
    run = _engine(draw, smooth)
    outputs = [output.name for output in smooth.graph.output]
    wanted = directional_derivative(lambda x: run({**draw.fed, **x}), draw.inputs, u, outputs)
    try:
        pushed, pulled = (form(model, quantized="straight-through") for form in (jvp, vjp))
    except UnsupportedOpError as error:
        return refused(error)
    values = evaluator(checked(pushed))({**draw.point, **_seeds(pushed, u)})
    tangents = {y: values[named["jvp"]] for y, named in pushed.names["results"].items()}
    for y, slope in wanted.value.items():
        _near(tangents.get(y, np.zeros_like(slope)), slope, wanted.error[y], f"J u of {y}", 1e-4)
    rng = np.random.default_rng(1)
    cts = {y: rng.standard_normal(t.shape) for y, t in tangents.items()}
    named = {pulled.names["cotangents"][y]: ct for y, ct in cts.items()}
    back = evaluator(checked(pulled))({**draw.point, **named})
    found = {x: back[names["vjp"]] for x, names in pulled.names["results"].items()}
    here = [cts[y] * t for y, t in tangents.items()]
    there = [ct * u[x] for x, ct in found.items()]
    scale = sum(np.abs(part).sum() for part in (*here, *there)) + 1e-3
    gap = abs(sum(part.sum() for part in here) - sum(part.sum() for part in there))
    assert gap <= 1e-5 * scale, f"rounded: <v, J u> and <vjp, u> are {gap} apart, of {scale}"
    return "checked"


def refused(error: UnsupportedOpError) -> str:
    """What there is nothing to check for."""
    if not error.nodes:
        return "no derivative"
    broken = [f"{op}: {why}" for _, op, why in error.nodes if "has a defect" in why]
    assert not broken, broken  # these models are valid, so the rule is not
    return "refused: " + "; ".join(sorted({f"{op}: {why}" for _, op, why in error.nodes}))


# -- in float32 --------------------------------------------------------------------------------


def _check_single(drawn: Drawn) -> None:
    """In float32 onnxruntime computes the same f(x) from the rewritten file, bit for bit."""
    if drawn.draw.no_runtime:
        return
    model = drawn.draw.model("float32", symbolic=False)
    x = _narrow(drawn.draw.point)
    try:
        before = ort(model, x)
    except RUNTIME_FAILURE:
        return
    pushed = jvp(model)
    after = ort(checked(pushed), {**x, **_seeds(pushed, _narrow(drawn.u))})
    for y, value in before.items():
        assert value.tobytes() == after[y].tobytes(), f"f(x) of {y} has changed in float32"
    for y, names in pushed.names["results"].items():
        assert after[names["jvp"]].shape == drawn.tangents[y].shape, f"J u of {y} in float32"


def _narrow(values: Values) -> Values:
    return {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in values.items()}


def _size(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
