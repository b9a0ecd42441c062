"""Requests of the page: an image file, or a line of JSON followed by the logits of masks.

A mask travels as its low-resolution logits, float32 [256, 256], little-endian: 256 KiB, which
the browser enlarges for the screen and for files. The browser sends them back to refine a mask,
so the server keeps no masks.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, TypeAlias

import numpy as np
from hqsam_client.contract import MASK_SIZE
from numpy.typing import NDArray
from starlette.requests import Request

from hqsam_ui.errors import PageError

Logits: TypeAlias = NDArray[np.float32]
"""float32 [256, 256], rows first, over the whole input frame."""

MASK_BYTES = 4 * MASK_SIZE * MASK_SIZE
MAX_JSON_BYTES = 256 * 1024

BODY_TIMEOUT_S = 120.0
"""Time to send a request: a slow one must not keep others waiting."""


async def body(request: Request, limit_bytes: int) -> bytes:
    """Read a request's body.

    Raises:
        PageError: it is longer than the limit, the rest is not read; or it takes too long.
    """
    try:
        announced = int(request.headers.get("content-length", "0"))
    except ValueError as error:
        raise PageError(400, "request", "content-length is not a number") from error
    if announced > limit_bytes:
        raise _too_large(limit_bytes)
    try:
        return await asyncio.wait_for(_read(request, limit_bytes), BODY_TIMEOUT_S)
    except asyncio.TimeoutError as error:
        raise PageError(
            408, "slow", f"the request took more than {BODY_TIMEOUT_S:g} s to send: try again"
        ) from error


async def _read(request: Request, limit_bytes: int) -> bytes:
    received = bytearray()
    async for chunk in request.stream():
        received += chunk
        if len(received) > limit_bytes:
            raise _too_large(limit_bytes)
    return bytes(received)


def _too_large(limit_bytes: int) -> PageError:
    return PageError(413, "too-large", f"the request is larger than {limit_bytes / 2**20:.3g} MiB")


def read(body: bytes) -> tuple[dict[str, Any], list[Logits]]:
    """Split a body into its JSON fields and its masks.

    Raises:
        PageError: it has another form.
    """
    line, _, rest = body.partition(b"\n")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _invalid("a first line that is not JSON") from error
    if not isinstance(fields, dict):
        raise _invalid("a first line that is not a JSON object")
    if len(rest) % MASK_BYTES:
        raise _invalid(f"{len(rest)} bytes of masks, expected a multiple of {MASK_BYTES}")
    masks = np.frombuffer(rest, "<f4").reshape(-1, MASK_SIZE, MASK_SIZE)
    if not np.isfinite(masks).all():
        raise _invalid("logits that are not finite")
    return fields, [mask.astype(np.float32) for mask in masks]


def write(logits: Logits) -> bytes:
    """Return the bytes of one mask's logits."""
    return logits.astype("<f4").tobytes()


def prompt(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `segment` for one prompt; the client checks the numbers.

    Raises:
        PageError: a field has another form.
    """
    points = fields.get("points") or None
    # One level deeper, points would be many prompts and the answer many masks.
    if points is not None and not (
        isinstance(points, list)
        and all(isinstance(point, list) and len(point) == 2 for point in points)
        and all(isinstance(value, (int, float)) for point in points for value in point)
    ):
        raise _invalid("points that are not pairs of numbers")
    mode = fields.get("mode", "hq")
    if not isinstance(mode, str):
        raise _invalid("a mode that is not a string")
    labels = fields.get("labels") or None
    return {"points": points, "labels": labels, "box": fields.get("box"), "mode": mode}


def _invalid(what: str) -> PageError:
    return PageError(400, "request", f"the page sent {what}: reload it")
