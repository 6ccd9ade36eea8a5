"""An RNN and its tangents as one Scan: the same numbers, one product a step, one reading of R."""

from __future__ import annotations

from collections.abc import Iterator

import cases_recurrent
import numpy as np
import onnx
import pytest
from helpers import TOLERANCES, Values, assert_close, build, checked, op_types, ort, weights
from op_case import OpCase
from pairs import failed

from onnxjvp import Rewritten
from onnxjvp.rewrite import clone, hvp, jvp, linearize, vjp
from onnxjvp.verification import verify

FORMS = {
    "jvp": jvp,
    "jvp-3": lambda model, **more: jvp(model, directions=3, **more),
    "clone-K": lambda model, **more: clone(model, layout="split", directions="K", **more),
}
ROWS = [
    case for case in cases_recurrent.CASES if case.name.startswith("RNN") and not case.no_runtime
]
#: what stays as it is: R is an input, rows end early, the slope is not read off Y alone, no step
#: adds anything
APART = {
    *(f"RNN, all live, {way}" for way in ("forward", "reverse", "bidirectional")),
    *(f"RNN, rows that end, {way}" for way in ("forward", "reverse", "bidirectional")),
    *("RNN, clip", "RNN, first states alone"),
}
H = 4
PARAMS = {
    "w": weights(1, H, 3, seed=1),
    "r": weights(1, H, H, seed=2) / 2,
    "b": weights(1, 2 * H, seed=3),
    "v": weights(1, H, H, seed=4),
    "one": np.array([1]),
}
ONE = 'y, yh = RNN<hidden_size=4, activations=["Relu"]>(x, w, r, b)'
#: two layers that share R, and readers of both outputs
TWO = """
a, ah = RNN<hidden_size=4>(x, w, r, b)
c = Squeeze(a, one)
d, dh = RNN<hidden_size=4, direction="reverse">(c, v, r)
e = Mul(d, a)
y = Add(e, ah)
"""


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small nodes are joined as well."""
    monkeypatch.setattr("onnxjvp.targets.recurrent.LARGE", 1)
    yield


def _model(body: str = ONE, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    names = set(body.replace("(", " ").replace(")", " ").replace(",", " ").split())
    params = {k: v for k, v in PARAMS.items() if k in names}
    return build(body, {"x": ("T", "B", 3)}, params, outputs, dtype="float32")


def _scans(result: Rewritten) -> list[list[str]]:
    """What the steps of every Scan are made of."""
    scans = (node for node in result.proto().graph.node if node.op_type == "Scan")
    bodies = (a.g for node in scans for a in node.attribute if a.name == "body")
    return [[node.op_type for node in body.node] for body in bodies]


def _feeds(model: onnx.ModelProto, **sizes: int) -> Values:
    rng = np.random.default_rng(7)
    known = {"T": 5, "B": 2, "K": 3, **sizes}
    found = {}
    for info in model.graph.input:
        shape = info.type.tensor_type.shape.dim
        size = [d.dim_value or known[d.dim_param] for d in shape]
        found[info.name] = rng.standard_normal(size).astype(np.float32)
    return found


def _agree(first: Rewritten, second: Rewritten, **sizes: int) -> None:
    feeds = _feeds(second.proto(), **sizes)
    found, wanted = ort(checked(first), feeds, optimize=True), ort(second.proto(), feeds)
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert_close(found[name], value, TOLERANCES["float32"], name)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", [case for case in ROWS if case.name not in APART], ids=str)
@pytest.mark.usefixtures("always")
def test_rows_of_the_table_match_float64_differences(case: OpCase, form: str) -> None:
    model = case.model("float32")
    made = FORMS[form](model, target="cpu")
    assert made.report["shared"] == 1
    assert "RNN" not in op_types(made)
    ways = 2 if "bidirectional" in case.body else 1
    assert [step.count("MatMul") for step in _scans(made)] == [1] * ways
    report = verify(model, checked(made), dims=dict(case.sizes))
    assert report.rows
    assert not failed(report), report


@pytest.mark.parametrize("case", [case for case in ROWS if case.name in APART], ids=str)
@pytest.mark.usefixtures("always")
def test_what_is_of_another_form_stays_as_it_is(case: OpCase) -> None:
    made = jvp(case.model("float32"), target="cpu")
    assert "shared" not in made.report
    assert "RNN" in op_types(made)


@pytest.mark.usefixtures("always")
def test_a_step_of_a_relu_is_a_product_a_sum_and_a_mask() -> None:
    mask = ["HardSigmoid", "Mul"]
    wanted = sorted(["Add", "Add", "Concat", "Constant", "MatMul", "Relu", "Split", *mask])
    for made in (jvp(_model(), target="cpu"), jvp(_model(), directions=3, target="cpu")):
        assert [sorted(step) for step in _scans(made)] == [wanted]
        assert op_types(made).count("MatMul") == 1  # x W and u W


#: what reads Y, and whether that is its last step alone
ENDS = {
    "y = Gather(s, minus)": True,
    "t = Squeeze(s, one)\ny = Gather(t, minus)": True,
    "t = Transpose<perm=[2, 0, 1, 3]>(s)\nc = Squeeze(t, mid)\ny = Gather<axis=1>(c, minus)": True,
    "t = Unsqueeze(s, mid)\nc = Transpose(t)\ny = Gather<axis=-1>(c, minus)": True,
    "a = Gather(s, minus)\nc = Identity(s)\nd = Gather(c, minus)\ny = Mul(a, d)": True,
    "y = Gather(s, zero)": False,
    "y = Gather<axis=2>(s, minus)": False,
    "a = Gather(s, minus)\ny = Mul(s, a)": False,
    "a = Gather(s, minus)\nc = ReduceSum(s, zero)\ny = Mul(a, c)": False,
}


@pytest.mark.parametrize("way", ["forward", "reverse"])
@pytest.mark.parametrize("body", ENDS)
@pytest.mark.usefixtures("always")
def test_steps_that_nothing_reads_are_not_kept(body: str, way: str) -> None:
    """torch's `steps(x)[0][:, -1]`: the end of Y, in whatever form."""
    places = {"minus": np.array([-1]), "zero": np.array([0]), "mid": np.array([2])}
    if way == "reverse":  # which ends where time begins
        places = places | {"minus": places["zero"], "zero": places["minus"]}
    params = {k: PARAMS[k] for k in ("w", "r", "b", "one")} | places
    rnn = f's, = RNN<hidden_size=4, direction="{way}">(x, w, r, b)'
    names = {"w", "r", "b", *(k for k in params if f" {k})" in body)}
    used = {k: v for k, v in params.items() if k in names}
    model = build(f"{rnn}\n{body}", {"x": ("T", "B", 3)}, used, dtype="float32")
    # K directions are unfolded by a Reshape, which tells all sizes
    for form, left in ((jvp, 1), (clone, 1), (FORMS["jvp-3"], 2), (FORMS["clone-K"], 2)):
        made = form(model, target="cpu")
        (scan,) = (node for node in made.proto().graph.node if node.op_type == "Scan")
        assert len(scan.output) == (left if ENDS[body] else 3)
        _agree(made, form(model))


