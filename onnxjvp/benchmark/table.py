"""The time and memory of every form of a model, beside its plain forward pass."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from onnxjvp.benchmark.compare import Judge
from onnxjvp.benchmark.forms import FAMILIES, PLAIN, Form, ends, forms, plain_ends
from onnxjvp.benchmark.process import Contender, Started
from onnxjvp.benchmark.timing import TOLERATED, WARM, Timed, interleave, quartiles
from onnxjvp.errors import OnnxJvpError, UsageError
from onnxjvp.runtime import Array, Session, TensorSpec, check_feeds, random_feeds
from onnxjvp.targets import TARGETS

#: rounds that are timed where nobody says how many
FEWEST, MOST = 5, 100
#: one contender's turn in a round lasts so long at least, in seconds of the plain forward pass
TURN = 5e-3
LONGEST_TURN = 2000
#: directions at once
DIRECTIONS = (4, 16)


@dataclass(frozen=True)
class Row:
    """One form."""

    form: str
    target: str | None
    #: "refused": it cannot be built or run; "failed": its results are wrong
    status: Literal["timed", "refused", "failed"] = "timed"
    #: why it is not timed
    problem: str | None = None
    #: of one direction: median
    milliseconds: float | None = None
    #: of one direction, over the forward pass of the same round: quartile, median, quartile
    ratio: tuple[float, float, float] | None = None
    #: the most bytes of a process while it loads the files, without those of an idle one
    loading_bytes: int | None = None
    #: the same while it runs, weights and all; None: not known on this system
    running_bytes: int | None = None
    #: the same on the CUDA device
    device_bytes: int | None = None
    #: of the file or both, external data and all
    file_bytes: int | None = None
    nodes: int | None = None


@dataclass(frozen=True)
class Table:
    """What `bench` finds."""

    rows: tuple[Row, ...]
    provider: str
    threads: int | None
    #: input → dtype and shape
    inputs: Mapping[str, str]
    rounds: int
    #: runs in a row that a turn consists of
    runs: int
    #: cores that other processes kept busy before or after
    others: float

    @property
    def passed(self) -> bool:
        """Whether no form gave wrong results."""
        return all(row.status != "failed" for row in self.rows)

    @property
    def disturbed(self) -> bool:
        """Whether other processes make the figures doubtful."""
        return self.others > TOLERATED

    def to_dict(self) -> dict[str, Any]:
        return {"passed": self.passed, **asdict(self)}


def bench(
    model: Path,
    *,
    wrt: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    families: Sequence[str] = FAMILIES,
    directions: Sequence[int] = DIRECTIONS,
    inputs: Mapping[str, Array] | None = None,
    dims: Mapping[str, int] | None = None,
    provider: str = "cpu",
    threads: int | None = None,
    rounds: int | None = None,
    seconds: float = 10.0,
    told: Callable[[int, int], object] | None = None,
) -> Table:
    """Time the products of a model against its plain forward pass, and take their peak memory.

    Each form is built, loaded into a process of its own, and compared: f(x) with the original's,
    J u and Jᵀ v among the forms. Then all take turns, in an order drawn anew each round, with
    inputs and outputs that stay where the model computes.

    Args:
      model: the original's file.
      wrt, outputs: as for `onnxjvp.jvp`.
      targets: what forms are written for; None: portable, and as the provider.
      families: of `FAMILIES`.
      directions: numbers of directions at once.
      inputs: arrays for the model's inputs; those left out are drawn at random.
      dims: sizes of symbolic dimensions of inputs drawn; a first axis is 1 otherwise, others 8.
      provider, threads: as for `Session`.
      rounds: None means as many as `seconds` have room for, from 5 to 100.
      seconds: roughly what the timed rounds take together, where they can.
      told: called with the number of forms loaded, and that of all.
    Returns:
      A table: the plain forward pass, then every form; those that cannot be built or run, or give
      wrong results, with the reason.
    Raises:
      UsageError: unknown names, sizes or numbers. InputError: `inputs` do not fit.
      InvalidModelError: the model cannot be loaded or run.
      UnsupportedOpError: of all forms none can be built.
    Cost: every form is held in memory at once.
    """
    if targets is None:
        targets = ("portable", *(t for t in TARGETS if t == provider))
    _check(targets, families, directions, rounds, seconds)
    session = Session(model, providers=[provider], threads=threads)
    feeds = _feeds(session.inputs, inputs or {}, dims or {})
    floats = tuple(spec.name for spec in session.outputs if spec.dtype.kind == "f")
    sizes = {
        dim: size
        for spec in session.inputs
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    del session  # each contender holds the weights in its own process
    every = list(forms(model, wrt, outputs, targets, families, directions))
    with contextlib.ExitStack() as stack:
        field = _Field(stack, feeds, sizes, provider, threads)
        field.plain(model, floats)
        for i, form in enumerate(every):
            if told is not None:
                told(i, len(every))
            field.add(form)
        if every and all(row.status == "refused" for row in field.rows.values() if row.target):
            raise field.obstacles[0]
        rows, rounds, runs, others = field.timed(rounds, seconds)
    shown = {name: f"{array.dtype}{list(array.shape)}" for name, array in feeds.items()}
    return Table(rows, provider, threads, shown, rounds, runs, others)


def _check(
    targets: Sequence[str],
    families: Sequence[str],
    directions: Sequence[int],
    rounds: int | None,
    seconds: float,
) -> None:
    for what, given, known in (("target", targets, TARGETS), ("form", families, FAMILIES)):
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"there is no {what} {unknown[0]!r}; choose {', '.join(known)}")
        if len(set(given)) < len(given):
            raise UsageError(f"a {what} is given twice: {', '.join(given)}")
    if any(k < 1 for k in directions) or len(set(directions)) < len(directions):
        raise UsageError(f"numbers of directions must be 1 or more, each once: {directions}")
    if rounds is not None and rounds < 1:
        raise UsageError(f"{rounds} rounds give no figures; pass 1 or more")
    if not seconds > 0:
        raise UsageError(f"{seconds} seconds give no figures; pass more than 0")


def _feeds(
    specs: Sequence[TensorSpec], given: Mapping[str, Array], dims: Mapping[str, int]
) -> dict[str, Array]:
    """Arrays given, and drawn ones in sizes that suit them; of a first axis 1."""
    settled = {spec.shape[0]: 1 for spec in specs if spec.shape and isinstance(spec.shape[0], str)}
    for spec in specs:
        if spec.shape and spec.shape[0] is None:
            settled[f"{spec.name}:0"] = 1
        if spec.name in given and given[spec.name].ndim == len(spec.shape):
            sized = zip(spec.shape, given[spec.name].shape, strict=True)
            settled |= {dim: size for dim, size in sized if isinstance(dim, str)}
    sizes: dict[str, int] = {str(dim): size for dim, size in settled.items()} | dict(dims)
    left = [spec for spec in specs if spec.name not in given]
    symbols = {dim for spec in left for dim in spec.shape}
    wanted = {k: n for k, n in sizes.items() if k in symbols or k in dims or ":" in k}
    feeds = random_feeds(left, 0, wanted) | dict(given)
    check_feeds(specs, feeds)
    return feeds


class _Field:
    """All contenders, each in its process, and the rows so far."""

    def __init__(
        self,
        stack: contextlib.ExitStack,
        feeds: Mapping[str, Array],
        sizes: Mapping[str, int],
        provider: str,
        threads: int | None,
    ) -> None:
        self.rows: dict[str, Row] = {}
        self.obstacles: list[OnnxJvpError] = []
        self._stack = stack
        self._feeds = feeds
        self._nudged = {name: _nudged(array) for name, array in feeds.items()}
        self._sizes = sizes
        self._outputs: Mapping[str, Array] = {}
        self._settings: dict[str, Any] = {"provider": provider, "threads": threads}
        self._judge = Judge()
        self._contenders: dict[str, Contender] = {}
        self._directions: dict[str, int] = {}
        with contextlib.closing(Contender()) as idle:
            self._idle = idle.start((), {}, {}, (), **self._settings)

    def plain(self, model: Path, outputs: Sequence[str]) -> None:
        """The original, which all others are compared with."""
        what = plain_ends(outputs)
        contender = self._stack.enter_context(contextlib.closing(Contender()))
        started = contender.start((model,), self._feeds, self._nudged, outputs, **self._settings)
        self._judge.problem(PLAIN, {}, what.found(started.at, started.nudged))
        self._outputs = started.at
        self._contenders[PLAIN], self._directions[PLAIN] = contender, 1
        self.rows[PLAIN] = self._measured(Row(PLAIN, None), started, (model,))

    def add(self, form: Form) -> None:
        """Build, load and compare a form."""
        row = Row(form.name, form.target)
        with contextlib.ExitStack() as kept:
            contender = kept.enter_context(contextlib.closing(Contender()))
            try:
                # what is loaded needs no file, and there may be little room for all of them
                with tempfile.TemporaryDirectory(prefix="onnxjvp-bench-") as folder:
                    row, problem = self._started(form, row, contender, Path(folder))
            except OnnxJvpError as error:
                self.obstacles.append(error)
                row = replace(row, problem=str(error), status="refused")
            else:
                if problem is None:
                    self._contenders[str(form)] = contender
                    self._directions[str(form)] = form.directions
                    self._stack.push(kept.pop_all())
                else:
                    row = replace(row, problem=problem, status="failed")
        self.rows[str(form)] = row

    def _started(
        self, form: Form, row: Row, contender: Contender, folder: Path
    ) -> tuple[Row, str | None]:
        """Its row without times, and what is wrong with its results."""
        built = form.build()
        what = ends(built, self._feeds, self._outputs, self._sizes)
        files = [folder / f"{i}.onnx" for i in range(len(built))]
        for rewritten, file in zip(built, files, strict=True):
            rewritten.save(file)
        del built
        feeds = {**self._feeds, **what.seeds}
        started = contender.start(files, feeds, self._nudged, what.wanted(), **self._settings)
        found = what.found(started.at, started.nudged)
        problem = self._judge.problem(str(form), what.vectors, found)
        return self._measured(row, started, files), problem

    def _measured(self, row: Row, started: Started, files: Sequence[Path]) -> Row:
        stored = [_stored(file) for file in files]
        return replace(
            row,
            loading_bytes=_beyond(started.loading, self._idle.loading),
            running_bytes=_beyond(started.running, self._idle.running),
            device_bytes=started.device,
            file_bytes=sum(size for size, _ in stored),
            nodes=sum(nodes for _, nodes in stored),
        )

    def timed(self, rounds: int | None, seconds: float) -> tuple[tuple[Row, ...], int, int, float]:
        """All rows, the number of rounds and of runs in a turn, and cores busy with others."""
        once = self._contenders[PLAIN].seconds(1)
        runs = min(LONGEST_TURN, math.ceil(TURN / max(once, 1e-9)))

        def turn(contender: Contender) -> Timed:
            return lambda: contender.seconds(runs)

        turns = {name: turn(contender) for name, contender in self._contenders.items()}
        if rounds is None:
            each = runs * sum(timed() for timed in turns.values())
            rounds = max(FEWEST, min(MOST, int(seconds / each) - WARM))
        taken, others = interleave(turns, rounds)
        for name, found in taken.items():
            count = self._directions[name]
            self.rows[name] = replace(
                self.rows[name],
                milliseconds=1e3 * float(np.median(found)) / count,
                ratio=quartiles(found / count, taken[PLAIN]),
            )
        return tuple(self.rows.values()), rounds, runs, others


def _nudged(x: Array) -> Array:
    """The same, rounded otherwise: each number moved to a neighbour."""
    if x.dtype.kind != "f":
        return x
    towards = np.random.default_rng(0).choice([-np.inf, np.inf], x.shape)
    return np.asarray(np.nextafter(x, towards.astype(x.dtype)))


def _beyond(total: int | None, idle: int | None) -> int | None:
    return None if total is None or idle is None else max(0, total - idle)


def _stored(file: Path) -> tuple[int, int]:
    """The bytes of a model's file, external data included, and its nodes, those of bodies too."""
    model = ir.load(file)
    weights = [v.const_value for graph in model.graphs() for v in graph.initializers.values()]
    outside = sum(w.nbytes for w in weights if isinstance(w, ir.ExternalTensor))
    return file.stat().st_size + outside, sum(1 for _ in model.graph.all_nodes())
