"""Files from anyone: a clear error or a right answer, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import hostile_graphs  # noqa: F401  (these fill the table)
import hostile_messages  # noqa: F401
import hostile_sizes  # noqa: F401
import hostile_tensors  # noqa: F401
from hostile_kinds import KINDS
from hostile_runner import MEMORY, SECONDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks under limits of Linux")

Row = dict[str, Any]

#: exit codes: done, a usage error, a model that is refused
READ, USAGE, REFUSED = 0, 2, 3


def test_hostile_files(tmp_path: Path) -> None:
    """Every kind of file, in one go: the packages are imported once."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("hostile_runner.py")), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    rows: dict[str, list[Row]] = {name: [] for name in KINDS}
    for line in done.stdout.splitlines():
        row = json.loads(line)
        row["left"] = sorted(p.name for p in (tmp_path / row["kind"]).iterdir())
        rows[row["kind"]].append(row)
    wrong = [f"{name}: {why}" for name in KINDS for why in _wrong(name, rows[name])]
    assert not wrong, "\n".join(wrong)


def _wrong(name: str, rows: list[Row]) -> Iterator[str]:
    """What is not as it should be."""
    for row in rows:
        label = f"{row['command']} ends with {row['code']} after {row['seconds']:.1f} s"
        printed = row["printed"]
        if row["code"] not in (READ, USAGE, REFUSED) or "Traceback" in printed:
            yield f"{label}: {printed}"  # a signal is negative
        elif row["code"] != READ and not printed.startswith("error: "):
            yield f"{label}: {printed}"
        if row["seconds"] > SECONDS or row["bytes"] > MEMORY:
            yield f"{label} and {row['bytes'] >> 20} MB"
        if "\x1b" in printed:
            yield f"{label}, and writes to the terminal what is in the file"
        if any(left.startswith(".") for left in row["left"]):
            yield f"{label}, and leaves {row['left']}"
    if KINDS[name].expected == "read" and rows[0]["code"] != READ:
        yield f"is refused: {rows[0]['printed']}"
    elif KINDS[name].expected == "refused":
        # what is inspected may be refused where it is rewritten; links are the runtime's to judge
        last = [row for row in rows if row["command"] != "run"][-1]
        if last["code"] == READ or {"out.onnx", "vjp.onnx"} & set(last["left"]):
            yield f"is not refused: {last['printed']}"
        if missing := [word for word in KINDS[name].words if word not in last["printed"]]:
            yield f"the error lacks {missing}: {last['printed']}"
