"""Run time of the rewritten models over the plain forward, in one interleaved run.

    python benchmarks/running.py [MODEL…]        # default: four that benchmarks/export made

Spinning is off in every session: the threads of an idle one would steal the cores. Ratios are
taken round by round, so that they hold while the machine's speed drifts; medians and spread.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from record import write

import onnxjvp
from onnxjvp.runtime import Session

MODELS = Path(__file__).with_name("models")
DEFAULT = (
    "torch_resnet50_torchscript",
    "torch_efficientnet_b0_torchscript",
    "light_densenet121",
    "torch_transformer_post_dynamo",
)
ROUNDS = 15
BATCH = 1


def compare(model: Path) -> dict[str, Any]:
    sessions = {
        "forward": Session(model),
        "jvp": Session(onnxjvp.jvp(model).proto()),
        "split": Session(onnxjvp.clone(model, layout="split").proto()),
        "stacked": Session(onnxjvp.clone(model, layout="stacked").proto()),
    }
    rng = np.random.default_rng(0)
    feeds = {
        form: {
            spec.name: rng.standard_normal(
                [d if isinstance(d, int) else BATCH for d in spec.shape]
            ).astype(spec.dtype)
            for spec in session.inputs
        }
        for form, session in sessions.items()
    }
    seconds: dict[str, list[float]] = {form: [] for form in sessions}
    for warm in range(ROUNDS + 2):
        for form, session in sessions.items():
            start = time.perf_counter()
            session.run(feeds[form])
            if warm >= 2:
                seconds[form].append(time.perf_counter() - start)
    row: dict[str, Any] = {"model": model.stem, "batch": BATCH}
    for form in ("jvp", "split", "stacked"):
        ratios = np.array(seconds[form]) / np.array(seconds["forward"])
        low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
        row[form] = float(middle)
        row[f"{form} quartiles"] = f"{low:.2f} to {high:.2f}"
    return row


def main() -> None:
    models = [Path(a) for a in sys.argv[1:]] or [MODELS / f"{name}.onnx" for name in DEFAULT]
    rows = []
    for model in models:
        rows.append(compare(model))
        print(rows[-1], flush=True)
    notes = (
        f"Time over the plain forward's, medians of {ROUNDS} interleaved rounds, optimisations on, "
        "spinning off. The portable form: nothing is tuned for a target yet."
    )
    write("running", "Running: time over the plain forward", notes, rows)


if __name__ == "__main__":
    main()
