"""J u in a layer's weight against torch, over the plain forward: the paper's Table 2 on a CPU.

    python benchmarks/peers/environments.py torch                  # once
    benchmarks/peers/.venv/torch/bin/python benchmarks/export/paper_models.py
    python benchmarks/weights.py [--rounds N] [--only NAME…]

The table is of Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021. Its
first column: images of 100 x 100 x 3, 20 logits, the weight of the first layer (the caption of its
Table 6 says W¹), TensorFlow 2.4 on a Quadro RTX 8000. The batch is not given; here it is 1. Weights
in the middle and at the end are ours: what comes before a layer is not differentiated.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers.rounds import (
    THREADS,
    Array,
    Run,
    Timed,
    agree,
    draw,
    error,
    geometric_means,
    interleave,
    ratio,
)
from peers.torch_peer import Torch
from record import write

import onnxjvp
from onnxjvp import Rewritten

MODELS = Path(__file__).with_name("models")
#: seconds in Table 2, its first column: jvp, double vjp, clone
PAPER = {
    "vgg16": (0.014, 0.014, 0.005),
    "resnet50": (0.019, 0.015, 0.012),
    "densenet121": (0.036, 0.031, 0.024),
}
FORMS = ("jvp", "substitute", "stacked")
ALTERNATIVES = ("torch jvp", "torch double vjp")
PAPERS = "paper's speed-up"


def layers(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The weights of the first, the middle and the last layer, and their shapes."""
    graph = onnx.load(path).graph
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    weights = [n.input[1] for n in graph.node if n.op_type in ("Conv", "Gemm")]
    chosen = {"first": weights[0], "middle": weights[(len(weights) - 1) // 2], "last": weights[-1]}
    return {place: (name, shapes[name]) for place, name in chosen.items()}


def rewritten(path: Path, wrt: str) -> dict[str, Rewritten]:
    return {
        "jvp": onnxjvp.jvp(path, [wrt]),
        "substitute": onnxjvp.clone(path, [wrt], method="substitute"),
        "stacked": onnxjvp.clone(path, [wrt], layout="stacked"),
    }


def compare(name: str, rounds: int, versions: dict[str, str]) -> list[dict[str, Any]]:
    path = MODELS / f"paper_{name}.onnx"
    chosen = layers(path)
    plain = Run(path)
    x = draw(plain.session.inputs[0], 0)
    plain.feeds["x"] = x
    rng = np.random.default_rng(1)
    directions: dict[str, Array] = {"x": draw(plain.session.inputs[0], 1)}
    for weight, shape in chosen.values():
        directions[weight] = rng.standard_normal(shape).astype(np.float32)
    contenders: dict[str, Timed] = {"forward": plain}
    with Torch("paper_models", name, {"x": x, **seeds(directions)}) as torch:
        versions["torch"] = torch.version
        contenders["torch forward"] = torch.timed("forward")
        contenders["jvp x"] = contender(onnxjvp.jvp(path), "x", x, directions["x"])[0]
        rows = []
        for place, (weight, shape) in chosen.items():
            errors = {}
            want = torch.value(f"jvp {weight}")
            for form, model in rewritten(path, weight).items():
                run, result = contender(model, weight, x, directions[weight])
                errors[form] = error(run.value(result), want)
                contenders[f"{form} {place}"] = run
            for call in ("jvp", "double_vjp"):
                alternative = f"torch {call.replace('_', ' ')} {place}"
                contenders[alternative] = torch.timed(f"{call} {weight}")
            errors["torch double vjp"] = error(torch.value(f"double_vjp {weight}"), want)
            agrees = agree(errors, torch.noise(f"jvp {weight}"))
            rows.append({"model": name, "layer": place, "weight": f"{weight} {list(shape)}"})
            rows[-1]["agrees"] = agrees
        seconds, others = interleave(contenders, rounds)
    busy = {"cores busy with others": round(others, 1)}
    return [{**cells(row, seconds), **busy} for row in rows]


def seeds(directions: dict[str, Array]) -> dict[str, Array]:
    """The directions under the names that torch's side looks for."""
    return {f"{name}_u": u for name, u in directions.items()}


def contender(model: Rewritten, wrt: str, x: Array, u: Array) -> tuple[Run, str]:
    """A run of a rewritten model, and the name of J u."""
    run = Run(model.model, {"x": x, model.names["seeds"][wrt]: u})
    return run, model.names["results"]["y"]["jvp"]


def cells(row: dict[str, Any], seconds: dict[str, Array]) -> dict[str, Any]:
    """The row with its ratios."""
    place, agrees = row["layer"], row.pop("agrees")
    for kind in (*FORMS, *ALTERNATIVES):
        row |= ratio(seconds[f"{kind} {place}"], seconds["forward"], kind)
    best = min(ALTERNATIVES, key=lambda kind: row[kind])
    alternative = seconds[f"{best} {place}"]
    row |= ratio(alternative, seconds["torch forward"], "torch's best over its own forward")
    row |= ratio(alternative, seconds[f"jvp {place}"], "speed-up of jvp")
    row |= ratio(alternative, seconds[f"substitute {place}"], "speed-up of substitute")
    if place == "first":
        *others, clone = PAPER[row["model"]]
        row[PAPERS] = min(others) / clone
    row |= ratio(seconds[f"jvp {place}"], seconds["jvp x"], "over the jvp in x")
    return {**row, "forward ms": 1e3 * float(np.median(seconds["forward"])), "agrees": agrees}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=21)
    options.add_argument("--only", nargs="+", choices=PAPER, default=list(PAPER))
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for name in args.only:
        rows += compare(name, args.rounds, versions)
        print(*rows[-3:], sep="\n", flush=True)
    first = [row for row in rows if row["layer"] == "first"]
    means = ("jvp", "substitute", "speed-up of jvp", "speed-up of substitute", PAPERS)
    rows.append(geometric_means(first, {"model": "geometric mean", "layer": "first"}, means))
    notes = (
        f"Time over onnxruntime's plain forward, medians of {args.rounds} interleaved rounds, "
        f"batch 1, {THREADS} threads in both runtimes, onnxruntime without spinning, in float32; "
        "images of 100 x 100 x 3, 20 logits, random weights. `speed-up` is the time of the faster "
        "of eager torch's torch.func.jvp and double VJP over ours; `paper's speed-up` is the same "
        "for its clone in TensorFlow on a Quadro RTX 8000 (its Table 2, first column), which runs "
        "both in one framework: `torch's best over its own forward` is free of the runtime, too. "
        "`agrees` has the differences from torch.func.jvp, relative, in the Euclidean norm, and "
        f"how far it moves when x is rounded otherwise. torch {versions['torch']}."
    )
    write("weights", "J u in a layer's weight: time over the plain forward", notes, rows)
    late = [row for row in rows if row["layer"] == "middle" and row["over the jvp in x"] >= 1]
    for row in late:
        print(f"{row['model']}: J u in a middle weight takes no less than in x", file=sys.stderr)
    return int(bool(late))


if __name__ == "__main__":
    sys.exit(main())
