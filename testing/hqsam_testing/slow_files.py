"""Image files of few bytes or pixels that keep a decoder busy, each with its story.

What readers and decoders have in common: they do something for each segment, scan, tag or number,
and a file may have millions of those. No check of headers knew them all, so the decoder has a
budget.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from PIL import Image

from hqsam_testing.hostile_files import (
    HEIGHT,
    SIZE,
    WIDTH,
    chunk,
    jpeg,
    png,
    segment,
    tiff,
    with_sides,
)
from hqsam_testing.image_files import encoded

SIDE = 4000
LARGE = (SIDE, SIDE)

_SCAN_OF_ONE_COMPONENT = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00")


def jpeg_of_three_thousand_empty_scans() -> bytes:
    """30 KB. A baseline JPEG may have scans too, and each passes over all pixels again.

    They held the process that decoded, and everybody's embed with it, for 40 s. A bound on scans
    had looked at progressive files alone.
    """
    whole = with_sides(encoded(Image.new("RGB", (8, 8)), "JPEG"), SIDE, SIDE)
    return whole[: whole.index(b"\xff\xda")] + _SCAN_OF_ONE_COMPONENT * 3000 + b"\xff\xd9"


def jpeg_of_scans_behind_a_reserved_marker() -> bytes:
    """FF 02 before each scan hid it from a parser that took FF DA for the length of FF 02.

    In a file with restart intervals, the JPEG library skips such a marker.
    """
    whole = encoded(Image.new("L", (2048, 2048), 128), "JPEG", progressive=True)
    interval = segment(0xDD, struct.pack(">H", 1))
    scan = whole.rindex(b"\xff\xda")
    hidden = (b"\xff\x02" + whole[scan:-2]) * 1000
    return whole[:2] + interval + whole[2:-2] + hidden + whole[-2:]


def jpeg_of_a_thousand_progressive_scans() -> bytes:
    """A scan of 56 bytes passes over all pixels again."""
    whole = encoded(Image.new("L", (2048, 2048), 128), "JPEG", progressive=True)
    tables = whole.rindex(b"\xff\xc4")
    return whole[:-2] + whole[tables:-2] * 1000 + whole[-2:]


def jpeg_of_ten_million_segments() -> bytes:
    """39 MB, which gzip makes 43 KB. A reader in Python goes through empty APP1 one by one.

    They held `embed` itself, which checked headers, for 60 s.
    """
    return jpeg(segment(0xE1, b"") * 10_000_000)


def ppm_of_numbers_in_text() -> bytes:
    """A plain PPM: Python turns each number, which is text, into an object."""
    return b"P2 4000 4000 255\n" + b"1 " * SIDE**2


def ppm_of_comments() -> bytes:
    """A plain PPM: each comment among its numbers copies up to a megabyte."""
    return b"P3 60 40 255\n" + b"#\n" * 500_000 + b"1 " * (3 * WIDTH * HEIGHT)


def png_of_millions_of_orientations() -> bytes:
    """An EXIF block of a PNG, unlike a JPEG's, may be large: each fraction becomes an object."""
    count = 5_000_000
    entry = struct.pack(">HHII", 0x0112, 5, count, 26)
    exif = b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + entry + bytes(4) + bytes(8 * count)
    return png(chunk(b"eXIf", exif))


def tiff_of_strips() -> bytes:
    """Each of 300,000 strips becomes an object, and a tile that is looked for among the others."""
    return tiff(tag_273=(3, 300_000, 1000), tag_278=(3, 1, 1)) + bytes(600_000)


CASES: dict[Callable[[], bytes], tuple[int, int]] = {
    jpeg_of_three_thousand_empty_scans: LARGE,
    jpeg_of_scans_behind_a_reserved_marker: (2048, 2048),
    jpeg_of_a_thousand_progressive_scans: (2048, 2048),
    jpeg_of_ten_million_segments: SIZE,
    ppm_of_numbers_in_text: LARGE,
    ppm_of_comments: SIZE,
    png_of_millions_of_orientations: SIZE,
    tiff_of_strips: SIZE,
}
"""Each file, and the (height, width) that it has if the budget is enough to read it."""
