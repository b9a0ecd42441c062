"""HTTP requests that harmed Triton's own HTTP service, each a few kilobytes or megabytes."""

from __future__ import annotations

import gzip
import json
import re
import socket
from typing import Any

from hqsam_testing.raw import IMAGE_ID
from hqsam_testing.waiting import TIMEOUT_S

INFER = "/v2/models/segment/infer"
MIB = 2**20


def post(body: bytes, *headers: str, path: str = INFER) -> bytes:
    """Return a request as its bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(it.lower().startswith("transfer-encoding") for it in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def tensor(**fields: Any) -> bytes:
    """Return a request to `segment` whose points are wrong."""
    image_id = {"name": "image_id", "datatype": "BYTES", "shape": [1], "data": [IMAGE_ID]}
    points = {"name": "point_coords", "datatype": "FP32", "shape": [1, 1, 2], "data": [1, 2]}
    return json.dumps({"inputs": [image_id, {**points, **fields}]}).encode()


def chunks() -> bytes:
    return post(b"1\r\n \r\n" * 600_000 + b"0\r\n\r\n", "Transfer-Encoding: chunked")


ATTACKS = {
    "a shape of 10^12 with one number": post(tensor(shape=[10**12], data=[1])),
    "a shape of 20 GB with one number": post(tensor(shape=[1, 5_000_000_000], data=[1])),
    "a shape whose product overflows": post(tensor(shape=[2**62 + 1, 4], data=[1, 2, 3, 4])),
    "a shape that JSON does not end": post(b'{"inputs": [{"shape": [' + b"9" * 100_000 + b"]}]}"),
    "a side below zero": post(tensor(shape=[-1, -1, 2])),
    "a side that is a fraction": post(tensor(shape=[1.5, 1, 2])),
    "100,000 nested lists": post(b"[" * 100_000),
    "100,000 nested lists as data": post(
        tensor(data="here").replace(b'"here"', b"[" * 100_000 + b"]" * 100_000)
    ),
    "600,000 chunks of one byte": chunks(),
    "gzip of 100 MB": post(gzip.compress(bytes(100 * MIB), 1), "Content-Encoding: gzip"),
    "a header longer than the body": post(b"{}", "Inference-Header-Content-Length: 99999999"),
    "a header of no length": post(b"{}", "Inference-Header-Content-Length: 0x10"),
    "binary data that is not there": post(tensor(parameters={"binary_data_size": 10**9})),
    "a body of a terabyte": post(b"")[:-4].replace(b": 0", b": 1099511627776") + b"\r\n\r\n",
    "classification": post(
        json.dumps(
            {"outputs": [{"name": "sam_masks", "parameters": {"classification": 2**31 - 1}}]}
        ).encode()
    ),
    "shared memory": post(tensor(parameters={"shared_memory_region": "x"})),
    "half of a surrogate pair": post(tensor(name="\ud800")),
    "NaN": post(tensor(data=[float("nan"), 1])),
    "numbers that are strings": post(tensor(data=["1", "2"])),
    "no JSON": post(b"\xff\xfe\x00"),
    "two megabytes of JSON": post(b" " * 2 * MIB),
    "a form of a foreign page": post(tensor(), "Content-Type: text/plain"),
    "a foreign page's script": post(tensor(), "Origin: http://attacker.example"),
    "a model that is not open": post(b"{}", path="/v2/models/decoder/infer"),
    "a model's name that is a path": post(b"{}", path="/v2/models/..%2f..%2fetc/infer"),
    "unloading a model": post(b"{}", path="/v2/repository/models/segment/unload"),
    "registering shared memory": post(b"{}", path="/v2/systemsharedmemory/region/x/register"),
    "a header of a megabyte": post(b"{}", "X-Long: " + "a" * MIB),
    "no HTTP": b"\x16\x03\x01\x02\x00" * 1000,
}


def answer(url: str, request: bytes) -> int:
    """Send bytes and return the HTTP status; 0 if the connection was closed without one."""
    host, _, port = url.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=TIMEOUT_S) as connection:
        try:
            connection.sendall(request)
            head = connection.makefile("rb").readline()
        except (ConnectionResetError, BrokenPipeError):
            return 0  # it was refused while it was sent
    match = re.match(rb"HTTP/1\.1 (\d{3})", head)
    return int(match[1]) if match else 0
