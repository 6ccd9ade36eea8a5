"""The command line, called in this process, and folders that must stay as they are."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import MODELS, Cli, Refused, Result, listing, model_of, save, value
from onnx import helper

from onnxjvp.cli.main import main


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the trained models."""
    for path in MODELS.glob("*.onnx"):
        shutil.copy(path, tmp_path)
    return tmp_path


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Refused:
    """Call a command that must fail, say all these words on stderr, and write nothing."""

    def call(code: int, words: Sequence[str], *arguments: object) -> Result:
        before = listing(tmp_path)
        result = cli(*arguments)
        assert (result.code, result.out) == (code, ""), result
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
        for word in words:
            assert word in result.err, (word, result.err)
        assert listing(tmp_path) == before
        told = cli(*arguments, "--json")
        assert told.code == code
        assert told.json() == {"error": result.err.removeprefix("error: ")[:-1], "exit_code": code}
        assert listing(tmp_path) == before
        return result

    return call


@pytest.fixture
def relu(tmp_path: Path) -> Path:
    return save(tmp_path, model_of([helper.make_node("Relu", ["x"], ["y"], name="relu")]))


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    node = helper.make_node("Gather", ["x", "i"], ["y"], name="gather")
    ends = [value("x", 1, [2, 3]), value("i", 7, [2])]
    return save(tmp_path, model_of([node], inputs=ends))
