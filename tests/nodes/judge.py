"""A node test's verdict: its derivatives against differences of the operator itself."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from engines import FAILURES, EngineError, Values, precise_engines, runtime, wide
from standard import Array, NodeCase
from truth import Truth, alike, settle, size_of, truth_of

from onnxjvp import Rewritten, clone, jvp, vjp
from onnxjvp.errors import OnnxJvpError

Status = Literal["passed", "passed in part", "refused", "flat", "singular", "no oracle", "wrong"]

#: relative tolerances of the runtime on the file as it is, by the dtype that it computes in
RUNTIME = {"float64": 1e-9, "float32": 2e-3, "float16": 6e-2, "bfloat16": 1.5e-1}
#: one unit in the last place, relative
UNITS = {"float64": 2.2e-16, "float32": 1.2e-7, "float16": 9.8e-4, "bfloat16": 7.8e-3}


@dataclass
class Verdict:
    """How a case ended. `notes` say what a reader of the table must know."""

    name: str
    operator: str
    status: Status
    reason: str = ""
    oracle: str = ""
    #: by how much the shipped point was moved, relative to each number
    moved: float = 0.0
    notes: list[str] = field(default_factory=list)


#: cases at points that cannot be moved, where an operator's slope is infinite
SINGULAR = {
    "test_reduce_l2_empty_set_expanded": "Sqrt at 0, of an empty sum: infinity times no tangent",
    "test_reduce_log_sum_exp_empty_set_expanded": "Log at 0, of an empty sum, in a stacked clone",
}


class WrongError(Exception):
    """A derivative is not what differences say, or an identity does not hold."""


def judge(case: NodeCase) -> Verdict:
    """Rewrite a case in every form and hold it against the truth.

    onnx feeds axes and shapes at run time, which no exporter does: where that is refused, the case
    is judged once more with its integers as constants, and the verdict says so.

    Raises: whatever the library raises that is not its own error; that is a defect.
    """
    verdict = _judge(case)
    constant = case.settled()
    if verdict.status != "refused" or constant is None:
        return verdict
    again = _judge(constant)
    if again.status in ("passed", "wrong", "passed in part"):
        again.notes.insert(0, f"with integers as constants; else {verdict.reason}")
        return again
    return verdict


def _judge(case: NodeCase) -> Verdict:
    verdict = Verdict(case.name, case.operator, "no oracle")
    truth, reason = truth_of(case)
    if truth is None:
        verdict.reason = reason
        for form in (jvp, vjp, clone):  # they must not crash
            try:
                form(case.model)
            except OnnxJvpError as error:
                verdict.notes.append(f"refused: {_first_line(error)}")
                break
        return verdict
    verdict.oracle, verdict.moved = truth.engine.name, truth.moved
    moving = [y for y in truth.outputs if not truth.flat(y)]
    unsteady = [x for x in case.variables if x not in truth.direction]
    if unsteady:
        verdict.notes.append(f"no differences in {', '.join(unsteady)}: {reason}")
    try:
        try:
            _check(case, truth, list(truth.direction) if unsteady else None)
        except OnnxJvpError as error:
            if not moving:
                verdict.status, verdict.reason = "flat", reason_of(error)
                return verdict
            verdict.notes.append(f"refused in all variables: {reason_of(error)}")
            _check(case, *_where_it_moves(case, truth))
    except OnnxJvpError as error:
        verdict.status, verdict.reason = "refused", reason_of(error)
        verdict.notes = [note for note in verdict.notes if not note.startswith("refused")]
        _check_parts(case, truth, verdict)
    except WrongError as error:
        why = SINGULAR.get(case.name)
        verdict.status, verdict.reason = ("singular", why) if why else ("wrong", str(error))
    else:
        verdict.status = "passed" if moving else "flat"
    return verdict


def _where_it_moves(case: NodeCase, truth: Truth) -> tuple[Truth, list[str]]:
    """The truth in the variables that move some output, each tried alone."""
    outputs = truth.outputs
    alone = {x: settle(case, truth.engine, truth.accuracy, [x], outputs) for x in truth.direction}
    wrt = [x for x, one in alone.items() if one and not all(map(one.flat, outputs))]
    found = settle(case, truth.engine, truth.accuracy, wrt, outputs) if wrt else None
    return (found, wrt) if found else (truth, list(truth.direction))


def reason_of(error: OnnxJvpError) -> str:
    """Operators, nodes and causes; the message, where an error has none."""
    nodes = getattr(error, "nodes", ())
    if nodes:
        return "; ".join(
            dict.fromkeys(f"{kind} (node {name!r}): {why}" for name, kind, why in nodes)
        )
    return str(error).replace("\n", " ")


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


# -- what the library says ---------------------------------------------------------------------


def _check(
    case: NodeCase,
    truth: Truth,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None = None,
) -> None:
    """jvp, vjp and both layouts of the clone; raises WrongError or the library's own error."""
    x, u = truth.point, truth.direction
    pushed = jvp(case.model, wrt, outputs)
    values = _run(pushed, truth, {**x, **_named(pushed.names["seeds"], u)})
    tangents = _results(pushed, values, "jvp")
    for y in truth.outputs:
        _check_tangent(truth, y, tangents.get(y), pushed, _units(case))
    _check_vjp(case, truth, wrt, outputs, u, tangents)
    _check_lanes(case, truth, wrt, outputs, u, tangents)
    _check_runtime(case, truth, pushed, u, values)


