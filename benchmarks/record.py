"""What every result is recorded with: versions, the machine's kind; and how it is written down."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from onnxjvp import __version__

RESULTS = Path(__file__).with_name("results")
PACKAGES = ("onnx", "onnx-ir", "onnxruntime", "numpy")


def machine() -> dict[str, Any]:
    """The kind of machine, not which one: processor model and number of cores."""
    info = Path("/proc/cpuinfo")
    names = [
        line.split(":", 1)[1].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "onnxjvp": __version__,
        **{package: _version(package) for package in PACKAGES},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def rows_of(name: str) -> list[dict[str, Any]]:
    """The rows of an earlier result; none if there is no such file."""
    path = RESULTS / f"{name}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["rows"]) if path.exists() else []


def write(name: str, title: str, notes: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """results/NAME.json, and the same as a table in results/NAME.md."""
    save(name, title, notes, rows)
    page(name, title, notes, {"": rows})


def save(name: str, title: str, notes: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """results/NAME.json: what `write` writes, without its table."""
    RESULTS.mkdir(exist_ok=True)
    record = {"title": title, "notes": notes, "machine": machine(), "rows": list(rows)}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    # an interruption leaves the earlier file
    temporary = RESULTS / f".{name}.json"
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(RESULTS / f"{name}.json")


def page(
    name: str,
    title: str,
    notes: str,
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    about: Mapping[str, Any] | None = None,
) -> None:
    """results/NAME.md: tables under their headings; a row's cells by column.

    `about` is the machine that the rows are of; None means this one.
    """
    lines = [f"# {title}", "", notes, ""]
    lines += [", ".join(f"{key} {value}" for key, value in (about or machine()).items()) + "."]
    for heading, rows in tables.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += ["", f"## {heading}"] if heading else []
        lines += ["", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    (RESULTS / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value).replace("|", "\\|")
