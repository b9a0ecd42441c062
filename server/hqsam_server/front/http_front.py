"""The HTTP server that callers reach: health, metrics, and KServe v2 if the operator wants it.

It has no way to Triton but the metrics: requests go through the gRPC front, which checks them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import signal
import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
from google.protobuf import json_format
from hqsam_client import contract
from tritonclient.grpc import service_pb2

from hqsam_server.front import http_messages
from hqsam_server.front.admission import Admission
from hqsam_server.front.callers import PEER_KEY, Callers, Keys
from hqsam_server.front.connections import open_channel
from hqsam_server.front.errors import RefusedError, invalid
from hqsam_server.front.http_connections import Listener
from hqsam_server.front.limit import TimeLimit
from hqsam_server.front.settings import (
    FRONT_GRPC,
    FRONT_HTTP,
    METRICS_METHOD,
    TRITON_METRICS,
    Bounds,
    Settings,
)
from hqsam_server.launcher.options import Tls

_SERVICE = "/inference.GRPCInferenceService"
_HEALTH_S = 2.0
_METRICS_S = 10.0
_QUESTION_S = 10.0
_BODY_S = 120.0
_INFER_S = 600.0
_METRICS_BYTES = 8 * 2**20

_MODEL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(/versions/(?P<version>[^/]+))?(?P<what>/infer|/ready|/config|/stats)?"
)

_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}

_QUESTIONS = {
    None: ("ModelMetadata", service_pb2.ModelMetadataRequest, service_pb2.ModelMetadataResponse),
    "/ready": ("ModelReady", service_pb2.ModelReadyRequest, service_pb2.ModelReadyResponse),
    "/config": ("ModelConfig", service_pb2.ModelConfigRequest, service_pb2.ModelConfigResponse),
    "/stats": (
        "ModelStatistics",
        service_pb2.ModelStatisticsRequest,
        service_pb2.ModelStatisticsResponse,
    ),
}


class StatusError(Exception):
    """A request is answered with an HTTP status and a message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Answer:
    """A response: status, body, headers."""

    def __init__(self, body: bytes, kind: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.body = body
        self.headers = (("content-type", kind), *headers)


def _json(value: Any) -> Answer:
    return Answer(json.dumps(value).encode(), "application/json")


_NOTHING = Answer(b"", "text/plain")


class Request:
    """A request: method, path, headers, and the body when it is asked for."""

    def __init__(self, scope: Mapping[str, Any], receive: Any) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.headers = {
            name.decode("latin-1"): it.decode("latin-1") for name, it in scope["headers"]
        }
        host, port = scope["client"] or ("", 0)  # the launcher has no address
        self.peer = f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
        self._receive = receive

    def length(self, most: int) -> int:
        """Return the length of the body.

        Raises:
            StatusError: it is unknown, or more than `most`.
        """
        if "transfer-encoding" in self.headers or "content-encoding" in self.headers:
            raise StatusError(411, "send the body as it is, with a Content-Length")
        text = self.headers.get("content-length", "0")
        length = int(text) if text.isdecimal() and len(text) < 16 else most + 1
        if length > most:
            raise StatusError(413, f"the body has {text[:20]} bytes, expected at most {most}")
        return length

    async def body(self, length: int) -> bytes:
        """Read the body."""
        parts = bytearray()
        while len(parts) < length:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise StatusError(400, "the body ended too early")
            parts += event["body"]
        return bytes(parts)


class HttpFront:
    """Answers HTTP requests."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; it needs a running event loop.

        Raises:
            StartError: the keys cannot be read.
        """
        self._settings = settings
        self._callers = Callers(Keys(settings.front.keys_file), settings.front.proxies)
        self._admission = Admission(settings.front.bounds)
        self._channel = open_channel(FRONT_GRPC)

    async def close(self) -> None:
        """Close the connection to the gRPC front."""
        await self._channel.close()

    async def public(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer on the port for callers: an ASGI application."""
        await self._respond(scope, receive, send, self._public)

    async def operators(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer on the port for operators: an ASGI application."""
        await self._respond(scope, receive, send, self._operators)

    async def _respond(self, scope: Any, receive: Any, send: Any, route: Any) -> None:
        status = 200
        try:
            answer = await route(Request(scope, receive))
        except (RefusedError, grpc.aio.AioRpcError) as error:
            status, answer = _refusal(error)
        except StatusError as error:
            status, answer = error.status, _json({"error": error.message})
        headers = [*answer.headers, ("content-length", str(len(answer.body)))]
        if status >= 400:
            # What is left of its body is not read.
            headers.append(("connection", "close"))
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(name.encode(), value.encode()) for name, value in headers],
            }
        )
        with TimeLimit(_BODY_S, lambda: ConnectionError("the response was read too slowly")):
            await send({"type": "http.response.body", "body": answer.body})

    async def _operators(self, request: Request) -> Answer:
        if request.path == "/metrics":
            _check_method(request, "GET")
            own = await self._channel.unary_unary(METRICS_METHOD)(b"", timeout=_METRICS_S)
            return Answer(await _triton_metrics() + own, "text/plain; version=0.0.4; charset=utf-8")
        return await self._health(request)

    async def _health(self, request: Request) -> Answer:
        methods = {"/v2/health/live": "ServerLive", "/v2/health/ready": "ServerReady"}
        if request.path not in methods:
            raise StatusError(404, f"there is nothing at {request.path[:100]}")
        _check_method(request, "GET")
        answer = await self._call(methods[request.path], b"", (), _HEALTH_S)
        if not service_pb2.ServerReadyResponse.FromString(answer).ready:
            raise StatusError(503, "Triton is not ready")
        return _NOTHING

    async def _public(self, request: Request) -> Answer:
        match = _MODEL.fullmatch(request.path)
        if match is None and request.path not in ("/v2", "/v2/"):
            return await self._health(request)
        if not self._settings.front.http:
            raise StatusError(
                404, "this server answers gRPC only: an operator starts it with --http for more"
            )
        _check_origin(request)
        caller = self._callers.identify(request.peer, {}, request.headers)
        metadata = [(PEER_KEY, request.peer)]
        metadata += [
            (name, request.headers[name])
            for name in ("authorization", contract.IMAGE_ID_HEADER, "x-forwarded-for")
            if name in request.headers
        ]
        if match is None:
            return await self._question("ServerMetadata", b"", metadata)
        if match["what"] != "/infer":
            return await self._about_model(request, match, metadata)
        _check_method(request, "POST")
        length = request.length(self._settings.message_bytes)
        with self._admission.admit(caller) as ticket:
            ticket.hold(length)
            with TimeLimit(_BODY_S, lambda: StatusError(408, "the body came too slowly")):
                body = await request.body(length)
            return await self._infer(request, body, match, metadata)

    async def _infer(
        self, request: Request, body: bytes, match: re.Match[str], metadata: list[tuple[str, str]]
    ) -> Answer:
        text = request.headers.get("inference-header-content-length")
        if text is not None and not (text.isdecimal() and len(text) < 16):
            raise invalid(f"Inference-Header-Content-Length is {text[:20]!r}, expected a number")
        message, is_binary = http_messages.read(
            body, None if text is None else int(text), match["model"], match["version"] or ""
        )
        raw = await self._call("ModelInfer", message.SerializeToString(), metadata, _INFER_S)
        response = service_pb2.ModelInferResponse.FromString(raw)
        content, json_length = http_messages.write(response, is_binary)
        if json_length is None:
            return Answer(content, "application/json")
        header = ("inference-header-content-length", str(json_length))
        return Answer(content, "application/octet-stream", [header])

    async def _about_model(
        self, request: Request, match: re.Match[str], metadata: list[tuple[str, str]]
    ) -> Answer:
        _check_method(request, "GET")
        method, question, answer = _QUESTIONS[match["what"]]
        asked = question(name=match["model"], version=match["version"] or "").SerializeToString()
        told = answer.FromString(await self._call(method, asked, metadata, _QUESTION_S))
        if method == "ModelReady":
            if not told.ready:
                raise StatusError(400, f"the model {match['model'][:100]} is not ready")
            return _NOTHING
        fields = json_format.MessageToDict(told, preserving_proto_field_name=True)
        return _json(fields["config"] if method == "ModelConfig" else fields)

    async def _question(
        self, method: str, message: bytes, metadata: list[tuple[str, str]]
    ) -> Answer:
        answer = await self._call(method, message, metadata, _QUESTION_S)
        told = service_pb2.ServerMetadataResponse.FromString(answer)
        return _json(json_format.MessageToDict(told, preserving_proto_field_name=True))

    async def _call(
        self, method: str, message: bytes, metadata: Iterable[tuple[str, str]], timeout_s: float
    ) -> bytes:
        call = self._channel.unary_unary(f"{_SERVICE}/{method}")
        response: bytes = await call(message, timeout=timeout_s, metadata=tuple(metadata))
        return response


