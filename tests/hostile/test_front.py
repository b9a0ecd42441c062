"""Attacks on what stands before Triton: each is refused, and nobody notices.

Each of these ended `tritonserver` 2.51, or took gigabytes, when callers reached it directly.
"""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from hqsam_client import contract
from hqsam_server import TritonServer
from hqsam_testing.api import Api
from hqsam_testing.http_attacks import ATTACKS, MIB, answer
from hqsam_testing.raw import Raw, Wire, connect, valid
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from tritonclient.grpc import service_pb2

from tests.hostile.conftest import OPEN
from tests.hostile.unhurt import click

OTHER_ADDRESS = "127.0.0.2"


@pytest.fixture(scope="module")
def wire(server: TritonServer) -> Iterator[Wire]:
    with connect(server.grpc_url) as wire:
        yield wire


@pytest.fixture(autouse=True)
def _same_front(server: TritonServer) -> Iterator[None]:
    """Check that no attack ends a process of the front."""
    before = server.front_pids
    yield
    assert server.front_pids == before


@pytest.mark.parametrize("service", ["http", "metrics", "grpc"])
@pytest.mark.parametrize("name", ATTACKS)
def test_one_http_request_harms_nobody(
    server: TritonServer, api: Api, name: str, service: str
) -> None:
    """Five kinds of request of 3 MB ended `tritonserver`; ten ended the service for good."""
    url: str = getattr(server, f"{service}_url")
    for _ in range(3):
        status = answer(url, ATTACKS[name])
        assert status == 0 or 400 <= status < 500, status
    assert api.client.is_server_ready(client_timeout=TIMEOUT_S)


@pytest.mark.parametrize("shape", [(2**62 + 1, 1), (2**32, 2**32), (2**63 - 1,), (1, 5 * 10**9)])
@pytest.mark.parametrize("name", ["image_id", "point_labels"])
def test_a_shape_that_overflows_ends_no_process(
    wire: Wire, name: str, shape: tuple[int, ...]
) -> None:
    """Nine of them ended the service: Triton multiplied the sides in 64 bits."""
    inputs = valid("segment")
    inputs[name] = Raw(inputs[name].dtype, shape, inputs[name].content)
    for _ in range(10):
        code, message, _ = wire.infer("segment", inputs)
        assert (code, name in message) == ("INVALID_ARGUMENT", True), message


@pytest.mark.parametrize("owner", ["request", "input", "output"])
@pytest.mark.parametrize(
    "parameter", ["classification", "shared_memory_region", "priority", "sequence_id", "timeout"]
)
def test_parameters_that_nobody_needs_are_refused(wire: Wire, owner: str, parameter: str) -> None:
    """`classification` of 2^31 - 1 on `sam_masks` took 6.4 GB for 941 bytes."""
    request = service_pb2.ModelInferRequest(model_name="segment")
    for name, raw in valid("segment").items():
        request.inputs.add(name=name, datatype=raw.dtype, shape=raw.shape)
        request.raw_input_contents.append(raw.content)
    output = request.outputs.add(name="sam_masks")
    place = {"request": request, "input": request.inputs[0], "output": output}[owner]
    place.parameters[parameter].int64_param = 2**31 - 1
    code, message, _ = wire.send(request)
    assert (code, parameter in message) == ("INVALID_ARGUMENT", True), message


CLOSED = [it.name for it in contract.MODELS if it.name not in (*OPEN, "embed", "segment")]


@pytest.mark.parametrize("model", CLOSED)
def test_inner_models_are_closed_to_callers(wire: Wire, model: str) -> None:
    """One direct call of 32 x 256 points took 4.3 GB; 300 calls starved clicks for 192 s."""
    code, message, _ = wire.send(service_pb2.ModelInferRequest(model_name=model))
    assert code == "NOT_FOUND"
    assert f"no model {model} for callers" in message


@pytest.mark.parametrize(
    "method",
    [
        "ModelStreamInfer",
        "RepositoryIndex",
        "RepositoryModelLoad",
        "SystemSharedMemoryRegister",
        "CudaSharedMemoryRegister",
        "TraceSetting",
        "LogSettings",
        "Nonsense",
    ],
)
def test_nothing_but_inference_and_questions_is_answered(server: TritonServer, method: str) -> None:
    code, message = call(server, b"", f"/inference.GRPCInferenceService/{method}")
    assert code == "UNIMPLEMENTED"
    assert "ModelInfer" in message


