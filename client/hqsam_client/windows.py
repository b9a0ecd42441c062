"""Windows of large images: each is an image of its own for the model, at full resolution.

The model sees 1024 x 1024 pixels. Of an image of 10,000 pixels it sees every tenth, and an object
of 30 pixels as three. In a window, such an object is as large as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from hqsam_client.errors import OptionError
from hqsam_client.mask import Mask
from hqsam_client.shared.geometry import Size

Window: TypeAlias = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in original pixels: the first column and row, and the first ones after it."""

SMALLEST = 64
"""Pixels that a side of a window has at least, unless the image has fewer."""


@dataclass(frozen=True)
class Windows:
    """A grid of overlapping windows over an image.

    Attributes:
        size: width and height of a window in original pixels. 1024 shows the model every pixel;
            more pixels make fewer windows, in which small objects are smaller.
        overlap: pixels that neighbours share at least. An object that is smaller than half of
            this is whole in the window whose centre is nearest to a click on it.

    Raises:
        OptionError: `size` is less than 64, or `overlap` is not less than `size`.
    """

    size: int = 1024
    overlap: int = 256

    def __post_init__(self) -> None:
        """Check both."""
        if self.size < SMALLEST:
            raise OptionError(f"windows have {self.size} pixels, expected at least {SMALLEST}")
        if not 0 <= self.overlap < self.size:
            raise OptionError(
                f"windows of {self.size} pixels overlap by {self.overlap}, expected 0 or more and "
                "less than their size"
            )

    def grid(self, size: Size) -> list[Window]:
        """Return the windows of an image of (height, width) pixels, row by row."""
        height, width = size
        rows, columns = self._starts(height), self._starts(width)
        return [
            (x, y, min(x + self.size, width), min(y + self.size, height))
            for y in rows
            for x in columns
        ]

    def _starts(self, length: int) -> list[int]:
        """Return where windows start along a side, evenly spread."""
        last = max(0, length - self.size)
        count = 1 + math.ceil(last / (self.size - self.overlap))
        return [int(it) for it in np.linspace(0, last, count).round()]


class WindowMask(Mask):
    """A mask that was found in a window, in the pixels of the whole image.

    It has no logits of the whole image. On an image that was opened in windows, `refine` starts
    from those of `inner`, in the same window.

    Args:
        inner: the mask in the window's own pixels.
        window: where it is in the image.
        size: (height, width) of the image in original pixels.
        image: returns the upright image in mode RGB; for `overlay`.

    Attributes:
        inner: the mask in the window's own pixels: `inner.overlay()` draws the window alone.
        window: (x0, y0, x1, y1) in original pixels.
    """

    def __init__(
        self,
        inner: Mask,
        window: Window,
        size: Size,
        image: Callable[[], Image.Image] | None = None,
    ) -> None:
        super().__init__(inner.run_lengths.placed(window[:2], size), inner.iou, size, image)
        self.inner = inner
        self.window = window

    def cleaned(self, min_area: int) -> WindowMask:
        """Return the mask without small holes and specks of its window; see `Mask.cleaned`."""
        return WindowMask(self.inner.cleaned(min_area), self.window, self.size, self._image)
