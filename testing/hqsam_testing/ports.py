"""Ports for servers that are stopped and started again."""

from __future__ import annotations

import contextlib
import random
import socket

# Below the range of outgoing connections: these tests make many, and one of them could take the
# port of a server that is stopped.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now and that is unlikely to be taken."""
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no free port found")
