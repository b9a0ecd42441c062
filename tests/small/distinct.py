"""Scenes of a few objects that lie apart, so that the mask of each is beyond doubt."""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROTATED = 6
"""EXIF orientation: the image is upright after a quarter turn clockwise."""


@dataclass(frozen=True)
class Scene:
    """An image file and the objects in it.

    Attributes:
        file: JPEG.
        masks: bool [K, H, W], in pixels of the upright image.
    """

    file: bytes
    masks: NDArray[np.bool_]

    def click(self, index: int) -> tuple[float, float]:
        """Return the pixel of an object that is farthest from its edge, (x, y)."""
        padded = np.pad(self.masks[index].view(np.uint8), 1)
        depth = cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        return float(column), float(row)

    def box(self, index: int) -> tuple[int, int, int, int]:
        """Return an object's box, x0, y0, x1, y1, edges in pixels of the upright image."""
        mask = self.masks[index]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def draw(seed: int, width: int, height: int, rotated: bool = False) -> Scene:
    """Draw two or three objects of plain colours side by side along the longer side.

    Args:
        seed: the same seed and size give the same scene.
        width: of the upright image.
        height: of the upright image.
        rotated: whether the file holds the image turned, with an EXIF orientation.
    """
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 4))
    hues = (rng.uniform(0, 180) + 180 * np.arange(count + 1) / (count + 1)) % 180
    canvas_rgb = np.empty((height, width, 3), np.float32)
    canvas_rgb[:] = _colour(hues[count], 60, rng.uniform(60, 200))
    canvas_rgb += 6 * rng.standard_normal((height, width, 1), dtype=np.float32)
    masks = np.zeros((count, height, width), np.bool_)
    along = width >= height
    step = max(width, height) / count
    for index in range(count):
        middle = (step * (index + 0.5), min(width, height) / 2)
        x, y = middle if along else middle[::-1]
        radius = 0.36 * min(step, min(width, height))
        canvas = np.zeros((height, width), np.uint8)
        _shape(rng, canvas, x, y, radius)
        masks[index] = canvas > 127
        alpha = canvas[..., None].astype(np.float32) / 255
        canvas_rgb += alpha * (_colour(hues[index], 190, 220) - canvas_rgb)
    pixels = np.clip(canvas_rgb, 0, 255).astype(np.uint8)
    image = Image.fromarray(pixels)
    file, exif = io.BytesIO(), Image.Exif()
    if rotated:
        image = image.transpose(Image.Transpose.ROTATE_90)
        exif[0x0112] = ROTATED
    image.save(file, "JPEG", quality=95, exif=exif)
    return Scene(file.getvalue(), masks)


def _colour(hue: float, saturation: float, value: float) -> NDArray[np.float32]:
    pixel = np.array([[[hue, saturation, value]]], np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0], np.float32)


def _shape(
    rng: np.random.Generator, canvas: NDArray[np.uint8], x: float, y: float, radius: float
) -> None:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    kind = rng.integers(3)
    if kind == 0:  # round
        radii = np.full(90, radius)
    elif kind == 1:  # a polygon
        corners = int(rng.integers(3, 7))
        steps = np.arange(corners) + rng.uniform(-0.2, 0.2, corners)
        angles = 2 * np.pi * steps / corners
        radii = np.full(corners, radius)
    else:  # wavy
        waves = np.cos(int(rng.integers(2, 6)) * angles + rng.uniform(0, 6))
        radii = radius * (0.85 + 0.15 * waves)
    points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1)
    fixed = np.rint(points * 16).astype(np.int32)
    cv2.fillPoly(canvas, [fixed], (255,), cv2.LINE_AA, 4)
