"""Shell completion: what each shell is told, and that bash and fish really complete with it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import MODELS

ROOT = MODELS.parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A console script `onnxjvp`, whether the package is installed or not."""
    path = tmp_path_factory.mktemp("bin") / "onnxjvp"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m onnxjvp "$@"\n')
    path.chmod(0o755)
    return path


def _run(program: Path, *command: str, **environment: str) -> str:
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    known = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command or [str(program)],
        cwd=ROOT,
        env=known | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["onnxjvp", "insp"], ["inspect"]),
        (["onnxjvp", "rewrite", "m.onnx", "--emit", "h"], ["hvp"]),
        (["onnxjvp", "run", "m.onnx", "--provider", ""], ["cpu", "cuda"]),
        (["onnxjvp", "norm", "m.onnx", "--met"], ["--method"]),
        (["onnxjvp", "rewrite", "mod"], []),  # nothing: then bash completes files
    ],
    ids=" ".join,
)
def test_bash(program: Path, words: list[str], expected: list[str]) -> None:
    position = str(len(words) - 1)
    asked = {"COMP_WORDS": " ".join(words), "COMP_CWORD": position}
    assert _run(program, _ONNXJVP_COMPLETE="complete_bash", **asked).split() == expected


def test_bash_takes_the_script(program: Path) -> None:
    script = _run(program, _ONNXJVP_COMPLETE="source_bash")
    assert "complete -o default -F" in script  # files where we have no answer
    ask = "COMP_WORDS=(onnxjvp rewrite m --emit li); COMP_CWORD=4; _onnxjvp_completion onnxjvp"
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    said = _run(program, "bash", "-c", f"{script}\n{ask}\necho ${{COMPREPLY[@]}}")
    assert said == "linearize\n"


def test_zsh(program: Path) -> None:
    assert "compdef _onnxjvp_completion onnxjvp" in _run(program, _ONNXJVP_COMPLETE="source_zsh")
    asked = {"_ONNXJVP_COMPLETE": "complete_zsh"}
    said = _run(program, **asked, _TYPER_COMPLETE_ARGS="onnxjvp rewrite m --target c")
    assert said.split() == ["_arguments", "'*:", ':(("cpu"', '"cuda"))\'']
    assert _run(program, **asked, _TYPER_COMPLETE_ARGS="onnxjvp rewrite mod") == "_files\n"


def test_fish(program: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("no fish here")
    script = _run(program, _ONNXJVP_COMPLETE="source_fish")
    for line, expected in (
        ("onnxjvp rewrite m --emit h", ["hvp"]),
        ("onnxjvp rewrite models/wine", ["models/wine_mlp.onnx", "models/wine_mlp.py"]),
    ):
        said = _run(program, "fish", "-c", f"{script}\ncomplete -C '{line}'")
        assert [each.split("\t")[0] for each in said.splitlines()] == expected
