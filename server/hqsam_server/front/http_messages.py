"""KServe v2 over HTTP as messages over gRPC: JSON, and binary data after it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any, NoReturn

import numpy as np
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor

from hqsam_server.front.errors import invalid
from hqsam_server.front.infer_request import BYTES, DTYPES, MAX_TENSORS
from hqsam_server.front.settings import STRUCTURE_BYTES

MAX_TEXT_ELEMENTS = 2**18
"""Elements of an output as text: four masks. More of them take seconds to write."""

_NUMPY = {
    "BOOL": "|?",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP32": "<f4",
    "FP64": "<f8",
}

# What JSON may hold for each kind of number.
_KINDS: dict[str, tuple[type, ...]] = {"i": (int,), "u": (int,), "f": (int, float), "?": (bool,)}

_INTEGER = 2**63


def read(body: bytes, header_length: int | None, model: str, version: str) -> tuple[Any, Any]:
    """Return a request as `ModelInferRequest`, and a function that says which outputs are binary.

    Args:
        body: JSON, and binary data after it.
        header_length: length of the JSON; None for all.
        model: name of the model.
        version: of the model; "" for any.

    Raises:
        RefusedError: the request is malformed.
    """
    length = len(body) if header_length is None else header_length
    if not 0 < length <= min(len(body), STRUCTURE_BYTES):
        raise invalid(
            f"the JSON has {length} bytes of {len(body)}, expected at most {STRUCTURE_BYTES}: send "
            "tensors as binary data, with Inference-Header-Content-Length"
        )
    fields = _object("the request", _json(body[:length]), ("id", "parameters", "inputs", "outputs"))
    request = service_pb2.ModelInferRequest(
        model_name=model, model_version=version, id=_text("id", fields.get("id", ""))
    )
    binary = memoryview(body)[length:]
    for tensor in _list("inputs", fields.get("inputs", [])):
        binary = _add_input(request, tensor, binary)
    if binary:
        raise invalid(f"{len(binary)} bytes follow the last input's binary data, expected none")
    parameters = _object("parameters", fields.get("parameters", {}), ("binary_data_output",))
    all_binary = parameters.get("binary_data_output") is True
    chosen: dict[str, bool] = {}
    for output in _list("outputs", fields.get("outputs", [])):
        parts = _object("an output", output, ("name", "parameters"))
        options = _object("parameters", parts.get("parameters", {}), ("binary_data",))
        name = _text("an output's name", parts.get("name"))
        request.outputs.add(name=name)
        chosen[name] = options.get("binary_data", all_binary) is True
    return request, lambda name: chosen.get(name, all_binary)


def _json(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise invalid(f"the request is no JSON that can be read: {str(error)[:100]}") from error


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _object(what: str, value: Any, known: Iterable[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(f"{what} is no JSON object, expected one")
    for name in value.keys() - set(known):
        raise invalid(f"{what} has {name[:40]!r}, expected {', '.join(known)}")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list) or len(value) > MAX_TENSORS:
        raise invalid(f"{what} is no list of at most {MAX_TENSORS} tensors, expected one")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str) or not _is_unicode(value):
        raise invalid(f"{what} is no string, expected one")
    return value


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _add_input(request: Any, tensor: Any, binary: memoryview) -> memoryview:
    """Add an input to the request; return the binary data that is left."""
    fields = _object("an input", tensor, ("name", "datatype", "shape", "parameters", "data"))
    name, dtype = (_text(f"an input's {it}", fields.get(it)) for it in ("name", "datatype"))
    shape = fields.get("shape")
    if not isinstance(shape, list) or not all(_is_side(side) for side in shape):
        raise invalid(f"the shape of {name[:40]!r} is no list of integers from 0 on")
    options = _object("parameters", fields.get("parameters", {}), ("binary_data_size",))
    if "binary_data_size" in options:
        size = options["binary_data_size"]
        if "data" in fields or not _is_side(size) or size > len(binary):
            raise invalid(
                f"the binary_data_size of {name[:40]!r} is {size!r}, expected at most the "
                f"{len(binary)} bytes that are left, and no data"
            )
        raw, binary = bytes(binary[:size]), binary[size:]
    else:
        raw = _raw(name[:40], dtype, shape, fields.get("data"))
    request.inputs.add(name=name, datatype=dtype, shape=shape)
    request.raw_input_contents.append(raw)
    return binary


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 <= value < _INTEGER


def _raw(name: str, dtype: str, shape: list[int], data: Any) -> bytes:
    """Return the bytes of a tensor that was sent as text."""
    elements = _flat(data)
    if len(elements) != math.prod(shape):
        raise invalid(
            f"the input {name!r} has {len(elements)} elements, expected {math.prod(shape)}, as its "
            "shape says"
        )
    if dtype == BYTES:
        texts = [_text(f"an element of {name!r}", it).encode() for it in elements]
        return b"".join(len(it).to_bytes(4, "little") + it for it in texts)
    if dtype not in _NUMPY or not all(type(it) in _KINDS[_NUMPY[dtype][1]] for it in elements):
        raise invalid(f"the data of {name!r} is no {dtype[:40]}, expected such numbers")
    try:
        with np.errstate(over="ignore"):
            return np.array(elements, np.dtype(_NUMPY[dtype])).tobytes()
    except OverflowError as error:
        raise invalid(f"a number of {name!r} is too large for {dtype}") from error


def _flat(data: Any) -> list[Any]:
    """Return the elements of nested lists in order."""
    found: list[Any] = []
    left = [data]
    while left:
        part = left.pop()
        if isinstance(part, list):
            left.extend(reversed(part))
        else:
            found.append(part)
    return found


def write(response: Any, is_binary: Any) -> tuple[bytes, int | None]:
    """Return a `ModelInferResponse` as a body, and the length of its JSON if data follows it.

    Raises:
        RefusedError: an output is too large to be sent as text, or is none.
    """
    outputs: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        fields: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if is_binary(output.name):
            fields["parameters"] = {"binary_data_size": len(raw)}
            binary.append(raw)
        else:
            fields["data"] = _elements(output, raw)
        outputs.append(fields)
    text = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        text["id"] = response.id
    head = json.dumps({**text, "outputs": outputs}).encode()
    return b"".join([head, *binary]), len(head) if binary else None


def _elements(output: Any, raw: bytes) -> list[Any]:
    if output.datatype == BYTES:
        return _strings(output.name, raw)
    if len(raw) > MAX_TEXT_ELEMENTS * DTYPES[output.datatype][0]:
        raise invalid(
            f"the output {output.name} has more than {MAX_TEXT_ELEMENTS} elements: ask for it with "
            '"parameters": {"binary_data": true}'
        )
    elements: list[Any] = np.frombuffer(raw, np.dtype(_NUMPY[output.datatype])).tolist()
    return elements


def _strings(name: str, raw: bytes) -> list[str]:
    try:
        return [text.decode() for text in deserialize_bytes_tensor(raw)]
    except UnicodeDecodeError as error:
        raise invalid(
            f'the output {name} is no text: ask for it with "parameters": {{"binary_data": true}}'
        ) from error
