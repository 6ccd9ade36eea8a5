"""Random valid models, held to every property: the long runs behind tests/passes/.

    python benchmarks/random_graphs.py --count 2000 --seed 0
    python benchmarks/random_graphs.py --count 20000 --levels

A model has about seven steps: operators drawn by family, and rows of the op tables, so every
operator that has a rule or a body. Each is rewritten in float64 and held to: f(x) unchanged; J u
against differences (outputs without a derivative against zero); the adjoint; both layouts of the
clone; several directions or cotangents, or one input alone; f(x) bit for bit in float32. Those that
round are held to differences of the straight-through estimator. With `--levels` one form of each is
run in float32 at every level of onnxruntime's optimisations instead.

Prints every seed that fails, with the reason. A run is recorded in results/random_graphs.md, unless
`--no-record`. Models are checked in a process of their own: a crash of the runtime is a failure of
its seed, and the next seeds go on. A seed alone: `--count 1 --seed N --show --no-record`.
"""

from __future__ import annotations

import argparse
import multiprocessing as mp
import sys
import time
from collections import Counter
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / p) for p in ("passes", "rules", "")]

import onnx.printer  # noqa: E402  (found through sys.path)
from random_checks import check  # noqa: E402
from random_levels import RuntimeLevelError, check_levels, run_original  # noqa: E402
from random_models import random_model  # noqa: E402
from random_steps import MAKERS  # noqa: E402
from record import machine, page, rows_of, save  # noqa: E402

#: seconds that a model may take: hundreds of runs in all
LONGEST = 120
#: a process for so many
CHUNK = 500
#: outcomes that have a column; the others are listed
COLUMNS = ("checked", "no derivative", "RUNTIME", "FAILED")
NAME, TITLE = "random_graphs", "Random models, held to every property"
NOTES = (
    "A row is a run of benchmarks/random_graphs.py. *Properties*: in float64, f(x) unchanged, J u "
    "against differences, the adjoint, both layouts of the clone, several directions, and f(x) bit "
    "for bit in float32. *Levels*: one form in float32 at every level of onnxruntime's "
    "optimisations, and for a CPU, as near to float64 as without them. A refusal names its "
    "operators below; *RUNTIME* counts models that a level of onnxruntime changes or refuses by "
    "itself, before anything is rewritten."
)


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--count", type=int, default=500, help="models to draw (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="the first seed (%(default)s)")
    options.add_argument("--seconds", type=float, default=1e9, help="stop after so many")
    options.add_argument("--levels", action="store_true", help="onnxruntime's optimisations")
    options.add_argument("--show", action="store_true", help="print the models")
    options.add_argument("--no-record", action="store_true", help="leave results/ as it is")
    args = options.parse_args()
    if args.show:
        for seed in range(args.seed, args.seed + args.count):
            print(onnx.printer.to_text(random_model(seed, MAKERS).model("float64", symbolic=False)))
    run = Run(args.levels, args.seed)
    run.go(args.count, args.seconds)
    row = run.row()
    for outcome, count in run.outcomes.most_common():
        print(f"{count:6} {outcome}")
    done = run.next - run.first
    print(f"{done:6} graphs, {done / run.seconds:.1f} per second, {len(run.operators)} operators")
    if not args.no_record:
        record(row)
    return int(bool(run.failures))


class Run:
    """Seeds in a row, in processes that may die."""

    def __init__(self, levels: bool, first: int) -> None:
        self.levels, self.first, self.next = levels, first, first
        self.outcomes: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.failures: dict[str, str] = {}
        self.seconds = 0.0

    def go(self, count: int, seconds: float) -> None:
        start, last = time.perf_counter(), self.first + count
        while self.next < last and self.seconds < seconds:
            here, there = mp.Pipe(duplex=False)
            stop = min(last, self.next + CHUNK)
            arguments = (there, self.levels, self.next, stop, start + seconds)
            process = mp.get_context("fork").Process(target=_check, args=arguments)
            process.start()
            there.close()
            try:
                while (found := _answer(here, process)) is not None:
                    self._note(*found)
            except TimeoutError as error:
                self._note(self.next, f"FAILED: {error}", set())
            except EOFError:
                process.join()
                kind = "RUNTIME" if _crashes_alone(self.next) else "FAILED"
                self._note(self.next, f"{kind}: the process ended with {process.exitcode}", set())
            process.join()
            self.seconds = time.perf_counter() - start

    def _note(self, seed: int, outcome: str, operators: set[str]) -> None:
        self.next = seed + 1
        kind = outcome.split(":", maxsplit=1)[0]
        if kind in ("FAILED", "RUNTIME"):
            print(f"seed {seed}: {outcome}", flush=True)
            self.failures[str(seed)] = outcome
        self.operators.update(operators)
        self.outcomes[kind if kind in COLUMNS else outcome] += 1

    def row(self) -> dict[str, Any]:
        others = {k: n for k, n in self.outcomes.most_common() if k not in COLUMNS}
        return {
            "run": "levels" if self.levels else "properties",
            "first": self.first,
            "last": self.next - 1,
            **{column: self.outcomes[column] for column in COLUMNS},
            "others": others,
            "operators": dict(sorted(self.operators.items())),
            "failures": self.failures,
            "seconds": self.seconds,
            "machine": machine(),
        }


