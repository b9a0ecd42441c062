"""The processes of a running server: which they are, and what they hold."""

from __future__ import annotations

from pathlib import Path

import psutil
from hqsam_server.launcher import cleanup

_PREFIX_FLAG = "--backend-config=python,shm-region-prefix-name="


def family(pid: int) -> list[psutil.Process]:
    """Return a process and all that it has started; none if it has ended."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def is_janitor(process: psutil.Process) -> bool:
    """Return whether a process is the one that cleans up after a server."""
    return cleanup.__file__ in process.cmdline()


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a process's family; what several share counts once."""
    return sum(process.memory_full_info().pss for process in family(pid))


def shared_memory_prefix(triton_pid: int) -> str:
    """Return what the names of a Triton's files in /dev/shm begin with."""
    (flag,) = (it for it in psutil.Process(triton_pid).cmdline() if it.startswith(_PREFIX_FLAG))
    return flag.removeprefix(_PREFIX_FLAG)


def shared_memory(prefix: str) -> list[Path]:
    """Return a Triton's files in /dev/shm."""
    return sorted(cleanup.SHARED_MEMORY.glob(f"{prefix}*"))
