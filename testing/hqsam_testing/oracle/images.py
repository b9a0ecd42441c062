"""Deterministic test images: smooth colour fields with hard-edged shapes.

Sizes cover the three resize cases: shrink (2048x1365), enlarge in landscape
(600x400) and enlarge in portrait (333x517). No file is needed: `image` draws
the same uint8 RGB array everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZES = {"shrink": (2048, 1365), "landscape": (600, 400), "portrait": (333, 517)}


def draw(width: int, height: int) -> NDArray[np.uint8]:
    """Return an RGB image, uint8 [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    rgb = np.stack(
        [
            120 + 80 * np.sin(6.0 * u + 1.0) * np.cos(4.0 * v),
            110 + 90 * np.cos(5.0 * v - 2.0 * u),
            130 + 70 * np.sin(9.0 * u * v),
        ],
        axis=-1,
    )
    disc = (u - 0.35) ** 2 + ((v - 0.45) * height / width) ** 2 < 0.03
    bar = (np.abs(u - 0.72) < 0.11) & (np.abs(v - 0.55) < 0.3)
    ring = np.abs(np.hypot(u - 0.72, (v - 0.25) * height / width) - 0.09) < 0.02
    rgb[bar] = [40, 160, 90]
    rgb[disc] = [220, 60, 40]
    rgb[ring] = [250, 240, 70]
    drawn: NDArray[np.uint8] = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return drawn