def _answer(pipe: Connection, process: BaseProcess) -> Any:
    """What comes next from a process; a model that takes too long is ended with it."""
    if not pipe.poll(LONGEST):
        process.kill()
        raise TimeoutError(f"no answer within {LONGEST} s")
    return pipe.recv()


def _check(pipe: Connection, levels: bool, first: int, last: int, until: float) -> None:
    """Checks seeds, and says of each what came of it; None at the end."""
    for seed in range(first, last):
        if time.perf_counter() > until:
            break
        operators: set[str] = set()
        try:
            draw = random_model(seed, MAKERS)
            outcome = check_levels(draw) if levels else check(draw)
            if outcome == "checked":
                operators = {f"{n.domain}::{n.op_type}".removeprefix("::") for n in draw.nodes}
        except RuntimeLevelError as error:
            outcome = f"RUNTIME: {error}"
        except Exception as error:  # noqa: BLE001  (naming every defect is what this is for)
            outcome = f"FAILED: {type(error).__name__}: {error}"
        pipe.send((seed, outcome, operators))
    pipe.send(None)


def _crashes_alone(seed: int) -> bool:
    """Whether the original crashes onnxruntime, before anything is rewritten."""
    context = mp.get_context("fork")
    process = context.Process(target=lambda: run_original(random_model(seed, MAKERS)))
    process.start()
    process.join()
    return (process.exitcode or 0) < 0


# -- the record --------------------------------------------------------------------------------


def record(row: dict[str, Any]) -> None:
    """Adds a run; one that goes on where the last of its kind ended is put together with it."""
    rows = rows_of(NAME)
    for earlier in rows:
        same = all(earlier[key] == row[key] for key in ("run", "machine"))
        if same and earlier["last"] + 1 == row["first"]:
            rows.remove(earlier)
            row = _joined(earlier, row)
            break
    rows = sorted([*rows, row], key=lambda each: (each["run"], each["first"]))
    save(NAME, TITLE, NOTES, rows)
    page(NAME, TITLE, NOTES, _tables(rows))


def _joined(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    sums = {key: a[key] + b[key] for key in (*COLUMNS, "seconds")}
    counts = {key: dict(Counter(a[key]) + Counter(b[key])) for key in ("others", "operators")}
    return {**b, **sums, **counts, "first": a["first"], "failures": a["failures"] | b["failures"]}


def _tables(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    runs, reasons, failures, drawn = [], [], [], []
    for row in rows:
        graphs, others = row["last"] - row["first"] + 1, Counter(row["others"])
        name = f"{row['run']}, {row['first']} to {row['last']}"
        runs.append(
            {
                "run": row["run"],
                "seeds": f"{row['first']} to {row['last']}",
                "graphs": graphs,
                **{column: row[column] for column in COLUMNS},
                "others": others.total(),
                "operators": len(row["operators"]),
                "graphs/s": graphs / row["seconds"],
                "onnx": row["machine"]["onnx"],
                "onnxruntime": row["machine"]["onnxruntime"],
            }
        )
        reasons += [{"run": name, "graphs": n, "outcome": why} for why, n in others.most_common()]
        failures += [
            {"run": name, "seed": seed, "outcome": " ".join(why.split())[:300]}
            for seed, why in row["failures"].items()
        ]
        for operator, n in sorted(row["operators"].items()):
            drawn.append({"run": name, "operator": operator, "graphs": n})
    listed = [
        {
            "run": run,
            "operators": ", ".join(
                f"{d['operator']} {d['graphs']}" for d in drawn if d["run"] == run
            ),
        }
        for run in dict.fromkeys(d["run"] for d in drawn)
    ]
    tables = {
        "": runs,
        "Others": reasons,
        "Failures": failures,
        "In how many checked models": listed,
    }
    return {heading: table for heading, table in tables.items() if table}


if __name__ == "__main__":
    sys.exit(main())
