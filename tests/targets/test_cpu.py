"""The CPU's form of a derivative: the same numbers as the portable form, in the blocked layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cases import CURRENT
from helpers import TOLERANCES, Values, assert_close, build, ort, weights
from op_case import OpCase, ort_of, rewritten

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.rewrite import clone, grad, hvp, jvp, vjp

FORMS: dict[str, Callable[..., Rewritten]] = {"jvp": jvp, "vjp": vjp}
FLOAT = np.dtype("float32")


def _bare(result: Rewritten) -> bytes:
    model = result.proto()
    del model.metadata_props[:]
    return model.SerializeToString()


def _feeds(case: OpCase, result: Rewritten) -> Values:
    rng = np.random.default_rng(11)
    feeds = {k: v.astype(FLOAT) if v.dtype.kind == "f" else v for k, v in case.point().items()}
    primal = ort_of(case, "float32")(feeds)
    for x, seed in result.names["seeds"].items():
        feeds[seed] = rng.standard_normal(feeds[x].shape).astype(FLOAT)
    for y, seed in result.names["cotangents"].items():
        feeds[seed] = rng.standard_normal(primal[y].shape).astype(FLOAT)
    return feeds


def _changed(case: OpCase, form: str) -> tuple[Rewritten, Rewritten] | None:
    portable, _ = rewritten(case, form, "float32")
    cpu = FORMS[form](case.model("float32"), target="cpu")
    return None if _bare(portable) == _bare(cpu) else (portable, cpu)


RUN = [case for case in CURRENT if not (case.no_runtime or case.evaluated or case.random)]


@pytest.mark.parametrize("case", RUN, ids=str)
def test_both_forms_agree(case: OpCase) -> None:
    for form in FORMS:
        pair = _changed(case, form)
        if pair is None:
            continue
        cpu = pair[1].proto()
        onnx.checker.check_model(cpu, full_check=True)
        feeds = _feeds(case, pair[0])
        wanted, found = ort_of(case, "float32", form)(feeds), ort(cpu, feeds)
        assert list(wanted) == list(found)
        for name, value in wanted.items():
            assert_close(found[name], value, TOLERANCES["float32"], f"{form}: {name}")


def test_the_table_reaches_every_lowering() -> None:
    made = set()
    for case in RUN:
        for form in FORMS:
            pair = _changed(case, form)
            if pair is not None:
                portable, cpu = ({n.op_type for n in r.proto().graph.node} for r in pair)
                made |= cpu - portable
        if {"HardSigmoid", "Mul"} <= made:
            return
    raise AssertionError(f"only {made}")


NETWORK = """
a = Conv<pads=[1, 1, 1, 1]>(x, w)
b = Relu(a)
c = Conv<pads=[1, 1, 1, 1]>(b, v)
s = Add(b, c)
d = Relu(s)
e = Conv<strides=[2, 2]>(d, v)
f = Relu(e)
g = Conv<pads=[1, 1, 1, 1]>(f, v)
h = Add(f, g)
i = Relu(h)
j = GlobalAveragePool(i)
k = Flatten(j)
y = MatMul(k, m)
"""


def _network(dtype: str = "float32") -> onnx.ModelProto:
    params = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3), "m": weights(16, 4)}
    return build(NETWORK, {"x": ("N", 3, 12, 12)}, params, dtype=dtype)


def _reorderings(model: onnx.ModelProto, folder: Path) -> int:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options)
    optimised = onnx.load(folder / "optimised.onnx")
    names = [node.op_type for node in optimised.graph.node]
    if not any(node.domain == "com.microsoft.nchwc" for node in optimised.graph.node):
        pytest.skip("this processor's onnxruntime has no blocked layout")
    return sum(name.startswith("Reorder") for name in names)


@pytest.mark.parametrize("form", FORMS)
def test_products_stay_in_the_blocked_layout(form: str, tmp_path: Path) -> None:
    portable, cpu = (
        _reorderings(FORMS[form](_network(), target=t).proto(), tmp_path)
        for t in ("portable", "cpu")
    )
    assert cpu < portable
    assert cpu <= 8


BOUNDS = [
    *[(0, 6), (-1, 1), (-6, 0), (None, 6), (0, None), (-1.5, None), (None, 0), (3, 3), (1, -1)],
    *[(0.1, 0.3), (-1e-3, 1e3), (1e30, 3e38), (-3e38, 1e-30)],
]


@pytest.mark.parametrize(("low", "high"), BOUNDS, ids=str)
def test_masks_of_a_clip_are_exact_at_its_bounds(low: float | None, high: float | None) -> None:
    bounds = {"low": low, "high": high}
    given = {name: FLOAT.type(v) for name, v in bounds.items() if v is not None}
    model = build(
        f"y = Clip(x, {'low' if 'low' in given else ''}, {'high' if 'high' in given else ''})",
        {"x": ("N",)},
        given,
        dtype="float32",
    )
    edges = np.array([*given.values(), 0, 1, -1, 1e38, -1e38], FLOAT)
    x = np.concatenate([edges, np.nextafter(edges, FLOAT.type(np.inf)), -edges])
    x = np.concatenate([x, np.nextafter(edges, FLOAT.type(-np.inf)), [np.inf, -np.inf]])
    x = x[(x == 0) | (np.abs(x) >= np.finfo(FLOAT).tiny)].astype(FLOAT)
    portable, cpu = (jvp(model, target=t) for t in ("portable", "cpu"))
    feeds = {"x": x, "x_u": np.full_like(x, 3)}
    wanted, found = (ort(made.proto(), feeds)["y_jvp"] for made in (portable, cpu))
    assert np.array_equal(found, wanted)
    assert set(np.unique(wanted)) <= {0, 3}


@pytest.mark.parametrize("directions", [None, 3])
def test_masks_of_a_clip_stay_in_the_blocked_layout(directions: int | None) -> None:
    body = "a = Conv(x, w)\nb = Clip(a, low, high)\ny = Conv(b, v)"
    params = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3), "low": 0.0, "high": 6.0}
    model = build(body, {"x": ("N", 3, 12, 12)}, params, dtype="float32")
    made = jvp(model, target="cpu", directions=directions).model.graph
    assert not {"Where", "Greater", "Less", "And"} & {node.op_type for node in made}


def test_factors_meet_masks_before_many_directions_do() -> None:
    body = "c = Concat<axis=1>(x, x)\nn = BatchNormalization(c, s, b, m, v)\ny = Relu(n)"
    params = {"s": weights(16), "b": weights(16), "m": weights(16), "v": np.ones(16)}
    model = build(body, {"x": ("N", 8, 5, 5)}, params, dtype="float32")
    x = np.random.default_rng(0).standard_normal((2, 8, 5, 5)).astype(FLOAT)
    u = np.random.default_rng(1).standard_normal((3, *x.shape)).astype(FLOAT)
    portable, cpu = (jvp(model, directions=3, target=t).proto() for t in ("portable", "cpu"))
    wanted, found = (ort(made, {"x": x, "x_u": u})["y_jvp"] for made in (portable, cpu))
    assert_close(found, wanted, TOLERANCES["float32"], "J u")
    last = cpu.graph.node[-1]
    assert last.op_type == "Mul"
    norms = [node.output[0] for node in cpu.graph.node if node.op_type == "BatchNormalization"]
    assert last.input[0] in norms


def test_what_a_lowering_reads_stands_before_it() -> None:
    """The size of the batch is first read behind the mask that is expanded to it."""
    body = """
