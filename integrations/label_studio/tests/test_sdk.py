"""Our encoding of brush masks, against the one of the real `label-studio-sdk`."""

from __future__ import annotations

import numpy as np
import pytest
from hqsam_label_studio import brush
from label_studio_sdk.converter import brush as real
from numpy.typing import NDArray


def masks() -> list[NDArray[np.bool_]]:
    large = np.zeros((400, 300), np.bool_)
    large[3:390, 7:251] = True
    noise = np.random.default_rng(0).random((40, 30)) > 0.5
    return [large, noise, np.zeros((5, 7), np.bool_), np.ones((5, 7), np.bool_)]


@pytest.mark.parametrize("mask", masks())
def test_label_studio_reads_our_masks_and_we_read_its(mask: NDArray[np.bool_]) -> None:
    read = real.decode_rle(brush.encode(mask)).reshape(*mask.shape, 4)
    # All four channels: Label Studio draws alpha, its PNG export takes it as grey.
    assert all(np.array_equal(read[..., channel] > 0, mask) for channel in range(4))
    assert np.array_equal(brush.decode(real.mask2rle(mask * np.uint8(255)), mask.shape), mask)


@pytest.mark.parametrize("mask", masks())
def test_runs_are_as_long_as_label_studio_makes_them(mask: NDArray[np.bool_]) -> None:
    assert len(brush.encode(mask)) <= len(real.mask2rle(mask * np.uint8(255)))
