"""The contenders of one row of `speed.py`: made, checked against float64, and timed together."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from peers.onnx_ad_peer import OnnxAd
from peers.remote import Remote
from peers.rounds import THREADS, WARM, Array, Run, Timed, error, interleave

import onnxjvp
from onnxjvp import Rewritten
from onnxjvp.runtime import LinearizedSession, Session

#: runs once, and gives its result
Value = Callable[[], Array]
Made = tuple[Timed, Value]

MEMORY = Path("/proc/meminfo")
#: of the memory that is free, what one contender may be expected to take: buffers grow by doubling
SHARE = 0.5
#: of the memory that was free at first, what must be for peers to run in the same heat as ours
ROOM = 0.6
#: an error that needs no explanation, and how much of what rounding x does is one; where signs of
#: Relus differ from those in float64, results differ by some per cent
ROUNDING, KINKS, FLIPPED = 1e-4, 5.0, 0.1
MOST_ROUNDS, FEWEST_ROUNDS = 21, 3
DIRECTIONS = (4, 16)


def free_memory() -> int:
    """Bytes; no end of them where the system does not tell."""
    if not MEMORY.exists():
        return sys.maxsize
    fields = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    return int(fields["MemAvailable"].split()[0]) << 10


class LeftOutError(Exception):
    """A contender would take more time or memory than there is."""


@dataclass(frozen=True)
class Point:
    """Where and along what derivatives are taken: x, u [N, …], K more of it, and a cotangent."""

    x: Array
    u: Array
    many: Array
    cotangent: Array


@dataclass
class Contest:
    """One network at one batch size.

    Args:
      exact: per kind of result, "forward", "jvp" or "vjp", its value in float64.
      noise: per kind, how far torch's own result moves when x is rounded otherwise.
      seconds: of a row's timing; a contender whose first runs alone would take as much is left out.
      activations: bytes of the plain forward's, and `weights` of the file.
      flipped: whether signs of Relus in the runtime of what enters next differ from float64's.
    """

    model: Path
    point: Point
    exact: Mapping[str, Array]
    noise: Mapping[str, float]
    seconds: float
    activations: int = 0
    weights: int = 0
    flipped: bool = False
    timed: dict[str, Timed] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    first: dict[str, float] = field(default_factory=dict)
    room: int = field(default_factory=free_memory)

    @property
    def crowded(self) -> bool:
        """Whether those in the heat hold so much memory that others should wait for the next."""
        return free_memory() < ROOM * self.room

    def enter(self, name: str, kind: str, passes: float, make: Callable[[], Made]) -> None:
        """Make a contender, check what it gives, and run it once.

        Args:
          kind: of its result.
          passes: about how many forward passes it takes, and times the memory.
        """
        try:
            self._can_afford(passes)
            run, value = make()
            off = error(value(), self.exact[kind])
            taken = run()
        except Exception as failure:  # noqa: BLE001  (whatever it says is the result)
            self.refused[name] = f"{type(failure).__name__}: {gist(failure)}"
            return
        self.errors[name] = off
        allowed = max(ROUNDING, KINKS * self.noise[kind], FLIPPED if self.flipped else 0)
        if not off < allowed:
            self.refused[name] = f"another function's result: error {off:.1g}"
            return
        if taken > self.seconds / FEWEST_ROUNDS:
            self.refused[name] = f"left out: {taken:.0f} s a run"
            return
        self.timed[name], self.first[name] = run, taken

    def _can_afford(self, passes: float) -> None:
        if (expected := passes * self.first.get("forward", 0)) > self.seconds / FEWEST_ROUNDS:
            raise LeftOutError(f"about {expected:.0f} s a run")
        expected = passes * self.activations + 2 * self.weights
        if expected > SHARE * free_memory():
            raise LeftOutError(f"about {expected / 1e9:.0f} GB")

    def forward(self, kind: str = "forward") -> None:
        self.enter(kind, kind, 1, lambda: _run(Run(self.model, {"x": self.point.x}), "y"))

    def ours(self, chosen: Sequence[str]) -> None:
        """Those of onnxjvp whose names are chosen."""
        x, u, path = self.point.x, self.point.u, self.model

        def jvp(rewritten: Rewritten, direction: Array, lane: bool = False) -> Made:
            feeds = {"x": x, rewritten.names["seeds"]["x"]: direction}
            run, value = _run(Run(rewritten.model, feeds), rewritten.names["results"]["y"]["jvp"])
            return run, (lambda: value()[0]) if lane else value

        def vjp() -> Made:
            rewritten = onnxjvp.vjp(path, target="cpu")
            feeds = {"x": x, rewritten.names["cotangents"]["y"]: self.point.cotangent}
            return _run(Run(rewritten.model, feeds), rewritten.names["results"]["x"]["vjp"])

        def held() -> Made:
            session = LinearizedSession(onnxjvp.linearize(path, target="cpu"), threads=THREADS)
            session.at({"x": x})
            return _call(lambda: session.jvp({"x": u})["y"])

        def lanes(layout: str) -> Callable[[], Made]:
            return lambda: jvp(onnxjvp.clone(path, layout=layout, target="cpu"), u)

        def several(count: int) -> Callable[[], Made]:
            return lambda: jvp(
                onnxjvp.jvp(path, directions=count, target="cpu"), self.point.many[:count], True
            )

        every: dict[str, tuple[str, float, Callable[[], Made]]] = {
            "jvp": ("jvp", 2.5, lambda: jvp(onnxjvp.jvp(path, target="cpu"), u)),
            "split": ("jvp", 4, lanes("split")),
            "stacked": ("jvp", 6, lanes("stacked")),
            "vjp": ("vjp", 3, vjp),
            "apply J": ("jvp", 1.5, held),
            **{f"K={k}": ("jvp", 1 + 1.3 * k, several(k)) for k in DIRECTIONS},
        }
        for name, (kind, passes, make) in every.items():
            if name in chosen:
                self.enter(name, kind, passes, make)

    def onnx_ad(self, name: str, directions: int, folder: Path) -> str:
        """onnx-ad's forward mode; its version."""
        peer: list[OnnxAd] = []

        def make() -> Made:
            sizes = {"batch": len(self.point.x), "directions": directions}
            peer.append(OnnxAd(self.model, **sizes, modes=["forward"], folder=folder))
            seeds = np.ascontiguousarray(np.moveaxis(self.point.many[:directions], 0, -1))
            run, value = _run(peer[0].forward(self.point.x, seeds), "fwd_y")
            return run, lambda: value()[..., 0]

        self.enter(name, "jvp", 1 + 2 * directions, make)
        return peer[0].said["onnx-ad"] if peer else ""

    def next_heat(self) -> None:
        """Let go of all contenders but the plain forward, and of their memory."""
        self.timed = {k: v for k, v in self.timed.items() if k == "forward"}
        self.first = {k: v for k, v in self.first.items() if k == "forward"}
        gc.collect()

    def peer(self, name: str, kind: str, passes: float, remote: Remote, call: str) -> None:
        self.enter(name, kind, passes, lambda: (remote.timed(call), lambda: remote.value(call)))

    def race(self) -> tuple[dict[str, Array], int, float]:
        """Seconds per contender and round, the number of rounds, and cores busy with others."""
        fit = int(self.seconds / sum(self.first.values())) - WARM
        rounds = min(max(fit, FEWEST_ROUNDS), MOST_ROUNDS)
        seconds, others = interleave(self.timed, rounds)
        return seconds, rounds, others


