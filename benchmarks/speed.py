"""The record of speed: every derivative and every peer, per network and batch size.

    python benchmarks/speed.py [--quick] [--only NAME…] [--size small|large] [--batch N…]
                               [--seconds S] [--many] [--render]

README.md beside this file says what must be there first: environments and models. A row is one
interleaved run, and one more for several directions at once, after every result was compared with
torch in float64. Rows of a later run replace those of the same network, size and batch in
results/speed.json, with --many only what they say of several directions; speed.md and, with
matplotlib, speed.png and speed.svg are drawn from that file, by --render alone. --quick takes five
networks and fewer contenders, and writes speed_quick instead.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from charts import bars
from contest import DIRECTIONS, Contest, Point, gist, relu_signs
from footprint import Memory, footprint
from peers.jax_peer import Jax
from peers.remote import FailedCallError, Remote
from peers.rounds import Array
from peers.torch_peer import Torch
from record import RESULTS, rows_of, save
from speed_page import FRAMEWORKS, LIMIT, NOTES, ONE_SIZE, TITLE, write_page

import onnxjvp
from onnxjvp import OnnxJvpError

MODELS = Path(__file__).with_name("models")
#: pixels along a side and classes, as in export/paper_table.py
SIZES = {"small": (100, 20), "large": (400, 1000)}
PATCHED = dict.fromkeys(ONE_SIZE, (224, 1000))
NAMES = (
    *("rnn", "unet", "vgg16", "vgg19", "inception_v3", "resnet50", "resnet101", "resnet152"),
    *("efficientnet_b0", "efficientnet_b1", "densenet121", "densenet169", "densenet201"),
    *PATCHED,
)
OURS = ("jvp", "split", "stacked", "vjp", "apply J", *(f"K={k}" for k in DIRECTIONS))
PEERS = ("onnx-ad", "torch", "jax")
QUICK = ("unet", "inception_v3", "resnet50", "efficientnet_b0", "densenet121")
QUICK_OURS = ("jvp", "split", "vjp", "apply J", "K=4")
SECONDS, QUICK_SECONDS = 60.0, 6.0
Row = dict[str, Any]
FIRST, LAST = 0.25, 0.75
#: of x, rounded otherwise
DRAWS = 8


def images(shape: tuple[int, int, int, int], seed: int) -> Array:
    """Noise at two scales, as the networks' statistics are of."""
    rng = np.random.default_rng(seed)
    batch, colours, side, _ = shape
    coarse = rng.standard_normal((batch, colours, 7, 7))
    index = np.arange(side) * 7 // side
    return ((coarse[..., index[:, None], index] + rng.standard_normal(shape)) / 2**0.5).astype(
        np.float32
    )


def point_of(side: int, classes: int, batch: int) -> Point:
    shape = (batch, 3, side, side)
    rng = np.random.default_rng(1)
    many = rng.standard_normal((max(DIRECTIONS), *shape), np.float32)
    return Point(images(shape, 0), many[0], many, rng.standard_normal((batch, classes), np.float32))


