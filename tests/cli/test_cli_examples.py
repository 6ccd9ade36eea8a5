"""The examples of every --help and of docs/guide.md: they run, and print what the guide says."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import MODELS, Cli

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"
COMMANDS = ("rewrite", "inspect", "verify", "run", "jacobian", "ntk", "spectrum", "norm", "fix")
#: errors and norms: their last digits depend on the machine
_FRACTION = re.compile(r"-?\d*\.?\d+e[-+]\d+|-?\d+\.\d+")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples are run in."""
    (tmp_path / "models").mkdir()
    for path in MODELS.glob("*.onnx"):
        shutil.copy(path, tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_of_help(cli: Cli, folder: Path, command: str) -> None:
    text = cli(command, "--help").out
    if command in ("verify", "run"):
        assert cli("rewrite", "models/digits_cnn.onnx").code == 0
    image = np.ones((2, 1, 8, 8), np.float32)
    np.save(folder / "digits.npy", image)
    np.savez(folder / "digits.npz", image=image)
    joined = text[text.index("Examples:") :].replace("\\\n", " ")
    examples = re.findall(rf"^ +onnxjvp ({command} .*)$", joined, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        result = cli(*shlex.split(example))
        assert (result.code, result.err) == (0, ""), (example, result)


def guide() -> list[tuple[str, list[str]]]:
    """The commands of the guide in order, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append((line.removeprefix("$ "), []))
            elif line.strip() not in ("", "…"):
                found[-1][1].append(_plain(line))
    return found


def _plain(line: str) -> str:
    """Without widths of columns, and fractions."""
    return " ".join(_FRACTION.sub("#", line).split())


def test_the_guide_prints_what_it_says(cli: Cli, folder: Path) -> None:
    commands = guide()
    assert len(commands) >= 10
    for command, expected in commands:
        program, *arguments = shlex.split(command)
        assert program == "onnxjvp"
        result = cli(*arguments)
        printed = [_plain(line) for line in (result.out + result.err).splitlines()]
        for line in expected:
            assert line in printed, (command, line, printed)


def test_the_python_of_the_guide_runs(cli: Cli, folder: Path) -> None:
    for command, _ in guide():
        cli(*shlex.split(command)[1:])  # what the Python reads
    for code in re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE):
        if "import casadi" not in code:
            exec(compile(code, str(GUIDE), "exec"), {})
