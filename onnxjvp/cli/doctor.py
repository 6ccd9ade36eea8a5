"""`onnxjvp doctor`."""

# ruff: noqa: PLC0415  (packages are imported one by one, so that one that fails can be named)
from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from onnxjvp._version import __version__
from onnxjvp.cli import output
from onnxjvp.cli.options import AsJson
from onnxjvp.errors import MissingDependencyError, OnnxJvpError

if TYPE_CHECKING:
    import onnx

#: what the package cannot do without
REQUIRED = ("numpy", "onnx", "onnx-ir", "ml_dtypes", "opt_einsum", "sympy", "rich", "typer")
#: the wheels that hold a module `onnxruntime`, which overwrite each other
RUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
    *("onnxruntime-qnn", "onnxruntime-training", "ort-nightly"),
)
#: providers that compute elsewhere: nothing to try here
REMOTE = ("AzureExecutionProvider",)
#: optional packages: the extra that installs each, and what needs it
OPTIONAL = {
    "scipy": ("analysis", "spectrum, norm, ntk --eigs, --cond and --solve, jacobian_operator"),
    "matplotlib": ("plot", "--plot"),
    "zarr": ("zarr", "Jacobians and kernels larger than memory, in .zarr files"),
    "distributed": ("cluster", "ntk --cluster"),
    "mlserver": ("serve", "python -m onnxjvp.serving, for what `package --mlserver` writes"),
}
#: environment variables that change what happens here, and how
VARIABLES = {
    "OPENBLAS_NUM_THREADS": "NumPy's threads; 1 keeps them out of the runtime's way",
    "OMP_NUM_THREADS": "threads of libraries that use OpenMP",
    "MKL_NUM_THREADS": "NumPy's threads where it uses MKL",
    "CUDA_VISIBLE_DEVICES": "the devices that CUDA may use",
    "LD_LIBRARY_PATH": "where CUDA's libraries are looked for",
    "CASADI_ONNXRUNTIME_LIB": "the libonnxruntime that CasADi loads",
    "ONNXJVP_LIMITS": "how large models may be that are read",
    "ONNXJVP_MAX_MEMORY": "the memory that a process may take",
    "NO_COLOR": "no colours on terminals",
}


@dataclass(frozen=True)
class Finding:
    """One line: `status` is ok, missing (may be), warning, or problem (exit code 1)."""

    group: str
    name: str
    found: str
    status: str = "ok"
    note: str = ""


