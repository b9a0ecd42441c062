"""Ports that a server can be stopped and started again on."""

from __future__ import annotations

import random

from hqsam_server._endpoint import Endpoint

# Below what systems give to outgoing connections: of those there are many in these tests, and
# one of them would take a port whose server is away.
_PORTS = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free now, and that nobody is likely to take."""
    ports = random.sample(_PORTS, 100)
    return next(port for port in ports if Endpoint(port).is_free())
