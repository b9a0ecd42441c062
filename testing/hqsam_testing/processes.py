"""The processes of a running server: which they are, and what they hold."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from hqsam_server.launcher import cleanup
from hqsam_server.launcher.process import family


def is_janitor(process: psutil.Process) -> bool:
    """Return whether a process is the one that cleans up after a server."""
    return cleanup.__file__ in process.cmdline()


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process's family; what several share counts once."""
    total = 0
    for process in family(pid):
        with contextlib.suppress(psutil.NoSuchProcess):  # a decoder that has just been replaced
            total += process.memory_full_info().pss
    return total


def shared_memory(prefix: str) -> list[Path]:
    """Return the files of a Triton in /dev/shm, whose names begin with this."""
    return sorted(cleanup.SHARED_MEMORY.glob(f"{prefix}*"))
