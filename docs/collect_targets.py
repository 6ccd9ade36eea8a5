# ruff: noqa: PLC0415  (each needs an environment of its own)
"""Write the tables of onnxjvp/targets/tables that runtimes can be asked for.

    python docs/collect_targets.py kernels cpu | web     in an environment with that onnxruntime
    python docs/collect_targets.py mobile LIST.md        in an environment with onnxruntime 1.17
    python docs/collect_targets.py webgpu OPERATORS.md   of the package onnxruntime-web

LIST.md is docs/reference/operators/mobile_package_op_type_support_1.17.md of onnxruntime's
documentation. openvino.txt and tensorrt.txt are written by hand: see docs/targets.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx.defs

TABLES = Path(__file__).parent.parent / "onnxjvp" / "targets" / "tables"
OPEN = 1 << 30
#: opsets that the mobile package has kernels for
MOBILE = range(12, 16)
#: what the mobile package has of every operator, and of those that handle shapes and indices
EVERYWHERE = {"float32", "int8", "uint8"}
WHOLE = {"int32", "int64"}
#: typed by one operand and registered once a dtype, and which take integers nevertheless:
#: onnxruntime/tools/ort_format_model/operator_type_usage_processors.py
TAKES_WHOLE = ("Add", "Concat", "Div", "Equal", "Greater", "Less", "Mul", "Neg", "Sub")
#: operators whose kernels switch on the dtype, and name the integers that they always take:
#: ORT_SPECIFY_OP_KERNEL_ARG_REQUIRED_TYPES in their sources; ConstantOfShape takes int64 alone
SWITCHES = {
    "Cast": {"0": {*WHOLE, "bool"}, ">0": {*WHOLE, "bool"}},
    "Gather": {"1": WHOLE},
    "Pad": {"0": WHOLE},
    "Range": {"0": WHOLE},
    "Slice": {"0": WHOLE, "1": WHOLE},
    "Split": {"0": WHOLE},
    "ConstantOfShape": {">0": {"int64"}},
}
#: of one implementation for all dtypes: they are not cut down
ANY_DTYPE = (
    *("Expand", "Flatten", "GatherND", "Identity", "If", "Loop", "Not", "And", "Or", "NonZero"),
    *("Reshape", "Scan", "Shape", "Size", "Squeeze", "Tile", "Transpose", "Unsqueeze"),
)
#: that the optimiser of every onnxruntime makes a LayerNormalization of which fails
FUSED = {"Add": "normed", "Mul": "normed"}
#: what kernels are there for, and yet not right: found by running the op tables there
LIMITS = {
    "cpu": FUSED,
    # the WebGPU build beside it has no Indices, and says so at the run
    "web": {
        **FUSED,
        "MaxPool": "results(1)",
        "STFT": "real",
        "com.microsoft::GatedRMSNorm": "inactive",
    },
    "mobile": {**FUSED, "AveragePool": "uncounted", "com.microsoft::FusedConv": "operands(3)"},
}
_DTYPES = {"float": "float32", "double": "float64"}


def dtype(name: str) -> str:
    inner = name.removeprefix("tensor(").removesuffix(")")
    return _DTYPES.get(inner, inner)


def places(name: str, domain: str, version: int) -> dict[str, str]:
    """Type variable → the first operand or result that has it."""
    try:
        schema = onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return {}
    found: dict[str, str] = {}
    for mark, formals in (("", schema.inputs), (">", schema.outputs)):
        for i, formal in enumerate(formals):
            found.setdefault(formal.type_str, f"{mark}{i}")
    return found


def kernels() -> dict[str, list[tuple[tuple[int, int], dict[str, set[str]]]]]:
    """By operator: versions, and the dtypes of operands where the kernel says some."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: dict[str, list[tuple[tuple[int, int], dict[str, set[str]]]]] = {}
    for kernel in state.get_all_opkernel_def():
        if kernel.provider != "CPUExecutionProvider" or "nchwc" in kernel.domain:
            continue
        at = places(kernel.op_name, kernel.domain, kernel.version_range[0])
        dtypes = {
            at[variable]: set(map(dtype, names))
            for variable, names in kernel.type_constraints.items()
            if variable in at and not any("seq(" in n or "optional(" in n for n in names)
        }
        label = f"{kernel.domain}::{kernel.op_name}" if kernel.domain else kernel.op_name
        first, last = kernel.version_range
        merge(found.setdefault(label, []), (first, last), dtypes)
    return found


def merge(rows: list[Any], span: tuple[int, int], dtypes: dict[str, set[str]]) -> None:
    """Kernels that differ in the dtype of one operand become one row."""
    for i, (other, known) in enumerate(rows):
        if other != span or known.keys() != dtypes.keys():
            continue
        differ = [k for k in known if known[k] != dtypes[k]]
        if not differ:
            return
        if len(differ) == 1:
            rows[i] = (span, {**known, differ[0]: known[differ[0]] | dtypes[differ[0]]})
            return
    rows.append((span, dtypes))


def lines(found: dict[str, list[Any]]) -> Iterable[str]:
    for label, rows in sorted(found.items()):
        alike: dict[str, list[str]] = {}
        for (first, last), dtypes in sorted(rows, key=lambda row: row[0]):
            text = " ".join(f"{k}={','.join(sorted(v))}" for k, v in sorted(dtypes.items()))
            alike.setdefault(text, []).append(f"{first}-{'' if last > OPEN else last}")
        for text, spans in alike.items():
            yield f"{label} | {' '.join(spans)} | {text} |"


