"""A lock between processes that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hqsam_server.own_files import open_own

# The pause between two attempts; it begins short, for locks that are held for a moment.
_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.1


@contextmanager
def locked(path: Path, timeout_s: float) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made where it is missing, with its folder.

    The package `filelock` falls back, on a file system without `flock`, to a lock that outlives a
    killed holder; this one fails there.

    Args:
        path: a regular file of this user.
        timeout_s: how long to wait for another holder, which may be stopped.

    Raises:
        TimeoutError: another process still holds it; its class is a subclass of `OSError`.
        OSError: the file cannot be opened or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = open_own(path, os.O_RDWR | os.O_CREAT)
    try:
        _lock(file, path, time.monotonic() + timeout_s)
        yield
    finally:
        os.close(file)  # releases it


def try_lock(file: int) -> bool:
    """Lock an open file if nobody else holds it; tell whether that worked.

    Raises:
        OSError: it cannot be locked.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock(file: int, path: Path, deadline: float) -> None:
    pause_s = _FIRST_PAUSE_S
    while not try_lock(file):
        if time.monotonic() >= deadline:
            raise TimeoutError(errno.ETIMEDOUT, "another process holds the lock", str(path))
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
