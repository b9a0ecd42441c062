"""A network path on which bytes are lost, late, or stuck."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from types import TracebackType

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CHUNK = 65536


class Forwarder:
    """Forwards one TCP connection to a server, as far as it is told to.

    Attributes:
        url: where the client connects.
        stuck: set when `max_up_bytes` have been forwarded.
    """

    def __init__(self, url: str, max_up_bytes: int | None = None) -> None:
        """Listen for a client.

        Args:
            url: ``host:port`` of the server.
            max_up_bytes: how many of the client's bytes are forwarded; None for all.
        """
        self._server_address = url.rpartition(":")[0], int(url.rpartition(":")[2])
        self._left = max_up_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.stuck = threading.Event()
        self._down = threading.Event()
        self._down.set()
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client = self._listener.accept()[0]
            server = socket.create_connection(self._server_address)
            self._sockets += [client, server]
            self._threads += [
                threading.Thread(target=self._up, args=(client, server)),
                threading.Thread(target=self._forward_down, args=(server, client)),
            ]
            for thread in self._threads[1:]:
                thread.start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(_CHUNK):
                if self._left is not None:
                    data = data[: self._left]
                    self._left -= len(data)
                server.sendall(data)
                if self._left == 0:
                    self.stuck.set()

    def _forward_down(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self._down.wait() and (data := server.recv(_CHUNK)):
                client.sendall(data)

    def hold_answers(self) -> None:
        """Stop reading what the server sends."""
        self._down.clear()

    def release_answers(self) -> None:
        """Continue reading."""
        self._down.set()

    def reset(self) -> None:
        """End both connections as a killed process or a cut cable would: by RST."""
        for end in self._sockets:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            with contextlib.suppress(OSError):
                # Wakes a thread that waits for data.
                end.shutdown(socket.SHUT_RD)
            end.close()
        self._sockets.clear()

    def __enter__(self) -> Forwarder:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._down.set()
        self.reset()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
