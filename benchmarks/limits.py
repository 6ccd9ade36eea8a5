"""What any way of computing J u takes at least, and what is left between that and ours.

    python benchmarks/limits.py [--only NAME…] [--size small|large] [--batch N…] [--rounds N]

Reads the rows of speed.py and measures two things more: the plain forward over 2 batches at once,
x and u, and over 16, which is what 16 tangents take at least where weights and layouts are shared
best. What a row of speed.py left out is left out here. Rows of a run replace those of the same
network, size and batch.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from contest import DIRECTIONS
from onnx import TensorProto, helper, numpy_helper
from peers.rounds import Array, Run, Timed, geometric_means, interleave
from record import rows_of, write
from speed import MODELS, NAMES, PATCHED, SIZES

MANY = max(DIRECTIONS)
#: x once and u once
LEAST = 2.0
#: what the means are of
PEERS = ("onnx-ad", f"onnx-ad K={MANY}", "frameworks")


def measured(
    path: Path, batch: int, side: int, rounds: int, counts: tuple[int, ...]
) -> list[float]:
    """The forward of some batches at once over that of one: medians of ratios."""
    rng = np.random.default_rng(0)

    def images(count: int) -> Array:
        return rng.standard_normal((count * batch, 3, side, side), np.float32)

    plain = Run(path)
    (name,) = (spec.name for spec in plain.session.inputs)
    plain.feeds = {name: images(1)}
    contenders: dict[str, Timed] = {"plain": plain}
    for count in counts:
        contenders[str(count)] = Run(path, {name: images(count)})
    seconds, _ = interleave(contenders, rounds)
    return [float(np.median(seconds[str(count)] / seconds["plain"])) for count in counts]


def recurrent(
    path: Path, batch: int, side: int, rounds: int, lanes: tuple[int, ...]
) -> list[float]:
    """The same for a model that is one RNN: R alone, once a step, times the rows of all lanes.

    onnxruntime's own RNN node reads R as slowly for few rows as for many, so that a forward over
    many batches is not the least that they take.
    """
    model = onnx.load(path)
    (node,) = (node for node in model.graph.node if node.op_type == "RNN")
    (r,) = (numpy_helper.to_array(t)[0] for t in model.graph.initializer if t.name == node.input[2])
    plain = Run(path)
    (name,) = (spec.name for spec in plain.session.inputs)
    rng = np.random.default_rng(0)
    plain.feeds = {name: rng.standard_normal((batch, 3, side, side), np.float32)}
    contenders: dict[str, Timed] = {"plain": plain}
    products = _products(r, steps=side)
    for count in lanes:
        rows = rng.standard_normal((count * batch, len(r)), np.float32)
        contenders[str(count)] = Run(products, {"h": rows})
    seconds, _ = interleave(contenders, rounds)
    return [float(np.median(seconds[str(count)] / seconds["plain"])) for count in lanes]


def _products(r: Array, steps: int) -> bytes:
    """h ← h R, so many times; scaled, so that nothing overflows."""
    size, kind = len(r), TensorProto.FLOAT
    row = helper.make_tensor_value_info("row", kind, [None, size])
    following = helper.make_tensor_value_info("next", kind, [None, size])
    body = helper.make_graph(
        [helper.make_node("MatMul", ["row", "r"], ["next"])],
        "step",
        [row, helper.make_tensor_value_info("tick", kind, [1])],
        [following],
    )
    graph = helper.make_graph(
        [helper.make_node("Scan", ["h", "ticks"], ["y"], body=body, num_scan_inputs=1)],
        "products",
        [helper.make_tensor_value_info("h", kind, ["rows", size])],
        [helper.make_tensor_value_info("y", kind, ["rows", size])],
        [
            numpy_helper.from_array(np.ascontiguousarray(r.T / np.linalg.norm(r, 2)), "r"),
            numpy_helper.from_array(np.zeros((steps, 1), np.float32), "ticks"),
        ],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def least_of(speed: Mapping[str, Any], path: Path, rounds: int) -> dict[str, float]:
    """The least times of J u and, per direction, of many, over the plain forward."""
    model, batch = speed["model"], speed["batch"]
    side, _ = PATCHED.get(model, SIZES[speed["size"]])
    has_many = f"K={MANY}" in speed["over forward"]
    if model == "rnn":
        two, *more = recurrent(path, batch, side, rounds, (2, *([MANY + 1] if has_many else [])))
        return {"jvp": two, **{f"K={MANY}": every / MANY for every in more}}
    two, *more = measured(path, batch, side, rounds, (2, *([MANY] if has_many else [])))
    return {"jvp": min(LEAST, two), **{f"K={MANY}": (every + 1) / MANY for every in more}}


def row_of(speed: Mapping[str, Any], least: Mapping[str, float]) -> dict[str, Any]:
    """Ours and the least, and how many times faster than a peer the least would be."""
    ours, speedups = speed["over forward"], speed.get("speed-up over", {})
    row: dict[str, Any] = {key: speed[key] for key in ("model", "size", "batch")}
    for form in ("jvp", f"K={MANY}"):
        row[form] = ours[form][1] if form in ours else ""
        row[f"least {form}"] = least.get(form, "")
    for peer in PEERS:
        form = f"K={MANY}" if "K=" in peer else "jvp"
        known = peer in speedups and form in ours and form in least
        row[f"{peer} / ours"] = speedups[peer][1] if known else ""
        row[f"{peer} / least"] = speedups[peer][1] * ours[form][1] / least[form] if known else ""
    return row


def mean_of(rows: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Geometric means, each pair of columns over the networks that have both."""
    mean: dict[str, Any] = {"model": "mean", "size": "", "batch": batch}
    pairs = [(form, f"least {form}") for form in ("jvp", f"K={MANY}")]
    pairs += [(f"{peer} / ours", f"{peer} / least") for peer in PEERS]
    for pair in pairs:
        known = [row for row in rows if row["batch"] == batch and "" not in [row[k] for k in pair]]
        if known:
            mean |= geometric_means(known, {}, pair)
    return mean


