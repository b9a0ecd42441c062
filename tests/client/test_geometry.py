"""The way between original pixels and the input frame, against PyTorch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hqsam_client.contract import resized_size
from hqsam_client.mask import Mask
from hqsam_client.shared.geometry import Size, to_input_frame
from numpy.typing import NDArray
from torch.nn import functional

SIZES = [(1365, 2048), (400, 600), (517, 333), (1024, 1024), (90, 70), (1, 3000), (700, 1), (1, 1)]


def blobs(seed: int = 0) -> NDArray[np.float32]:
    """Return smooth logits with edges of all directions, float32 [256, 256]."""
    coarse = torch.randn(1, 1, 14, 14, generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(4 * coarse, (256, 256), mode="bicubic")
    return np.asarray(smooth[0, 0].numpy(), np.float32)


def reference_logits(low_res: NDArray[np.float32], size: Size) -> NDArray[np.float32]:
    """Enlarge, crop and resize one after the other, as the official code does."""
    height, width = resized_size(size)
    x = torch.from_numpy(low_res)[None, None]
    x = functional.interpolate(x, (1024, 1024), mode="bilinear", align_corners=False)
    x = functional.interpolate(x[..., :height, :width], size, mode="bilinear", align_corners=False)
    return np.asarray(x[0, 0].numpy())


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_logits_at_original_size_are_those_of_the_reference(size: Size) -> None:
    low_res = blobs()
    logits = Mask(low_res, 0.5, size).logits
    assert logits.shape == size
    np.testing.assert_allclose(logits, reference_logits(low_res, size), atol=2e-5)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_mask_is_that_of_the_reference_wherever_the_logits_are_not_zero(size: Size) -> None:
    low_res = blobs(seed=1)
    reference = reference_logits(low_res, size)
    differs = Mask(low_res, 0.5, size).array != (reference > 0)
    assert np.abs(reference[differs]).max(initial=0) < 2e-5


@pytest.mark.parametrize(
    ("size", "resized"),
    [
        ((1365, 2048), (683, 1024)),
        ((400, 600), (683, 1024)),
        ((517, 333), (1024, 660)),
        ((1024, 1024), (1024, 1024)),
        ((1, 20000), (1, 1024)),
        ((1, 1), (1024, 1024)),
    ],
)
def test_the_longest_side_becomes_1024_and_no_side_less_than_1(size: Size, resized: Size) -> None:
    assert resized_size(size) == resized


def test_points_are_scaled_axis_by_axis() -> None:
    points = np.array([[0.0, 0.0], [333.0, 517.0], [100.0, 100.0]])
    expected = [[0.0, 0.0], [660.0, 1024.0], [100 * 660 / 333, 100 * 1024 / 517]]
    np.testing.assert_allclose(to_input_frame(points, (517, 333)), expected, rtol=1e-6)
