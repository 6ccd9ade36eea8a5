"""Runs cases (cases.py) in one runtime, in whatever environment this is started.

    python benchmarks/peers/runtime_worker.py RUNTIME FOLDER OUT NAME…

RUNTIME is a function below. Prints the runtime's version first.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cases import Values, run_cases


def onnxruntime(model: Path, feeds: Values) -> Values:
    import onnxruntime as ort  # noqa: PLC0415 - each runtime is in an environment of its own

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def ort_format(model: Path, feeds: Values) -> Values:
    """FOLDER/ort holds what convert_onnx_models_to_ort made of the files."""
    return onnxruntime(model.parent / "ort" / f"{model.stem}.ort", feeds)


def onnx(model: Path, feeds: Values) -> Values:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415

    evaluator = ReferenceEvaluator(str(model))
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def openvino(model: Path, feeds: Values) -> Values:
    """In float32: where the processor has bfloat16, OpenVINO takes that by default."""
    import openvino as ov  # noqa: PLC0415

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(str(model), "CPU", settings)
    results = compiled({name: array.copy() for name, array in feeds.items()})  # it wants to write
    # a value that is left by an Identity has both names
    return {name: results[o].copy() for o in compiled.outputs for name in o.names}


RUNTIMES = {
    "onnxruntime": (onnxruntime, "onnxruntime"),
    "ort-format": (ort_format, "onnxruntime"),
    "onnx": (onnx, "onnx"),
    "openvino": (openvino, "openvino"),
}


def main() -> None:
    runtime, folder, out, *names = sys.argv[1:]
    run, package = RUNTIMES[runtime]
    print(f"{package} {__import__(package).__version__}", flush=True)
    run_cases(Path(folder), Path(out), names, run)


if __name__ == "__main__":
    main()
