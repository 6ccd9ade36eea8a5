"""onnxjvp's own solvers over torch.func, timed on request. Started by ../spectra.py.

    python torch_spectra_worker.py SOURCES NAME ARRAYS.npz THREADS

As torch_worker.py. Products come from torch.func.vjp at x, and from torch.func.linearize, which
traces the model at every x, or torch.func.jvp; of all vectors of a block in one call (vmap), or one
by one.
"""

from __future__ import annotations

import importlib
import sys
import warnings
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


class Operator:
    """J at a point x [1, …], over float64 columns.

    Args: how: "linearize" or "jvp", of blocks in one call; "single", linearize's, one by one.
    """

    def __init__(self, model: torch.nn.Module, x: Tensor, how: str) -> None:
        self.x = x
        self.y, pull = torch.func.vjp(model, x)
        self.pull = lambda v: pull(v)[0]
        self.push = lambda u: torch.func.jvp(model, (x,), (u,))[1]
        self.together = how != "single"
        if how != "jvp":
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
        seeds = rows.reshape(-1, *like.shape)
        with torch.no_grad():
            if self.together:
                found = torch.func.vmap(product)(seeds)
            else:
                found = torch.stack([product(seed) for seed in seeds])
        return found.flatten(1).numpy().astype(np.float64).T


class Calls:
    """`solve METHOD K PRODUCTS HOW` and `frobenius COUNT HOW`, at every sample of x."""

    def __init__(self, model: torch.nn.Module, arrays: dict[str, Tensor]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.x = arrays["x"]

    def solve(self, method: str, k: str, products: str, how: str) -> Any:
        values = []
        for i in range(len(self.x)):
            rng = np.random.default_rng([0, i])
            A = Products(Operator(self.model, self.x[i : i + 1], how), int(products))
            found = SOLVERS[method](A, int(k), Judge(A, None, rng), rng)
            values.append(np.abs(found.values[: int(k)]))
        return np.stack(values)

    def frobenius(self, count: str, how: str) -> Any:
        values = []
        for i in range(len(self.x)):
            operator = Operator(self.model, self.x[i : i + 1], how)
            rng = np.random.default_rng([0, i])
            U = probes("rademacher", rng, operator.shape[1], int(count))
            values.append(np.sqrt(np.mean(np.sum(operator.matmat(U) ** 2, axis=0))))
        return np.array(values)


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