def _check_tangent(
    truth: Truth, y: str, tangent: Array | None, pushed: Rewritten, units: float
) -> None:
    want, settled = truth.value(y), truth.settled[y]
    if tangent is None:
        if truth.flat(y):
            return
        why = pushed.report["excluded"].get(y, "no reason")
        raise WrongError(f"{y} is left out ({why}), and its differences are not zero")
    if truth.flat(y):
        _compare(f"J u of {y}, which is flat", tangent, want, 0.0, settled)
    else:
        bound = float(np.nanmedian(truth.derivative.error[y][settled]))
        scale = size_of(want[settled])
        # constants that a rule makes are rounded to the file's dtype, as exponents and scales
        allowed = max(truth.accuracy.differences, 4 * units) * scale + 4 * bound
        _compare(f"J u of {y}", tangent, want, allowed, settled)


def _check_vjp(
    case: NodeCase,
    truth: Truth,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    u: Mapping[str, Array],
    tangents: Mapping[str, Array],
) -> None:
    """⟨v, J u⟩ = ⟨Jᵀ v, u⟩."""
    pulled = vjp(case.model, wrt, outputs)
    rng = np.random.default_rng(zlib.crc32(case.name.encode()))
    cts = {
        y: np.asarray(rng.standard_normal(tangents[y].shape)) for y in pulled.names["cotangents"]
    }
    if set(cts) != set(tangents):
        raise WrongError(f"jvp has {sorted(tangents)}, vjp {sorted(cts)}")
    cts = {y: np.where(np.isfinite(tangents[y]), v, 0.0) for y, v in cts.items()}
    values = _run(pulled, truth, {**truth.point, **_named(pulled.names["cotangents"], cts)})
    found = _results(pulled, values, "vjp")
    for x, ct in found.items():
        if ct.shape != np.shape(truth.point[x]):
            raise WrongError(f"the cotangent of {x} is {ct.shape}")
    here = [_finite(cts[y] * tangents[y]) for y in cts]
    there = [_finite(ct * u[x]) for x, ct in found.items()]
    scale = sum(np.abs(part).sum() for part in (*here, *there))
    gap = abs(sum(part.sum() for part in here) - sum(part.sum() for part in there))
    if not gap <= truth.accuracy.sums * scale:
        raise WrongError(f"<v, J u> and <vjp, u> are {gap:.2e} apart, of {scale:.2e}")


def _check_lanes(
    case: NodeCase,
    truth: Truth,
    wrt: Sequence[str] | None,
    outputs: Sequence[str] | None,
    u: Mapping[str, Array],
    tangents: Mapping[str, Array],
) -> None:
    """f_x(u) − f_x(0) = J u, and f_x(x) = f(x), in both layouts."""
    at_x = {name: truth.point[name] for name in u}
    for layout in ("split", "stacked"):
        frozen = clone(case.model, wrt, outputs, layout=layout)
        seeds = frozen.names["seeds"]
        values = _run(frozen, truth, {**truth.point, **_named(seeds, u)})
        again = _run(frozen, truth, {**truth.point, **_named(seeds, at_x)})
        lanes = {lane: _results(frozen, values, lane) for lane in ("u", "0", "jvp")}
        for y, same in _results(frozen, again, "u").items():
            primal = truth.derivative.primal[y]
            whole = size_of(primal) + size_of(tangents[y]) + size_of(lanes["0"][y])
            usable = np.isfinite(primal) & np.isfinite(tangents[y]) & np.isfinite(lanes["0"][y])
            what = f"{layout} clone, {y}"
            _compare(f"{what}: f_x(x)", same, primal, truth.accuracy.same * whole, usable)
            _compare(
                f"{what}: J u", lanes["jvp"][y], tangents[y], truth.accuracy.sums * whole, usable
            )
            with np.errstate(invalid="ignore"):
                apart = lanes["u"][y] - lanes["0"][y]
            _compare(
                f"{what}: f_x(u) − f_x(0)", apart, tangents[y], truth.accuracy.sums * whole, usable
            )


