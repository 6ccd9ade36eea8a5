"""What onnx-ad takes and onnxjvp does not: onnx's node tests, both modes, fixed and dynamic shapes.

    python benchmarks/acceptance.py [NAME…]      # names start with these; default: all; one core

Needs onnx-ad's environment (peers/environments.py). A case is taken if a model is written.
*Dynamic* is the case with a symbol for every dimension of its inputs (but for the number of a
Resize's sizes, which ONNX wants to know), and no shape of anything else. What onnxjvp writes of a
dynamic case must give in onnxruntime what it writes of the case as it is, which node_tests.py holds
against differences. A case with no derivative at all (flat there, or drawn at random) is one that
onnx-ad answers with zeros and onnxjvp with a refusal. In scales and regions of a Resize onnx-ad, by
its source, lets directions pass as if they were zero. Only a run without names writes results; the
JSON leaves out what both take.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from peers.environments import python_of
from record import page, rows_of, save

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / part) for part in ("nodes", "")]

from judge import reason_of  # noqa: E402  (found through sys.path)
from standard import NodeCase, float_cases  # noqa: E402

from onnxjvp import Rewritten, jvp, vjp  # noqa: E402
from onnxjvp.errors import OnnxJvpError  # noqa: E402
from onnxjvp.oracle import random_nodes  # noqa: E402
from onnxjvp.runtime import Session  # noqa: E402

NOTES = __doc__.split("\n\n", 2)[2].replace("\n", " ")
MODES: dict[str, Callable[..., Rewritten]] = {"forward": jvp, "reverse": vjp}
DYNAMIC = "__dynamic"
#: verdicts of node tests without a derivative
NOTHING = ("flat", "random")
TAKEN = "taken"


def dynamic(model: ModelProto) -> ModelProto:
    """Every dimension of an input a symbol of its own; no other shape is given."""
    freed = ModelProto()
    freed.CopyFrom(model)
    for i, value in enumerate(freed.graph.input):
        for k, dim in enumerate(value.type.tensor_type.shape.dim):
            if not _is_fixed(model, value.name):
                dim.dim_param = f"d{i}_{k}"
    del freed.graph.value_info[:]
    for value in freed.graph.output:
        kind = value.type.tensor_type
        if value.type.HasField("tensor_type") and kind.HasField("shape"):
            for k, dim in enumerate(kind.shape.dim):
                dim.dim_param = f"out_{value.name}_{k}"
    return freed


def _is_fixed(model: ModelProto, name: str) -> bool:
    """ONNX takes a symbol for the number of a Resize's sizes for 0, and then turns it away."""
    return any(n.op_type == "Resize" and name in list(n.input)[3:] for n in model.graph.node)


def alone_in(case: NodeCase, model: ModelProto, mode: str) -> str:
    """In which inputs alone a case is taken that is refused in all of them together."""
    found = []
    for name in case.variables:
        try:
            MODES[mode](model, [name])
            found.append(name)
        except OnnxJvpError:
            continue
    return ", ".join(found) or "none"


def answers(model: ModelProto) -> dict[str, Rewritten | str]:
    """By mode: what onnxjvp writes, or why it refuses."""
    made: dict[str, Rewritten | str] = {}
    for mode, form in MODES.items():
        try:
            made[mode] = form(model)
        except OnnxJvpError as error:
            made[mode] = reason_of(error)
    return made


def same(case: NodeCase, fixed: Rewritten, freed: Rewritten) -> str:
    """Whether onnxruntime gets the same from both, and where it cannot say, why."""
    rng = np.random.default_rng(0)
    try:
        feeds = dict(case.inputs)
        if fixed.names.get("cotangents"):
            primal = Session(case.model).run(feeds)
            feeds |= {
                name: rng.standard_normal(primal[y].shape).astype(primal[y].dtype)
                for y, name in fixed.names["cotangents"].items()
            }
        else:
            feeds |= {
                name: rng.standard_normal(np.shape(feeds[x])).astype(feeds[x].dtype)
                for x, name in fixed.names["seeds"].items()
            }
        want = Session(fixed.proto()).run(feeds)
    except Exception as error:  # noqa: BLE001  (the runtime lacks kernels; node_tests.py has others)
        return f"not run: {str(error).splitlines()[0][:120]}"
    try:
        found = Session(freed.proto()).run(feeds)
    except Exception as error:  # noqa: BLE001  (said in the table)
        return f"fails: {str(error).splitlines()[0][:200]}"
    if set(found) != set(want):
        return f"other outputs: {sorted(set(found) ^ set(want))}"
    for name, value in want.items():
        if np.asarray(value).dtype.kind != "f":
            continue
        near = np.finfo(value.dtype).eps ** 0.5 if value.dtype.itemsize > 2 else 2e-2
        scale = np.nanmax(np.abs(np.where(np.isfinite(value), value, 0)), initial=1e-30)
        if not np.allclose(found[name], value, rtol=near, atol=near * scale, equal_nan=True):
            return f"other numbers in {name}"
    return "same"


