"""Frames: original pixels, the 1024 frame, and the way of masks between them.

The model sees a picture scaled so that its longest side is 1024, padded on the right
and at the bottom. Sizes are (height, width); points are (x, y).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hqsam_client.contract import INPUT_SIZE, MASK_SIZE

Size = tuple[int, int]
"""(height, width) in pixels."""

# Rows of a mask that are worked on at once: few enough to stay in the processor's
# cache, many enough to keep Python's share of the time small.
_BAND_ROWS = 32


def resized_size(size: Size) -> Size:
    """Return (height, width) that a picture of `size` has inside the 1024 frame."""
    scale = INPUT_SIZE / max(size)
    # A side that the official formula rounds to nothing is one pixel.
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def to_input_frame(points: NDArray[np.float64], size: Size) -> NDArray[np.float32]:
    """Scale points [..., 2], (x, y), from original pixels to the 1024 frame."""
    new_height, new_width = resized_size(size)
    return (points * (new_width / size[1], new_height / size[0])).astype(np.float32)


def upsampled_bands(
    logits: NDArray[np.float32], size: Size
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Bring low-resolution logits to the picture's size, band by band.

    The reference enlarges 256 to 1024 bilinearly, crops the padding away and resizes
    to the original size bilinearly, without antialiasing, with half-pixel centres. All
    of that is linear and separable: one matrix per axis, of at most four neighbouring
    weights a row, so a band of rows needs only a few rows of the other axis' product.

    Args:
        logits: float32 [256, 256], rows first, over the whole 1024 frame.
        size: (height, width) in original pixels.

    Yields:
        The rows as a slice, and their logits, float32 [rows, width]. The array is
        reused for the next band.
    """
    height, width = size
    new_height, new_width = resized_size(size)
    rows, first, last = _axis_weights(height, new_height)  # [height, 256]
    columns, _, _ = _axis_weights(width, new_width)  # [width, 256]
    wide = logits @ columns.T  # [256, width]
    buffer = np.empty((min(_BAND_ROWS, height), width), np.float32)
    for start in range(0, height, _BAND_ROWS):
        band = slice(start, min(start + _BAND_ROWS, height))
        taps = slice(first[band.start], last[band.stop - 1] + 1)
        out = buffer[: band.stop - band.start]
        yield band, np.matmul(rows[band, taps], wide[taps], out=out)


def _axis_weights(
    size_px: int, resized_px: int
) -> tuple[NDArray[np.float32], NDArray[np.intp], NDArray[np.intp]]:
    """Compose both interpolations along one axis.

    Returns:
        Weights, float32 [size_px, 256], and for each row the first and the last column
        that may be other than zero.
    """
    low, high, fraction = _taps(size_px, resized_px)
    inner_low, inner_high, inner_fraction = _taps(INPUT_SIZE, MASK_SIZE)
    weights = np.zeros((size_px, MASK_SIZE), np.float32)
    row = np.arange(size_px)
    for tap, weight in ((low, 1 - fraction), (high, fraction)):
        weights[row, inner_low[tap]] += weight * (1 - inner_fraction[tap])
        weights[row, inner_high[tap]] += weight * inner_fraction[tap]
    return weights, inner_low[low], inner_high[high]


def _taps(
    out_px: int, in_px: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the two neighbours and the second one's weight of each bilinear sample, [out_px]."""
    # In float32, as PyTorch computes them.
    centres = (np.arange(out_px, dtype=np.float32) + np.float32(0.5)) * np.float32(in_px / out_px)
    position = np.maximum(centres - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.intp), in_px - 1)
    return low, np.minimum(low + 1, in_px - 1), (position - low).astype(np.float32)
