"""One session, several threads: the same numbers as alone; runs that are stopped."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from helpers import MODELS
from onnx import parser

import onnxjvp
from onnxjvp.errors import DeadlineError, InputError
from onnxjvp.runtime import Array, Session, random_feeds

THREADS, TURNS = 8, 12


@pytest.mark.parametrize("plan_memory", [True, False])
def test_threads_get_what_they_would_get_alone(plan_memory: bool) -> None:
    """Every thread with shapes and outputs of its own, errors and stopped runs among them."""
    made = onnxjvp.jvp(MODELS / "digits_cnn.onnx", directions="K", target="cpu")
    session = Session(made.model, threads=1, plan_memory=plan_memory)
    work = [
        random_feeds(session.inputs, i, {"batch": 1 + i % 5, "K": 1 + i % 3})
        for i in range(THREADS)
    ]
    outputs = [None if i % 2 else ["logits_jvp"] for i in range(THREADS)]
    alone = [session.run(feeds, names) for feeds, names in zip(work, outputs, strict=True)]
    problems: list[object] = []
    start = threading.Barrier(THREADS)

    def hammer(i: int) -> None:
        start.wait()
        try:
            for turn in range(TURNS):
                if turn % 4 == 3:
                    with pytest.raises(InputError, match=r"image: .* is missing"):
                        session.run({"image_u": work[i]["image_u"]})
                values = session.run(work[i], outputs[i], seconds=30 if turn % 2 else None)
                same = [np.array_equal(values[name], y) for name, y in alone[i].items()]
                if not all(same) or len(same) != len(values):
                    problems.append((i, turn))
        except BaseException as error:  # noqa: BLE001 - told by the thread that looks
            problems.append(error)

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []


def test_bindings_of_one_session_are_apart() -> None:
    session = Session(MODELS / "diabetes_mlp.onnx", threads=1)
    name = session.outputs[0].name
    feeds = [random_feeds(session.inputs, i, {"batch": 2 + i}) for i in range(4)]
    alone = [session.run(each)[name] for each in feeds]
    found: dict[int, list[Array]] = {i: [] for i in range(4)}

    def hammer(i: int) -> None:
        binding = session.bind(feeds[i])
        for _ in range(20):
            found[i].append(binding.run(fetch=[name])[name].numpy().copy())

    threads = [threading.Thread(target=hammer, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for i, values in found.items():
        assert len(values) == 20
        assert all(np.array_equal(value, alone[i]) for value in values)


LONG = parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 18]>
    g (float[N, N] x, int64 n) => (float[N, N] y) {
      always = Constant<value = bool {1}>()
      y = Loop(n, always, x)<body = b (int64 i, bool k, float[N, N] h)
          => (bool k2, float[N, N] h3) {
        k2 = Identity(k)  h2 = MatMul(h, h)  h3 = Tanh(h2) }>
    }"""
)


def test_a_run_that_takes_too_long_is_stopped_and_no_other() -> None:
    session = Session(LONG, threads=1)
    x = np.eye(60, dtype=np.float32)
    expected = session.run({"x": x, "n": np.array(50)})["y"]
    others: list[Array] = []

    def short() -> None:
        others.extend(session.run({"x": x, "n": np.array(50)})["y"] for _ in range(20))

    thread = threading.Thread(target=short)
    thread.start()
    start = time.monotonic()
    with pytest.raises(DeadlineError, match=r"longer than 0\.2 s"):
        session.run({"x": x, "n": np.array(10**9)}, seconds=0.2)
    assert time.monotonic() - start < 10
    thread.join(60)
    assert len(others) == 20
    assert all(np.array_equal(each, expected) for each in others)
    np.testing.assert_array_equal(
        session.run({"x": x, "n": np.array(50)}, seconds=30)["y"], expected
    )
