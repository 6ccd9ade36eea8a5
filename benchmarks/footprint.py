"""The memory that a model takes: started afresh for each, so that it is not another's.

    python benchmarks/footprint.py BATCH [MODEL.onnx [unplanned]]

Loads the model in onnxruntime as the timed ones, runs it twice, and prints bytes as JSON: the
highest resident set ("peak"), the one when it was loaded and what loading freed went back to the
system ("loaded", with glibc), and the highest from then on, in the first run ("first") and in both
("running"). Without a model, those of a process that only imports; `unplanned` turns off the plan
of buffers, which onnxruntime follows from the second run on. Linux only.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from peers.rounds import THREADS

from onnxjvp.runtime import Session

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
Memory = dict[str, int]


def resident(field: str) -> int:
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[field].split()[0]) << 10


def footprint(batch: int, model: Path | None = None, *, planned: bool = True) -> Memory:
    """Bytes, in a process of its own."""
    more = [str(model), *([] if planned else ["unplanned"])] if model else []
    command = [sys.executable, __file__, str(batch), *more]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def main() -> None:
    batch, *more = sys.argv[1:]
    planned = "unplanned" not in more
    session = Session(more[0], threads=THREADS, plan_memory=planned) if more else None
    feeds = {}
    for spec in session.inputs if session else ():
        shape = [dim if isinstance(dim, int) else int(batch) for dim in spec.shape]
        feeds[spec.name] = np.random.default_rng(0).standard_normal(shape, spec.dtype)
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    memory = {"loaded": resident("VmRSS"), "peak": resident("VmHWM")}
    RESET.write_text("5", encoding="ascii")  # the highest so far is forgotten
    for when in ("first", "running"):
        if session:
            session.run(feeds)
        memory[when] = resident("VmHWM")
    memory["peak"] = max(memory["peak"], memory["running"])
    print(json.dumps(memory))


if __name__ == "__main__":
    main()
