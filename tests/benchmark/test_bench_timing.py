"""Turns in rounds, ratios taken round by round, and what is said of wrong results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import MODELS

from onnxjvp.benchmark import timing
from onnxjvp.benchmark.timing import DisagreementError, Run, agree, draw, error, interleave, ratio
from onnxjvp.runtime import TensorSpec


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second's wait for what other processes do."""
    monkeypatch.setattr(timing, "STAT", Path("/no/such/file"))


def test_every_contender_has_a_turn_in_every_round() -> None:
    turns: list[str] = []

    def contender(name: str, seconds: float) -> timing.Timed:
        def run() -> float:
            turns.append(name)
            return seconds * len(turns)  # a machine that slows down

        return run

    names = "abc"
    taken, others = interleave({n: contender(n, i + 1) for i, n in enumerate(names)}, 20)
    assert others == 0
    rounds = [turns[i : i + 3] for i in range(0, len(turns), 3)]
    assert len(rounds) == 20 + timing.WARM
    assert all(sorted(each) == list(names) for each in rounds)
    assert len({tuple(each) for each in rounds}) > 3
    assert all(found.shape == (20,) and found.min() > 0 for found in taken.values())


def test_ratios_are_those_of_the_same_round() -> None:
    below = np.array([1.0, 10.0, 100.0, 1000.0])
    assert ratio(below * [2, 3, 3, 4], below, "r") == {"r": 3.0, "r quartiles": "2.75 to 3.25"}


def test_cores_at_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  10 0 10 1000 0 0 0\n")
    monkeypatch.setattr(timing, "STAT", stat)
    monkeypatch.setattr(timing.os, "cpu_count", lambda: 4)
    ticks = timing.os.sysconf("SC_CLK_TCK")
    later = f"cpu  99 0 99 {1000 + ticks} {2 * ticks} 0 0\n"
    monkeypatch.setattr(timing.time, "sleep", lambda _: stat.write_text(later))
    assert timing.busy() == 1.0


def test_a_model_is_run() -> None:
    run = Run(str(MODELS / "diabetes_mlp.onnx"))
    run.feeds = {s.name: draw(s, 0) for s in run.session.inputs}
    assert run() > 0
    assert run.value("progression").shape == (1, 1)


def test_draws() -> None:
    spec = TensorSpec("x", np.dtype(np.float16), ("N", 3))
    assert draw(spec, 0).shape == (1, 3)
    assert draw(spec, 0).dtype == np.float16
    np.testing.assert_array_equal(draw(spec, 1), draw(spec, 1))


def test_other_functions_are_refused() -> None:
    assert agree({"jvp": 1e-6}, noise=1e-7) == "jvp 1e-06, rounding x 1e-07"
    assert agree({"jvp": 1e-2}, noise=1e-2)
    for wrong in (1e-2, float("nan")):
        with pytest.raises(DisagreementError, match="other functions' results"):
            agree({"jvp": wrong}, noise=1e-4)
    assert error(np.array([3.0, 5.0]), np.array([3.0, 4.0])) == 0.2
