"""Seeded, bounded fuzzing: 1,000 inputs, or as many as `HQSAM_FUZZ_INPUTS` says.

Of ten inputs, seven are damaged files for the function that reads images, one is a damaged file
for the same function in Triton, and two are requests to `embed`, `segment` and `hq_sam`. As many
requests again go to `segment` with damaged bytes, over gRPC and HTTP. The same number gives the
same inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from hqsam_client import contract
from hqsam_server import TritonServer
from hqsam_server.errors import BadRequestError
from hqsam_server.models.preprocess import Limits
from hqsam_testing import image_files
from hqsam_testing.api import Api
from hqsam_testing.preprocess import preprocess
from hqsam_testing.raw import Raw, Wire, connect, floats, text, valid
from hqsam_testing.waiting import TIMEOUT_S
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.hostile.mutations import mutated
from tests.hostile.unhurt import MEMORY_GROWTH_BYTES

INPUTS = int(os.environ.get("HQSAM_FUZZ_INPUTS", "1000"))
IN_PROCESS, IN_TRITON, REQUESTS = INPUTS * 7 // 10, INPUTS // 10, INPUTS * 2 // 10

_LIMITS = Limits(max_pixels=1_000_000)


@pytest.fixture(scope="module")
def wire(server: TritonServer) -> Iterator[Wire]:
    with connect(server.grpc_url) as wire:
        yield wire


@pytest.fixture(scope="module")
def counts() -> Iterator[Counter[str]]:
    """Counts the results; shown with `-s`."""
    counted: Counter[str] = Counter()
    yield counted
    print(f"\nfuzz: {dict(sorted(counted.items()))}")


def test_damaged_files_are_read_or_refused(counts: Counter[str]) -> None:
    memory = psutil.Process().memory_info().rss
    for number in range(IN_PROCESS):
        try:
            # Pillow warns of what it can do without.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image, size = preprocess(mutated(number), _LIMITS)
        except BadRequestError as error:
            assert str(error), number
            counts["files refused"] += 1
        else:
            assert image.shape == (1, 3, 1024, 1024), number
            assert np.isfinite(image).all(), number
            assert min(size) >= 1, number
            counts["files read"] += 1
    assert psutil.Process().memory_info().rss <= memory + MEMORY_GROWTH_BYTES


def test_damaged_files_are_read_or_refused_by_triton_too(wire: Wire, counts: Counter[str]) -> None:
    for number in range(IN_PROCESS, IN_PROCESS + IN_TRITON):
        encoded = mutated(number)
        inputs = {"encoded_image": Raw("UINT8", (len(encoded),), encoded)}
        code, message, _ = wire.infer("preprocess", inputs, ["original_size"])
        assert code in ("OK", "INVALID_ARGUMENT"), (number, message)
        assert message or code == "OK"
        counts[f"files to Triton: {code}"] += 1


_SIDES = st.sampled_from(
    [0, 1, 1, 1, 2, 3, 5, 64, 129, 256, 300, 1024, -1, 2**31, 2**62 + 1, 2**63 - 1]
)
_SHAPES = st.lists(_SIDES, max_size=5)
_BYTES = {"FP32": 4, "FP64": 8, "FP16": 2, "INT32": 4, "INT64": 8, "UINT8": 1, "BOOL": 1}
_DTYPES = st.sampled_from([*_BYTES, "BYTES", "FP33", ""])
_FLOATS = st.floats(width=32) | st.sampled_from([-1, 0, 1, 2, 3, 0, 1024, np.nan, np.inf])


@st.composite
def _anything(draw: st.DrawFn) -> Raw:
    """A tensor whose parts may contradict each other; most have as many bytes as their shape."""
    dtype, shape = draw(_DTYPES), draw(_SHAPES)
    size = int(np.prod([float(side) for side in shape])) * _BYTES.get(dtype, 1)
    if not 0 <= size <= 2**16 or draw(st.integers(0, 3)) == 0:
        return Raw(dtype, shape, draw(st.binary(max_size=100)))
    filling = draw(st.binary(min_size=1, max_size=16))
    return Raw(dtype, shape, (filling * (size // len(filling) + 1))[:size])


@st.composite
def _prompts(draw: st.DrawFn) -> dict[str, Raw]:
    """Prompts whose shapes agree and whose numbers may be anything."""
    count, points = draw(st.sampled_from([(1, 1), (1, 2), (1, 5), (2, 2), (0, 1), (1, 0)]))

    def array(*shape: int) -> Raw:
        flat = draw(st.lists(_FLOATS, min_size=int(np.prod(shape)), max_size=int(np.prod(shape))))
        return floats(np.array(flat, np.float32).reshape(shape))

    return {"point_coords": array(count, points, 2), "point_labels": array(count, points)}


@st.composite
def _mask_sizes(draw: st.DrawFn) -> Raw:
    """Sizes of which few are the stored image's."""
    sides = st.sampled_from([0, 1, 200, 300, 400, 600, 20_000, 30_000, -1, 2**31 - 1, -(2**31)])
    return Raw("INT32", (2,), np.array([draw(sides), draw(sides)], np.int32).tobytes())


