"""A framework in a process of its own that computes and times when told: serving.py's other end."""

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

#: a framework's threads look for more work for a while before they sleep
SETTLE = 0.01
NEAR = "x_near"


class FailedCallError(Exception):
    """The peer refused or failed; the text is its own."""


class Remote:
    """A peer at work.

    Args:
      peer: its environment; PEER_worker.py is started there, or WORKER_worker.py.
      arguments: of the worker, before the arrays and the number of threads.
      arrays: x, and what the calls need: x_u, y_ct, W_u per weight W.
    Raises: FailedCallError, from here and from every call.
    """

    def __init__(
        self,
        peer: str,
        arguments: tuple[str, ...],
        arrays: Mapping[str, Array],
        environment: Mapping[str, str] | None = None,
        worker: str | None = None,
    ) -> None:
        self.peer = peer
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "arrays.npz")
        signs = np.random.default_rng(9).choice(np.float32([-1, 1]), arrays["x"].shape)
        near = arrays["x"] * (1 + signs * np.finfo(np.float32).eps)
        np.savez(path, **arrays, **{NEAR: near})
        program = Path(__file__).with_name(f"{worker or peer}_worker.py")
        self.process = subprocess.Popen(
            [python_of(peer), str(program), *arguments, str(path), str(THREADS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.version = str(self._answer()[peer])

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.communicate()
        self.folder.cleanup()

    def timed(self, call: str) -> Timed:
        """A contender; the time is taken inside the peer's process."""

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
        if self.process.poll() is None:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise FailedCallError(f"{self.peer}'s process ended with {self.process.wait()}")
        answer = dict(json.loads(line))
        if "failed" in answer:
            raise FailedCallError(answer["failed"])
        return answer
