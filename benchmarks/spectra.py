"""The work of the paper's Fig. 4: spectra and norms of a UNet's Jacobian, against torch.func.

    python benchmarks/peers/environments.py torch                  # once
    benchmarks/peers/.venv/torch/bin/python benchmarks/export/image_unet.py
    python benchmarks/spectra.py [--rounds N] [--samples N] [--only PART…]

Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021, Fig. 4: 50
eigenvalues at 10 samples in 10 iterations of its Alg. 2, and 100 Monte-Carlo samples of the
Frobenius norm; of a UNet and on a GPU that it does not name. Here a UNet of 1.9 million weights on
images of 32 x 32 x 3, whose Jacobian is 3072 x 3072, on the same cores for all. It takes about nine
minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

# of NumPy, here and in torch's process: its threads and the runtime's would wait for each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from peers.remote import Remote
from peers.rounds import THREADS, Array, busy, error
from record import page, rows_of, save
from spectra_parts import parts

from onnxjvp import jacobian_operator
from onnxjvp.analysis import eigenpairs, points, triplets
from onnxjvp.analysis.found import GUARD, Judge
from onnxjvp.analysis.linear import JacobianOperator
from onnxjvp.analysis.products import Products
from onnxjvp.analysis.sampling import probes
from onnxjvp.analysis.spectra import METHODS, solve
from onnxjvp.runtime import session as runtime

MODEL = Path(__file__).with_name("models") / "image_unet.onnx"
SHAPE = (3, 32, 32)
SOLVERS = {
    "krylov": triplets.krylov,
    "alternating": triplets.alternating,
    "subspace": eigenpairs.subspace,
}
TURNS = 10
#: name → (method, values, products): ten iterations of blocks with three vectors to guard them
WORK = {
    "Alg. 2, k = 50, 10 iterations": ("subspace", 50, 530),
    "Alg. 4, k = 50, 10 iterations": ("alternating", 50, 1060),
    "the default, 50 singular values to 1e-5": ("krylov", 50, 100_000),
}
FROBENIUS = "Frobenius norm, 100 draws"
#: what a method may use before it gives up
PRODUCTS = 6_000
#: seconds after which no further round of a kind of work begins
PATIENCE = 50
#: what --only takes: the work in that order, and the other tables
ONLY = ("alg-2", "alg-4", "krylov", "frobenius", "methods", "parts")
TITLE = "Spectra and norms of a UNet's Jacobian: the work of the paper's Fig. 4"
NOTES = f"""\
onnxruntime and torch on the same cores, in float32. Seconds are medians of interleaved rounds, per
sample: all samples at once, as `spectrum` and `norm` take a list of points (each in a thread,
sessions in common), and one after another. `products a sample` counts J u and Jᵀ v, those included
that measure rounding. `outside the runtime` is the share of time in which no model runs; NumPy has
one thread. Torch is `torch.func.jvp` and `torch.func.vjp`, whose pullback is made once per point:

- *this code, vmap*: onnxjvp's solvers over torch's products, a block in one call; the default has
  blocks as wide as suit torch's calls.
- *as printed, vmap*: the paper's algorithm in torch throughout (`torch.linalg.qr`, float32, k
  vectors and no test for convergence, which is less than ours do), a block in one call.
- *one by one*: the same with a call per vector, as the algorithms are printed; the default with two
  vectors a block. With `linearize` in place of `jvp`, whose tracing of the model at every point is
  counted. Once, at one sample.