_IMAGE_IDS = st.binary(max_size=80) | st.text("0123456789abcdef", min_size=64, max_size=64).map(
    str.encode
)


@st.composite
def _requests(draw: st.DrawFn) -> tuple[str, dict[str, Raw], list[str]]:
    """A request with some invalid inputs and outputs."""
    model = draw(st.sampled_from([contract.EMBED, contract.SEGMENT, contract.SEGMENT]))
    # An encode for every third input would take hours.
    if draw(st.integers(0, 3)) == 0:
        model = contract.HQ_SAM
    inputs = valid(model.name)
    names = [spec.name for spec in model.inputs]
    if model is contract.SEGMENT:
        known = draw(st.booleans())
        image_id = text(STORED.encode()) if known else text(draw(_IMAGE_IDS))
        inputs["image_id"] = image_id
        del inputs["mask_input"], inputs["has_mask_input"]
        if draw(st.booleans()):
            inputs["mode"] = text(draw(st.sampled_from([b"hq", b"hq+sam", b"best", b"worst", b""])))
        for name in contract.QUALITY_INPUTS:
            if draw(st.booleans()):
                inputs[name] = floats([draw(_FLOATS)])
        if draw(st.booleans()):
            inputs["mask_size"] = draw(_mask_sizes())
    if model is not contract.EMBED and draw(st.booleans()):
        inputs |= draw(_prompts())
    spoilt = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
    for name in spoilt if model is contract.HQ_SAM or draw(st.booleans()) else ():
        inputs[name] = draw(_anything())
    if draw(st.integers(0, 4)) == 0:
        inputs.pop(draw(st.sampled_from(names)), None)
    if draw(st.integers(0, 9)) == 0:
        inputs["surprise"] = draw(_anything())
    known_outputs = [spec.name for spec in model.outputs]
    outputs = st.lists(st.sampled_from([*known_outputs, *known_outputs, "surprise"]), max_size=2)
    return model.name, inputs, draw(outputs)


_IMAGE = image_files.png(300, 200)
STORED = hashlib.sha256(_IMAGE).hexdigest()


@pytest.fixture(scope="module")
def _stored(api: Api) -> None:
    assert api.embed(_IMAGE)[0] == STORED


@pytest.mark.usefixtures("_stored")
def test_requests_are_answered_as_the_contract_says_or_refused(
    wire: Wire, counts: Counter[str]
) -> None:
    models = {model.name: model for model in contract.MODELS}

    @settings(
        max_examples=REQUESTS,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(_requests())
    def check(request: tuple[str, dict[str, Raw], list[str]]) -> None:
        model, inputs, outputs = request
        code, message, response = wire.infer(model, inputs, outputs)
        counts[f"{model}: {code}"] += 1
        assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), message
        if code == "OK":
            _check(response, models[model])
        else:
            assert message

    check()


_INFER = "/inference.GRPCInferenceService/ModelInfer"

# What some damage makes of a request that goes on to be understood.
_ADDITIONS = (
    b"\x22\x11\n\x08priority\x12\x05\x10\xff\xff\x03\x22",  # parameters of the request
    b"\x2a\x00",  # an empty input
    b"\x3a\x00",  # empty contents
    b"\x32\x0c\n\x09sam_masks",  # an output
    b"\x12\x011",  # a version
)


