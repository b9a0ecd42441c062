"""Finished masks: from logits to run lengths and PNG, band by band.

Client and server share it, so that both give the same pixels. Run lengths need no memory for the
whole mask; a PNG file needs a byte for each of its pixels while it is written.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Quality:
    """What a mask needs in order to be finished, as the authors' mask generator filters masks.

    Its attributes have the names of the contract's `QUALITY_INPUTS`.

    Attributes:
        pred_iou_thresh: the predicted IoU has to be above it; 0 or less for no filter.
        stability_score_thresh: the stability score has to reach it; 0 or less for no filter.
        stability_score_offset: how far from 0 the logits are cut for that score.
    """

    pred_iou_thresh: float = 0.0
    stability_score_thresh: float = 0.0
    stability_score_offset: float = 1.0

    def accepts_iou(self, iou: float) -> bool:
        """Tell whether a predicted IoU is good enough."""
        return self.pred_iou_thresh <= 0 or iou > self.pred_iou_thresh

    def accepts_stability(self, score: float) -> bool:
        """Tell whether a stability score is good enough."""
        return self.stability_score_thresh <= 0 or score >= self.stability_score_thresh


ANY_QUALITY = Quality()
"""Every mask is finished."""


def _new_rows(logits: NDArray[np.float32], size: Size) -> Iterator[NDArray[np.float32]]:
    """Yield each row of `upsampled_bands` once, some at a time: its last band repeats rows."""
    first = 0
    for rows, values in upsampled_bands(logits, size):
        yield values[first - rows.start :]
        first = rows.stop


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
    for new in _new_rows(logits, size):
        left = new
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
    packed: list[bytes] = []

    def bands() -> Iterator[NDArray[np.bool_]]:
        for _, band in mask_bands(logits, size):
            if png:
                packed.append(np.packbits(band, axis=1).tobytes())
            yield band

    runs = RunLengths.of_rows(bands(), size, most_runs)
    return Finished(runs, png_file(b"".join(packed), size) if png else None)


def stability_score(logits: NDArray[np.float32], size: Size, offset: float) -> float:
    """Return how little a mask depends on where its logits are cut, 0 to 1.

    It is the IoU of the masks of logits above `offset` and above ``-offset``, as in the authors'
    `calculate_stability_score`; 0 if both are empty.

    Args:
        logits: float32 [256, 256], rows first, over the whole input frame.
        size: (height, width) in original pixels, whose pixels are counted.
        offset: 0 or more.
    """
    inner = outer = 0
    for rows in _new_rows(logits, size):
        inner += int(np.count_nonzero(rows > offset))
        outer += int(np.count_nonzero(rows > -offset))
    return float(np.float32(inner) / np.float32(outer)) if outer else 0.0


def png_file(packed: bytes, size: Size) -> bytes:
    """Return a mask as a PNG file of one bit a pixel.

    Args:
        packed: eight pixels in a byte, each row padded to whole bytes, as `numpy.packbits` does.
        size: (height, width) in pixels.
    """
    height, width = size
    file = io.BytesIO()
    Image.frombytes("1", (width, height), packed).save(file, "PNG", compress_level=1)
    return file.getvalue()