TITLE = "Limits: what is left"
NOTES = f"""\
Over the plain forward, from the rows of [speed](speed.md) and measurements of their own. The least
that one J u takes is {LEAST:g}, the forward and every product once more on u, or the plain forward
over two batches at once where that is less: weights are read once there, as in VGG's dense layers.
The least for {MANY} directions, each, is the plain forward over {MANY} batches at once and the
forward once, divided by {MANY}; no mask and no slope is in it. The RNN's forward is no measure,
since its steps can be shared and onnxruntime's own node is no fast one: there the least is one
product a step, of the rows of h and of all dh with R, and nothing else.

Two batches at once take less than two runs where images are small and a node's own cost, handing
work to the second thread, is much of its time. J u has nodes for x and for u and pays it for both:
in one batch, x's masks would have to be cut from it and spread over both halves, which no operator
in onnxruntime's blocked layout does; so that this least is a bound and no plan.

`onnx-ad / ours` is how many times our time the peer takes, `onnx-ad / least` how many times it
would be if ours took no more than the least: the most that any implementation on these kernels
could show. Where ours is below the least, nothing is left: the two are measured at different times,
and clocks drift by some per cent. A cell is empty where {MANY} directions or a peer were left out
of the record; a mean is geometric, over the networks that have both columns of a pair."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES))
    options.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    options.add_argument("--rounds", type=int, default=5)
    args = options.parse_args()
    rows = {key_of(row): row for row in rows_of("limits") if row["model"] in NAMES}
    for speed in rows_of("speed"):
        model, size, batch = speed["model"], speed["size"], speed["batch"]
        if model not in args.only or size not in args.size or batch not in args.batch:
            continue
        if "jvp" not in speed.get("over forward", {}):
            print(f"{size} {model}, batch {batch}: speed.py has no time of J u", flush=True)
            continue
        path = MODELS / f"paper_{size}_{model}.onnx"
        row = rows[key_of(speed)] = row_of(speed, least_of(speed, path, args.rounds))
        print(row, flush=True)
    ordered = [rows[key] for key in sorted(rows)]
    means = [mean_of(ordered, batch) for batch in sorted({row["batch"] for row in ordered})]
    write("limits", TITLE, NOTES, [*ordered, *means])


def key_of(row: Mapping[str, Any]) -> tuple[int, int, int]:
    """Which row it is, and where it stands."""
    return row["batch"], list(SIZES).index(row["size"]), NAMES.index(row["model"])


if __name__ == "__main__":
    main()
