"""The tables and the chart of `speed.py`, from its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from peers.rounds import THREADS
from record import page

Row = Mapping[str, Any]
Table = list[dict[str, Any]]

FRAMEWORKS = ("torch jvp", "torch double vjp", "jax jvp")
#: time over the plain forward
OVER = ("jvp", "clone", "vjp", "apply J", "K=4", "K=16")
OTHERS = (
    *("split", "stacked", "onnx-ad", "onnx-ad K=16", "torch forward", "torch jvp"),
    *("torch double vjp", "torch vjp", "jax forward", "jax jvp"),
)
#: columns, and their names among a row's "speed-up over"
SPEEDUPS = {
    "onnx-ad / jvp": "onnx-ad",
    "onnx-ad / jvp, K=16": "onnx-ad K=16",
    "fastest framework / jvp": "frameworks",
}
MEMORY = "memory / limit"
#: of a J u: so many times the plain forward's activations, and the weights once
LIMIT = 2.3
ONE_SIZE = ("vit_b16", "mixer_b16")
ONCE, LARGE = "100 x 100 (ViT, Mixer: 224 x 224)", "400 x 400"
TITLE = "Speed: time over the plain forward"
NOTES = f"""\
Time over onnxruntime's plain forward, medians of the ratios in interleaved rounds, float32,
{THREADS} threads in every runtime, onnxruntime without spinning; the quartiles are in the JSON file
beside this one. Networks of the paper's Table 1 with random weights, their normalisation folded
into convolutions by the exporter: `small` takes 100 x 100 x 3 to 20 logits, `large` 400 x 400 x 3
to 1000 (ViT and Mixer 224 x 224 x 3). All files of onnxjvp are written for `--target cpu`.

`jvp` is J u in the input, `clone` the faster of its two layouts, `vjp` Jᵀ v, `apply J` one product
with residuals that are held at x, `K=4` and `K=16` J u per direction when so many are asked for at
once, in a heat of their own with the plain forward. Where ours would leave too little memory,
others run in a heat of their own, with the plain forward and J u again. onnx-ad has a copy of each
file with all dimensions fixed. `A / jvp` is how many times our time A takes; the fastest framework
is the fastest of eager torch's `torch.func.jvp` and double VJP and of `jax.jvp`, compiled, of the
same ONNX file. Those also run another forward: see the second table.

`error` is that of our J u relative to `torch.func.jvp` in float64, in the Euclidean norm, `worst
error` the largest of any contender that was timed. Where rounding x moves torch's own result by as
much, or onnxruntime's signs, it is rounding that pushes activations across their kinks: `signs` are
those of all Relus which differ from float64 in onnxruntime's, torch's and JAX's float32 forward, in
millionths.

`{MEMORY}` is P_jvp / ({LIMIT} A + W), of which at most 1 is wanted. P is the highest resident set
while a fresh process that has loaded the file runs it twice, W what the plain file takes when it is
loaded, its packed weights, and A = P_forward − W the plain forward's activations, each less what a
process takes that only imports. In the JSON file `factor` is (P_jvp − W) / A, which says little
where weights are most of it, and `whole factor` the same with the highest since the process began,
in which loading has its copies of the weights, and the file's bytes for W. A mean is geometric, and
over as many networks as its brackets say."""


def write_page(result: str, rows: Sequence[Row], about: Mapping[str, Any] | None = None) -> None:
    """results/NAME.md."""
    tables: dict[str, Table] = {"Means": summary(rows)}
    for size, batch in sections(rows):
        chosen = [r for r in rows if (r["size"], r["batch"]) == (size, batch)]
        heading = f"{size}, batch {batch}"
        tables[heading] = [*map(cells, chosen), {"model": "mean", **means(chosen, cells)}]
        tables[f"{heading}: the others"] = [
            *map(other_cells, chosen),
            {"model": "mean", **means(chosen, other_cells)},
        ]
    if refused := [
        {"model": r["model"], "size": r["size"], "batch": r["batch"], "what": name, "says": words}
        for r in rows
        for name, words in r["refused"].items()
    ]:
        tables["Refused, failed or left out"] = refused
    versions = {k: v for r in rows for k, v in r.get("versions", {}).items()}
    made = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    page(result, TITLE, f"{NOTES}\n\n{made}." if made else NOTES, tables, about)


def sections(rows: Sequence[Row]) -> list[tuple[str, int]]:
    return list(dict.fromkeys((row["size"], row["batch"]) for row in rows))


def summary(rows: Sequence[Row]) -> Table:
    """Means per batch size: over every network once, and over the large images."""
    return [
        {"batch": batch, "images": images, **means(chosen, cells)}
        for batch in sorted({row["batch"] for row in rows})
        for images, large in ((ONCE, False), (LARGE, True))
        if (chosen := [r for r in rows if r["batch"] == batch and is_large(r) is large])
    ]


def is_large(row: Row) -> bool:
    """Whether the row is a network's second: ViT and Mixer have one size."""
    return row["size"] == "large" and row["model"] not in ONE_SIZE


def cells(row: Row) -> dict[str, Any]:
    """The main table's."""
    over, speedups = row.get("over forward", {}), row.get("speed-up over", {})
    errors, memory = row.get("errors", {}), row.get("memory", {})
    timed = [e for name, e in errors.items() if name not in row["refused"]]
    return {
        "model": row["model"],
        "forward ms": row.get("forward ms", ""),
        **{name: _median(over, name) for name in OVER},
        **{column: _median(speedups, name) for column, name in SPEEDUPS.items()},
        "fastest": row.get("fastest framework", ""),
        MEMORY: memory.get("over limit", ""),
        "error": _small(errors.get("jvp")),
        "worst error": _small(max(timed, default=None)),
        "signs": ", ".join(map(_millionths, row.get("masks", {}).values())),
    }


def other_cells(row: Row) -> dict[str, Any]:
    """The second table's."""
    over = row.get("over forward", {})
    return {
        "model": row["model"],
        **{name: _median(over, name) for name in OTHERS},
        "rounds": row.get("rounds", ""),
        "cores busy with others": row.get("cores busy with others", ""),
    }


AVERAGED = (*OVER, *SPEEDUPS, *OTHERS, MEMORY)


def means(rows: Sequence[Row], of: Callable[[Row], dict[str, Any]]) -> dict[str, str]:
    """Geometric, over the rows that have a number."""
    found = {}
    for column in AVERAGED:
        values = [v for row in rows if isinstance(v := of(row).get(column), float) and v > 0]
        if values:
            found[column] = f"{np.exp(np.mean(np.log(values))):.3g} ({len(values)})"
    return found


def _median(spreads: Mapping[str, Sequence[float]], name: str) -> float | str:
    return spreads[name][1] if name in spreads else ""


def _small(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}"


def _millionths(counted: Sequence[int] | str) -> str:
    if isinstance(counted, str):
        return "?"
    differing, total = counted
    return f"{1e6 * differing / total:.2g}" if total else "none"
