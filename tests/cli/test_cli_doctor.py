"""`onnxjvp doctor`: what it says where all is well, and where something is missing or broken."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import Cli

from onnxjvp import verification
from onnxjvp.cli import doctor
from onnxjvp.runtime import session
from onnxjvp.verification.report import Report, Row

Wheels = Callable[[Mapping[str, str | None]], None]


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> Wheels:
    """Pretend that packages have other versions, or are not there (None)."""
    real = doctor._version

    def pretend(versions: Mapping[str, str | None]) -> None:
        monkeypatch.setattr(
            doctor, "_version", lambda name: versions[name] if name in versions else real(name)
        )

    return pretend


def _by_name(found: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {each["name"]: each for each in found["findings"]}


def test_all_is_well_here(cli: Cli) -> None:
    result = cli("doctor")
    assert (result.code, result.err) == (0, "")
    assert "\nready" in result.out
    content = cli("doctor", "--json").json()
    assert content["passed"]
    found = _by_name(content)
    assert found["onnx"]["found"] == importlib.metadata.version("onnx")
    assert found["CPU"]["found"] == "computes"
    assert found["J u"]["found"] == found["J^T v"]["found"] == "verified"
    assert "float64 differences" in found["J u"]["note"]


def test_both_wheels_are_a_warning(cli: Cli, wheels: Wheels) -> None:
    wheels({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"})
    result = cli("doctor")
    assert result.code == 0
    assert "overwrite each other: pip uninstall onnxruntime onnxruntime-gpu" in result.out
    assert result.out.endswith("ready, 1 warning(s)\n")


def test_without_a_runtime_models_are_rewritten_only(
    cli: Cli, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels(dict.fromkeys(doctor.RUNTIMES))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    content = cli("doctor", "--json").json()
    found = _by_name(content)
    assert content["passed"]
    assert 'pip install "onnxjvp[cpu]"' in found["onnxruntime"]["note"]
    assert found["J u"]["found"] == "rewritten, not run"


def test_a_runtime_that_cannot_be_imported(
    cli: Cli, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels({"onnxruntime": "1.31.1"})
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    content = cli("doctor", "--json")
    assert content.code == 1
    assert _by_name(content.json())["import"]["status"] == "problem"


def test_a_provider_that_does_not_load(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    built = ("1.31.1", ("CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"))
    monkeypatch.setattr(session, "installed", lambda: built)
    content = cli("doctor", "--json").json()
    found = _by_name(content)
    if found["CUDA"]["found"] == "computes":
        pytest.skip("there is a GPU")
    assert (found["CUDA"]["found"], found["CUDA"]["status"]) == ("does not load", "warning")
    assert "Azure" not in found
    assert content["passed"]


def test_packages_that_are_too_old_or_missing(
    cli: Cli, wheels: Wheels, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["onnx-ir>=1.1", "numpy>=1.26", 'scipy>=1.11; extra == "analysis"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    wheels({"scipy": "1.9.3rc1", "matplotlib": None})
    result = cli("doctor", "--json")
    found = _by_name(result.json())
    assert result.code == 1
    assert found["scipy"]["note"] == 'too old: pip install "scipy>=1.11"'
    assert (found["matplotlib"]["status"], found["numpy"]["status"]) == ("missing", "ok")
    wheels({"onnx-ir": None})
    result = cli("doctor")
    assert result.code == 1
    assert "self-test" not in result.out
    assert "not ready: 1 problem(s)" in result.out


def test_wrong_numbers_are_a_problem(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row("jvp = float64 differences", "y_jvp", "failed", "float64", relative=0.5)
    report = Report((row,), "float64 differences")
    monkeypatch.setattr(verification, "verify", lambda *_: report)
    result = cli("doctor")
    assert result.code == 1
    assert "jvp = float64 differences of y_jvp: float64 differences, worst error 0.5" in result.out


def test_every_extra_is_known() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    ours = {"cpu", "gpu", "test", "docs", "fuzz"}
    known = ours | {extra for extra, _ in doctor.OPTIONAL.values()}
    assert known >= project["optional-dependencies"].keys()
    assert {each.split(">")[0] for each in project["dependencies"]} == set(doctor.REQUIRED)
