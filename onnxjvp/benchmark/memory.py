"""The memory of this process, and of the device that it computes on."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
MAPS = Path("/proc/self/maps")
CLEAR = Path("/proc/self/clear_refs")
#: what the kernel takes for "begin a new peak" (proc(5))
_NEW_PEAK = "5"


def peak() -> int | None:
    """The most bytes that were resident at once since the start or `forget`; None: not known."""
    if STATUS.exists():
        lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        (most,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        return int(most) * 1024
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    bytes_or_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return bytes_or_kilobytes * (1 if sys.platform == "darwin" else 1024)


def forget() -> bool:
    """Begin a new peak from what is resident now; False where the system cannot (Linux can)."""
    _give_back()
    try:
        CLEAR.write_text(_NEW_PEAK, encoding="ascii")
    except OSError:
        return False
    return True


def _give_back() -> None:
    """Free what the C library keeps for later: it would count as taken."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library
        return


def on_cuda() -> int | None:
    """Bytes in use on the current CUDA device, by all processes; None where CUDA is not loaded.

    The runtime's arena there grows and never shrinks, so that after some runs this is their peak.
    """
    if not MAPS.exists():
        return None
    lines = MAPS.read_text(encoding="utf-8", errors="replace").splitlines()
    loaded = [line.split(maxsplit=5)[5] for line in lines if "/libcudart.so" in line]
    if not loaded:
        return None
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    status = ctypes.CDLL(loaded[0]).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    return total.value - free.value if status == 0 else None
