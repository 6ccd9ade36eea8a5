"""Neural tangent kernels of image classifiers: the paper's Figures 2 and 4, on a CPU.

    python benchmarks/kernel_models.py [--only MODEL…] [--outputs one all] [--methods METHOD…]

The figures are of Novak, Sohl-Dickstein & Schoenholz, Fast Finite Width Neural Tangent Kernel,
2022: the three methods on a pair of images, for one logit and for all. Models come from
export/kernel_models.py. Every measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from footprint import resident
from record import rows_of, write

from onnxjvp.kernels import ntk
from onnxjvp.runtime import Session

MODELS = Path(__file__).with_name("models")
NAMES = ("wrn28_2", "resnet18", "resnet50", "vit_s16", "mixer_s16")
METHODS = ("structured", "contraction", "products")
#: what factors and values on the way may take; weights and the runtime's own buffers come on top
MEMORY = "7GB"
TITLE = "Neural tangent kernels of image classifiers"
NOTES = (
    "Θ(x, x') of one pair of images, float32 with sums in float64, random weights, 224 x 224 "
    "pixels to 1000 logits (wrn28_2: 32 x 32 to 10). `outputs`: one logit, or all pairs of them. "
    "`seconds`: the second of two runs (the first of those over a minute). `set up`: rewriting and "
    f"loading. `peak GB`: the process's highest resident set, with --memory {MEMORY}. `GFLOP` is "
    "counted, of the rows computed at once. A method that takes more than `--limit` seconds is "
    "named so."
)


def measure(model: str, outputs: str, method: str) -> dict[str, Any]:
    """In this process."""
    path = str(MODELS / f"kernel_{model}.onnx")
    start = time.perf_counter()
    logit = 0 if outputs == "one" else None
    kernel = ntk(path, logit=logit, method=method, memory=MEMORY)
    row: dict[str, Any] = {"set up": time.perf_counter() - start}
    (spec,) = Session(path).inputs
    rng = np.random.default_rng(0)
    shape = (1, *(int(d) for d in spec.shape[1:]))
    x, other = ({spec.name: rng.standard_normal(shape, np.float32)} for _ in range(2))
    for _ in range(2):
        start = time.perf_counter()
        found = kernel(x, other)
        row["seconds"] = time.perf_counter() - start
        if row["seconds"] > 60:
            break
    row["GFLOP"] = kernel.method.cost(1, 1).flops / 1e9
    row["peak GB"] = resident("VmHWM") / 2**30
    row["rows at once"] = kernel.rows_per_part()
    row["sum"] = float(np.abs(found).sum())
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--outputs", nargs="+", choices=("one", "all"), default=["one", "all"])
    options.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options.add_argument("--limit", type=float, default=600, help="seconds for a measurement")
    options.add_argument("--child", action="store_true", help="measure one, in this process")
    args = options.parse_args()
    if args.child:
        print(json.dumps(measure(args.only[0], args.outputs[0], args.methods[0])))
        return
    for model in args.only:
        for outputs in args.outputs:
            for method in args.methods:
                key = {"model": model, "outputs": outputs, "method": method}
                row = key | child(model, outputs, method, args.limit)
                print(row, flush=True)
                kept = [r for r in rows_of("kernel_models") if key != {k: r[k] for k in key}]
                order = [(m, o, w) for m in NAMES for o in ("one", "all") for w in METHODS]
                kept.append(row)
                kept.sort(key=lambda r: order.index((r["model"], r["outputs"], r["method"])))
                write("kernel_models", TITLE, NOTES, kept)


def child(model: str, outputs: str, method: str, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", "--only", model]
    command += ["--outputs", outputs, "--methods", method]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"seconds": f"more than {limit:.0f}"}
    if done.returncode:
        return {"seconds": f"failed ({done.returncode})"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
