"""Spectra and norms by torch.func, timed on request. Started by ../spectra.py.

    python torch_spectra_worker.py SOURCES NAME ARRAYS.npz THREADS

As torch_worker.py. Either onnxjvp's own solvers over products of torch.func.jvp and torch.func.vjp
(or torch.func.linearize, which traces the model at every x), of all vectors of a block in one call
(vmap) or one by one; or the paper's algorithms as they are printed, written in torch throughout.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import bounded, serve
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks" / "export")]

from onnxjvp.analysis import eigenpairs, triplets  # noqa: E402 - the repository, not installed here
from onnxjvp.analysis.found import Judge  # noqa: E402
from onnxjvp.analysis.products import Products  # noqa: E402
from onnxjvp.analysis.sampling import probes  # noqa: E402

SOLVERS = {
    "krylov": triplets.krylov,
    "alternating": triplets.alternating,
    "subspace": eigenpairs.subspace,
    "eigen-krylov": eigenpairs.krylov,
}
#: see `Operator`
CALL = 7.0


class Operator:
    """J at a point x [1, …], over float64 columns.

    Args: how: "vmap", blocks in one call, or "single", one by one; with "-linearize" by that.
    """

    def __init__(self, model: torch.nn.Module, x: Tensor, how: str) -> None:
        self.x = x
        self.y, pull = torch.func.vjp(model, x)
        self.pull = lambda v: pull(v)[0]
        self.push = lambda u: torch.func.jvp(model, (x,), (u,))[1]
        self.together = how.startswith("vmap")
        # what a call costs beside its directions, in directions: measured
        self.overhead = CALL if self.together else 0.0
        if how.endswith("linearize"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch.fx, about itself
                self.push = torch.func.linearize(model, x)[1]
        y = self.y
        self.shape = (y.numel(), x.numel())
        self.eps = float(torch.finfo(x.dtype).eps)

    def matmat(self, V: Any) -> Any:
        return self._apply(self.push, V, self.x)

    def rmatmat(self, U: Any) -> Any:
        return self._apply(self.pull, U, self.y)

    def _apply(self, product: Any, columns: Any, like: Tensor) -> Any:
        rows = torch.from_numpy(np.ascontiguousarray(columns.T, np.float32))
        return self.rows(product, rows, like).numpy().astype(np.float64).T

    def rows(self, product: Any, rows: Tensor, like: Tensor) -> Tensor:
        """Products with rows [K, elements]."""
        seeds = rows.reshape(-1, *like.shape)
        with torch.no_grad():
            if self.together:
                found = torch.func.vmap(product)(seeds)
            else:
                found = torch.stack([product(seed) for seed in seeds])
        return found.flatten(1)

    def mm(self, V: Tensor) -> Tensor:
        """J V in torch."""
        return self.rows(self.push, V.T, self.x).T

    def rmm(self, U: Tensor) -> Tensor:
        """Jᵀ U in torch."""
        return self.rows(self.pull, U.T, self.y).T


def printed_subspace(J: Operator, k: int, turns: int) -> Any:
    """Alg. 2: C ← J V, V Σ ← QR of C."""
    V = torch.linalg.qr(torch.randn(J.shape[1], k))[0]
    for _ in range(turns):
        V, R = torch.linalg.qr(J.mm(V))
    return R.diagonal().abs().numpy()


def printed_alternating(J: Operator, k: int, turns: int) -> Any:
    """Alg. 4: U ← QR of J V, V Σ ← QR of Jᵀ U."""
    V = torch.linalg.qr(torch.randn(J.shape[1], k))[0]
    for _ in range(turns):
        U = torch.linalg.qr(J.mm(V))[0]
        V, R = torch.linalg.qr(J.rmm(U))
    return R.diagonal().abs().numpy()


def printed_frobenius(J: Operator, count: int, _: int) -> Any:
    """Eq. 13."""
    U = 2.0 * torch.randint(2, (J.shape[1], count)) - 1
    return J.mm(U).square().sum(0).mean().sqrt().numpy()


PRINTED = {
    "subspace": printed_subspace,
    "alternating": printed_alternating,
    "frobenius": printed_frobenius,
}


class Calls:
    """What can be asked for, at the first COUNT samples of x.

    `solve METHOD K PRODUCTS HOW COUNT`, `frobenius DRAWS HOW COUNT`, of onnxjvp.analysis;
    `printed ALGORITHM K TURNS HOW COUNT`. At the first sample: `products jvp|vjp COUNT` and
    `forward BATCH`.
    """

    def __init__(self, model: torch.nn.Module, arrays: dict[str, Tensor]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.x = arrays["x"]

    def at(self, how: str, count: str) -> Iterator[tuple[Operator, np.random.Generator]]:
        for i in range(int(count)):
            yield Operator(self.model, self.x[i : i + 1], how), np.random.default_rng([0, i])

    def solve(self, method: str, k: str, products: str, how: str, count: str) -> Any:
        values = []
        for operator, rng in self.at(how, count):
            A = Products(operator, int(products))
            found = SOLVERS[method](A, int(k), Judge(A, None, rng), rng)
            values.append(np.abs(found.values[: int(k)]))
        return np.stack(values)

    def frobenius(self, draws: str, how: str, count: str) -> Any:
        values = []
        for operator, rng in self.at(how, count):
            U = probes("rademacher", rng, operator.shape[1], int(draws))
            values.append(np.sqrt(np.mean(np.sum(operator.matmat(U) ** 2, axis=0))))
        return np.array(values)

    def printed(self, algorithm: str, k: str, turns: str, how: str, count: str) -> Any:
        run = PRINTED[algorithm]
        return np.stack([run(J, int(k), int(turns)) for J, _ in self.at(how, count)])

    def products(self, kind: str, count: str) -> Any:
        """So many products at once."""
        (J, _), *_ = self.at("vmap", "1")
        like = J.x if kind == "jvp" else J.y
        return J.rows(J.push if kind == "jvp" else J.pull, self._ones(count, like), like).numpy()

    def _ones(self, count: str, like: Tensor) -> Tensor:
        return torch.ones(int(count), like.numel())

    def forward(self, batch: str) -> Any:
        with torch.no_grad():
            return self.model(self.x[:1].expand(int(batch), -1, -1, -1)).numpy()


def main() -> None:
    module, name, path, threads = sys.argv[1:]
    bounded()
    torch.set_num_threads(int(threads))
    source = next(s for s in importlib.import_module(module).SOURCES if s.name == name)
    with np.load(path) as stored:
        arrays = {key: torch.from_numpy(stored[key]) for key in stored}
    serve(Calls(source.model(), arrays), arrays, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
