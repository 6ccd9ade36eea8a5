"""Copies the text detector and the direction classifier out of the rapidocr-onnxruntime wheel.

They are trained models as PaddlePaddle's exporter writes them. The wheel need only be there, not
its dependencies: `pip install --no-deps rapidocr-onnxruntime`.
"""

from __future__ import annotations

import shutil
from importlib.metadata import files

import numpy as np
import onnx
import onnxruntime as ort
from common import describe, parser

WHEEL = "rapidocr-onnxruntime"
KINDS = {"det": (1, 3, 96, 160), "cls": (1, 3, 48, 192)}
"""The kinds of model to copy (the wheel's recogniser, `rec`, is left out) and shapes to try."""


def main() -> None:
    """Copy and try both."""
    options = parser(__doc__)
    options.add_argument("--rec", action="store_true", help="copy the recogniser, too")
    args = options.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    kinds = KINDS | ({"rec": (1, 3, 48, 160)} if args.rec else {})
    rng = np.random.default_rng(args.seed)
    found = {str(path.locate()) for path in files(WHEEL) or [] if path.suffix == ".onnx"}
    for kind, shape in kinds.items():
        (source,) = [path for path in found if f"_{kind}_" in path]
        target = args.out / f"rapidocr_{kind}.onnx"
        shutil.copyfile(source, target)
        onnx.checker.check_model(target)
        session = ort.InferenceSession(target, providers=["CPUExecutionProvider"])
        image = rng.standard_normal(shape, dtype=np.float32)
        outputs = session.run(None, {session.get_inputs()[0].name: image})
        assert all(np.isfinite(out).all() for out in outputs), target
        print(describe(target), f"  {shape} gives {[out.shape for out in outputs]}", sep="\n")


if __name__ == "__main__":
    main()
