"""From X-AnyLabeling's marks to prompts, and from masks to its polygons."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from hqsam_client import Mask, PromptError
from numpy.typing import NDArray

LABEL = "AUTOLABEL_OBJECT"
"""The label of an object that the user has not finished yet."""

FINENESS = 0.001
"""How far a simplified outline may be from the mask's, as a share of its length."""

SMALLEST_SHARE = 0.01
"""Parts of a mask that are smaller than this share of its largest part are specks."""


def prompt(marks: list[dict[str, Any]]) -> tuple[Any, Any, list[float] | None]:
    """Return points, labels and box of the marks, in pixels of the image.

    Raises:
        PromptError: there is no mark, two boxes, or another kind of mark.
    """
    points, labels, box = [], [], None
    for mark in marks:
        kind, data = mark["type"], mark["data"]
        if kind == "point":
            points.append(tuple(data))
            labels.append(int(mark.get("label", 1)))
        elif kind != "rectangle":
            raise PromptError(f"a mark of type {kind} is not supported, expected point, rectangle")
        elif not mark.get("label", 1):
            raise PromptError("a negative rectangle is not supported; use negative points")
        elif box is not None:
            raise PromptError("there are two rectangles; finish the first object, or clear it")
        else:
            # Drawn from any corner.
            (x0, x1), (y0, y1) = sorted(data[::2]), sorted(data[1::2])
            box = [x0, y0, x1, y1]
    if not marks:
        raise PromptError("there is no mark; add a point or a rectangle")
    return points or None, labels or None, box


def polygons(mask: Mask, fineness: float = FINENESS) -> list[dict[str, Any]]:
    """Return the outlines of a mask's parts, the largest first, as shapes of X-AnyLabeling.

    Its polygons have no holes, so holes are filled.

    Args:
        mask: the mask.
        fineness: see `FINENESS`.
    """
    contours, _ = cv2.findContours(
        mask.array.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    parts = sorted(contours, key=cv2.contourArea, reverse=True)
    kept = [it for it in parts if cv2.contourArea(it) > SMALLEST_SHARE * cv2.contourArea(parts[0])]
    return [_shape(contour, fineness) for contour in kept]


def _shape(contour: NDArray[Any], fineness: float) -> dict[str, Any]:
    outline = cv2.approxPolyDP(contour, fineness * cv2.arcLength(contour, True), True)
    # A polygon has three corners at least.
    points = (outline if len(outline) > 2 else contour)[:, 0].astype(float).tolist()
    # The first point again closes it.
    return {"label": LABEL, "shape_type": "polygon", "points": [*points, points[0]]}
