"""docs/demo: the page in a real browser against float64, and the files that it ships."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import MODELS, Array
from peers.browser import Page, chromedriver, chromium, driven, serving
from peers.environments import node_modules

import onnxjvp
from onnxjvp.oracle import Evaluator, directional_derivative
from onnxjvp.runtime import Session

DEMO = Path(__file__).parents[2] / "docs" / "demo"
#: (x, u towards, key presses of 0.01 each, to the right or left)
MOVES = [(3, 8, 40), (0, 6, -25), (7, 1, 100)]
RIGHT, LEFT = "\ue014", "\ue012"
MODULES = node_modules(install=False)


def digits() -> Array:
    """What digits.js says, [10, 1, 8, 8]."""
    rows = re.findall(r'"([0-9a-g]{64})"', (DEMO / "digits.js").read_text(encoding="utf-8"))
    return np.array([[int(c, 17) / 16 for c in row] for row in rows], np.float32).reshape(
        -1, 1, 8, 8
    )


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    if not (chromium() and chromedriver() and MODULES):
        pytest.skip("needs Chromium, chromedriver and onnxruntime-web (benchmarks/runtimes.py)")
    folders = {"": DEMO, "dist": MODULES / "onnxruntime-web" / "dist"}
    with serving(folders, {}, threading.Event()) as address, driven(1160, 1160) as page:
        page.go(f"{address}/index.html?ort=dist/")
        yield page


def settled(page: Page) -> None:
    for _ in range(200):
        state = page.script("return document.body.dataset.state")
        assert state != "failed", page.script("return document.querySelector('#status').innerText")
        if state == "ready":
            return
        time.sleep(0.05)
    raise AssertionError("the page is not ready after 10 s")


def numbers(page: Page, column: str) -> Array:
    script = "return [...document.querySelectorAll(args[0])].map((cell) => cell.textContent)"
    cells = page.script(script, f"#bars td.{column}")
    return np.array([float(cell.replace("−", "-")) for cell in cells])


@pytest.mark.parametrize("move", MOVES, ids=str)
def test_the_page_shows_what_float64_says(page: Page, move: tuple[int, int, int]) -> None:
    start, towards, presses = move
    settled(page)
    page.click(page.find(f"#start button:nth-child({start + 1})"))
    page.click(page.find(f"#towards button:nth-child({towards + 1})"))
    page.script("document.querySelector('#t').value = 0")
    page.press(page.find("#t"), (RIGHT if presses > 0 else LEFT) * abs(presses))
    settled(page)
    t = presses / 100
    shown = page.script("return document.querySelector('#t-shown').textContent")
    assert float(shown.replace("−", "-")) == t
    x = digits()[start : start + 1].astype(np.float64)
    u = digits()[towards : towards + 1] - x
    run = Evaluator(MODELS / "digits_cnn.onnx").run
    found = directional_derivative(run, {"image": x}, {"image": u}, ["logits"])
    f, slope = found.primal["logits"][0], found.value["logits"][0]
    assert not found.kinks["logits"].any()
    rounded = 0.6e-3  # to three decimals, and float32
    np.testing.assert_allclose(numbers(page, "jvp"), slope, atol=rounded)
    np.testing.assert_allclose(numbers(page, "linear"), f + t * slope, atol=rounded)
    truth = run({"image": x + t * u})["logits"][0]
    np.testing.assert_allclose(numbers(page, "truth"), truth, atol=rounded)
    decode = Evaluator(MODELS / "digits_autoencoder.onnx").run
    found = directional_derivative(decode, {"image": x}, {"image": u}, ["restored"])
    image, here = decode({"image": x + t * u})["restored"], found.primal["restored"]
    apart = np.linalg.norm(image - here - t * found.value["restored"])
    share = page.script("return document.querySelector('#apart').textContent")
    assert abs(float(share.split()[0]) - 100 * apart / np.linalg.norm(image - here)) < 0.06


def test_a_runtime_that_is_not_there_is_named(page: Page) -> None:
    page.script("location.search = '?ort=nowhere/'")
    for _ in range(100):
        if page.script("return document.body.dataset.state") == "failed":
            break
        time.sleep(0.05)
    said = page.script("return document.querySelector('#status').innerText")
    assert "could not run" in said
    assert "/nowhere/" in said


@pytest.mark.parametrize("name", ["digits_cnn", "digits_autoencoder"])
def test_the_models_it_ships_are_what_the_rewriting_makes(name: str) -> None:
    x = digits()
    feeds = {"image": x, "image_u": x[::-1].copy()}
    fresh = Session(onnxjvp.jvp(MODELS / f"{name}.onnx").proto()).run(feeds)
    shipped = Session(DEMO / f"{name}_jvp.onnx").run(feeds)
    for output, array in fresh.items():
        np.testing.assert_allclose(shipped[output], array, rtol=1e-5, atol=1e-5)


def test_the_page_asks_one_other_host_only() -> None:
    texts = [path.read_text(encoding="utf-8") for path in DEMO.glob("*.[hjc][ts]*")]
    addresses = re.findall(r"(?:https?:)?//[a-z][\w.-]+\.[a-z]+/[^\s\"'`]*", "\n".join(texts))
    assert len(texts) == 4
    assert addresses == ["https://cdn.jsdelivr.net/npm/onnxruntime-web@1.30.0/dist/"]
