"""A coverage-guided fuzzer of whatever reads a model: load, inspect and rewrite.

    python fuzz/load.py --seconds 600
    python fuzz/load.py --runs 1000000 --seconds 14400

Needs `pip install -e ".[fuzz]"`. A *find* is an exception that is no OnnxJvpError, a crash of the
process, more than 10 seconds, or more than 2 GB of memory. Each is kept under `--work`/finds with
its traceback. The fuzzer runs in a process of its own, which is started anew after a crash and
after every so many executions; the corpus it finds is kept between runs. With `--record` the run
is a row of benchmarks/results/fuzzing.md. Exit code 1 if it found anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import mmap
import os
import resource
import struct
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

#: executions in one process: caches of symbols grow
CHUNK = 100_000
SECONDS, MEGABYTES, LONGEST = 10, 2048, 20_000
#: one input in so many is inspected or rewritten as well
RARE = 64
COUNTS = ("executions", "loaded", "refused", "used", "finds")


def main() -> int:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--runs", type=int, default=1_000_000, help="executions (%(default)s)")
    options.add_argument("--seconds", type=float, default=600, help="stop after (%(default)s)")
    options.add_argument("--work", type=Path, default=Path("fuzz-work"), help="corpus and finds")
    options.add_argument("--record", action="store_true", help="add the run to the results")
    options.add_argument("--fuzz", type=int, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.fuzz is not None:
        return _fuzz(args.work, args.fuzz)
    work = args.work.resolve()
    for name in ("seeds", "corpus", "finds"):
        (work / name).mkdir(parents=True, exist_ok=True)
    if not any((work / "seeds").iterdir()):
        from corpus import write  # noqa: PLC0415  (takes the op tables)

        write(work / "seeds")
    row = _drive(work, args.runs, args.seconds)
    print(json.dumps(row))
    if args.record:
        record(row)
    return int(bool(row["crashes"] or row["finds"]))


def _drive(work: Path, runs: int, seconds: float) -> dict[str, int]:
    """Processes one after another, until there are enough executions or the time is over."""
    start, crashes = time.perf_counter(), 0
    counts = Counts(work / "counts")
    before = counts.read()
    while (done := counts.read()["executions"] - before["executions"]) < runs:
        left = seconds - (time.perf_counter() - start)
        if left <= 0:
            break
        command = [sys.executable, __file__, "--work", str(work)]
        command += ["--fuzz", str(min(CHUNK, runs - done))]
        with (work / "log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=work)
            try:
                code = process.wait(left + SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        if code != 0 and seconds - (time.perf_counter() - start) > 0:
            crashes += 1
            print(f"the process ended with {code}; see {work / 'finds'}", flush=True)
    after = counts.read()
    found = {name: after[name] - before[name] for name in COUNTS}
    took = round(time.perf_counter() - start)
    inputs = len(list((work / "corpus").iterdir()))
    return {**found, "crashes": crashes, "corpus": inputs, "seconds": took}


NOTES = (
    "A row is a run of fuzz/load.py. *Refused* and *loaded* count what became of an input; *used* "
    "are those of the loaded that were inspected, or rewritten as a VJP or a clone. *Finds* are "
    "exceptions that no one raises on purpose, by the place where they come from; *crashes* are "
    "processes that ended by a signal, by more than 10 seconds or by more than 2 GB for one input. "
    "The corpus holds inputs that reach new code. Finds of a run are mended before the next one, "
    "and are in tests/hostile/finds.json."
)


def record(row: dict[str, int]) -> None:
    """Add a run to the results."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from record import rows_of, write  # noqa: PLC0415  (found through sys.path)

    earlier = [each for each in rows_of("fuzzing") if each["run"] != "all"]
    rows = [*earlier, {"run": len(earlier) + 1, **row}]
    sums = {key: sum(each[key] for each in rows) for key in row if key != "corpus"}
    total = {"run": "all", **sums, "corpus": row["corpus"]}
    write("fuzzing", "Fuzzing the loader", NOTES, [*rows, total])


class Counts:
    """Numbers that outlive a process that crashes."""

    def __init__(self, path: Path) -> None:
        size = 8 * len(COUNTS)
        if not path.exists():
            path.write_bytes(bytes(size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), size)

    def add(self, name: str) -> None:
        at = 8 * COUNTS.index(name)
        (count,) = struct.unpack_from("q", self._memory, at)
        struct.pack_into("q", self._memory, at, count + 1)

    def read(self) -> dict[str, int]:
        return dict(zip(COUNTS, struct.unpack_from(f"{len(COUNTS)}q", self._memory), strict=True))


# -- the process that fuzzes -------------------------------------------------------------------


def _fuzz(work: Path, runs: int) -> int:
    import atheris  # noqa: PLC0415  (the driver does without)

    logging.disable(logging.CRITICAL)  # onnx_ir warns of every other input

    with atheris.instrument_imports(include=["onnxjvp.graph"]):
        import onnxjvp.inspection  # noqa: F401, PLC0415
        from onnxjvp.graph import load as _  # noqa: F401, PLC0415
    from mutate import mutated  # noqa: PLC0415

    resource.setrlimit(resource.RLIMIT_DATA, (MEGABYTES << 20, MEGABYTES << 20))
    counts = Counts(work / "counts")
    donors = [p.read_bytes() for p in sorted((work / "seeds").iterdir())]

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        if seed % 16 == 0:
            return atheris.Mutate(data, most)
        return mutated(data, most, seed, donors) or data

    driver = os.getppid()
    if driver == 1:
        return 0  # it was killed while this process started

    def one(data: bytes) -> None:
        if os.getppid() != driver:
            os._exit(0)  # it was killed
        counts.add("executions")
        try:
            counts.add(_outcome(data))
        except Exception as error:  # noqa: BLE001  (every one of them is a find)
            if _keep(work / "finds", data, error):
                counts.add("finds")

    flags = [
        *(f"-runs={runs}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEGABYTES}", "-len_control=0"),
        *(f"-max_len={LONGEST}", f"-artifact_prefix={work / 'finds'}/", "-print_final_stats=1"),
    ]
    atheris.Setup(
        [sys.argv[0], *flags, str(work / "corpus"), str(work / "seeds")], one, custom_mutator=mutate
    )
    atheris.Fuzz()
    return 0


def _outcome(data: bytes) -> str:
    """Whether the model loads; some of those that do are used."""
    from onnxjvp.errors import OnnxJvpError  # noqa: PLC0415
    from onnxjvp.graph.load import load  # noqa: PLC0415
    from onnxjvp.inspection import inspect  # noqa: PLC0415
    from onnxjvp.rewrite import clone, vjp  # noqa: PLC0415

    try:
        load(data)
    except OnnxJvpError:
        return "refused"
    chosen = zlib.crc32(data) % RARE
    if chosen > 2:
        return "loaded"
    with contextlib.suppress(OnnxJvpError):
        (inspect, vjp, clone)[chosen](data)
    return "used"


def _keep(finds: Path, data: bytes, error: Exception) -> bool:
    """Keep one input for every place at which an exception is raised; whether it is a new one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "onnxjvp" in f.filename][-1:]
    place = "|".join(f"{Path(f.filename).name}:{f.name}:{f.line}" for f in (*ours, frames[-1]))
    name = f"{type(error).__name__}-{zlib.crc32(place.encode()):08x}"
    if (finds / f"{name}.txt").exists():
        return False
    (finds / f"{name}.onnx").write_bytes(data)
    (finds / f"{name}.txt").write_text("".join(traceback.format_exception(error)))
    return True


if __name__ == "__main__":
    sys.exit(main())
