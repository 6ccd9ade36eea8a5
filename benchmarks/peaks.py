"""Which memory a JVP needs, and which the runtime takes beyond that.

    python benchmarks/peaks.py [--only NAME…] [--size small|large] [--batch N…]

Of every row of speed.py whose memory was measured: the tensors that are alive at one time, by the
order in which onnxruntime runs the optimised graph, beside what a process takes for them in its
first run, in later runs, and without the plan that later runs follow.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from footprint import Memory, footprint
from peers.rounds import THREADS, draw, geometric_means
from profiles import sized
from record import rows_of, write
from speed import MODELS, NAMES, SIZES, less
from speed_page import LIMIT

import onnxjvp
from onnxjvp.runtime import TensorSpec

#: what may write its result over an operand that nothing reads any more
IN_PLACE = frozenset(
    [
        *("Add", "Clip", "Exp", "HardSigmoid", "Identity", "Mul", "Neg", "Relu", "Reshape"),
        *("Sigmoid", "Sqrt", "Squeeze", "Sub", "Tanh", "Unsqueeze"),
    ]
)
WIDTHS = {"float": 4, "double": 8, "int64": 8, "int32": 4, "bool": 1}
#: a node, and the bytes of each of its results
Ran = tuple[onnx.NodeProto, dict[str, int]]


def alive(path: Path, batch: int) -> int:
    """Bytes of the results of nodes that are alive at one time, at the most."""
    with TemporaryDirectory() as folder:
        model, ran = _ran(path, batch, Path(folder))
    last = {name: i for i, (node, _) in enumerate(ran) for name in _read(node)}
    last |= {out.name: len(ran) for out in model.graph.output}
    held: dict[str, int] = {}
    most = 0
    for i, (node, made) in enumerate(ran):
        over = _written_over(node, made, {k: v for k, v in held.items() if last[k] == i})
        most = max(most, sum(held.values()) + sum(made.values()) - over)
        held = {k: v for k, v in (held | made).items() if last.get(k, -1) > i}
    return most


def _ran(path: Path, batch: int, folder: Path) -> tuple[onnx.ModelProto, list[Ran]]:
    """The graph as onnxruntime optimises it, and its nodes in the order in which they ran."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {
        i.name: draw(TensorSpec(i.name, np.dtype("float32"), sized(i.shape, batch)), seed)
        for seed, i in enumerate(session.get_inputs())
    }
    session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    model = onnx.load(options.optimized_model_filepath, load_external_data=False)
    nodes = {node.name: node for node in model.graph.node}
    ran = []
    for event in events:
        node = nodes.get(event["name"].removesuffix("_kernel_time"))
        if event.get("cat") == "Node" and node is not None and "output_type_shape" in event["args"]:
            shapes = event["args"]["output_type_shape"]
            names = [name for name in node.output if name]
            ran.append((node, dict(zip(names, map(_bytes, shapes), strict=False))))
    return model, ran


def _bytes(typed: dict[str, list[int]]) -> int:
    ((dtype, shape),) = typed.items()
    return int(np.prod(shape)) * WIDTHS.get(dtype, 4)


def _read(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads, the bodies inside it included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _read(inner)


def _written_over(node: onnx.NodeProto, made: dict[str, int], ending: dict[str, int]) -> int:
    """Bytes of the operand in whose place the result is, if there is one."""
    operands = list(node.input) if node.op_type in IN_PLACE else []
    if node.op_type == "Conv" and len(node.input) > 3:  # the sum that is fused to it
        operands = [node.input[3]]
    sizes = [ending[name] for name in operands if name in ending]
    return max((size for size in sizes if size in made.values()), default=0)


def row_of(speed: dict[str, Any], path: Path, folder: Path) -> dict[str, Any]:
    """MB, and ratios to the limit."""
    batch = speed["batch"]
    own = onnxjvp.jvp(path, target="cpu").save(folder / "jvp.onnx")
    plain, ours = alive(path, batch), alive(own, batch)
    imports = footprint(batch)
    taken = {
        planned: [less(footprint(batch, file, planned=planned), imports) for file in (path, own)]
        for planned in (True, False)
    }
    forward, jvp = taken[True]
    row: dict[str, Any] = {key: speed[key] for key in ("model", "size", "batch")}
    for name, live, memory in (("forward", plain, forward), ("jvp", ours, jvp)):
        row[f"{name}: loaded"] = memory["loaded"] / 2**20
        row[f"{name}: alive"] = live / 2**20
        row[f"{name}: first run"] = (memory["first"] - memory["loaded"]) / 2**20
        row[f"{name}: later runs"] = memory["activations"] / 2**20
    row["alive, jvp / forward"] = ours / plain
    row["alive / limit"] = _over(ours + forward["loaded"], plain, forward["loaded"])
    row["memory / limit"] = _measured(forward, jvp)
    row["memory / limit, unplanned"] = _measured(*taken[False])
    return row


def _measured(forward: Memory, jvp: Memory) -> float:
    return _over(jvp["running"], forward["activations"], forward["loaded"])


def _over(running: float, activations: float, weights: float) -> float:
    return running / (LIMIT * activations + weights)


TITLE = "Peaks: which memory a JVP needs, and which the runtime takes"
NOTES = f"""\
MB. `alive` are the results of nodes that are needed at one time, at the most, in the order in which
onnxruntime runs the optimised graph; a result may stand in the place of an operand that it is
computed from element by element and that is not read again, and what kernels take for themselves is
not in it. `loaded` is what a process takes with
the model loaded, weights included; `first run` and `later runs` what runs take beside that, all
less what a process takes that only imports. From the second run of a shape on onnxruntime holds all
buffers in one block, beside what the first run took.

`memory / limit` is that of [speed](speed.md), P_jvp / ({LIMIT:g} A + W), of which at most 1 is
wanted, and `unplanned` the same with both files run without that block (`plan_memory=False`).
`alive / limit` is what it would be if the runtime took what is alive and nothing else, and a JVP no
more than the plain file when it is loaded. Where that is below 1 and `memory / limit` is not, the
tensors of J u are not what takes the memory: `loaded` grows with nodes (some KB each), kernels that
turn a weight leave the room for it with the allocator, and `first run` above `alive` is buffers
that onnxruntime keeps for later results of the same size, and gaps."""


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES))
    options.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    for speed in rows_of("speed"):
        model, size, batch = speed["model"], speed["size"], speed["batch"]
        if model not in args.only or size not in args.size or batch not in args.batch:
            continue
        with TemporaryDirectory() as folder:
            rows.append(row_of(speed, MODELS / f"paper_{size}_{model}.onnx", Path(folder)))
        print(
            {k: v if isinstance(v, str) else round(v, 3) for k, v in rows[-1].items()}, flush=True
        )
        ratios = [key for key in rows[0] if "/" in key]
        write("peaks", TITLE, NOTES, [*rows, geometric_means(rows, {"model": "mean"}, ratios)])


if __name__ == "__main__":
    main()
