"""A real MLServer with onnxruntime behind it: mixed requests, a killed process, bad requests."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlserver") is None or sys.platform != "linux",
    reason='needs MLServer on Linux: pip install "onnxjvp[serve]"',
)


def test_every_reply_is_right_or_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """benchmarks/serving.py in small: it is killed once on the way."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    serving = importlib.import_module("serving")
    row = serving.run(400, 4, 1, 0, 0, tmp_path / "server.log", pool=10)
    assert (row["wrong"], row["lost"], row["words"]) == (0, 0, [])
    assert row["right"] + row["refused as they should"] == 400
    assert len(row["refusals"]) == len(serving.bad_requests())
    assert row["retries"] > 0  # the kill was seen, and mended
    assert row["server's exit code"] == 0
