"""What the browser sends besides files: a line of JSON, and behind it the logits of masks.

A mask travels as its low-resolution logits, float32 [256, 256], little-endian: 256 KiB that
the browser enlarges to whatever it shows. They come back to be refined or downloaded, so
that nothing about a mask has to be remembered here.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import numpy as np
from hqsam_client.contract import MASK_SIZE
from numpy.typing import NDArray

from hqsam_ui.errors import RefusedError

Logits: TypeAlias = NDArray[np.float32]
"""float32 [256, 256], rows first, over the whole input frame."""

MASK_BYTES = 4 * MASK_SIZE * MASK_SIZE
MAX_JSON_BYTES = 256 * 1024
MAX_OBJECTS = 64
"""In one download."""


def read(body: bytes) -> tuple[dict[str, Any], list[Logits]]:
    """Take a request apart.

    Raises:
        RefusedError: it is none.
    """
    line, _, rest = body.partition(b"\n")
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _wrong("the first line is not JSON") from error
    if not isinstance(fields, dict):
        raise _wrong("the first line is not a JSON object")
    if len(rest) % MASK_BYTES:
        raise _wrong(f"{len(rest)} bytes of masks, expected a multiple of {MASK_BYTES}")
    masks = np.frombuffer(rest, "<f4").reshape(-1, MASK_SIZE, MASK_SIZE)
    if not np.isfinite(masks).all():
        raise _wrong("logits that are not finite")
    return fields, [mask.astype(np.float32) for mask in masks]


def write(logits: Logits) -> bytes:
    """Return the bytes of one mask's logits."""
    return logits.astype("<f4").tobytes()


def prompt(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `segment` that make up one prompt; the client checks numbers.

    Raises:
        RefusedError: they are of another shape than one prompt's.
    """
    points = fields.get("points") or None
    # Points a level deeper would be many prompts, and the answer many masks.
    if points is not None and not (
        isinstance(points, list)
        and all(isinstance(point, list) and len(point) == 2 for point in points)
        and all(isinstance(value, (int, float)) for point in points for value in point)
    ):
        raise _wrong("points that are not pairs of numbers")
    mode = fields.get("mode", "hq")
    if not isinstance(mode, str):
        raise _wrong("a mode that is no name")
    labels = fields.get("labels") or None
    return {"points": points, "labels": labels, "box": fields.get("box"), "mode": mode}


def objects(fields: dict[str, Any], masks: list[Logits]) -> list[dict[str, Any]]:
    """Return the objects that a download is of, as many as there are masks.

    Raises:
        RefusedError: there are none, too many, or a different number.
    """
    found = fields.get("objects")
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise _wrong("no list of objects")
    if not found or len(found) != len(masks) or len(found) > MAX_OBJECTS:
        raise _wrong(f"{len(found)} objects with {len(masks)} masks, expected 1 to {MAX_OBJECTS}")
    return found


def color(entry: dict[str, Any]) -> tuple[int, int, int]:
    """Return an object's colour, RGB, 0 to 255.

    Raises:
        RefusedError: it is none.
    """
    value = entry.get("color")
    if (
        not isinstance(value, list)
        or len(value) != 3
        or not all(isinstance(part, int) and 0 <= part <= 255 for part in value)
    ):
        raise _wrong("a colour that is not three numbers from 0 to 255")
    red, green, blue = value
    return red, green, blue


def number(entry: dict[str, Any], name: str) -> float:
    """Return a number from 0 to 1, or 0 where there is none."""
    value = entry.get(name)
    return float(value) if isinstance(value, (int, float)) and 0 <= value <= 1 else 0.0


def _wrong(what: str) -> RefusedError:
    return RefusedError(400, "request", f"the page sent {what}: reload it")