def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, what is missing, and whether it works.

    Shows versions, the runtime and where it can compute, optional packages and what each is for,
    cores and environment variables that matter. A small model is rewritten in memory, run, and
    compared with differences in float64. Exit code 1 if something that is needed does not work.

    \b
    Examples:
      onnxjvp doctor
      onnxjvp doctor --json
    """
    with output.busy("looking around"):
        found = list(_versions())
        if not _problems(found):  # else nothing more can be imported
            found += [each for look in LOOKS for each in look()]
    problems = _problems(found)
    if as_json:
        output.print_json({"passed": not problems, "findings": [asdict(each) for each in found]})
    else:
        _print(found)
    if problems:
        raise typer.Exit(1)


def _problems(found: list[Finding]) -> list[Finding]:
    return [each for each in found if each.status == "problem"]


def _print(found: list[Finding]) -> None:
    groups = [each.group for each in found]
    rows = [
        ("" if group == before else group, each.name, each.found, each.status, each.note)
        for before, group, each in zip(["", *groups], groups, found, strict=False)
    ]
    output.table(("", "name", "found", "status", "note"), rows)
    output.line()
    problems, warnings = len(_problems(found)), sum(each.status == "warning" for each in found)
    if problems:
        output.line(f"not ready: {problems} problem(s)")
    else:
        output.line("ready" if not warnings else f"ready, {warnings} warning(s)")


# -- what is looked at -------------------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "onnxjvp", __version__)
    yield Finding("versions", "Python", platform.python_version(), note=platform.platform())
    for name in REQUIRED:
        version = _version(name)
        if version is None:
            note = "needed; install onnxjvp with pip, which brings it"
            yield Finding("versions", name, "", "problem", note)
        else:
            yield _not_too_old("versions", name, version)


def _runtime() -> Iterator[Finding]:
    wheels = {name: version for name in RUNTIMES if (version := _version(name)) is not None}
    for name, version in wheels.items():
        yield _not_too_old("runtime", name, version)
    if len(wheels) > 1:
        note = f"they overwrite each other: pip uninstall {' '.join(wheels)}, then install one"
        yield Finding("runtime", "wheels", f"{len(wheels)} at once", "warning", note)
    from onnxjvp.runtime.session import installed

    try:
        version, providers = installed()
    except MissingDependencyError as error:
        if wheels:
            yield Finding("runtime", "import", "fails", "problem", str(error.__cause__))
        else:
            note = 'rewriting works; to run models: pip install "onnxjvp[cpu]", or "onnxjvp[gpu]"'
            yield Finding("runtime", "onnxruntime", "", "missing", note)
        return
    yield Finding("runtime", "loaded", version)
    yield from map(_provider, (name for name in providers if name not in REMOTE))


def _provider(name: str) -> Finding:
    """Whether a provider loads: some are listed whose libraries or devices are missing."""
    from onnxjvp.runtime import Session

    short = name.removesuffix("ExecutionProvider")
    try:
        Session(_model(), providers=[name])
    except OnnxJvpError as error:
        status = "problem" if short == "CPU" else "warning"
        return Finding("runtime", short, "does not load", status, str(error))
    return Finding("runtime", short, "computes")


def _optional() -> Iterator[Finding]:
    for name, (extra, use) in OPTIONAL.items():
        version = _version(name)
        if version is None:
            note = f'{use}: pip install "onnxjvp[{extra}]"'
            yield Finding("optional", name, "", "missing", note)
        else:
            found = _not_too_old("optional", name, version)
            yield found if found.note else Finding("optional", name, version, note=use)


def _machine() -> Iterator[Finding]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    note = "" if usable == os.cpu_count() else f"of {os.cpu_count()}; this process may use no more"
    yield Finding("machine", "cores", str(usable), note=note)
    for name, use in VARIABLES.items():
        if (value := os.environ.get(name)) is not None:
            yield Finding("machine", name, value, note=use)


def _self_test() -> Iterator[Finding]:
    """Derivatives of a small model, forwards and backwards, against differences in float64."""
    try:
        from onnxjvp.rewrite import jvp, vjp
        from onnxjvp.verification import verify

        made = {"J u": jvp(_model()), "J^T v": vjp(_model())}
    except (ImportError, OnnxJvpError) as error:
        yield Finding("self-test", "rewrite", "fails", "problem", str(error))
        return
    for name, rewritten in made.items():
        try:
            report = verify(_model(), rewritten)
        except MissingDependencyError:
            note = "there is no runtime to run it"
            yield Finding("self-test", name, "rewritten, not run", "missing", note)
            continue
        except OnnxJvpError as error:
            yield Finding("self-test", name, "does not run", "problem", str(error))
            continue
        worst = max((row.relative or 0.0 for row in report.rows), default=0.0)
        note = f"{report.oracle}, worst error {worst:.1g}"
        failed = [f"{row.check} of {row.tensor}" for row in report.rows if row.status == "failed"]
        if report.passed:
            yield Finding("self-test", name, "verified", note=note)
        else:
            yield Finding("self-test", name, "wrong", "problem", f"{', '.join(failed)}: {note}")


LOOKS: tuple[Callable[[], Iterator[Finding]], ...] = (_runtime, _optional, _machine, _self_test)

# -- how ---------------------------------------------------------------------------------------


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _not_too_old(group: str, name: str, version: str) -> Finding:
    """A package, held against the least version that onnxjvp's own metadata asks for."""
    least = _least().get(_normal(name))
    if least is not None and _numbers(version) < _numbers(least):
        note = f'too old: pip install "{name}>={least}"'
        return Finding(group, name, version, "problem", note)
    return Finding(group, name, version)


def _least() -> dict[str, str]:
    try:
        asked = importlib.metadata.requires("onnxjvp") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return {}
    found = (re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", each) for each in asked)
    return {_normal(each[1]): each[2] for each in found if each}


def _normal(name: str) -> str:
    return name.lower().replace("_", "-")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))


def _model() -> onnx.ModelProto:
    """y = Tanh(x W + b), x [N, 3], y [N, 2], float32."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weight = numpy_helper.from_array(rng.normal(size=(3, 2)).astype(np.float32), "W")
    bias = numpy_helper.from_array(rng.normal(size=2).astype(np.float32), "b")
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["h"], name="dense"),
        helper.make_node("Tanh", ["h"], ["y"], name="tanh"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph(nodes, "self-test", [x], [y], [weight, bias])
    opset = [helper.make_opsetid("", 18)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)
