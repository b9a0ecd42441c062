"""HTTP connections: how many, and for how long they may be idle."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from hqsam_server.errors import StartError
from hqsam_server.front.connections import most_connections
from hqsam_server.front.settings import Bounds
from hqsam_server.launcher.options import ANY, Endpoint

_IDLE_S = 20.0
_HEADER_BYTES = 16 * 1024


class Listener:
    """Listens at one address, and answers with one ASGI application."""

    def __init__(
        self, app: Any, endpoint: Endpoint | str, bounds: Bounds, tls: ssl.SSLContext | None
    ) -> None:
        """Prepare; an endpoint that is no address is the path of a Unix-domain socket."""
        self._endpoint = endpoint
        self._bounds = bounds
        self._most = most_connections(bounds)
        self._tls = tls
        self._config = uvicorn.Config(
            app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_keep_alive=int(_IDLE_S),
        )
        self._config.load()
        self.state = ServerState()
        self.addresses: Counter[str] = Counter()

    def is_full(self, address: str) -> bool:
        """Tell whether an address, or all of them, have too many connections."""
        return (
            self.addresses[address] >= self._bounds.caller_connections
            or self.addresses.total() >= self._most
        )

    async def start(self) -> None:
        """Listen.

        Raises:
            StartError: the address is in use.
        """
        loop = asyncio.get_running_loop()
        if isinstance(self._endpoint, str):
            self._server = await loop.create_unix_server(self._connect, self._endpoint)
            return
        try:
            self._server = await loop.create_server(
                self._connect,
                self._endpoint.address or ANY,
                self._endpoint.port,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else _IDLE_S,
            )
        except OSError as error:
            raise StartError(f"cannot listen on {self._endpoint.url}: {error}") from error

    def _connect(self) -> _Connection:
        return _Connection(self, self._config)

    async def stop(self, timeout_s: float) -> None:
        """Listen no longer, and wait until requests under way are answered."""
        self._server.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=timeout_s)


class _Connection(H11Protocol):
    """A connection that is closed when it does nothing; uvicorn does so after a request only."""

    def __init__(self, listener: Listener, config: uvicorn.Config) -> None:
        super().__init__(config=config, server_state=listener.state, app_state={})
        self._listener = listener
        self._address = ""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin, unless there are too many."""
        super().connection_made(transport)
        address = (transport.get_extra_info("peername") or ("",))[0]
        if self._listener.is_full(address):
            transport.abort()
            return
        self._address = address
        self._listener.addresses[address] += 1
        self._timer = self.loop.call_later(_IDLE_S, self._close_if_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._timer is not None:
            self._timer.cancel()
            self._listener.addresses[self._address] -= 1
            self._listener.addresses += Counter()  # forgets addresses without connections
        super().connection_lost(exc)

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._timer = self.loop.call_later(_IDLE_S, self._close_if_idle)
