"""Checks a request before Triton sees it: Triton 2.51 ends at some that contradict themselves.

The structure of the request is parsed and written anew, so that Triton reads what was checked
here; the raw bytes of tensors follow as they came. Names and limits come from KServe v2's
`ModelInferRequest`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from hqsam_client import contract
from tritonclient.grpc import service_pb2

from hqsam_server.front.errors import RefusedError, invalid
from hqsam_server.front.settings import STRUCTURE_BYTES
from hqsam_server.models.caller import CALLER_PARAMETER

MAX_TENSORS = 16
"""Inputs, and outputs, of a request."""

_MAX_FIELDS = 64
_MAX_SIDES = 8
_MAX_STRINGS = 64
_MAX_NAME = 256
_NAME = re.compile(r"[\w.\-]+", re.ASCII)
_VERSION = re.compile(r"[0-9]{0,9}", re.ASCII)

_RAW_FIELD = 7
_LENGTH_DELIMITED = 2

BYTES = "BYTES"

# Bytes of an element, and the field of typed contents that may hold it.
DTYPES: dict[str, tuple[int, str | None]] = {
    "BOOL": (1, "bool_contents"),
    "UINT8": (1, "uint_contents"),
    "UINT16": (2, "uint_contents"),
    "UINT32": (4, "uint_contents"),
    "UINT64": (8, "uint64_contents"),
    "INT8": (1, "int_contents"),
    "INT16": (2, "int_contents"),
    "INT32": (4, "int_contents"),
    "INT64": (8, "int64_contents"),
    "FP16": (2, None),
    "BF16": (2, None),
    "FP32": (4, "fp32_contents"),
    "FP64": (8, "fp64_contents"),
    BYTES: (0, "bytes_contents"),
}

_SPECS = {model.name: model for model in contract.MODELS}


class Checked(NamedTuple):
    """A request that may be passed on.

    Attributes:
        message: the bytes to send.
        model: its name.
        response_bytes: size of the response, as far as the contract tells.
    """

    message: bytes
    model: str
    response_bytes: int


def check(data: bytes, models: Collection[str], caller: str, max_prompts: int) -> Checked:
    """Check a serialized `ModelInferRequest`.

    Args:
        data: the bytes that came.
        models: names of the models that callers may use.
        caller: who sent it, for `CALLER_PARAMETER`; what the request says there is dropped.
        max_prompts: more of them are refused by the model.

    Raises:
        RefusedError: it cannot be passed on.
    """
    structure, contents = _split(data)
    request = _parse(structure)
    check_model(request.model_name, request.model_version, models)
    if len(request.id) > _MAX_NAME:
        raise invalid(f"the id has {len(request.id)} characters, expected at most {_MAX_NAME}")
    request.parameters.pop(CALLER_PARAMETER, None)
    _check_parameters("the request", request.parameters)
    _name_outputs(request)
    _check_outputs(request.outputs)
    _check_inputs(request.inputs, contents)
    request.parameters[CALLER_PARAMETER].string_param = caller
    message = b"".join([request.SerializeToString(), *_fields(contents)])
    return Checked(message, request.model_name, _response_bytes(request, max_prompts))


def check_model(name: str, version: str, models: Collection[str]) -> None:
    """Check the name and the version of a model that somebody wants to use.

    Raises:
        RefusedError: callers may not use it.
    """
    if name not in models:
        shown = name if _NAME.fullmatch(name[:_MAX_NAME]) else repr(name[:40])
        raise RefusedError(
            grpc.StatusCode.NOT_FOUND,
            f"there is no model {shown[:_MAX_NAME]} for callers: expected "
            f"{' or '.join(sorted(models))}; an operator opens more with --open-model",
        )
    if not _VERSION.fullmatch(version):
        raise invalid(f"the model version is {version[:40]!r}, expected a number or nothing")


def _split(data: bytes) -> tuple[bytes, list[memoryview]]:
    """Return the request without the raw bytes of its tensors, and those.

    Parsing first would be dear: a message of empty parts takes 50 times its size in memory.
    """
    view = memoryview(data)
    kept: list[memoryview] = []
    contents: list[memoryview] = []
    place = 0
    for _ in range(_MAX_FIELDS):
        if place == len(data):
            break
        start = place
        tag, place = _varint(view, place)
        if tag & 7 != _LENGTH_DELIMITED or not 1 <= tag >> 3 <= _RAW_FIELD:
            raise invalid("the request is no ModelInferRequest: it has an unknown field")
        length, place = _varint(view, place)
        end = place + length
        if end > len(data):
            raise invalid("the request is no ModelInferRequest: it ends too early")
        if tag >> 3 == _RAW_FIELD:
            contents.append(view[place:end])
        else:
            kept.append(view[start:end])
        place = end
    else:
        raise invalid(f"the request has too many parts, expected at most {_MAX_FIELDS}")
    size = sum(map(len, kept))
    if size > STRUCTURE_BYTES:
        raise invalid(
            f"the request has {size} bytes without raw_input_contents, expected at most "
            f"{STRUCTURE_BYTES}: send tensors as raw_input_contents"
        )
    return b"".join(kept), contents


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(view) and shift < 35:
        byte = view[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise invalid("the request is no ModelInferRequest: a length is missing or too large")


def _parse(structure: bytes) -> Any:
    try:
        request = service_pb2.ModelInferRequest.FromString(structure)
    except DecodeError as error:
        raise invalid("the request is no ModelInferRequest: it cannot be read") from error
    request.DiscardUnknownFields()
    return request


def _fields(contents: list[memoryview]) -> Iterator[bytes | memoryview]:
    """Return the raw bytes of tensors as fields of a message."""
    for content in contents:
        yield bytes([_RAW_FIELD << 3 | _LENGTH_DELIMITED]) + _as_varint(len(content))
        yield content


def _as_varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _check_parameters(owner: str, parameters: Any) -> None:
    for name in parameters:
        raise invalid(f"{owner} has the parameter {name[:40]!r}, expected none")


def _name_outputs(request: Any) -> None:
    """Name the usual outputs where none are: Triton would have all made, also those on request."""
    spec = _SPECS.get(request.model_name)
    if spec is not None and not request.outputs and any(it.on_request for it in spec.outputs):
        for output in spec.outputs:
            if not output.on_request:
                request.outputs.add(name=output.name)


def _check_outputs(outputs: Any) -> None:
    if len(outputs) > MAX_TENSORS:
        raise invalid(f"{len(outputs)} outputs are requested, expected at most {MAX_TENSORS}")
    names: set[str] = set()
    for output in outputs:
        name = _tensor_name(output.name, names)
        _check_parameters(f"the output {name}", output.parameters)


def _check_inputs(inputs: Any, contents: list[memoryview]) -> None:
    if len(inputs) > MAX_TENSORS:
        raise invalid(f"the request has {len(inputs)} inputs, expected at most {MAX_TENSORS}")
    if contents and len(contents) != len(inputs):
        raise invalid(
            f"the request has {len(contents)} raw_input_contents for {len(inputs)} inputs, "
            "expected one for each, or none"
        )
    names: set[str] = set()
    for number, tensor in enumerate(inputs):
        name = _tensor_name(tensor.name, names)
        _check_parameters(f"the input {name}", tensor.parameters)
        count = _elements(name, tensor.datatype, tensor.shape)
        typed = tensor.contents.ListFields()
        if not contents:
            _check_typed(name, tensor.datatype, count, typed)
        elif typed:
            raise invalid(f"the input {name} has contents beside raw_input_contents")
        else:
            _check_raw(name, tensor, count, contents[number])


def _tensor_name(name: str, seen: set[str]) -> str:
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise invalid(f"a tensor's name is {name[:40]!r}, expected letters, digits, '_', '-', '.'")
    if name in seen:
        raise invalid(f"the tensor {name} is there twice, expected once")
    seen.add(name)
    return name


def _elements(name: str, dtype: str, shape: Any) -> int:
    """Return the number of elements that a shape declares, however large."""
    if dtype not in DTYPES:
        raise invalid(f"the input {name} has the datatype {dtype[:40]!r}, expected one of KServe's")
    if len(shape) > _MAX_SIDES or any(side < 0 for side in shape):
        raise invalid(
            f"the input {name} has the shape {list(shape)[:9]}, expected at most {_MAX_SIDES} "
            "sides, none below 0"
        )
    return math.prod(shape)


def _check_typed(name: str, dtype: str, count: int, typed: list[Any]) -> None:
    field = DTYPES[dtype][1]
    if any(descriptor.name != field for descriptor, _ in typed):
        expected = field or "raw_input_contents"
        raise invalid(f"the input {name} of {dtype} has other contents, expected {expected}")
    found = len(typed[0][1]) if typed else 0
    if found != count:
        raise invalid(
            f"the input {name} has {found} elements in its contents, expected {count}, as its "
            "shape says"
        )


def _check_raw(name: str, tensor: Any, count: int, content: memoryview) -> None:
    if tensor.datatype == BYTES:
        _check_strings(name, count, content)
    elif len(content) != count * DTYPES[tensor.datatype][0]:
        raise invalid(
            f"the input {name} has {len(content)} bytes, but {tensor.datatype} "
            f"{list(tensor.shape)} has {count * DTYPES[tensor.datatype][0]}"
        )


def _check_strings(name: str, count: int, content: memoryview) -> None:
    """Check that strings follow their lengths: four bytes each, little-endian."""
    if count > _MAX_STRINGS:
        raise invalid(f"the input {name} has {count} strings, expected at most {_MAX_STRINGS}")
    place = 0
    for _ in range(count):
        if place + 4 > len(content):
            raise invalid(f"the input {name} has fewer strings than the {count} of its shape")
        place += 4 + int.from_bytes(content[place : place + 4], "little")
    if place != len(content):
        raise invalid(f"the input {name} has {len(content)} bytes, but its strings have {place}")


def _response_bytes(request: Any, max_prompts: int) -> int:
    """Return the size that the contract gives the response; dynamic sides are prompts.

    Strings for each prompt have the most bytes that they may have.
    """
    spec = _SPECS.get(request.model_name)
    prompts = max(
        (tensor.shape[0] for tensor in request.inputs if len(tensor.shape) > 1), default=1
    )
    if spec is None or prompts > max_prompts:
        return 0
    wanted = {output.name for output in request.outputs}
    return sum(
        _output_bytes(output, prompts)
        for output in spec.outputs
        if not wanted or output.name in wanted
    )


def _output_bytes(output: contract.TensorSpec, prompts: int) -> int:
    if output.dtype == BYTES and output.shape == (-1,):
        return contract.max_finished_bytes(prompts)
    count = math.prod(prompts if side < 0 else side for side in output.shape)
    return count * DTYPES[output.dtype][0]
