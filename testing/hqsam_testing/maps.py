"""Large images of small objects, drawn, with the exact mask of each object."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

CELL = 512
"""Pixels on a side of a cell; each whole cell has one object."""

CRS = "EPSG:32633"

ORIGIN, METRES = (500_000.0, 5_300_000.0), 0.25
"""Where the top left corner is on the map, and the size of a pixel."""


class Object(NamedTuple):
    """A drawn object.

    Attributes:
        point: (x, y) of a pixel in its middle, original pixels.
        box: (x0, y0, x1, y1), original pixels: the first column and row, and the first ones after.
        mask: bool [y1 - y0, x1 - x0], the pixels of the box.
    """

    point: tuple[int, int]
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]

    def iou(self, pixels: NDArray[np.bool_], corner: tuple[int, int], area: float) -> float:
        """Return the IoU of a mask with the true one.

        Args:
            pixels: a part of the mask, bool [h, w].
            corner: (x, y) of its first pixel in the image.
            area: of the whole mask, in pixels.
        """
        (x, y), (height, width) = corner, pixels.shape
        x0, y0, x1, y1 = self.box
        left, top = max(x, x0), max(y, y0)
        right, bottom = max(left, min(x + width, x1)), max(top, min(y + height, y1))
        found = pixels[top - y : bottom - y, left - x : right - x]
        inner = int((found & self.mask[top - y0 : bottom - y0, left - x0 : right - x0]).sum())
        return inner / (area + int(self.mask.sum()) - inner)


def write(path: Path, side: int, seed: int = 0) -> list[Object]:
    """Write a tiled GeoTIFF of RGB, row of cells by row; return its objects.

    Args:
        path: of the file.
        side: width and height in pixels.
        seed: the same seed gives the same image.
    """
    rng = np.random.default_rng(seed)
    found: list[Object] = []
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": CELL,
        "blockysize": CELL,
        "compress": "deflate",
        "zlevel": 1,
        "crs": CRS,
        "transform": from_origin(*ORIGIN, METRES, METRES),
        "bigtiff": "yes",
    }
    with rasterio.open(path, "w", **profile) as file:
        for y in range(0, side, CELL):
            height = min(CELL, side - y)
            for x in range(0, side, CELL):
                width = min(CELL, side - x)
                pixels = _ground(rng)
                if width == height == CELL:
                    found.append(_add_object(rng, pixels, (x, y)))
                part = pixels[:height, :width].transpose(2, 0, 1)
                file.write(part, window=Window(x, y, width, height))
    return found


def _ground(rng: np.random.Generator) -> NDArray[np.uint8]:
    coarse = rng.normal(110, 12, (9, 9, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (CELL, CELL), interpolation=cv2.INTER_CUBIC)
    noise = rng.normal(0, 5, (CELL, CELL, 1)).astype(np.float32)
    return np.asarray((smooth + noise).clip(0, 255), np.uint8)


def _add_object(
    rng: np.random.Generator, pixels: NDArray[np.uint8], corner: tuple[int, int]
) -> Object:
    mask = np.zeros((CELL, CELL), np.uint8)
    x, y = (int(it) for it in rng.integers(64, CELL - 64, 2))
    axes = [int(it) for it in rng.integers(8, 30, 2)]
    angle = float(rng.uniform(0, 180))
    if rng.random() < 0.5:
        cv2.ellipse(mask, (x, y), axes, angle, 0, 360, (1,), -1)
    else:
        box = cv2.boxPoints(((x, y), (2 * axes[0], 2 * axes[1]), angle))
        cv2.fillPoly(mask, [box.round().astype(np.int32)], (1,))
    is_object = mask.astype(bool)
    colour = rng.choice([[200, 60, 50], [60, 80, 200], [230, 220, 90], [30, 120, 50]])
    pixels[is_object] = np.clip(colour + rng.normal(0, 5, (int(mask.sum()), 1)), 0, 255)
    rows, columns = np.nonzero(is_object)
    left, top = corner
    x0, y0, x1, y1 = (
        int(it) for it in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    )
    return Object(
        (left + x, top + y),
        (left + x0, top + y0, left + x1, top + y1),
        is_object[y0:y1, x0:x1].copy(),
    )
