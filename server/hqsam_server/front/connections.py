"""Connections of the front: to what stands behind it, and those that callers have open.

Of callers, gRPC bounds the connections of all together only; here the surplus ones of one address
are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
from collections import Counter

import grpc

from hqsam_server.front.settings import Bounds

_INTERVAL_S = 0.5


def open_channel(address: str) -> grpc.aio.Channel:
    """Return a channel to a process of this server, which checks its messages before it sends them.

    Args:
        address: a ``unix:`` socket.
    """
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_retries", 0),
        ],
    )


def most_connections(bounds: Bounds) -> int:
    """Return how many connections may be open: half of the files that may be, at most."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (
        bounds.connections
        if files == resource.RLIM_INFINITY
        else min(bounds.connections, files // 2)
    )


async def watch_connections(port: int, bounds: Bounds) -> None:
    """Close connections to a port for ever, the newest ones of an address that has too many."""
    while True:
        await asyncio.sleep(_INTERVAL_S)
        close_surplus(port, bounds.caller_connections)


def close_surplus(port: int, most: int) -> None:
    """Close connections of this process to a port, as far as one address has more than `most`."""
    numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    if len(numbers) <= most:
        return
    counts: Counter[str] = Counter()
    for number in numbers:
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/self/fd/{number}").startswith("socket:"):  # noqa: PTH115
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if not _is_accepted(connection, port):
                    continue
                address = connection.getpeername()[0]
                counts[address] += 1
                if counts[address] > most:
                    connection.shutdown(socket.SHUT_RDWR)


def _is_accepted(connection: socket.socket, port: int) -> bool:
    """Tell whether somebody else opened this connection, to that port of ours."""
    return (
        connection.family in (socket.AF_INET, socket.AF_INET6)
        and connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 0
        and connection.getsockname()[1] == port
    )
