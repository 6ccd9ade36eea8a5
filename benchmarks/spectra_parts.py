"""What a product with the UNet's Jacobian is made of, by onnxruntime's profile: see spectra.py."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxjvp import linearize
from onnxjvp.runtime import LinearizedSession

#: runs of a profile, of which the fastest of every node counts
RUNS = 6
CONVOLUTIONS = ("Conv", "ConvTranspose")
LAYOUT = ("ReorderInput", "ReorderOutput")


def parts(model: Path, directions: int, threads: int) -> Iterator[dict[str, Any]]:
    """J u and Jᵀ v: milliseconds per direction by kind of operator, and multiplications."""
    maps = linearize(model, directions="K", target="cpu")
    session = LinearizedSession(maps)
    rng = np.random.default_rng(0)
    session.at({i.name: _drawn(rng, (1, 3, 32, 32)) for i in session.inputs})
    held = {name: value.numpy() for name, value in session.kept().held.items()}
    for of, part in (("J u", maps.jvp), ("Jᵀ v", maps.vjp)):
        seed = _drawn(rng, (directions, 1, 3, 32, 32))
        spent, flops = _profile(part.model, held, seed, threads)
        whole = sum(spent.values())
        convolved = sum(spent[kind] for kind in CONVOLUTIONS)
        yield {
            "table": "parts",
            "of": of,
            "ms": whole / directions,
            "convolutions": convolved / directions,
            "their Gflop": flops / directions / 1e9,
            "Gflop/s": flops / convolved / 1e6,
            "changes of layout": sum(spent[kind] for kind in LAYOUT) / directions,
            "masks (Mul)": spent["Mul"] / directions,
            "pooling, skips and the rest": (
                whole - convolved - sum(spent[kind] for kind in (*LAYOUT, "Mul"))
            )
            / directions,
        }


def _drawn(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def _profile(
    model: ir.Model, held: dict[str, Any], seed: Any, threads: int
) -> tuple[Counter[str], float]:
    """Milliseconds by kind of node, and floating-point operations of convolutions."""
    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        proto = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
        feeds = {i.name: held.get(i.name, seed) for i in session.get_inputs()}
        for _ in range(RUNS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    taken: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, tuple[str, float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            about = event["args"]
            taken[event["name"]].append(event["dur"] / 1e3)
            kinds[event["name"]] = (about["op_name"], _flops(about))
    spent: Counter[str] = Counter()
    for name, times in taken.items():
        spent[kinds[name][0]] += min(times)
    return spent, sum(flops for _, flops in kinds.values())


def _flops(about: dict[str, Any]) -> float:
    """Two per multiplication and addition of a convolution."""
    if about["op_name"] not in CONVOLUTIONS:
        return 0.0
    (x, *weights), (y,) = (
        [next(iter(each.values())) for each in about[key]]
        for key in ("input_type_shape", "output_type_shape")
    )
    if about["op_name"] == "ConvTranspose":  # its weights are packed; those of the UNet are 2 x 2
        return 2.0 * math.prod(x) * y[1] * 4
    return 2.0 * y[0] * math.prod(y[2:]) * math.prod(weights[0])
