"""The gRPC channel: address, balancing, retries, limits and credentials."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

# gRPC reads it when a channel is made; without it the ring ignores the header.
os.environ.setdefault("GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY", "true")

import grpc

from hqsam_client import contract
from hqsam_client.errors import OptionError

MAX_MESSAGE_BYTES = 512 * 2**20
"""Limit of a request and of a response; 256 masks in mode "best" take 320 MiB."""

# Requests up to this size can be sent a second time when a server goes away.
_RETRY_BUFFER_BYTES = 128 * 2**20

# The first release whose ring hash can take its key from a header.
_RING_HASH_SINCE = (1, 71)

# A name with one of gRPC's own schemes, such as dns:///host:8001 or ipv4:10.0.0.1:8001.
_GRPC_NAME = re.compile(r"(dns|ipv4|ipv6|unix|xds):.*[:/]")

_SERVICE = "inference.GRPCInferenceService"


_Path: TypeAlias = "str | os.PathLike[str] | None"


def credentials(
    tls: bool, root_certificates: _Path, client_certificate: _Path, client_key: _Path
) -> Any:
    """Return gRPC's credentials, or None for a connection in the clear; see `BaseClient`."""
    if (client_certificate is None) != (client_key is None):
        raise OptionError(
            "client_certificate and client_key belong together, expected both or neither"
        )
    files = (root_certificates, client_key, client_certificate)
    if not tls and all(path is None for path in files):
        return None
    return grpc.ssl_channel_credentials(*(_pem(path) for path in files))


def _pem(path: _Path) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise OptionError(f"{path} cannot be read: {error.strerror}; check the path") from error
    # gRPC itself would only log it, and then fail to connect.
    if b"-----BEGIN " not in content:
        raise OptionError(f"{path} is not a PEM file: convert it, or check the path")
    return content


def addresses(url: str) -> list[str]:
    """Split a URL at its commas; a gRPC scheme such as ``ipv4:`` stays with the first."""
    parts = [part.strip() for part in url.split(",")]
    if not all(parts):
        raise OptionError(f"url is {url!r}, expected host:port, or several separated by commas")
    return parts


def target(url: str) -> str:
    """Return gRPC's name for one address, a DNS name of several, or a list of them."""
    parts = addresses(url)
    if _GRPC_NAME.match(url):
        return url
    if len(parts) == 1:
        _split(url)
        return url
    # gRPC takes a list of IP addresses, not of names.
    return "ipv4:" + ",".join(_resolve(part)[0] for part in parts)


def _split(address: str) -> tuple[str, str]:
    """Return host and port."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise OptionError(f"url has {address!r}, expected host:port, such as localhost:8001")
    return host, port


def _resolve(address: str) -> list[str]:
    """Return the IPv4 addresses of a ``host:port``, with the port."""
    host, port = _split(address)
    try:
        found = socket.getaddrinfo(host, int(port), socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise OptionError(f"url has {address!r}, which has no IPv4 address") from error
    return sorted({f"{entry[4][0]}:{port}" for entry in found})


def _without_scheme(address: str) -> str:
    return re.sub(r"^(dns:(//[^/]*/)?|ipv[46]:)", "", address)


class Replica(NamedTuple):
    """One server: its ``host:port``, and the name in its certificate where that differs."""

    address: str
    authority: str | None


def replicas(url: str) -> list[Replica]:
    """Return each of the servers that a URL stands for, looking up names of several."""
    parts = addresses(url)
    first = _without_scheme(parts[0])
    if len(parts) > 1:
        return [Replica(address, None) for address in [first, *parts[1:]]]
    found = _resolve(first) if not first.startswith(("[", "unix:")) else [first]
    if len(found) == 1:
        return [Replica(first, None)]
    return [Replica(address, first.rpartition(":")[0]) for address in found]


def options(url: str, authority: str | None) -> list[tuple[str, str | int]]:
    """Return the channel's arguments.

    Args:
        url: see `BaseClient`.
        authority: the name in the server's certificate, if not the address' own.
    """
    chosen: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(service_config())),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.per_rpc_retry_buffer_size", _RETRY_BUFFER_BYTES),
        # Finds dead connections under waiting calls. Triton closes connections that
        # ping more often than every five minutes without data, from the third on.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 2),
        # A server that comes back is found again within seconds.
        ("grpc.max_reconnect_backoff_ms", 5_000),
    ]
    parts = addresses(url)
    if authority is None and len(parts) > 1:
        # A list of addresses has no name to check the certificate against.
        authority = _without_scheme(parts[0]).rpartition(":")[0]
    if authority is not None:
        chosen.append(("grpc.default_authority", authority))
    return chosen


def service_config() -> dict[str, Any]:
    """Return gRPC's service config: an image stays on its replica, brief outages are retried."""
    version = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    if version >= _RING_HASH_SINCE:
        balancing = {"ring_hash_experimental": {"requestHashHeader": contract.IMAGE_ID_HEADER}}
    else:
        balancing = {"round_robin": {}}
    return {
        "loadBalancingConfig": [balancing],
        "methodConfig": [
            {
                "name": [{"service": _SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }


def metadata(token: str | None, extra: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Return what goes with every call: the bearer token and the caller's own entries."""
    pairs = [(key.lower(), value) for key, value in (extra or {}).items()]
    if token is not None:
        pairs.append(("authorization", f"Bearer {token}"))
    return tuple(pairs)
