"""`onnxjvp package`: what it prints, and what it refuses before anything is written."""

from __future__ import annotations

from pathlib import Path

from command_line import MODELS, Cli, Refused

CNN = MODELS / "digits_cnn.onnx"


def test_both_servers_and_json(cli: Cli, tmp_path: Path) -> None:
    where = ("--triton", tmp_path / "t", "--mlserver", tmp_path / "s")
    found = cli("package", CNN, *where, "--name", "digits", "--max-batch", 8, "--json").json()
    assert (found["max_batch_size"], found["independent_along"]) == (8, "batch")
    assert found["inputs"] == [{"name": "image", "datatype": "FP32", "shape": ["batch", 1, 8, 8]}]
    assert found["written"] == {
        "triton": str(tmp_path / "t" / "digits"),
        "mlserver": str(tmp_path / "s" / "digits"),
    }
    text = cli("package", CNN, *where, "--name", "digits", "--max-batch", 0, "--force").out
    assert "requests are not joined: --max-batch 0" in text


def test_refusals(refused: Refused, tmp_path: Path) -> None:
    triton = ("--triton", tmp_path / "t")
    refused(2, ["nothing is written", "--triton"], "package", CNN)
    refused(2, ["cannot be the name", "--name"], "package", CNN, *triton, "--name", "a/b")
    refused(2, ["does not exist"], "package", tmp_path / "no.onnx", *triton)
    refused(2, ["--max-dim", "'K'"], "package", CNN, *triton, "--max-dim", "K=2")
    (tmp_path / "t" / "digits_cnn").mkdir(parents=True)
    refused(2, ["exists", "--force"], "package", CNN, *triton)
