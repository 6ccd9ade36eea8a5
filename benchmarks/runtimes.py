"""The same rewritten models in every runtime that can be had here, against float64.

    python benchmarks/runtimes.py [RUNTIME…] [--models MODEL…] [--forms FORM…]

Rows of these are made anew, of all by default; the others stay. Fails if a file written for a
runtime's own target is not right there.

It installs what it needs: OpenVINO, a newer onnxruntime and the one of the mobile package into
environments of their own, onnxruntime-web and onnxruntime-node with npm. Node 18 or newer and
Chromium have to be there (its path in CHROMIUM); a runtime that is not is left out, and said so.

The reference is the portable file evaluated in float64 in NumPy (`onnxjvp.oracle`), after that
evaluation itself agreed with differences of the original (`onnxjvp.verify`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers.cases import Values, write_case
from peers.runtimes import RUNTIMES, MissingError, judged
from record import page, rows_of, save

import onnxjvp
from onnxjvp import OnnxJvpError, Rewritten
from onnxjvp.errors import TargetError
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session, random_feeds
from onnxjvp.verification import verify

HERE = Path(__file__).parent
GUIDE = HERE.parent / "docs" / "guides" / "runtimes.md"
SHIPPED = ("digits_cnn", "digits_unet", "digits_rnn", "digits_transformer")
LIGHT = "light_squeezenet"
FORMS: dict[str, Callable[..., Rewritten]] = {
    "jvp": onnxjvp.jvp,
    "clone split": partial(onnxjvp.clone, layout="split"),
    "clone stacked": partial(onnxjvp.clone, layout="stacked"),
    "vjp": onnxjvp.vjp,
    "jvp in weights": partial(onnxjvp.jvp, wrt=["params"]),
    "vjp in weights": partial(onnxjvp.vjp, wrt=["params"]),
}
Key = tuple[str, str]
Reference = tuple[Values, Values, bool]

TITLE = "Rewritten models in every runtime"
NOTES = (
    "The worst relative error of any output, largest |found - expected| over the largest "
    "|expected| of its tensor, against the same derivatives in float64; at most 1e-4 is right. "
    "*Portable* files are the same for all; a runtime with a target of its own gets files of that "
    "too. *In the browser* is WASM in headless Chromium, *WebGPU* the same on a GPU that Chromium "
    "computes (SwiftShader), *.ort* the format of onnxruntime for mobile devices; *mobile* files "
    "are converted and run by 1.17, and hold none but the operators of its pre-built package. "
    "*onnx* is that package's evaluator in NumPy. OpenVINO was told to compute in float32. The "
    "batch of the RNN is 4, of light_squeezenet 1; the others are open, 2 here, but where ¹ says "
    "that the target asked for a fixed one (`onnxjvp fix`). Made by "
    "`python benchmarks/runtimes.py`."
)


@dataclass(frozen=True)
class Written:
    """What became of a file: its batch was fixed; why it was refused."""

    fixed: bool = False
    refused: str = ""


def model_of(name: str) -> Path:
    path = HERE.parent / "models" / f"{name}.onnx"
    if name == LIGHT and not (path := HERE / "models" / f"{name}.onnx").exists():
        sys.path.insert(0, str(HERE / "export"))
        from light import LIGHT as SOURCES  # noqa: PLC0415
        from light import fill  # noqa: PLC0415

        path.parent.mkdir(exist_ok=True)
        onnx.save(fill(onnx.load(SOURCES / path.name), 0), path)
    return path


def feeds_of(name: str, rewritten: Rewritten) -> Values:
    """Normal numbers; for the light network, an image (on noise alone it is close to its kinks)."""
    feeds = random_feeds(Session(rewritten.proto()).inputs, 0)
    if name == LIGHT:
        sys.path.insert(0, str(HERE / "export"))
        from light import random_image  # noqa: PLC0415

        feeds["data_0"] = random_image(feeds["data_0"].shape, np.random.default_rng(0))
    return feeds


def reference(name: str, form: str) -> Reference:
    """Feeds, expected outputs in float64, and whether differences confirm them."""
    rewritten = FORMS[form](model_of(name))
    feeds = feeds_of(name, rewritten)
    original = {i.name for i in onnx.load(model_of(name), load_external_data=False).graph.input}
    point = {key: value for key, value in feeds.items() if key in original}
    report = verify(model_of(name), rewritten, inputs=point)
    sure = report.passed and report.oracle == "float64 differences"
    return feeds, Evaluator(rewritten.proto()).run(feeds), sure


def write_cases(folder: Path, target: str, known: Mapping[Key, Reference]) -> dict[Key, Written]:
    """The files of one target, by model and form.

    A file that is refused for a size that is known at the run only is written for that size.
    """
    folder.mkdir()
    written = {}
    for (model, form), (feeds, _, _) in known.items():
        source: Path | Rewritten = model_of(model)
        fixed = False
        try:
            try:
                proto = FORMS[form](source, target=target).proto()
            except TargetError as error:
                if "fix the batch" not in str(error):
                    raise
                given = {i.name for i in Session(source).inputs}
                source = onnxjvp.fix(source, {n: feeds[n].shape for n in feeds if n in given})
                proto, fixed = FORMS[form](source, target=target).proto(), True
            written[model, form] = Written(fixed)
            write_case(folder, case_of(model, form), proto.SerializeToString(), feeds)
        except OnnxJvpError as error:
            written[model, form] = Written(refused=" ".join(str(error).split()))
    return written


def case_of(model: str, form: str) -> str:
    return f"{model}.{form.replace(' ', '_')}"


def examine(
    name: str,
    target: str,
    folder: Path,
    written: Mapping[Key, Written],
    known: Mapping[Key, Reference],
) -> list[dict[str, Any]]:
    """The rows of a runtime and a target, whose files are in a folder."""
    rows = []
    cases = [case_of(*key) for key, file in written.items() if not file.refused]
    with tempfile.TemporaryDirectory() as out:
        version = RUNTIMES[name].run(folder, Path(out), cases) if cases else ""
        for key, file in written.items():
            _, expected, sure = known[key]
            row = {"model": key[0], "form": key[1], "runtime": name, "target": target}
            row |= {"version": version, "confirmed": sure, "fixed": file.fixed}
            if file.refused:
                rows.append(row | {"verdict": "refused", "reason": file.refused})
            else:
                rows.append(row | judged(Path(out), case_of(*key), expected))
            print(*rows[-1].values(), flush=True)
    return rows


def tables(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Cells of every runtime by its own target, then by portable files; what failed; versions."""
    found: dict[str, list[dict[str, Any]]] = {}
    for heading, own in (("Files for each runtime's own target", True), ("Portable files", False)):
        lines: dict[tuple[str, str], dict[str, Any]] = {}
        for row in rows:
            if row["target"] == (RUNTIMES[row["runtime"]].target if own else "portable"):
                key = (row["model"], row["form"])
                line = lines.setdefault(key, {"model": key[0], "form": key[1]})
                shown = f"{row['error']:.1e}" if "error" in row else row["verdict"]
                shown = f"**{shown}: wrong**" if row["verdict"] == "WRONG" else shown
                line[row["runtime"]] = f"{shown} ¹" if row.get("fixed") else shown
        found[heading] = list(lines.values())
    found["What is not right"] = [
        {key: row[key] for key in ("runtime", "target", "model", "form", "verdict")}
        | {"why": row.get("reason") or f"{row['tensor']}: {row['error']:.2g}"}
        for row in rows
        if row["verdict"] != "right"
    ]
    versions = {row["runtime"]: row["version"] for row in rows}
    found["Versions"] = [
        {"runtime": name, "target": RUNTIMES[name].target, "version": version}
        for name, version in versions.items()
    ]
    return {heading: lines for heading, lines in found.items() if lines}


