"""torch's derivatives, computed and timed on request. Started by torch_peer.py.

    python torch_worker.py SOURCES NAME ARRAYS.npz THREADS

SOURCES is a module of benchmarks/export and NAME one of its models, built again with its random
weights (seed 0). Then, per line of JSON on stdin, a line on stdout: {"call": C} gives the seconds
that C took, and with "save": PATH its value is written there; "at": KEY takes that array for x.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "export"))


class Calls:
    """What can be asked for: `forward`, `vjp`, `jvp`, and `jvp W`, `double_vjp W` in a weight."""

    def __init__(self, model: torch.nn.Module, arrays: dict[str, Tensor]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.parameters = dict(model.named_parameters())
        self.arrays = arrays
        self.x = arrays["x"]

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.model(self.x)

    def vjp(self) -> Tensor:
        """Forward and backward pass, in x alone."""
        x = self.x.detach().requires_grad_()
        return torch.autograd.grad(self.model(x), x, self.arrays["y_ct"])[0]

    def jvp(self, weight: str | None = None) -> Tensor:
        """Forward mode, by torch.func; fused attention has none."""
        function, point, direction = self._in(weight)
        with sdpa_kernel(SDPBackend.MATH):
            return torch.func.jvp(function, (point,), (direction,))[1]

    def double_vjp(self, weight: str | None = None) -> Tensor:
        """J u as the derivative of v ↦ Jᵀ v, which is linear in v."""
        function, point, direction = self._in(weight)
        point = point.detach().requires_grad_()
        with sdpa_kernel(SDPBackend.MATH):
            y = function(point)
        v = torch.zeros_like(y, requires_grad=True)
        (pulled,) = torch.autograd.grad(y, point, v, create_graph=True)
        return torch.autograd.grad(pulled, v, direction)[0]

    def _in(self, weight: str | None) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        x = self.x
        if weight is None:
            return self.model, x, self.arrays["x_u"]

        def of_weight(value: Tensor) -> Tensor:
            return torch.func.functional_call(self.model, {weight: value}, (x,))

        return of_weight, self.parameters[weight], self.arrays[f"{weight}_u"]


def main() -> None:
    module, name, path, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    torch.backends.mha.set_fastpath_enabled(False)  # slower on a CPU, and has no forward mode
    source = next(s for s in importlib.import_module(module).SOURCES if s.name == name)
    with np.load(path) as stored:
        arrays = {key: torch.from_numpy(stored[key]) for key in stored}
    calls = Calls(source.model(), arrays)
    print(json.dumps({"torch": torch.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        call, *rest = request["call"].split(" ")
        calls.x = arrays[request.get("at", "x")]
        start = time.perf_counter()
        value = getattr(calls, call)(*rest)
        seconds = time.perf_counter() - start
        if "save" in request:
            np.save(request["save"], value.detach().numpy())
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
