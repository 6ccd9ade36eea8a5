"""The table: every form is timed, wrong ones are not, and those that cannot be say why."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from helpers import MODELS
from onnx import parser

import onnxjvp
from onnxjvp.benchmark import forms, memory, timing
from onnxjvp.benchmark.process import Contender
from onnxjvp.benchmark.table import Row, bench
from onnxjvp.errors import InvalidModelError, UnsupportedOpError, UsageError

CNN = MODELS / "digits_cnn.onnx"
NAMES = ["forward", "jvp", "jvp K=2, each", "jvp K=3, each", "vjp"]
NAMES += ["clone split", "clone stacked", "apply J", "apply J^T"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second's wait for what other processes do."""
    monkeypatch.setattr(timing, "STAT", Path("/no/such/file"))


def saved(folder: Path, text: str) -> Path:
    onnx.save(parser.parse_model(text), folder / "m.onnx")
    return folder / "m.onnx"


def check_timed(row: Row) -> None:
    assert (row.status, row.problem) == ("timed", None), row
    assert row.milliseconds is not None
    assert row.milliseconds > 0
    assert row.ratio is not None
    assert 0 < row.ratio[0] <= row.ratio[1] <= row.ratio[2]
    assert row.file_bytes is not None
    assert row.file_bytes > CNN.stat().st_size - 1
    if memory.STATUS.exists():
        assert row.loading_bytes is not None
        assert row.loading_bytes > 0


def test_every_form_is_timed() -> None:
    seen = []
    table = bench(CNN, targets=["cpu"], directions=[2, 3], rounds=2, threads=1,
                  told=lambda done, of: seen.append((done, of)))  # fmt: skip
    assert [row.form for row in table.rows] == NAMES
    for row in table.rows:
        check_timed(row)
    assert table.passed
    forward, jvp, *_ = table.rows
    assert forward.ratio == (1.0, 1.0, 1.0)
    assert forward.file_bytes == CNN.stat().st_size
    assert forward.nodes == len(onnx.load(CNN).graph.node)
    assert jvp.nodes == sum(1 for _ in onnxjvp.jvp(CNN, target="cpu").model.graph.all_nodes())
    assert (table.inputs, table.rounds) == ({"image": "float32[1, 1, 8, 8]"}, 2)
    assert seen == [(i, 8) for i in range(8)]


@pytest.mark.parametrize(
    "options",
    [
        {"wrt": ["params"], "rounds": None, "seconds": 0.001},
        {"wrt": ["features.0.weight"], "dims": {"batch": 3}},
        {"inputs": {"image": np.ones((4, 1, 8, 8), np.float32)}},
    ],
    ids=["parameters", "one parameter", "inputs"],
)
def test_options(options: dict[str, Any]) -> None:
    few: dict[str, Any] = {"targets": ["portable"], "families": ["directions", "apply"]}
    table = bench(CNN, **few | {"directions": [2], "rounds": 1} | options)
    for row in table.rows:
        check_timed(row)
    assert len(table.rows) == 4
    batch = {"dims": 3, "inputs": 4}
    expected = next((n for key, n in batch.items() if key in options), 1)
    assert table.inputs == {"image": f"float32[{expected}, 1, 8, 8]"}


def test_a_value_inside_the_model(tmp_path: Path) -> None:
    """Its size follows from those of the inputs."""
    model = saved(
        tmp_path,
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3] x) => (float[M] y)'
        "<int64[1] flat = {-1}> {h = Reshape(x, flat)  y = Sigmoid(h)}",
    )
    table = bench(model, wrt=["h"], dims={"N": 5}, targets=["portable"], directions=[2], rounds=1)
    assert len(table.rows) == 8
    for row in table.rows:
        assert (row.status, row.problem) == ("timed", None)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_dtypes(tmp_path: Path, dtype: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 18]> g ({dtype}[N, 3] x) => ({dtype}[N, 3] y)'
    model = saved(tmp_path, text + "{h = Tanh(x)  y = Mul(h, x)}")
    few = ["directions", "stacked", "apply"]
    for row in bench(model, targets=["portable"], families=few, directions=[2], rounds=1).rows:
        assert (row.status, row.problem) == ("timed", None)


