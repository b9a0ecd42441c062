"""A running server with a tiny model, a stand-in for it, and images that neither has seen."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hqsam_client import HQSam
from hqsam_server import TritonServer
from hqsam_testing.oracle import images
from hqsam_testing.servers import forget, tiny_server, tiny_store
from hqsam_testing.waiting import TIMEOUT_S
from numpy.typing import NDArray
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc

__all__ = ["forget", "tiny_server", "tiny_store"]

_SERIAL = itertools.count(1)


@pytest.fixture(scope="package")
def store(tiny_store: Path) -> Path:
    """The folder of the server's embedding store."""
    return tiny_store


@pytest.fixture(scope="package")
def server(tiny_server: TritonServer) -> TritonServer:
    return tiny_server


@pytest.fixture
def url(server: TritonServer) -> str:
    return server.grpc_url


class StandIn(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers in place of Triton, on gRPC's own server, where a test decides what it answers.

    Attributes:
        answer: answers a request of any model; by default the image is stored, and masks are
            constant. It may abort the context.
        models: the models that were called, in order; "upload" for `embed` with bytes.
        metadata: of the last call.
    """

    def __init__(self) -> None:
        self.answer: Callable[[Any, Any], Any] = lambda request, _: usual_answer(request)
        self.models: list[str] = []
        self.metadata: dict[str, str] = {}

    def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        self.models.append(call_name(request))
        return self.answer(request, context)

    def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerReadyResponse(ready=True)

    def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ServerMetadataResponse(version="0")

    def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return service_pb2.ModelMetadataResponse(name=request.name, versions=["1"])


def call_name(request: Any) -> str:
    """Return "segment", "embed" for a question, or "upload" for an image's bytes."""
    inputs = {tensor.name for tensor in request.inputs}
    return "upload" if "encoded_image" in inputs else str(request.model_name)


def tensors(**arrays: NDArray[Any]) -> Any:
    """Return a response with these outputs."""
    response = service_pb2.ModelInferResponse(model_name="test")
    for name, array in arrays.items():
        dtype = "BOOL" if array.dtype == np.bool_ else "FP32"
        response.outputs.add(name=name, datatype=dtype, shape=array.shape)
        response.raw_output_contents.append(array.tobytes())
    return response


def usual_answer(request: Any, stored: bool = True) -> Any:
    """Return that an image is stored, or for each prompt logits of its first x."""
    if call_name(request) != "segment":
        return tensors(already_stored=np.array([stored]))
    shape = request.inputs[1].shape
    first = np.frombuffer(request.raw_input_contents[1], np.float32).reshape(shape)[:, 0, 0]
    logits = np.broadcast_to(first[:, None, None, None], (len(first), 1, 256, 256))
    return tensors(
        low_res_masks=np.ascontiguousarray(logits),
        iou_predictions=np.full((len(first), 1), 0.5, np.float32),
    )


@pytest.fixture
def stand_in() -> StandIn:
    return StandIn()


@pytest.fixture
def serve(stand_in: StandIn) -> Iterator[Callable[..., str]]:
    """Starts the stand-in, with credentials or without; returns its address."""
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(stand_in, server)

        def start(credentials: Any = None) -> str:
            if credentials is None:
                port = server.add_insecure_port("127.0.0.1:0")
            else:
                port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            return f"127.0.0.1:{port}"

        yield start
        server.stop(None).wait()


@pytest.fixture
def sam(url: str) -> Iterator[HQSam]:
    with HQSam(url, timeout_s=TIMEOUT_S) as client:
        yield client


@pytest.fixture
def array() -> NDArray[np.uint8]:
    """An image that no other test has sent, uint8 [200, 300, 3]."""
    image = images.draw(300, 200)
    image[0, 0] = (next(_SERIAL), 7, 7)
    return image


@pytest.fixture
def photo(array: NDArray[np.uint8]) -> bytes:
    """The same as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