Three times vmapped torch is out of reach of anything that multiplies as much: the last table has
the time that our convolutions take by themselves, in onnxruntime's profile of blocks of 53 (the
fastest of several runs of every node), and `over our convolutions` what torch takes over that: the
ratio if all else cost nothing. Methods stop at residuals of 1e-5 of the largest value, or after
{PRODUCTS:,} products."""


class Ours:
    """What torch_spectra_worker.py does, with one operator that moves."""

    def __init__(self, x: Array) -> None:
        self.points = [{"x": x[i : i + 1]} for i in range(len(x))]
        self.operator: JacobianOperator = jacobian_operator(MODEL, self.points[0], blocks=True)

    def call(self, name: str, count: int, *, together: bool = True) -> tuple[Array, int]:
        """Values of the first points, and the products of all."""

        def work(operator: JacobianOperator, i: int) -> tuple[Array, int]:
            rng = np.random.default_rng([0, i])
            if name == FROBENIUS:
                U = probes("rademacher", rng, operator.shape[1], 100)
                return np.sqrt(np.mean(np.sum(operator.matmat(U) ** 2, axis=0))), 100
            method, k, products = WORK[name]
            A = Products(operator, products)
            found = SOLVERS[method](A, k, Judge(A, None, rng), rng)
            return np.abs(found.values[:k]), A.used

        self.operator.at(self.points[0])
        if together:
            found = points.at_each(work, self.operator, self.points[:count])
        else:
            found = [points.at_each(work, self.operator, self.points[:1])[0]]
            for i in range(1, count):
                self.operator.at(self.points[i])
                found.append(work(self.operator, i))
        return np.stack([values for values, _ in found]), sum(used for _, used in found)

    def seconds(self, name: str, count: int, *, together: bool = True) -> float:
        start = time.perf_counter()
        self.call(name, count, together=together)
        return time.perf_counter() - start


def asked(name: str, how: str, count: int) -> str:
    """The same, as torch's worker is asked for it: this code, or as printed."""
    printed, _, way = how.rpartition(" ")
    if name == FROBENIUS:
        return (
            f"printed frobenius 100 1 {way} {count}" if printed else f"frobenius 100 {way} {count}"
        )
    method, k, products = WORK[name]
    if printed:
        return f"printed {method} {k} {TURNS} {way} {count}"
    return f"solve {method} {k} {products} {way} {count}"


