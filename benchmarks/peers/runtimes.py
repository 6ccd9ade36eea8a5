"""Every runtime that cases (cases.py) can be run in here, and what is made of their results."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .browser import chromium, run_in_page
from .cases import Array, Values, unpack
from .environments import made, node_modules

HERE = Path(__file__).parent
#: largest |found - expected| over the largest |expected| of a tensor, in float32
TOLERANCE = 1e-4
#: the longest that the cases of one runtime may take, in seconds
LIMIT = 600


@dataclass(frozen=True)
class Runtime:
    """How cases are run: (their folder, a folder for results, names) → the version."""

    target: str
    run: Callable[[Path, Path, Sequence[str]], str]
    #: whether portable files are for it too
    portable: bool = True


class MissingError(Exception):
    """A runtime is not there; the message says what to install."""


def in_python(worker: str, peer: str | None, folder: Path, out: Path, names: Sequence[str]) -> str:
    """Cases in an environment's Python; one that kills the process is left behind."""
    return _in_process(
        [python_or_this(peer), str(HERE / "runtime_worker.py"), worker], folder, out, names
    )


def in_node(package: str, folder: Path, out: Path, names: Sequence[str]) -> str:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise MissingError("there is no Node here")
    modules = node_modules()
    program = modules.parent / "run"  # packages are looked for beside the program
    shutil.copytree(HERE / "web", program, dirs_exist_ok=True)
    return _in_process(["node", str(program / "node.mjs"), package], folder, out, names)


def in_browser(provider: str, folder: Path, out: Path, names: Sequence[str]) -> str:
    """In a page; provider wasm, or webgpu on a GPU that is computed, which every machine has."""
    program = chromium()
    if program is None or shutil.which("npm") is None:
        raise MissingError("there is no Chromium here, or no npm")
    said = run_in_page(folder, out, names, node_modules(), provider=provider, seconds=LIMIT)
    known = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return f"{said.split(',')[0]}, {' '.join(known.stdout.split()[:2])}"


def as_ort(peer: str | None, folder: Path, out: Path, names: Sequence[str]) -> str:
    """Converted by onnxruntime's own tool, as one would for a phone."""
    converted = folder / "ort"
    tool = [python_or_this(peer), "-m", "onnxruntime.tools.convert_onnx_models_to_ort"]
    tool += ["--optimization_style", "Fixed", "--allow_conversion_failures"]
    done = subprocess.run(
        [*tool, "--output_dir", str(converted), str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    for line in (done.stdout + done.stderr).splitlines():
        if refused := re.match(r"Error converting (.*)\.onnx: (.*)", line):
            said = f"convert_onnx_models_to_ort: {refused[2]}"
            (out / f"{Path(refused[1]).name}.failed").write_text(said, encoding="utf-8")
    return in_python("ort-format", peer, folder, out, names)


def as_mobile_ort(peer: str | None, folder: Path, out: Path, names: Sequence[str]) -> str:
    """The same; a file with an operator that the pre-built package lacks has failed."""
    version = as_ort(peer, folder, out, names)
    for name in names:
        path = folder / "ort" / f"{name}.ort"
        lacking = [] if not path.exists() else beyond_the_package(path)
        if lacking:
            said = f"the package has no {', '.join(lacking)}"
            (out / f"{name}.failed").write_text(said, encoding="utf-8")
    return version


def beyond_the_package(path: Path) -> list[str]:
    """Operators of an .ort file that a build by the mobile package's table would lack."""
    from onnxruntime.tools.ort_format_model import create_config_from_models  # noqa: PLC0415

    from onnxjvp.targets.runtimes import runtime  # noqa: PLC0415

    logging.getLogger("ort_format_model.utils").setLevel(logging.WARNING)
    config = path.with_suffix(".config")
    create_config_from_models([path], config, False)
    known = runtime("mobile").operators
    lacking = []
    for line in config.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        domain, version, operators = line.split(";")
        for operator in operators.split(","):
            label = operator if domain == "ai.onnx" else f"{domain}::{operator}"
            spans = [span for kernel in known.get(label, ()) for span in kernel.versions]
            if not any(first <= int(version) <= last for first, last in spans):
                lacking.append(f"{label}-{version}")
    return lacking


def python_or_this(peer: str | None) -> str:
    return made(peer) if peer else sys.executable


def _in_process(command: list[str], folder: Path, out: Path, names: Sequence[str]) -> str:
    """Cases in a process; one that ends it has failed, and the others go on in another."""
    version = ""
    while left := [name for name in names if not _is_done(out, name)]:
        done = subprocess.run(
            [*command, str(folder), str(out), *left],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        version = done.stdout.strip() or version
        undone = [name for name in left if not _is_done(out, name)]
        if not version or (undone and not done.returncode):
            raise RuntimeError(f"{command[-1]}: {done.stderr.strip()[-400:]}")
        if undone:
            said = f"the process ended with {done.returncode}: {done.stderr.strip()[-200:]}"
            (out / f"{undone[0]}.failed").write_text(said, encoding="utf-8")
    return version


def _is_done(out: Path, name: str) -> bool:
    return any((out / f"{name}.{kind}").exists() for kind in ("out", "failed"))


RUNTIMES = {
    "onnxruntime": Runtime("cpu", partial(in_python, "onnxruntime", None)),
    "newest onnxruntime": Runtime("cpu", partial(in_python, "onnxruntime", "onnxruntime")),
    "onnxruntime-node": Runtime("cpu", partial(in_node, "onnxruntime-node")),
    "web in Node": Runtime("web", partial(in_node, "onnxruntime-web")),
    "in the browser": Runtime("web", partial(in_browser, "wasm")),
    "WebGPU": Runtime("web", partial(in_browser, "webgpu"), portable=False),
    ".ort": Runtime("portable", partial(as_ort, None)),
    ".ort, mobile": Runtime("mobile", partial(as_mobile_ort, "onnxruntime-mobile"), portable=False),
    "OpenVINO": Runtime("openvino", partial(in_python, "openvino", "openvino")),
    "onnx": Runtime("portable", partial(in_python, "onnx", None)),
}


def judged(out: Path, case: str, expected: Values) -> dict[str, Any]:
    """The worst relative error, or what the runtime said."""
    if (failed := out / f"{case}.failed").exists():
        return {"verdict": "FAILED", "reason": " ".join(failed.read_text("utf-8").split())}
    found = unpack((out / f"{case}.out").read_bytes())
    if missing := set(expected) - set(found):
        return {"verdict": "FAILED", "reason": f"no output {', '.join(sorted(missing))}"}
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
