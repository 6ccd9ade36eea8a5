"""The page, the script and the C++ program of docs/guides/runtimes.md; its Python is run with all
other pages', in tests/cli."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from helpers import MODELS
from peers.browser import chromedriver, chromium, driven, serving
from peers.environments import node_modules

import onnxjvp
from onnxjvp.runtime import Session

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "runtimes.md"
MODULES = node_modules(install=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    onnxjvp.jvp(MODELS / "digits_cnn.onnx").save(tmp_path / "jvp.onnx")
    return tmp_path


def code(language: str) -> str:
    """The first block of a language."""
    text = GUIDE.read_text(encoding="utf-8")
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def said(folder: Path) -> str:
    """What each of the programs says, by onnxruntime here; the page promises it too."""
    x = np.full((1, 1, 8, 8), 0.5, np.float32)
    found = Session(folder / "jvp.onnx").run({"image": x, "image_u": np.ones_like(x)})
    text = f"f {found['logits'][0, 0]:.3f}, J u {found['logits_jvp'][0, 0]:.3f}"
    assert text in GUIDE.read_text(encoding="utf-8")
    return text


@pytest.mark.skipif(not (shutil.which("node") and MODULES), reason="needs Node and npm packages")
@pytest.mark.parametrize("package", ["onnxruntime-web", "onnxruntime-node"])
def test_node(folder: Path, package: str) -> None:
    assert MODULES is not None
    (folder / "node_modules").symlink_to(MODULES.resolve())
    (folder / "run.mjs").write_text(code("js").replace("onnxruntime-web", package))
    done = subprocess.run(
        ["node", "run.mjs"], cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == said(folder), done.stderr


@pytest.mark.skipif(
    not (chromium() and chromedriver() and MODULES), reason="needs Chromium and onnxruntime-web"
)
def test_browser(folder: Path) -> None:
    assert MODULES is not None
    html = re.sub(r'"https://[^"]*/dist/"', '"/dist/"', code("html"))
    (folder / "index.html").write_text(html, encoding="utf-8")
    folders = {"": folder, "dist": MODULES / "onnxruntime-web" / "dist"}
    with serving(folders, {}, threading.Event()) as address, driven() as page:
        page.go(f"{address}/index.html")
        text = ""
        for _ in range(200):
            text = page.script("return document.querySelector('#shown').textContent")
            if text:
                break
            time.sleep(0.05)
    assert text == said(folder)


@pytest.mark.skipif(
    not (shutil.which("g++") and importlib.util.find_spec("openvino")),
    reason="needs g++ and OpenVINO",
)
def test_openvino_in_cpp(folder: Path) -> None:
    spec = importlib.util.find_spec("openvino")
    assert spec is not None and spec.origin is not None
    package = Path(spec.origin).parent
    (library,) = (package / "libs").glob("libopenvino.so.*")
    (folder / "jvp.cpp").write_text(code("cpp"))
    compiler = ["g++", "-std=c++17", "jvp.cpp", f"-I{package / 'include'}", str(library)]
    linked = [f"-Wl,-rpath,{library.parent}", "-o", "jvp"]
    subprocess.run([*compiler, *linked], cwd=folder, check=True, timeout=120)
    done = subprocess.run(
        ["./jvp"], cwd=folder, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == said(folder)
