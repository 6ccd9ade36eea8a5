"""What the workers share: answers to requests. Only NumPy and the standard library.

Per line of JSON on stdin a line on stdout: {"call": C} gives the seconds that C took, and with
"save": PATH its value is written there; "at": KEY takes that array for x. A call that fails is
answered with {"failed": its words}.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = Path("/proc/meminfo")
#: left for everything else, in bytes
SPARED = 3 << 29


def bounded() -> None:
    """Let this process run out of memory, rather than the machine."""
    if MEMORY.exists():
        import resource  # noqa: PLC0415 - not on every system

        fields = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) << 10
        resource.setrlimit(resource.RLIMIT_DATA, (free - SPARED, free - SPARED))


def serve(calls: Any, arrays: Mapping[str, Any], about: Mapping[str, str]) -> None:
    """Say what this is, then answer until stdin ends.

    Args:
      calls: an object with a method per call, and the attribute `x`. A method returns what
        `numpy.asarray` takes, once it is computed.
    """
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        call, *rest = request["call"].split(" ")
        calls.x = arrays[request.get("at", "x")]
        try:
            start = time.perf_counter()
            value = getattr(calls, call)(*rest)
            seconds = time.perf_counter() - start
            if "save" in request:
                np.save(request["save"], np.asarray(value))
            answer: dict[str, Any] = {"seconds": seconds}
        except Exception as error:  # noqa: BLE001  (whatever it says is the result)
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
