"""Transposed products against the peers: time over the plain forward, in one interleaved run.

    python benchmarks/peers/environments.py                        # once: torch and onnx-ad
    benchmarks/peers/.venv/torch/bin/python benchmarks/export/torch_models.py
    python benchmarks/transposing.py [--rounds N] [--only NAME…]

Per model: J u and Jᵀ v in the input by onnxjvp and by onnx-ad, in onnxruntime, and forward plus
backward pass by eager torch, in a process of its own. Before, all are compared with each other.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from peers.onnx_ad_peer import OnnxAd
from peers.rounds import THREADS, Run, agree, draw, error, geometric_means, interleave, ratio
from peers.torch_peer import Torch
from record import write

import onnxjvp

MODELS = Path(__file__).with_name("models")
#: files in benchmarks/models, by the name of their source in export/torch_models.py
FILES = {
    "resnet50": "torch_resnet50_torchscript",
    "densenet121": "torch_densenet121_torchscript",
    "efficientnet_b0": "torch_efficientnet_b0_torchscript",
    "inception_v3": "torch_inception_v3_torchscript",
    "vgg16": "torch_vgg16_torchscript",
    "transformer_post": "torch_transformer_post_dynamo",
}
RATIOS = (
    "jvp",
    "vjp",
    "vjp portable",
    "onnx-ad forward",
    "onnx-ad reverse",
    "torch vjp",
    "torch forward",
)
OWN = "torch vjp over its own forward"


def compare(name: str, rounds: int, versions: dict[str, str]) -> dict[str, Any]:
    path = MODELS / f"{FILES[name]}.onnx"
    peer = OnnxAd(path)
    plain = Run(path)
    (x,), (y,) = plain.session.inputs, plain.session.outputs
    point, u, cotangent = draw(x, 0), draw(x, 1), draw(y, 2)
    arrays = {"x": point, "x_u": u, "y_ct": cotangent}
    plain.feeds["x"] = point
    jvp = onnxjvp.jvp(path, target="cpu")
    vjp, portable = (onnxjvp.vjp(path, target=target) for target in ("cpu", "portable"))
    runs = {
        "forward": plain,
        "jvp": Run(jvp.model, {"x": point, jvp.names["seeds"]["x"]: u}),
        "vjp": Run(vjp.model, {"x": point, vjp.names["cotangents"]["y"]: cotangent}),
        "vjp portable": Run(portable.model, {"x": point, "y_ct": cotangent}),
        "onnx-ad forward": peer.forward(point, u),
        "onnx-ad reverse": peer.reverse(point, cotangent),
    }
    with Torch("torch_models", name, arrays) as torch:
        versions |= {"torch": torch.version, "onnx-ad": peer.said["onnx-ad"]}
        agreement = {}
        for call, ours, other in (
            ("jvp", jvp.names["results"]["y"]["jvp"], runs["onnx-ad forward"].value("fwd_y")),
            ("vjp", vjp.names["results"]["x"]["vjp"], runs["onnx-ad reverse"].value("adj_x")),
        ):
            want = runs[call].value(ours)
            errors = {
                "onnx-ad": error(other[..., 0], want),
                "torch": error(torch.value(call), want),
            }
            agreement[call] = agree(errors, torch.noise(call))
        contenders = {
            **runs,
            "torch forward": torch.timed("forward"),
            "torch vjp": torch.timed("vjp"),
        }
        seconds, others = interleave(contenders, rounds)
    row: dict[str, Any] = {"model": name}
    for key in RATIOS:
        row |= ratio(seconds[key], seconds["forward"], key)
    row |= ratio(seconds["torch vjp"], seconds["torch forward"], OWN)
    row |= {f"{call} agrees": text for call, text in agreement.items()}
    row["forward ms"] = 1e3 * float(np.median(seconds["forward"]))
    row["cores busy with others"] = round(others, 1)
    row["onnx-ad's reverse of the dynamic file"] = peer.said["reverse"]
    return row


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=21)
    options.add_argument("--only", nargs="+", choices=FILES, default=list(FILES))
    args = options.parse_args()
    rows: list[dict[str, Any]] = []
    versions: dict[str, str] = {}
    for name in args.only:
        rows.append(compare(name, args.rounds, versions))
        print(rows[-1], flush=True)
    rows.append(geometric_means(rows, {"model": "geometric mean"}, (*RATIOS, OWN)))
    notes = (
        f"Time over onnxruntime's plain forward, medians of {args.rounds} interleaved rounds, "
        f"batch 1, {THREADS} threads in every runtime, onnxruntime without spinning, in float32. "
        "Random weights; batch normalisation is folded by the exporter where a convolution comes "
        "before it. `jvp` and `vjp` are written for `--target cpu`. `torch vjp` is eager torch's "
        "forward and backward pass in x. onnx-ad has a copy of each file with all dimensions "
        "fixed; the last column is what it said to the file with a dynamic batch. `agrees` has "
        "the differences from onnxjvp's result, relative, in the Euclidean norm, and how far "
        "torch's own result moves when x is rounded otherwise. "
        + ", ".join(f"{key} {value}" for key, value in versions.items())
        + "."
    )
    write("transposing", "Transposed products: time over the plain forward", notes, rows)


if __name__ == "__main__":
    main()
