"""Requests as they go over the wire, where shape, dtype and bytes need not agree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import grpc
import numpy as np
from hqsam_client import contract
from tritonclient.grpc import service_pb2, service_pb2_grpc

from hqsam_testing import image_files
from hqsam_testing.waiting import TIMEOUT_S

IMAGE_ID = "0" * 64


class Raw(NamedTuple):
    """An input as it is sent."""

    dtype: str
    shape: Sequence[int]
    content: bytes


def text(content: bytes) -> Raw:
    """Return an input of one string."""
    return Raw("BYTES", (1,), len(content).to_bytes(4, "little") + content)


def floats(array: Any) -> Raw:
    values = np.asarray(array, np.float32)
    return Raw("FP32", values.shape, values.tobytes())


def valid(model: str, image: bytes | None = None) -> dict[str, Raw]:
    """Return valid inputs of `embed`, `segment` or `hq_sam`."""
    encoded = image_files.png(300, 200) if image is None else image
    one = {
        "point_coords": floats([[[512, 300], [0, 0]]]),
        "point_labels": floats([[1, -1]]),
        "mask_input": floats(np.zeros((1, 1, 256, 256))),
        "has_mask_input": floats([0]),
    }
    file = {"encoded_image": Raw("UINT8", (len(encoded),), encoded)}
    return {
        contract.EMBED.name: file,
        contract.SEGMENT.name: {"image_id": text(IMAGE_ID.encode()), **one},
        contract.HQ_SAM.name: {**file, **one},
    }[model]


def request(model: str, inputs: Mapping[str, Raw], outputs: Sequence[str] = ()) -> Any:
    """Return a `ModelInferRequest`, whether or not it makes sense."""
    made = service_pb2.ModelInferRequest(model_name=model)
    for name, raw in inputs.items():
        made.inputs.add(name=name, datatype=raw.dtype, shape=raw.shape)
        made.raw_input_contents.append(raw.content)
    for name in outputs:
        made.outputs.add(name=name)
    return made


class Wire:
    """Sends requests to a server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def infer(
        self, model: str, inputs: Mapping[str, Raw], outputs: Sequence[str] = ()
    ) -> tuple[str, str, Any]:
        """Return the code's name, the message, and the response or None."""
        return self.send(request(model, inputs, outputs))

    def send(self, request: Any) -> tuple[str, str, Any]:
        """Return the code's name, the message, and the response or None."""
        try:
            return "OK", "", self._stub.ModelInfer(request, timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            return error.code().name, error.details() or "", None


@contextmanager
def connect(url: str) -> Iterator[Wire]:
    with grpc.insecure_channel(
        url, options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    ) as channel:
        yield Wire(channel)
