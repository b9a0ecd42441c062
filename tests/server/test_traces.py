"""Spans of traced calls reach a collector of OpenTelemetry, which is an HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest
from hqsam_server import TritonServer
from hqsam_server.errors import StartError
from hqsam_server.launcher.options import tracing
from hqsam_testing.ports import free_port
from hqsam_testing.raw import request, valid
from hqsam_testing.waiting import TIMEOUT_S, wait_until
from tritonclient.grpc import service_pb2_grpc

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        spans = self.spans = list[dict[str, Any]]()
        services = self.services = set[str]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                for resource in json.loads(body)["resourceSpans"]:
                    named = {it["key"]: it["value"] for it in resource["resource"]["attributes"]}
                    services.add(named["service.name"]["stringValue"])
                    spans.extend(it for scope in resource["scopeSpans"] for it in scope["spans"])
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join(TIMEOUT_S)
    collector.server.server_close()


@pytest.mark.slow
def test_only_calls_with_a_trace_are_sent_and_belong_to_it(
    collector: Collector, whole_repository: Path
) -> None:
    with (
        TritonServer(whole_repository, arguments=tracing(collector.url)) as server,
        grpc.insecure_channel(server.grpc_url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        embed = request("embed", valid("embed"))
        traced = [("traceparent", f"00-{TRACE}-{PARENT}-01")]

        def arrived() -> bool:
            """Call with and without a trace: what a slow collector did not take is lost."""
            for metadata in (None, traced):
                stub.ModelInfer(embed, metadata=metadata, timeout=TIMEOUT_S)
            return {"InferRequest", "embed", "compute"} <= {it["name"] for it in collector.spans}

        wait_until(arrived, "the spans of a call")
    assert {it["traceId"] for it in collector.spans} == {TRACE}
    wholes = [it for it in collector.spans if it["name"] == "InferRequest"]
    assert {it["parentSpanId"] for it in wholes} == {PARENT}
    assert collector.services == {"hqsam"}


@pytest.mark.slow
def test_a_collector_that_is_gone_fails_no_call(whole_repository: Path) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/v1/traces"
    with (
        TritonServer(whole_repository, arguments=tracing(nobody)) as server,
        grpc.insecure_channel(server.grpc_url) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        traced = [("traceparent", f"00-{TRACE}-{PARENT}-01")]
        for _ in range(3):
            stub.ModelInfer(request("embed", valid("embed")), metadata=traced, timeout=TIMEOUT_S)


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(StartError, match="expected a URL such as http://localhost:4318"):
        tracing("collector:4318")
