"""Neural tangent kernels against neural-tangents, on the same weights and data.

    python benchmarks/kernels.py [--rounds N] [--only NAME…] [--growth]

Dense networks of ten layers, and convolutional ones of six, with ReLUs (Novak et al. 2022, Fig. 1).
Both sides compute all entries of Θ by structured derivatives, in float32. With --growth, operations
per entry are counted instead, of our three methods over widths and outputs (Fig. 1, left).
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import onnx
from charts import growth as draw_growth
from onnx import TensorProto, helper, numpy_helper
from peers.remote import Remote
from peers.rounds import THREADS, Array, Timed, error, geometric_means, interleave, ratio
from record import rows_of, write

from onnxjvp.kernels import ntk

#: name → kind, width, outputs, samples
NETWORKS = {
    "dense, W 256, O 16": ("dense", 256, 16, 4),
    "dense, W 256, O 128": ("dense", 256, 128, 4),
    "dense, W 1024, O 16": ("dense", 1024, 16, 4),
    "dense, W 1024, O 128": ("dense", 1024, 128, 4),
    "CNN, W 64, O 10": ("convolutional", 64, 10, 2),
    "CNN, W 128, O 10": ("convolutional", 128, 10, 2),
}
WIDTHS, OUTPUTS, SAMPLES = (16, 64, 256, 1024), (1, 16, 128, 512), 8
GROWTH = "Operations per entry of a neural tangent kernel"
GROWTH_NOTES = (
    "Floating-point operations, counted from the models, over the entries of Θ: ten dense layers "
    "with ReLUs of width W, O outputs, 8 samples against 8."
)
LAYERS = {"dense": 10, "convolutional": 6}
SIDE = 32
TITLE = "Neural tangent kernels against neural-tangents"
NOTES = (
    "Time of neural-tangents' structured derivatives (jitted) over ours, medians of interleaved "
    f"rounds, {THREADS} threads, float32, all entries of Θ. `itself`: Θ(x, x), where both know "
    "that the blocks are one; `pair`: Θ(x, x') with as many others. `off`: the difference of "
    "the kernels in the Euclidean norm. Dense: ten layers of width W, O outputs, 4 samples; "
    "CNN: five 3 x 3 convolutions of W channels on 32 x 32 pixels, mean, dense, 2 samples. Our "
    "threads spin for 50 µs between operators where those are small, as `onnxjvp.ntk` has it; the "
    "peer's are XLA's as they come."
)


def network(kind: str, width: int, outputs: int) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model, and its weights by name."""
    rng = np.random.default_rng(0)
    nodes, weights, count = [], dict[str, Array](), LAYERS[kind]
    inner = 3 if kind == "convolutional" else width
    for i in range(count):
        last = i == count - 1
        size = outputs if last else width
        image = kind == "convolutional" and not last
        shape = (size, inner, 3, 3) if image else (inner, size)
        spread = (2 / (inner * (9 if image else 1))) ** 0.5
        weights[f"w{i}"] = rng.normal(0, spread, shape).astype(np.float32)
        weights[f"b{i}"] = rng.normal(0, 0.1, size).astype(np.float32)
        operands, end = [f"h{i}", f"w{i}", f"b{i}"], "y" if last else f"a{i}"
        if image:
            nodes.append(helper.make_node("Conv", operands, [end], pads=[1] * 4))
        else:
            nodes.append(helper.make_node("Gemm", operands, [end]))
        if not last:
            nodes.append(helper.make_node("Relu", [end], [f"h{i + 1}"]))
        inner = size
    if kind == "convolutional":
        nodes[-1].input[0] = "flat"
        pooled = helper.make_node("GlobalAveragePool", [f"h{count - 1}"], ["mean"])
        nodes[-1:-1] = [pooled, helper.make_node("Flatten", ["mean"], ["flat"])]
    shape = ["N", 3, SIDE, SIDE] if kind == "convolutional" else ["N", width]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("h0", shape), ("y", ["N", outputs]))
    ]
    held = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, kind, ends[:1], ends[1:], held)
    opset = helper.make_opsetid("", 18)
    return helper.make_model(graph, opset_imports=[opset], ir_version=9), weights


def compare(name: str, rounds: int) -> dict[str, Any]:
    kind, width, outputs, samples = NETWORKS[name]
    model, weights = network(kind, width, outputs)
    shape = (3, SIDE, SIDE) if kind == "convolutional" else (width,)
    rng = np.random.default_rng(1)
    x, other = (rng.standard_normal((samples, *shape), np.float32) for _ in range(2))
    kernel = ntk(model, accumulate="float32", method="structured")
    ours = {
        "itself": lambda: kernel({"h0": x}),
        "pair": lambda: kernel({"h0": x}, {"h0": other}),
    }
    row: dict[str, Any] = {"network": name}
    with Remote(
        "neural-tangents", (kind,), {"x": x, "other": other, **weights}, worker="neural_tangents"
    ) as peer:
        for call, compute in ours.items():
            off = error(compute(), peer.value(call))
            contenders: dict[str, Timed] = {"ours": _timed(compute), "peer": peer.timed(call)}
            seconds, others = interleave(contenders, rounds)
            row |= ratio(seconds["peer"], seconds["ours"], call)
            row |= {f"{call} ms": 1e3 * float(np.median(seconds["ours"])), f"{call} off": off}
            row["cores busy with others"] = max(
                round(others, 1), row.get("cores busy with others", 0)
            )
        row["version"] = peer.version
    return row


def growth() -> None:
    """results/kernel_growth: a row per width and number of outputs."""
    rows = []
    for outputs in OUTPUTS:
        for width in WIDTHS:
            model, _ = network("dense", width, outputs)
            row: dict[str, Any] = {"W": width, "O": outputs}
            for method in ("structured", "contraction", "products"):
                cost = ntk(model, method=method).method.cost(SAMPLES, SAMPLES)
                row[method] = cost.flops / (SAMPLES * outputs) ** 2
            rows.append(row)
            print(row, flush=True)
    write("kernel_growth", GROWTH, GROWTH_NOTES, rows)
    draw_growth(rows)


def _timed(compute: Any) -> Timed:
    def run() -> float:
        start = time.perf_counter()
        compute()
        return time.perf_counter() - start

    return run


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--only", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    options.add_argument("--growth", action="store_true", help="count operations instead")
    args = options.parse_args()
    if args.growth:
        growth()
        return
    kept = [row for row in rows_of("kernels") if row["network"] in NETWORKS]
    rows = [row for row in kept if row["network"] not in args.only]
    for name in args.only:
        rows.append(compare(name, args.rounds))
        print(rows[-1], flush=True)
        rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
        mean = geometric_means(rows, {"network": "geometric mean"}, ("itself", "pair"))
        write("kernels", TITLE, NOTES, [*rows, mean])


if __name__ == "__main__":
    main()
