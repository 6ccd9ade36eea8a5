"""Every exporter's small models, what optimisers make of them, and trained files from packages.

    python benchmarks/exporters.py [NAME…]       # files that start so; default: all there are

Each is rewritten as jvp, vjp and both layouts of the clone, in its inputs and in its weights, and
verified against float64 differences (`onnxjvp.verify`). benchmarks/export/ makes the files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from record import page, rows_of, save
from verified import SHAPES, inputs_of

import onnxjvp
from onnxjvp import OnnxJvpError, Rewritten
from onnxjvp.verification import verify

MODELS = Path(__file__).parent / "models"
KINDS = ("small_", "packaged_", "rapidocr_")
FORMS: dict[str, Callable[..., Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "vjp": onnxjvp.vjp,
    "clone split": partial(onnxjvp.clone, layout="split"),
    "clone stacked": partial(onnxjvp.clone, layout="stacked"),
    "jvp in weights": onnxjvp.jvp,
    "vjp in weights": onnxjvp.vjp,
}
_RATE = {"sr": np.array(16000)}
#: sizes that a file leaves open, and inputs that are settings: what a user would know
FIXED: dict[str, dict[str, Any]] = {
    "packaged_silero_vad": {"input": (1, 576), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_16k_op15": {"input": (1, 576), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_half": {"input": (1, 512), "state": (2, 1, 128)},
    "packaged_silero_vad_ifless": {"input": (1, 576), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_sequence": {"input": (3, 576)},
}
#: a value inside, where the inputs are no numbers; what becomes of rounding
ASKED: dict[str, dict[str, Any]] = {
    "packaged_magika": {
        "wrt": ["jax2tf_get_logits_/pjit_get_logits_/MagikaV2/Dense_0/einsum/Einsum:0"]
    },
    "packaged_smart_turn": {"quantized": "straight-through"},
}
NOTES = (
    "A row is a file, a cell a form: *passed* against float64 differences, with f(x) unchanged; "
    "*identities*: there are no such differences (the file rounds, and the derivative is the "
    "straight-through estimator; or float64 is not what the runtime computes), and only f(x) and "
    "the identities between results were checked; or the reason of a refusal. "
    "small_EXPORTER_MODEL.OPTIMISER have random weights and a width of 16; the others are trained, "
    "from wheels. Where a file's rank or branches depend on sizes known at run time only (silero), "
    "they were set to those that the network is meant for. The last columns say so, and what was "
    "asked for beyond the defaults: bytes have no derivative, what they are made into has."
)


def read(path: Path) -> tuple[onnx.ModelProto, str]:
    """The model; sizes and settings that are known put into it."""
    model, fixed = onnx.load(path), FIXED.get(path.stem, {})
    for info in list(model.graph.input):
        value = fixed.get(info.name)
        if isinstance(value, np.ndarray):
            model.graph.input.remove(info)
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, info.name))
        elif value is not None:
            for dim, size in zip(info.type.tensor_type.shape.dim, value, strict=True):
                dim.dim_value = size
    if fixed:
        del model.graph.value_info[:]  # what the file says of open sizes
    shown = {k: v.tolist() if isinstance(v, np.ndarray) else list(v) for k, v in fixed.items()}
    return model, ", ".join(f"{name} = {value}" for name, value in shown.items())


def point(path: Path, model: onnx.ModelProto) -> dict[str, np.ndarray] | None:
    """Inputs that a random draw would not hit: a page for the text detector, bytes for magika."""
    stem = path.stem.split(".")[0]
    if stem in SHAPES:
        return inputs_of(Path(stem))
    if "silero" in stem and "half" not in stem:  # which loses what is quiet
        sizes = {i.name: [d.dim_value for d in _dims(i)] for i in model.graph.input}
        return {n: _voice(s) if n == "input" else np.zeros(s, np.float32) for n, s in sizes.items()}
    if stem == "packaged_magika":
        return {"bytes": np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)}
    return None


def _dims(info: onnx.ValueInfoProto) -> Any:
    return info.type.tensor_type.shape.dim


def _voice(shape: list[int]) -> np.ndarray:
    """A vowel and some noise: on noise alone a detector of voices is certain, and flat; on a vowel
    alone most frequencies are next to 0, where their magnitude has a kink."""
    time_ = np.arange(np.prod(shape)) / 16000
    pitch = 200 * (time_ + 0.1 * (1 - np.cos(6 * np.pi * time_)) / (6 * np.pi))
    harmonics = np.arange(1, 25)[:, None]
    tones = np.exp(-(((200 * harmonics - 600) / 400) ** 2))
    tones += 0.3 * np.exp(-(((200 * harmonics - 1800) / 400) ** 2))
    loud = 0.3 * (0.55 + 0.45 * np.sin(8 * np.pi * time_))
    wave = loud * (tones * np.sin(2 * np.pi * harmonics * pitch)).sum(0)
    wave += 0.02 * np.random.default_rng(0).standard_normal(wave.shape)
    return wave.reshape(shape).astype(np.float32)


def examine(path: Path, form: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": path.stem, "form": form}
    start = time.perf_counter()
    model, fixed = read(path)
    asked = dict(ASKED.get(path.stem, {}))
    if fixed:
        row["fixed"] = fixed
    if asked:
        row["asked"] = ", ".join(f"{name} = {value}" for name, value in asked.items())
    if "weights" in form:
        asked["wrt"] = ["params"]
    try:
        result = FORMS[form](model, **asked)
    except OnnxJvpError as error:
        if "no trainable parameter" in str(error):
            return {**row, "verdict": "no weights"}
        return {**row, "verdict": "refused", "reason": _reason(error)}
    if "quantized" in asked:
        return {**row, **_by_identities(model, result, asked)}
    try:
        report = verify(model, result, inputs=point(path, model))
    except OnnxJvpError as error:  # of a result that was just made: its fault
        return {**row, "verdict": "FAILED", "reason": str(error)}
    failed = [f"{r.check}: {r.tensor}, {r.relative}" for r in report.rows if r.status == "failed"]
    sure = report.oracle == "float64 differences"
    verdict = "FAILED" if not report.passed else "passed" if sure else "identities"
    reason = "; ".join(failed) or ("" if sure else report.oracle)
    worst = max((r.relative or 0.0 for r in report.rows if "differences" in r.check), default=0.0)
    seconds = round(time.perf_counter() - start, 2)
    return {**row, "verdict": verdict, "reason": reason, "worst": worst, "seconds": seconds}


def _by_identities(
    model: onnx.ModelProto, result: Rewritten, asked: dict[str, Any]
) -> dict[str, Any]:
    """f(x) to the bit, J u the same in all forms, <v, J u> = <vjp, u>: as the runtime computes."""
    drawn: dict[str, np.ndarray] = {}
    rng = np.random.default_rng(0)

    def run(made: onnx.ModelProto) -> dict[str, np.ndarray]:
        for info in made.graph.input:
            if info.name not in drawn:
                sizes = [d.dim_value or 1 for d in _dims(info)]
                drawn[info.name] = rng.standard_normal(sizes).astype(np.float32)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(made.SerializeToString(), options)
        names = [output.name for output in session.get_outputs()]
        fed = {info.name: drawn[info.name] for info in made.graph.input}
        return dict(zip(names, session.run(None, fed), strict=True))

    pushed = onnxjvp.jvp(model, **asked)
    primal, along, values = run(model), run(pushed.proto()), run(result.proto())
    failed = [f"f(x) of {y}" for y, v in primal.items() if v.tobytes() != values[y].tobytes()]
    tangents = {y: along[names["jvp"]] for y, names in pushed.names["results"].items()}
    here = there = worst = 0.0
    for name, names in result.names["results"].items():
        if "jvp" in names:
            apart = np.abs(values[names["jvp"]] - tangents[name]).max()
            worst = max(worst, float(apart / np.abs(tangents[name]).max()))
        else:
            there += float(np.vdot(values[names["vjp"]], drawn[pushed.names["seeds"][name]]))
    if cts := result.names.get("cotangents"):
        here = sum(float(np.vdot(drawn[cts[y]], tangent)) for y, tangent in tangents.items())
        worst = abs(here - there) / (abs(here) + abs(there))
    failed += [f"the identities are off by {worst:.1e}"] if worst > 1e-3 else []
    reason = "; ".join(failed) or "the straight-through estimator is no derivative of f"
    return {"verdict": "FAILED" if failed else "identities", "reason": reason, "worst": worst}


def _reason(error: OnnxJvpError) -> str:
    nodes = getattr(error, "nodes", ())
    if not nodes:
        return " ".join(str(error).split())
    name, kind, why = nodes[0]
    more = f" (and {len(nodes) - 1} more)" if len(nodes) > 1 else ""
    return f"{kind} {name!r}: {why}{more}"


def table(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """A row per file, a column per form; then every reason."""
    files: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = files.setdefault(row["model"], {"file": row["model"]})
        line[row["form"]] = row["verdict"]
        if "fixed" in row:
            line["sizes that were set"] = row["fixed"]
        if "asked" in row:
            line["asked for"] = row["asked"]
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row.get("reason"):
            key = (row["model"], row["verdict"], row["reason"])
            reasons.setdefault(key, []).append(row["form"])
    why = [
        {"file": model, "verdict": verdict, "forms": ", ".join(forms), "reason": reason}
        for (model, verdict, reason), forms in reasons.items()
    ]
    return {"": list(files.values()), "Reasons": why}


def main() -> int:
    wanted = tuple(sys.argv[1:]) or KINDS
    chosen = sorted(p for p in MODELS.glob("*.onnx") if p.name.startswith(wanted))
    rows = []
    for path in chosen:
        for form in FORMS:
            rows.append(examine(path, form))
            print(rows[-1], flush=True)
    fresh = {row["model"] for row in rows}
    kept = [row for row in rows_of("exporters") if row["model"] not in fresh]
    merged = sorted(kept + rows, key=lambda row: row["model"])
    title = "Exporters and optimisers, rewritten and verified"
    save("exporters", title, NOTES, merged)
    page("exporters", title, NOTES, table(merged))
    return int(any(row["verdict"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
