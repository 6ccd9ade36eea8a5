"""Time and peak memory of `onnxjvp rewrite` as a whole process, and of the rewriting in it.

    python benchmarks/rewriting.py [MODEL…]      # default: what benchmarks/export made

Each run is a process of its own; medians of three. Memory over imports is the peak less that of a
process that only imports the package.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import write

MODELS = Path(__file__).with_name("models")
DEFAULT = (
    "torch_resnet50_torchscript",
    "light_resnet50",
    "torch_transformer_pre_torchscript",
    "deep_matmul",
    "deep_conv",
    "big",
)
FORMS = ("jvp", "split", "stacked")
RUNS = 3

#: runs in the measured process: the command line's own path, with a clock around its parts
CHILD = """
import json, resource, sys, time
start = time.perf_counter()
import onnxjvp
from onnxjvp import clone, jvp
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
imported, idle = time.perf_counter(), peak()
form, model, out = sys.argv[1:]
result = jvp(model) if form == "jvp" else clone(model, layout=form)
result.save(out)
done = time.perf_counter()
print(json.dumps({"import": imported - start, "rewrite": done - imported, "idle": idle,
                  "peak": peak(), "nodes": result.report["nodes_before"],
                  "after": result.report["nodes_after"]}))
"""


def measure(model: Path, form: str, folder: str) -> dict[str, float]:
    # beside the model, so that external data is referred to
    out = model.parent / f".{model.stem}.measured.onnx"
    try:
        command = [sys.executable, "-c", CHILD, form, str(model), str(out)]
        run = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
        return dict(json.loads(run.stdout))
    finally:
        out.unlink(missing_ok=True)


def main() -> None:
    given = [Path(a).resolve() for a in sys.argv[1:]]
    models = given or [p for p in (MODELS / f"{name}.onnx" for name in DEFAULT) if p.exists()]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            for form in FORMS:
                runs = [measure(model, form, folder) for _ in range(RUNS)]
                row = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
                rows.append(
                    {
                        "model": model.stem,
                        "form": form,
                        "file MB": model.stat().st_size / 1e6,
                        "nodes": int(row["nodes"]),
                        "nodes after": int(row["after"]),
                        "rewrite and save s": row["rewrite"],
                        "peak MB": row["peak"],
                        "MB over imports": row["peak"] - row["idle"],
                    }
                )
                print(rows[-1], flush=True)
    notes = (
        "`rewrite and save` is the time from the call to the file on disk; `peak` the whole "
        f"process. Medians of {RUNS} processes. Bare times: compare within this table only."
    )
    write("rewriting", "Rewriting: time and memory", notes, rows)


if __name__ == "__main__":
    main()
