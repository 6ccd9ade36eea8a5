"""The standard's own node tests, differentiated: how many pass, and why the others do not.

    python benchmarks/node_tests.py [NAME…]      # names start with these; default: all, one core

Every case of `onnx.backend.test` with a float input and a float output is rewritten (jvp, vjp, both
layouts of the clone) and held against differences of the original: see tests/nodes/judge.py. Only a
run without names writes the results.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from record import page, save

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / part) for part in ("nodes", "")]

from judge import Verdict, judge  # noqa: E402  (found through sys.path)
from standard import NodeCase, every_case, float_cases  # noqa: E402

NOTES = (
    "Every node test that ships with onnx, with a float input and a float output. The truth is the "
    "original in float64 (onnxruntime's kernels, else onnx's reference), where it reproduces the "
    "outputs that onnx ships, and central differences of it along a random direction in all float "
    "inputs at once. *passed*: J u is within 1e-5 of them (3e-2 for the few kernels that exist in "
    "float32 only), <v, J u> = <vjp, u>, both layouts of the clone are the affine map, f(x) is "
    "unchanged, and onnxruntime computes the same from the file as it is. *flat*: differences are "
    "exactly zero, and so is J u, or it is refused. *passed in part*: refused in one float operand "
    "(the scales of Resize, say) and right in the others. *singular*: a slope is infinite at the "
    "point, which cannot be moved. *no oracle*: nothing reproduces what is "
    "shipped, or differences settle nowhere near the point. A point at a kink (ties, zeros) is "
    "moved by 1 or 10 % of each number."
)
ORDER = ("passed", "passed in part", "flat", "refused", "singular", "no oracle", "wrong", "crashed")


def examine(case: NodeCase) -> dict[str, Any]:
    """A verdict as a row; what the library raises that is no error of its own is a crash."""
    start = time.perf_counter()
    try:
        verdict = judge(case)
    except Exception as error:  # noqa: BLE001  (naming crashes is what this is for)
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return _row(Verdict(case.name, case.operator, "wrong"), start) | {
            "status": "crashed",
            "reason": reason,
        }
    return _row(verdict, start)


def _row(verdict: Verdict, start: float) -> dict[str, Any]:
    return {
        "case": verdict.name,
        "operator": verdict.operator,
        "status": verdict.status,
        "reason": verdict.reason,
        "oracle": verdict.oracle,
        "moved": verdict.moved,
        "notes": "; ".join(verdict.notes),
        "seconds": round(time.perf_counter() - start, 3),
    }


def counts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    found = Counter(row["status"] for row in rows)
    judged = sum(
        found[status] for status in ("passed", "passed in part", "refused", "wrong", "crashed")
    )
    return {
        "node tests": len(every_case()),
        "with floats": len(rows),
        **{status: found[status] for status in ORDER},
        "passed of those with a derivative": f"{found['passed'] / max(judged, 1):.1%}",
    }


def tables(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Counts; every case that did not pass by status; and what differences were taken of."""
    shown = ("case", "reason", "notes")
    made: dict[str, list[dict[str, Any]]] = {"Counts": [counts(rows)]}
    for status in ("wrong", "crashed", "refused", "passed in part", "singular", "no oracle"):
        chosen = [{k: row[k] for k in shown} for row in rows if row["status"] == status]
        if chosen:
            made[status.capitalize()] = sorted(chosen, key=lambda row: row["case"])
    partly = [
        {k: row[k] for k in shown} for row in rows if row["status"] == "passed" and row["notes"]
    ]
    made["Passed, with a note"] = partly
    kinds = Counter(row["oracle"] for row in rows if row["oracle"])
    made["Oracles"] = [{"oracle": name, "cases": count} for name, count in kinds.most_common()]
    return made


def main() -> int:
    wanted = tuple(sys.argv[1:])
    chosen = [case for name, case in float_cases().items() if name.startswith(wanted or "")]
    rows = []
    for case in chosen:
        rows.append(examine(case))
        if rows[-1]["status"] not in ("passed", "flat"):
            print(rows[-1], flush=True)
    print(counts(rows))
    if not wanted:
        title = "The standard's node tests, differentiated"
        save("node_tests", title, NOTES, rows)
        page("node_tests", title, NOTES, tables(rows))
    return int(any(row["status"] in ("wrong", "crashed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