a = Conv<pads=[1, 1, 1, 1]>(x, w)
p = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(a)
c = Conv<pads=[1, 1, 1, 1]>(p, v)
d = Relu(c)
j = GlobalAveragePool(d)
k = Flatten(j)
y = MatMul(k, m)
"""
    params = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3), "m": weights(16, 4)}
    model = build(body, {"x": ("N", 3, 12, 12)}, params, dtype="float32")
    made = vjp(model, target="cpu")
    onnx.checker.check_model(made.proto(), full_check=True)
    assert jvp(made).names["results"]


def test_other_dtypes_are_left_alone() -> None:
    for dtype in ("float64", "float16"):
        for form in FORMS.values():
            assert _bare(form(_network(dtype), target="cpu")) == _bare(form(_network(dtype)))


def test_a_lane_of_a_fixed_batch_is_not_spread_over_all_of_them() -> None:
    """The mask of one sample meets the tangents of three lanes."""
    params = {"w": weights(16, 3, 3, 3), "v": weights(16, 16, 3, 3)}
    body = "a = Conv(x, w)\nb = Relu(a)\ny = Conv(b, v)"
    model = build(body, {"x": (1, 3, 8, 8)}, params, dtype="float32")
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal((1, 3, 8, 8)).astype(FLOAT) for n in ("x", "x_u")}
    both = [clone(model, layout="stacked", target=t).proto() for t in ("portable", "cpu")]
    wanted, found = (ort(made, feeds) for made in both)
    for name, value in wanted.items():
        assert_close(found[name], value, TOLERANCES["float32"], name)


def test_a_lowered_model_is_accepted_again() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 12, 12)).astype(FLOAT)
    u = np.random.default_rng(1).standard_normal(x.shape).astype(FLOAT)
    results = []
    for target in ("portable", "cpu"):
        result = hvp(_network(), loss="squared_norm", target=target)
        values = ort(result.proto(), {"x": x, result.names["seeds"]["x"]: u})
        results.append(values[result.names["results"]["x"]["hvp"]])
    assert_close(results[1], results[0], TOLERANCES["float32"], "H u")
    first = grad(_network(), loss="squared_norm", target="cpu")
    onnx.checker.check_model(vjp(first).proto(), full_check=True)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(onnxjvp.UsageError, match="no target 'tpu'; choose portable, cpu, cuda"):
        jvp(_network(), target="tpu")
