"""A lock between processes that the kernel releases when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, which is made where it is missing, with its folder.

    Waiting is done by the kernel. The package `filelock` polls instead, and on a file system
    without `flock` it falls back to a lock that outlives a killed holder.

    Raises:
        OSError: the file cannot be opened or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # released by closing the file
        yield
