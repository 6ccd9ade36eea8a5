"""The work of the paper's Fig. 4: spectra and norms of a UNet's Jacobian, against torch.func.

    python benchmarks/peers/environments.py torch                  # once
    benchmarks/peers/.venv/torch/bin/python benchmarks/export/image_unet.py
    python benchmarks/spectra.py [--rounds N] [--samples N] [--only PART…]

Balestriero & Baraniuk, Fast Jacobian-Vector Product for Deep Networks, 2021, Fig. 4: 50
eigenvalues at 10 samples in 10 iterations of its Alg. 2, and 100 Monte-Carlo samples of the
Frobenius norm; of a UNet and on a GPU that it does not name. Here a UNet of 1.9 million weights on
images of 32 x 32 x 3, whose Jacobian is 3072 x 3072. Both sides run the same code of
`onnxjvp.analysis` on the same cores, over onnxruntime or torch.func.linearize and torch.func.vjp.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# of NumPy, here and in torch's process: its threads and the runtime's would wait for each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from peers.remote import Remote
from peers.rounds import Array, Timed, error, interleave
from record import page, rows_of, save

from onnxjvp import jacobian_operator
from onnxjvp.analysis import eigenpairs, triplets
from onnxjvp.analysis.found import Judge
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
    "eigen-krylov": eigenpairs.krylov,
}
#: name → (method, values, products): ten iterations of blocks with three vectors to guard them
WORK = {
    "Alg. 2, k = 50, 10 iterations": ("subspace", 50, 530),
    "Alg. 4, k = 50, 10 iterations": ("alternating", 50, 1060),
    "krylov, 50 singular values to 1e-5": ("krylov", 50, 100_000),
}
FROBENIUS = "Frobenius norm, 100 draws"
#: what a method may use before it gives up
PRODUCTS = 20_000
#: how torch's products are asked for, in words
TORCH = {
    "jvp": "vmap of jvp and vjp",
    "linearize": "vmap of linearize and vjp",
    "single": "linearize and vjp, one by one",
}
#: what --only takes: the work in that order, and the other table
ONLY = ("alg-2", "alg-4", "krylov", "frobenius", "methods")
TITLE = "Spectra and norms of a UNet's Jacobian: the work of the paper's Fig. 4"


class Ours:
    """The same calls as torch_spectra_worker.py's, over one operator that moves."""

    def __init__(self, x: Array) -> None:
        self.x = x
        self.operator: JacobianOperator = jacobian_operator(MODEL, {"x": x[:1]}, blocks=True)
        self.used = 0

    def points(self) -> Iterator[tuple[JacobianOperator, np.random.Generator]]:
        for i in range(len(self.x)):
            self.operator.at({"x": self.x[i : i + 1]})
            yield self.operator, np.random.default_rng([0, i])

    def solve(self, method: str, k: int, products: int) -> Array:
        values, self.used = [], 0
        for operator, rng in self.points():
            A = Products(operator, products)
            found = SOLVERS[method](A, k, Judge(A, None, rng), rng)
            values.append(np.abs(found.values[:k]))
            self.used += A.used
        return np.stack(values)

    def frobenius(self, count: int) -> Array:
        values, self.used = [], 0
        for operator, rng in self.points():
            U = probes("rademacher", rng, operator.shape[1], count)
            values.append(np.sqrt(np.mean(np.sum(operator.matmat(U) ** 2, axis=0))))
            self.used += count
        return np.array(values)

    def call(self, name: str) -> Array:
        return self.frobenius(100) if name == FROBENIUS else self.solve(*WORK[name])

    def timed(self, name: str) -> Timed:
        def run() -> float:
            start = time.perf_counter()
            self.call(name)
            return time.perf_counter() - start

        return run


def asked(name: str, how: str) -> str:
    """The same, as torch's worker is asked for it."""
    if name == FROBENIUS:
        return f"frobenius 100 {how}"
    method, k, products = WORK[name]
    return f"solve {method} {k} {products} {how}"


@contextmanager
def in_runtime() -> Iterator[list[float]]:
    """Seconds that runs of models take, while the block lasts."""
    taken: list[float] = []
    plain = runtime.Binding.run

    def timed(self: Any, **options: Any) -> Any:
        start = time.perf_counter()
        found = plain(self, **options)
        taken.append(time.perf_counter() - start)
        return found

    runtime.Binding.run = timed  # type: ignore[method-assign]
    try:
        yield taken
    finally:
        runtime.Binding.run = plain  # type: ignore[method-assign]