def test_a_form_that_cannot_be_made_is_listed() -> None:
    """A stack of lanes needs independent variables; a tangent does not."""
    model = MODELS / "diabetes_mlp.onnx"
    inner = onnx.load(model).graph.node[0].output[0]
    wrt = [onnx.load(model).graph.input[0].name, inner]
    table = bench(model, wrt=wrt, targets=["portable"], families=["jvp", "stacked"], rounds=1)
    assert [row.status for row in table.rows] == ["timed", "timed", "refused"]
    assert "is computed from another variable" in (table.rows[2].problem or "")
    assert table.rows[2].milliseconds is None
    assert table.passed


def test_if_none_can_be_made_the_reason_is_raised(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="imagee"):
        bench(CNN, wrt=["imagee"], families=["jvp"], rounds=1)
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[40, 40] x) => (float y) {y = Det(x)}'
    with pytest.raises(UnsupportedOpError, match="Det"):
        bench(saved(tmp_path, text), families=["jvp", "vjp"], targets=["portable"], rounds=1)


def test_a_wrong_form_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose J u is twice what it should be."""

    def doubled(model: Any, *arguments: Any, **options: Any) -> onnxjvp.Rewritten:
        made = onnxjvp.jvp(model, *arguments, **options)
        if options.get("directions") is None:
            return made
        proto = made.proto()
        (last,) = [n for n in proto.graph.node if "logits_jvp" in n.output]
        last.output[:] = ["half" if name == "logits_jvp" else name for name in last.output]
        proto.graph.node.append(onnx.helper.make_node("Add", ["half", "half"], ["logits_jvp"]))
        return onnxjvp.Rewritten(ir.from_proto(proto), made.names, made.report)

    monkeypatch.setattr(forms, "jvp", doubled)
    table = bench(
        CNN, targets=["portable"], families=["jvp", "directions"], directions=[2], rounds=1
    )
    assert [row.status for row in table.rows] == ["timed", "timed", "failed"]
    assert "its J u is not that of jvp portable" in (table.rows[2].problem or "")
    assert table.rows[2].milliseconds is None
    assert not table.passed


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"targets": ["tpu"]}, "tpu"),
        ({"families": ["jvp", "hvp"]}, "hvp"),
        ({"families": ["jvp", "jvp"]}, "twice"),
        ({"directions": [0]}, "1 or more"),
        ({"rounds": 0}, "0 rounds"),
        ({"seconds": float("nan")}, "seconds"),
        ({"dims": {"bach": 2}}, "bach"),
        ({"provider": "tpu"}, "tpu"),
        ({"inputs": {"image": np.ones((1, 1, 8, 9), np.float32)}}, "axis 3"),
    ],
)
def test_bad_arguments(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        bench(CNN, **options)


def test_a_process_that_ends_is_told(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"provider": "cpu", "threads": None}
    with contextlib.closing(Contender()) as contender:
        (tmp_path / "bad.onnx").write_bytes(b"\xff" * 9)
        with pytest.raises(InvalidModelError, match="cannot load"):
            contender.start([tmp_path / "bad.onnx"], {}, {}, [], **settings)
    with contextlib.closing(Contender()) as contender:
        contender.start([], {}, {}, [], **settings)
        contender._process.kill()
        with pytest.raises(InvalidModelError, match="killed, perhaps for want of memory"):
            contender.seconds(1)


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="only Linux forgets a peak")
def test_memory_of_this_process() -> None:
    assert memory.forget()
    before = memory.peak()
    block = np.ones(8_000_000)
    held = memory.peak()
    assert before is not None
    assert held is not None
    assert 60e6 < held - before < 80e6
    del block
    # the kernel counts in steps of some pages
    assert memory.peak() == pytest.approx(held, abs=1e6)
    assert memory.forget()
    after = memory.peak()
    assert after is not None
    assert after < held - 50e6


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="no CUDA device, or onnxruntime-gpu is not installed",
)
def test_every_form_is_timed_on_cuda() -> None:
    table = bench(CNN, provider="cuda", directions=[2, 3], rounds=3)
    assert [row.form for row in table.rows] == NAMES
    for row in table.rows:
        check_timed(row)
        assert row.device_bytes is not None
