"""Finished masks: from logits to run lengths and PNG, band by band.

Client and server share it, so that both give the same pixels, and neither needs memory for the
whole mask.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hqsam_client.shared.geometry import Size, upsampled_bands
from hqsam_client.shared.run_lengths import RunLengths

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ONE_BIT_GREY = (1, 0, 0, 0, 0)  # bits, colour type, and the only compression, filter, interlace
_UP = 2
"""PNG's filter that subtracts the row above: most rows of a mask are like it."""


_ROWS = 16
_PIXELS = 1 << 18


class Finished(NamedTuple):
    """A mask that needs no further work.

    Attributes:
        runs: its run lengths, which know box and area.
        png: a 1-bit PNG file, white the object; None if it was not asked for.
    """

    runs: RunLengths
    png: bytes | None


def mask_bands(
    logits: NDArray[np.float32], size: Size
) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Yield the mask of low-resolution logits, rows by rows, from top to bottom.

    Args:
        logits: float32 [256, 256], rows first, over the whole input frame.
        size: (height, width) in original pixels.

    Yields:
        The rows as a slice, each row once, and whether the logits exceed 0, bool [rows, width].
        The array is reused for the next rows.
    """
    height, width = size
    # More rows than an interpolated band has: what follows works on all of them at once.
    block = np.empty((min(height, max(_ROWS, _PIXELS // width)), width), np.bool_)
    first = filled = 0
    for rows, values in upsampled_bands(logits, size):
        left = values[first + filled - rows.start :]  # the last band repeats rows
        while len(left):
            part = left[: len(block) - filled]
            np.greater(part, 0, out=block[filled : filled + len(part)])
            filled += len(part)
            left = left[len(part) :]
            if filled == len(block):
                yield slice(first, first + filled), block
                first, filled = first + filled, 0
    if filled:
        yield slice(first, first + filled), block[:filled]


def finish(
    logits: NDArray[np.float32], size: Size, *, png: bool = False, most_runs: int | None = None
) -> Finished:
    """Return the finished mask of low-resolution logits.

    Args:
        logits: float32 [256, 256], rows first, over the whole input frame.
        size: (height, width) in original pixels.
        png: whether to make the PNG file, too.
        most_runs: runs that there may be; None for any number.

    Raises:
        RunLengthsError: there are more.
    """
    bands = (band for _, band in mask_bands(logits, size))
    if not png:
        return Finished(RunLengths.of_rows(bands, size, most_runs), None)
    file = PngFile(size)
    runs = RunLengths.of_rows(file.through(bands), size, most_runs)
    return Finished(runs, file.content())


class PngFile:
    """A mask as a PNG file of one bit a pixel, written band by band."""

    def __init__(self, size: Size) -> None:
        """Begin a file for a mask of (height, width) pixels."""
        self._size = size
        self._deflate = zlib.compressobj(strategy=zlib.Z_RLE)  # smaller here, and fast
        self._parts: list[bytes] = []
        self._last = np.zeros((size[1] + 7) // 8, np.uint8)

    def through(self, bands: Iterator[NDArray[np.bool_]]) -> Iterator[NDArray[np.bool_]]:
        """Write bands, bool [rows, width], from top to bottom, and yield them."""
        for band in bands:
            self.add(band)
            yield band

    def add(self, band: NDArray[np.bool_]) -> None:
        """Write rows, bool [rows, width]."""
        packed = np.packbits(band, axis=1)  # [rows, ceil(width / 8)]
        lines = np.empty((len(packed), 1 + packed.shape[1]), np.uint8)
        lines[:, 0] = _UP
        np.subtract(packed[0], self._last, out=lines[0, 1:])
        np.subtract(packed[1:], packed[:-1], out=lines[1:, 1:])
        self._last = packed[-1]
        self._parts.append(self._deflate.compress(lines.tobytes()))

    def content(self) -> bytes:
        """Return the file; all rows have been written."""
        height, width = self._size
        data = b"".join([*self._parts, self._deflate.flush()])
        header = struct.pack(">II5B", width, height, *_ONE_BIT_GREY)
        chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b""))
        return b"".join([_SIGNATURE, *chunks])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
