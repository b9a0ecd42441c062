"""How good masks are: intersection over union, boundary IoU, and number of clicks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hqsam_client.client import RemoteImage
from hqsam_client.errors import MissingPackageError
from hqsam_client.mask import Mask
from hqsam_client.shared.protocol import Mode
from numpy.typing import NDArray

TARGETS = (0.85, 0.90, 0.95)
"""IoU whose number of clicks is reported."""

BoolMask = NDArray[np.bool_]
"""bool [height, width], original pixels."""


def iou(mask: BoolMask, truth: BoolMask) -> float:
    """Return intersection over union, 0 to 1; 1 where both are empty."""
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


def boundary_iou(mask: BoolMask, truth: BoolMask, dilation_ratio: float = 0.02) -> float:
    """Return the IoU of the two masks' boundaries (arXiv 2103.16562).

    A boundary is what lies in the mask within a distance of its contour. The image's edge
    counts as a contour.

    Args:
        mask: bool [height, width].
        truth: as `mask`.
        dilation_ratio: the distance, as a share of the image's diagonal; 0.02 is the
            paper's, and HQ-SAM's.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    height, width = truth.shape
    distance = max(1, round(dilation_ratio * float(np.hypot(height, width))))
    return iou(_boundary(mask, distance), _boundary(truth, distance))


def _boundary(mask: BoolMask, distance: int) -> BoolMask:
    # Eroding with a 3 x 3 square takes away one unit of the chessboard distance.
    return mask & (_depth(mask, chessboard=True) <= distance)


def next_click(mask: BoolMask, truth: BoolMask) -> tuple[float, float, int] | None:
    """Return the click that corrects a mask: at the centre of its largest error.

    As in the interactive segmentation protocol (arXiv 2102.06583): the point farthest from
    the border of the missing or of the surplus region, whichever reaches deeper.

    Args:
        mask: bool [height, width].
        truth: as `mask`.

    Returns:
        x and y in original pixels, the pixel's centre, and the label, 1 where the mask lacks
        the point; None where there is no error.

    Raises:
        MissingPackageError: OpenCV is not installed.
    """
    missing, surplus = _depth(truth & ~mask), _depth(mask & ~truth)
    errors = missing if missing.max() >= surplus.max() else surplus
    if errors.max() == 0:
        return None
    row, column = np.unravel_index(int(errors.argmax()), errors.shape)
    return float(column) + 0.5, float(row) + 0.5, int(errors is missing)


def _depth(mask: BoolMask, chessboard: bool = False) -> NDArray[np.float32]:
    """Return each pixel's distance to the nearest pixel outside the mask, 0 outside."""
    try:
        import cv2
    except ImportError as error:
        raise MissingPackageError(
            "evaluating needs OpenCV: pip install 'hqsam-triton[evaluate]'"
        ) from error
    padded = np.pad(mask.view(np.uint8), 1)
    kind, size = (cv2.DIST_C, 3) if chessboard else (cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distances = cv2.distanceTransform(padded, kind, size)[1:-1, 1:-1]
    return np.asarray(distances, np.float32)


@dataclass
class Scores:
    """How an object was segmented.

    Attributes:
        box_iou: IoU of the mask for the object's box.
        box_boundary_iou: boundary IoU of that mask.
        click_ious: IoU after each click, of which there are the fewer, the sooner the
            highest of `TARGETS` is reached.
    """

    box_iou: float
    box_boundary_iou: float
    click_ious: list[float] = field(default_factory=list)


def evaluate_object(
    image: RemoteImage, truth: BoolMask, *, clicks: int, mode: Mode, refine: bool
) -> Scores:
    """Segment one object by its box and by up to `clicks` clicks, and score the masks.

    Args:
        image: an opened image.
        truth: the object, not empty, of the image's size.
        clicks: most clicks to try; 0 for the box alone.
        mode: as in `RemoteImage.segment`.
        refine: whether each mask is given back with the next click.

    Raises:
        HQSamError: as `RemoteImage.segment`.
    """
    rows, columns = np.flatnonzero(truth.any(axis=1)), np.flatnonzero(truth.any(axis=0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    found = image.segment(box=box, mode=mode).array
    scores = Scores(iou(found, truth), boundary_iou(found, truth))
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    mask: Mask | None = None
    found = np.zeros_like(truth)
    while len(points) < clicks:
        click = next_click(found, truth)
        if click is None:
            break
        points.append(click[:2])
        labels.append(click[2])
        mask = image.segment(points, labels, mode=mode, refine=mask if refine else None)
        found = mask.array
        scores.click_ious.append(iou(found, truth))
        if scores.click_ious[-1] >= TARGETS[-1]:
            break
    return scores


def summary(scores: list[Scores], clicks: int) -> dict[str, Any]:
    """Return means over objects, as in the report's ``summary``.

    A target that was not reached counts as `clicks`, as in the protocol, and as a failure.
    """
    means: dict[str, Any] = {
        "box_iou": _mean([s.box_iou for s in scores]),
        "box_boundary_iou": _mean([s.box_boundary_iou for s in scores]),
    }
    if not clicks:
        return means
    means["iou_after_clicks"] = {
        str(count): _mean([s.click_ious[:count][-1] for s in scores])
        for count in (1, 2, 3, 5, 10, 20)
        if count <= clicks
    }
    for target in TARGETS:
        reached = [
            next((i for i, value in enumerate(s.click_ious, 1) if value >= target), None)
            for s in scores
        ]
        means[f"clicks_to_{round(100 * target)}"] = _mean([count or clicks for count in reached])
        means[f"failures_at_{round(100 * target)}"] = reached.count(None)
    return means


def _mean(values: list[float] | list[int]) -> float:
    return round(float(np.mean(values)), 4)
