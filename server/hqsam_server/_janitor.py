"""Cleans up after a server, however the process that started it ended.

Run as a script with the server's folder and the prefix of its shared memory; it waits for
the end of standard input, which comes when the parent closes it or dies. A process of its
own, because a process that is killed cannot clean up.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

MARK = "HQSAM_SERVER_FOLDER"
"""The environment variable by which the processes of a server are recognised."""


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
    for path in (*SHARED_MEMORY.glob(f"{shared_memory_prefix}*"), Path(folder)):
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