class Entry:
    """One row in the making."""

    def __init__(self, size: str, name: str, batch: int, args: argparse.Namespace) -> None:
        self.args = args
        self.name = f"{size}_{name}"
        self.path = MODELS / f"paper_{self.name}.onnx"
        self.row: Row = {"model": name, "size": size, "batch": batch}
        self.versions: dict[str, str] = {}

    def fill(self) -> Row:
        """Check, time and describe."""
        start = time.perf_counter()
        memory = self._memory()
        side, classes = PATCHED.get(self.row["model"], SIZES[self.row["size"]])
        self.point = point_of(side, classes, self.row["batch"])
        arrays = {"x": self.point.x, "x_u": self.point.u, "y_ct": self.point.cotangent}
        with TemporaryDirectory() as folder, Torch("paper_table", self.name, arrays) as torch:
            kinds = ("forward", "jvp", "vjp")
            contest = Contest(
                self.path,
                self.point,
                {kind: torch.value(f"exact {kind}") for kind in kinds},
                {kind: torch.noise(kind) for kind in kinds},
                self.args.seconds,
                activations=memory.get("forward", {}).get("activations", 0),
                weights=memory.get("weights", 0),
            )
            signs = torch.value("exact masks")
            masks = self.row["masks"] = {
                "onnxruntime": flipped(lambda: relu_signs(self.path, self.point.x), signs),
                "torch": flipped(lambda: torch.value("masks"), signs),
            }
            ours_flip = any_flipped(masks["onnxruntime"])
            ours_flip = ours_flip or at_a_kink(self.path, self.point.x, signs)
            contest.flipped = ours_flip
            contest.forward()
            if not self.args.many:
                self._one(contest, torch, Path(folder), arrays, signs)
        contest.next_heat()
        contest.flipped = ours_flip
        contest.ours([name for name in self.args.ours if "K=" in name])
        with TemporaryDirectory() as folder:
            if "onnx-ad" in self.args.peers and not self.args.quick:
                contest.onnx_ad("onnx-ad K=16", 16, Path(folder, "many"))
            self._race(contest)
        self.row |= {"rounding x": contest.noise, "memory": memory, "versions": self.versions}
        self.row["whole row s"] = round(time.perf_counter() - start)
        return self.row

    def _one(
        self,
        contest: Contest,
        torch: Torch,
        folder: Path,
        arrays: dict[str, Array],
        signs: Array,
    ) -> None:
        """The heat of one direction, with all peers."""
        masks = self.row["masks"]
        contest.ours([name for name in self.args.ours if "K=" not in name])
        if self.args.peers and contest.crowded:
            self._race(contest)
            contest.next_heat()
            contest.ours(["jvp"])
        if "onnx-ad" in self.args.peers:
            self.versions["onnx-ad"] = contest.onnx_ad("onnx-ad", 1, folder / "one")
        contest.flipped = any_flipped(masks["torch"])
        self.versions["torch"] = torch.version
        if "torch" in self.args.peers:
            self._torch(contest, torch)
        if "jax" not in self.args.peers:
            self._race(contest)
            return
        with Jax(self.path, arrays) as jax:
            self.versions["jax"] = jax.version
            masks["jax"] = flipped(lambda: jax.value("masks"), signs)
            contest.flipped = any_flipped(masks["jax"])
            contest.peer("jax forward", "forward", 3, jax, "forward")
            contest.peer("jax jvp", "jvp", 8, jax, "jvp")
            self._race(contest)

    def _torch(self, contest: Contest, torch: Remote) -> None:
        contest.peer("torch forward", "forward", 2, torch, "forward")
        contest.peer("torch jvp", "jvp", 6, torch, "jvp")
        if not self.args.quick:
            contest.peer("torch double vjp", "jvp", 8, torch, "double_vjp")
            contest.peer("torch vjp", "vjp", 5, torch, "vjp")

    def _race(self, contest: Contest) -> None:
        """A heat. Ratios are taken round by round: [first quartile, median, third quartile]."""
        self.row |= {"errors": contest.errors, "refused": contest.refused}
        if "forward" not in contest.timed:
            return
        seconds, rounds, others = contest.race()
        over = self.row.setdefault("over forward", {})
        for name, taken in seconds.items():
            if name != "forward":
                directions = int(name.split("K=")[1]) if "K=" in name else 1
                over.setdefault(name, quartiles(taken / directions / seconds["forward"]))
        if clones := [name for name in ("split", "stacked") if name in over]:
            over["clone"] = min((over[name] for name in clones), key=lambda spread: spread[1])
        framework = min(
            (name for name in FRAMEWORKS if name in seconds),
            key=lambda name: float(np.median(seconds[name])),
            default="none",
        )
        speedups = self.row.setdefault("speed-up over", {})
        for name, other, own in (
            ("onnx-ad", "onnx-ad", "jvp"),
            ("onnx-ad K=16", "onnx-ad K=16", "K=16"),
            ("frameworks", framework, "jvp"),
        ):
            if other in seconds and own in seconds:
                speedups[name] = quartiles(seconds[other] / seconds[own])
        self.row.setdefault("forward ms", 1e3 * float(np.median(seconds["forward"])))
        if self.row.get("fastest framework", "none") == "none":
            self.row["fastest framework"] = framework
        self.row["rounds"] = min(rounds, self.row.get("rounds", rounds))
        busy = self.row.get("cores busy with others", 0.0)
        self.row["cores busy with others"] = max(busy, round(others, 1))

    def _memory(self) -> dict[str, Any]:
        """Bytes; see NOTES. Empty where the system does not tell."""
        batch = self.row["batch"]
        if not Path("/proc/self/clear_refs").exists():
            return {}
        imports = footprint(batch)
        weights = self.path.stat().st_size
        plain = less(footprint(batch, self.path), imports)
        found: dict[str, Any] = {"weights": weights, "forward": plain}
        try:
            with TemporaryDirectory() as folder:
                path = onnxjvp.jvp(self.path, target="cpu").save(Path(folder, "jvp.onnx"))
                own = found["jvp"] = less(footprint(batch, path), imports)
        except Exception as failure:  # noqa: BLE001  (the row says so among what was refused, too)
            return {**found, "failed": gist(failure)}
        limit = LIMIT * plain["activations"] + plain["loaded"]
        found["over limit"] = own["running"] / limit
        found["factor"] = (own["running"] - plain["loaded"]) / plain["activations"]
        found["whole factor"] = (own["peak"] - weights) / (plain["peak"] - weights)
        return found


