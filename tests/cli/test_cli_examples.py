"""The examples of every --help, and every page of docs/: commands run and print what is said."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import MODELS, Cli

from onnxjvp.cli.main import app

ROOT = Path(__file__).parents[2]
#: `bench` takes too long, and has tests of its own
COMMANDS = [
    command.callback.__name__
    for command in app.registered_commands
    if command.callback is not None and command.callback.__name__ != "bench"
]
#: errors and norms: their last digits depend on the machine
_FRACTION = re.compile(r"-?\d*\.?\d+e[-+]\d+|-?\d+\.\d+")
_BLOCK = re.compile(r"^```(console|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: pages with commands or Python that are run, each by itself; other fences (text, sh) are only read
PAGES = [
    path
    for path in (*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md")
    if _BLOCK.search(path.read_text(encoding="utf-8"))
    and path.name != "adding_an_op.md"  # pieces of our own code
    and path.parent.name != "examples"  # programs, with tests of their own
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that the examples are run in."""
    (tmp_path / "models").mkdir()
    for path in (*MODELS.glob("*.onnx"), *MODELS.glob("*.npz")):
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
    examples = re.findall(rf"^ +onnxjvp ({command}\b.*)$", joined, re.MULTILINE)
    assert len(examples) >= 2
    for example in examples:
        result = cli(*shlex.split(example))
        assert (result.code, result.err) == (0, ""), (example, result)


def test_there_are_pages() -> None:
    assert {"jvp.md", "kernels.md", "faq.md", "README.md"} <= {path.name for path in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_does_what_it_says(cli: Cli, folder: Path, page: Path) -> None:
    """Commands and Python in the order in which they stand: these may read what those wrote."""
    for language, block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            for command, expected in _commands(block):
                _check(cli, command, expected)
        elif not _missing(block):
            exec(compile(block, str(page), "exec"), {"__name__": "page"})


def _check(cli: Cli, command: str, expected: list[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "onnxjvp", f"{command!r} is not run here; fence it as ```sh or ```text"
    result = cli(*arguments)
    refused = any(line.startswith("error: ") for line in expected)
    assert refused or result.code == 0, (command, result)
    printed = [_plain(line) for line in (result.out + result.err).splitlines()]
    for line in expected:
        assert line in printed, (command, line, printed)


def _commands(block: str) -> Iterator[tuple[str, list[str]]]:
    """The commands of a block in order, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for line in block.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line.strip() not in ("", "…"):
            found[-1][1].append(_plain(line))
    yield from found


def _plain(line: str) -> str:
    """Without widths of columns, and fractions."""
    return " ".join(_FRACTION.sub("#", line).split())


def _missing(code: str) -> list[str]:
    """Packages that a piece of Python imports and that are not installed."""
    imported = re.findall(r"^\s*(?:import|from) (\w+)", code, re.MULTILINE)
    return [name for name in imported if importlib.util.find_spec(name) is None]
