"""The op tables of tests/rules in other runtimes: what tables of targets say, held against them.

    python benchmarks/target_tables.py [TARGET…]      # openvino, web, mobile; default: all

Every row is written for the target (as it is, J u and Jᵀ v, in float32) and run there; what
onnxruntime computes from the portable file is the truth, which the tests hold against differences.
What is not right and not refused belongs into onnxjvp/targets/tables as a limit.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto
from peers.cases import DTYPES, Values, unpack, write_case
from peers.runtimes import in_node, in_python
from record import page, rows_of, save

sys.path[:0] = [str(Path(__file__).parent.parent / "tests" / part) for part in ("rules", "")]

from cases import CURRENT  # noqa: E402  (found through sys.path)
from helpers import RUNTIME_FAILURE, ort  # noqa: E402
from op_case import OpCase  # noqa: E402

from onnxjvp import OnnxJvpError, jvp, vjp  # noqa: E402
from onnxjvp.errors import TargetError  # noqa: E402
from onnxjvp.graph.load import load  # noqa: E402
from onnxjvp.targets import unfit  # noqa: E402

#: target → what runs its files: (folder, folder of results, names) → the version
ENGINES: dict[str, Callable[..., str]] = {
    "openvino": partial(in_python, "openvino", "openvino"),
    "web": partial(in_node, "onnxruntime-web"),
    "mobile": partial(in_python, "onnxruntime", "onnxruntime-mobile"),
}
#: largest error over the largest element
TOLERANCE = 1e-3
COLUMNS = ("right", "right, though named", "named", "refused", "unread")
NOTES = (
    "Every row of the tables in tests/rules, as it is and with J u and Jᵀ v, written for a target "
    "and run there. *right*: within 1e-3 of the largest element of what onnxruntime computes from "
    "the portable file, in float32. *refused*: `--target` names nodes that cannot run there. The "
    "model as it is (*model*) is run whether or not `inspect --target` names nodes of it, which is "
    "*named* where it is not right. *unread*: an input of no effect, which OpenVINO drops. Made by "
    "`python benchmarks/target_tables.py`."
)


def feeds_of(case: OpCase, made: Any) -> Values:
    rng = np.random.default_rng(11)
    point = case.point()
    feeds = {k: v.astype("float32") if v.dtype.kind == "f" else v for k, v in point.items()}
    if made is not None:
        primal = ort(case.model("float32"), feeds)
        for kind, shapes in (("seeds", feeds), ("cotangents", primal)):
            for name, seed in made.names[kind].items():
                feeds[seed] = rng.standard_normal(shapes[name].shape).astype("float32")
    return feeds


def files(case: OpCase, target: str) -> Iterator[tuple[str, ModelProto | None, Values, Values]]:
    """The form; the file, or None if it is refused; what is fed; what is expected."""
    feeds = feeds_of(case, None)
    yield "model", case.model("float32"), feeds, ort(case.model("float32"), feeds)
    for form, rewrite in (("jvp", jvp), ("vjp", vjp)):
        try:
            portable = rewrite(case.model("float32"))
        except OnnxJvpError:
            continue
        feeds = feeds_of(case, portable)
        expected = ort(portable.proto(), feeds)
        try:
            yield form, rewrite(case.model("float32"), target=target).proto(), feeds, expected
        except TargetError:
            yield form, None, feeds, expected


def is_named(case: OpCase, target: str) -> bool:
    """Whether the lint names a node of the model as it is."""
    source = load(case.model("float32"))
    return bool(unfit(target, source.graph, source.model.opset_imports[""]))


def verdict(out: Path, name: str, expected: Values) -> str:
    if (failed := out / f"{name}.failed").exists():
        said = " ".join(failed.read_text("utf-8").split())
        return "unread" if "Port for tensor name" in said else said[-160:]
    found = unpack((out / f"{name}.out").read_bytes())
    for key, array in expected.items():
        if found[key].shape != array.shape:
            return f"{key} has shape {list(found[key].shape)}"
        finite = np.where(np.isfinite(array), array, 0)
        size = TOLERANCE * max(float(np.abs(finite).max(initial=0)), 1e-3)
        if not np.allclose(found[key], array, rtol=TOLERANCE, atol=size, equal_nan=True):
            return f"{key} is wrong"
    return "right"


def held(target: str) -> list[dict[str, Any]]:
    """Counts by form, and a row for everything that is neither right nor refused."""
    known = {np.dtype(d) for d in DTYPES.values()}
    counts: Counter[tuple[str, str]] = Counter()
    expected: dict[str, tuple[OpCase, str, Values]] = {}
    named = set[str]()
    with tempfile.TemporaryDirectory() as place:
        folder, out = Path(place, "in"), Path(place, "out")
        folder.mkdir(), out.mkdir()
        for i, case in enumerate(CURRENT):
            if case.random or case.no_runtime or case.evaluated:
                continue
            try:
                if is_named(case, target):
                    named.add(case.name)
                for form, proto, feeds, wanted in files(case, target):
                    if proto is None:
                        counts[form, "refused"] += 1
                    elif all(v.dtype in known for v in (*feeds.values(), *wanted.values())):
                        write_case(folder, f"{i}.{form}", proto.SerializeToString(), feeds)
                        expected[f"{i}.{form}"] = case, form, wanted
            except RUNTIME_FAILURE:
                continue  # sequences, and what this onnxruntime cannot run
        version = ENGINES[target](folder, out, list(expected))
        rows = []
        for name, (case, form, wanted) in expected.items():
            found = verdict(out, name, wanted)
            if form == "model" and case.name in named:
                found = "right, though named" if found == "right" else "named"
            counts[form, found if found in COLUMNS else "neither"] += 1
            if found not in COLUMNS:
                rows.append({"target": target, "case": case.name, "form": form, "found": found})
    print(target, version, dict(counts), flush=True)
    totals = [
        {
            "target": f"{target} ({version})",
            "form": form,
            **{column: counts[form, column] for column in (*COLUMNS, "neither")},
        }
        for form in ("model", "jvp", "vjp")
    ]
    return [*totals, *rows]


def main() -> None:
    title, chosen = "The op tables in other runtimes", sys.argv[1:] or list(ENGINES)
    rows = [r for r in rows_of("target_tables") if r["target"].split(" ")[0] not in chosen]
    for target in chosen:
        rows += held(target)
        save("target_tables", title, NOTES, rows)
    left = [row for row in rows if "case" in row]
    totals = [row for row in rows if "case" not in row]
    page("target_tables", title, NOTES, {"": totals, **({"Neither": left} if left else {})})


if __name__ == "__main__":
    main()
