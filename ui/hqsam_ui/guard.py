"""What stands before the app: who may ask, how much they may send, what browsers may do."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hqsam_ui.errors import RefusedError

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
    """Lets in who speaks to this server by its name, and pages that came from it.

    A page of somebody else's must not reach a server on the user's own machine: not by
    sending requests to it, and not by a name that was made to point to it.

    Args:
        app: what is guarded.
        hosts: names that this server goes by; None where it goes by any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
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
        answer = self._app if refusal is None else to_response(refusal)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, headers: Headers) -> RefusedError | None:
        host = headers.get("host", "")
        if self._hosts is not None and _name(host) not in self._hosts:
            return RefusedError(
                421, "host", f"{_name(host)!r} is none of this page's names: see --allow-host"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return RefusedError(403, "origin", "the request came from another page")
        return None


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def to_response(error: RefusedError) -> JSONResponse:
    """Return the answer that says why."""
    return JSONResponse({"code": error.code, "message": str(error)}, error.status)


async def body(request: Request, limit_bytes: int) -> bytes:
    """Read a request's body.

    Raises:
        RefusedError: it is longer than the limit; the rest is not read.
    """
    too_large = RefusedError(
        413, "too-large", f"that is more than the {limit_bytes / 2**20:.3g} MiB this page takes"
    )
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError as error:
        raise RefusedError(400, "request", "content-length is not a number") from error
    if announced > limit_bytes:
        raise too_large
    chunks, total = [], 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > limit_bytes:
            raise too_large
        chunks.append(chunk)
    return b"".join(chunks)