def call(
    server: TritonServer,
    message: bytes,
    method: str = "/inference.GRPCInferenceService/ModelInfer",
    **options: Any,
) -> tuple[str, str]:
    """Send a message as it is; return code and message of the error."""
    with (
        grpc.insecure_channel(
            server.grpc_url, options=[("grpc.max_send_message_length", -1)]
        ) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(method)(message, timeout=TIMEOUT_S, **options)
    return caught.value.code().name, caught.value.details() or ""


MESSAGES = {
    "a gigabyte": (bytes(2**30), "RESOURCE_EXHAUSTED", "larger than max"),
    "zeros": (bytes(60 * MIB), "INVALID_ARGUMENT", "no ModelInferRequest"),
    "20 million empty inputs": (b"\x2a\x00" * 20_000_000, "INVALID_ARGUMENT", "too many parts"),
    "inputs of 20 million empty parts": (
        b"\x2a\x80\xda\xc4\x09" + b"\x22\x00" * 10_000_000, "INVALID_ARGUMENT", "expected at most",
    ),
    "a length beyond the end": (b"\x0a\xff\xff\xff\x7fx", "INVALID_ARGUMENT", "ends too early"),
    "a length that does not end": (b"\x0a" + b"\xff" * 100, "INVALID_ARGUMENT", "too large"),
    "an unknown field": (b"\x42\x01x", "INVALID_ARGUMENT", "unknown field"),
    "a group": (b"\x0b\x0c", "INVALID_ARGUMENT", "unknown field"),
    "nothing": (b"", "NOT_FOUND", "no model"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_bounded_before_it_is_held(server: TritonServer, name: str) -> None:
    """A gigabyte to `embed` left 2.5 GB in the server; a second one ended it."""
    message, code, text = MESSAGES[name]
    process = psutil.Process(server.front_pids["grpc"])
    before = process.memory_info().rss
    found, details = call(server, message)
    assert (found, text in details) == (code, True), details
    assert process.memory_info().rss - before < 150 * MIB


def test_a_flood_of_large_messages_leaves_no_memory_behind(server: TritonServer) -> None:
    """300 at a time left 4.8 GB in the front."""
    process = psutil.Process(server.front_pids["grpc"])
    before = process.memory_info().rss
    request = service_pb2.ModelInferRequest(
        model_name="nobody", raw_input_contents=[bytes(13 * MIB)]
    )
    message = request.SerializeToString()
    with ThreadPoolExecutor(64) as pool:
        codes = {code for code, _ in pool.map(lambda _: call(server, message), range(256))}
    assert codes <= {"NOT_FOUND", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    wait_until(
        lambda: process.memory_info().rss < before + 100 * MIB, "the front to give memory back"
    )


def test_compressed_messages_are_refused(server: TritonServer) -> None:
    """Three megabytes of gzip became three gigabytes."""
    code, message = call(server, bytes(60 * MIB), compression=grpc.Compression.Gzip)
    assert code == "UNIMPLEMENTED"
    assert "ompression" in message


def test_metadata_is_bounded(server: TritonServer) -> None:
    code, _ = call(server, b"", metadata=[("x-long", "a" * 100_000)])
    assert code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    "service",
    [
        "grpc",
        pytest.param("http", marks=pytest.mark.slow),
        pytest.param("metrics", marks=pytest.mark.slow),
    ],
)
def test_a_thousand_half_open_connections_keep_nobody_out(
    server: TritonServer, api: Api, service: str
) -> None:
    """1,100 connections that sent nothing used up the open files of `tritonserver`."""
    host, _, port = getattr(server, f"{service}_url").rpartition(":")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            for _ in range(1100):
                connection = stack.enter_context(socket.socket())
                connection.settimeout(TIMEOUT_S)
                connection.bind((OTHER_ADDRESS, 0))
                connection.connect((host, int(port)))
            wait_until(lambda: _others(server, int(port)) <= 256, "the surplus to be closed")
            for wanted in (server.http_url, server.metrics_url):
                assert answer(wanted, b"GET /v2/health/ready HTTP/1.1\r\nHost: x\r\n\r\n") == 200
            with Api(server) as other:
                assert np.isfinite(click(other)["low_res_masks"]).all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _others(server: TritonServer, port: int) -> int:
    """Return how many connections the front holds that came from the other address."""
    return sum(
        it.laddr.port == port and bool(it.raddr) and OTHER_ADDRESS in it.raddr.ip
        for pid in server.front_pids.values()
        for it in psutil.Process(pid).net_connections(kind="inet")
        if it.status == psutil.CONN_ESTABLISHED
    )
