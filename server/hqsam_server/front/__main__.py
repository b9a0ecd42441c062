"""A process of the front: `python -m hqsam_server.front grpc`, or `http`.

It runs in the server's folder, which has its settings and the sockets.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from hqsam_server import memory
from hqsam_server.errors import StartError
from hqsam_server.front.settings import SETTINGS_FILE, Settings


def main(which: str) -> int:
    """Run until SIGTERM; return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher
    settings = Settings.read(Path(SETTINGS_FILE))
    memory.give_back_in_background()
    try:
        if which == "grpc":
            from hqsam_server.front import grpc_front

            asyncio.run(grpc_front.serve(settings))
        else:
            from hqsam_server.front import http_front

            asyncio.run(http_front.serve(settings))
    except (StartError, OSError) as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
