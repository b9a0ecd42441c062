"""Cleans up after a server, however the process that started it ended.

Runs as a script of its own, because a process that is killed cannot clean up. It waits until
standard input closes, which happens when the parent closes it or dies. If this process is
killed too, the next server cleans up.

The script uses the standard library alone, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

MARK = "HQSAM_SERVER_FOLDER"
"""The environment variable that marks the processes of a server."""

ENVIRONMENT = "python_environment"
"""In a server's folder: the file that names the folders for packed Python environments that
Triton made for it, one per line."""

_KILL_TIMEOUT_S = 10.0


def main(folder: str, shared_memory_prefix: str) -> None:
    """Wait until standard input closes, then remove what is left of the server."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    sys.stdin.read()
    _kill(f"{MARK}={folder}".encode())
    with contextlib.suppress(OSError):
        for path in (Path(folder) / ENVIRONMENT).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(OSError):  # not empty, or gone
                Path(path).rmdir()
    remove(*SHARED_MEMORY.glob(f"{shared_memory_prefix}*"), Path(folder))


def remove(*paths: Path) -> None:
    """Remove regular files, and folders with all that is in them.

    What belongs to another user stays, and so do links and pipes: in shared memory, everybody can
    make files of any name.
    """
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            if status.st_uid != os.geteuid():
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(path, ignore_errors=True)
            elif stat.S_ISREG(status.st_mode):
                path.unlink()


def _kill(variable: bytes) -> None:
    """Kill the processes with this variable in their environment, and wait until they are gone."""
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while (processes := _processes(variable)) and time.monotonic() < deadline:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)  # they may just have started others


def _processes(variable: bytes) -> list[int]:
    """Return the processes with this variable in their environment; zombies have none."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            if variable in file.read_bytes().split(b"\0"):
                found.append(int(file.parent.name))
        except OSError:  # gone, or another user's
            continue
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
