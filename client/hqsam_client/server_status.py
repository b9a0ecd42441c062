"""What a server says about itself, and whether its models really answer."""

from __future__ import annotations

import http.client
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from tritonclient.grpc import service_pb2

from hqsam_client import contract
from hqsam_client.client import HQSam
from hqsam_client.errors import HQSamError, InvalidRequestError, printable
from hqsam_client.shared import modes, prompt_encoding, protocol
from hqsam_client.shared.protocol import Call, Flow
from hqsam_client.shared.upload import prepare

_NO_IMAGE_ID = "status"

_MAX_METRICS_BYTES = 2**20

_METRIC = re.compile(r"^hqsam_(?P<name>\w+?)(_total)? (?P<value>\S+)$", re.MULTILINE)


@dataclass(frozen=True)
class Model:
    """A model of the contract: its name, whether it is ready, and the versions that are."""

    name: str
    ready: bool
    versions: list[str]


@dataclass(frozen=True)
class ServerStatus:
    """The status of one server.

    Attributes:
        version: Triton's version.
        model: the member of the HQ-SAM family that the server has. None if it is another, or the
            server does not say: an export's manifest names the model, and `hqsam serve` tells.
        ready: whether the server says that it and all its models are ready, and `embed` and
            `segment` really answer.
        models: all models of the contract, loaded or not.
        metrics: this project's metrics by name, without ``hqsam_`` and ``_total``; empty
            when they cannot be read.
        probe_s: seconds that segmenting an image took; None without a probe.
        problem: why the server is not ready although it says so; None otherwise.
    """

    version: str
    ready: bool
    models: list[Model]
    metrics: dict[str, float] = field(default_factory=dict)
    probe_s: float | None = None
    problem: str | None = None
    model: str | None = None


def read(client: HQSam, timeout_s: float, probe: bool) -> ServerStatus:
    """Ask a server for its status, without metrics.

    Triton says that it is ready even when a process of one of its models has died. So `embed` and
    `segment` are called, too, with requests that they refuse.

    Args:
        client: connected to this one server.
        timeout_s: seconds for the questions together, and again for the probe.
        probe: whether to segment an image of one pixel, too. The first time, it is encoded;
            where that takes longer than `timeout_s`, the first probe fails.

    Raises:
        HQSamError: the server does not answer, or the probe failed.
    """
    status = client.run(_questions(), timeout_s=timeout_s)
    if not probe:
        return status
    start = time.perf_counter()
    client.run(_probe(), timeout_s=timeout_s)
    probe_s = time.perf_counter() - start
    return replace(status, probe_s=probe_s)


def _questions() -> Flow[ServerStatus]:
    metadata = yield Call(service_pb2.ServerMetadataRequest(), "", method="ServerMetadata")
    answer = yield Call(service_pb2.ServerReadyRequest(), "", method="ServerReady")
    models = []
    # Not from the repository's index, which operators may keep for themselves.
    for spec in contract.MODELS:
        models.append((yield from _model(spec.name)))
    problem = None
    if answer.ready:
        try:
            yield from _answers()
        except HQSamError as error:
            problem = str(error)
    name = None
    if any(model.name == contract.ENCODER.name and model.ready for model in models):
        name = yield from member()
    return ServerStatus(
        printable(metadata.version),
        bool(answer.ready) and problem is None,
        models,
        problem=problem,
        model=name,
    )


def _model(name: str) -> Flow[Model]:
    request = service_pb2.ModelReadyRequest(name=name)
    if not (yield Call(request, "", method="ModelReady")).ready:
        return Model(name, False, [])
    metadata_request = service_pb2.ModelMetadataRequest(name=name)
    metadata = yield Call(metadata_request, "", method="ModelMetadata")
    return Model(name, True, [printable(version) for version in metadata.versions])


def member() -> Flow[str | None]:
    """Ask which member of the HQ-SAM family the server has; None if it does not say."""
    request = service_pb2.ModelConfigRequest(name=contract.ENCODER.name)
    try:
        answer = yield Call(request, "", method="ModelConfig")
    except HQSamError:
        return None
    name = answer.config.parameters[contract.MODEL_PARAMETER].string_value
    return printable(name) or None


def _answers() -> Flow[None]:
    """Make `embed` and `segment` refuse a malformed `image_id`, which costs and counts nothing.

    Raises:
        HQSamError: one of them does not answer.
    """
    prompts = prompt_encoding.build((1, 1), points=[(0, 0)])
    segment = protocol.segment_call(_NO_IMAGE_ID, prompts, ["low_res_masks"])
    for call in (protocol.is_stored_call(_NO_IMAGE_ID), segment):
        with suppress(InvalidRequestError):
            yield call


def _probe() -> Flow[None]:
    """Embed and segment an image of one pixel."""
    upload = prepare(np.full((1, 1, 3), 128, np.uint8))
    # `segment` alone would do, but would not notice that `embed` has died.
    yield from protocol.embed_flow(upload, ask=False)
    prompts = prompt_encoding.build(upload.size, points=[(0, 0)])
    yield from protocol.segment_flow(upload, prompts, modes.choice("hq"))


def read_metrics(host: str, port: int, timeout_s: float) -> dict[str, float]:
    """Return this project's metrics of a server; empty when they cannot be read.

    Args:
        host: name or address of the server.
        port: of its Prometheus endpoint.
        timeout_s: seconds to wait.

    Returns:
        Values by name, without ``hqsam_`` and ``_total``.
    """
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read(_MAX_METRICS_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return {}
    finally:
        connection.close()
    found = {}
    for match in _METRIC.finditer(text):
        with suppress(ValueError):  # another program's page
            found[match["name"]] = float(match["value"])
    return found
