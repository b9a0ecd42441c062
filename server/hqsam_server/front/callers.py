"""Who calls: by API key, client certificate, or address."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import grpc

from hqsam_server.errors import StartError
from hqsam_server.front.errors import RefusedError
from hqsam_server.front.settings import KEYS_VARIABLE

INTERNAL = "server"
"""The caller of the launcher's own calls."""

PEER_KEY = "hqsam-peer"
"""Metadata by which the front's HTTP process says for whom it calls."""

_FORWARDED_KEY = "x-forwarded-for"
_CHECK_S = 1.0
_SHORTEST_KEY = 16
_IPV6_NETWORK = 64

Certificate: TypeAlias = Mapping[str, Sequence[bytes]]


class Keys:
    """The API keys: from a file, which is read again when it changes, or from the environment."""

    def __init__(self, file: Path | None) -> None:
        """Read the keys.

        Raises:
            StartError: they cannot be read.
        """
        self._file = file
        self._next_check = 0.0
        self._version: object = None
        self._names: dict[bytes, str] = {}
        if file is not None:
            self._version = _version(file)
            self._names = read_keys(file)
        elif KEYS_VARIABLE in os.environ:
            self._names = _parse(os.environ[KEYS_VARIABLE], f"the variable {KEYS_VARIABLE}")
        self.required = bool(self._names)

    def name(self, key: str) -> str | None:
        """Return the name of a key, or None."""
        self._refresh()
        digest = _digest(key)
        found = None
        for known, name in self._names.items():  # all of them: time must not tell
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if self._file is None or now < self._next_check:
            return
        self._next_check = now + _CHECK_S
        try:
            version = _version(self._file)
            if version != self._version:
                self._names = read_keys(self._file)
                self._version = version
                print(f"read {len(self._names)} keys again from {self._file}", flush=True)
        except (OSError, StartError) as error:
            self._version = None
            print(f"the keys are still the old ones: {error}", flush=True)


def _version(file: Path) -> tuple[int, ...]:
    try:
        stat = file.stat()
    except OSError as error:
        raise StartError(f"the keys cannot be read: {error}; check --keys-file") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def read_keys(file: Path) -> dict[bytes, str]:
    """Return the names of the keys in a file by the keys' digests.

    Raises:
        StartError: it cannot be read, or a line is malformed.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"the keys cannot be read: {error}; check --keys-file") from error
    return _parse(text, str(file))


def _parse(text: str, source: str) -> dict[bytes, str]:
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        # The message does not repeat a key.
        if len(parts) != 2 or len(parts[1]) < _SHORTEST_KEY or not line.isascii():
            raise StartError(
                f"line {number} of {source} is malformed, expected a name and a key of at least "
                f"{_SHORTEST_KEY} ASCII characters, with a space between"
            )
        names[_digest(parts[1])] = parts[0]
    if not names:
        raise StartError(f"{source} has no key, expected lines of a name and a key")
    return names


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


class Callers:
    """Names callers."""

    def __init__(self, keys: Keys, proxies: Sequence[str]) -> None:
        """Prepare.

        Args:
            keys: of the callers.
            proxies: addresses or networks whose ``x-forwarded-for`` names the caller.

        Raises:
            StartError: one of them is neither.
        """
        self._keys = keys
        self._proxies = [_network(it) for it in proxies]

    def identify(self, peer: str, certificate: Certificate, metadata: Mapping[str, str]) -> str:
        """Return who calls.

        Args:
            peer: the connection's other end, as gRPC names it.
            certificate: what gRPC says about the client's certificate.
            metadata: of the call.

        Raises:
            RefusedError: a key is needed, and none or an unknown one was given.
        """
        if peer.startswith("unix:"):
            peer = metadata.get(PEER_KEY, "")
            if not peer:
                return INTERNAL
        address = _address(peer)
        if self._keys.required:
            return f"key {self._by_key(metadata)}"
        for name in ("x509_common_name", "x509_subject_alternative_name"):
            for value in certificate.get(name, ()):
                return f"certificate {value.decode(errors='replace')}"
        if any(address in network for network in self._proxies):
            address = _forwarded(metadata, address)
        if isinstance(address, ipaddress.IPv6Address):
            # One host has a whole network.
            return f"address {ipaddress.ip_network((address, _IPV6_NETWORK), strict=False)}"
        return f"address {address}"

    def _by_key(self, metadata: Mapping[str, str]) -> str:
        scheme, _, key = metadata.get("authorization", "").partition(" ")
        name = self._keys.name(key.strip()) if scheme.lower() == "bearer" else None
        if name is None:
            raise RefusedError(
                grpc.StatusCode.UNAUTHENTICATED,
                "the key is missing or unknown: send one of the server's keys as "
                "authorization: Bearer KEY",
            )
        return name


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise StartError(f"{text!r} is no address or network: correct --proxy") from error


def _address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of ``ipv4:127.0.0.1:50000`` or ``ipv6:%5B::1%5D:50000``."""
    host = peer.partition(":")[2].rpartition(":")[0].replace("%5B", "").replace("%5D", "")
    address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(
    metadata: Mapping[str, str], proxy: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the last address that the proxy saw; the ones before it anybody may have written."""
    last = metadata.get(_FORWARDED_KEY, "").rpartition(",")[2].strip()
    try:
        return ipaddress.ip_address(last)
    except ValueError:
        return proxy
