"""Every exporter's small models, what optimisers make of them, and trained files from packages.

    python benchmarks/exporters.py [NAME…]       # files that start so; default: all there are

Each is rewritten as jvp, vjp and both layouts of the clone, in its inputs and in its weights, and
verified against float64 differences (`onnxjvp.verify`). benchmarks/export/ makes the files.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from record import page, rows_of, save
from verified import SHAPES, inputs_of

import onnxjvp
from onnxjvp import OnnxJvpError, Rewritten
from onnxjvp.verification import verify

MODELS = Path(__file__).parent / "models"
KINDS = ("small_", "packaged_", "rapidocr_")
FORMS: dict[str, Callable[[onnx.ModelProto], Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "vjp": onnxjvp.vjp,
    "clone split": lambda m: onnxjvp.clone(m, layout="split"),
    "clone stacked": lambda m: onnxjvp.clone(m, layout="stacked"),
    "jvp in weights": lambda m: onnxjvp.jvp(m, ["params"]),
    "vjp in weights": lambda m: onnxjvp.vjp(m, ["params"]),
}
_RATE = {"sr": np.array(16000)}
#: sizes that a file leaves open, and inputs that are settings: what a user would know
FIXED: dict[str, dict[str, Any]] = {
    "packaged_silero_vad": {"input": (1, 512), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_16k_op15": {"input": (1, 512), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_half": {"input": (1, 512), "state": (2, 1, 128)},
    "packaged_silero_vad_ifless": {"input": (1, 512), "state": (2, 1, 128), **_RATE},
    "packaged_silero_vad_sequence": {"input": (3, 576)},
}
NOTES = (
    "A row is a file, a cell a form: *passed* against float64 differences, with f(x) unchanged; "
    "*identities*: the file cannot be run in float64 as the runtime does, and only the identities "
    "between its results were checked; or the reason of a refusal. small_EXPORTER_MODEL.OPTIMISER "
    "have random weights and a width of 16; the others are trained, from wheels. Where a file's "
    "rank or branches depend on sizes known at run time only (silero), they were set to those that "
    "the network is meant for, which the last column says."
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
    if stem == "packaged_magika":
        return {"bytes": np.random.default_rng(0).integers(0, 256, (1, 2048)).astype(np.int32)}
    return None


def examine(path: Path, form: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": path.stem, "form": form}
    start = time.perf_counter()
    model, fixed = read(path)
    if fixed:
        row["fixed"] = fixed
    try:
        result = FORMS[form](model)
    except OnnxJvpError as error:
        if "no trainable parameter" in str(error):
            return {**row, "verdict": "no weights"}
        return {**row, "verdict": "refused", "reason": _reason(error)}
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
    chosen = sorted(p for p in MODELS.glob("*.onnx") if p.stem.startswith(wanted))
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
