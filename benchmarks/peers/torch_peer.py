"""torch in a process of its own that computes and times when told: torch_worker.py's other end."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .environments import python_of
from .rounds import THREADS, Array, Timed, error

#: torch's threads look for more work for a while before they sleep
SETTLE = 0.01
NEAR = "x_near"


class Torch:
    """A model of benchmarks/export in torch.

    Args:
      sources, name: the module of benchmarks/export, and the model in it.
      arrays: x, and what the calls need: x_u, y_ct, W_u per weight W.
    """

    def __init__(self, sources: str, name: str, arrays: Mapping[str, Array]) -> None:
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "arrays.npz")
        signs = np.random.default_rng(9).choice(np.float32([-1, 1]), arrays["x"].shape)
        near = arrays["x"] * (1 + signs * np.finfo(np.float32).eps)
        np.savez(path, **arrays, **{NEAR: near})
        worker = Path(__file__).with_name("torch_worker.py")
        self.process = subprocess.Popen(
            [python_of("torch"), str(worker), sources, name, str(path), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.version = self._answer()["torch"]

    def __enter__(self) -> Torch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()
        self.folder.cleanup()

    def timed(self, call: str) -> Timed:
        """A contender; the time is taken inside torch's process."""

        def run() -> float:
            seconds = float(self._ask(call=call)["seconds"])
            time.sleep(SETTLE)
            return seconds

        return run

    def value(self, call: str, at: str = "x") -> Array:
        """What a call gives, with the array `at` for x."""
        path = Path(self.folder.name, "value.npy")
        self._ask(call=call, at=at, save=str(path))
        return np.asarray(np.load(path))

    def noise(self, call: str) -> float:
        """How far the value moves when x is rounded otherwise; see `rounds.agree`."""
        return error(self.value(call, NEAR), self.value(call))

    def _ask(self, **request: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"torch's process ended with {self.process.wait()}; see above")
        return dict(json.loads(line))