@pytest.mark.usefixtures("always")
def test_an_end_and_the_whole() -> None:
    """Where Y is an output, or a body reads it, every step is kept."""
    params = {k: PARAMS[k] for k in "wrb"} | {"minus": np.array([-1])}
    body = "s, = RNN<hidden_size=4>(x, w, r, b)\ny = Gather(s, minus)"
    model = build(body, {"x": ("T", "B", 3)}, params, ("y", "s"), dtype="float32")
    _agree(jvp(model, target="cpu"), jvp(model))
    _agree(jvp(model, outputs=["y"], target="cpu"), jvp(model, outputs=["y"]))


@pytest.mark.usefixtures("always")
def test_both_outputs_stay_where_they_are_read() -> None:
    for outputs in (("y",), ("yh",), ("y", "yh"), ("yh", "y")):
        model = _model(outputs=outputs)
        for form in FORMS.values():
            made = form(model, target="cpu")
            assert made.report["shared"] == 1
            assert [o.name for o in made.proto().graph.output[: len(outputs)]] == list(outputs)
            _agree(made, form(model))


@pytest.mark.usefixtures("always")
def test_layers_with_one_weight() -> None:
    model = _model(TWO)
    for form in (*FORMS.values(), clone):
        made = form(model, target="cpu")
        assert made.report["shared"] == 2
        assert len(_scans(made)) == 2
        _agree(made, form(model))
    _agree(jvp(model, target="cpu"), jvp(model), B=0)


@pytest.mark.usefixtures("always")
def test_in_weights() -> None:
    """What a tangent of R adds takes the states first."""
    model = _model()
    for wrt, joined in ((["w"], 1), (["b", "x"], 1), (["r"], 0), (["params"], 0)):
        for count in (None, 2):
            made = jvp(model, wrt, directions=count, target="cpu")
            assert made.report.get("shared", 0) == joined
            _agree(made, jvp(model, wrt, directions=count))


@pytest.mark.usefixtures("always")
def test_with_other_products_of_one_file() -> None:
    """The adjoint leaves the node as it is; in H u the tangent is joined, the way back is not."""
    model = _model(TWO)
    backwards = vjp(model, target="cpu")
    assert "shared" not in backwards.report
    _agree(backwards, vjp(model))
    second = hvp(model, loss="squared_norm", target="cpu")
    assert second.report["shared"] == 2
    _agree(second, hvp(model, loss="squared_norm"))
    stacked = clone(model, layout="stacked", target="cpu")
    assert "RNN" not in op_types(stacked)
    _agree(stacked, clone(model, layout="stacked"))
    held = linearize(model, target="cpu").primal
    assert "shared" not in held.report


@pytest.mark.usefixtures("always")
def test_a_joined_file_is_accepted_again() -> None:
    again = [
        jvp(jvp(_model(TWO), target=target), ["x"], ["y_jvp"], target=target)
        for target in ("cpu", "portable")
    ]
    _agree(*again)


@pytest.mark.usefixtures("always")
def test_other_dtypes_are_left_alone() -> None:
    model = build(ONE, {"x": ("T", "B", 3)}, {k: PARAMS[k] for k in "wrb"}, dtype="float64")
    assert op_types(jvp(model, target="cpu")) == op_types(jvp(model))


# -- where it pays -----------------------------------------------------------------------------


def _shared(size: int, batch: int | str = "B") -> bool:
    params = {
        "w": np.zeros((1, size, 3)),
        "r": np.zeros((1, size, size)),
        "to": np.array([4, 0, 3]),
    }
    body = f"t = Reshape(x, to)\ny, = RNN<hidden_size={size}>(t, w, r)"
    made = jvp(build(body, {"x": (4, batch, 3)}, params, dtype="float32"), ["x"], target="cpu")
    return "shared" in made.report


def test_large_steps_are_joined_small_ones_are_not() -> None:
    assert _shared(256)
    assert _shared(256, 1)
    assert _shared(96, 8)
    assert not _shared(192)
    assert not _shared(64, 8)
