"""What any way of computing J u takes at least, and what is left between that and ours.

    python benchmarks/limits.py [--only NAME…] [--size small|large] [--batch N…] [--rounds N]

Reads the rows of speed.py and measures one thing more: the plain forward over a batch 16 times as
large, which is what 16 tangents take at least where weights and layouts are shared best.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from contest import DIRECTIONS
from peers.rounds import Array, Run, geometric_means, interleave
from record import rows_of, write
from speed import MODELS, NAMES, PATCHED, SIZES

MANY = max(DIRECTIONS)
#: x once and u once
LEAST = 2.0


def measured(path: Path, batch: int, side: int, rounds: int) -> float:
    """The forward of 16 batches at once, per batch, over that of one: a median of ratios."""
    rng = np.random.default_rng(0)

    def images(count: int) -> Array:
        return rng.standard_normal((count, 3, side, side), np.float32)

    plain = Run(path)
    (name,) = (spec.name for spec in plain.session.inputs)
    many = Run(path, {name: images(MANY * batch)})
    plain.feeds = {name: images(batch)}
    seconds, _ = interleave({"plain": plain, "many": many}, rounds)
    return float(np.median(seconds["many"] / seconds["plain"])) / MANY


def row_of(speed: dict[str, Any], per_batch: float) -> dict[str, Any]:
    """Ours and the least, and how many times faster than a peer the least would be."""
    ours, speedups = speed["over forward"], speed["speed-up over"]
    least = per_batch + 1 / MANY
    many = f"K={MANY}"
    row = {
        "model": speed["model"],
        "size": speed["size"],
        "batch": speed["batch"],
        "jvp": ours["jvp"][1],
        "least jvp": LEAST,
        many: ours[many][1],
        f"least {many}": least,
    }
    bounds = (
        ("onnx-ad", "onnx-ad", ours["jvp"][1] / LEAST),
        (f"onnx-ad {many}", f"onnx-ad {many}", ours[many][1] / least),
        ("frameworks", "frameworks", ours["jvp"][1] / LEAST),
    )
    for label, peer, left in bounds:
        row[f"{label} / ours"] = speedups[peer][1] if peer in speedups else float("nan")
        row[f"{label} / least"] = row[f"{label} / ours"] * left
    return row


TITLE = "Limits: what is left"
NOTES = f"""\
Over the plain forward, from the rows of [speed](speed.md) and one more measurement. The least that
one J u takes is {LEAST:g}: the forward, and every product once more on u; less only where a product
takes no longer for two rows than for one, as in VGG's dense layers. The least for {MANY}
directions, each, is the plain forward over {MANY} batches at once and the forward once, divided by
{MANY}; no mask and no slope is in it. `onnx-ad / ours` is how many times our time the peer takes,
`onnx-ad / least` how many times it would be if ours took no more than the least: the most that any
implementation on these kernels could show."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES))
    options.add_argument("--batch", type=int, nargs="+", default=[1])
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    rows = []
    for speed in rows_of("speed"):
        model, size, batch = speed["model"], speed["size"], speed["batch"]
        if model not in args.only or size not in args.size or batch not in args.batch:
            continue
        side, _ = PATCHED.get(model, SIZES[size])
        path = MODELS / f"paper_{size}_{model}.onnx"
        rows.append(row_of(speed, measured(path, batch, side, args.rounds)))
        print(rows[-1], flush=True)
    columns = [key for key in rows[0] if key not in ("model", "size", "batch")]
    mean = geometric_means(
        [row for row in rows if not any(np.isnan(row[key]) for key in columns)],
        {"model": "mean", "size": "", "batch": ""},
        columns,
    )
    write("limits", TITLE, NOTES, [*rows, mean])


if __name__ == "__main__":
    main()
