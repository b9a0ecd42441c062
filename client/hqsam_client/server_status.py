"""What a server says of itself, and whether it really answers."""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from hqsam_client import contract
from hqsam_client.client import HQSam

_METRIC = re.compile(r"^hqsam_(?P<name>\w+?)(_total)?(\{[^}]*\})? (?P<value>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Model:
    """A model of the contract: its name, whether it is ready, and the versions that are."""

    name: str
    ready: bool
    versions: list[str]


@dataclass(frozen=True)
class ServerStatus:
    """What one server says of itself.

    Attributes:
        version: Triton's version.
        ready: whether it says that it and all its models are ready.
        models: all that the contract names, there or not.
        metrics: this project's metrics by name, without ``hqsam_`` and ``_total``; empty
            when they cannot be read.
        probe_s: seconds that a real call took; None when none was made.
    """

    version: str
    ready: bool
    models: list[Model]
    metrics: dict[str, float] = field(default_factory=dict)
    probe_s: float | None = None


def read(client: HQSam, timeout_s: float, probe: bool) -> ServerStatus:
    """Ask a server for its status, without metrics.

    Args:
        client: connected to this one server.
        timeout_s: seconds for each question.
        probe: whether to segment an image of one pixel, too. A server says that it is
            ready when a process of one of its models is dead; this call notices. The
            first time, it takes as long as encoding does.

    Raises:
        HQSamError: it does not answer, or the probe failed.
    """
    stub = client._stub
    options = {"timeout": timeout_s, "metadata": client._metadata}
    try:
        metadata = stub.ServerMetadata(service_pb2.ServerMetadataRequest(), **options)
        ready = stub.ServerReady(service_pb2.ServerReadyRequest(), **options).ready
        # Not from the repository's index, which operators may keep for themselves.
        models = [_model(stub, spec.name, options) for spec in contract.MODELS]
    except grpc.RpcError as error:
        raise client._error(error) from error
    probe_s = None
    if probe:
        start = time.perf_counter()
        # Opened first, though a click alone would do: so a dead `embed` is noticed, too.
        client.open(np.full((1, 1, 3), 128, np.uint8)).segment(points=[(0.5, 0.5)])
        probe_s = time.perf_counter() - start
    return ServerStatus(metadata.version, ready, models, probe_s=probe_s)


def _model(stub: Any, name: str, options: dict[str, Any]) -> Model:
    if not stub.ModelReady(service_pb2.ModelReadyRequest(name=name), **options).ready:
        return Model(name, False, [])
    metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=name), **options)
    return Model(name, True, list(metadata.versions))


def read_metrics(host: str, port: int, timeout_s: float) -> dict[str, float]:
    """Return this project's metrics of a server; empty when they cannot be read.

    Args:
        host: name or address of the server.
        port: of its Prometheus endpoint.
        timeout_s: seconds to wait.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    return {match["name"]: float(match["value"]) for match in _METRIC.finditer(text)}
