"""The gRPC server that callers reach: it checks and bounds calls, and passes them to Triton."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from hqsam_client import contract
from tritonclient.grpc import service_pb2

from hqsam_server.errors import StartError
from hqsam_server.front import infer_request
from hqsam_server.front.admission import RETRY_AFTER_S, Admission, Ticket
from hqsam_server.front.call_log import CallLog
from hqsam_server.front.call_metrics import CallMetrics, MeasuredCall
from hqsam_server.front.callers import PEER_KEY, Callers, Keys
from hqsam_server.front.connections import most_connections, open_channel, watch_connections
from hqsam_server.front.errors import RefusedError, invalid
from hqsam_server.front.infer_request import Checked
from hqsam_server.front.limit import TimeLimit
from hqsam_server.front.settings import (
    FRONT_GRPC,
    METRICS_METHOD,
    TRITON_GRPC,
    TRITON_PORT,
    UNTESTED_FILE,
    Settings,
)
from hqsam_server.front.under_way import UnderWay, lost
from hqsam_server.launcher.options import ANY, Endpoint, Tls

SERVICE = "inference.GRPCInferenceService"
_HEALTH = "/grpc.health.v1.Health/Check"

_PUSHBACK_KEY = "grpc-retry-pushback-ms"

# A caller over its bounds waits this long for the refusal: one that asks again at once would keep
# this process busy, and others waiting.
_PAUSE_S = 0.2

# A message that has not come by then reserves as much memory as it may need.
_SMALL_S = 0.05
_READ_S = 120.0
_WRITE_S = 120.0
_QUESTION_S = 10.0
_QUESTION_BYTES = 4096
_LAST_ANSWERS_S = 1.0
# How often to look whether Triton is there, and after how many looks without it, it is gone.
_LOOK_S = 0.1
_MISSES = 3

# Calls that tell about the server, or about a model; the first need no key.
_LIVE, _READY = f"/{SERVICE}/ServerLive", f"/{SERVICE}/ServerReady"
_QUESTIONS = {
    "ServerMetadata": service_pb2.ServerMetadataRequest,
    "ModelReady": service_pb2.ModelReadyRequest,
    "ModelMetadata": service_pb2.ModelMetadataRequest,
    "ModelConfig": service_pb2.ModelConfigRequest,
    "ModelStatistics": service_pb2.ModelStatisticsRequest,
}

_OWN_METADATA = ("authorization", "user-agent", PEER_KEY)

Handler = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[None]]


def server_options(settings: Settings) -> list[tuple[str, int]]:
    """Return gRPC's options of the server that callers reach."""
    bounds = settings.front.bounds
    return [
        # gRPC looks at the length in front of a message before it reads the message.
        ("grpc.max_receive_message_length", settings.message_bytes),
        ("grpc.max_send_message_length", -1),
        # Nothing is decompressed: few bytes could become billions.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.per_message_decompression", 0),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", bounds.streams),
        ("grpc.max_allowed_incoming_connections", most_connections(bounds)),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Without calls, a connection is closed; clients connect again by themselves.
        ("grpc.max_connection_idle_ms", 600_000),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        # Clients of this project ping once a minute under a waiting call.
        ("grpc.http2.min_ping_interval_without_data_ms", 50_000),
        ("grpc.so_reuseport", 0),
    ]


class GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Handles calls."""

    def __init__(self, settings: Settings) -> None:
        """Prepare; it needs a running event loop.

        Raises:
            StartError: the keys cannot be read, or the log cannot be written.
        """
        self._settings = settings
        self._callers = Callers(Keys(settings.front.keys_file), settings.front.proxies)
        self._admission = Admission(settings.front.bounds)
        self._under_way = UnderWay()
        log = settings.front.call_log
        self.metrics = CallMetrics(None if log is None else CallLog(log))
        self.is_listening = False
        self._channel = open_channel(f"{TRITON_GRPC}:{TRITON_PORT}")
        handlers: dict[str, Handler] = {
            _HEALTH: self._health(_HEALTH),
            _READY: self._health(_READY),
            _LIVE: _say_live,
            f"/{SERVICE}/ModelInfer": self._infer,
        }
        handlers |= {f"/{SERVICE}/{it}": self._question(it) for it in _QUESTIONS}
        # A handler of a stream begins before its first message has come, which is to be bounded.
        self._handlers = {
            method: grpc.stream_stream_rpc_method_handler(self._answering(handler))
            for method, handler in handlers.items()
        }
        self._unknown = grpc.stream_stream_rpc_method_handler(_refuse_method)
        self._to_triton = {method: self._channel.unary_unary(method) for method in handlers}

    def service(self, details: Any) -> Any:
        """Return what handles a method."""
        return self._handlers.get(details.method, self._unknown)

    async def watch(self) -> None:
        """Give up, for ever, calls whose process died."""
        await self._under_way.watch(self._settings.models)

    async def listen(self) -> None:
        """Listen for callers while Triton is there and has passed its self-test, for ever.

        Where nobody listens, a client with several replicas turns to another one at once.

        Raises:
            StartError: the address is in use, or a file cannot be read.
        """
        grace_s = float(self._settings.exit_timeout_s)
        while True:
            await self._triton_comes()
            server = _public_server(self, self._settings)
            await server.start()
            self.is_listening = True
            try:
                await self._triton_goes()
                grace_s = _LAST_ANSWERS_S
            finally:
                self.is_listening = False
                await server.stop(grace_s)

    async def _triton_comes(self) -> None:
        while not self._is_connected() or Path(UNTESTED_FILE).exists():
            await asyncio.sleep(_LOOK_S)

    async def _triton_goes(self) -> None:
        misses = 0
        while misses < _MISSES:
            await asyncio.sleep(_LOOK_S)
            misses = 0 if self._is_connected() else misses + 1

    def _is_connected(self) -> bool:
        state = self._channel.get_state(try_to_connect=True)
        return bool(state is grpc.ChannelConnectivity.READY)

    async def close(self) -> None:
        """Close the connection to Triton."""
        await self._channel.close()

    def _answering(self, handler: Handler) -> Callable[[Any, Any], Awaitable[None]]:
        """Return a handler that answers errors with their status."""

        async def handle(_: Any, context: Any) -> None:
            try:
                await handler(_, context)
                return
            except RefusedError as error:
                refusal = error.alone()
            except grpc.aio.AioRpcError as error:
                refusal = self._of_triton(error)
            if refusal.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
                await asyncio.sleep(_PAUSE_S)
            await _abort(context, refusal)

        return handle

    def _of_triton(self, error: grpc.aio.AioRpcError) -> RefusedError:
        if error.code() == grpc.StatusCode.UNAVAILABLE and not self._is_connected():
            return RefusedError(
                error.code(), "Triton is starting, or ended: try again in a moment", RETRY_AFTER_S
            )
        if error.code() == grpc.StatusCode.CANCELLED:
            # Not by the caller: this task would have been cancelled.
            return lost("the server ended before it answered")
        return RefusedError(error.code(), error.details() or "")

    def _caller(self, context: Any, metadata: Mapping[str, str]) -> str:
        return self._callers.identify(context.peer(), context.auth_context(), metadata)

    def _health(self, method: str) -> Handler:
        async def answer(_: Any, context: Any) -> None:
            if not self.is_listening:
                raise RefusedError(grpc.StatusCode.UNAVAILABLE, "nobody can call yet")
            with TimeLimit(_QUESTION_S, _too_slow):
                await _read(context, _QUESTION_BYTES)
                # Whatever it asks: about the whole server.
                await context.write(await self._to_triton[method](b""))

        return answer

    def _question(self, name: str) -> Handler:
        method, message = f"/{SERVICE}/{name}", _QUESTIONS[name]

        async def answer(_: Any, context: Any) -> None:
            caller = self._caller(context, _metadata(context))
            with self._admission.admit(caller), TimeLimit(_QUESTION_S, _too_slow):
                data = await _read(context, _QUESTION_BYTES)
                try:
                    request = message.FromString(data)
                except DecodeError as error:
                    raise invalid(f"the request is no {message.__name__}") from error
                request.DiscardUnknownFields()
                if name == "ModelStatistics":
                    infer_request.check_model(request.name, request.version, self._settings.models)
                await context.write(await self._to_triton[method](request.SerializeToString()))

        return answer

    async def _infer(self, _: Any, context: Any) -> None:
        metadata = _metadata(context)
        with self.metrics.measure(metadata) as measured:
            caller = measured.caller = self._caller(context, metadata)
            with self._admission.admit(caller) as ticket:
                data = await self._receive(context, ticket)
                measured.request_bytes = len(data)
                checked = infer_request.check(
                    data, self._settings.models, caller, self._settings.prompts
                )
                measured.is_for(checked.model)
                ticket.hold(len(data) + checked.response_bytes)
                del data
                await self._pass_on(checked, context, measured)

    async def _pass_on(self, checked: Checked, context: Any, measured: MeasuredCall) -> None:
        """Have Triton answer a request, and send its answer."""
        call = self._to_triton[f"/{SERVICE}/ModelInfer"](
            checked.message,
            timeout=context.time_remaining(),
            metadata=[
                pair
                for pair in context.invocation_metadata() or ()
                if pair[0] not in _OWN_METADATA and not pair[0].startswith(":")
            ],
        )
        try:
            response = await self._under_way.answer(checked.model, call)
        except grpc.aio.AioRpcError as error:
            raise self._of_triton(error) from error
        measured.is_answered(len(response))
        with TimeLimit(_WRITE_S, _too_slow):
            await context.write(response)

    async def _receive(self, context: Any, ticket: Ticket) -> bytes:
        """Read a request; one that takes time holds as many bytes as it may have."""
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        refusals: list[RefusedError] = []
        most = min(self._settings.message_bytes, self._settings.front.bounds.caller_bytes)
        turn = ExitStack()

        def expect_large() -> None:
            turn.close()
            try:
                ticket.hold(most)
            except RefusedError as error:
                refusals.append(error)
                assert task is not None  # noqa: S101
                task.cancel()

        with TimeLimit(_READ_S, _too_slow), turn:
            await ticket.reads.acquire()
            turn.callback(ticket.reads.release)
            timer = loop.call_later(_SMALL_S, expect_large)
            try:
                data = await _read(context, self._settings.message_bytes)
            except asyncio.CancelledError:
                if refusals:
                    raise refusals.pop() from None
                raise
            finally:
                timer.cancel()
        ticket.hold(len(data))
        return data


def _metadata(context: Any) -> dict[str, str]:
    return dict(context.invocation_metadata() or ())


async def _read(context: Any, most: int) -> bytes:
    # A read that is cancelled would keep its message for ever (grpc/grpc#43360); this one goes on
    # until the call ends.
    data = await asyncio.shield(context.read())
    if data is grpc.aio.EOF:
        raise invalid("the call has no request")
    if len(data) > most:
        raise invalid(f"the request has {len(data)} bytes, expected at most {most}")
    return bytes(data)


def _too_slow() -> RefusedError:
    return RefusedError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "the request came, or its response was read, too slowly"
    )


async def _abort(context: Any, error: RefusedError) -> None:
    metadata: tuple[tuple[str, str], ...] = ()
    if error.retry_after_s is not None:
        metadata = (
            (contract.RETRY_AFTER_KEY, f"{error.retry_after_s:.3f}"),
            (_PUSHBACK_KEY, str(round(1000 * error.retry_after_s))),
        )
    await context.abort(error.code, error.message, trailing_metadata=metadata)


async def _say_live(_: Any, context: Any) -> None:
    """Say that the front answers, whether or not Triton does: who looks after both asks this."""
    with TimeLimit(_QUESTION_S, _too_slow):
        await _read(context, _QUESTION_BYTES)
        await context.write(service_pb2.ServerLiveResponse(live=True).SerializeToString())


async def _refuse_method(_: Any, context: Any) -> None:
    await _abort(
        context,
        RefusedError(
            grpc.StatusCode.UNIMPLEMENTED,
            "this server answers ModelInfer, and questions about its health and its models, only",
        ),
    )


def listen_address(endpoint: Endpoint) -> str:
    """Return where gRPC is to listen."""
    address = endpoint.address or ANY
    return f"[{address}]:{endpoint.port}" if ":" in address else f"{address}:{endpoint.port}"


def _credentials(tls: Tls) -> grpc.ServerCredentials:
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    clients = None if tls.clients is None else tls.clients.read_bytes()
    return grpc.ssl_server_credentials([pair], clients, require_client_auth=clients is not None)


def _metrics_handler(metrics: CallMetrics) -> grpc.GenericRpcHandler:
    """Return what answers `METRICS_METHOD`, and leaves all else to other handlers."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return metrics.page()

    _, service, method = METRICS_METHOD.split("/")
    return grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(answer)}
    )


