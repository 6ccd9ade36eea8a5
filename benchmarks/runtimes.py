"""The same rewritten models in every runtime that can be had here, against float64.

    python benchmarks/runtimes.py [RUNTIME…]      # their own rows are made anew; default: all

It installs what it needs: OpenVINO and a newer onnxruntime into environments of their own,
onnxruntime-web and onnxruntime-node with npm. Node 18 or newer and Chromium have to be there (its
path in CHROMIUM); a runtime that is not is left out, and said so.

The reference is the portable file evaluated in float64 in NumPy (`onnxjvp.oracle`), after that
evaluation itself agreed with differences of the original (`onnxjvp.verify`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from peers.browser import chromium, run_in_page
from peers.cases import Array, Values, pack, unpack
from peers.environments import made, node_modules
from record import page, rows_of, save

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.oracle import Evaluator
from onnxjvp.runtime import Session, random_feeds
from onnxjvp.targets import TARGETS
from onnxjvp.verification import verify

HERE = Path(__file__).parent
PEERS = HERE / "peers"
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
#: largest |found - expected| over the largest |expected| of a tensor, in float32
TOLERANCE = 1e-4
#: the longest that the cases of one runtime may take, in seconds
LIMIT = 600
TITLE = "Rewritten models in every runtime"
NOTES = (
    "The worst relative error of any output, largest |found - expected| over the largest "
    "|expected| of its tensor, against the same derivatives in float64; at most 1e-4 is right. "
    "*Portable* files are the same for all; a runtime with a target of its own gets files of that "
    "too. *In the browser* is WASM in headless Chromium, *.ort* the format of onnxruntime for "
    "mobile devices, *onnx* the evaluator of that package, in NumPy. OpenVINO was told to compute "
    "in float32. Batches are of 2, the RNN's of 4, light_squeezenet's of 1. Made by "
    "`python benchmarks/runtimes.py`."
)


@dataclass(frozen=True)
class Runtime:
    """How cases are run: (their folder, a folder for results, names) → the version."""

    target: str
    run: Callable[[Path, Path, Sequence[str]], str]


class MissingError(Exception):
    """A runtime is not there; the message says what to install."""


def in_python(worker: str, peer: str | None, folder: Path, out: Path, names: Sequence[str]) -> str:
    """Cases in an environment's Python; one that kills the process is left behind."""
    python = made(peer) if peer else sys.executable
    return _in_process([python, str(PEERS / "runtime_worker.py"), worker], folder, out, names)


def in_node(package: str, folder: Path, out: Path, names: Sequence[str]) -> str:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise MissingError("there is no Node here")
    modules = node_modules()
    program = modules.parent / "run"  # packages are looked for beside the program
    shutil.copytree(PEERS / "web", program, dirs_exist_ok=True)
    return _in_process(["node", str(program / "node.mjs"), package], folder, out, names)


def in_browser(folder: Path, out: Path, names: Sequence[str]) -> str:
    program = chromium()
    if program is None or shutil.which("npm") is None:
        raise MissingError("there is no Chromium here, or no npm")
    said = run_in_page(folder, out, names, node_modules(), seconds=LIMIT)
    known = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return f"{said.split(',')[0]}, {' '.join(known.stdout.split()[:2])}"


