"""Frames: points from original pixels to the input frame, and masks back.

The model sees an image scaled so that its longest side is 1024, padded on the right
and at the bottom. Sizes are (height, width); points are (x, y).

Neither Pillow nor NumPy gives the reference's logits: Pillow antialiases when it shrinks, and
NumPy has no interpolation in two dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hqsam_client.contract import INPUT_SIZE, MASK_SIZE, resized_size

Size = tuple[int, int]
"""(height, width) in pixels."""

# Multiply-adds of a matrix product that BLAS libraries still do in one thread. Their threads
# wait busily for more work, and would take the processor from a server on the same machine.
_ONE_THREAD = 1 << 18

# Rows or columns in a band: few, so that each band depends on little of the other axis.
_BAND = 16

# Sides of which the interpolation is kept: it takes a kilobyte a pixel.
_LONGEST_KEPT = 1 << 14


def to_input_frame(points: NDArray[np.float64], size: Size) -> NDArray[np.float32]:
    """Scale points [..., 2], (x, y), from original pixels to the input frame."""
    new_height, new_width = resized_size(size)
    return (points * (new_width / size[1], new_height / size[0])).astype(np.float32)


def upsampled_bands(
    logits: NDArray[np.float32], size: Size
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Interpolate low-resolution logits to the image's size, band by band.

    The reference enlarges 256 to 1024 bilinearly, crops the padding away and resizes
    to the original size bilinearly, without antialiasing, with half-pixel centres. All
    of that is linear and separable: one matrix per axis, of at most four neighbouring
    weights a row, so a band of rows needs only a few rows of the other axis' product.

    Args:
        logits: float32 [256, 256], rows first, over the whole input frame.
        size: (height, width) in original pixels.

    Yields:
        The rows as a slice, and their logits, float32 [rows, width]. The array is
        reused for the next band, and the last band repeats rows of the one before.
    """
    height, width = size
    new_height, new_width = resized_size(size)
    rows, columns = _axis(height, new_height), _axis(width, new_width)
    wide = np.empty((MASK_SIZE, width), np.float32)
    for band, taps in _bands(columns, _BAND):
        np.matmul(logits[:, taps], columns.weights[band, taps].T, out=wide[:, band])
    size_of_band = min(height, max(2, min(_BAND, _ONE_THREAD // (12 * width))))
    buffer = np.empty((size_of_band, width), np.float32)
    for band, taps in _bands(rows, size_of_band):
        yield band, np.matmul(rows.weights[band, taps], wide[taps], out=buffer)


@dataclass(frozen=True)
class _Axis:
    """Both interpolations along one axis, composed.

    Attributes:
        weights: float32 [size_px, 256].
        first: for each row, the first column that may be other than zero, [size_px].
        last: the last one.
    """

    weights: NDArray[np.float32]
    first: NDArray[np.intp]
    last: NDArray[np.intp]


def _bands(axis: _Axis, size: int) -> Iterator[tuple[slice, slice]]:
    """Cut an axis into bands; yield each as a slice, and the columns that it needs.

    All have one size, so the last may overlap the one before: BLAS libraries thread products
    of a single row even when they are small.
    """
    length = len(axis.weights)
    for offset in range(0, length, size):
        start = max(0, min(offset, length - size))
        stop = min(start + size, length)
        yield slice(start, stop), slice(axis.first[start], axis.last[stop - 1] + 1)


def _axis(size_px: int, resized_px: int) -> _Axis:
    return (_kept_axis if size_px <= _LONGEST_KEPT else _new_axis)(size_px, resized_px)


# A user clicks again and again on images of one size. The axes of 12 megapixels take 7 MB.
@lru_cache(maxsize=4)
def _kept_axis(size_px: int, resized_px: int) -> _Axis:
    return _new_axis(size_px, resized_px)


def _new_axis(size_px: int, resized_px: int) -> _Axis:
    low, high, fraction = _taps(size_px, resized_px)
    inner_low, inner_high, inner_fraction = _taps(INPUT_SIZE, MASK_SIZE)
    weights = np.zeros((size_px, MASK_SIZE), np.float32)
    row = np.arange(size_px)
    for tap, weight in ((low, 1 - fraction), (high, fraction)):
        weights[row, inner_low[tap]] += weight * (1 - inner_fraction[tap])
        weights[row, inner_high[tap]] += weight * inner_fraction[tap]
    return _Axis(weights, inner_low[low], inner_high[high])


def _taps(
    out_px: int, in_px: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Return the two neighbours and the second one's weight of each bilinear sample, [out_px]."""
    # In float32, as PyTorch computes them.
    centres = (np.arange(out_px, dtype=np.float32) + np.float32(0.5)) * np.float32(in_px / out_px)
    position = np.maximum(centres - np.float32(0.5), np.float32(0))
    low = np.minimum(position.astype(np.intp), in_px - 1)
    return low, np.minimum(low + 1, in_px - 1), (position - low).astype(np.float32)
