"""`onnxjvp bench` on the trained models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import MODELS, Cli, Refused, model_of, save
from onnx import helper

from onnxjvp.benchmark import timing
from onnxjvp.benchmark.compare import Judge

CNN = MODELS / "digits_cnn.onnx"
QUICK = ("--rounds", 1, "--target", "portable")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second's wait for what other processes do."""
    monkeypatch.setattr(timing, "STAT", Path("/no/such/file"))


def test_the_table(cli: Cli) -> None:
    result = cli("bench", CNN, *QUICK, "--directions", 2, "--threads", 1)
    assert (result.code, result.err) == (0, "")
    head, *rows = result.out.splitlines()
    columns = "form target ms x forward quartiles MB to load MB to run file MB nodes"
    assert head.split() == columns.split()
    names = ["forward", "jvp", "jvp K=2, each", "vjp", "clone split", "clone stacked"]
    names += ["apply J", "apply J^T"]
    assert [re.split("  +", row)[0] for row in rows[:8]] == names
    assert all("portable" in row for row in rows[1:8])
    assert rows[8:10] == ["", "inputs: image float32[1, 1, 8, 8]; runtime: cpu, threads: 1"]
    assert rows[10].startswith("medians of 1 interleaved round")


def test_json(cli: Cli, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((3, 1, 8, 8), np.float32))
    options = ("--only", "jvp", "--input", f"image={tmp_path / 'x.npy'}", "--json")
    found = cli("bench", CNN, *QUICK, *options).json()
    assert (found["model"], found["passed"], found["rounds"]) == (str(CNN), True, 1)
    assert found["inputs"] == {"image": "float32[3, 1, 8, 8]"}
    plain, jvp = found["rows"]
    assert (plain["form"], plain["target"], plain["ratio"]) == ("forward", None, [1.0, 1.0, 1.0])
    assert (jvp["form"], jvp["target"], jvp["status"]) == ("jvp", "portable", "timed")
    assert jvp["ratio"][1] == pytest.approx(jvp["milliseconds"] / plain["milliseconds"])


def test_what_cannot_be_made_is_told(cli: Cli) -> None:
    """A stack of lanes needs independent variables; a tangent does not."""
    model = MODELS / "diabetes_mlp.onnx"
    graph = onnx.load(model).graph
    wrt = ("--wrt", graph.input[0].name, "--wrt", graph.node[0].output[0])
    result = cli("bench", model, *QUICK, *wrt, "--only", "stacked", "--only", "jvp")
    assert (result.code, result.err) == (0, "")
    rows = [re.split("  +", row) for row in result.out.splitlines()]
    assert rows[3] == ["clone stacked", "portable", "refused"]
    assert rows[4][0].startswith("clone stacked portable refused: ")
    assert "is computed from another variable" in rows[4][0]


def test_refused(refused: Refused, tmp_path: Path) -> None:
    refused(2, ["nowhere.onnx"], "bench", tmp_path / "nowhere.onnx")
    refused(2, ["imagee"], "bench", CNN, "--wrt", "imagee", "--only", "jvp", *QUICK)
    refused(2, ["--dim", "NAME=SIZE"], "bench", CNN, "--dim", "batch")
    refused(2, ["bach"], "bench", CNN, "--dim", "bach=2")
    refused(2, ["sideways", "stacked"], "bench", CNN, "--only", "sideways")
    refused(2, ["twice"], "bench", CNN, "--only", "jvp", "--only", "jvp")
    refused(2, ["tpu", "cpu"], "bench", CNN, "--provider", "tpu")
    square = [helper.make_tensor_value_info("x", 1, [40, 40])]
    scalar = [helper.make_tensor_value_info("y", 1, [])]
    node = helper.make_node("Det", ["x"], ["y"], name="det")
    path = save(tmp_path, model_of([node], inputs=square, outputs=scalar))
    refused(3, ["Det", "det"], "bench", path, "--only", "jvp", *QUICK)


def test_wrong_results_are_an_exit_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Judge, "problem", lambda *_: "it is wrong")
    result = cli("bench", CNN, *QUICK, "--only", "jvp")
    assert result.code == 1
    assert "jvp portable failed: it is wrong" in result.out.splitlines()


def test_examples_of_help(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    text = cli("bench", "--help").out
    monkeypatch.chdir(MODELS.parent)
    examples = re.findall(r"^ +onnxjvp (bench .*)$", text[text.index("Examples:") :], re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        result = cli(*shlex.split(example), "--rounds", 1)
        assert (result.code, result.err) == (0, ""), (example, result)