def examine(case: NodeCase, theirs: Mapping[str, Any], verdict: str) -> list[dict[str, Any]]:
    """A row per mode and kind of shape."""
    shapes = {"as it is": case.model, "dynamic": dynamic(case.model)}
    ours = {kind: answers(model) for kind, model in shapes.items()}
    rows = []
    for kind, made in ours.items():
        for mode, one in made.items():
            said = theirs[case.name + (DYNAMIC if kind == "dynamic" else "")][mode]
            row = {"case": case.name, "mode": mode, "shapes": kind, "onnx-ad": said}
            row["onnxjvp"] = one if isinstance(one, str) else TAKEN
            row["node test"] = "random" if random_nodes(case.model.graph) else verdict
            if said == TAKEN and isinstance(one, str):
                row["onnxjvp takes it in"] = alone_in(case, shapes[kind], mode)
            fixed = ours["as it is"][mode]
            if kind == "dynamic" and not isinstance(one, str) and not isinstance(fixed, str):
                row["as the fixed one"] = same(case, fixed, one)
            rows.append(row)
    return rows


def asked(cases: Mapping[str, NodeCase]) -> dict[str, Any]:
    """What onnx-ad says to each case, as it is and dynamic."""
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            onnx.save(case.model, Path(folder, f"{name}.onnx"))
            onnx.save(dynamic(case.model), Path(folder, f"{name}{DYNAMIC}.onnx"))
        worker = Path(__file__).parent / "peers" / "onnx_ad_acceptance_worker.py"
        subprocess.run([python_of("onnx-ad"), str(worker), folder], check=True)
        return dict(json.loads(Path(folder, "onnx-ad.json").read_text(encoding="utf-8")))


def counts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    made = []
    for kind in ("as it is", "dynamic"):
        for mode in MODES:
            chosen = [r for r in rows if (r["shapes"], r["mode"]) == (kind, mode)]
            found = Counter((r["onnx-ad"] == TAKEN, r["onnxjvp"] == TAKEN) for r in chosen)
            made.append(
                {
                    "shapes": kind,
                    "mode": mode,
                    "cases": len(chosen),
                    "both take": found[True, True],
                    "onnxjvp alone": found[False, True],
                    "onnx-ad alone": len(alone(chosen)),
                    "… with no derivative": found[True, False] - len(alone(chosen)),
                    "neither": found[False, False],
                }
            )
    return made


def alone(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What onnx-ad takes alone, and has a derivative."""
    return [
        row
        for row in rows
        if row["onnx-ad"] == TAKEN and row["onnxjvp"] != TAKEN and row["node test"] not in NOTHING
    ]


def _is_plain(row: dict[str, Any]) -> bool:
    """Both take it, and the file does what it should: nothing to read about."""
    taken = row["onnx-ad"] == row["onnxjvp"] == TAKEN
    return taken and row.get("as the fixed one", "same") == "same"


def main() -> int:
    wanted = tuple(sys.argv[1:])
    cases = {n: c for n, c in float_cases().items() if n.startswith(wanted or "")}
    verdicts = {row["case"]: row["status"] for row in rows_of("node_tests")}
    theirs = asked(cases)
    rows = [
        row for case in cases.values() for row in examine(case, theirs, verdicts.get(case.name, ""))
    ]
    moved = [row for row in rows if row.get("as the fixed one", "same") != "same"]
    broken = [row for row in moved if not row["as the fixed one"].startswith("not run")]
    for row in (*alone(rows), *broken):
        print(row)
    ran = Counter(
        row["as the fixed one"].split(":")[0] for row in rows if "as the fixed one" in row
    )
    print(*counts(rows), dict(ran), sep="\n")
    if not wanted:
        title = "Node tests that onnx-ad takes"
        notes = f"{NOTES} onnx-ad {theirs['version']}."
        save("acceptance", title, notes, [row for row in rows if not _is_plain(row)])
        tables = {
            "Counts": counts(rows),
            "Dynamic against fixed shapes, in onnxruntime": [dict(ran)],
            "onnx-ad alone": alone(rows),
        }
        if broken:
            tables["Dynamic files that fail or differ"] = broken
        page("acceptance", title, notes, tables)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
