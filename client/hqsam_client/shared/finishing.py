"""Finished masks: from logits to run lengths and PNG, band by band.

Client and server share it, so that both give the same pixels. Run lengths need no memory for the whole
mask; a PNG file needs a byte for each of its pixels while it is written.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hqsam_client.shared.geometry import Size, upsampled_bands
from hqsam_client.shared.run_lengths import RunLengths

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
    """A mask as a PNG file of one bit a pixel, from bands."""

    def __init__(self, size: Size) -> None:
        """Begin a file for a mask of (height, width) pixels."""
        self._size = size
        self._packed: list[bytes] = []

    def through(self, bands: Iterator[NDArray[np.bool_]]) -> Iterator[NDArray[np.bool_]]:
        """Take bands, bool [rows, width], from top to bottom, and yield them."""
        for band in bands:
            self._packed.append(np.packbits(band, axis=1).tobytes())
            yield band

    def content(self) -> bytes:
        """Return the file; all rows have been taken."""
        height, width = self._size
        file = io.BytesIO()
        image = Image.frombytes("1", (width, height), b"".join(self._packed))
        image.save(file, "PNG", compress_level=1)
        return file.getvalue()