def limited(rows: Iterable[str], limits: dict[str, str]) -> Iterable[str]:
    for row in rows:
        yield f"{row} {limits.get(row.split(' ', 1)[0], '')}"


def write(name: str, head: str, body: Iterable[str]) -> None:
    text = "\n".join(" ".join(line.split()) for line in body)
    (TABLES / f"{name}.txt").write_text(f"{head.strip()}\n\n{text}\n", "utf-8")


def of_kernels(name: str) -> None:
    import onnxruntime

    title = {"cpu": "onnxruntime on CPU", "web": "onnxruntime-web in WebAssembly"}[name]
    source = "its own list of kernels (get_all_opkernel_def)"
    if name == "web":
        source += ", which the WebAssembly build shares with onnxruntime on CPU"
    head = f"title {title}\nversion {onnxruntime.__version__}\nsource {source}\nopsets 7-26\n"
    head += "reads 26\n"
    found = kernels()
    body = list(limited(lines(found), LIMITS.get(name, {})))
    write(name, head + "inlines yes\ncasts float16=float32", body)
    if name == "cpu":
        # a node that there is no CUDA kernel for runs on the CPU; of dtypes there are more
        free = {k: [(span, {}) for span in sorted({s for s, _ in v})] for k, v in found.items()}
        head = head.replace(title, "onnxruntime on CUDA, with its CPU kernels beside")
        write("cuda", head + "inlines yes", limited(lines(free), FUSED))


def of_mobile(path: str) -> None:
    """The package's operators with the kernels, and the dtypes of them, that its build keeps."""
    rows = re.findall(r"\|(ai\.onnx|com\.microsoft):(\w+)\|", Path(path).read_text("utf-8"))
    listed = {name if domain == "ai.onnx" else f"{domain}::{name}" for domain, name in rows}
    listed.remove("LayerNormalization")  # at its opsets no operator of ONNX, but of its optimiser
    kept: dict[str, list[Any]] = {}
    for label, every in kernels().items():
        if label not in listed:
            continue
        name = label.rpartition("::")[2]
        versions = {version_at(name, opset) for opset in MOBILE} if label == name else {1}
        for (first, last), dtypes in every:
            reached = any(first <= v <= last for v in versions)
            cut = {place: allowed(name, place, known) for place, known in dtypes.items()}
            if reached and all(cut.values()):
                kept.setdefault(label, []).append(((first, min(last, OPEN - 1)), cut))
    bound = {
        label: [((a, b if b < OPEN - 1 else 2 * OPEN), d) for (a, b), d in rows]
        for label, rows in kept.items()
    }
    head = (
        "title ONNX Runtime Mobile (the pre-built package)\nversion 1.17\n"
        "source mobile_package_op_type_support_1.17.md, and the kernels of onnxruntime 1.17 cut "
        "down to its dtypes as onnxruntime's build does\nopsets 12-15\nreads 20\n"
        "inlines no"
    )
    write("mobile", head, limited(lines(bound), LIMITS["mobile"]))


def of_webgpu(path: str) -> None:
    """A table of versions alone: what is not in it runs in WebAssembly beside."""
    text = Path(path).read_text("utf-8")
    version = re.search(
        r'"version": "([\d.]+)"', (Path(path).parent.parent / "package.json").read_text()
    )
    found: dict[str, list[Any]] = {}
    for name, row in re.findall(r"^\| (\w+) \| (.+?) \|", text, re.MULTILINE):
        for domain, spans in re.findall(r"(ai\.onnx|com\.microsoft)\(([^)]*)\)", row):
            label = name if domain == "ai.onnx" else f"{domain}::{name}"
            for span in spans.split(","):
                first, _, last = span.rstrip("+").partition("-")
                end = 2 * OPEN if span.endswith("+") else int(last or first)
                found.setdefault(label, []).append(((int(first), end), {}))
    assert version is not None
    head = (
        f"title onnxruntime-web in WebGPU\nversion {version[1]}\n"
        "source docs/webgpu-operators.md of the package\nopsets 7-26\ninlines yes"
    )
    write("webgpu", head, lines(found))


def version_at(name: str, opset: int) -> int:
    try:
        return int(onnx.defs.get_schema(name, opset).since_version)
    except onnx.defs.SchemaError:
        return 1


def allowed(name: str, place: str, known: set[str]) -> set[str]:
    if name in ANY_DTYPE:
        return known
    kept = set(EVERYWHERE)
    if place in SWITCHES.get(name, {}):
        kept |= SWITCHES[name][place]
    elif name in SWITCHES:
        return known
    elif name in TAKES_WHOLE and place == "0":
        kept |= WHOLE
    elif place != switched(name):
        return known
    return known & kept


def switched(name: str) -> str:
    """The operand whose dtype a build cuts down; that of indices and conditions stays."""
    return {"Where": "1", "QuantizeLinear": ">0", "DynamicQuantizeLinear": ">0"}.get(name, "0")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["kernels", name]:
            of_kernels(name)
        case ["webgpu", path]:
            of_webgpu(path)
        case ["mobile", path]:
            of_mobile(path)
        case _:
            sys.exit(__doc__)
