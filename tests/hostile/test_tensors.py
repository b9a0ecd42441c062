"""Malicious tensors, which no client sends: each one gets an error that names what is wrong.

`tests/models` has the tests of prompts that are merely wrong.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hqsam_client import contract
from hqsam_server import TritonServer
from hqsam_testing import image_files
from hqsam_testing.api import Api
from hqsam_testing.raw import Raw, Wire, connect, floats, text, valid
from tritonclient.grpc import service_pb2

MODELS = [contract.EMBED.name, contract.SEGMENT.name, contract.HQ_SAM.name]


@pytest.fixture(scope="module")
def wire(server: TritonServer) -> Iterator[Wire]:
    with connect(server.grpc_url) as wire:
        yield wire


IMAGE_IDS = {
    "nothing": b"",
    "a path": b"../" * 21 + b"x",
    "an absolute path": b"/etc/passwd".ljust(64, b"0"),
    "a slash in it": b"0" * 32 + b"/" + b"0" * 31,
    "a zero in it": b"0" * 63 + b"\0",
    "capitals": b"A" * 64,
    "one digit less": b"0" * 63,
    "one digit more": b"0" * 65,
    "digits of another script": "\u0660".encode() * 32,
    "no UTF-8": b"\xff" * 64,
    "a newline behind it": b"0" * 64 + b"\n",
    "ten megabytes": b"0" * 10_000_000,
}


@pytest.mark.parametrize("model", ["embed", "segment"])
@pytest.mark.parametrize("name", IMAGE_IDS)
def test_an_image_id_is_64_hex_digits_or_refused(wire: Wire, model: str, name: str) -> None:
    inputs = {**valid("segment"), "image_id": text(IMAGE_IDS[name])}
    if model == "embed":
        inputs = {"image_id": inputs["image_id"]}
    code, message, _ = wire.infer(model, inputs)
    assert code == "INVALID_ARGUMENT"
    assert "image_id" in message
    assert len(message) < 500


BAD_IMAGE_IDS = {
    "numbers": Raw("INT64", (1,), bytes(8)),
    "bytes of an image": Raw("UINT8", (64,), b"0" * 64),
    "two": Raw("BYTES", (2,), 2 * (b"\1\0\0\00")),
    "none": Raw("BYTES", (0,), b""),
    "two dimensions": Raw("BYTES", (1, 1), text(b"0" * 64).content),
    "a length beyond the content": Raw("BYTES", (1,), b"\xff\xff\xff\xff" + b"0" * 64),
    "a length before the content's end": Raw("BYTES", (1,), b"\1\0\0\0" + b"0" * 64),
    "no length": Raw("BYTES", (1,), b"00"),
}


@pytest.mark.parametrize("model", ["embed", "segment"])
@pytest.mark.parametrize("name", BAD_IMAGE_IDS)
def test_an_image_id_is_one_string_or_refused(wire: Wire, model: str, name: str) -> None:
    inputs = {**valid("segment"), "image_id": BAD_IMAGE_IDS[name]}
    if model == "embed":
        inputs = {"image_id": inputs["image_id"]}
    code, message, _ = wire.infer(model, inputs)
    assert (code, "image_id" in message) == ("INVALID_ARGUMENT", True), message


@pytest.mark.parametrize("name", BAD_IMAGE_IDS)
def test_a_mode_is_one_string_or_refused(wire: Wire, name: str) -> None:
    inputs = {**valid("segment"), "mode": BAD_IMAGE_IDS[name]}
    code, message, _ = wire.infer("segment", inputs, ["mask_rle"])
    assert (code, "mode" in message) == ("INVALID_ARGUMENT", True), message


COORDS, LABELS = floats([[[512, 300]]]), floats([[1]])

BAD_TENSORS: dict[str, tuple[str, Raw]] = {
    "more values than the shape has": ("point_coords", COORDS._replace(shape=(1, 1, 1))),
    "fewer values than the shape has": ("point_coords", COORDS._replace(shape=(1, 9, 2))),
    "a shape of negative sides": ("point_coords", COORDS._replace(shape=(-1, -1, 2))),
    "a shape beyond 64 bits": ("point_coords", COORDS._replace(shape=(2**62, 2**62, 2))),
    "a shape of nine dimensions": ("point_coords", COORDS._replace(shape=(1,) * 9)),
    "no shape": ("point_coords", COORDS._replace(shape=())),
    "whole numbers": ("point_labels", LABELS._replace(dtype="INT32")),
    "half as many bits": ("point_labels", Raw("FP16", (1, 1), bytes(2))),
    "twice as many bits": ("point_coords", Raw("FP64", (1, 1, 2), bytes(16))),
    "a type that does not exist": ("point_labels", LABELS._replace(dtype="FP33")),
    "texts": ("point_labels", Raw("BYTES", (1, 1), text(b"1").content)),
    "a mask of the image's size": ("mask_input", floats(np.zeros((1, 1, 1024, 1024)))),
    "a mask without its second dimension": ("mask_input", floats(np.zeros((1, 256, 256)))),
    "a mask of no size": ("mask_input", floats(np.zeros((1, 1, 0, 0)))),
    "a flag for nobody": ("has_mask_input", floats(np.zeros(0))),
}


@pytest.mark.parametrize("model", ["segment", "hq_sam"])
@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_tensor_is_what_the_contract_says_or_refused(wire: Wire, model: str, name: str) -> None:
    tensor, raw = BAD_TENSORS[name]
    code, message, _ = wire.infer(model, {**valid(model), tensor: raw})
    assert (code, tensor in message) == ("INVALID_ARGUMENT", True), message


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_the_mask_of_a_prompt_without_one_changes_nothing(
    api: Api, wire: Wire, value: float
) -> None:
    # It gave masks of NaN with the status OK.
    image = image_files.png(300, 200)
    api.embed(image)
    image_id = text(hashlib.sha256(image).hexdigest().encode())
    inputs = {**valid("segment"), "image_id": image_id}
    _, _, expected = wire.infer("segment", inputs)
    inputs["mask_input"] = floats(np.full((1, 1, 256, 256), value))
    code, message, found = wire.infer("segment", inputs)
    assert code == "OK", message
    assert list(found.raw_output_contents) == list(expected.raw_output_contents)
    code, message, _ = wire.infer("segment", {**inputs, "has_mask_input": floats([1])})
    assert (code, "mask_input" in message) == ("INVALID_ARGUMENT", True), message


VALUES = {
    "NaN": (np.nan, 1.0),
    "infinite": (np.inf, 1.0),
    "the largest float": (3.4e38, 1.0),
    "the smallest float": (1e-45, 1.0),
    "an unknown label": (512.0, 7.0),
    "a label between two": (512.0, 0.5),
    "an infinite label": (512.0, -np.inf),
}


@pytest.mark.parametrize("name", VALUES)
def test_numbers_that_make_no_sense_are_refused_by_segment(api: Api, wire: Wire, name: str) -> None:
    image = image_files.png(300, 200)
    api.embed(image)
    coordinate, label = VALUES[name]
    inputs = {
        **valid("segment"),
        "image_id": text(hashlib.sha256(image).hexdigest().encode()),
        "point_coords": floats([[[coordinate, 300]]]),
        "point_labels": floats([[label]]),
    }
    code, message, _ = wire.infer("segment", inputs, ["iou_predictions"])
    if name == "the smallest float":
        assert code == "OK", message
    else:
        assert (code, "point_" in message) == ("INVALID_ARGUMENT", True), message


@pytest.mark.parametrize("count", [257, 10_000])
def test_more_prompts_than_allowed_are_refused_at_once(wire: Wire, count: int) -> None:
    inputs = {
        **valid("segment"),
        "point_coords": floats(np.zeros((count, 1, 2))),
        "point_labels": floats(np.ones((count, 1))),
    }
    del inputs["mask_input"], inputs["has_mask_input"]
    code, message, _ = wire.infer("segment", inputs)
    assert (code, f"{count} prompts" in message) == ("INVALID_ARGUMENT", True), message


def many_points(count: int) -> dict[str, Raw]:
    return {
        "point_coords": floats(np.full((1, count, 2), 9)),
        "point_labels": floats(np.ones((1, count))),
    }


@pytest.mark.parametrize("model", ["segment", "hq_sam"])
def test_more_points_than_allowed_are_refused(wire: Wire, model: str) -> None:
    code, message, _ = wire.infer(model, {**valid(model), **many_points(5_000)})
    assert (code, "5000" in message) == ("INVALID_ARGUMENT", True), message


@pytest.mark.parametrize("model", MODELS)
def test_an_input_that_is_missing_unknown_or_there_twice_is_refused(wire: Wire, model: str) -> None:
    inputs = valid(model)
    for name in inputs:
        rest = {other: raw for other, raw in inputs.items() if other != name}
        optional = {"mask_input", "has_mask_input"} if model == "segment" else set()
        if name not in optional:
            assert wire.infer(model, rest)[0] == "INVALID_ARGUMENT", name
    code, message, _ = wire.infer(model, {**inputs, "surprise": LABELS})
    assert (code, "surprise" in message) == ("INVALID_ARGUMENT", True), message
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, raw in [*inputs.items(), *inputs.items()]:
        request.inputs.add(name=name, datatype=raw.dtype, shape=raw.shape)
        request.raw_input_contents.append(raw.content)
    assert wire.send(request)[0] == "INVALID_ARGUMENT"


def _without_content(request: Any) -> None:
    del request.raw_input_contents[:]


def _with_more_content(request: Any) -> None:
    request.raw_input_contents.append(b"more")


def _with_content_of_both_kinds(request: Any) -> None:
    request.inputs[0].contents.uint_contents.append(1)


def _of_another_version(request: Any) -> None:
    request.model_version = "999"


def _of_a_version_that_is_a_path(request: Any) -> None:
    request.model_version = "../../embed/1"


def _with_an_unknown_output(request: Any) -> None:
    request.outputs.add(name="surprise")


def _of_shared_memory_that_is_not_there(request: Any) -> None:
    del request.raw_input_contents[:]
    for tensor in request.inputs:
        tensor.parameters["shared_memory_region"].string_param = "../../etc/passwd"
        tensor.parameters["shared_memory_byte_size"].int64_param = 2**62


def _of_a_sequence(request: Any) -> None:
    request.parameters["sequence_id"].int64_param = -1
    request.parameters["priority"].int64_param = -1
    request.parameters["timeout"].string_param = "soon"


NO_SUCH_VERSION = {"INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE"}

# Triton's own answers.
EXPECTED: dict[Any, set[str]] = {
    _of_another_version: NO_SUCH_VERSION,
    _of_a_version_that_is_a_path: NO_SUCH_VERSION,
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "spoil",
    [
        _without_content,
        _with_more_content,
        _with_content_of_both_kinds,
        _of_another_version,
        _of_a_version_that_is_a_path,
        _with_an_unknown_output,
        _of_shared_memory_that_is_not_there,
        _of_a_sequence,
    ],
    ids=lambda spoil: spoil.__name__.strip("_"),
)
def test_a_request_that_contradicts_itself_is_refused(wire: Wire, model: str, spoil: Any) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, raw in valid(model).items():
        request.inputs.add(name=name, datatype=raw.dtype, shape=raw.shape)
        request.raw_input_contents.append(raw.content)
    spoil(request)
    code, message, _ = wire.send(request)
    assert code in EXPECTED.get(spoil, {"INVALID_ARGUMENT"}), (code, message)
