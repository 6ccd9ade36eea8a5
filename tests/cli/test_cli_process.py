"""The command line as a process: start-up, streams, signals, and no runtime installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Cli

import onnxjvp
from onnxjvp.cli import main as cli_main

ROOT = Path(onnxjvp.__file__).parents[1]


def process(
    *arguments: object, python: tuple[str, ...] = ("-m", "onnxjvp")
) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, *python, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def test_main_job(folder: Path) -> None:
    model = folder / "digits_cnn.onnx"
    made = process("rewrite", model, "--check")
    assert (made.returncode, made.stderr) == (0, "")
    clone = folder / "digits_cnn.clone.onnx"
    checked = process("verify", model, clone, "--json")
    assert json.loads(checked.stdout)["passed"] is True
    options = ("--input", "image=random:0", "--input", "image_u=random:1")
    ran = process("run", clone, *options, "-o", folder / "out.npz", "--json")
    assert {row["name"] for row in json.loads(ran.stdout)["outputs"]} == {
        "logits", "logits_u", "logits_0", "logits_jvp"
    }  # fmt: skip
    again = process("rewrite", model)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.count("\n") == 1


WITHOUT_RUNTIME = (
    "-c",
    "import sys; sys.modules['onnxruntime'] = None; "
    "from onnxjvp.cli.main import main; sys.exit(main())",
)


def test_without_onnxruntime_models_are_rewritten_and_inspected(folder: Path) -> None:
    model = folder / "diabetes_mlp.onnx"
    assert process("inspect", model, python=WITHOUT_RUNTIME).returncode == 0
    assert process("rewrite", model, python=WITHOUT_RUNTIME).returncode == 0
    assert (folder / "diabetes_mlp.clone.onnx").is_file()


def test_without_onnxruntime_the_extra_is_named(folder: Path) -> None:
    model = folder / "diabetes_mlp.onnx"
    commands = (
        ("run", model, "--input", "features=random:0", "-o", folder / "out.npz"),
        ("rewrite", model, "--check"),
    )
    for command in commands:
        before = sorted(folder.iterdir())
        result = process(*command, python=WITHOUT_RUNTIME)
        assert (result.returncode, result.stdout) == (2, "")
        assert "onnxruntime" in result.stderr
        assert 'pip install "onnxjvp[cpu]"' in result.stderr
        assert sorted(folder.iterdir()) == before


def test_help_imports_nothing_heavy() -> None:
    """What makes it fast; timing it would depend on the machine."""
    code = (
        "import sys; from onnxjvp.cli.main import main; main(sys.argv[1:]); "
        "heavy = {'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'sympy', 'rich', 'scipy'}; "
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["--help"], ["rewrite", "--help"], ["jacobian", "--help"], ["--version"]):
        assert process(*arguments, python=("-c", code)).stderr.strip() == "", arguments


def test_rewriting_does_not_import_the_runtime(folder: Path) -> None:
    code = (
        "import sys; from onnxjvp.cli.main import main; main(sys.argv[1:]); "
        "print('onnxruntime' in sys.modules, file=sys.stderr)"
    )
    result = process("rewrite", folder / "diabetes_mlp.onnx", python=("-c", code))
    assert result.stderr.strip() == "False"


@pytest.mark.parametrize("command", ["rewrite", "inspect", "verify", "run", "jacobian"])
def test_help_has_examples_on_a_real_model(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert "Examples:" in result.out
    assert result.out.count(f"onnxjvp {command} models/") >= 2
    assert "models/digits_cnn.onnx" in result.out


def test_version(cli: Cli) -> None:
    assert cli("--version").out == f"onnxjvp {onnxjvp.__version__}\n"


def test_no_command_shows_help(cli: Cli) -> None:
    result = cli()
    assert (result.code, result.err) == (2, "")
    assert "rewrite" in result.out


def test_interrupt(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxjvp.rewrite.clone", interrupted)
    before = sorted(folder.iterdir())
    result = cli("rewrite", folder / "diabetes_mlp.onnx")
    assert result.code == cli_main.INTERRUPTED == 130
    assert result.out == ""
    assert "interrupted" in result.err
    assert sorted(folder.iterdir()) == before


def test_output_is_plain_where_there_is_no_terminal(folder: Path) -> None:
    result = process("inspect", folder / "digits_cnn.onnx")
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert not set("─━│┃") & set(result.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_output_is_styled_on_a_terminal(folder: Path) -> None:
    import pty  # noqa: PLC0415 - not on Windows

    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    running = subprocess.Popen(
        [sys.executable, "-m", "onnxjvp", "inspect", folder / "nothing.onnx"],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env={k: v for k, v in environment.items() if k not in ("NO_COLOR", "CI")},
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    assert running.wait() == 2
    assert b"\x1b[1;31merror:" in seen
    assert b"does not exist; give the path of an .onnx file" in seen.replace(b"\x1b[1;31m", b"")


@pytest.mark.parametrize("name", ["ünïcode model.onnx", "with space.onnx", "-dash.onnx"])
def test_odd_file_names(folder: Path, name: str) -> None:
    model = folder / name
    (folder / "diabetes_mlp.onnx").rename(model)
    result = process("rewrite", model, "--json")
    assert result.returncode == 0
    assert Path(json.loads(result.stdout)["output"]).is_file()


def test_a_closed_pipe_is_no_traceback(folder: Path) -> None:
    command = f"'{sys.executable}' -m onnxjvp inspect '{folder / 'digits_cnn.onnx'}' | true"
    result = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in result.stderr
    assert "BrokenPipe" not in result.stderr
