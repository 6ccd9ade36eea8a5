"""A process that starts another one again when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

#: deaths within so many seconds after which it is not started again: it cannot run at all
DEATHS, WITHIN = 5, 60.0
#: seconds that it may take to end when it is told to
GRACE = 10.0


def supervise(command: Sequence[str]) -> int:
    """Run a command, again and again while it dies of itself, until this process is told to end.

    SIGTERM and SIGINT are passed on; what does not end within 10 s is killed.

    Returns:
      0 if it ended because it was told to, or by itself without an error; else its exit code,
      after five deaths within a minute.
    """
    child: subprocess.Popen[bytes] | None = None
    told = False

    def end(number: int, _: object) -> None:
        nonlocal told
        told = True
        if child is not None and child.poll() is None:
            child.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    deaths: deque[float] = deque(maxlen=DEATHS)
    while True:
        # the pipe breaks when this process is gone, however it went: see `end_with_parent`
        child = subprocess.Popen(command, stdin=subprocess.PIPE)
        code = _wait(child, lambda: told)
        if told or code == 0:
            return 0
        deaths.append(time.monotonic())
        print(f"the server died with exit code {code}", file=sys.stderr, flush=True)
        if len(deaths) == DEATHS and deaths[-1] - deaths[0] < WITHIN:
            print(
                f"it died {DEATHS} times within {WITHIN:.0f} s; it is not started again",
                file=sys.stderr,
                flush=True,
            )
            return code if code > 0 else 128 - code
        print("starting it again", file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Of a process that is supervised: end when the supervisor is gone, and its port is free."""

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin, whose lock the interpreter takes at its end
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _wait(child: subprocess.Popen[bytes], told: Callable[[], bool]) -> int:
    """Its exit code; once it is told to end, it is killed after a while."""
    deadline = None
    while True:
        try:
            return child.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            if told() and deadline is None:
                deadline = time.monotonic() + GRACE
            if deadline is not None and time.monotonic() > deadline:
                child.kill()
