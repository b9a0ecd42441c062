"""Cleans up after a server, however the process that started it ended.

Run as a script with the server's folder and the prefix of its shared memory. The parent
writes the server's process ID to standard input and closes it, or dies, when the time
has come. A process of its own, because a process that is killed cannot clean up.
"""

import os
import shutil
import signal
import sys
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


def main(folder: str, shared_memory_prefix: str) -> None:
    """Wait for the end of standard input, then remove what is left of the server."""
    # A Ctrl-C in the terminal is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    groups = {int(line) for line in sys.stdin}
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for path in (*SHARED_MEMORY.glob(f"{shared_memory_prefix}*"), Path(folder)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
