"""`--max-memory`: an end to what a process may take, whatever a model makes it do."""

from __future__ import annotations

import os
import re
import sys

from onnxjvp.errors import UsageError

VARIABLE = "ONNXJVP_MAX_MEMORY"
#: the interpreter with onnx, sympy and onnxruntime, before any model
LEAST = 512 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def read(text: str) -> int:
    """Bytes, from "800M", "4G" or a plain number.

    Raises:
      UsageError: it is none of these, or less than the packages take by themselves.
    """
    found = re.fullmatch(r"(\d{1,12})\s*([KMGT]?)(?:i?B)?", text.strip().upper().replace("IB", "B"))
    if found is None:
        raise UsageError(f"--max-memory {text!r} is no size; give one such as 800M or 4G")
    size = int(found[1]) * _UNITS[found[2]]
    if size < LEAST:
        raise UsageError(
            f"--max-memory {text!r} is less than the packages take by themselves; give at least "
            f"{LEAST >> 20}M"
        )
    return size


def cap(size: int) -> None:
    """Let the process, and those that it starts, take no more than `size` bytes of data.

    On Linux the system enforces it (RLIMIT_DATA: what is allocated, not what is mapped from a
    file); an allocation beyond raises MemoryError. Elsewhere only what can be told beforehand
    is refused.
    """
    from onnxjvp.graph import limits  # noqa: PLC0415  (it imports onnx)

    limits.set_for_process({"memory": size})
    if sys.platform == "linux":
        import resource  # noqa: PLC0415  (there is none on Windows)

        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def from_environment() -> None:
    """Apply ONNXJVP_MAX_MEMORY, if it is set."""
    if text := os.environ.get(VARIABLE):
        cap(read(text))
