"""Several points at work at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers import MODELS

from onnxjvp import jacobian_operator, norm, spectrum
from onnxjvp.analysis import points, samples
from onnxjvp.errors import InputError, UsageError

UNET = MODELS / "digits_unet.onnx"


@pytest.fixture(scope="module")
def images() -> list[dict[str, Any]]:
    return samples({"noisy": np.random.default_rng(0).random((5, 1, 8, 8), np.float32)})


def test_numbers_do_not_depend_on_how_many_are_at_work(
    images: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for cores in (1, 2):
        monkeypatch.setattr(points, "_cores", lambda cores=cores: cores)
        norms = norm(UNET, images, samples=64)
        spectra = spectrum(UNET, images, 3, method="krylov")
        found[cores] = [n.value for n in norms], [list(s.values) for s in spectra]
    np.testing.assert_allclose(found[1][0], found[2][0], rtol=1e-6)
    np.testing.assert_allclose(found[1][1], found[2][1], rtol=1e-5)


def test_each_worker_has_a_point_of_its_own(
    images: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "_cores", lambda: 2)
    operator = jacobian_operator(UNET, images[0], blocks=True)
    one = np.eye(64)[:, :2]
    alone = []
    for x in images[:2]:
        operator.at(x)
        alone.append((operator.matmat(one), operator.rmatmat(one)))
    operator.at(images[0])
    meeting = threading.Barrier(2, timeout=20)

    def work(J: Any, i: int) -> tuple[Any, Any]:
        meeting.wait()  # both are at their points
        pushed = J.matmat(one)
        meeting.wait()
        return pushed, J.rmatmat(one)

    for together, before in zip(points.at_each(work, operator, images[:2]), alone, strict=True):
        np.testing.assert_allclose(together[0], before[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(together[1], before[1], rtol=1e-5, atol=1e-6)
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1e-3


def test_what_fails_in_one_ends_all(
    images: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "_cores", lambda: 2)
    monkeypatch.setattr(points, "MOST_WORKERS", 2)
    begun = []

    def work(J: Any, i: int) -> None:
        begun.append(i)
        raise UsageError("not this one")

    operator = jacobian_operator(UNET, images[0], blocks=True)
    with pytest.raises(UsageError, match="not this one"):
        points.at_each(work, operator, images)
    assert len(begun) <= 2
    with pytest.raises(InputError):
        norm(UNET, [images[0], {"noisy": np.zeros((1, 1, 8), np.float32)}], samples=4)


@pytest.fixture
def interrupts() -> Iterator[None]:
    """As in a terminal; a process that was started in the background may ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no such signals")
@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_stops_all_points(
    images: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is worked at to its end, and none is begun."""
    monkeypatch.setattr(points, "_cores", lambda: 2)
    monkeypatch.setattr(points, "MOST_WORKERS", 2)
    seen: set[int] = set()
    once, main = iter([True]), threading.main_thread().ident
    assert main is not None

    def work(operator: Any, i: int) -> None:
        seen.add(i)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            operator.matvec(np.ones(64))
            if len(seen) == 2 and next(once, False):  # as a terminal does: to the main thread
                signal.pthread_kill(main, signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        points.at_each(work, jacobian_operator(UNET, images[0], blocks=True), images)
    assert seen == {0, 1}
