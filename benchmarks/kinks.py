"""Shared masks against plain operators: the paper's Figure 3 on a CPU.

    python benchmarks/kinks.py [--rounds N] [--only OPERATOR…] [--small] [--render]

The figure is of Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021: how
much longer an operator takes over x, u and 0 in one batch, its state read off x, than the plain one
over x alone; 32 channels, batches of 10 and 80, growing images. Here each file is a chain of eight
of the operator, so that putting the three lanes together, once per file, weighs little.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from charts import lines
from onnx import TensorProto, helper, numpy_helper
from peers.rounds import THREADS, Array, Run, error, interleave, ratio
from record import rows_of, write

import onnxjvp

CHAIN, CHANNELS = 8, 32
BATCHES = (10, 80)
SIDES, WIDTHS = (8, 16, 32, 64), (64, 128, 256, 512, 1024)
FORMS = ("stacked", "tripled", "jvp")
#: attributes; of pooling those which keep the shape
NODES: dict[str, dict[str, Any]] = {
    "Relu": {},
    "LeakyRelu": {"alpha": 0.1},
    "MaxPool": {"kernel_shape": [3, 3], "pads": [1] * 4, "strides": [1, 1]},
    "Dropout": {},
    "BatchNormalization": {"training_mode": 1},
    "Conv": {"kernel_shape": [3, 3], "pads": [1] * 4},
    "Gemm": {"transB": 1},
}
RANDOM = "Dropout"
TITLE = "Shared masks: time over the plain operator"


def chain(kind: str, size: int) -> onnx.ModelProto:
    """Eight of the operator, one after another; the batch is dynamic."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []

    def held(name: str, value: Array) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def normal(name: str, shape: Sequence[int], fan: int) -> str:
        return held(name, rng.normal(0, (2 / fan) ** 0.5, shape).astype(np.float32))

    for i in range(CHAIN):
        inputs, outputs = [f"h{i}"], [f"h{i + 1}"]
        if kind == "Conv":
            inputs += [normal(f"w{i}", (CHANNELS, CHANNELS, 3, 3), 9 * CHANNELS)]
            inputs += [normal(f"b{i}", (CHANNELS,), 1)]
        elif kind == "Gemm":
            inputs += [normal(f"w{i}", (size, size), size), normal(f"b{i}", (size,), 1)]
        elif kind == "Dropout":
            inputs += [held(f"r{i}", np.float32(0.1)), held(f"t{i}", np.bool_(True))]
        elif kind == "BatchNormalization":
            inputs += [held(f"{k}{i}", np.full(CHANNELS, v, np.float32)) for k, v in STATES]
            outputs += [f"mean{i}", f"variance{i}"]
        seed = {"seed": i} if kind == RANDOM else {}
        nodes.append(helper.make_node(kind, inputs, outputs, **NODES[kind], **seed))
    shape = ["batch", size] if kind == "Gemm" else ["batch", CHANNELS, size, size]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("h0", f"h{CHAIN}")]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], weights)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9)


STATES = (("scale", 1), ("shift", 0), ("m", 0), ("v", 1))


def compare(kind: str, batch: int, size: int, rounds: int) -> dict[str, Any]:
    """A row; the stacked file must give the tangent of the other form."""
    model = chain(kind, size)
    rng = np.random.default_rng(1)
    shape = (size,) if kind == "Gemm" else (CHANNELS, size, size)
    x, u, rest = (rng.standard_normal((batch, *shape), np.float32) for _ in range(3))
    stacked = onnxjvp.clone(model, layout="stacked", target="cpu")
    jvp = onnxjvp.jvp(model, target="cpu")
    runs = {
        "plain": Run(model, {"h0": x}),
        "tripled": Run(model, {"h0": np.concatenate([x, u, rest])}),
        "stacked": Run(stacked.model, {"h0": x, stacked.names["seeds"]["h0"]: u}),
        "jvp": Run(jvp.model, {"h0": x, jvp.names["seeds"]["h0"]: u}),
    }
    values = [
        runs[form].value(made.names["results"][f"h{CHAIN}"]["jvp"])
        for form, made in (("stacked", stacked), ("jvp", jvp))
    ]
    off = error(*values)
    assert kind == RANDOM or off < 1e-3, f"{kind}: {off}"
    seconds, others = interleave(runs, rounds)
    row: dict[str, Any] = {"operator": kind, "batch": batch, "size": size}
    for form in FORMS:
        row |= ratio(seconds[form], seconds["plain"], form)
    row["plain ms"] = 1e3 * float(np.median(seconds["plain"]))
    return {**row, "cores busy with others": round(others, 1)}


NOTES = (
    f"Time over the plain operator's with x alone, medians of interleaved rounds, {THREADS} "
    f"threads, float32; chains of {CHAIN} of the operator. `stacked` has x, u and 0 in one batch "
    "and the state of x in all three, with putting together and taking apart; `tripled` is the "
    "plain operator over three times the batch; `jvp` is f(x) and J u. `size` is the side of an "
    f"image of {CHANNELS} channels, for Gemm the width. Relu, LeakyRelu (0.1), MaxPool (3 x 3, "
    "stride 1), Dropout and BatchNormalization in training mode, Conv (3 x 3). For the paper's, on "
    "a GPU, `stacked` and Conv's `tripled` are at most about 1.5."
)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--only", nargs="+", choices=NODES, default=list(NODES))
    options.add_argument("--small", action="store_true", help="the two smallest sizes alone")
    options.add_argument("--render", action="store_true", help="draw what was recorded")
    args = options.parse_args()
    if args.render:
        lines("kinks", rows_of("kinks"), FORMS)
        return
    rows = [row for row in rows_of("kinks") if row["operator"] not in args.only]
    for kind in args.only:
        sizes = WIDTHS if kind == "Gemm" else SIDES
        for batch in BATCHES:
            for size in sizes[: 2 if args.small else None]:
                rows.append(compare(kind, batch, size, args.rounds))
                print(rows[-1], flush=True)
        rows.sort(key=lambda row: list(NODES).index(row["operator"]))
        write("kinks", TITLE, NOTES, rows)
    lines("kinks", rows, FORMS)


if __name__ == "__main__":
    main()
