"""Keeps other web pages away from the page's server, and tells browsers what the page may do."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hqsam_ui.errors import PageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """ASGI middleware that accepts requests to known host names and from the page itself.

    Without it, another web page in the user's browser could reach a server on the user's
    machine: with cross-origin requests, or by DNS rebinding.

    Args:
        app: the app behind it.
        hosts: host names of this server, in lower case.
        any_address: accept every IP address, too. DNS rebinding needs a name.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], any_address: bool) -> None:
        self._app = app
        self._hosts = hosts
        self._any_address = any_address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._refusal(Headers(scope=scope))
        answer = self._app if refusal is None else refusal.response()
        await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> PageError | None:
        host = headers.get("host", "")
        name = _name(host)
        if name not in self._hosts and not (self._any_address and _is_address(name)):
            return PageError(
                421,
                "host",
                f"the page is not served as {name!r}: add this name with --allow-host",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PageError(403, "origin", "the request comes from another web page")
        return None


def _name(host: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
