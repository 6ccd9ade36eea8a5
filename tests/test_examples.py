"""docs/examples: each file runs, prints what its README says, and what is claimed of it is so."""

from __future__ import annotations

import ast
import importlib.util
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from helpers import MODELS

import onnxjvp
from onnxjvp.cli.main import main

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
README = (EXAMPLES / "README.md").read_text(encoding="utf-8")
NAMES = ("adversarial", "manifold", "forces", "control", "drift")
NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(e[-+]?\d+)?[j%]?")
PICTURES = importlib.util.find_spec("matplotlib") is not None

pytest.importorskip("scipy", reason="scipy is not installed")


@pytest.fixture(scope="module", autouse=True)
def beside() -> Any:
    """Files of the folder are imported as they are from a script in it."""
    sys.path.insert(0, str(EXAMPLES))
    yield
    sys.path.remove(str(EXAMPLES))
    sys.modules.pop("pictures", None)


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(text: str) -> list[str]:
    """Without spaces and numbers: their last digits depend on the machine."""
    return [re.sub(r"\s+", "", NUMBER.sub("#", line)) for line in text.splitlines()]


def shown(name: str) -> list[str]:
    """What the README says that an example prints."""
    (found,) = re.findall(rf"^\$ python docs/examples/{name}\.py .*\n([^`]*)```", README, re.M)
    return words(found)


def run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What `main` returns. Draws the picture, too, where matplotlib is installed."""
    picture = folder / f"{name}.png"
    told = example(name).main(str(picture) if PICTURES else None)
    assert words(capsys.readouterr().out) == shown(name)
    if PICTURES:
        assert picture.read_bytes().startswith(b"\x89PNG")
    return told


def test_the_worst_direction_is_worse_than_random_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {row["radius"]: row for row in run("adversarial", tmp_path, capsys)}
    assert 0.95 < rows[0.05]["worst"] < 1.05  # of what the singular value says
    for row in rows.values():
        assert row["worst"] > 1.9 * row["largest"] > 1.9 * row["random"]
    assert rows[0.5]["attacks"] > 0.25
    assert rows[0.5]["attacks"] > 10 * rows[0.5]["accidents"]


def test_projections_remove_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run("manifold", tmp_path, capsys)
    for row in rows:
        assert row["autoencoder"] > row["once"] > row["twice"] > row["often"]
        assert row["before"] > 0.4
        assert row["after"] < 0.02  # the image is the closest of the manifold
    for row in rows[1:]:
        assert row["autoencoder"] > 0.9 * row["noisy"]
        assert row["often"] < 0.7 * row["noisy"]
    assert rows[0]["often"] > 0.1  # with little noise nothing is won, as the README says


def test_forces_conserve_energy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run("forces", tmp_path, capsys)
    assert told["differences"] < 2e-3
    assert told["truth"] < 0.03
    assert told["net"] < 1e-4
    for step in (0.02, 0.01, 0.005):
        assert told[f"kinetic {step}"] > 0.5
    assert told["sum 0.005"] < 2e-3
    assert 8 < told["sum 0.02"] / told["sum 0.005"] < 32  # 16 is second order

    forces = example("forces")
    right = forces.energy_and_forces
    forces.energy_and_forces = lambda x: (right(x)[0], forces.lennard_jones(x))
    energies, way = forces.simulate(0.005)  # with forces that are not its gradient
    assert np.ptp(energies.sum(axis=1)) > 5 * told["sum 0.005"]

    energy = MODELS / "cluster_energy.onnx"
    x = way[::2000].astype(np.float32)
    report = onnxjvp.verify(energy, onnxjvp.grad(energy, loss="sum"), inputs={"positions": x})
    assert report.passed
    (found,) = (row for row in report.rows if "differences" in row.check)
    assert found.relative is not None and found.relative < 1e-8


def test_the_network_is_linearised_as_the_textbook_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run("control", tmp_path, capsys)
    network, book = told["gains"]
    np.testing.assert_allclose(network, book, rtol=0.02)
    for kind, off in (("free", 3e-3), ("held", 3e-3), ("margin", 0.01)):
        np.testing.assert_allclose(*told[kind], atol=off)
    assert np.abs(told["free"]).max(axis=1).min() > 1.05
    assert np.abs(told["held"]).max() < 0.98
    assert min(told["margin"]) > 0.8
    held, free = told["states"]
    assert abs(free[49, 2]) > 1
    assert abs(held[49, 2]) < 0.1
    assert np.abs(held[-1]).max() < 0.02

    # the products themselves, of A and B as they are used: differences of the network
    plant = onnxruntime.InferenceSession(MODELS / "cart_pole.onnx")
    A, B = example("control").learned()
    step = 0.05
    both = step * np.eye(5, dtype=np.float32)
    up, down = (
        plant.run(None, {"state": sign * both[:, :4], "action": sign * both[:, 4:]})[0]
        for sign in (1, -1)
    )
    np.testing.assert_allclose(np.concatenate([A, B], 1), (up - down).T / (2 * step), atol=2e-3)


def test_drift_is_seen_without_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = run("drift", tmp_path, capsys)
    assert told.pop("bands")["held"] >= 0.88  # 0.95 of 80, less three standard deviations
    clean = told.pop("clean")
    assert clean["alarms"] < 0.02
    assert 0.4 < clean["area"] < 0.6
    for row in told.values():
        assert row["accuracy"] < clean["accuracy"] - 0.1
        assert row["norm"] > clean["norm"]
    for name in ("noise", "dead pixels"):
        assert told[name]["alarms"] > 0.9
        assert told[name]["area"] > 0.7
    assert told["blurred"]["alarms"] < 0.1  # what it does not see, as the README says


@pytest.mark.skipif(not PICTURES, reason="matplotlib is not installed")
def test_as_a_script_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["control.py", "--plot", "control.png"])
    runpy.run_path(str(EXAMPLES / "control.py"), run_name="__main__")
    assert words(capsys.readouterr().out) == shown("control")
    assert (tmp_path / "control.png").stat().st_size > 1000


def test_every_example_is_public_short_and_pictured() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*NAMES, "pictures"}
    for name in NAMES:
        source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert len(source.splitlines()) <= 90
        imported = {
            module
            for node in ast.walk(ast.parse(source))
            for module in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert "onnxjvp" in imported
        assert not any(str(module).startswith("onnxjvp.") for module in imported)
        assert f"]({name}.py)" in README
        assert f"]({name}.png)" in README
        assert (EXAMPLES / f"{name}.png").stat().st_size <= 60_000


def test_the_same_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("images.npy", np.zeros((2, 1, 8, 8), np.float32))
    np.savez("upright.npz", state=np.zeros((1, 4), np.float32), action=np.zeros((1, 1), np.float32))
    commands = re.findall(r"^    onnxjvp (.*)$", README, re.M)
    assert len(commands) == len(NAMES)
    for command in commands:
        assert main(shlex.split(command.replace("models/", f"{MODELS.as_posix()}/"))) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    B = np.load("AB.npz")["next_state_jac_action"]
    np.testing.assert_array_equal(B[0, :, 0], example("control").learned()[1])
