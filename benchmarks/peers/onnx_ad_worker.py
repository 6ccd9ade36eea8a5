"""Writes onnx-ad's derivative models. Started by onnx_ad_peer.py, in onnx-ad's environment.

    python onnx_ad_worker.py MODEL.onnx FOLDER

Writes MODEL.forward.onnx and MODEL.reverse.onnx, of a copy whose dynamic dimensions are all 1
(its reverse mode refuses most dynamic shapes, and its forward mode is faster without), and
MODEL.json: its version, and what it said to the model as it is.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx
import onnx_ad


def set_to_one(model: onnx.ModelProto) -> None:
    """Set every dynamic dimension of the inputs and outputs to 1."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    del model.graph.value_info[:]


def main() -> None:
    path, folder = map(Path, sys.argv[1:])
    said = {"onnx-ad": onnx_ad.__version__}
    for mode, rewrite in (("forward", onnx_ad.forward), ("reverse", onnx_ad.reverse)):
        try:
            rewrite(onnx.load(path), layout="onnx")
            said[mode] = "taken"
        except Exception as error:  # noqa: BLE001  (whatever it says is the result)
            said[mode] = f"{type(error).__name__}: {error}"
        model = onnx.load(path)
        set_to_one(model)
        derivative = rewrite(model, layout="onnx")
        set_to_one(derivative)  # the number of directions
        onnx.save(derivative, folder / f"{path.stem}.{mode}.onnx")
    (folder / f"{path.stem}.json").write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
