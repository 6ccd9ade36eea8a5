"""Rewrite real models in every form and verify each against float64 differences.

    python benchmarks/verified.py [MODEL…]       # default: models/ and what benchmarks/export made

Models that are named replace their own rows in the table; without names it is made anew.

The table has, per model and form, the worst error against the differences (of J u, or of vᵀ J u for
several u), of the runtime against float64, and whether f(x) is the same bits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import rows_of, write

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.verification import verify

HERE = Path(__file__).parent
FORMS: dict[str, Callable[[Path], Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "clone split": lambda m: onnxjvp.clone(m, layout="split"),
    "clone stacked": lambda m: onnxjvp.clone(m, layout="stacked"),
    "substitute": lambda m: onnxjvp.clone(m, method="substitute"),
    "vjp": onnxjvp.vjp,
    "vjp cpu": lambda m: onnxjvp.vjp(m, target="cpu"),
    "jvp in weights": lambda m: onnxjvp.jvp(m, ["params"]),
    "vjp in weights": lambda m: onnxjvp.vjp(m, ["params"]),
}
#: what the derivative is held against: differences, directly or through products with a cotangent
AGAINST = ("jvp = float64 differences", "<ct, J u> = <vjp, u>")
#: between the lanes of a clone
CLONE = ("f(x) - f_x(x - u) = J u", "f_x(u) - f_x(0) = J u", "f_x(x) = f(x)")
#: shapes for models with free image dimensions (multiples of their total stride)
SHAPES = {
    "rapidocr_det": (1, 3, 96, 160),
    "rapidocr_cls": (1, 3, 48, 192),
    "rapidocr_rec": (1, 3, 48, 160),
}
SKIPPED = ("big", "deep_conv", "deep_matmul")  # for rewriting.py


def inputs_of(model: Path) -> dict[str, np.ndarray] | None:
    if model.stem == "wine_mlp":  # one sample of the raw table, in its own units
        sample = [13.2, 1.78, 2.14, 11.2, 100, 2.65, 2.76, 0.26, 1.28, 4.38, 1.05, 3.4, 1050]
        return {"features": np.array([sample, sample], np.float32) * np.float32([[1], [0.7]])}
    return {"x": _page(*SHAPES[model.stem][2:])} if model.stem in SHAPES else None


def _page(height: int, width: int) -> np.ndarray:
    """Lines of dark strokes on paper, normalised: on noise a text detector is flat everywhere."""
    rng = np.random.default_rng(0)
    image = np.full((height, width), 0.9)
    for top in range(12, height - 20, 24):
        for left in np.cumsum(rng.integers(5, 9, size=width // 9)):
            image[top : top + 12, left : left + 2] = 0.1
            image[top + rng.integers(0, 10), left : left + 6] = 0.1
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normal = (image - mean[:, None, None]) / deviation[:, None, None]
    return normal[None].astype(np.float32)


def examine(model: Path, form: str) -> dict[str, Any]:
    row: dict[str, Any] = {"model": model.stem, "form": form}
    start = time.perf_counter()
    try:
        result = FORMS[form](model)
    except onnxjvp.UnsupportedOpError as error:
        return {**row, "verdict": "refused: " + "; ".join(f"{o} {n}" for n, o, _ in error.nodes)}
    report = verify(model, result, inputs=inputs_of(model))
    worst: dict[str, float] = {}
    for check in report.rows:
        if check.relative is not None:
            worst[check.check] = max(worst.get(check.check, 0.0), check.relative)
    return {
        **row,
        "verdict": "passed" if report.passed else "FAILED",
        "oracle": report.oracle,
        "f(x) unchanged": worst.get("unchanged", "–"),
        "against differences": largest(worst, AGAINST),
        "runtime against float64": worst.get("runtime = float64", "–"),
        "clone identities": largest(worst, CLONE),
        "linear": largest(worst, ("linear in u", "linear in ct")),
        "seconds": time.perf_counter() - start,
    }


def largest(worst: dict[str, float], checks: tuple[str, ...]) -> float | str:
    return max((worst[check] for check in checks if check in worst), default="–")


def main() -> int:
    given = [Path(a) for a in sys.argv[1:]]
    shipped = sorted((HERE.parent / "models").glob("*.onnx"))
    exported = sorted((HERE / "models").glob("*.onnx"))
    models = given or [m for m in (*shipped, *exported) if m.stem not in SKIPPED]
    names = {model.stem for model in models}
    rows = []
    for model in models:
        for form in FORMS:
            rows.append(examine(model, form))
            print(rows[-1], flush=True)
    if given:
        rows = [row for row in rows_of("verified") if row["model"] not in names] + rows
    notes = (
        "Relative errors, scaled by the largest element of each tensor. Differences are central, "
        "in float64, on the original; the runtime ran with its optimisations off."
    )
    write("verified", "Real models, rewritten and verified", notes, rows)
    return int(any(row["verdict"] == "FAILED" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
