"""Runs that are stopped when they take too long."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxjvp.errors import DeadlineError, InvalidModelError


@contextmanager
def stopped_after(seconds: float, options: Any) -> Iterator[None]:
    """A run inside is told to stop after so many seconds.

    Args:
      options: onnxruntime's RunOptions of that run, and of no other.
    Raises:
      DeadlineError: it was stopped. It may also end by itself before it notices.
    """

    def stop() -> None:
        options.terminate = True

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except InvalidModelError as error:
        if not options.terminate:
            raise
        raise DeadlineError(
            f"the run took longer than {seconds:g} s and was stopped. Feed less at once, or allow "
            "more time"
        ) from error
    finally:
        timer.cancel()
