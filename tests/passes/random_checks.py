"""What must hold of every random model: f(x) unchanged, differences, the adjoint, the clone."""

from __future__ import annotations

import numpy as np
from helpers import RUNTIME_FAILURE, Array, Values, assert_close, checked, double, ort
from onnx import ModelProto
from random_models import Draw, random_model
from random_steps import MAKERS

from onnxjvp import Rewritten, UnsupportedOpError, clone, jvp, vjp
from onnxjvp.oracle import directional_derivative


def check_seed(seed: int) -> str:
    """Draw a model and hold it to its properties; "checked", or why there is nothing to check."""
    drawn = random_model(seed, MAKERS)
    if not drawn.nodes:
        return "no operator fitted"
    model = drawn.model("float64", symbolic=drawn.rng.random() < 0.4)
    u = {name: drawn.numbers.standard_normal(x.shape) for name, x in drawn.inputs.items()}
    try:
        pushed = jvp(model)
    except UnsupportedOpError as error:
        reasons = [why for _, _, why in error.nodes]
        return "refused: " + "; ".join(reasons) if reasons else "no derivative"
    outputs = list(pushed.names["results"])
    run = double(model)
    wanted = directional_derivative(run, drawn.inputs, u, outputs)
    values = double(checked(pushed))({**drawn.inputs, **_seeds(pushed, u)})
    tangents = {y: values[named["jvp"]] for y, named in pushed.names["results"].items()}
    for y, want in wanted.value.items():
        assert_close(values[y], wanted.primal[y], 1e-9, f"f(x) of {y}")
        _near(tangents[y], want, wanted.error[y], f"J u of {y}")
    for y in set(wanted.primal) - set(outputs):
        raise AssertionError(f"{y} is left out: {pushed.report['excluded'].get(y)}")
    _check_adjoint(model, drawn, u, tangents)
    for layout in ("split", "stacked"):
        _check_clone(model, drawn, u, wanted.primal, tangents, layout)
    _check_single(drawn, u, tangents)
    return "checked"


def _seeds(result: Rewritten, u: Values) -> Values:
    return {result.names["seeds"][name]: array for name, array in u.items()}


def _near(got: Array, want: Array, error: Array, what: str) -> None:
    """Where differences are sure of themselves."""
    scale = _size(want)
    settled = error < 1e-4 * (scale + 1e-6)
    assert_close(np.where(settled, got, want), want, 1e-5, what, scale + 1e-3)


def _check_adjoint(model: ModelProto, drawn: Draw, u: Values, tangents: Values) -> None:
    pulled = vjp(model)
    rng = np.random.default_rng(1)
    cts = {y: rng.standard_normal(t.shape) for y, t in tangents.items()}
    named = {pulled.names["cotangents"][y]: ct for y, ct in cts.items()}
    values = double(checked(pulled))({**drawn.inputs, **named})
    found = {x: values[names["vjp"]] for x, names in pulled.names["results"].items()}
    here = [cts[y] * t for y, t in tangents.items()]
    there = [ct * u[x] for x, ct in found.items()]
    for x, ct in found.items():
        assert ct.shape == drawn.inputs[x].shape, f"the cotangent of {x} is {ct.shape}"
    scale = sum(np.abs(part).sum() for part in (*here, *there)) + 1e-30
    gap = abs(sum(part.sum() for part in here) - sum(part.sum() for part in there))
    assert gap <= 1e-9 * scale, f"<v, J u> and <vjp, u> are {gap} apart, of {scale}"


def _check_clone(
    model: ModelProto, drawn: Draw, u: Values, primal: Values, tangents: Values, layout: str
) -> None:
    frozen = clone(model, layout=layout)
    run = double(checked(frozen))
    at_u = run({**drawn.inputs, **_seeds(frozen, u)})
    at_x = run({**drawn.inputs, **_seeds(frozen, drawn.inputs)})
    for y, names in frozen.names["results"].items():
        size = 1 + _size(primal[y]) + _size(tangents[y]) + _size(at_u[names["0"]])
        what = f"{layout}: {y}"
        assert_close(at_u[y], primal[y], 1e-9, what, size)
        assert_close(at_x[names["u"]], primal[y], 1e-9, f"f_x(x), {what}", size)
        assert_close(at_u[names["jvp"]], tangents[y], 1e-9, f"J u, {what}", size)
        apart = at_u[names["u"]] - at_u[names["0"]]
        assert_close(apart, tangents[y], 1e-9, f"f_x(u) − f_x(0), {what}", size)


def _check_single(drawn: Draw, u: Values, tangents: Values) -> None:
    """In float32 onnxruntime computes the same f(x) from the rewritten file, bit for bit."""
    model = drawn.model("float32", symbolic=False)
    x = {name: value.astype(np.float32) for name, value in drawn.inputs.items()}
    try:
        before = ort(model, x)
    except RUNTIME_FAILURE:
        return
    pushed = jvp(model)
    narrow = {name: value.astype(np.float32) for name, value in u.items()}
    after = ort(checked(pushed), {**x, **_seeds(pushed, narrow)})
    for y, value in before.items():
        assert value.tobytes() == after[y].tobytes(), f"f(x) of {y} has changed in float32"
    for y, names in pushed.names["results"].items():
        assert after[names["jvp"]].shape == tangents[y].shape, f"J u of {y} in float32"


def _size(values: Array) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
