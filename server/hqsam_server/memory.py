"""Gives the system the memory back that large requests took.

glibc keeps freed memory for the next request, except for what lies at the end of a heap: one small
block that was allocated later holds hundreds of megabytes.
"""

from __future__ import annotations

import ctypes
import resource
import time
from pathlib import Path
from threading import Thread

_INTERVAL_S = 5.0
_GROWTH_BYTES = 64 * 2**20


def give_back_in_background() -> None:
    """Start a thread that gives freed memory back as long as this process is larger than it was."""
    Thread(target=_give_back, name="memory", daemon=True).start()


def _give_back() -> None:
    give_back = ctypes.CDLL(None).malloc_trim
    least = _resident_bytes()
    while True:
        time.sleep(_INTERVAL_S)
        resident = _resident_bytes()
        least = min(least, resident)
        if resident > least + _GROWTH_BYTES:
            give_back(0)


def _resident_bytes() -> int:
    """Return how much of this process is in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