def _check_runtime(
    case: NodeCase, truth: Truth, pushed: Rewritten, u: Mapping[str, Array], precise: Values
) -> None:
    """The file as it is in onnxruntime, where that runs the original as onnx does."""
    try:
        original = runtime(case.model).run(truth.point)
    except (EngineError, *FAILURES):
        return
    if any(
        not alike(wide(original)[y], truth.derivative.primal[y], 1e-3, _tolerance(case))
        for y in truth.outputs
    ):
        return
    seeds = _named(pushed.names["seeds"], u)
    try:
        values = runtime(pushed.proto()).run({**truth.point, **seeds})
    except (EngineError, *FAILURES) as error:
        raise WrongError(f"onnxruntime runs the original, and not its jvp: {error}") from error
    for y, tangent in _results(pushed, values, "jvp").items():
        same = np.asarray(original[y]).tobytes() == np.asarray(values[y]).tobytes()
        if not same:
            raise WrongError(f"f(x) of {y} has changed in onnxruntime")
        want = _results(pushed, precise, "jvp")[y]
        settled = truth.settled[y] & np.isfinite(want)
        # a slope that is formed of y, such as 1 − y², is off by units of y
        slack = (
            16
            * _units(case)
            * (1 + size_of(truth.derivative.primal[y]))
            * max(map(size_of, u.values()))
        )
        _compare(
            f"J u of {y} in onnxruntime",
            np.asarray(tangent, np.float64),
            want,
            _tolerance(case) * size_of(want[settled]) + slack,
            settled,
        )


def _dtypes(case: NodeCase) -> set[str]:
    """Float dtypes that the case reads or makes."""
    arrays = (*case.inputs.values(), *case.outputs.values())
    return {v.dtype.name for v in arrays if isinstance(v, np.ndarray)} & RUNTIME.keys()


def _tolerance(case: NodeCase) -> float:
    return max((RUNTIME[kind] for kind in _dtypes(case)), default=0.0)


def _units(case: NodeCase) -> float:
    """One unit in the last place of the narrowest float."""
    return max((UNITS[kind] for kind in _dtypes(case)), default=0.0)


def _check_parts(case: NodeCase, truth: Truth, verdict: Verdict) -> None:
    """What was refused as a whole, one variable and one output at a time."""
    passed = []
    for x in truth.direction:
        for y in truth.outputs:
            one = settle(case, truth.engine, truth.accuracy, [x], [y])
            if one is None:
                continue
            try:
                _check(case, one, [x], [y])
            except OnnxJvpError:
                continue
            except WrongError as error:
                verdict.status, verdict.reason = "wrong", f"{y} in {x} alone: {error}"
                return
            passed.append(f"{y} in {x}")
    if passed:
        verdict.status = "passed in part"
        verdict.notes.append("passed: " + ", ".join(passed))


# -- helpers -----------------------------------------------------------------------------------


def _run(result: Rewritten, truth: Truth, feeds: Values) -> Values:
    """In float64, by the truth's engine, or by another one that makes the same f(x)."""
    model, reason = result.proto(), "no engine loads it"
    for engine in precise_engines(model, truth.engine.name):
        try:
            values = engine.run(feeds)
        except EngineError as error:
            reason = str(error)[:200]
            continue
        primal, same = truth.derivative.primal, truth.accuracy.same
        changed = [y for y in truth.outputs if not alike(values[y], primal[y], same, same)]
        if not changed:
            return values
        reason = f"f(x) of {changed[0]} is another ({engine.name})"
    raise WrongError(f"{result.report['emit']} cannot be run in float64: {reason}")


def _named(names: Mapping[str, str], arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {names[name]: array for name, array in arrays.items() if name in names}


def _results(result: Rewritten, values: Values, form: str) -> dict[str, Array]:
    named = result.names["results"].items()
    return {of: np.asarray(values[names[form]]) for of, names in named if form in names}


def _compare(what: str, got: Array, want: Array, allowed: float, usable: Array) -> None:
    if got.shape != want.shape:
        raise WrongError(f"{what}: shape {got.shape}, not {want.shape}")
    with np.errstate(invalid="ignore"):
        error = np.where(usable, np.abs(got - want), 0.0)
    if not np.all(error <= allowed):  # NaN included
        at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        raise WrongError(
            f"{what}: {got[at]:.6g} for {want[at]:.6g} at {[int(i) for i in at]} "
            f"(allowed: {allowed:.1e})"
        )


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, 0.0)
