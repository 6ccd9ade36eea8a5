"""Writes onnx-ad's derivative models. Started by onnx_ad_peer.py, in onnx-ad's environment.

    python onnx_ad_worker.py MODEL.onnx FOLDER BATCH DIRECTIONS [MODE…]

Writes MODEL.forward.onnx and MODEL.reverse.onnx, of a copy whose dynamic dimensions are all BATCH
(its reverse mode refuses most dynamic shapes, and its forward mode is faster without), and
MODEL.json: its version, and per mode what it said to the model as it is, and to that copy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ad

TAKEN = "taken"


def fix(model: onnx.ModelProto, size: int) -> None:
    """Set every dynamic dimension of the inputs and outputs."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = size
    del model.graph.value_info[:]


def words(attempt: Callable[[], object]) -> str:
    """What it says."""
    try:
        attempt()
    except Exception as error:  # noqa: BLE001  (whatever it says is the result)
        return f"{type(error).__name__}: {error}"
    return TAKEN


def main() -> None:
    path, folder = map(Path, sys.argv[1:3])
    batch, directions = map(int, sys.argv[3:5])
    said = {"onnx-ad": onnx_ad.__version__}
    for mode in sys.argv[5:] or ("forward", "reverse"):
        rewrite = getattr(onnx_ad, mode)

        def write(mode: str = mode, rewrite: Callable[..., onnx.ModelProto] = rewrite) -> None:
            model = onnx.load(path)
            fix(model, batch)
            derivative = rewrite(model, layout="onnx")
            fix(derivative, directions)
            onnx.save(derivative, folder / f"{path.stem}.{mode}.onnx")

        said[mode] = words(lambda rewrite=rewrite: rewrite(onnx.load(path), layout="onnx"))
        said[f"{mode}, fixed"] = words(write)
    (folder / f"{path.stem}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