def against_torch(
    names: Sequence[str], samples: int, rounds: int, versions: dict[str, str]
) -> list[dict[str, Any]]:
    x = np.random.default_rng(0).standard_normal((samples, *SHAPE)).astype(np.float32)
    ours, rows = Ours(x), []
    with Remote("torch", ("image_unet", "image_unet"), {"x": x}, worker="torch_spectra") as torch:
        versions["torch"] = torch.version
        for name in names:
            found, used = ours.call(name), ours.used
            with in_runtime() as taken:
                whole = ours.timed(name)()
            off = error(torch.value(asked(name, "jvp")), found)
            blocks = [how for how in TORCH if how != "single"]
            contenders = {how: torch.timed(asked(name, how)) for how in blocks}
            seconds, others = interleave({"ours": ours.timed(name), **contenders}, rounds)
            seconds["single"] = np.array([torch.timed(asked(name, "single"))()])
            mine = float(np.median(seconds["ours"]))
            ratios = {
                f"torch {told}, over ours": float(np.median(seconds[how] / seconds["ours"]))
                for how, told in TORCH.items()
            }
            rows.append(
                {
                    "table": "work",
                    "work": name,
                    "samples": samples,
                    "products": used,
                    "seconds": mine,
                    "ms a product": 1e3 * mine / used,
                    "outside the runtime": 1 - sum(taken) / whole,
                    **ratios,
                    "values differ by": off,
                    "cores busy with others": round(others, 1),
                }
            )
            print(rows[-1], flush=True)
    return rows


def methods() -> list[dict[str, Any]]:
    """Every method to residuals of 1e-5 of the largest value, at one sample."""
    x = np.random.default_rng(0).standard_normal((1, *SHAPE)).astype(np.float32)
    operator = jacobian_operator(MODEL, {"x": x}, blocks=True)
    operator.matvec(np.ones(operator.shape[1]))
    rows = []
    for kind, k in (("singular", 1), ("singular", 5), ("singular", 50), ("eigen", 1), ("eigen", 5)):
        for method in METHODS[kind]:
            if method == "eigsh" or (method == "dense" and k > 1):
                continue
            start = time.perf_counter()
            rng = np.random.default_rng(0)
            A, _, found = solve(operator, k, kind, method, None, PRODUCTS, rng)
            rows.append(
                {
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
            )
            print(rows[-1], flush=True)
    return rows


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--samples", type=int, default=10)
    options.add_argument("--only", nargs="*", choices=ONLY, default=ONLY)
    args = options.parse_args()
    works = [
        name for name, short in zip((*WORK, FROBENIUS), ONLY, strict=False) if short in args.only
    ]
    rows = [r for r in rows_of("spectra") if r.get("work") not in works]
    versions: dict[str, str] = {}
    if works:
        found = against_torch(works, args.samples, args.rounds, versions)
        rows += [{**row, "torch": versions["torch"]} for row in found]
    if "methods" in args.only:
        rows = [r for r in rows if r["table"] != "methods"] + methods()
    notes = (
        "Medians of interleaved rounds; onnxruntime and torch on the same cores, in float32, and "
        "the same code of onnxjvp.analysis over both, from the same random starts. `products` "
        "counts J u and Jᵀ v, those included that measure rounding. `outside the runtime`: the "
        "share of time that is not onnxruntime's (NumPy on one thread). Products of torch come "
        "from torch.func.vjp at the point, and from torch.func.jvp or torch.func.linearize, whose "
        "tracing of the model at every point is counted; a block in one call by vmap, or a vector "
        "at a time. Methods stop at residuals of 1e-5 of the largest value, or after "
        f"{PRODUCTS:,} products."
    )
    save("spectra", TITLE, notes, rows)
    tables = {
        heading: [{k: v for k, v in r.items() if k != "table"} for r in rows if r["table"] == name]
        for name, heading in (("work", "Against torch.func"), ("methods", "Methods"))
    }
    page("spectra", TITLE, notes, tables)
    return 0


if __name__ == "__main__":
    sys.exit(main())
