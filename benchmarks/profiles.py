"""Where the time of a JVP goes: operators, and changes of layout, before and after lowering.

    python benchmarks/profiles.py [--only NAME…] [--batch N] [--rounds N]

Before is the file for `--target portable`, after that for `--target cpu`, both as onnxruntime's own
optimiser leaves them. The networks are those of speed.py. A node's time is its median over
interleaved rounds, an operator's the sum over its nodes, as a part of the plain forward's total.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from peers.rounds import THREADS, draw
from record import page, save

import onnxjvp
from onnxjvp.runtime import TensorSpec

MODELS = Path(__file__).with_name("models")
NETWORKS = {
    "resnet50": "paper_small_resnet50",
    "densenet121": "paper_small_densenet121",
    "efficientnet_b0": "paper_small_efficientnet_b0",
    "vit_b16": "paper_large_vit_b16",
}
FORMS = ("forward", "before", "after")
REORDERS = ("ReorderInput", "ReorderOutput", "Transpose")
#: operators below this part of the forward are put together
LEAST = 0.01
#: of each node, and how many of its operator there are: milliseconds, nodes
Profile = dict[str, tuple[float, int]]


class Profiled:
    """A model whose runs are recorded node by node."""

    def __init__(self, model: bytes | Path, folder: Path, batch: int) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        options.intra_op_num_threads = THREADS
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        content = model if isinstance(model, bytes) else str(model)
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.feeds = {
            i.name: draw(TensorSpec(i.name, "float32", sized(i.shape, batch)), seed)
            for seed, i in enumerate(self.session.get_inputs())
        }

    def __call__(self) -> None:
        self.session.run(None, self.feeds)

    def profile(self, skipped: int) -> Profile:
        """Ends the recording; the first runs of each node do not count."""
        taken: dict[tuple[str, str], list[float]] = defaultdict(list)
        events = json.loads(Path(self.session.end_profiling()).read_text(encoding="utf-8"))
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                taken[event["args"]["op_name"], event["name"]].append(event["dur"] / 1e3)
        found: Profile = {}
        for (operator, _), values in taken.items():
            time, nodes = found.get(operator, (0.0, 0))
            found[operator] = time + float(np.median(values[skipped:])), nodes + 1
        return found


def sized(shape: list[Any], batch: int) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else batch for dim in shape)


def profiles(path: Path, batch: int, rounds: int) -> dict[str, Profile]:
    """The forward, and a JVP as it is recorded and as it is lowered."""
    with TemporaryDirectory() as folder:
        runs = {
            form: Profiled(model, Path(folder), batch)
            for form, model in (
                ("forward", path),
                ("before", onnxjvp.jvp(path).proto().SerializeToString()),
                ("after", onnxjvp.jvp(path, target="cpu").proto().SerializeToString()),
            )
        }
        rng = np.random.default_rng(0)
        for _ in range(2 + rounds):
            for form in rng.permutation(FORMS):
                runs[form]()
        return {form: run.profile(skipped=2) for form, run in runs.items()}


def table(found: Mapping[str, Profile]) -> list[dict[str, str]]:
    """A row per operator: its part of the forward's time, and its nodes, in every form."""
    whole = sum(time for time, _ in found["forward"].values())
    operators = {op for profile in found.values() for op in profile}
    most = {op: max(found[form].get(op, (0.0, 0))[0] for form in FORMS) for op in operators}
    shown = sorted((op for op in operators if most[op] >= LEAST * whole), key=lambda op: -most[op])

    def row(label: str, chosen: set[str]) -> dict[str, str]:
        cells = {}
        for form in FORMS:
            values = [found[form][op] for op in chosen if op in found[form]]
            time, nodes = sum(t for t, _ in values), sum(n for _, n in values)
            cells[form] = f"{time / whole:.2f} ({nodes})" if nodes else ""
        return {"operator": label, **cells}

    rows = [row(op, {op}) for op in shown]
    rows += [row("others", operators - set(shown)), row("all", operators)]
    return [*rows, row("of these, layout reorders", set(REORDERS))]


TITLE = "Profiles: where a JVP's time goes"
NOTES = f"""\
Time of each operator over the plain forward's total, and its number of nodes in brackets: the plain
forward, J u written for `--target portable` (before) and for `--target cpu` (after), each as
onnxruntime's optimiser leaves it. Medians over interleaved rounds, float32, {THREADS} threads, no
spinning. The least that J u can take is 2: every product of matrices runs on x and on u. A layout
reorder takes an image into onnxruntime's blocked layout, or out of it."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--batch", type=int, default=1)
    options.add_argument("--rounds", type=int, default=15)
    args = options.parse_args()
    tables: dict[str, list[dict[str, str]]] = {}
    rows: list[dict[str, Any]] = []
    for name in args.only:
        found = profiles(MODELS / f"{NETWORKS[name]}.onnx", args.batch, args.rounds)
        tables[f"{name}, batch {args.batch}"] = table(found)
        rows.append({"model": name, "batch": args.batch, "ms and nodes": found})
        print(name, tables[f"{name}, batch {args.batch}"][-2], flush=True)
    save("profiles", TITLE, NOTES, rows)
    page("profiles", TITLE, NOTES, tables)


if __name__ == "__main__":
    main()
