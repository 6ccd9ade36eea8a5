"""What is done again: servers that die are started, requests that were not answered are sent."""

from __future__ import annotations

import http.server
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from onnxjvp.errors import InputError, UsageError
from onnxjvp.serving import client as clients
from onnxjvp.serving.client import Client, RemoteError, body

# -- processes ---------------------------------------------------------------------------------

SUPERVISED = """
import sys
from onnxjvp.serving.supervisor import supervise
sys.exit(supervise([sys.executable, "-c", sys.argv[1], sys.argv[2]]))
"""
#: writes a line a start; ends as it is told to
CHILD = """
import os, pathlib, signal, sys, time
log = pathlib.Path(sys.argv[1])
with log.open("a") as file: file.write("x")
starts = len(log.read_text())
"""


def supervised(child: str, log: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SUPERVISED, CHILD + child, str(log)],
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("child", "starts", "code"),
    [
        ("if starts < 3: os.kill(os.getpid(), signal.SIGKILL)", 3, 0),
        ("sys.exit(0)", 1, 0),
        ("sys.exit(7)", 5, 7),  # it cannot run at all
        ("os.kill(os.getpid(), signal.SIGKILL)", 5, 137),
    ],
)
def test_what_dies_is_started_again(child: str, starts: int, code: int, tmp_path: Path) -> None:
    process = supervised(child, tmp_path / "log")
    _, said = process.communicate(timeout=60)
    assert (process.returncode, len((tmp_path / "log").read_text())) == (code, starts)
    assert said.count("died with exit code") == (starts - 1 if code == 0 else starts)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_what_is_told_to_end_is_not(tmp_path: Path) -> None:
    child = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); log.write_text('up')"
    process = supervised(child + "; time.sleep(60)", tmp_path / "log")
    wait_for(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text() == "up")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, "")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_does_not_outlive_its_supervisor(tmp_path: Path) -> None:
    child = (
        "from onnxjvp.serving.supervisor import end_with_parent\nend_with_parent()\n"
        "log.write_text(str(os.getpid()) + '.')\ntime.sleep(60)"
    )
    process, log = supervised(child, tmp_path / "log"), tmp_path / "log"
    wait_for(lambda: log.exists() and log.read_text().endswith("."))
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not Path("/proc", log.read_text()[:-1]).exists())


def wait_for(done: Callable[[], bool]) -> None:
    for _ in range(1500):
        if done():
            return
        threading.Event().wait(0.02)
    raise AssertionError("it did not happen within 30 s")


# -- requests ----------------------------------------------------------------------------------

GOOD = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [0.5, 2.0]}]}


class Scripted(http.server.ThreadingHTTPServer):
    """Answers with one line of a script after another; None closes the connection."""

    script: list[tuple[int, object] | None]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        assert isinstance(self.server, Scripted)
        self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.script.pop(0)
        if answer is None:
            self.close_connection = True
            return
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Scripted]:
    made = Scripted(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def client_of(server: Scripted, patience: float = 30.0) -> Client:
    return Client(f"http://127.0.0.1:{server.server_address[1]}", patience=patience)


def test_what_was_not_answered_is_asked_again(
    server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "MOST", 0.05)
    died = {"error": "Worker process stopped unexpectedly with exit code 9."}
    server.script = [(503, {"error": "busy"}), None, (502, {}), (500, died), (200, GOOD)]
    client = client_of(server)
    found = client.run("m", {"x": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(found["y"], np.array([0.5, 2.0], np.float32))
    assert (client.retries, server.script) == (4, [])


@pytest.mark.parametrize("status", [400, 404, 413, 500, 504])
def test_an_answer_is_an_answer(server: Scripted, status: int) -> None:
    server.script = [(status, {"error": "what is wrong"})]
    client = client_of(server)
    with pytest.raises(RemoteError, match="what is wrong") as caught:
        client.run("m", {"x": np.zeros(2, np.float32)})
    assert (caught.value.status, client.retries) == (status, 0)


def test_patience_ends(server: Scripted) -> None:
    server.script = [None] * 100
    with pytest.raises(RemoteError) as caught:
        client_of(server, patience=0.3).run("m", {"x": np.zeros(2, np.float32)})
    assert caught.value.status == 0


def test_what_cannot_be_sent() -> None:
    with pytest.raises(UsageError, match="no URL of HTTP"):
        Client("ftp://127.0.0.1")
    with pytest.raises(InputError, match="NaN"):
        body({"x": np.array([np.nan])})