def damaged(random: np.random.Generator, data: bytes) -> bytes:
    """Return data with a few bytes changed, taken out, repeated or added."""
    out = bytearray(data)
    for _ in range(int(random.integers(1, 3))):
        place = int(random.integers(len(out) + 1))
        match random.integers(5):
            case 0:
                out[place : place + 1] = random.bytes(1)
            case 1:
                del out[place : place + int(random.integers(1, 20))]
            case 2:
                out[place:place] = out[place : place + 20] * int(random.integers(1, 2000))
            case 3:
                out += _ADDITIONS[random.integers(len(_ADDITIONS))]
            case _:
                out[place:place] = b"\xff" * int(random.integers(1, 12))
    return bytes(out)


@pytest.mark.usefixtures("_stored")
def test_messages_of_damaged_bytes_are_answered_or_refused(
    server: TritonServer, counts: Counter[str]
) -> None:
    request = service_pb2.ModelInferRequest(model_name="segment")
    inputs = {**valid("segment"), "image_id": text(STORED.encode())}
    for name in ("image_id", "point_coords", "point_labels"):
        request.inputs.add(name=name, datatype=inputs[name].dtype, shape=inputs[name].shape)
        request.raw_input_contents.append(inputs[name].content)
    message = request.SerializeToString()
    with grpc.insecure_channel(server.grpc_url) as channel:
        infer = channel.unary_unary(_INFER)
        for number in range(REQUESTS // 2):
            random = np.random.default_rng(number)
            compressed = number % 10 == 1
            compression = grpc.Compression.Gzip if compressed else None
            try:
                sent = damaged(random, message) if number else message
                infer(sent, timeout=TIMEOUT_S, compression=compression)
            except grpc.RpcError as error:
                code = error.code().name
                expected = ("UNIMPLEMENTED",) if compressed else ("INVALID_ARGUMENT", "NOT_FOUND")
                assert code in expected, (number, error.details())
                assert error.details()
            else:
                code = "OK"
            counts[f"damaged messages: {code}"] += 1
    assert counts["damaged messages: OK"]


@pytest.mark.usefixtures("_stored")
def test_http_requests_of_damaged_bytes_are_answered_or_refused(
    server: TritonServer, counts: Counter[str]
) -> None:
    fields = [
        {"name": "image_id", "datatype": "BYTES", "shape": [1], "data": [STORED]},
        {"name": "point_coords", "datatype": "FP32", "shape": [1, 1, 2], "data": [[[512, 300]]]},
        {"name": "point_labels", "datatype": "FP32", "shape": [1, 1], "data": [[1]]},
    ]
    outputs = [{"name": "iou_predictions", "parameters": {"binary_data": True}}]
    body = json.dumps({"id": "1", "inputs": fields, "outputs": outputs}).encode()
    host, _, port = server.http_url.rpartition(":")
    for number in range(REQUESTS // 2):
        random = np.random.default_rng(number)
        sent = damaged(random, body) if number % 4 else body  # the first one is whole
        head = b"POST /v2/models/segment/infer HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        if number % 4 == 0 and number:
            head = damaged(random, head)
        whole = head + b"Content-Length: %d\r\n\r\n" % len(sent) + sent
        with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
            connection.sendall(whole)
            status = [b"closed"]
            with suppress(ConnectionResetError):  # it was refused before all of it was read
                status = connection.makefile("rb").readline().split()[1:2] or status
        assert status[0] in (b"200", b"closed") or status[0].startswith(b"4"), (number, status)
        counts[f"damaged HTTP requests: {status[0].decode()}"] += 1
    assert counts["damaged HTTP requests: 200"]


def _check(response: Any, model: contract.ModelSpec) -> None:
    """Assert that an answer has the contract's names, types and shapes."""
    specs = {spec.name: spec for spec in model.outputs}
    for output in response.outputs:
        spec = specs[output.name]
        assert output.datatype == spec.dtype
        assert len(output.shape) == len(spec.shape)
        for side, declared in zip(output.shape, spec.shape, strict=True):
            assert declared in (-1, side)
