"""A contender's process, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxjvp.benchmark import worker
from onnxjvp.errors import InvalidModelError
from onnxjvp.runtime import Array

_PACKAGES = Path(__file__).parents[2]


Values = Mapping[str, Array]


@dataclass(frozen=True)
class Started:
    """What a contender told once it was loaded."""

    #: outputs; with the inputs that were others the second time
    at: Values
    nudged: Values
    #: most bytes of the process until its files were loaded
    loading: int | None
    #: and from then on
    running: int | None
    #: bytes on the device
    device: int | None


class Contender:
    """A process that holds one contender: its memory is its own, and so is its end.

    Close it: `with contextlib.closing(…)`.
    """

    def __init__(self) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `close` does
        path = os.pathsep.join(filter(None, (str(_PACKAGES), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=os.environ | {"PYTHONPATH": path},
            text=True,
            encoding="utf-8",
        )

    def start(
        self,
        files: Sequence[Path],
        feeds: Values,
        nudged: Values,
        wanted: Sequence[str],
        *,
        provider: str,
        threads: int | None,
    ) -> Started:
        """Load the files, run them some times; see `worker`.

        Args:
          files: none, a model, or a linearised primal and one of its maps.
          feeds: all inputs that are not outputs of a file before.
          nudged: those that are others the second time.
          wanted: outputs to return.
        Raises:
          InvalidModelError: the runtime cannot load or run it, or the process came to an end.
        """
        first = {name: i for i, name in enumerate(feeds)}
        second = first | {name: len(feeds) + i for i, name in enumerate(nudged)}
        with tempfile.TemporaryDirectory(prefix="onnxjvp-bench-") as folder:
            arrays, results = Path(folder) / "arrays.npz", Path(folder) / "results.npz"
            np.savez(arrays, *feeds.values(), *nudged.values())
            paths = tuple(str(file) for file in files)
            task = worker.Task(
                paths, str(arrays), first, second, list(wanted), str(results), provider, threads
            )
            told = self._ask(task.line())
            if "error" in told:
                raise InvalidModelError(told["error"])
            with np.load(results) as stored:
                values = [stored[name] for name in stored.files]
        names = list(wanted) if files else []
        return Started(
            at=dict(zip(names, values[: len(names)], strict=True)),
            nudged=dict(zip(names, values[len(names) :], strict=True)),
            **told,
        )

    def seconds(self, runs: int) -> float:
        """Of one of so many runs in a row."""
        found = self._ask(str(runs))
        if not isinstance(found, float):
            raise InvalidModelError(found["error"])
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            print(line, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise InvalidModelError(self._end())
        return json.loads(answer)

    def _end(self) -> str:
        code = self._process.wait()
        if code == -9:
            return "its process was killed, perhaps for want of memory: compare fewer forms"
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {said[-1] if said else 'without a word'}"