@contextmanager
def in_runtime() -> Iterator[list[tuple[float, float]]]:
    """Begin and end of the runs of models, while the block lasts."""
    taken: list[tuple[float, float]] = []
    plain = runtime.Binding.run

    def timed(self: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = plain(self, **options)
        taken.append((start, time.perf_counter()))
        return found

    runtime.Binding.run = timed  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        runtime.Binding.run = plain  # type: ignore[method-assign]


def outside(run: Callable[[], float]) -> float:
    """The share of its time in which no model runs."""
    with in_runtime() as taken:
        whole = run()
    covered, until = 0.0, 0.0
    for start, end in sorted(taken):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - covered / whole


def contest(ours: Ours, torch: Remote, name: str, rounds: int) -> dict[str, Any]:
    """A kind of work, by us and by torch, at all samples and at one."""
    samples = len(ours.points)
    say = "" if WORK.get(name, ("",))[0] == "krylov" else "printed "
    blocks = {"torch, this code, vmap": "vmap"}
    if say:
        blocks["torch, as printed, vmap"] = "printed vmap"
    singles = {
        "torch, one by one": f"{say}single",
        "torch, linearize, one by one": f"{say}single-linearize",
    }
    # at one sample, which warms up too
    off = error(torch.value(asked(name, "vmap", 1)), ours.call(name, 1)[0])
    timed = [torch.timed(asked(name, how, 1)) for how in (*blocks.values(), *singles.values())]
    warm = [run() for run in timed]
    once = dict(zip(singles, warm[len(blocks) :], strict=True))
    contenders: dict[str, Callable[[], float]] = {
        "ours": partial(ours.seconds, name, samples),
        "one after another": partial(ours.seconds, name, samples, together=False),
        **{label: torch.timed(asked(name, how, samples)) for label, how in blocks.items()},
    }
    others, start, rng = busy(), time.perf_counter(), np.random.default_rng(0)
    seconds: dict[str, list[float]] = {label: [] for label in contenders}
    while len(seconds["ours"]) < rounds and time.perf_counter() - start < PATIENCE:
        for label in rng.permutation(list(contenders)):
            seconds[label].append(contenders[label]() / samples)
    each = {label: float(np.median(taken)) for label, taken in seconds.items()} | once
    mine, used = each.pop("ours"), ours.call(name, samples)[1]
    return {
        "table": "work",
        "work": name,
        "products a sample": round(used / samples),
        "s a sample": mine,
        "one after another": each.pop("one after another"),
        "outside the runtime": outside(contenders["ours"]),
        "outside, one after another": outside(contenders["one after another"]),
        **{f"{label}: times ours": taken / mine for label, taken in each.items()},
        "values differ by": off,
        "samples": samples,
        "rounds": len(seconds["ours"]),
        "cores busy with others": round(max(others, busy()), 1),
        "torch": torch.version,
    }


def against_torch(names: Sequence[str], samples: int, rounds: int) -> Iterator[dict[str, Any]]:
    x = np.random.default_rng(0).standard_normal((samples, *SHAPE)).astype(np.float32)
    ours = Ours(x)
    with Remote("torch", ("image_unet", "image_unet"), {"x": x}, worker="torch_spectra") as torch:
        for how in ("vmap", "single", "single-linearize"):  # imports of torch's own
            torch.timed(f"frobenius 2 {how} 1")()
        for name in names:
            yield contest(ours, torch, name, rounds)


def methods() -> Iterator[dict[str, Any]]:
    """Every method to residuals of 1e-5 of the largest value, at one sample."""
    x = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    operator = jacobian_operator(MODEL, {"x": x}, blocks=True)
    operator.matvec(np.ones(operator.shape[1]))
    for kind, k in (("singular", 1), ("singular", 5), ("singular", 50), ("eigen", 1), ("eigen", 5)):
        for method in METHODS[kind]:
            if method == "eigsh" or (method == "dense" and k > 1):
                continue
            start = time.perf_counter()
            rng = np.random.default_rng(0)
            A, _, found = solve(operator, k, kind, method, None, PRODUCTS, rng)
            yield {
                "table": "methods",
                "values": f"{k} {kind}",
                "method": method,
                "seconds": time.perf_counter() - start,
                "J u": A.forward,
                "J^T v": A.backward,
                "worst residual over the largest value": float(
                    found.residuals.max() / np.abs(found.values[0])
                ),
                "converged": found.converged,
            }


def pieces() -> Iterator[dict[str, Any]]:
    """What a product is made of here, and how long it takes in torch."""
    count = WORK["Alg. 2, k = 50, 10 iterations"][1] + GUARD
    x = np.zeros((1, *SHAPE), np.float32)
    with Remote("torch", ("image_unet", "image_unet"), {"x": x}, worker="torch_spectra") as torch:

        def least(call: str) -> float:
            return 1e3 * min(torch.timed(f"{call} {count}")() for _ in range(6)) / count

        in_torch = {"J u": least("products jvp"), "Jᵀ v": least("products vjp")}
        forward = least("forward")
    for row in parts(MODEL, count, THREADS):
        theirs = in_torch[row["of"]]
        yield {
            **row,
            "ms in torch, vmap": theirs,
            "over ours": theirs / row["ms"],
            "over our convolutions": theirs / row["convolutions"],
        }
    yield {"table": "parts", "of": "f(x)", "ms in torch, vmap": forward}


def noted(rows: list[dict[str, Any]], more: Iterator[dict[str, Any]]) -> None:
    for row in more:
        print(row, flush=True)
        rows.append(row)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--samples", type=int, default=10)
    options.add_argument("--only", nargs="*", choices=ONLY, default=ONLY)
    args = options.parse_args()
    names = [
        name for name, short in zip((*WORK, FROBENIUS), ONLY, strict=False) if short in args.only
    ]
    rows = [r for r in rows_of("spectra") if r.get("work") in {*WORK, FROBENIUS} - set(names)]
    rows += [r for r in rows_of("spectra") if r["table"] in {"methods", "parts"} - set(args.only)]
    if names:
        noted(rows, against_torch(names, args.samples, args.rounds))
    if "methods" in args.only:
        noted(rows, methods())
    if "parts" in args.only:
        noted(rows, pieces())
    save("spectra", TITLE, NOTES, rows)
    headings = {"work": "Against torch.func", "methods": "Methods", "parts": "What a product is"}
    tables = {
        heading: [{k: v for k, v in r.items() if k != "table"} for r in rows if r["table"] == name]
        for name, heading in headings.items()
    }
    page("spectra", TITLE, NOTES, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