def _public_server(front: GrpcFront, settings: Settings) -> grpc.aio.Server:
    server = grpc.aio.server(handlers=[front], options=server_options(settings))
    address = listen_address(settings.grpc)
    try:
        if settings.tls is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, _credentials(settings.tls))
    except (RuntimeError, OSError) as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
    return server


async def serve(settings: Settings) -> None:
    """Serve until SIGTERM; calls under way are answered within the exit timeout.

    Raises:
        StartError: the address is in use, or a file cannot be read.
    """
    Path(FRONT_GRPC.removeprefix("unix:")).unlink(missing_ok=True)
    front = GrpcFront(settings)
    # The launcher and the HTTP front call it whether or not Triton is there.
    inside = grpc.aio.server(
        handlers=[_metrics_handler(front.metrics), front], options=server_options(settings)
    )
    inside.add_insecure_port(FRONT_GRPC)
    await inside.start()
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    tasks = [
        asyncio.create_task(it)
        for it in (
            stopped.wait(),
            front.listen(),
            front.watch(),
            watch_connections(settings.grpc.port, settings.front.bounds),
        )
    ]
    done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in running:
        task.cancel()
    await asyncio.wait(running)
    await inside.stop(settings.exit_timeout_s)
    await front.close()
    for task in done:
        task.result()  # raises the error that ended it
