"""Checks for images of few bytes and pixels that would keep a reader busy for minutes or hours.

Ordinary files have few of each of these, and Pillow does not limit them:

- read steps: a reader in Python goes through 16 million empty segments of a JPEG file, or chunks
  of a PNG file, one by one;
- scans of a progressive JPEG: a scan of 56 bytes passes over all pixels again;
- numbers in a tag of a TIFF file: each strip offset becomes an object;
- comments among the numbers of a plain PPM file: each one copies up to a megabyte.

A time limit on decoding could not replace them. It would have to allow the seconds that a large
JPEG 2000 file takes, for each hostile file; these checks refuse it in milliseconds. And it needs a
process of its own to kill, as decoders do not return to Python in between.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Any

from PIL import Image

from hqsam_server.errors import BadRequestError

MAX_HEADER_STEPS = 10_000
MAX_STEPS = 4_000_000
MAX_SCANS = 100
MAX_TAG_NUMBERS = 2**18
MAX_COMMENTS = 1_000

_PLAIN_PPM = (b"P1", b"P2", b"P3")
_TIFF = (b"II", b"MM")
_BIG_TIFF = 43
# Types of a TIFF tag that stay bytes: BYTE, ASCII and UNDEFINED.
_BYTES = (1, 2, 7)

# JPEG's markers, except those without a length, and 0xFF00, which is a byte 0xFF of data.
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9


class SteppedBytes(io.BytesIO):
    """An image's bytes, which can be read in a limited number of steps.

    Attributes:
        max_steps: the limit; the next step raises `BadRequestError`.
    """

    def __init__(self, encoded: bytes | memoryview, max_steps: int) -> None:
        super().__init__(encoded)
        self.max_steps = max_steps
        self._steps = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, which counts as a step."""
        self._steps += 1
        if self._steps > self.max_steps:
            raise _too_many("pieces", self.max_steps)
        return super().read(size)


def check_before_open(encoded: bytes | memoryview) -> None:
    """Refuse files that would keep Pillow busy when it reads the header.

    Raises:
        BadRequestError: a TIFF file has too many numbers in a tag.
    """
    if bytes(encoded[:2]) in _TIFF and _tag_numbers(encoded) > MAX_TAG_NUMBERS:
        raise _too_many("numbers in a TIFF tag", MAX_TAG_NUMBERS)


def check_before_decode(encoded: bytes | memoryview, image: Image.Image) -> None:
    """Refuse files that would keep a decoder busy.

    Args:
        encoded: the bytes of the file.
        image: the same, opened by Pillow.

    Raises:
        BadRequestError: it has too many scans or comments.
    """
    if "progressive" in image.info and _has_many_scans(encoded):
        raise _too_many("scans", MAX_SCANS)
    plain = bytes(encoded[:2]) in _PLAIN_PPM
    if plain and bytes(encoded).count(b"#") > MAX_COMMENTS:
        raise _too_many("comments", MAX_COMMENTS)


def _too_many(what: str, limit: int) -> BadRequestError:
    return BadRequestError(
        f"the image has more than {limit} {what}, which no ordinary file has: "
        "save it again with an image editor"
    )


def _tag_numbers(encoded: bytes | memoryview) -> int:
    """Return how many numbers the longest tag has in a TIFF file's first directory."""
    order = "<" if encoded[0] == _TIFF[0][0] else ">"
    # Pillow looks at this byte, whatever the byte order.
    big = len(encoded) > 2 and encoded[2] == _BIG_TIFF
    entry = struct.Struct(f"{order}HHQ8x" if big else f"{order}HHL4x")

    def number(kind: str, offset: int) -> Any:
        return struct.unpack_from(order + kind, encoded, offset)[0]

    try:
        directory = number("Q", 8) if big else number("L", 4)
        tags = number("Q", directory) if big else number("H", directory)
        start = directory + (8 if big else 2)
        available = (len(encoded) - start) // entry.size
        # Pillow judges a directory that ends early; it reads each entry in a step.
        end = start + entry.size * max(0, min(tags, available, MAX_HEADER_STEPS))
        entries = entry.iter_unpack(encoded[start:end])
        return max((count for _, kind, count in entries if kind not in _BYTES), default=0)
    except struct.error:
        return 0


def _has_many_scans(encoded: bytes | memoryview) -> bool:
    """Tell whether a JPEG file has too many scans, or segments around them, before its end."""
    position, scans, segments = 2, 0, 0
    while match := _MARKER.search(encoded, position):
        marker = encoded[match.end() - 1]
        if marker == _END_OF_IMAGE:
            break
        segments += 1
        scans += marker == _START_OF_SCAN
        if scans > MAX_SCANS or segments > MAX_HEADER_STEPS:
            return True
        length = int.from_bytes(encoded[match.end() : match.end() + 2], "big")
        position = match.end() + max(2, length)
    return False
