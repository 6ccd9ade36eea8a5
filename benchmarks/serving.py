"""Rewritten models behind MLServer, under load: every reply right or a clear error, none lost.

Serves three models on loopback with `python -m onnxjvp.serving`, sends requests of mixed sizes from
concurrent clients, bad ones among them, and kills the serving process (SIGKILL) on the way. Every
reply is compared with what onnxruntime gives in this process. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import record

import onnxjvp
from onnxjvp.runtime import Array, Session, random_feeds
from onnxjvp.serving.client import Client, RemoteError, body
from onnxjvp.serving.limits import Limits
from onnxjvp.serving.repository import package

ROOT = Path(__file__).resolve().parents[1]
BODY_BYTES = 1 << 20
#: 16 samples along 8 directions give 5,760 bytes
LIMITS = Limits(output_bytes=6_000, dims={"batch": 32, "K": 8}, seconds=10.0)
#: of all requests, those that are bad on purpose
BAD_SHARE = 0.05


def models() -> dict[str, onnxjvp.Rewritten]:
    """K directions, a transposed product, a gradient in weights (which adds up over samples)."""
    trained = ROOT / "models"
    return {
        "cnn_jvp": onnxjvp.jvp(trained / "digits_cnn.onnx", directions="K", target="cpu"),
        "transformer_vjp": onnxjvp.vjp(trained / "digits_transformer.onnx", target="cpu"),
        "mlp_grad": onnxjvp.grad(trained / "diabetes_mlp.onnx", ["params"], loss="squared_norm"),
    }


@dataclass(frozen=True)
class Good:
    """A request, and what onnxruntime gives for it here."""

    model: str
    content: bytes
    expected: Mapping[str, Array]


@dataclass(frozen=True)
class Bad:
    """A request that has to be refused."""

    kind: str
    status: int
    path: str
    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


def good_requests(name: str, path: Path, count: int) -> list[Good]:
    session, rng = Session(path, threads=1), random.Random(name)
    found = []
    for seed in range(count):
        symbols = {d for spec in session.inputs for d in spec.shape if isinstance(d, str)}
        sizes = {
            d: rng.choice((1, 2, 3, 4, 8)) if d == "K" else rng.randint(1, 16) for d in symbols
        }
        feeds = random_feeds(session.inputs, seed, sizes)
        found.append(Good(name, body(feeds), session.run(feeds)))
    return found


def bad_requests() -> list[Bad]:
    infer = "/v2/models/mlp_grad/infer"
    x = {"name": "features", "shape": [1, 10], "datatype": "FP32", "data": [0.0] * 10}

    def of(*inputs: Mapping[str, Any], **more: Any) -> bytes:
        return json.dumps({"inputs": list(inputs), **more}).encode()

    wide = {"name": "image", "shape": [33, 1, 8, 8], "datatype": "FP32", "data": [0.0] * 33 * 64}
    many = {**wide, "name": "image_u", "shape": [1, 33, 1, 8, 8]}
    full = {**wide, "shape": [32, 1, 8, 8], "data": [0.0] * 32 * 64}
    fans = {**full, "name": "image_u", "shape": [8, 32, 1, 8, 8], "data": [0.0] * 8 * 32 * 64}
    return [
        Bad("not JSON", 400, infer, b'{"inputs": [' + b"\x00" * 9),
        Bad("no inputs", 400, infer, b"{}"),
        Bad("an input is missing", 400, infer, of()),
        Bad("an unknown input", 400, infer, of(x, {**x, "name": "feature"})),
        Bad("an input twice", 400, infer, of(x, x)),
        Bad("a thousand inputs", 400, infer, of(*({**x, "name": f"x{i}"} for i in range(1000)))),
        Bad("an unknown output", 400, infer, of(x, outputs=[{"name": "z"}])),
        Bad("another datatype", 400, infer, of({**x, "datatype": "FP64"})),
        Bad("a datatype that is none", 400, infer, of({**x, "datatype": "FP31"})),
        Bad("too few elements", 400, infer, of({**x, "data": [0.0]})),
        Bad("another rank", 400, infer, of({**x, "shape": [10]})),
        Bad("another size", 400, infer, of({**x, "shape": [2, 5]})),
        Bad("a negative size", 400, infer, of({**x, "shape": [-1, -10]})),
        Bad("null among numbers", 400, infer, of({**x, "data": [None] * 10})),
        Bad("text among numbers", 400, infer, of({**x, "data": ["0"] * 10})),
        Bad("beyond float32", 400, infer, of({**x, "data": [1e300] * 10})),
        Bad("a result that is infinite", 400, infer, of({**x, "data": [1e38] * 10})),
        Bad("a shape of 10^12 elements", 413, infer, of({**x, "shape": [10**11, 10]})),
        Bad("a batch over its limit", 413, "/v2/models/cnn_jvp/infer", of(wide, many)),
        Bad("a reply over its limit", 413, "/v2/models/cnn_jvp/infer", of(full, fans)),
        Bad("a body over its limit", 413, infer, b" " * (BODY_BYTES + 1)),
        Bad("a compressed body", 415, infer, of(x), {"Content-Encoding": "gzip"}),
        Bad("an unknown model", 404, "/v2/models/none/infer", of(x)),
        Bad("unloading a model", 403, "/v2/repository/models/mlp_grad/unload", b"{}"),
    ]


class Server:
    """The supervisor, started on free ports of loopback."""

    def __init__(self, repository: Path, log: Path, *, workers: int = 0) -> None:
        settings = json.loads((repository / "settings.json").read_text())
        settings |= {"parallel_workers": workers, "environments_dir": str(repository / ".envs")}
        (repository / "settings.json").write_text(json.dumps(settings))
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        arguments = ["--http-port", port, "--grpc-port", free_port(), "--max-body", BODY_BYTES]
        self._log = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "onnxjvp.serving", str(repository), *map(str, arguments)],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        )
        try:
            Client(self.url).wait()
        except RemoteError:
            self.stop()
            raise

    def kill(self, workers: int) -> None:
        """SIGKILL for the process that serves, or for one of its workers."""
        (victim,) = children(self._process.pid)
        if workers:
            victim = max(children(victim))
        os.kill(victim, signal.SIGKILL)

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(30)
        self._log.close()
        return code


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Tally:
    """What one client saw."""

    right: Counter[str] = field(default_factory=Counter)
    #: of the right ones, those that are not the same bits
    rounded: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    retries: int = 0
    #: seconds of requests that were answered at the first try
    seconds: list[float] = field(default_factory=list)
    #: the longest with all its tries
    slowest: float = 0.0


def work(url: str, requests: list[Good | Bad], tally: Tally, done: Counter[str]) -> None:
    client = Client(url, patience=90.0, timeout=15.0)
    for request in requests:
        before, start = client.retries, time.perf_counter()
        if isinstance(request, Good):
            _good(client, request, tally)
        else:
            _bad(client, request, tally)
        took = time.perf_counter() - start
        tally.slowest = max(tally.slowest, took)
        if client.retries == before and isinstance(request, Good):
            tally.seconds.append(took)
        done["all"] += 1
    tally.retries = client.retries
    client.close()


def _good(client: Client, request: Good, tally: Tally) -> None:
    try:
        values = client.send(request.model, request.content)
    except RemoteError as error:
        tally.lost.append(f"{request.model}: {error.status} {error}")
        return
    pairs = [(values.get(name), y) for name, y in request.expected.items()]
    if any(v is None or v.shape != y.shape or not close(v, y) for v, y in pairs):
        tally.wrong.append(request.model)
        return
    tally.right[request.model] += 1
    tally.rounded += any(v is None or not np.array_equal(v, y) for v, y in pairs)


def close(a: Array, b: Array) -> bool:
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-5 * float(np.abs(b).max(initial=0))))


def _bad(client: Client, request: Bad, tally: Tally) -> None:
    try:
        client.request("POST", request.path, request.content, request.headers)
    except RemoteError as error:
        if error.status == request.status and str(error).strip():
            tally.refused[f"{request.status} {request.kind}"] += 1
        else:
            tally.wrong.append(f"{request.kind}: {error.status} {error}")
    else:
        tally.wrong.append(f"{request.kind}: accepted")


def load(
    url: str, requests: list[Good | Bad], clients: int, kill: list[tuple[int, Any]]
) -> tuple[Tally, float]:
    """Send all requests; `kill`: after how many answers what is called."""
    tallies, done = [Tally() for _ in range(clients)], Counter[str]()
    threads = [
        threading.Thread(target=work, args=(url, requests[i::clients], tally, done))
        for i, tally in enumerate(tallies)
    ]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for after, call in kill:
        while done["all"] < after and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        call()
    for thread in threads:
        thread.join()
    took, total = time.perf_counter() - start, Tally()
    for tally in tallies:
        total.right += tally.right
        total.refused += tally.refused
        total.rounded += tally.rounded
        total.wrong += tally.wrong
        total.lost += tally.lost
        total.retries += tally.retries
        total.seconds += tally.seconds
        total.slowest = max(total.slowest, tally.slowest)
    return total, took


def run(
    count: int, clients: int, kills: int, workers: int, seed: int, log: Path, pool: int = 60
) -> dict[str, Any]:
    """One row of the results; `pool` is how many different requests each model gets."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory(dir=log.parent) as folder:
        repository, goods = Path(folder) / "repository", []
        for name, rewritten in models().items():
            file = rewritten.save(Path(folder) / f"{name}.onnx")
            symbols = {str(d) for v in rewritten.model.graph.inputs for d in v.shape or ()}
            dims = {k: v for k, v in LIMITS.dims.items() if k in symbols}
            bytes_out = LIMITS.output_bytes if name == "cnn_jvp" else 1 << 20
            limits = Limits(output_bytes=bytes_out, dims=dims, seconds=LIMITS.seconds)
            package(file, mlserver_repository=repository, limits=limits)
            goods += good_requests(name, file, pool)
        bads = bad_requests()
        bad_count = max(len(bads), int(count * BAD_SHARE))
        requests: list[Good | Bad] = [bads[i % len(bads)] for i in range(bad_count)]
        requests += rng.choices(goods, k=count - bad_count)
        rng.shuffle(requests)
        server = Server(repository, log, workers=workers)
        try:
            at = [(count * (i + 1)) // (kills + 1) for i in range(kills)]
            tally, took = load(
                server.url, requests, clients, [(n, lambda: server.kill(workers)) for n in at]
            )
        finally:
            code = server.stop()
    p50, p99 = (float(np.quantile(tally.seconds, q)) * 1e3 for q in (0.5, 0.99))
    return {
        "server": f"{workers} of MLServer's workers" if workers else "one process, supervised",
        "clients": clients,
        "requests": count,
        "kills": kills,
        "right": sum(tally.right.values()),
        "of these bit for bit": sum(tally.right.values()) - tally.rounded,
        "refused as they should": sum(tally.refused.values()),
        "wrong": len(tally.wrong),
        "lost": len(tally.lost),
        "retries": tally.retries,
        "requests/s": round(count / took, 1),
        "p50 ms": round(p50, 1),
        "p99 ms": round(p99, 1),
        "slowest s": round(tally.slowest, 2),
        "server's exit code": code,
        "refusals": dict(sorted(tally.refused.items())),
        "by model": dict(sorted(tally.right.items())),
        "words": sorted(set(tally.wrong + tally.lost))[:20],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000, help="requests")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="MLServer's own workers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=None, help="what the server prints")
    parser.add_argument("--keep", action="store_true", help="print only, and record nothing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = given.log or Path(folder) / "server.log"
        row = run(given.count, given.clients, given.kills, given.workers, given.seed, log)
    print(json.dumps(row, indent=1))
    if not given.keep:
        others = [r for r in record.rows_of("serving") if r["server"] != row["server"]]
        write([*others, row])


def write(rows: list[dict[str, Any]]) -> None:
    nested = ("refusals", "by model", "words")
    notes = (
        "Three rewritten models (J u along K directions of a CNN, a transposed product of a "
        "transformer, the gradient of an MLP in all weights) behind MLServer on loopback. Batches "
        "of 1 to 16 and K from 1 to 8; one request in twenty is bad on purpose. The process is "
        "killed with SIGKILL while requests run, and started again; clients try again on a broken "
        "connection. Every reply is compared with onnxruntime's in the benchmark's own process. "
        "Times include JSON, on cores that clients and server share: they are for orientation."
    )
    record.save("serving", "Serving under load", notes, rows)
    tables = {"": [{k: v for k, v in row.items() if k not in nested} for row in rows]}
    for row in rows:
        tables[f"Refusals: {row['server']}"] = [
            {"status": kind.split(" ", 1)[0], "request": kind.split(" ", 1)[1], "count": n}
            for kind, n in row["refusals"].items()
        ]
    record.page("serving", "Serving under load", notes, tables)


if __name__ == "__main__":
    main()
