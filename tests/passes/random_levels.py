"""Random models in float32 at every level of onnxruntime's optimisations, against float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
from helpers import RUNTIME_FAILURE, Array, Values, checked
from onnx import ModelProto
from random_checks import refused
from random_models import Draw, evaluator

from onnxjvp import Rewritten, UnsupportedOpError, clone, jvp, vjp

_ENABLE = onnxruntime.GraphOptimizationLevel
LEVELS = {
    "none": _ENABLE.ORT_DISABLE_ALL,
    "basic": _ENABLE.ORT_ENABLE_BASIC,
    "extended": _ENABLE.ORT_ENABLE_EXTENDED,
    "layout": _ENABLE.ORT_ENABLE_LAYOUT,
    "all": _ENABLE.ORT_ENABLE_ALL,
}
_FORMS: dict[str, Callable[..., Rewritten]] = {
    "jvp": jvp,
    "vjp": vjp,
    **{layout: partial(clone, layout=layout) for layout in ("split", "stacked")},
}
#: what a level may add to the error that there is without it: relative, and as a multiple
_ADDED, _TIMES = 1e-4, 20.0
#: an output that moves further, relatively, where inputs are rounded otherwise stands at a kink
_KINK = 1e-2


class RuntimeLevelError(AssertionError):
    """A level changes the original model, or onnxruntime does not load it there."""


def check_levels(draw: Draw) -> str:
    """A form of a random model, portable and for a CPU, at every level; gives what `check` does."""
    if not draw.nodes:
        return "no operator fitted"
    if draw.smooth:
        return "quantised"
    model = draw.model("float32", symbolic=draw.rng.random() < 0.5)
    name = draw.rng.choice(sorted(_FORMS))
    form = _FORMS[name]
    try:
        result = form(model)
    except UnsupportedOpError as error:
        return refused(error)
    if draw.no_runtime:
        return "no kernel on a CPU"
    x = _single(draw)
    try:
        primal = _at(model, x, "none", shown=True)
    except RUNTIME_FAILURE:
        return "onnxruntime does not run the original"
    _check_original(model, x, primal)
    named = {**result.names.get("seeds", {}), **result.names.get("cotangents", {})}
    feeds = x | {
        seeded: draw.numbers.standard_normal({**x, **primal}[n].shape).astype(np.float32)
        for n, seeded in named.items()
    }
    truth = evaluator(result.proto())({n: _wide(value) for n, value in feeds.items()})
    rough = _check_form(checked(result), feeds, truth, name)
    if name in ("jvp", "vjp"):
        _check_form(checked(form(model, target="cpu")), feeds, truth, f"{name} for a CPU", rough)
    return "checked"


def run_original(draw: Draw) -> None:
    """The original alone, at every level: a crash here has nothing to do with derivatives."""
    model, x = draw.model("float32", symbolic=draw.rng.random() < 0.5), _single(draw)
    with contextlib.suppress(*RUNTIME_FAILURE):
        for level in LEVELS:
            _at(model, x, level)


def _single(draw: Draw) -> Values:
    point = draw.point.items()
    return {n: v.astype(np.float32) if v.dtype == np.float64 else v for n, v in point}


def _check_original(model: ModelProto, x: Values, primal: Values) -> None:
    for level in list(LEVELS)[1:]:
        try:
            found = _at(model, x, level)
        except RUNTIME_FAILURE as error:
            raise RuntimeLevelError(f"level {level} does not run the original: {error}") from error
        for y, value in primal.items():
            apart, size = _apart(found[y], value)
            if apart > 1e-3 * size:
                raise RuntimeLevelError(f"level {level} moves the original's {y} by {apart:.3g}")


def _check_form(
    proto: ModelProto, feeds: Values, truth: Values, what: str, rough: Values | None = None
) -> Values:
    """Holds every level to the error that there is without one, or to `rough`; returns errors."""
    errors = dict(rough or _rounding(proto, feeds, truth))
    for level in LEVELS:
        try:
            found = _at(proto, feeds, level)
        except RUNTIME_FAILURE as error:
            raise AssertionError(f"{what}, level {level}, does not run: {error}") from error
        for y, value in found.items():
            assert value.shape == truth[y].shape, f"{what}, level {level}: {y} is {value.shape}"
            apart, size = _apart(value, truth[y])
            if level == "none":
                errors[y] = np.maximum(errors.get(y, np.array(0.0)), apart)
            allowed = _TIMES * float(errors[y]) + _ADDED * size
            assert apart <= allowed, (
                f"{what}, level {level}: {y} is off by {apart:.3g} where {allowed:.3g} is allowed"
            )
    return errors


def _rounding(proto: ModelProto, feeds: Values, truth: Values) -> Values:
    """How far outputs move when inputs are rounded otherwise: large scores have few digits left."""
    signs = np.random.default_rng(0)
    near = {
        n: np.asarray(
            v * (1 + np.finfo(v.dtype).eps * signs.choice(np.array([-1, 1], v.dtype), v.shape))
        )
        if v.dtype.kind == "f"
        else v
        for n, v in feeds.items()
    }
    with contextlib.suppress(*RUNTIME_FAILURE):
        here, there = (_at(proto, at, "none") for at in (feeds, near))
        alike = [y for y in truth if here[y].shape == there[y].shape]
        found = {y: _apart(there[y], _wide(here[y])) for y in alike}
        return {y: np.array(apart) for y, (apart, size) in found.items() if apart <= _KINK * size}
    return {}


def _at(model: ModelProto, feeds: Values, level: str, *, shown: bool = False) -> Values:
    """Args: shown: the shapes that the runtime infers have to be those of what it gives."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = LEVELS[level]
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs = session.get_outputs()
    found = dict(zip((y.name for y in outputs), session.run(None, dict(feeds)), strict=True))
    for y in outputs if shown else ():
        sizes = zip(y.shape, found[y.name].shape, strict=True)
        if any(isinstance(size, int) and size != real for size, real in sizes):
            raise RuntimeLevelError(f"infers {y.shape} for {y.name}, {found[y.name].shape}")
    return found


def _wide(values: Array) -> Array:
    return values.astype(np.float64) if values.dtype == np.float32 else values


def _apart(got: Array, want: Array) -> tuple[float, float]:
    """The largest difference, NaN and infinite where only one side is so; the largest element."""
    finite = np.isfinite(want)
    same = np.isfinite(got) == finite
    if not same.all():
        return np.inf, 1.0
    size = float(np.abs(want[finite]).max(initial=0.0))
    return float(np.abs(got[finite].astype(np.float64) - want[finite]).max(initial=0.0)), 1 + size
