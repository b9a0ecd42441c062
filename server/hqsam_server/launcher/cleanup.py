"""Cleans up after a server, however the process that started it ended.

Run as a script with the server's folder and the prefix of its shared memory; it waits for
the end of standard input, which comes when the parent closes it or dies. A process of its
own, because a process that is killed cannot clean up. Where both are killed, as with a container
whose /dev/shm outlives it, the next server cleans up.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

# Triton asks no variable where.
_ENVIRONMENTS = Path("/tmp")  # noqa: S108

MARK = "HQSAM_SERVER_FOLDER"
"""The environment variable by which the processes of a server are recognised."""

READY = "ready"
"""In a server's folder: a file that was touched when it was ready last."""

LOCK = "lock"
"""Behind the prefix of a server's shared memory: a file that is locked while the server lives."""


def main(folder: str, shared_memory_prefix: str) -> None:
    """Wait for the end of standard input, then remove what is left of the server."""
    # A Ctrl-C in the terminal is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdin.read()
    while processes := _processes(f"{MARK}={folder}".encode()):
        for process in processes:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.05)  # until they are gone, and have started no others
    _remove_environments(Path(folder), SHARED_MEMORY / f"{shared_memory_prefix}{LOCK}")
    _remove(*SHARED_MEMORY.glob(f"{shared_memory_prefix}*"), Path(folder))


def _remove_environments(folder: Path, lock: Path) -> None:
    """Remove the folders for packed Python environments that Triton made as it started.

    It names them after no server, and does not remove them where it is killed. Nothing is
    ever put into ours: what is empty and as old as the server's start is taken for it.
    """
    try:
        since = lock.stat().st_mtime
    except FileNotFoundError:
        return
    ready = folder / READY
    until = ready.stat().st_mtime if ready.exists() else time.time()
    for path in _ENVIRONMENTS.glob("python_env_*"):
        with contextlib.suppress(OSError):  # not empty, gone, or somebody else's
            if since <= path.stat().st_ctime <= until:
                path.rmdir()


def claim(shared_memory_prefix: str) -> int:
    """Mark shared memory as a living server's; return what to close when it has ended."""
    path = SHARED_MEMORY / f"{shared_memory_prefix}{LOCK}"
    new = path.with_suffix(".new")
    descriptor = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    # From here on others see it, locked.
    new.rename(path)
    return descriptor


def remove_abandoned() -> None:
    """Remove the shared memory of servers that nobody cleaned up after."""
    for path in SHARED_MEMORY.glob(f"hqsam-*-{LOCK}"):
        try:
            with path.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # held, gone by now, or somebody else's
            continue
        _remove(*SHARED_MEMORY.glob(f"{path.name.removesuffix(LOCK)}*"))


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _processes(variable: bytes) -> list[int]:
    """Return the processes with this variable in their environment; a zombie has none."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:  # gone, or somebody else's
            continue
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
