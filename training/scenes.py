"""Synthetic scenes of overlapping objects, with the exact mask of each.

A scene depends on its seed only; nothing is downloaded. Objects are smooth blobs, ellipses,
polygons, stars, rings and strokes, filled with colours, gradients, patterns and noise, lit, with
soft shadows, on a background of the same kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Image = NDArray[np.float32]
"""RGB [H, W, 3], 0 to 1."""

Alpha = NDArray[np.float32]
"""Coverage [H, W], 0 to 1."""

SHIFT = 4
"""OpenCV draws with coordinates in sixteenths of a pixel: 4 fractional bits."""

NOISE_SIDE = 1024

MAX_OBJECTS = 40

Place = tuple[float, float, float]
"""x, y and radius of an object, in pixels."""


@dataclass(frozen=True)
class Scene:
    """An image and the objects that are visible in it.

    Attributes:
        image: uint8 RGB [H, W, 3].
        masks: bool [K, H, W], each object's visible pixels; no two share a pixel.
    """

    image: NDArray[np.uint8]
    masks: NDArray[np.bool_]


def draw(
    seed: int,
    width_px: int,
    height_px: int,
    *,
    scale: float = 1.0,
    texture: float = 1.0,
    min_area_px: int = 400,
) -> Scene:
    """Draw a scene.

    Args:
        seed: the same seed and sizes give the same scene.
        width_px: width of the image.
        height_px: height of the image.
        scale: pixels of the image for one of the input frame; objects, patterns and shadows
            grow with it.
        texture: 0 for flat colours only, 1 for textures in four of five fills.
        min_area_px: objects with fewer visible pixels are not listed.
    """
    rng = np.random.default_rng(seed)
    pen = _Pen(rng, width_px, height_px, scale, texture)
    image = pen.background()
    placed = pen.in_rows() if rng.random() < 0.25 else pen.at_random()
    labels = np.zeros((height_px, width_px), np.int32)
    for number, (x, y, radius) in enumerate(placed, start=1):
        pen.add_object(image, labels, number, x, y, radius)
    masks = [labels == number for number in range(1, len(placed) + 1)]
    masks = [mask for mask in masks if np.count_nonzero(mask) >= min_area_px]
    stacked = np.stack(masks) if masks else np.zeros((0, height_px, width_px), bool)
    return Scene(_developed(image, rng), stacked)


class _Pen:
    """Draws with one random generator, at one scale."""

    def __init__(
        self, rng: Generator, width: int, height: int, scale: float, texture: float
    ) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.scale, self.texture = scale, texture
        self.blur = rng.uniform(0.0, 1.2) * scale
        # In half of the scenes nearly all objects look alike, and a click still means one of them.
        self.twins = rng.choice([0.2, 0.9])
        self.looks: dict[int, int] = {}

    def background(self) -> Image:
        """Return one fill, or two that meet at a horizon."""
        image = self.fill(self.height, self.width)
        if self.rng.random() < 0.4:
            x = np.linspace(0, 1, self.width)
            wave = 0.05 * np.sin(2 * np.pi * (x * self.rng.uniform(0.3, 2) + self.rng.random()))
            line = (self.rng.uniform(0.2, 0.8) + wave + self.rng.normal(0, 0.1) * x) * self.height
            below = np.arange(self.height)[:, None] > line[None, :]
            image[below] = self.fill(self.height, self.width)[below]
        return image

    def at_random(self) -> list[Place]:
        """Return random places; most objects are small, as in photographs."""
        rng = self.rng
        density = rng.uniform(0.4, 1.6) * self.width * self.height / (300 * self.scale) ** 2
        count = int(np.clip(rng.poisson(density * 2.0), 2, MAX_OBJECTS))
        radii = np.exp(rng.uniform(math.log(14), math.log(260), count)) * self.scale
        radii = np.minimum(radii, 0.6 * max(self.width, self.height))
        # Small objects lie on top of large ones: otherwise few would stay visible.
        return [
            (rng.uniform(0, self.width), rng.uniform(0, self.height), float(radius))
            for radius in np.sort(radii)[::-1]
        ]

    def in_rows(self) -> list[Place]:
        """Return places side by side, as of coins or goods on a shelf; most objects look alike."""
        rng = self.rng
        self.twins = rng.choice([0.2, 0.95])
        step = self.scale * float(np.exp(rng.uniform(math.log(70), math.log(260))))
        step = max(step, math.sqrt(self.width * self.height / MAX_OBJECTS))
        radius, loose = step * rng.uniform(0.28, 0.5), step * rng.uniform(0, 0.12)
        columns = np.arange(rng.uniform(0.2, 0.8) * step, self.width, step)
        rows = np.arange(rng.uniform(0.2, 0.8) * step, self.height, step)
        return [
            (
                float(x + rng.normal(0, loose)),
                float(y + rng.normal(0, loose)),
                float(radius * rng.uniform(0.75, 1.1)),
            )
            for y in rows
            for x in columns
            if rng.random() < 0.9
        ]

    def add_object(
        self, image: Image, labels: NDArray[np.int32], number: int, x: float, y: float,
        radius: float,
    ) -> None:  # fmt: skip
        """Draw an object onto `image`, and write its number to its pixels in `labels`."""
        rng = self.rng
        reach = int(radius * 1.5) + 8
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        right, bottom = min(self.width, int(x) + reach), min(self.height, int(y) + reach)
        if right - left < 8 or bottom - top < 8:
            return
        box = (slice(top, bottom), slice(left, right))
        alpha = self.shape(bottom - top, right - left, x - left, y - top, radius)
        inside = alpha > 0.5
        if not inside.any():
            return
        patch = image[box]
        if rng.random() < 0.5:
            patch *= 1 - self.shadow(alpha, radius)[..., None]
        touched = set(np.unique(labels[box][cv2.dilate(alpha, np.ones((9, 9))) > 0]).tolist())
        fill = self.look(number, touched, *alpha.shape)
        fill = self.lit(fill, inside, (x - left, y - top), radius)
        if self.blur > 0.3:
            alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), self.blur), np.float32)
        patch += alpha[..., None] * (fill - patch)
        labels[box][inside] = number

    def shape(self, height: int, width: int, x: float, y: float, radius: float) -> Alpha:
        """Return the coverage of a random shape around (x, y)."""
        canvas = np.zeros((height, width), np.uint8)
        kinds: list[tuple[float, Callable[..., None]]] = [
            (0.30, self._blob),
            (0.22, self._ellipse),
            (0.20, self._polygon),
            (0.08, self._star),
            (0.10, self._ring),
            (0.10, self._stroke),
        ]
        weights = [weight for weight, _ in kinds]
        kinds[self.rng.choice(len(kinds), p=weights)][1](canvas, x, y, radius, 255)
        if self.rng.random() < 0.15:  # a second part
            angle = self.rng.uniform(0, 2 * np.pi)
            part = (self._blob, self._ellipse, self._polygon)[self.rng.integers(3)]
            offset = 0.6 * radius
            part(canvas, x + offset * np.cos(angle), y + offset * np.sin(angle), radius / 2, 255)
        if self.rng.random() < 0.08:  # a hole
            self._ellipse(canvas, x, y, radius * self.rng.uniform(0.2, 0.45), 0)
        return canvas.astype(np.float32) / 255

    def _contour(self, canvas: NDArray[np.uint8], points: NDArray[np.float64], value: int) -> None:
        fixed = np.rint(points * (1 << SHIFT)).astype(np.int32)
        cv2.fillPoly(canvas, [fixed], (value,), cv2.LINE_AA, SHIFT)

    def _polar(self, x: float, y: float, angles: NDArray[np.float64], radii: NDArray[np.float64],
               ) -> NDArray[np.float64]:  # fmt: skip
        """Turn radii around (x, y) into points, and squeeze and rotate them at random."""
        squeeze = math.exp(-abs(self.rng.normal(0, 0.5)))
        turn = self.rng.uniform(0, 2 * np.pi)
        u, v = radii * np.cos(angles), squeeze * radii * np.sin(angles)
        cos, sin = math.cos(turn), math.sin(turn)
        return np.stack([x + cos * u - sin * v, y + sin * u + cos * v], axis=-1)

    def _blob(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
        orders = np.arange(1, 7)[:, None]
        strength = self.rng.normal(0, 0.28, (6, 1)) / orders
        phase = self.rng.uniform(0, 2 * np.pi, (6, 1))
        wave = (strength * np.cos(orders * angles + phase)).sum(axis=0)
        radii = radius * 0.8 * np.clip(1 + wave, 0.2, 1.6)
        self._contour(canvas, self._polar(x, y, angles, radii), value)

    def _ellipse(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        # A superellipse: an ellipse, or a box with round corners.
        power = self.rng.choice([2.0, 2.0, 2.0, 3.0, 5.0])
        radii = (np.abs(np.cos(angles)) ** power + np.abs(np.sin(angles)) ** power) ** (-1 / power)
        self._contour(canvas, self._polar(x, y, angles, 0.85 * radius * radii), value)

    def _polygon(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        corners = self.rng.integers(3, 9)
        regular = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        angles = np.sort(regular + self.rng.normal(0, self.rng.choice([0.0, 0.3]), corners))
        radii = radius * self.rng.uniform(self.rng.choice([0.5, 1.0]), 1.0, corners)
        self._contour(canvas, self._polar(x, y, angles, radii), value)

    def _star(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        corners = 2 * int(self.rng.integers(4, 9))
        angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)
        radii = np.where(np.arange(corners) % 2, self.rng.uniform(0.35, 0.7), 1.0) * radius
        self._contour(canvas, self._polar(x, y, angles, radii), value)

    def _ring(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
        outer = self._polar(x, y, angles, np.full(96, radius * 0.9))
        centre = np.array([x, y])
        self._contour(canvas, outer, value)
        inner = centre + (outer - centre) * self.rng.uniform(0.4, 0.8)
        self._contour(canvas, inner, 255 - value)

    def _stroke(
        self, canvas: NDArray[np.uint8], x: float, y: float, radius: float, value: int
    ) -> None:
        """Draw a thin curved part, such as a handle, a branch or a cable."""
        t = np.linspace(-1, 1, 40)
        bend, turn = self.rng.normal(0, 0.5, 2), self.rng.uniform(0, 2 * np.pi)
        u, v = t, bend[0] * (t**2 - 0.3) + bend[1] * (t**3 - t)
        cos, sin = math.cos(turn), math.sin(turn)
        points = np.stack([x + radius * (cos * u - sin * v), y + radius * (sin * u + cos * v)], -1)
        thickness = max(4.0 * self.scale, radius * self.rng.uniform(0.08, 0.35))
        fixed = np.rint(points * (1 << SHIFT)).astype(np.int32)
        cv2.polylines(canvas, [fixed], False, (value,), int(thickness), cv2.LINE_AA, SHIFT)

    def look(self, number: int, touched: set[int], height: int, width: int) -> Image:
        """Return a fill: a new one, or that of another object that this one does not touch."""
        taken = {self.looks[it] for it in touched if it in self.looks}
        twins = [seed for seed in self.looks.values() if seed not in taken]
        chosen = int(self.rng.integers(1 << 62))
        if twins and self.rng.random() < self.twins:
            chosen = twins[self.rng.integers(len(twins))]
        self.looks[number] = chosen
        own, self.rng = self.rng, np.random.default_rng(chosen)
        fill = self.fill(height, width)
        self.rng = own
        return fill

    def shadow(self, alpha: Alpha, radius: float) -> Alpha:
        """Return how much an object of this coverage darkens its surroundings, 0 to 1."""
        offset = self.rng.normal(0, 0.12, 2) * radius
        moved = cv2.warpAffine(
            alpha, np.array([[1, 0, offset[0]], [0, 1, offset[1]]], np.float64), alpha.shape[::-1]
        )
        soft = cv2.GaussianBlur(moved, (0, 0), max(1.0, radius * self.rng.uniform(0.03, 0.15)))
        return np.float32(self.rng.uniform(0.15, 0.6)) * soft.astype(np.float32)

    def lit(
        self, fill: Image, inside: NDArray[np.bool_], centre: tuple[float, float], radius: float
    ) -> Image:
        """Shade a fill as if the object was round, give it a rim, both or neither."""
        rng = self.rng
        if rng.random() < 0.5:
            height, width = inside.shape
            angle, strength = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.5)
            x = (np.arange(width, dtype=np.float32) - centre[0]) / radius
            y = (np.arange(height, dtype=np.float32) - centre[1]) / radius
            slope = x[None, :] * math.cos(angle) + y[:, None] * math.sin(angle)
            fill = fill * (1 + strength * np.clip(slope, -1.2, 1.2))[..., None].astype(np.float32)
        if rng.random() < 0.12:
            thickness = max(2, int(rng.uniform(0.02, 0.08) * radius))
            core = cv2.erode(
                inside.astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thickness
            )
            fill[core == 0] = fill[core == 0] * 0.4 + 0.6 * self.colour()
        return np.clip(fill, 0, 1)

    def colour(self) -> NDArray[np.float32]:
        """Return a colour; saturated ones are rarer, as in photographs."""
        grey = self.rng.uniform(0.03, 0.97)
        tint = self.rng.normal(0, self.rng.choice([0.04, 0.12, 0.3]), 3)
        return np.clip(grey + tint - tint.mean(), 0, 1).astype(np.float32)

    def fill(self, height: int, width: int) -> Image:
        """Return a texture, or a flat colour."""
        base = self.colour()
        if self.rng.random() >= self.texture * 0.8:
            return np.broadcast_to(base, (height, width, 3)).copy()
        # Weak textures are common: the second colour is often close to the first.
        other = np.clip(base + self.rng.choice([0.1, 0.25, 0.6]) * (self.colour() - base), 0, 1)
        pattern = self.pattern(height, width)
        fill = base + (other - base) * pattern[..., None]
        if self.rng.random() < 0.5:
            grain = _noise(self.rng, height, width, self.scale * self.rng.uniform(0.7, 3))
            fill += np.float32(self.rng.uniform(0.02, 0.2)) * (grain[..., None] - 0.5)
        return fill.astype(np.float32)

    def pattern(self, height: int, width: int) -> Alpha:
        """Return a pattern, 0 to 1."""
        rng = self.rng
        kind = rng.choice(["gradient", "noise", "patches", "stripes", "checks", "dots"],
                          p=[0.25, 0.35, 0.12, 0.12, 0.08, 0.08])  # fmt: skip
        if kind in ("noise", "patches"):
            field = _noise(rng, height, width, self.scale * math.exp(rng.uniform(-0.7, 2.0)))
            return field if kind == "noise" else _step(field - 0.5, 0.03)
        turn = rng.uniform(0, 2 * np.pi)
        x = np.arange(width, dtype=np.float32)[None, :]
        y = np.arange(height, dtype=np.float32)[:, None]
        u = x * math.cos(turn) + y * math.sin(turn)
        v = y * math.cos(turn) - x * math.sin(turn)
        if kind == "gradient":
            low, high = float(u.min()), float(u.max())
            return ((u - low) / (high - low + 1e-6)).astype(np.float32)
        period = self.scale * math.exp(rng.uniform(math.log(5), math.log(60)))
        waves = np.sin(2 * np.pi * u / period)
        if kind == "stripes":
            return _step(waves - rng.uniform(-0.5, 0.5), 0.3)
        across = np.sin(2 * np.pi * v / period)
        if kind == "checks":
            return _step(waves * across, 0.1)
        return _step(waves + across - rng.uniform(0.8, 1.4), 0.2)


def _step(field: Alpha, width: float) -> Alpha:
    return np.clip(field / width + 0.5, 0, 1).astype(np.float32)


@cache
def _noise_tile(exponent: float) -> Alpha:
    """Return tileable noise whose spectrum falls with this power of the frequency."""
    rng = np.random.default_rng(int(1000 * exponent))
    frequency = np.hypot(np.fft.fftfreq(NOISE_SIDE)[:, None], np.fft.rfftfreq(NOISE_SIDE)[None, :])
    frequency[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((NOISE_SIDE, NOISE_SIDE))) / frequency**exponent
    field = np.fft.irfft2(spectrum, (NOISE_SIDE, NOISE_SIDE))
    return np.clip(0.5 + field / field.std() / 5, 0, 1).astype(np.float32)


def _noise(rng: Generator, height: int, width: int, grain_px: float) -> Alpha:
    """Return a piece of noise, 0 to 1, with grains of about `grain_px`."""
    tile = _noise_tile(float(rng.choice([0.3, 0.8, 1.2, 1.6])))
    rows = max(2, min(NOISE_SIDE, int(height / grain_px)))
    columns = max(2, min(NOISE_SIDE, int(width / grain_px)))
    top = rng.integers(0, NOISE_SIDE - rows + 1)
    left = rng.integers(0, NOISE_SIDE - columns + 1)
    piece = tile[top : top + rows, left : left + columns]
    return cv2.resize(piece, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _developed(image: Image, rng: Generator) -> NDArray[np.uint8]:
    """Finish an image as a camera does: exposure, sensor noise, JPEG."""
    image = np.clip(image, 0, 1) ** np.float32(rng.uniform(0.7, 1.4))
    if rng.random() < 0.5:
        noise = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None]
        image = image + np.float32(rng.uniform(0, 0.04)) * noise
    levels = np.clip(np.rint(255 * image), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        quality = int(rng.integers(50, 96))
        _, encoded = cv2.imencode(".jpg", levels, [cv2.IMWRITE_JPEG_QUALITY, quality])
        levels = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
    return levels
