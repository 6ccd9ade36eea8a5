"""Run time of the rewritten models over the plain forward, in one interleaved run.

    python benchmarks/running.py [MODEL…]        # default: six that benchmarks/export made

Spinning is off in every session: the threads of an idle one would steal the cores. Ratios are
taken round by round, so that they hold while the machine's speed drifts; medians and quartiles.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peers.rounds import THREADS, Array, Run, Timed, geometric_means, interleave, ratio
from record import write

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.runtime import LinearizedSession, TensorSpec

MODELS = Path(__file__).with_name("models")
DEFAULT = (
    "torch_resnet50_torchscript",
    "torch_densenet121_torchscript",
    "torch_efficientnet_b0_torchscript",
    "torch_inception_v3_torchscript",
    "torch_vgg16_torchscript",
    "torch_transformer_post_dynamo",
)
ROUNDS = 9
DIRECTIONS = 16
MANY = f"K={DIRECTIONS}, per direction"
FORMS = ("jvp portable", "jvp", "vjp", "split", "stacked", MANY, "apply J", "apply Jᵀ")


def runs(model: Path) -> dict[str, Timed]:
    """What is timed; all but the first are written for the CPU."""

    def run(rewritten: Rewritten) -> Run:
        made = Run(rewritten.model)
        made.feeds = drawn(made.session.inputs)
        return made

    plain = Run(model)
    plain.feeds = drawn(plain.session.inputs)
    held = LinearizedSession(onnxjvp.linearize(model, target="cpu"), threads=THREADS)
    held.at(plain.feeds)
    return {
        "forward": plain,
        "jvp portable": run(onnxjvp.jvp(model)),
        "jvp": run(onnxjvp.jvp(model, target="cpu")),
        "vjp": run(onnxjvp.vjp(model, target="cpu")),
        "split": run(onnxjvp.clone(model, layout="split", target="cpu")),
        "stacked": run(onnxjvp.clone(model, layout="stacked", target="cpu")),
        MANY: run(onnxjvp.jvp(model, directions=DIRECTIONS, target="cpu")),
        "apply J": timed(held.jvp, drawn(held.takes("jvp"))),
        "apply Jᵀ": timed(held.vjp, drawn(held.takes("vjp"))),
    }


def timed(call: Callable[[dict[str, Array]], Any], feeds: dict[str, Array]) -> Timed:
    def once() -> float:
        start = time.perf_counter()
        call(feeds)
        return time.perf_counter() - start

    return once


def drawn(specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Normal numbers; dynamic dimensions, the batch, are 1."""
    rng = np.random.default_rng(0)
    sizes = {s.name: [d if isinstance(d, int) else 1 for d in s.shape] for s in specs}
    return {s.name: rng.standard_normal(sizes[s.name]).astype(s.dtype) for s in specs}


def compare(model: Path) -> dict[str, Any]:
    seconds, others = interleave(runs(model), ROUNDS)
    seconds[MANY] /= DIRECTIONS
    row: dict[str, Any] = {"model": model.stem}
    for form in FORMS:
        row |= ratio(seconds[form], seconds["forward"], form)
    row["forward ms"] = 1e3 * float(np.median(seconds["forward"]))
    row["cores busy with others"] = round(others, 1)
    return row


def main() -> None:
    models = [Path(a) for a in sys.argv[1:]] or [MODELS / f"{name}.onnx" for name in DEFAULT]
    rows = []
    for model in models:
        rows.append(compare(model))
        print(rows[-1], flush=True)
    rows.append(geometric_means(rows, {"model": "geometric mean"}, FORMS))
    notes = (
        f"Time over the plain forward's, medians of {ROUNDS} interleaved rounds, batch 1, "
        f"{THREADS} threads, optimisations on, spinning off. All but the first column are written "
        "for `--target cpu`. `apply` is one product with residuals that are held at x."
    )
    write("running", "Running: time over the plain forward", notes, rows)


if __name__ == "__main__":
    main()
