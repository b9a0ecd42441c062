"""Where a service of the server listens."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from hqsam_server.errors import StartError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Endpoint:
    """Where a service of the server listens; port 0 takes a free one."""

    port: int = 0
    address: str = LOOPBACK

    @property
    def host(self) -> str:
        """The address as a client on this machine reaches it."""
        return LOOPBACK if self.address in ("", "0.0.0.0") else self.address  # noqa: S104

    @property
    def url(self) -> str:
        """``host:port`` as a client on this machine reaches it."""
        return f"{self.host}:{self.port}"

    def with_port(self) -> Endpoint:
        """Return the same endpoint with a port that is free now.

        Raises:
            StartError: the port asked for is taken, or the address is not this machine's.
        """
        if not 0 <= self.port < 65536:
            raise StartError(f"{self.port} is no port: expected 0 to 65535")
        try:
            with socket.create_server((self.address, self.port)) as listener:
                return Endpoint(listener.getsockname()[1], self.address)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise StartError(
                f"cannot listen on {self.address}:{self.port} ({reason}): stop "
                "what listens there, or choose another port or address"
            ) from error
