"""What optimisers make of the small models: onnxruntime (basic, extended), onnxsim, onnxslim.

Reads `small_*.onnx` and `rapidocr_cls.onnx`, writes `NAME.OPTIMISER.onnx` beside them.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import onnxsim
import onnxslim
from common import describe, parser

LEVELS = {
    "ort-basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "ort-extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
}


def runtime(source: Path, target: Path, level: ort.GraphOptimizationLevel) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def main() -> None:
    """Optimise every small model in every way."""
    args = parser(__doc__).parse_args()
    sources = sorted(p for p in args.out.glob("small_*.onnx") if p.name.count(".") == 1)
    sources += sorted(args.out.glob("rapidocr_cls.onnx"))
    for source in sources:
        for name, level in LEVELS.items():
            target = source.with_suffix(f".{name}.onnx")
            runtime(source, target, level)
            print(describe(target))
        simpler, sound = onnxsim.simplify(onnx.load(source))
        assert sound, source
        for name, model in (("onnxsim", simpler), ("onnxslim", onnxslim.slim(onnx.load(source)))):
            target = source.with_suffix(f".{name}.onnx")
            onnx.save(model, target)
            print(describe(target))


if __name__ == "__main__":
    main()
