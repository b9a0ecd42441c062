"""Measures of a mask against the true one: IoU, boundary IoU, and the click that corrects it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BoolMask = NDArray[np.bool_]
"""bool [height, width], original pixels."""


def iou(mask: BoolMask, truth: BoolMask) -> float:
    """Return intersection over union, 0 to 1; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_iou(mask: BoolMask, truth: BoolMask, dilation_ratio: float = 0.02) -> float:
    """Return the IoU of the two masks' boundaries (arXiv 2103.16562).

    A mask's boundary is its pixels within a distance of its contour. The image's edge counts
    as contour.

    Args:
        mask: bool [height, width].
        truth: as `mask`.
        dilation_ratio: the distance, as a share of the image's diagonal; 0.02 is the
            paper's, and HQ-SAM's.
    """
    height, width = truth.shape
    distance = max(1, round(dilation_ratio * float(np.hypot(height, width))))
    return iou(_boundary(mask, distance), _boundary(truth, distance))


def _boundary(mask: BoolMask, distance: int) -> BoolMask:
    # Eroding with a 3 x 3 square takes away one unit of the chessboard distance.
    return mask & (_depth(mask, chessboard=True) <= distance)


def next_click(mask: BoolMask, truth: BoolMask) -> tuple[int, int, int] | None:
    """Return the click that corrects a mask: in the middle of its largest error.

    As in the interactive segmentation protocol (arXiv 2102.06583): the pixel farthest from
    the border of the missing or of the surplus region, whichever reaches deeper.

    Args:
        mask: bool [height, width].
        truth: as `mask`.

    Returns:
        column and row of the pixel, which are the coordinates x and y of its centre, and the
        label: 1 if the mask lacks the pixel, 0 if it has it in excess. None if there is no
        error.
    """
    missing, surplus = _depth(truth & ~mask), _depth(mask & ~truth)
    errors = missing if missing.max() >= surplus.max() else surplus
    if errors.max() == 0:
        return None
    row, column = np.unravel_index(int(errors.argmax()), errors.shape)
    return int(column), int(row), int(errors is missing)


def _depth(mask: BoolMask, chessboard: bool = False) -> NDArray[np.float32]:
    """Return each pixel's distance to the nearest pixel outside the mask, 0 outside."""
    padded = np.pad(mask.view(np.uint8), 1)
    kind, size = (cv2.DIST_C, 3) if chessboard else (cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distances = cv2.distanceTransform(padded, kind, size)[1:-1, 1:-1]
    return np.asarray(distances, np.float32)