def gist(failure: Exception) -> str:
    """What it says first; where that announces a list, its first item too."""
    head, *rest = str(failure).strip().splitlines() or [""]
    return f"{head} {rest[0].strip()}" if head.endswith(":") and rest else head


def _run(run: Run, output: str) -> Made:
    return run, lambda: run.value(output)


def _call(value: Value) -> Made:
    def once() -> float:
        start = time.perf_counter()
        value()
        return time.perf_counter() - start

    return once, value


def relu_signs(model: Path, x: Array) -> Array:
    """Which elements every Relu lets through in onnxruntime, [batch, elements], in their order.

    Their outputs become the model's, so that what is fused still is, but for what reads them.
    """
    proto = onnx.load(model)
    nodes = [node for node in proto.graph.node if node.op_type in ("Relu", "RNN")]
    for node in nodes:
        kept = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        proto.graph.output.append(kept)
    with TemporaryDirectory() as folder:
        path = Path(folder, model.name)
        onnx.save(proto, path)
        values = Session(path, threads=THREADS).run({"x": x}) if nodes else {}
    signs = [np.zeros((len(x), 0), bool)]
    for node in nodes:
        value = values[node.output[0]]
        # of an RNN [steps, directions, batch, units]
        rows = np.moveaxis(value, 2, 0) if node.op_type == "RNN" else value
        signs.append(rows.reshape(len(x), -1) > 0)
    return np.concatenate(signs, 1)
