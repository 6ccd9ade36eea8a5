"""torch's derivatives, computed and timed on request. Started by torch_peer.py.

    python torch_worker.py SOURCES NAME ARRAYS.npz THREADS

SOURCES is a module of benchmarks/export and NAME one of its models, built again with its random
weights (seed 0). Then it answers requests, as serving.py says.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import bounded, serve
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "export"))


PER_SAMPLE = ("x_u", "y_ct")


class Masks(TorchDispatchMode):
    """Notes which elements every Relu lets through, a row per sample."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        value = operator(*args, **(kwargs or {}))
        if operator.overloadpacket in (torch.ops.aten.relu, torch.ops.aten.relu_):
            self.found.append((value > 0).flatten(1))
        return value


class Calls:
    """What can be asked for: `forward`, `vjp`, `jvp`, and `jvp W`, `double_vjp W` in a weight.

    Also `masks`, and `exact C`: what C gives in float64.
    """

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

    def masks(self) -> Tensor:
        """Signs of all Relus, [batch, elements]."""
        with Masks() as masks:
            self.forward()
        return torch.cat(masks.found or [self.x.new_zeros(len(self.x), 0, dtype=torch.bool)], 1)

    def exact(self, call: str) -> Tensor:
        """In float64, sample by sample: a batch would take several times the memory."""
        model = copy.deepcopy(self.model).double()
        values = []
        for i in range(len(self.x)):
            arrays = {k: self.arrays[k][i : i + 1].double() for k in PER_SAMPLE if k in self.arrays}
            values.append(
                getattr(Calls(model, {"x": self.x[i : i + 1].double(), **arrays}), call)()
            )
        return torch.cat(values)

    def _in(self, weight: str | None) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
        x = self.x
        if weight is None:
            return self.model, x, self.arrays["x_u"]

        def of_weight(value: Tensor) -> Tensor:
            return torch.func.functional_call(self.model, {weight: value}, (x,))

        return of_weight, self.parameters[weight], self.arrays[f"{weight}_u"]


def main() -> None:
    module, name, path, threads = sys.argv[1:]
    bounded()
    torch.set_num_threads(int(threads))
    torch.backends.mha.set_fastpath_enabled(False)  # slower on a CPU, and has no forward mode
    source = next(s for s in importlib.import_module(module).SOURCES if s.name == name)
    with np.load(path) as stored:
        arrays = {key: torch.from_numpy(stored[key]) for key in stored}
    serve(Calls(source.model(), arrays), arrays, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