def summary(rows: list[dict[str, Any]]) -> str:
    """The table of the guide: a line per runtime."""
    lines = ["| where | version | `--target` | right | worst relative error | portable files |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, runtime in RUNTIMES.items():
        own, portable = (
            [row for row in rows if (row["runtime"], row["target"]) == (name, target)]
            for target in (runtime.target, "portable")
        )
        if not own:
            continue
        worst = max((row["error"] for row in own if "error" in row), default=float("nan"))
        cells = [name, own[0]["version"].split("-releases")[0], runtime.target, _share(own)]
        cells += [f"{worst:.0e}", _share(portable) if portable else "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _share(rows: list[dict[str, Any]]) -> str:
    verdicts = Counter(row["verdict"] for row in rows)
    others = ", ".join(f"{count} {v}" for v, count in verdicts.items() if v != "right")
    return f"{verdicts['right']} of {len(rows)}" + (f"; {others}" if others else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runtimes", nargs="*", metavar="RUNTIME", default=list(RUNTIMES))
    parser.add_argument("--models", nargs="+", metavar="MODEL", default=[*SHIPPED, LIGHT])
    parser.add_argument("--forms", nargs="+", metavar="FORM", default=list(FORMS))
    given = parser.parse_args()
    keys = [(model, form) for model in given.models for form in given.forms]
    known = {key: reference(*key) for key in keys}
    for key, (_, _, sure) in known.items():
        print(
            *key, "reference", "confirmed by differences" if sure else "NOT CONFIRMED", flush=True
        )
    rows = rows_of("runtimes")
    with tempfile.TemporaryDirectory() as scratch:
        written: dict[str, dict[Key, Written]] = {}
        for name in given.runtimes:
            own = RUNTIMES[name].target
            fresh = []
            try:
                for target in dict.fromkeys(
                    ("portable", own) if RUNTIMES[name].portable else (own,)
                ):
                    folder = Path(scratch, target)
                    if target not in written:
                        written[target] = write_cases(folder, target, known)
                    fresh += examine(name, target, folder, written[target], known)
            except MissingError as missing:
                print(name, "left out:", missing)
                continue
            rows = [row for row in rows if row["runtime"] != name or key_of(row) not in keys]
            rows += fresh
            record(rows)  # an interruption loses one runtime only
    judged_by = [row for row in rows if row["target"] == RUNTIMES[row["runtime"]].target]
    return int(any(row["verdict"] != "right" or not row["confirmed"] for row in judged_by))


def key_of(row: Mapping[str, Any]) -> Key:
    return row["model"], row["form"]


def record(rows: list[dict[str, Any]]) -> None:
    """results/runtimes.*, and the table of the guide."""
    runtimes, models, forms = list(RUNTIMES), [*SHIPPED, LIGHT], list(FORMS)
    rows.sort(
        key=lambda row: (
            runtimes.index(row["runtime"]),
            row["target"],
            models.index(row["model"]),
            forms.index(row["form"]),
        )
    )
    save("runtimes", TITLE, NOTES, rows)
    page("runtimes", TITLE, NOTES, tables(rows))
    text = GUIDE.read_text(encoding="utf-8")
    before, after = text.split("<!-- runtimes -->\n")[0], text.split("<!-- end -->")[1]
    shown = f"<!-- runtimes -->\n{summary(rows)}<!-- end -->"
    GUIDE.write_text(f"{before}{shown}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
