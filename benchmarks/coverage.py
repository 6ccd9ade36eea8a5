"""How often the bands of `onnxjvp.norm` hold the truth: 1,000 seeds a row.

    python benchmarks/coverage.py [--seeds N] [--only MATRIX…]

Matrices with known answers, the code of `onnxjvp.norm` behind its model: draws, stopping rule,
band. A band is said to hold with 95 %; rows below 93 % end the script with 1. A matrix of rank one
is the hardest: ‖A u‖² is then a χ² of one degree of freedom.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
from record import rows_of, write
from scipy.sparse.linalg import aslinearoperator

from onnxjvp.analysis.norms import estimate
from onnxjvp.runtime import Array

LEAST = 0.93
SIZE = 100


def matrices() -> dict[str, Array]:
    """Positive semidefinite but for the last, so that all that is estimated is there."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((SIZE, SIZE)))[0]
    found = {"rank 1": np.outer(Q[:, 0], Q[:, 0]) * 2.0}
    sparse = np.zeros(SIZE)
    sparse[:2] = 1, 0.3
    found["rank 1, two elements"] = np.outer(sparse, sparse)
    found["rank 3"] = Q[:, :3] * [3.0, 2, 1] @ Q[:, :3].T
    found["decaying"] = Q * 0.8 ** np.arange(SIZE) @ Q.T
    found["full"] = Q * rng.uniform(0.5, 1.5, SIZE) @ Q.T
    found["not symmetric"] = rng.standard_normal((SIZE, SIZE)) / 25 + np.eye(SIZE)
    return found


def truth(matrix: Array, kind: str) -> float:
    if kind == "frobenius":
        return float(np.linalg.norm(matrix))
    if kind == "trace":
        return float(np.trace(matrix))
    if kind == "inverse":
        return float(np.linalg.norm(np.linalg.inv(matrix)))
    return float(np.sum(np.log1p(np.linalg.svd(matrix, compute_uv=False) ** 2)))


def row(
    name: str, matrix: Array, kind: str, method: str, probe: str, rtol: float, seeds: int
) -> Any:
    answer, operator = truth(matrix, kind), aslinearoperator(matrix)
    held, draws, errors = 0, [], []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        found = estimate(operator, kind, method, rtol, None, 20_000, probe, rng)
        slack = 1e-12 * abs(answer)
        held += found.low - slack <= answer <= found.high + slack
        draws.append(found.samples)
        errors.append(found.value / answer - 1)
    return {
        "matrix": name,
        "number": kind,
        "method": method,
        "probe": probe,
        "rtol": rtol,
        "held": held / seeds,
        "samples, least": min(draws),
        "samples, median": float(np.median(draws)),
        "mean error": float(np.mean(errors)),
        "deviation": float(np.std(errors)),
        "seeds": seeds,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=1000)
    options.add_argument("--only", nargs="+", choices=matrices(), default=list(matrices()))
    args = options.parse_args()
    seeds = args.seeds
    rows = [r for r in rows_of("coverage") if r["matrix"] not in args.only]
    for name in args.only:
        matrix = matrices()[name]
        for rtol in (0.3, 0.1, 0.05):
            for probe in ("normal", "rademacher", "sphere"):
                rows.append(row(name, matrix, "frobenius", "sampling", probe, rtol, seeds))
            for method, probe in (
                ("sampling", "normal"),
                ("sampling", "rademacher"),
                ("hutch++", "rademacher"),
            ):
                rows.append(row(name, matrix, "trace", method, probe, rtol, seeds))
        rows.append(row(name, matrix, "log-det", "sampling", "rademacher", 0.1, seeds))
        if name in ("full", "not symmetric"):
            rows.append(row(name, matrix, "inverse", "sampling", "rademacher", 0.1, seeds))
        print(*rows[-3:], sep="\n", flush=True)
    notes = (
        f"`held`: in how many of {seeds} seeds the band of 95 % held the truth. Drawing stops at "
        f"the first look, at 128 draws or later, where the band is narrower than rtol. Matrices "
        f"{SIZE} x {SIZE}, in float64; errors are relative. Least of all rows: "
        f"{min(r['held'] for r in rows):.3f}."
    )
    write("coverage", "Bands of estimates: how often they hold", notes, rows)
    low = [r for r in rows if r["held"] < LEAST]
    for r in low:
        print(f"below {LEAST}: {r}", file=sys.stderr)
    return int(bool(low))


if __name__ == "__main__":
    sys.exit(main())