def _refusal(error: RefusedError | grpc.aio.AioRpcError) -> tuple[int, Answer]:
    """Return the status and the answer for what this process or the gRPC front refused."""
    if isinstance(error, grpc.aio.AioRpcError):
        told = dict(error.trailing_metadata() or ()).get(contract.RETRY_AFTER_KEY)
        retry_after_s = None if told is None else float(told)
        error = RefusedError(error.code(), error.details() or "", retry_after_s)
    answer = _json({"error": error.message})
    if error.retry_after_s is None:
        large = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        return 413 if large else _STATUS.get(error.code, 500), answer
    answer.headers = (*answer.headers, ("retry-after", str(math.ceil(error.retry_after_s))))
    return _STATUS.get(error.code, 500), answer


def _check_method(request: Request, expected: str) -> None:
    if request.method != expected:
        raise StatusError(405, f"the method is {request.method}, expected {expected}")


def _check_origin(request: Request) -> None:
    """Refuse what a page of somebody else makes a browser send."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "origin" in request.headers or request.headers.get("sec-fetch-site", "none") != "none":
        raise StatusError(403, "requests of web pages are refused: call from a program")
    if kind in ("text/plain", "multipart/form-data"):
        raise StatusError(415, f"the body is {kind}, expected application/json")


async def _triton_metrics() -> bytes:
    """Return Triton's metrics.

    Raises:
        StatusError: Triton does not give them.
    """
    failure = StatusError(503, "Triton's metrics are not available")
    with TimeLimit(_METRICS_S, lambda: failure):
        try:
            reader, writer = await asyncio.open_unix_connection(
                TRITON_METRICS.removeprefix("unix:"), limit=_METRICS_BYTES
            )
        except OSError as error:
            raise failure from error
        with contextlib.closing(writer):
            writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            response = await reader.read(-1)
    head, _, body = response.partition(b"\r\n\r\n")
    if head.split(b" ")[1:2] != [b"200"]:
        raise failure
    return body


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tls.certificate, tls.key)
    if tls.clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(tls.clients)
    return context


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM; requests under way are answered within the exit timeout.

    Raises:
        StartError: an address is in use, or a file cannot be read.
    """
    front = HttpFront(settings)
    # Health alone needs no TLS, and probes have none.
    tls = _context(settings.tls) if settings.front.http and settings.tls else None
    listeners = [
        Listener(front.public, settings.http, settings.front.bounds, tls),
        Listener(front.operators, settings.metrics, settings.front.bounds, None),
        # Last: who is answered here knows that the others listen.
        Listener(front.operators, FRONT_HTTP.removeprefix("unix:"), Bounds(), None),
    ]
    for listener in listeners:
        await listener.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    await asyncio.gather(*(listener.stop(settings.exit_timeout_s) for listener in listeners))
    await front.close()
