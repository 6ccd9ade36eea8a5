"""A headless Chromium, a server of files on loopback, and the cases (cases.py) run in a page."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

WEB = Path(__file__).with_name("web")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
#: WebGPU without a GPU
GPU = {
    "webgpu": (
        *("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"),
        *("--enable-features=Vulkan", "--ignore-gpu-blocklist"),
    ),
    "wasm": ("--disable-gpu",),
}


def chromium() -> str | None:
    """The program; CHROMIUM names another."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def chromedriver() -> str | None:
    return os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")


@contextlib.contextmanager
def serving(
    folders: Mapping[str, Path], replies: dict[str, bytes], done: threading.Event
) -> Iterator[str]:
    """The address of a server on loopback.

    Args:
      folders: what lies under a first part of a path; "" is the root.
      replies: what is posted to /reply/NAME is put here; NAME "done" sets `done`.
    """

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = SimpleHTTPRequestHandler.extensions_map | {
            ".mjs": "text/javascript",
            ".wasm": "application/wasm",
        }

        def translate_path(self, path: str) -> str:
            first, _, rest = unquote(urlsplit(path).path).lstrip("/").partition("/")
            folder, inside = (folders[first], rest) if first in folders else (folders[""], path)
            return str(folder / Path(unquote(urlsplit(inside).path)).name)

        def do_POST(self) -> None:
            name = unquote(self.path.removeprefix("/reply/"))
            replies[name] = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            if name == "done":
                done.set()

        def log_message(self, *_: Any) -> None:
            """Nothing: what fails is in the replies."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def run_in_page(
    folder: Path,
    out: Path,
    names: Sequence[str],
    modules: Path,
    *,
    provider: str = "wasm",
    seconds: float = 300,
) -> str:
    """Run cases with onnxruntime-web in headless Chromium; the versions of both.

    Args:
      folder: of the cases; `out`: what gets their NAME.out or NAME.failed.
      modules: the node_modules folder that holds onnxruntime-web.
      provider: wasm, or webgpu.
    Raises:
      RuntimeError: the page failed as a whole, or took longer than `seconds`.
    """
    program = chromium()
    if program is None:
        raise RuntimeError("there is no Chromium: install it, or set CHROMIUM to its path")
    replies: dict[str, bytes] = {}
    done = threading.Event()
    folders = {"": WEB, "dist": modules / "onnxruntime-web" / "dist", "cases": folder}
    (folder / "cases.json").write_text(json.dumps(list(names)), encoding="utf-8")
    with serving(folders, replies, done) as address, _profile() as profile:
        page = subprocess.Popen(
            [
                *(program, *FLAGS, *GPU[provider], f"--user-data-dir={profile}"),
                f"{address}/page.html?provider={provider}",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            finished = done.wait(seconds)
        finally:
            page.terminate()
            page.wait()
    for name, raw in replies.items():
        if name not in ("done", "version"):
            (out / name).write_bytes(raw)
    said = replies.get("done", b"").decode()
    if said != "done":
        raise RuntimeError(said if finished else f"the page did not end within {seconds} s")
    return replies["version"].decode()


def _profile() -> tempfile.TemporaryDirectory[str]:
    """A browser's own folder; its last process may write there while it is removed."""
    return tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


@contextlib.contextmanager
def driven(width: int = 1200, height: int = 900) -> Iterator[Page]:
    """One page of a headless Chromium, driven by chromedriver.

    Raises:
      RuntimeError: one of them is missing or did not start.
    """
    program, browser = chromedriver(), chromium()
    if program is None or browser is None:
        raise RuntimeError("chromedriver and Chromium are needed")
    with (
        _profile() as profile,
        subprocess.Popen(
            [program, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as process,
    ):
        assert process.stdout is not None
        started = "started successfully on port "
        line = next((text for text in process.stdout if started in text), started)
        page = Page(f"http://127.0.0.1:{line.split(started)[1].strip().rstrip('.')}")
        try:
            flags = [
                *FLAGS,
                *GPU["wasm"],
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
            ]
            options = {"args": [*flags, "--force-device-scale-factor=1"], "binary": browser}
            page.open({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
            yield page
            page.close()
        finally:
            process.terminate()


class Page:
    """The W3C WebDriver protocol, as far as tests of a page need it."""

    def __init__(self, address: str) -> None:
        self._address = address

    def open(self, wanted: Mapping[str, Any]) -> None:
        self._address += f"/session/{self._ask('POST', '/session', wanted)['sessionId']}"

    def close(self) -> None:
        self._ask("DELETE", "")

    def go(self, address: str) -> None:
        self._ask("POST", "/url", {"url": address})

    def script(self, body: str, *arguments: Any) -> Any:
        """What an async function's body returns in the page."""
        code = (
            "const done = arguments[arguments.length - 1];"
            f"(async (...args) => {{ {body} }})(...arguments)"
            ".then((value) => done([true, value]), (error) => done([false, String(error)]));"
        )
        fine, value = self._ask("POST", "/execute/async", {"script": code, "args": list(arguments)})
        if not fine:
            raise RuntimeError(value)
        return value

    def find(self, selector: str) -> str:
        """An element, for `press`."""
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(next(iter(found.values())))

    def press(self, element: str, keys: str) -> None:
        """Keys typed into an element, by their WebDriver characters."""
        self._ask("POST", f"/element/{element}/value", {"text": keys})

    def click(self, element: str) -> None:
        self._ask("POST", f"/element/{element}/click", {})

    def screenshot(self) -> bytes:
        """The page as PNG."""
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from error
