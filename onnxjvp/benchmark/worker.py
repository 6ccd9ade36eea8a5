"""One contender in a process of its own: it loads, tells memory and results, then is timed.

It reads lines of JSON and answers each with one: first a `Task`, answered by what `_start` gives;
then numbers of runs, each answered by the seconds that one of them took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from onnxjvp.benchmark import memory
from onnxjvp.errors import OnnxJvpError
from onnxjvp.runtime.feeds import Array
from onnxjvp.runtime.session import Binding, Held, Loaded

#: runs before the memory is read: the runtime plans it in the first and takes it in the second
FIRST = 3


@dataclass(frozen=True)
class Task:
    """What a contender is: no file, for what the process itself takes; one; or two.

    Of two the first is linearised once, and what it gives and takes feeds the second.
    """

    files: tuple[str, ...]
    #: .npz of arrays, which the inputs are numbers of
    arrays: str
    #: input → its value
    feeds: Mapping[str, int]
    #: input → its value with x rounded otherwise
    nudged: Mapping[str, int]
    #: outputs whose values are written to `results`, .npz: at x, then at x rounded otherwise
    wanted: Sequence[str]
    results: str
    provider: str
    threads: int | None

    def line(self) -> str:
        return json.dumps(asdict(self))


def main() -> None:
    # what a library prints must not come between the answers
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)

        def answer(content: object) -> None:
            print(json.dumps(content), file=answers, flush=True)

        try:
            told, timed = _start(Task(**json.loads(sys.stdin.readline())))
            answer(told)
            for line in sys.stdin:
                answer(_seconds(timed, int(line)))
        except OnnxJvpError as error:
            answer({"error": str(error)})


def _start(task: Task) -> tuple[dict[str, Any], Binding | None]:
    """The bytes that loading took and that running took, and what is to be timed.

    Each in total for the process; None: not known on this system. "device" is for all processes.
    """
    with np.load(task.arrays) as stored:
        arrays = [stored[name] for name in stored.files]
    # what every process takes that computes there: threads, a context on the device
    idle = Loaded(_nothing(), providers=[task.provider], threads=task.threads)
    before = memory.on_cuda()
    models = [Loaded(f, providers=[task.provider], threads=task.threads) for f in task.files]
    loading = memory.peak()
    known = memory.forget()
    timed = None
    written: list[Array] = []
    if models:
        timed, values = _bound(models, {name: arrays[i] for name, i in task.feeds.items()})
        for _ in range(1, FIRST):
            timed.again()
        written += [values[name].numpy() for name in task.wanted]
    running = memory.peak() if known else None
    after = memory.on_cuda()
    if models:
        _, values = _bound(models, {name: arrays[i] for name, i in task.nudged.items()})
        written += [values[name].numpy() for name in task.wanted]
    np.savez(task.results, *written)
    del idle
    taken = None if after is None or before is None else after - before
    return {"loading": loading, "running": running, "device": taken}, timed


def _nothing() -> onnx.ModelProto:
    """A model that gives what it takes."""
    x, y = (onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "xy")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    opset = onnx.helper.make_opsetid("", 18)
    graph = onnx.helper.make_graph([node], "nothing", [x], [y])
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)


def _bound(models: Sequence[Loaded], feeds: Mapping[str, Array]) -> tuple[Binding, dict[str, Held]]:
    """The last model with its inputs held, run once; the values of all outputs of all models."""
    held = {name: models[-1].hold(array) for name, array in feeds.items()}
    binding = models[-1].bind()
    for model in models:
        binding = model.bind()
        binding.feed({spec.name: held[spec.name] for spec in model.inputs()})
        held |= binding.run(stay=[spec.name for spec in model.outputs()])
    return binding, held


def _seconds(timed: Binding | None, runs: int) -> float:
    assert timed is not None
    start = time.perf_counter()
    for _ in range(runs):
        timed.again()
    return (time.perf_counter() - start) / runs


if __name__ == "__main__":
    main()