def less(memory: Memory, imports: Memory) -> Memory:
    """What the model adds, and what running it adds to what it took when it was loaded."""
    own = {name: value - imports[name] for name, value in memory.items()}
    return {**own, "activations": memory["running"] - memory["loaded"]}


def quartiles(values: Array) -> list[float]:
    return [float(v) for v in np.quantile(values, [FIRST, 0.5, LAST])]


def flipped(signs: Callable[[], Array], exact: Array) -> list[int] | str:
    """How many signs differ from those in float64, and of how many."""
    try:
        got = signs()
    except (FailedCallError, OnnxJvpError) as failure:
        return gist(failure)
    if got.shape != exact.shape:
        return f"{got.shape[1]} signs, {exact.shape[1]} in float64"
    return [int(np.count_nonzero(got != exact)), int(exact.size)]


def any_flipped(counted: list[int] | str) -> bool:
    return not isinstance(counted, str) and counted[0] > 0


def at_a_kink(path: Path, x: Array, exact: Array) -> bool:
    """Whether rounding x otherwise changes signs in onnxruntime, in any of some draws.

    A file that adds up in another order than the plain one may round so too.
    """
    rng = np.random.default_rng(2)
    for _ in range(DRAWS):
        other = x * (1 + np.finfo(x.dtype).eps * rng.standard_normal(x.shape))
        if any_flipped(flipped(lambda near=other: relu_signs(path, near.astype(x.dtype)), exact)):
            return True
    return False


def place(row: Row) -> tuple[int, int, int]:
    """Which row it is, and where it stands in the table."""
    return list(SIZES).index(row["size"]), row["batch"], NAMES.index(row["model"])


def merged(rows: list[Row], row: Row) -> list[Row]:
    """The rows with this one in its place, in the order of the networks."""
    return sorted([*(r for r in rows if place(r) != place(row)), row], key=place)


def renewed(rows: list[Row], row: Row) -> Row:
    """The row that is there, with what this one says of several directions."""
    (old,) = (r for r in rows if place(r) == place(row))
    parts = ("over forward", "speed-up over", "errors", "refused")
    rest = {part: {k: v for k, v in old[part].items() if "K=" not in k} for part in parts}
    fresh = {part: {k: v for k, v in row.get(part, {}).items() if "K=" in k} for part in parts}
    busy = "cores busy with others"
    return {
        **old,
        **{part: rest[part] | fresh[part] for part in parts},
        "rounds": min(old["rounds"], row["rounds"]),
        busy: max(old[busy], row[busy]),
    }


def render(result: str) -> None:
    found = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))
    write_page(result, found["rows"], found["machine"])
    bars(result, found["rows"])


def arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME")
    options.add_argument("--size", nargs="+", choices=SIZES)
    options.add_argument("--batch", nargs="+", type=int)
    options.add_argument("--peers", nargs="*", choices=PEERS)
    options.add_argument("--seconds", type=float, help="of timing per row; three rounds at least")
    options.add_argument("--many", action="store_true", help="renew K=4 and K=16 alone")
    options.add_argument("--render", action="store_true", help="draw what was recorded")
    args = options.parse_args()
    quick = args.quick
    args.only = args.only or (QUICK if quick else NAMES)
    args.size = args.size or (["small"] if quick else list(SIZES))
    args.batch = args.batch or ([1] if quick else [1, 8])
    args.peers = args.peers if args.peers is not None else PEERS[:2] if quick else PEERS
    args.seconds = args.seconds or (QUICK_SECONDS if quick else SECONDS)
    args.ours = QUICK_OURS if quick else OURS
    return args


def main() -> None:
    args = arguments()
    result = "speed_quick" if args.quick else "speed"
    if args.render:
        render(result)
        return
    wanted = [
        Entry(size, name, batch, args)
        for batch in args.batch
        for size in args.size
        for name in NAMES
        if name in args.only and (name not in PATCHED or size == "large")
    ]
    if missing := [entry.path.name for entry in wanted if not entry.path.exists()]:
        raise SystemExit(f"export/paper_table.py makes {', '.join(missing)}")
    while wanted:
        entry = wanted.pop(0)  # with it goes the memory of its arrays
        try:
            row = entry.fill()
            row = renewed(rows_of(result), row) if args.many else row
        except Exception as failure:  # noqa: BLE001  (the other rows are worth having)
            words = f"{type(failure).__name__}: {gist(failure)}"
            if args.many:  # the row that is there stays
                print(entry.name, entry.row["batch"], words, flush=True)
                continue
            row = {**entry.row, "refused": {**entry.row.get("refused", {}), "all": words}}
        rows = merged(rows_of(result), row)
        save(result, TITLE, NOTES, rows)
        write_page(result, rows)
        short = {k: v[1] for k, v in row.get("over forward", {}).items()}
        print(entry.name, row["batch"], short, row["refused"], flush=True)
    render(result)


if __name__ == "__main__":
    main()
