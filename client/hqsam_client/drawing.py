"""Overlays: a mask drawn on its image, readable on light and dark ones."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from hqsam_client import image_files

if TYPE_CHECKING:
    from hqsam_client.mask import Mask

DEFAULT_COLOR = (30, 144, 255)
"""RGB. Rare in photographs, and easy to tell from both skin and leaves."""

COLORS = (
    DEFAULT_COLOR,
    (255, 127, 14),
    (44, 200, 90),
    (230, 60, 160),
    (250, 210, 50),
    (150, 90, 230),
)
"""For several masks on one image: easy to tell apart, and from most images."""

_TINT = 0.4
"""Share of the colour inside the mask; the rest is the image."""

_LINE_SHARE = 1 / 640
"""Width of the contour as a share of the longest side, so that it looks alike at any size."""

# The blurred mask is a soft measure of the distance to the border, which is at half of 255.
# Opacity as a function of that measure, 0 to 255, gives lines with smooth edges.
_CONTOUR = ((60, 90, 165, 195), (0, 255, 255, 0))
_HALO = ((8, 30, 60, 90), (0, 200, 200, 0))


def overlay(
    image: Image.Image, mask: NDArray[np.bool_], color: tuple[int, int, int]
) -> Image.Image:
    """Tint the mask, and draw its contour with a thin light line outside of it.

    Args:
        image: original pixels, of any mode; converted to RGB by `image_files.to_rgb`, so that
            16-bit and float images look as the model sees them.
        mask: bool [height, width], the same pixels.
        color: RGB, 0 to 255.

    Returns:
        A new image of mode RGB.
    """
    inside = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    border = inside.filter(ImageFilter.GaussianBlur(max(1.0, max(mask.shape) * _LINE_SHARE)))
    drawn = image_files.to_rgb(image)
    drawn.paste(color, mask=inside.point([round(value * _TINT) for value in range(256)]))
    drawn.paste((255, 255, 255), mask=border.point(_opacity(*_HALO)))
    drawn.paste(color, mask=border.point(_opacity(*_CONTOUR)))
    return drawn


def together(masks: Iterable[Mask]) -> Image.Image | None:
    """Draw masks of one image on it, each in its own colour until `COLORS` begin again.

    Returns:
        A new image of mode RGB; None if there are no masks.
    """
    drawn = None
    for mask, color in zip(masks, cycle(COLORS), strict=False):
        drawn = mask.overlay(drawn, color)
    return drawn


def _opacity(measures: tuple[int, ...], opacities: tuple[int, ...]) -> list[int]:
    """Return a table from each measure, 0 to 255, to an opacity, by linear interpolation."""
    return [round(value) for value in np.interp(range(256), measures, opacities)]
