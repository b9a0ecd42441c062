"""The gRPC channel: address, balancing, retries, limits and credentials."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

# gRPC reads this when it makes a channel; without it the ring ignores the header.
os.environ.setdefault("GRPC_EXPERIMENTAL_RING_HASH_SET_REQUEST_HASH_KEY", "true")

import grpc

from hqsam_client import contract
from hqsam_client.errors import OptionError

MAX_MESSAGE_BYTES = 512 * 2**20
"""Limit of a request and of a response; 256 masks in mode "best" take 320 MiB."""

REPEATED_CODES = ("UNAVAILABLE", "INTERNAL", "CANCELLED")
"""What a call is repeated after: no server took it, a process of the server died on it, or the
server ended before it began with it (CANCELLED, unless the caller has cancelled it). INTERNAL
may also be a lasting failure; the number of attempts is small. Every call is safe to repeat."""

REPEATED_BYTES = 4 * 1024
"""Requests up to this size are repeated by gRPC itself, unless their answer broke off: clicks and
questions. `protocol` repeats what gRPC does not."""

BROKE_OFF = re.compile("RST_STREAM|Connection reset|Socket closed")
"""What gRPC says of a call whose connection ended, or whose replica a proxy lost. It does not
repeat a call whose answer has begun."""

# What gRPC adds to a request and counts with it.
_OVERHEAD_BYTES = 512

# The first release of gRPC whose ring hash takes its key from a header.
_RING_HASH_SINCE = (1, 71)

# A name with one of gRPC's own schemes, such as dns:///host:8001 or ipv4:10.0.0.1:8001.
_GRPC_NAME = re.compile(r"(dns|ipv4|ipv6|unix|xds):.*[:/]")

_SERVICE = "inference.GRPCInferenceService"

_METADATA_KEY = re.compile(r"[a-z0-9_.-]+")

Metadata: TypeAlias = "tuple[tuple[str, str], ...]"

_Path: TypeAlias = "str | os.PathLike[str] | None"


def credentials(
    tls: bool, root_certificates: _Path, client_certificate: _Path, client_key: _Path
) -> Any:
    """Return gRPC's credentials, or None for an unencrypted connection; see `BaseClient`."""
    if (client_certificate is None) != (client_key is None):
        raise OptionError("client_certificate and client_key belong together: pass both or neither")
    files = (root_certificates, client_key, client_certificate)
    if not tls and all(path is None for path in files):
        return None
    return grpc.ssl_channel_credentials(*(_pem(path) for path in files))


def _pem(path: _Path) -> bytes | None:
    if path is None:
        return None
    try:
        content = Path(path).expanduser().read_bytes()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path} cannot be read: {reason}; check the path") from error
    # gRPC would only log this, and then fail to connect.
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
    """Return each server of a URL; the addresses of a name are looked up now."""
    parts = addresses(url)
    first = _without_scheme(parts[0])
    if len(parts) > 1:
        return [Replica(address, None) for address in [first, *parts[1:]]]
    found = _resolve(first) if not first.startswith(("[", "unix:")) else [first]
    if len(found) == 1:
        return [Replica(first, None)]
    return [Replica(address, first.rpartition(":")[0]) for address in found]


def options(
    url: str, authority: str | None, metadata: Metadata = ()
) -> list[tuple[str, str | int]]:
    """Return the channel's arguments.

    Args:
        url: see `BaseClient`.
        authority: the name in the server's certificate, if it is not that of the address.
        metadata: sent with every call.
    """
    metadata_bytes = sum(len(key) + len(value) + 32 for key, value in metadata)
    chosen: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps(service_config())),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.per_rpc_retry_buffer_size", REPEATED_BYTES + _OVERHEAD_BYTES + metadata_bytes),
        # Finds dead connections under waiting calls. Triton closes a connection at the
        # third ping within five minutes without data.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.max_pings_without_data", 2),
        # Finds a server that is back within seconds.
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
    """Return gRPC's service config.

    An image stays on its replica. Small requests that end with one of `REPEATED_CODES` are repeated
    for about three seconds, until 200 more calls have failed than succeeded: then it is no brief
    outage.
    """
    version = tuple(int(part) for part in grpc.__version__.split(".")[:2])
    if version >= _RING_HASH_SINCE:
        balancing = {"ring_hash_experimental": {"requestHashHeader": contract.IMAGE_ID_HEADER}}
    else:
        balancing = {"round_robin": {}}
    return {
        "loadBalancingConfig": [balancing],
        "retryThrottling": {"maxTokens": 400, "tokenRatio": 1},
        "methodConfig": [
            {
                "name": [{"service": _SERVICE}],
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": list(REPEATED_CODES),
                },
            }
        ],
    }


def metadata(token: str | None, extra: Mapping[str, str] | None) -> Metadata:
    """Return what is sent with every call: the bearer token and the caller's own entries."""
    pairs = [(key.lower(), value) for key, value in (extra or {}).items()]
    for key, value in pairs:
        if not _METADATA_KEY.fullmatch(key) or not (value.isascii() and value.isprintable()):
            raise OptionError(
                f"metadata has {key!r}, expected keys of letters, digits, '-', '_' and '.', and "
                "values of printable ASCII characters"
            )
    if token:
        # The message does not repeat the token.
        if not (token.isascii() and token.isprintable()):
            raise OptionError(
                "the token has a line break or another character that cannot be sent, expected "
                "printable ASCII characters; check where it is read from"
            )
        pairs.append(("authorization", f"Bearer {token}"))
    return tuple(pairs)
