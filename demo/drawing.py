"""Prompts drawn on an enlarged image, so that contours and marks are visible."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

MARK_PX = 5

Point = tuple[int, int]
Box = tuple[int, int, int, int]


def with_prompts(
    image: Image.Image,
    points: Sequence[Point] = (),
    negative: Sequence[Point] = (),
    boxes: Sequence[Box] = (),
    scale: int = 2,
) -> Image.Image:
    """Return the image, enlarged, with prompts drawn on it.

    Points and boxes are green, negative points red.

    Args:
        image: the image, with or without a mask drawn on it.
        points: (x, y) in pixels of the image.
        negative: (x, y) in pixels of the image.
        boxes: (x0, y0, x1, y1) in pixels of the image.
        scale: factor by which the image is enlarged.
    """
    drawn = image.resize((scale * image.width, scale * image.height), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(drawn)
    for places, color in ((points, "lime"), (negative, "red")):
        for x, y in places:
            where = (scale * x, scale * y)
            draw.circle(where, MARK_PX + 2, fill="white")
            draw.circle(where, MARK_PX, fill=color)
    for box in boxes:
        draw.rectangle([scale * side for side in box], outline="lime", width=3)
    return drawn
