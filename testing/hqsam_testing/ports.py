"""Ports that a server can be stopped and started again on."""

from __future__ import annotations

import contextlib
import random
import socket

# Below what systems give to outgoing connections: of those there are many in these tests, and
# one of them would take a port whose server is away.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now, and that nobody is likely to take."""
    for port in random.sample(_PORTS, 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no free port found")