def as_ort(folder: Path, out: Path, names: Sequence[str]) -> str:
    """Converted by onnxruntime's own tool, as one would for a phone."""
    converted = folder / "ort"
    tool = [sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort"]
    tool += ["--optimization_style", "Fixed", "--allow_conversion_failures"]
    subprocess.run(
        [*tool, "--output_dir", str(converted), str(folder)], capture_output=True, check=True
    )
    return in_python("ort-format", None, folder, out, names)


def _in_process(command: list[str], folder: Path, out: Path, names: Sequence[str]) -> str:
    version = ""
    while left := [
        n for n in names if not list(out.glob(f"{n}.out")) + list(out.glob(f"{n}.failed"))
    ]:
        done = subprocess.run(
            [*command, str(folder), str(out), *left],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        version = done.stdout.strip() or version
        if done.returncode:
            if not version:
                raise RuntimeError(f"{command[-1]}: {done.stderr.strip()[-400:]}")
            first = next(n for n in left if not (out / f"{n}.out").exists())
            (out / f"{first}.failed").write_text(f"the process ended with {done.returncode}")
    return version


RUNTIMES = {
    "onnxruntime": Runtime("cpu", partial(in_python, "onnxruntime", None)),
    "newest onnxruntime": Runtime("cpu", partial(in_python, "onnxruntime", "onnxruntime")),
    "onnxruntime-node": Runtime("cpu", partial(in_node, "onnxruntime-node")),
    "web in Node": Runtime("web", partial(in_node, "onnxruntime-web")),
    "in the browser": Runtime("web", in_browser),
    ".ort": Runtime("mobile", as_ort),
    "OpenVINO": Runtime("openvino", partial(in_python, "openvino", "openvino")),
    "onnx": Runtime("portable", partial(in_python, "onnx", None)),
}


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


def reference(name: str, form: str) -> tuple[Values, Values, bool]:
    """Feeds, expected outputs in float64, and whether differences confirm them."""
    rewritten = FORMS[form](model_of(name))
    feeds = feeds_of(name, rewritten)
    original = {i.name for i in onnx.load(model_of(name), load_external_data=False).graph.input}
    point = {key: value for key, value in feeds.items() if key in original}
    report = verify(model_of(name), rewritten, inputs=point)
    sure = report.passed and report.oracle == "float64 differences"
    return feeds, Evaluator(rewritten.proto()).run(feeds), sure


def write_cases(
    folder: Path, target: str, known: dict[tuple[str, str], tuple[Values, Values, bool]]
) -> dict[str, tuple[str, str]]:
    """The files of one target; by case, the model and the form."""
    folder.mkdir()
    named = {}
    for model, form in known:
        case = f"{model}.{form.replace(' ', '_')}"
        named[case] = (model, form)
        FORMS[form](model_of(model), target=target).save(folder / f"{case}.onnx")
        (folder / f"{case}.in").write_bytes(pack(known[model, form][0]))
    (folder / "cases.json").write_text(json.dumps(list(named)), encoding="utf-8")
    return named


def judged(out: Path, case: str, expected: Values) -> dict[str, Any]:
    """The worst relative error, or what the runtime said."""
    if (failed := out / f"{case}.failed").exists():
        return {"verdict": "FAILED", "reason": " ".join(failed.read_text("utf-8").split())}
    found = unpack((out / f"{case}.out").read_bytes())
    if set(found) != set(expected):
        return {"verdict": "FAILED", "reason": f"outputs {sorted(found)}"}
    for name, array in expected.items():
        if found[name].shape != array.shape:
            return {"verdict": "FAILED", "reason": f"{name} has shape {found[name].shape}"}
    errors = {name: error(found[name], array) for name, array in expected.items()}
    worst = max(errors, key=errors.__getitem__)
    right = errors[worst] <= TOLERANCE
    return {"verdict": "right" if right else "WRONG", "error": errors[worst], "tensor": worst}


def error(found: Array, expected: Array) -> float:
    """NaN counts as infinite."""
    size = float(np.abs(expected).max(initial=0.0)) or 1.0
    apart = float(np.abs(found.astype(np.float64) - expected).max(initial=0.0)) / size
    return apart if np.isfinite(apart) else np.inf


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
                wrong = row["verdict"] == "WRONG"
                line[row["runtime"]] = f"**{shown}: wrong**" if wrong else shown
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


def main() -> int:
    wanted = sys.argv[1:] or list(RUNTIMES)
    known = {(m, form): reference(m, form) for m in (*SHIPPED, LIGHT) for form in FORMS}
    for key, (_, _, sure) in known.items():
        print(
            *key, "reference", "confirmed by differences" if sure else "NOT CONFIRMED", flush=True
        )
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        cases: dict[str, dict[str, tuple[str, str]]] = {}
        for name in wanted:
            runtime = RUNTIMES[name]
            for target in dict.fromkeys(("portable", runtime.target)):
                if target not in TARGETS:
                    continue
                folder, out = Path(scratch, target), Path(scratch, f"{name}, {target}")
                out.mkdir()
                if target not in cases:
                    cases[target] = write_cases(folder, target, known)
                try:
                    version = runtime.run(folder, out, list(cases[target]))
                except MissingError as missing:
                    print(name, "left out:", missing)
                    break
                for case, (model, form) in cases[target].items():
                    _, expected, sure = known[model, form]
                    row = {"model": model, "form": form, "runtime": name, "target": target}
                    row |= {"version": version, "confirmed": sure}
                    rows.append(row | judged(out, case, expected))
                    print(*rows[-1].values(), flush=True)
    kept = [row for row in rows_of("runtimes") if row["runtime"] not in wanted]
    order = list(RUNTIMES)
    rows = sorted(kept + rows, key=lambda row: order.index(row["runtime"]))
    save("runtimes", TITLE, NOTES, rows)
    page("runtimes", TITLE, NOTES, tables(rows))
    return int(any(row["verdict"] != "right" or not row["confirmed"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
