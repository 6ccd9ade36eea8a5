"""Files from anyone: a clear error or a right answer, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import graphs  # noqa: E402, F401  (these fill the table)
import messages  # noqa: E402, F401
import sizes  # noqa: E402, F401
import tensors  # noqa: E402, F401
from kinds import KINDS  # noqa: E402
from runner import MEMORY, SECONDS  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks under limits of Linux")

Row = dict[str, Any]
Rows = dict[str, list[Row]]

#: exit codes: done, a usage error, a model that is refused
READ, USAGE, REFUSED = 0, 2, 3


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What became of every command on every file."""
    root = Path(__file__).parents[2]
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("runner.py")), str(folder)],
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
    )
    found: Rows = {name: [] for name in KINDS}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        row["left"] = sorted(p.name for p in (folder / row["kind"]).iterdir())
        found[row["kind"]].append(row)
    return found


@pytest.mark.parametrize("name", KINDS)
def test_a_hostile_file(rows: Rows, name: str) -> None:
    expected, words = KINDS[name].expected, KINDS[name].words
    assert rows[name][0]["command"] == "inspect"
    for row in rows[name]:
        assert "Traceback" not in row["printed"], row
        assert row["code"] in (READ, USAGE, REFUSED), row  # a signal is negative
        assert row["seconds"] < SECONDS, row
        assert row["bytes"] < MEMORY, row
            assert "\x1b" not in row["printed"]
        if row["code"] != READ:
            assert row["printed"].startswith("error: "), row
        assert not any(left.startswith(".") for left in row["left"]), row
    first = rows[name][0]
    if expected == "read":
        assert first["code"] == READ, first
    elif expected == "refused":
        refusal = rows[name][-1]  # what is inspected may be refused where it is rewritten
        assert refusal["code"] in (USAGE, REFUSED), refusal
        assert all(word in refusal["printed"] for word in words), refusal
        assert not {"out.onnx", "vjp.onnx"} & set(refusal["left"])
